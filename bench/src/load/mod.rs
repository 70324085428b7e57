//! What the contestants have to carry.

mod bytes;
mod closed;
mod fresh;
mod held;
mod open;
mod pace;
mod sender;
mod swap;

pub(crate) use held::Thing;
pub(crate) use sender::Ask;

use sender::Sender;

use crate::backend::App;
use crate::contestant::{Running, Way};
use crate::figures::{Figure, Round};
use crate::machine;
use anyhow::Result;
use std::time::{Duration, Instant};

/// Connections that the tunnels of a load are spread over.
const CONNECTIONS: usize = 4;

/// Tunnels of a load over HTTP.
const TUNNELS: usize = 16;

/// A kind of load.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    /// As many requests as go, one at a time on each of 16 tunnels; over HTTP/2 four at a time on each of four.
    Closed(Ask),
    /// So many requests a second, whether or not those before are answered.
    Open(Ask, u32),
    /// Bytes from the backend on so many tunnels.
    Bytes(usize),
    /// A new stream for each request.
    Streams(Ask),
    /// A new connection and stream for each request.
    Connections(Ask),
    /// So many things held open.
    Held(Thing, usize),
    /// An open load while the configuration changes twice a second.
    Swap(Ask, u32),
}

impl Load {
    /// The port of the backend that it needs.
    pub(crate) fn app(&self) -> App {
        match self {
            Self::Closed(ask) | Self::Open(ask, _) | Self::Swap(ask, _) => ask.app,
            Self::Streams(ask) | Self::Connections(ask) => ask.app,
            Self::Bytes(_) => App::Raw,
            Self::Held(..) => App::Http1,
        }
    }

    /// Whether each round needs a process that has carried nothing before.
    pub(crate) fn needs_fresh_process(&self) -> bool {
        matches!(self, Self::Held(..))
    }

    /// Whether its latencies are what it is about, which takes more time.
    pub(crate) fn counts_tails(&self) -> bool {
        matches!(self, Self::Open(..) | Self::Swap(..))
    }

    /// Carries the load through `running` for about `time`.
    ///
    /// # Errors
    /// When an answer is not what it should be: a figure of failed requests would be no figure.
    pub(crate) async fn carry(&self, running: &Running, time: Duration) -> Result<Round> {
        match self {
            Self::Closed(ask) => closed::carry(ask, running, time).await,
            Self::Open(ask, rate) => open::carry(ask, *rate, running, time).await,
            Self::Bytes(tunnels) => bytes::carry(*tunnels, running, time).await,
            Self::Streams(ask) => fresh::streams(ask, running, time).await,
            Self::Connections(ask) => fresh::connections(ask, running, time).await,
            Self::Held(thing, count) => held::carry(*thing, *count, running).await,
            Self::Swap(ask, rate) => swap::carry(ask, *rate, running, time).await,
        }
    }
}

/// Sends what no rule allows, so that nobody is measured who judges nothing.
///
/// # Errors
/// When it is answered with anything but 403.
pub(crate) async fn refused(ask: &Ask, running: &Running) -> Result<()> {
    let way = running.entrance.connection().await?;
    Sender::open(&way, ask.app).await?.refused(ask).await
}

/// Opens the connections of a load; streams are opened on them in turn.
async fn ways(running: &Running, connections: usize) -> Result<Vec<Way>> {
    let mut ways = Vec::with_capacity(connections);
    for _ in 0..connections {
        ways.push(running.entrance.connection().await?);
    }
    Ok(ways)
}

/// What the proxy, the load and the rest of the machine used between two looks.
struct Meter {
    pid: Option<u32>,
    started: Instant,
    proxy: f64,
    own: f64,
    all: f64,
}

/// What a [`Meter`] saw.
struct Used {
    /// Seconds of the clock.
    seconds: f64,
    /// Seconds of CPU of the proxy, if there is one.
    proxy: Option<f64>,
    /// Cores used by anybody else.
    others: f64,
}

impl Meter {
    fn start(running: &Running) -> Result<Self> {
        let pid = running.pid();
        Ok(Self {
            pid,
            proxy: pid.map_or(Ok(0.0), machine::cpu_seconds)?,
            own: machine::cpu_seconds(std::process::id())?,
            all: machine::busy_seconds()?,
            started: Instant::now(),
        })
    }

    fn stop(self) -> Result<Used> {
        let seconds = self.started.elapsed().as_secs_f64();
        let all = machine::busy_seconds()? - self.all;
        let own = machine::cpu_seconds(std::process::id())? - self.own;
        let proxy = self.pid.map(machine::cpu_seconds).transpose()?.map(|now| now - self.proxy);
        let others = ((all - own - proxy.unwrap_or(0.0)) / seconds).max(0.0);
        Ok(Used { seconds, proxy, others })
    }
}

impl Used {
    /// The figures of `count` requests.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^52")]
    fn by_count(&self, count: usize) -> Round {
        let mut round = self.of_the_run();
        round.insert(Figure::PerSecond, count as f64 / self.seconds);
        if let Some(proxy) = self.proxy {
            round.insert(Figure::CpuMicros, proxy * 1e6 / count as f64);
            round.insert(Figure::CpuPer100k, proxy * 1e5 / count as f64);
        }
        round
    }

    /// The figures of `bytes` carried.
    #[expect(clippy::cast_precision_loss, reason = "counts of bytes are far below 2^52")]
    fn by_bytes(&self, bytes: usize) -> Round {
        let mut round = self.of_the_run();
        round.insert(Figure::GbitPerSecond, bytes as f64 * 8e-9 / self.seconds);
        if let Some(proxy) = self.proxy {
            round.insert(Figure::CpuPerGb, proxy * 1e9 / bytes as f64);
        }
        round
    }

    fn of_the_run(&self) -> Round {
        let mut round = Round::from([(Figure::Others, self.others)]);
        if let Some(proxy) = self.proxy {
            round.insert(Figure::ProxyBusy, proxy / self.seconds);
        }
        round
    }
}
