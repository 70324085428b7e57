//! All callers of a soak. One that fails is counted, and asks on.

use super::callers::{Aborting, Denied, DeniedStream, DeniedTool, NewSessions};
use crate::load::site::{GRPC, HTTP, MCP, STEADY, STEADY_TCP, Site, TCP};
use crate::load::{
    Both, Caller, Calls, Echoed, Fresh, FreshBytes, Grpc, Kept, Listens, Lists, Posted, Ticks, Way,
    initialize,
};
use crate::mesh::NAMESPACE;
use crate::portcullis::Portcullis;
use crate::ztunnel::Outbound;
use anyhow::Result;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Pause between two questions of a caller: some hundred questions a second altogether.
const PACE: Duration = Duration::from_millis(25);

/// Of new tunnels: a handshake costs more than a request.
const SLOW_PACE: Duration = Duration::from_millis(250);

/// Failures that are told with their cause.
const TOLD: usize = 20;

/// What became of a caller's questions.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Answers {
    /// As they should be.
    pub good: u64,
    /// Otherwise.
    pub failed: u64,
}

#[derive(Default)]
struct Counts {
    good: AtomicU64,
    failed: AtomicU64,
}

/// The callers at work.
pub(super) struct Crowd {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    counts: Vec<(&'static str, Arc<Counts>)>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Crowd {
    /// Sends them all to the waypoint. Returns the source of most of them too, whose certificate is to be renewed.
    pub(super) async fn start(site: &Site, portcullis: &Portcullis) -> Result<(Self, Outbound)> {
        let ca = site.setup.ca.clone();
        let hbone = portcullis.address("hbone")?;
        let waypoint = ca.id(NAMESPACE, "waypoint");
        let source = |name| Outbound::new(&ca, &ca.svid(&ca.id("agents", name))?, hbone, &waypoint);
        let (renewed, lasting, stranger) = (source("bot")?, source("bot")?, source("stranger")?);
        let way = |port| Way::pooled(&renewed, &site.at(port));
        let held = |port| Way::pooled(&lasting, &site.at(port));
        let session = initialize(&way(MCP)).await?;
        let mut crowd = Self::empty();
        crowd.add("http/1.1 kept", PACE, Kept::new(&way(HTTP)));
        crowd.add("http/1.1 new", PACE, Fresh(way(HTTP)));
        crowd.add("http/1.1 posts", PACE, Posted::new(&way(HTTP), 100_000));
        crowd.add("grpc unary", PACE, Grpc::new(&way(GRPC)));
        crowd.add("grpc both ways", PACE, Both::new(&way(GRPC), 3));
        crowd.add("mcp calls", PACE, Calls::new(&way(MCP), &session));
        crowd.add("mcp lists", PACE, Lists::new(&way(MCP), &session));
        crowd.add("mcp events", PACE, Listens::new(&way(MCP), &session));
        crowd.add("mcp sessions", SLOW_PACE, NewSessions(way(MCP)));
        crowd.add("mcp denied", PACE, DeniedTool { client: Kept::new(&way(MCP)), session });
        crowd.add("events", PACE, Ticks::open(&held(STEADY)).await?);
        crowd.add("bytes", PACE, Echoed::open(&held(STEADY_TCP)).await?);
        crowd.add("bytes new", PACE, FreshBytes(way(TCP)));
        crowd.add("denied", PACE, Denied(Kept::new(&way(HTTP))));
        crowd.add("denied stream", PACE, DeniedStream { ztunnel: stranger, authority: site.at(TCP) });
        crowd.add("aborting", PACE, Aborting { way: way(STEADY), turn: 0 });
        crowd.add("new tunnels", SLOW_PACE, Fresh(Way::anew(&renewed, &site.at(HTTP))));
        Ok((crowd, renewed))
    }

    fn empty() -> Self {
        let (stop, _) = watch::channel(false);
        Self { stop, tasks: JoinSet::new(), counts: Vec::new(), failures: Arc::default() }
    }

    fn add(&mut self, name: &'static str, pace: Duration, mut caller: impl Caller) {
        let (count, failures, stopped) =
            (Arc::<Counts>::default(), self.failures.clone(), self.stop.subscribe());
        self.counts.push((name, count.clone()));
        self.tasks.spawn(async move {
            let mut pace = interval(pace);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*stopped.borrow() {
                pace.tick().await;
                match caller.ask().await {
                    Ok(()) => drop(count.good.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        count.failed.fetch_add(1, Ordering::Relaxed);
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        if failures.len() < TOLD {
                            failures.push(format!("{name}: {error:#}"));
                        }
                    }
                }
            }
        });
    }

    /// What became of all questions so far.
    pub(super) fn answers(&self) -> Vec<(&'static str, Answers)> {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let one = |(name, count): &(_, Arc<Counts>)| {
            (*name, Answers { good: load(&count.good), failed: load(&count.failed) })
        };
        self.counts.iter().map(one).collect()
    }

    /// Lets each finish its question and leave, and returns what became of all, and the first failures.
    pub(super) async fn end(mut self) -> (Vec<(&'static str, Answers)>, Vec<String>) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
            }
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.answers(), failures)
    }
}
