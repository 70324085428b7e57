//! The opening side: one connection.

use crate::Io;
use crate::error::{ConnectionError, OpenError, StreamError};
use crate::keepalive::Keepalive;
use crate::settings::Settings;
use crate::stream::{Chunk, Load, OpenStream, Shared};
use crate::target::Target;
use crate::tunnel::Tunnel;
use crate::turn::Turn;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// No peer can send this limit (it has 32 bits), so its absence tells that the peer's SETTINGS have arrived.
const LIMIT_UNKNOWN: usize = usize::MAX - 1;

/// Does the HTTP/2 handshake as client, within [`Settings::handshake_timeout`], up to the server's SETTINGS: its stream limit is then
/// known before the first stream. [`Driver::run`] must be polled for as long as the connection is used.
///
/// Not cancel safe: dropping it closes `io`.
///
/// # Errors
/// Bad settings, a server that speaks no HTTP/2, or one that is too slow.
pub async fn connect<IO: Io>(io: IO, settings: &Settings) -> Result<(Sender, Driver<IO>), ConnectionError> {
    connect_counted(io, settings, Arc::default()).await
}

/// As [`connect`]; `total` counts the open streams of several connections.
pub(crate) async fn connect_counted<IO: Io>(
    io: IO,
    settings: &Settings,
    total: Arc<AtomicUsize>,
) -> Result<(Sender, Driver<IO>), ConnectionError> {
    settings.validate()?;
    let handshake = handshake(io, settings);
    let (h2, connection) = tokio::time::timeout(settings.handshake_timeout, handshake)
        .await
        .map_err(|_| ConnectionError::Timeout)??;
    let load = Load::new(total, settings.observer.clone());
    let sender = Sender { h2, load, send_buffer: settings.send_buffer, leaves_at: None };
    Ok((sender, Driver::new(connection, settings)))
}

async fn handshake<IO: Io>(
    io: IO,
    settings: &Settings,
) -> Result<(SendRequest<Chunk>, h2::client::Connection<IO, Chunk>), ConnectionError> {
    let mut builder = settings.client();
    builder.initial_max_send_streams(LIMIT_UNKNOWN);
    let (h2, mut connection) = builder.handshake(io).await?;
    poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => Poll::Ready(Ok(())), // closed cleanly: the first stream will tell
        Poll::Pending if h2.current_max_send_streams() == LIMIT_UNKNOWN => Poll::Pending,
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    Ok((h2, connection))
}

/// Moves a client connection's bytes and keeps it alive.
pub struct Driver<IO> {
    h2: h2::client::Connection<IO, Chunk>,
    keepalive: Keepalive,
    turn: Turn,
}

impl<IO: Io> Driver<IO> {
    fn new(mut h2: h2::client::Connection<IO, Chunk>, settings: &Settings) -> Self {
        let keepalive = Keepalive::new(h2.ping_pong(), settings);
        Self { h2, keepalive, turn: Turn::default() }
    }

    /// Runs until the connection is closed: by the peer, or because every [`Sender`] and tunnel was dropped. Dropping it closes
    /// the connection and fails its streams.
    ///
    /// # Errors
    /// The connection broke, or a PING stayed unanswered.
    pub async fn run(mut self) -> Result<(), ConnectionError> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        if let Poll::Ready(ended) = self.turn.poll(cx, |cx| Pin::new(&mut self.h2).poll(cx)) {
            return Poll::Ready(ended.map_err(Into::into));
        }
        self.keepalive.poll(cx).map(|_dead| Err(ConnectionError::KeepaliveTimeout))
    }
}

/// Opens tunnels on one connection. Clones share it.
#[derive(Clone)]
pub struct Sender {
    h2: SendRequest<Chunk>,
    load: Arc<Load>,
    send_buffer: usize,
    /// `None`: never by itself.
    leaves_at: Option<Instant>,
}

/// Why one attempt on one connection opened nothing.
pub(crate) enum Refused {
    /// The peer has not looked at the stream: it never left, was refused with REFUSED_STREAM, or lies above a GOAWAY's last id.
    NotProcessed(StreamError),
    /// Anything else; trying again could do it twice.
    Failed(OpenError),
}

impl Sender {
    /// Opens a tunnel: CONNECT, and a status of exactly 200. Dropping the future cancels the stream.
    ///
    /// A stream above the peer's limit waits for another to end; there is no deadline but the caller's.
    ///
    /// # Errors
    /// Another status, or the stream or the connection broke.
    pub async fn open(&self, to: &Target, headers: HeaderMap) -> Result<Tunnel, OpenError> {
        self.attempt(self.reserve(), to, headers).await.map_err(|refused| match refused {
            Refused::NotProcessed(error) => OpenError::Stream(error),
            Refused::Failed(error) => error,
        })
    }

    /// Streams now open on this connection.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.load.open_streams()
    }

    /// Streams that the peer allows at once, as last announced.
    #[must_use]
    pub fn max_streams(&self) -> usize {
        self.h2.current_max_send_streams()
    }

    /// The same for a connection that takes no new streams from then on.
    pub(crate) fn leaving_at(self, leaves_at: Option<Instant>) -> Self {
        Self { leaves_at, ..self }
    }

    /// Whether new streams can still be opened: neither closed nor told to go away, nor about to leave.
    #[must_use]
    pub fn is_open(&self) -> bool {
        if self.leaves_at.is_some_and(|at| at <= Instant::now()) {
            return false;
        }
        let mut handle = self.h2.clone();
        !matches!(handle.poll_ready(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(Err(_)))
    }

    pub(crate) fn reserve(&self) -> OpenStream {
        self.load.enter()
    }

    pub(crate) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    pub(crate) async fn attempt(
        &self,
        slot: OpenStream,
        to: &Target,
        headers: HeaderMap,
    ) -> Result<Tunnel, Refused> {
        let request = connect_request(to, headers).map_err(Refused::Failed)?;
        let mut handle = self.h2.clone();
        poll_fn(|cx| handle.poll_ready(cx)).await.map_err(|error| Refused::NotProcessed(error.into()))?;
        let (response, send) = handle.send_request(request, false).map_err(never_sent)?;
        drop(handle);
        let (head, recv) = response.await.map_err(not_answered)?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Refused::Failed(OpenError::Status(head.status)));
        }
        let tunnel = Tunnel::new(head.headers, recv, send, Shared::new(slot, None), self.send_buffer);
        Ok(tunnel.leaving_at(self.leaves_at))
    }
}

/// `:method` and `:authority` alone (RFC 9113 §8.5).
fn connect_request(to: &Target, headers: HeaderMap) -> Result<Request<()>, OpenError> {
    let uri: Uri = to.to_string().parse().map_err(|error| OpenError::Connect(Arc::new(error)))?;
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

fn never_sent(error: h2::Error) -> Refused {
    // A fault of our own (a header that HTTP/2 forbids) would fail anywhere.
    if error.is_go_away() || error.is_io() {
        return Refused::NotProcessed(error.into());
    }
    Refused::Failed(OpenError::Stream(error.into()))
}

fn not_answered(error: h2::Error) -> Refused {
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // h2 fails a sent stream with the peer's GOAWAY only if its id lies above the last one that the peer processed.
    let unprocessed = error.is_go_away() && error.is_remote();
    if refused || unprocessed {
        return Refused::NotProcessed(error.into());
    }
    Refused::Failed(OpenError::Stream(error.into()))
}
