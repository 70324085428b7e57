//! Callers of HTTP/1.1: on a kept connection, on new ones, with a body, on an event stream.

use super::{Caller, Way};
use crate::http::{Body, Client, Events, Reply, empty, full};
use anyhow::{Context, Result, ensure};
use http::{Request, header};

/// HTTP/1.1 on one connection as long as the server keeps it.
pub struct Kept {
    way: Way,
    client: Option<Client>,
}

impl Kept {
    /// On no connection yet.
    #[must_use]
    pub fn new(way: &Way) -> Self {
        Self { way: way.clone(), client: None }
    }

    /// Leaves its connection: the next exchange makes a new one.
    pub fn leave(&mut self) {
        self.client = None;
    }

    /// One exchange, on the connection that there is.
    pub async fn exchange(&mut self, request: Request<Body>) -> Result<Reply> {
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
pub struct Fresh(pub Way);

impl Caller for Fresh {
    async fn ask(&mut self) -> Result<()> {
        let client = Client::http1(self.0.open().await?).await?;
        answered(&client.send(get("/fresh")?).await?)
    }
}

/// Posts of some size on a kept connection. Nobody may send one twice, so each must be carried the first time.
pub struct Posted {
    client: Kept,
    bytes: usize,
}

impl Posted {
    /// With bodies of this size.
    #[must_use]
    pub fn new(way: &Way, bytes: usize) -> Self {
        Self { client: Kept::new(way), bytes }
    }
}

impl Caller for Posted {
    async fn ask(&mut self) -> Result<()> {
        let body = full(vec![b'x'; self.bytes]);
        answered(&self.client.exchange(Request::post("/posted").header("host", "app").body(body)?).await?)
    }
}

/// One event stream that never ends: each event is the next one.
pub struct Ticks {
    // The events end with their client.
    _client: Client,
    events: Events,
    next: u64,
}

impl Ticks {
    /// Opens it.
    pub async fn open(way: &Way) -> Result<Self> {
        let client = Client::http1(way.open().await?).await?;
        let response = client.open(get("/ticks")?).await?;
        ensure!(response.status() == 200, "{}", response.status());
        Ok(Self { _client: client, events: Events::of(response), next: 0 })
    }

    /// The next event.
    ///
    /// # Errors
    /// [`hyper::Error`] when the stream broke, and another when it ended cleanly or the event is not the next one.
    pub async fn next(&mut self) -> Result<()> {
        let event = self.events.next().await?.context("the stream has ended")?;
        ensure!(event.data == self.next.to_string(), "{} after {}", event.data, self.next);
        self.next += 1;
        Ok(())
    }
}

impl Caller for Ticks {
    async fn ask(&mut self) -> Result<()> {
        self.next().await
    }
}

/// A GET of `path`.
pub fn get(path: &str) -> Result<Request<Body>> {
    Ok(Request::get(path).header("host", "app").body(empty())?)
}

fn answered(reply: &Reply) -> Result<()> {
    ensure!(reply.status == 200 && reply.text() == "ok", "{} {}", reply.status, reply.text());
    Ok(())
}
