//! Things that are open and rest, and what memory they take.

use super::sender::{Ask, Sender};
use super::ways;
use crate::backend::{self, App, SMALL, TOGETHER};
use crate::contestant::{Running, Way};
use crate::figures::{Figure, Round};
use crate::{machine, mcp};
use anyhow::Result;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Tunnels on one connection: as many as ztunnel opens.
const EACH: usize = 100;

/// What the process is given to become calm before its memory is read.
const CALM: Duration = Duration::from_millis(500);

/// What is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    /// Connections without a stream.
    Connection,
    /// Tunnels, each of which has carried one request; all these requests were open at once.
    Tunnel,
    /// Tunnels, each of which has carried one request, one after the other.
    TunnelInTurn,
    /// Event streams.
    Events,
}

pub(super) async fn carry(thing: Thing, count: usize, running: &Running) -> Result<Round> {
    let Some(pid) = running.pid() else { return Ok(Round::new()) };
    tokio::time::sleep(CALM).await;
    let base = machine::resident_bytes(pid)?;
    let mut held = Held::default();
    match thing {
        Thing::Connection => held.ways = ways(running, count).await?,
        Thing::Tunnel => held.tunnels(running, count).await?,
        Thing::TunnelInTurn => held.tunnels_in_turn(running, count).await?,
        Thing::Events => held.events(running, count).await?,
    }
    tokio::time::sleep(CALM).await;
    let grown = machine::resident_bytes(pid)? - base;
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let each = grown / 1024.0 / count as f64;
    Ok(Round::from([(Figure::BaseMib, base / 1024.0 / 1024.0), (Figure::KibEach, each)]))
}

/// Keeps open what it has.
#[derive(Default)]
struct Held {
    ways: Vec<Way>,
    senders: Vec<Sender>,
    bodies: Vec<Incoming>,
}

impl Held {
    async fn tunnels(&mut self, running: &Running, count: usize) -> Result<()> {
        backend::nobody_waits();
        let ask = Arc::new(Ask::get(App::Http1, &format!("{TOGETHER}{count}"), SMALL)?);
        let mut tasks = JoinSet::new();
        self.open(running, count, ask.app).await?;
        for mut sender in self.senders.drain(..) {
            let ask = ask.clone();
            tasks.spawn(async move { sender.exchange(&ask).await.map(|()| sender) });
        }
        while let Some(done) = tasks.join_next().await {
            self.senders.push(done??);
        }
        Ok(())
    }

    async fn tunnels_in_turn(&mut self, running: &Running, count: usize) -> Result<()> {
        let ask = Ask::get(App::Http1, "/bytes/1024", 1024)?;
        self.open(running, count, ask.app).await?;
        for sender in &mut self.senders {
            sender.exchange(&ask).await?;
        }
        Ok(())
    }

    async fn events(&mut self, running: &Running, count: usize) -> Result<()> {
        let ask = Ask::get(App::Http1, mcp::EVENTS, 0)?.header("accept", mcp::SSE)?;
        self.open(running, count, ask.app).await?;
        for sender in &mut self.senders {
            let mut body = sender.send(&ask).await?;
            anyhow::ensure!(body.frame().await.is_some(), "the stream of events ended at once");
            self.bodies.push(body);
        }
        Ok(())
    }

    /// Opens so many tunnels.
    async fn open(&mut self, running: &Running, count: usize, app: App) -> Result<()> {
        self.ways = ways(running, count.div_ceil(EACH)).await?;
        for way in self.ways.iter().cycle().take(count) {
            self.senders.push(Sender::open(way, app).await?);
        }
        Ok(())
    }
}
