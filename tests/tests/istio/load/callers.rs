//! Callers: HTTP/1.1, gRPC, an event stream, plain bytes.

use super::{Caller, Way};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use portcullis_tests::application::hears;
use portcullis_tests::http::{Body, Client, Events, Reply, empty, full};
use portcullis_tests::ztunnel::TunnelStream;
use tokio::io::AsyncWriteExt as _;

/// HTTP/1.1 on one connection as long as the server keeps it.
pub(crate) struct Kept {
    way: Way,
    client: Option<Client>,
}

impl Kept {
    pub(crate) fn new(way: &Way) -> Self {
        Self { way: way.clone(), client: None }
    }

    /// Leaves its connection: the next exchange makes a new one.
    pub(crate) fn leave(&mut self) {
        self.client = None;
    }

    /// One exchange, on the connection that there is.
    pub(crate) async fn exchange(&mut self, request: Request<Body>) -> Result<Reply> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::http1(self.way.open().await?).await?,
        };
        let reply = client.send(request).await?;
        if reply.headers.get(header::CONNECTION).is_none_or(|connection| connection != "close") {
            self.client = Some(client);
        }
        Ok(reply)
    }
}

impl Caller for Kept {
    async fn ask(&mut self) -> Result<()> {
        answered(&self.exchange(get("/kept")?).await?)
    }
}

/// HTTP/1.1 with a connection for each request.
pub(crate) struct Fresh(pub(crate) Way);

impl Caller for Fresh {
    async fn ask(&mut self) -> Result<()> {
        let client = Client::http1(self.0.open().await?).await?;
        answered(&client.send(get("/fresh")?).await?)
    }
}

/// Unary calls of gRPC, on one connection until it is told to leave.
pub(crate) struct Grpc {
    way: Way,
    client: Option<Client>,
}

impl Grpc {
    pub(crate) fn new(way: &Way) -> Self {
        Self { way: way.clone(), client: None }
    }
}

impl Caller for Grpc {
    async fn ask(&mut self) -> Result<()> {
        let usable = match self.client.take() {
            Some(client) if client.is_open().await => Some(client),
            _ => None,
        };
        let client = match usable {
            Some(client) => client,
            None => Client::http2(self.way.open().await?).await?,
        };
        let (client, reply) = match client.send(unary()?).await {
            // GOAWAY came between the look at the connection and the request, which was not sent: a gRPC client takes
            // another connection by itself.
            Err(error) if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) => {
                let another = Client::http2(self.way.open().await?).await?;
                let reply = another.send(unary()?).await?;
                (another, reply)
            }
            sent => (client, sent?),
        };
        let status = reply.trailers.get("grpc-status").or_else(|| reply.headers.get("grpc-status"));
        ensure!(status.is_some_and(|status| status == "0"), "{} {status:?}", reply.status);
        ensure!(reply.body == b"\0\0\0\0\x02hi".as_slice(), "another answer: {:?}", reply.body);
        self.client = Some(client);
        Ok(())
    }
}

/// A message of gRPC: not compressed, two bytes.
fn unary() -> Result<Request<Body>> {
    Ok(Request::post("http://app/echo.Echo/Unary")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(full(Bytes::from_static(b"\0\0\0\0\x02hi")))?)
}

/// One event stream that never ends: each event is the next one.
pub(crate) struct Ticks {
    // The events end with their client.
    _client: Client,
    events: Events,
    next: u64,
}

impl Ticks {
    pub(crate) async fn open(way: &Way) -> Result<Self> {
        let client = Client::http1(way.open().await?).await?;
        let response = client.open(get("/ticks")?).await?;
        ensure!(response.status() == 200, "{}", response.status());
        Ok(Self { _client: client, events: Events::of(response), next: 0 })
    }
}

impl Caller for Ticks {
    async fn ask(&mut self) -> Result<()> {
        let event = self.events.next().await?.context("the stream has ended")?;
        ensure!(event.data == self.next.to_string(), "{} after {}", event.data, self.next);
        self.next += 1;
        Ok(())
    }
}

/// One opaque stream, whose bytes come back.
pub(crate) struct Echoed(TunnelStream);

impl Echoed {
    pub(crate) async fn open(way: &Way) -> Result<Self> {
        Ok(Self(way.open().await?))
    }
}

impl Caller for Echoed {
    async fn ask(&mut self) -> Result<()> {
        self.0.write_all(b"hello").await?;
        hears(&mut self.0, b"hello").await
    }
}

/// Opaque streams, one for each question.
pub(crate) struct FreshBytes(pub(crate) Way);

impl Caller for FreshBytes {
    async fn ask(&mut self) -> Result<()> {
        Echoed::open(&self.0).await?.ask().await
    }
}

pub(super) fn get(path: &str) -> Result<Request<Body>> {
    Ok(Request::get(path).header("host", "app").body(empty())?)
}

fn answered(reply: &Reply) -> Result<()> {
    ensure!(reply.status == 200 && reply.text() == "ok", "{} {}", reply.status, reply.text());
    Ok(())
}
