//! One use of an inner HTTP connection, and what is known of a request that got no response.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};

use super::bodies::Outbound;
use super::pool::{EndpointPool, Http1, Http2, Line};
use crate::telemetry::LocalEnd;

/// One use of a connection. HTTP/1.1: dropped before [`Lease::finish`], the connection is closed at once.
pub(super) struct Lease {
    sender: Option<Sender>,
    line: Arc<Line>,
    pool: Arc<EndpointPool>,
    reused: bool,
}

enum Sender {
    Http1(http1::SendRequest<Box<Outbound>>),
    Http2(http2::SendRequest<Box<Outbound>>),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[error("no response")]
pub(super) struct SendError {
    pub(super) fate: Fate,
    #[source]
    pub(super) error: hyper::Error,
}

/// What is known of a request that got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not one byte of it was written.
    Unsent,
    /// The peer says that it did not process it: REFUSED_STREAM, or above the last id of a GOAWAY (RFC 9113 §8.7).
    Refused,
    /// We gave it up: its body broke off on the way from the client.
    Abandoned,
    /// What came is no HTTP.
    Garbled,
    /// It may have been processed.
    Unknown,
}

impl Lease {
    pub(super) fn http1(connection: Http1, pool: &Arc<EndpointPool>, reused: bool) -> Self {
        let Http1 { sender, line } = connection;
        Self { sender: Some(Sender::Http1(sender)), line, pool: Arc::clone(pool), reused }
    }

    pub(super) fn http2(connection: Http2, pool: &Arc<EndpointPool>, reused: bool) -> Self {
        let Http2 { sender, line } = connection;
        Self { sender: Some(Sender::Http2(sender)), line, pool: Arc::clone(pool), reused }
    }

    /// Our end of the connection.
    pub(super) fn local(&self) -> Option<LocalEnd> {
        self.line.local
    }

    /// Whether it was open before: then it may have been closed without our knowing yet.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request and waits for the head of its response. Not cancel safe in the sense that the request is gone:
    /// dropped, it resets the stream (HTTP/2), and with the lease the connection (HTTP/1.1).
    pub(super) async fn send(
        &mut self,
        request: Request<Box<Outbound>>,
    ) -> Result<Response<Incoming>, SendError> {
        let outcome = match &mut self.sender {
            Some(Sender::Http1(sender)) => sender.try_send_request(request).await,
            Some(Sender::Http2(sender)) => sender.try_send_request(request).await,
            // A finished lease is consumed, so nobody gets here; the body comes back by being dropped.
            None => std::future::pending().await,
        };
        outcome.map_err(|mut failed| {
            let unsent = failed.take_message().is_some();
            let error = failed.into_error();
            SendError { fate: if unsent { Fate::Unsent } else { fate(&error) }, error }
        })
    }

    /// The response is complete and the request was sent whole.
    pub(super) fn finish(mut self) {
        if let Some(Sender::Http1(sender)) = self.sender.take() {
            self.line.release();
            self.pool.keep_http1(Http1 { sender, line: Arc::clone(&self.line) });
        } else {
            self.line.release();
        }
        self.line.freed();
    }

    /// The connection was upgraded: it never comes back, and is counted as long as the lease is held.
    pub(super) fn upgrade(&mut self) {
        if matches!(self.sender, Some(Sender::Http1(_))) {
            self.sender = None;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.sender.take() {
            Some(Sender::Http1(_)) => self.line.kill.cancel(),
            Some(Sender::Http2(_)) => {
                self.line.release();
                self.line.freed();
            }
            None => {}
        }
    }
}

fn fate(error: &hyper::Error) -> Fate {
    let http2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match http2 {
        Some(reset) if reset.is_remote() => match reset.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Fate::Refused,
            // h2 gives the peer's GOAWAY only to streams above its last id; others run on or end with the connection.
            _ if reset.is_go_away() => Fate::Refused,
            _ => Fate::Unknown,
        },
        Some(reset) if reset.is_reset() => Fate::Abandoned,
        _ if error.is_user() => Fate::Abandoned,
        _ if error.is_parse() => Fate::Garbled,
        _ => Fate::Unknown,
    }
}
