//! The accepting side.

use crate::Io;
use crate::error::{ConnectionError, StreamError};
use crate::keepalive::Keepalive;
use crate::settings::Settings;
use crate::stream::{Chunk, Load, OpenStream, Shared};
use crate::target::{BadTarget, Target};
use crate::tunnel::Tunnel;
use crate::turn::Turn;
use crate::watch::{Signal, Watch, Watched};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Does the HTTP/2 handshake as server, within [`Settings::handshake_timeout`].
///
/// Not cancel safe: dropping it closes `io`.
///
/// # Errors
/// Bad settings, a client that speaks no HTTP/2, or one that is too slow.
pub async fn handshake<IO: Io>(io: IO, settings: &Settings) -> Result<Connection<IO>, ConnectionError> {
    settings.validate()?;
    let watch = Watch::new(settings.observer.clone(), settings.stream_window, settings.idle_frames);
    let handshake = settings.server().handshake(Watched::new(io, Arc::clone(&watch)));
    let mut h2 = tokio::time::timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| ConnectionError::Timeout)??;
    let keepalive = Keepalive::new(h2.ping_pong(), settings);
    let load = Load::new(Arc::default(), settings.observer.clone());
    Ok(Connection { h2, keepalive, load, watch, turn: Turn::default(), send_buffer: settings.send_buffer })
}

/// An HBONE connection from a peer.
///
/// [`Self::next`] drives it: streams move, PINGs are sent and answered only while `next` is polled, so it must always be polled, also
/// while streams run and after a shutdown was asked for. Dropping it fails all its streams.
pub struct Connection<IO> {
    h2: h2::server::Connection<Watched<IO>, Chunk>,
    keepalive: Keepalive,
    load: Arc<Load>,
    watch: Arc<Watch>,
    turn: Turn,
    send_buffer: usize,
}

impl<IO: Io> Connection<IO> {
    /// The next request. `None`: closed cleanly, all streams ended after a GOAWAY or the peer left. Cancel safe.
    ///
    /// # Errors
    /// The connection is gone, and its streams with it.
    pub async fn next(&mut self) -> Result<Option<Connect>, ConnectionError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Announces the end in two steps (RFC 9113 §6.8): GOAWAY with id 2^31-1 and a PING, and when that is answered GOAWAY with the
    /// last id. Streams that ran go on; later ones are not processed.
    pub fn graceful_shutdown(&mut self) {
        self.h2.graceful_shutdown();
    }

    /// GOAWAY with an error; all streams fail at once, `next` then flushes and gives `None`.
    pub fn abrupt_shutdown(&mut self) {
        // An error code, so that no peer takes its streams' end for a clean one.
        self.h2.abrupt_shutdown(Reason::INTERNAL_ERROR);
    }

    /// Streams that are accepted or wait for an answer, until both their halves are dropped and their bytes written.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.load.open_streams()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Connect>, ConnectionError>> {
        match self.turn.poll(cx, |cx| self.h2.poll_accept(cx)) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                Poll::Ready(Ok(Some(self.connect(request, respond))))
            }
            Poll::Ready(Some(Err(error))) => {
                let flood = self.watch.flood().map(ConnectionError::Flood);
                Poll::Ready(Err(flood.unwrap_or_else(|| error.into())))
            }
            Poll::Ready(None) => Poll::Ready(Ok(None)),
            Poll::Pending if self.watch.is_flooded() => {
                self.h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // The GOAWAY is written if the socket takes it; nobody waits for such a peer.
                let _flushed = self.h2.poll_accept(cx);
                Poll::Ready(Err(ConnectionError::Flood("idle_frames")))
            }
            Poll::Pending => self.keepalive.poll(cx).map(|_dead| {
                // Now, not when the caller drops us: its streams' tasks must learn of it.
                self.abrupt_shutdown();
                Err(ConnectionError::KeepaliveTimeout)
            }),
        }
    }

    fn connect(&self, request: Request<RecvStream>, respond: SendResponse<Chunk>) -> Connect {
        let (head, recv) = request.into_parts();
        let signal = self.watch.signal(respond.stream_id().as_u32());
        Connect {
            head,
            unanswered: Some(Unanswered { signal, recv, respond, open: self.load.enter() }),
            send_buffer: self.send_buffer,
        }
    }
}

/// One request, answered at most once. It should be a CONNECT (RFC 9113 §8.5); for another method, or an extended CONNECT
/// (RFC 8441), [`Self::target`] fails and `refuse(400)` is right.
///
/// Dropping it unanswered resets the stream with INTERNAL_ERROR.
#[must_use = "the peer waits for an answer"]
pub struct Connect {
    head: request::Parts,
    /// `None` only after an answer, all of which consume the `Connect`.
    unanswered: Option<Unanswered>,
    send_buffer: usize,
}

struct Unanswered {
    signal: Option<Arc<Signal>>,
    recv: RecvStream,
    respond: SendResponse<Chunk>,
    open: OpenStream,
}

impl Connect {
    /// Whether this is an ordinary CONNECT.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        self.head.method == Method::CONNECT && self.head.extensions.get::<h2::ext::Protocol>().is_none()
    }

    /// Where it wants to go.
    ///
    /// # Errors
    /// No CONNECT, no `:authority`, or one that is no target.
    pub fn target(&self) -> Result<Target, BadTarget> {
        match self.head.uri.authority() {
            Some(authority) if self.is_connect() => Target::parse(authority.as_str()),
            _ => Err(BadTarget::Invalid),
        }
    }

    /// The request's headers: hints of the peer, never its identity.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Answers 200 and opens the tunnel.
    ///
    /// # Errors
    /// The peer reset the stream meanwhile, or `headers` holds one that HTTP/2 forbids.
    pub fn accept(mut self, headers: HeaderMap) -> Result<Tunnel, StreamError> {
        let Some(Unanswered { signal, recv, mut respond, open }) = self.unanswered.take() else {
            return Err(StreamError::Finished);
        };
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        match respond.send_response(response, false) {
            Ok(send) => {
                let headers = std::mem::take(&mut self.head.headers);
                Ok(Tunnel::new(headers, recv, send, Shared::new(open, signal), self.send_buffer))
            }
            Err(error) => {
                let why = reset_of(&mut respond).unwrap_or_else(|| error.into());
                respond.send_reset(Reason::INTERNAL_ERROR);
                Err(why)
            }
        }
    }

    /// Answers `status` and ends the stream. A status below 300 would look like an accepted tunnel, so 500 is sent for it.
    pub fn refuse(mut self, status: StatusCode) {
        let Some(mut unanswered) = self.unanswered.take() else { return };
        let mut response = Response::new(());
        *response.status_mut() =
            if status.as_u16() < 300 { StatusCode::INTERNAL_SERVER_ERROR } else { status };
        // Fails only if the peer is gone, and then nobody waits for the answer.
        let _ = unanswered.respond.send_response(response, true);
    }

    /// RST_STREAM(REFUSED_STREAM): nothing was processed, safe to retry elsewhere (RFC 9113 §8.7).
    pub fn not_processed(mut self) {
        if let Some(mut unanswered) = self.unanswered.take() {
            unanswered.respond.send_reset(Reason::REFUSED_STREAM);
        }
    }

    /// Resolves when the peer resets the stream, or its connection breaks, before it was answered. Cancel safe.
    pub async fn gone(&mut self) {
        let Some(unanswered) = &mut self.unanswered else { return };
        // A reset and a broken connection are the same to the caller.
        let _ = poll_fn(|cx| unanswered.respond.poll_reset(cx)).await;
    }
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("method", &self.head.method)
            .field("uri", &self.head.uri)
            .finish_non_exhaustive()
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if let Some(mut unanswered) = self.unanswered.take() {
            unanswered.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

fn reset_of(respond: &mut SendResponse<Chunk>) -> Option<StreamError> {
    match respond.poll_reset(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(Ok(reason)) => Some(StreamError::Reset(reason.into())),
        Poll::Ready(Err(error)) => Some(error.into()),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_connect_is_no_connect() {
        let request = Request::builder().method(Method::CONNECT).uri("10.96.4.7:80");
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let connect = |head| Connect { head, unanswered: None, send_buffer: 0 };
        assert!(connect(head.clone()).is_connect());
        head.extensions.insert(h2::ext::Protocol::from_static("websocket"));
        assert!(!connect(head.clone()).is_connect());
        assert_eq!(connect(head).target(), Err(BadTarget::Invalid));
    }
}
