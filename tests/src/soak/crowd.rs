//! All callers of a soak. One that fails is counted, and asks on.

use super::callers::{Aborting, Denied, DeniedStream, DeniedTool, NewSessions};
use super::frail::{BreakingBytes, BreakingEvents, BriefBytes, Frail, Lost, SlowPosts};
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
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Pause between two questions of a caller: some hundred questions a second altogether.
const PACE: Duration = Duration::from_millis(25);

/// Of those who only listen: events come at a pace of their own, and who reads them more slowly hears of a break late.
const NO_PACE: Duration = Duration::from_millis(1);

/// Of new tunnels: a handshake costs more than a request.
const SLOW_PACE: Duration = Duration::from_millis(250);

/// Who may lose questions with an answer that the waypoint counts.
pub(super) const POSTS: &str = "frail posts";

/// Failures that are told with their cause.
const TOLD: usize = 20;

/// What became of a caller's questions.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Answers {
    /// As they should be.
    pub good: u64,
    /// Lost with a pod that died, and told so.
    pub lost: u64,
    /// Otherwise.
    pub failed: u64,
}

#[derive(Default)]
struct Counts {
    good: AtomicU64,
    lost: AtomicU64,
    failed: AtomicU64,
}

/// The callers at work.
pub(super) struct Crowd {
    begun: Instant,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    counts: Vec<(&'static str, Arc<Counts>)>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Crowd {
    /// Sends them all to the waypoint. Returns the source of most of them too, whose certificate is to be renewed.
    pub(super) async fn start(
        site: &Site,
        frail: &Frail,
        portcullis: &Portcullis,
    ) -> Result<(Self, Outbound)> {
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
        crowd.add("mcp events", NO_PACE, Listens::new(&way(MCP), &session));
        crowd.add("mcp sessions", SLOW_PACE, NewSessions(way(MCP)));
        crowd.add("mcp denied", PACE, DeniedTool { client: Kept::new(&way(MCP)), session });
        crowd.add("events", NO_PACE, Ticks::open(&held(STEADY)).await?);
        crowd.add("bytes", PACE, Echoed::open(&held(STEADY_TCP)).await?);
        crowd.add("bytes new", PACE, FreshBytes(way(TCP)));
        crowd.add("denied", PACE, Denied(Kept::new(&way(HTTP))));
        crowd.add("denied stream", PACE, DeniedStream { ztunnel: stranger, authority: site.at(TCP) });
        crowd.add("aborting", PACE, Aborting { way: way(STEADY), turn: 0 });
        crowd.add("new tunnels", SLOW_PACE, Fresh(Way::anew(&renewed, &site.at(HTTP))));
        crowd.ask_the_frail(frail, &renewed, &lasting);
        Ok((crowd, renewed))
    }

    /// Those who ask pods that die. All but what may be lost must be answered as everywhere.
    fn ask_the_frail(&mut self, frail: &Frail, renewed: &Outbound, lasting: &Outbound) {
        let http = Way::pooled(renewed, &frail.http());
        let held = |authority: &str| Way::pooled(lasting, authority);
        let excuses = || frail.excuses();
        self.add("frail gets", PACE, Kept::new(&http));
        self.add("frail gets new", PACE, Fresh(http.clone()));
        let brief = BriefBytes { way: Way::pooled(renewed, &frail.tcp()), excuses: excuses() };
        self.add("frail bytes new", PACE, brief);
        self.add(POSTS, PACE, SlowPosts { client: Kept::new(&http), excuses: excuses() });
        let events = BreakingEvents { way: held(&frail.http()), open: None, excuses: excuses() };
        self.add("frail events", NO_PACE, events);
        let bytes = BreakingBytes { way: held(&frail.tcp()), open: None, excuses: excuses() };
        self.add("frail bytes", PACE, bytes);
    }

    fn empty() -> Self {
        let (stop, _) = watch::channel(false);
        let begun = Instant::now();
        Self { begun, stop, tasks: JoinSet::new(), counts: Vec::new(), failures: Arc::default() }
    }

    fn add(&mut self, name: &'static str, pace: Duration, mut caller: impl Caller) {
        let (count, failures, stopped) =
            (Arc::<Counts>::default(), self.failures.clone(), self.stop.subscribe());
        self.counts.push((name, count.clone()));
        let begun = self.begun;
        self.tasks.spawn(async move {
            let mut pace = interval(pace);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*stopped.borrow() {
                pace.tick().await;
                match caller.ask().await {
                    Ok(()) => drop(count.good.fetch_add(1, Ordering::Relaxed)),
                    Err(error) if error.is::<Lost>() => drop(count.lost.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        count.failed.fetch_add(1, Ordering::Relaxed);
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        if failures.len() < TOLD {
                            let failure =
                                format!("{name}, {:.1} s: {error:#}", begun.elapsed().as_secs_f64());
                            println!("{failure}");
                            failures.push(failure);
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
            let (good, lost, failed) = (load(&count.good), load(&count.lost), load(&count.failed));
            (*name, Answers { good, lost, failed })
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
