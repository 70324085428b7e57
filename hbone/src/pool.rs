//! Tunnels per key, with streams per connection capped.
//!
//! The only place of this crate that spawns: one task a connection dials it, then drives it. The tasks belong to the [`Pool`] and end
//! with it.

use crate::Io;
use crate::client::{Driver, Refused, Sender, connect_counted};
use crate::error::OpenError;
use crate::observer::Bound;
use crate::settings::Settings;
use crate::stream::OpenStream;
use crate::target::Target;
use crate::tunnel::Tunnel;
use http::HeaderMap;
use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Makes the byte stream (TCP and mTLS) for a key; the pool makes it a tunnel connection.
pub trait Connector<K>: Send + Sync + 'static {
    /// The byte stream.
    type Io: Io;
    /// Why there is none.
    type Error: Error + Send + Sync + 'static;

    /// Connects and authenticates the endpoint. Must be safe to drop: a dial that nobody waits for any more is.
    fn connect(&self, key: &K) -> impl Future<Output = Result<Self::Io, Self::Error>> + Send;

    /// When a connection should carry no new streams any more, and what runs on its streams should leave; `None`: whenever it
    /// likes. For peers whose authentication ends.
    fn leaves_at(&self, io: &Self::Io) -> Option<Instant> {
        let _ = io;
        None
    }
}

/// What makes two tunnels interchangeable. Name in it all that was authenticated: own identity, destination identity, workload; an
/// address alone may be reused by another workload.
pub trait Key: Clone + Eq + Hash + Send + Sync + Debug + 'static {}

impl<T: Clone + Eq + Hash + Send + Sync + Debug + 'static> Key for T {}

/// Bounds of a pool.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Bounds of each connection.
    pub http2: Settings,
    /// Streams that one connection carries at once, less if the peer allows less; then another is dialled. Default 100, as ztunnel.
    pub streams_per_connection: usize,
    /// How long a connection without streams is kept. Default 5 min, as ztunnel.
    pub idle: Duration,
    /// How long opening a tunnel may take, dial, retry and answer together. Default 10 s.
    pub open_timeout: Duration,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            http2: Settings::default(),
            streams_per_connection: 100,
            idle: Duration::from_secs(5 * 60),
            open_timeout: Duration::from_secs(10),
        }
    }
}

/// Client connections by key.
///
/// Per key there is one dial at a time, and all who wait share its outcome. A connection that is closed, was told to go away, refused
/// a stream or [leaves](Connector::leaves_at) gets no new streams; those it carries go on. Dropping the pool closes everything.
pub struct Pool<K, C> {
    shared: Arc<Shared<K, C>>,
    tasks: Mutex<JoinSet<()>>,
}

struct Shared<K, C> {
    connector: C,
    settings: PoolSettings,
    /// Held for a few map operations, never across an await.
    entries: Mutex<HashMap<K, Entry>>,
    next_id: AtomicU64,
    connections: AtomicUsize,
    streams: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Entry {
    /// Connections that take new streams, oldest first.
    connections: Vec<Pooled>,
    dial: Option<Dial>,
}

/// Dropping it lets the connection close once its streams have ended.
struct Pooled {
    id: u64,
    sender: Sender,
}

/// A dial under way; who waits holds a receiver, and without any it is given up.
struct Dial {
    id: u64,
    outcome: watch::Sender<Outcome>,
}

type Outcome = Option<Result<(), DialError>>;

#[derive(Clone, Debug)]
enum DialError {
    Failed(Arc<dyn Error + Send + Sync>),
    Timeout,
}

impl From<DialError> for OpenError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Failed(source) => Self::Connect(source),
            DialError::Timeout => Self::Timeout,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the dial ended without an outcome")]
struct DialVanished;

/// A place on a connection.
struct Reserved {
    id: u64,
    sender: Sender,
    slot: OpenStream,
}

impl<K: Key, C: Connector<K>> Pool<K, C> {
    /// An empty pool. Dials happen on demand.
    pub fn new(connector: C, settings: PoolSettings) -> Self {
        let shared = Shared {
            connector,
            settings,
            entries: Mutex::default(),
            next_id: AtomicU64::new(1),
            connections: AtomicUsize::new(0),
            streams: Arc::default(),
        };
        Self { shared: Arc::new(shared), tasks: Mutex::default() }
    }

    /// Opens a tunnel to `to` on a connection of `key`, dialling one if none has room. Must be called inside a tokio runtime.
    ///
    /// A stream that the peer has certainly not processed (REFUSED_STREAM, above the last id of a GOAWAY) is tried once more, on a
    /// connection dialled after the refused one.
    ///
    /// Dropping the future cancels the stream, and gives up the dial if nobody else waits for it.
    ///
    /// # Errors
    /// No connection, another status than 200, a broken stream, or [`PoolSettings::open_timeout`] passed.
    pub async fn open(&self, key: &K, to: &Target, headers: HeaderMap) -> Result<Tunnel, OpenError> {
        let opening = self.open_or_retry(key, to, headers);
        tokio::time::timeout(self.shared.settings.open_timeout, opening)
            .await
            .unwrap_or(Err(OpenError::Timeout))
    }

    /// Forgets the connections of keys that are no longer wanted: their running streams go on, then they close.
    pub fn retain(&self, keep: impl Fn(&K) -> bool) {
        self.shared.entries().retain(|key, _| keep(key));
    }

    /// Connections alive, those included that only finish their streams.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// Streams open or being opened on all connections.
    pub fn open_streams(&self) -> usize {
        self.shared.streams.load(Ordering::Acquire)
    }

    async fn open_or_retry(&self, key: &K, to: &Target, headers: HeaderMap) -> Result<Tunnel, OpenError> {
        let first = self.reserve(key, 0).await?;
        let refused_on = first.id;
        match self.attempt(key, first, to, headers.clone()).await {
            Err(Refused::NotProcessed(error)) => {
                tracing::debug!(?key, %error, "stream not processed, trying a new connection")
            }
            Err(Refused::Failed(error)) => return Err(error),
            Ok(tunnel) => return Ok(tunnel),
        }
        let second = self.reserve(key, refused_on).await?;
        self.attempt(key, second, to, headers).await.map_err(|refused| match refused {
            Refused::NotProcessed(error) => OpenError::Stream(error),
            Refused::Failed(error) => error,
        })
    }

    async fn attempt(
        &self,
        key: &K,
        on: Reserved,
        to: &Target,
        headers: HeaderMap,
    ) -> Result<Tunnel, Refused> {
        let Reserved { id, sender, slot } = on;
        let opened = sender.attempt(slot, to, headers).await;
        if matches!(opened, Err(Refused::NotProcessed(_))) {
            // It is leaving or full in a way its SETTINGS do not tell; asking it again would refuse the next one too.
            self.shared.retire(key, id);
        }
        opened
    }

    /// A place on a connection whose id is above `newer_than`.
    async fn reserve(&self, key: &K, newer_than: u64) -> Result<Reserved, OpenError> {
        loop {
            let mut outcome = {
                let mut entries = self.shared.entries();
                let entry = entries.entry(key.clone()).or_default();
                if let Some(reserved) = entry.reserve(newer_than, self.shared.settings.streams_per_connection)
                {
                    return Ok(reserved);
                }
                let crowded = entry.connections.iter().any(|pooled| pooled.id > newer_than);
                match &entry.dial {
                    Some(dial) => dial.outcome.subscribe(),
                    None => {
                        if crowded {
                            self.shared.settings.http2.observer.reached(Bound::PooledStreams);
                        }
                        self.dial(key, entry)
                    }
                }
            };
            let Ok(outcome) = outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) else {
                return Err(OpenError::Connect(Arc::new(DialVanished)));
            };
            if let Some(Err(error)) = outcome {
                return Err(error.into());
            }
        }
    }

    fn dial(&self, key: &K, entry: &mut Entry) -> watch::Receiver<Outcome> {
        let (outcome, receiver) = watch::channel(None);
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        entry.dial = Some(Dial { id, outcome: outcome.clone() });
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {} // forget the ended ones
        tasks.spawn(Arc::clone(&self.shared).dial_and_drive(key.clone(), id, outcome));
        receiver
    }
}

impl Entry {
    /// The oldest connection with room: newer ones run empty and can be evicted. Closed ones are dropped on the way.
    fn reserve(&mut self, newer_than: u64, cap: usize) -> Option<Reserved> {
        self.connections.retain(|pooled| pooled.sender.is_open());
        let has_room = |pooled: &&Pooled| {
            pooled.id > newer_than
                && pooled.sender.open_streams() < cap.min(pooled.sender.max_streams()).max(1)
        };
        self.connections.iter().find(has_room).map(|pooled| Reserved {
            id: pooled.id,
            slot: pooled.sender.reserve(),
            sender: pooled.sender.clone(),
        })
    }

    fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.dial.is_none()
    }
}

impl<K: Key, C: Connector<K>> Shared<K, C> {
    fn entries(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        lock(&self.entries)
    }

    /// The task of one connection.
    async fn dial_and_drive(self: Arc<Self>, key: K, id: u64, outcome: watch::Sender<Outcome>) {
        let dialled = {
            let mut dial = pin!(self.connect(&key));
            loop {
                tokio::select! {
                    dialled = &mut dial => break dialled,
                    () = outcome.closed() => if self.give_up(&key, id, &outcome) { return },
                }
            }
        };
        match dialled {
            Ok((sender, driver)) => {
                let _alive = Counted::new(&self.connections);
                self.enter(&key, Pooled { id, sender });
                outcome.send_replace(Some(Ok(())));
                drop(outcome);
                self.drive(&key, id, driver).await;
            }
            Err(error) => {
                self.end_dial(&key, id);
                outcome.send_replace(Some(Err(error)));
            }
        }
    }

    async fn connect(&self, key: &K) -> Result<(Sender, Driver<C::Io>), DialError> {
        let dial = async {
            let io = self.connector.connect(key).await.map_err(|error| DialError::Failed(Arc::new(error)))?;
            let leaves_at = self.connector.leaves_at(&io);
            let (sender, driver) = connect_counted(io, &self.settings.http2, Arc::clone(&self.streams))
                .await
                .map_err(|error| DialError::Failed(Arc::new(error)))?;
            Ok((sender.leaving_at(leaves_at), driver))
        };
        tokio::time::timeout(self.settings.open_timeout, dial).await.unwrap_or(Err(DialError::Timeout))
    }

    /// Drives a connection to its end; without streams for [`PoolSettings::idle`] it is let go.
    async fn drive(&self, key: &K, id: u64, driver: Driver<C::Io>) {
        let mut run = pin!(driver.run());
        let mut check_at = Some(Instant::now() + self.settings.idle);
        let ended = loop {
            tokio::select! {
                ended = &mut run => break ended,
                () = sleep_until(check_at) => check_at = self.evict_if_idle(key, id),
            }
        };
        if let Err(error) = ended {
            tracing::debug!(?key, %error, "upstream tunnel connection broke");
        }
        self.retire(key, id);
    }

    /// When to look again; `None` if the connection is out of the pool.
    fn evict_if_idle(&self, key: &K, id: u64) -> Option<Instant> {
        let mut entries = self.entries();
        let pooled = entries.get(key)?.connections.iter().find(|pooled| pooled.id == id)?;
        let now = Instant::now();
        let idle_until = pooled.sender.load().last_end() + self.settings.idle;
        if pooled.sender.open_streams() > 0 {
            return Some(now + self.settings.idle);
        }
        if idle_until > now {
            return Some(idle_until);
        }
        remove(&mut entries, key, id);
        self.settings.http2.observer.reached(Bound::PooledIdle);
        None
    }

    /// Makes a dialled connection usable, unless `retain` has dropped its dial meanwhile.
    fn enter(&self, key: &K, pooled: Pooled) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(key) else { return };
        if entry.dial.take_if(|dial| dial.id == pooled.id).is_some() {
            entry.connections.push(pooled);
        }
    }

    /// Ends a dial that nobody waits for. Whoever joins does so under the same lock.
    fn give_up(&self, key: &K, id: u64, outcome: &watch::Sender<Outcome>) -> bool {
        let mut entries = self.entries();
        if outcome.receiver_count() > 0 {
            return false;
        }
        end_dial(&mut entries, key, id);
        true
    }

    fn end_dial(&self, key: &K, id: u64) {
        end_dial(&mut self.entries(), key, id);
    }

    /// No new streams on this connection; it closes when its streams have ended.
    fn retire(&self, key: &K, id: u64) {
        remove(&mut self.entries(), key, id);
    }
}

fn end_dial<K: Key>(entries: &mut HashMap<K, Entry>, key: &K, id: u64) {
    if let Some(entry) = entries.get_mut(key) {
        entry.dial.take_if(|dial| dial.id == id);
        forget_if_empty(entries, key);
    }
}

fn remove<K: Key>(entries: &mut HashMap<K, Entry>, key: &K, id: u64) {
    if let Some(entry) = entries.get_mut(key) {
        entry.connections.retain(|pooled| pooled.id != id);
        forget_if_empty(entries, key);
    }
}

fn forget_if_empty<K: Key>(entries: &mut HashMap<K, Entry>, key: &K) {
    if entries.get(key).is_some_and(Entry::is_empty) {
        entries.remove(key);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A panic elsewhere leaves these maps whole: each change to them is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts one until dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
