//! HTTP over any stream: well-formed requests through hyper, ill-formed ones as raw bytes.

mod events;
mod raw;

pub use events::{Event, Events};
pub use raw::{RawReply, raw};

use crate::wait;
use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::convert::Infallible;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;

/// A body of the tests: whole or streamed.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Bytes in both directions: a TCP connection or a tunnel.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A body that is known whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is written while it is sent; ends when the sender is dropped.
#[must_use]
pub fn streamed() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(16);
    let frames = unfold(receiver, |mut receiver: mpsc::Receiver<_>| async move {
        Some((Ok::<_, Infallible>(receiver.recv().await?), receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// A POST of one JSON document as an MCP client sends it.
pub fn post_json(path: &str, authority: &str, body: &Value) -> Result<Request<Body>> {
    let request = Request::post(path)
        .header("host", authority)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    Ok(request.body(full(body.to_string()))?)
}

/// A client on one connection. HTTP/1.1 requests wait for each other; HTTP/2 ones do not.
pub struct Client {
    sender: Sender,
    driver: AbortHandle,
}

enum Sender {
    Http1(Mutex<http1::SendRequest<Body>>),
    Http2(http2::SendRequest<Body>),
}

impl Client {
    /// Speaks HTTP/1.1 with keep-alive.
    pub async fn http1(io: impl Io) -> Result<Self> {
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await?;
        let driver = tokio::spawn(async move { drop(driver.with_upgrades().await) });
        Ok(Self { sender: Sender::Http1(Mutex::new(sender)), driver: driver.abort_handle() })
    }

    /// Speaks HTTP/2 without TLS, by prior knowledge. Request URIs must be absolute: they carry the authority.
    pub async fn http2(io: impl Io) -> Result<Self> {
        let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        let driver = tokio::spawn(async move { drop(driver.await) });
        Ok(Self { sender: Sender::Http2(sender), driver: driver.abort_handle() })
    }

    /// Sends a request and returns its answer as soon as the head is there.
    pub async fn open(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        wait::within("the head of an answer", self.open_unbounded(request)).await?
    }

    async fn open_unbounded(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        match &self.sender {
            Sender::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Sender::Http2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }

    /// Whether one more request can be sent: the other side has neither closed the connection nor said that it will.
    pub async fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.lock().await.ready().await.is_ok(),
            Sender::Http2(sender) => sender.clone().ready().await.is_ok(),
        }
    }

    /// Sends a request and reads its whole answer.
    pub async fn send(&self, request: Request<Body>) -> Result<Reply> {
        let response = self.open(request).await?;
        wait::within("the end of an answer", Reply::read(response)).await?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers, empty if there were none.
    pub trailers: HeaderMap,
}

impl Reply {
    async fn read(response: Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        Ok(Self { status: head.status, headers: head.headers, body: collected.to_bytes(), trailers })
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; of an event stream, the data of its last event that is JSON.
    pub fn json(&self) -> Result<Value> {
        let text = self.text();
        let kind =
            self.headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
        if !kind.starts_with(b"text/event-stream") {
            return serde_json::from_str(&text).with_context(|| format!("{} with {text:?}", self.status));
        }
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        data.filter_map(|data| serde_json::from_str(data).ok())
            .next_back()
            .with_context(|| format!("no JSON in {text:?}"))
    }
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}
