//! Callers whose questions must be refused, and callers who break off.

use crate::http::{Client, Events, full, post_json, streamed};
use crate::load::{Caller, HIDDEN_TOOL, Kept, Way, call, get, in_session, initialize};
use crate::ztunnel::{Outbound, Refused};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Frame;
use serde_json::Value;

/// Asks for what a policy denies.
pub(super) struct Denied(pub(super) Kept);

impl Caller for Denied {
    async fn ask(&mut self) -> Result<()> {
        let reply = self.0.exchange(get("/vault")?).await?;
        ensure!(reply.status == StatusCode::FORBIDDEN, "{} {}", reply.status, reply.text());
        Ok(())
    }
}

/// Calls the tool that nobody may call.
pub(super) struct DeniedTool {
    pub(super) client: Kept,
    pub(super) session: String,
}

impl Caller for DeniedTool {
    async fn ask(&mut self) -> Result<()> {
        let request = post_json("/mcp", "app", &call(7, HIDDEN_TOOL, "open"))?;
        let reply = self.client.exchange(in_session(request, &self.session)?).await?;
        let told: Value = reply.json()?;
        ensure!(reply.status == 200 && told.get("error").is_some(), "{} {told}", reply.status);
        Ok(())
    }
}

/// A workload whose streams a policy denies.
pub(super) struct DeniedStream {
    pub(super) ztunnel: Outbound,
    pub(super) authority: String,
}

impl Caller for DeniedStream {
    async fn ask(&mut self) -> Result<()> {
        let Err(error) = self.ztunnel.connect(&self.authority).await else {
            anyhow::bail!("a denied stream was carried")
        };
        let status = error.downcast_ref::<Refused>().map(|refused| refused.status);
        ensure!(status == Some(StatusCode::UNAUTHORIZED), "{error:#}");
        Ok(())
    }
}

/// Breaks off: by turns in the middle of a body that it sends, of an answer, and of a stream that has said nothing.
pub(super) struct Aborting {
    pub(super) way: Way,
    pub(super) turn: usize,
}

impl Caller for Aborting {
    async fn ask(&mut self) -> Result<()> {
        self.turn += 1;
        match self.turn % 3 {
            0 => self.in_a_body().await,
            1 => self.in_an_answer().await,
            _ => self.way.open().await.map(drop),
        }
    }
}

impl Aborting {
    async fn in_a_body(&self) -> Result<()> {
        let client = Client::http1(self.way.open().await?).await?;
        let (sender, body) = streamed();
        sender.send(Frame::data(Bytes::from_static(b"half of it"))).await?;
        let request = Request::post("/posted").header("host", "app").header("content-length", "20");
        let asking = client.open(request.body(body)?);
        // The body has begun when its queue is empty again; nobody answers half a body.
        let begun = async {
            while sender.capacity() < sender.max_capacity() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            answered = asking => anyhow::bail!("half a body was answered: {:?}", answered?.status()),
            () = begun => Ok(()),
        }
    }

    async fn in_an_answer(&self) -> Result<()> {
        let client = Client::http1(self.way.open().await?).await?;
        let response = client.open(get("/ticks")?).await?;
        ensure!(response.status() == 200, "{}", response.status());
        let mut events = Events::of(response);
        events.next().await?.context("an event").map(drop)
    }
}

/// Opens a session, calls a tool in it, and ends it.
pub(super) struct NewSessions(pub(super) Way);

impl Caller for NewSessions {
    async fn ask(&mut self) -> Result<()> {
        let session = initialize(&self.0).await?;
        let mut client = Kept::new(&self.0);
        let request = in_session(post_json("/mcp", "app", &call(1, "echo", "once"))?, &session)?;
        let reply = client.exchange(request).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        let end = Request::delete("/mcp").header("host", "app").body(full(Bytes::new()))?;
        let reply = client.exchange(in_session(end, &session)?).await?;
        ensure!(reply.status.is_success(), "{} {}", reply.status, reply.text());
        Ok(())
    }
}
