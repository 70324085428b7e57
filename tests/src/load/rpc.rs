//! Callers of gRPC: unary calls, and calls that stream both ways.

use super::{Caller, Way};
use crate::http::{Body, Client, full, streamed};
use crate::wait;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};

/// A message of gRPC: not compressed, two bytes.
const MESSAGE: Bytes = Bytes::from_static(b"\0\0\0\0\x02hi");

/// HTTP/2 connections as a gRPC client keeps them: one, until it is told to leave.
struct Channel {
    way: Way,
    client: Option<Client>,
}

impl Channel {
    fn new(way: &Way) -> Self {
        Self { way: way.clone(), client: None }
    }

    /// Sends a request. GOAWAY may come between the look at the connection and the request, which is not sent then: a gRPC
    /// client takes another connection by itself, and so does this.
    async fn open(&mut self, request: impl Fn() -> Result<Request<Body>>) -> Result<Response<Incoming>> {
        let usable = match self.client.take() {
            Some(client) if client.is_open().await => Some(client),
            _ => None,
        };
        let client = match usable {
            Some(client) => client,
            None => Client::http2(self.way.open().await?).await?,
        };
        let (client, response) = match client.open(request()?).await {
            Err(error) if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) => {
                let another = Client::http2(self.way.open().await?).await?;
                let response = another.open(request()?).await?;
                (another, response)
            }
            opened => (client, opened?),
        };
        self.client = Some(client);
        Ok(response)
    }
}

fn rpc(method: &str, body: Body) -> Result<Request<Body>> {
    Ok(Request::post(format!("http://app/echo.Echo/{method}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(body)?)
}

/// Unary calls.
pub struct Grpc(Channel);

impl Grpc {
    /// On no connection yet.
    #[must_use]
    pub fn new(way: &Way) -> Self {
        Self(Channel::new(way))
    }
}

impl Caller for Grpc {
    async fn ask(&mut self) -> Result<()> {
        let (head, body) = self.0.open(|| rpc("Unary", full(MESSAGE))).await?.into_parts();
        let body = wait::within("the end of a call", body.collect()).await??;
        let trailers = body.trailers().cloned().unwrap_or_default();
        succeeded(&head.headers, &trailers)?;
        ensure!(body.to_bytes() == MESSAGE, "another answer");
        Ok(())
    }
}

/// Calls that stream both ways: some messages, each sent when the one before it has come back.
pub struct Both {
    channel: Channel,
    messages: usize,
}

impl Both {
    /// With this many messages a call.
    #[must_use]
    pub fn new(way: &Way, messages: usize) -> Self {
        Self { channel: Channel::new(way), messages }
    }
}

impl Caller for Both {
    async fn ask(&mut self) -> Result<()> {
        // The body of a call that was not sent is dropped with its sender's other end, and `open` makes another.
        let sender = std::sync::Mutex::new(None);
        let response = self.channel.open(|| {
            let (send, body) = streamed();
            *sender.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(send);
            rpc("Both", body)
        });
        let (head, mut body) = response.await?.into_parts();
        let sender = sender.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let sender = sender.context("a call that was sent")?;
        for number in 0..self.messages {
            sender.send(Frame::data(MESSAGE)).await.with_context(|| format!("message {number}"))?;
            let mut back = Vec::new();
            while back.len() < MESSAGE.len() {
                let frame = wait::within("a message back", body.frame()).await?;
                let frame = frame.with_context(|| format!("the end after {number} messages"))??;
                back.extend_from_slice(&frame.into_data().unwrap_or_default());
            }
            ensure!(back == MESSAGE, "another message: {back:?}");
        }
        drop(sender);
        let rest = wait::within("the end of a call", body.collect()).await??;
        succeeded(&head.headers, &rest.trailers().cloned().unwrap_or_default())
    }
}

fn succeeded(head: &HeaderMap, trailers: &HeaderMap) -> Result<()> {
    let status = trailers.get("grpc-status").or_else(|| head.get("grpc-status"));
    ensure!(status.is_some_and(|status| status == "0"), "{status:?}, {head:?}");
    Ok(())
}
