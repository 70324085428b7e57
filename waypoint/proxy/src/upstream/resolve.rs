//! Host names of endpoints, resolved while they are used. The last good answer is kept for as long as there is no better.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::ConnectError;
use super::health::Clock;

/// How long an answer is used without asking again; up to a fifth more, so that names are not asked for together. The
/// system's resolver tells no time to live (Envoy's default `dns_refresh_rate`).
const FRESH: Duration = Duration::from_secs(5);

/// How long after a failed lookup none is tried.
const FAILED: Duration = Duration::from_secs(1);

/// An answer older than this is used only if no newer one comes in time: nobody used the name for so long.
const OLD: Duration = Duration::from_secs(60);

/// How long a request waits for a lookup.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lookups at once: each holds a thread.
const LOOKUPS: usize = 8;

/// A lookup that takes longer has failed, and lets another have its turn; its thread ends when the system gives up.
const LONGEST: Duration = Duration::from_secs(10);

/// Addresses of one name that are kept.
const ADDRESSES: usize = 32;

type Answering = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Looks names up. Cheap to clone.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Inner>);

struct Inner {
    ask: Box<dyn Fn(String, u16) -> Answering + Send + Sync>,
    lookups: Semaphore,
    tasks: TaskTracker,
    closing: CancellationToken,
    clock: Clock,
}

impl Resolver {
    /// By the system's resolver (`getaddrinfo`). Lookups end with `closing`.
    pub(super) fn system(clock: Clock, closing: CancellationToken) -> Self {
        Self::new(clock, closing, |host, port| {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
        })
    }

    fn new(
        clock: Clock,
        closing: CancellationToken,
        ask: impl Fn(String, u16) -> Answering + Send + Sync + 'static,
    ) -> Self {
        let (lookups, tasks) = (Semaphore::new(LOOKUPS), TaskTracker::new());
        Self(Arc::new(Inner { ask: Box::new(ask), lookups, tasks, closing, clock }))
    }

    fn now(&self) -> u64 {
        self.0.clock.now()
    }
}

/// One host name and port.
pub(super) struct Name {
    host: String,
    port: u16,
    resolver: Resolver,
    newest: ArcSwap<Answer>,
    asking: AtomicBool,
    answered: Notify,
    turn: AtomicUsize,
}

/// What is known of a name.
#[derive(Clone, Default)]
struct Answer {
    /// IPv6 and IPv4 in turn; never empty but before the first answer.
    addresses: Arc<[SocketAddr]>,
    /// When they came; `None`: never.
    at: Option<u64>,
    /// Until when nothing is asked.
    rests_until: u64,
    /// Why the last lookup failed, if it did.
    failure: Option<Arc<io::Error>>,
}

impl Name {
    pub(super) fn new(host: &str, port: u16, resolver: &Resolver) -> Arc<Self> {
        Arc::new(Self {
            host: host.to_owned(),
            port,
            resolver: resolver.clone(),
            newest: ArcSwap::default(),
            asking: AtomicBool::new(false),
            answered: Notify::new(),
            turn: AtomicUsize::new(0),
        })
    }

    /// Its port, and the first of its addresses as last told.
    pub(super) fn first(&self) -> SocketAddr {
        let unknown = SocketAddr::from(([0, 0, 0, 0], self.port));
        self.newest.load().addresses.first().copied().unwrap_or(unknown)
    }

    /// Whether it leads to this address, as far as was last told. Asks again if that is long ago.
    pub(super) fn leads_to(self: &Arc<Self>, address: SocketAddr) -> bool {
        let newest = self.newest.load();
        self.ask_if_due(&newest);
        newest.addresses.contains(&address)
    }

    /// Its addresses, beginning with another each time. Waits for a lookup only where nothing recent is known. Cancel safe.
    ///
    /// # Errors
    /// When no lookup ever succeeded.
    pub(super) async fn addresses(self: &Arc<Self>) -> Result<Vec<SocketAddr>, ConnectError> {
        let answered = self.answered.notified();
        let newest = self.newest.load_full();
        let asks = self.ask_if_due(&newest);
        let old = newest.at.is_none_or(|at| self.resolver.now().saturating_sub(at) > millis(OLD));
        if asks && old {
            // What came too late is there for the next request.
            let _late = tokio::time::timeout(PATIENCE, answered).await;
        }
        self.rotated()
    }

    fn rotated(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let newest = self.newest.load();
        if newest.addresses.is_empty() {
            return Err(match &newest.failure {
                Some(failure) => ConnectError::Unresolved(self.host.clone(), Arc::clone(failure)),
                None => ConnectError::TimedOut,
            });
        }
        let mut addresses = newest.addresses.to_vec();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(turn);
        Ok(addresses)
    }

    /// Starts a lookup where the last answer is no longer fresh and none runs; whether one runs now.
    fn ask_if_due(self: &Arc<Self>, newest: &Answer) -> bool {
        if self.resolver.now() < newest.rests_until {
            return false;
        }
        if !self.asking.swap(true, Ordering::AcqRel) {
            let (name, inner) = (Arc::clone(self), Arc::clone(&self.resolver.0));
            let asked = async move { inner.closing.run_until_cancelled(name.ask()).await };
            self.resolver.0.tasks.spawn(asked);
        }
        true
    }

    async fn ask(&self) {
        let inner = &self.resolver.0;
        // The semaphore is never closed.
        let _one_of_few = inner.lookups.acquire().await.ok();
        let told = tokio::time::timeout(LONGEST, (inner.ask)(self.host.clone(), self.port)).await;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the resolver does not answer");
        self.keep(told.unwrap_or_else(|_elapsed| Err(late())));
        self.asking.store(false, Ordering::Release);
        self.answered.notify_waiters();
    }

    fn keep(&self, told: io::Result<Vec<SocketAddr>>) {
        let now = self.resolver.now();
        // A name that somebody else serves must not lead to what trusts this host, such as our admin port.
        let ours = |address: &SocketAddr| address.ip().is_loopback() || address.ip().is_unspecified();
        let told = told.map(|found| {
            found.into_iter().filter(|at| self.host == "localhost" || !ours(at)).collect::<Vec<_>>()
        });
        let told = told.and_then(|found| match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            false => Ok(found),
        });
        let answer = match told {
            Ok(found) => {
                let rest = millis(FRESH) + fastrand::u64(..=millis(FRESH) / 5);
                Answer { addresses: in_turn(found), at: Some(now), rests_until: now + rest, failure: None }
            }
            Err(failure) => {
                tracing::debug!(host = self.host, %failure, "not resolved");
                let (rests_until, failure) = (now + millis(FAILED), Some(Arc::new(failure)));
                Answer { rests_until, failure, ..Answer::clone(&self.newest.load()) }
            }
        };
        self.newest.store(Arc::new(answer));
    }
}

/// Both families in turn, beginning with the one that the system prefers (RFC 8305 §4).
fn in_turn(found: Vec<SocketAddr>) -> Arc<[SocketAddr]> {
    let mut seen = HashSet::new();
    let found: Vec<SocketAddr> = found.into_iter().filter(|address| seen.insert(*address)).collect();
    let first = found.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) = found.into_iter().partition(|it| it.is_ipv6() == first);
    let mut addresses = Vec::with_capacity(one.len() + other.len());
    one.reverse();
    other.reverse();
    while !(one.is_empty() && other.is_empty()) {
        addresses.extend(one.pop());
        addresses.extend(other.pop());
    }
    addresses.truncate(ADDRESSES);
    addresses.into()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A name whose answers a test sets.
    struct Table {
        name: Arc<Name>,
        says: Arc<Mutex<Option<Vec<&'static str>>>>,
        asked: Arc<AtomicUsize>,
    }

    impl Table {
        fn new(says: Option<Vec<&'static str>>) -> Self {
            let (says, asked) = (Arc::new(Mutex::new(says)), Arc::new(AtomicUsize::new(0)));
            let (told, count) = (Arc::clone(&says), Arc::clone(&asked));
            let resolver = Resolver::new(Clock::start(), CancellationToken::new(), move |_, port| {
                count.fetch_add(1, Ordering::SeqCst);
                let told = told.lock().unwrap().clone();
                Box::pin(async move {
                    let told = told.ok_or_else(|| io::Error::other("no such name"))?;
                    Ok(told.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).collect())
                })
            });
            Self { name: Name::new("host.example", 80, &resolver), says, asked }
        }

        fn say(&self, says: Option<Vec<&'static str>>) {
            *self.says.lock().unwrap() = says;
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        async fn ips(&self) -> Vec<String> {
            let addresses = self.name.addresses().await.unwrap();
            addresses.iter().map(|address| address.ip().to_string()).collect()
        }
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_answer_is_used_without_asking_and_an_older_one_while_asking() {
        let table = Table::new(Some(vec!["10.0.0.1"]));
        assert_eq!(table.ips().await, ["10.0.0.1"]);
        table.say(Some(vec!["10.0.0.2"]));
        pass(4).await;
        assert_eq!((table.ips().await, table.asked()), (vec!["10.0.0.1".to_owned()], 1));
        pass(3).await;
        assert_eq!(table.ips().await, ["10.0.0.1"], "nobody waits for what is known");
        while table.asked() < 2 || table.name.asking.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        assert_eq!(table.ips().await, ["10.0.0.2"]);
        assert!(table.name.leads_to("10.0.0.2:80".parse().unwrap()));
        assert!(!table.name.leads_to("10.0.0.1:80".parse().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_nobody_used_for_long_is_asked_for_first() {
        let table = Table::new(Some(vec!["10.0.0.1"]));
        table.ips().await;
        table.say(Some(vec!["10.0.0.2"]));
        pass(120).await;
        assert_eq!((table.ips().await, table.asked()), (vec!["10.0.0.2".to_owned()], 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_good_answer_outlives_failures() {
        let table = Table::new(Some(vec!["10.0.0.1"]));
        table.ips().await;
        for says in [None, Some(Vec::new())] {
            table.say(says);
            pass(600).await;
            assert_eq!(table.ips().await, ["10.0.0.1"]);
        }
        assert_eq!(table.asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_never_resolved_fails_by_name_and_is_not_asked_for_at_every_request() {
        let table = Table::new(None);
        for _ in 0..10 {
            let error = table.name.addresses().await.unwrap_err();
            assert!(error.to_string().contains("host.example"), "{error}");
        }
        assert_eq!(table.asked(), 1);
        pass(2).await;
        table.say(Some(vec!["10.0.0.1"]));
        assert_eq!(table.ips().await, ["10.0.0.1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn names_whose_resolver_is_silent_do_not_keep_others_waiting_for_ever() {
        let resolver = Resolver::new(Clock::start(), CancellationToken::new(), |host, port| {
            Box::pin(async move {
                if host.starts_with("silent") {
                    std::future::pending::<()>().await;
                }
                Ok(vec![SocketAddr::new([10, 0, 0, 1].into(), port)])
            })
        });
        let silent: Vec<_> =
            (0..LOOKUPS).map(|n| Name::new(&format!("silent{n}.example"), 80, &resolver)).collect();
        for name in &silent {
            assert!(!name.leads_to("10.0.0.1:80".parse().unwrap()));
        }
        tokio::task::yield_now().await;
        let name = Name::new("host.example", 80, &resolver);
        assert!(name.addresses().await.is_err(), "all turns are taken");
        pass(LONGEST.as_secs()).await;
        assert!(name.addresses().await.is_ok());
        let error = silent[0].rotated().unwrap_err();
        let ConnectError::Unresolved(_, cause) = &error else { panic!("{error:?}") };
        assert_eq!(cause.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_wait_share_one_lookup() {
        let table = Table::new(Some(vec!["10.0.0.1"]));
        let (one, two, three) = tokio::join!(table.ips(), table.ips(), table.ips());
        assert_eq!((one.len(), two.len(), three.len(), table.asked()), (1, 1, 1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_take_turns_and_so_do_their_families() {
        let table = Table::new(Some(vec!["fd00::1", "fd00::2", "10.0.0.1", "fd00::1"]));
        assert_eq!(table.ips().await, ["fd00::1", "10.0.0.1", "fd00::2"]);
        assert_eq!(table.ips().await, ["10.0.0.1", "fd00::2", "fd00::1"]);
    }
}
