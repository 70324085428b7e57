//! Keys that are fetched: at need, once for all who wait, and again before they end. Without keys nothing is verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use waypoint_model::ClusterKey;

use super::fetch::{FetchError, fetch};
use super::keys::KeySet;
use super::rejection::Rejection;
use crate::upstream::{Cluster, Upstreams};

/// After a failed fetch, none is tried for this long.
const RETRY: Duration = Duration::from_secs(1);

/// Where keys are, and for how long they are used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) uri: String,
    pub(crate) cluster: Option<ClusterKey>,
    pub(crate) timeout: Duration,
    pub(crate) cache: Duration,
}

/// The way to a source's cluster.
pub(crate) struct Way {
    pub(crate) upstreams: Arc<Upstreams>,
    pub(crate) cluster: Arc<Cluster>,
}

/// The keys of one source. They outlive a snapshot.
pub(crate) struct RemoteKeys {
    source: Source,
    /// To the cluster of the newest snapshot; `None` where it names none, or one that nobody delivered.
    way: ArcSwapOption<Way>,
    newest: ArcSwapOption<Fetched>,
    /// Held while fetching; when the last fetch failed.
    fetching: Mutex<Option<Instant>>,
    refreshing: AtomicBool,
    /// Owns the fetches that no request waits for. Each ends within its timeout.
    background: TaskTracker,
}

struct Fetched {
    keys: Arc<KeySet>,
    at: Instant,
}

impl RemoteKeys {
    pub(crate) fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            way: ArcSwapOption::empty(),
            newest: ArcSwapOption::empty(),
            fetching: Mutex::new(None),
            refreshing: AtomicBool::new(false),
            background: TaskTracker::new(),
        })
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// From now on they are fetched this way (called when a snapshot was built).
    pub(crate) fn go(&self, way: Option<Way>) {
        self.way.store(way.map(Arc::new));
    }

    /// The keys, fetched if there are none that may still be used. Cancel safe.
    ///
    /// # Errors
    /// [`Rejection::Fetch`].
    pub(super) async fn get(self: &Arc<Self>) -> Result<Arc<KeySet>, Rejection> {
        if let Some((keys, age)) = self.held() {
            if age > self.source.cache.mul_f32(0.8) {
                self.refresh();
            }
            return Ok(keys);
        }
        let mut failed = self.fetching.lock().await;
        if let Some((keys, _)) = self.held() {
            return Ok(keys); // Fetched while this one waited.
        }
        self.fetch_once(&mut failed).await
    }

    /// The keys that are here already.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.held().map(|(keys, _)| keys)
    }

    fn held(&self) -> Option<(Arc<KeySet>, Duration)> {
        let newest = self.newest.load();
        let (keys, age) = newest.as_ref().map(|fetched| (Arc::clone(&fetched.keys), fetched.at.elapsed()))?;
        (age < self.source.cache).then_some((keys, age))
    }

    /// Fetches while the keys that are here go on being used.
    fn refresh(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        self.background.spawn(async move {
            let mut failed = this.fetching.lock().await;
            // Its failure is logged; the keys that are here last on.
            let _fetched = this.fetch_once(&mut failed).await;
            this.refreshing.store(false, Ordering::Relaxed);
        });
    }

    async fn fetch_once(&self, failed: &mut Option<Instant>) -> Result<Arc<KeySet>, Rejection> {
        if failed.is_some_and(|at| at.elapsed() < RETRY) {
            return Err(Rejection::Fetch);
        }
        let timeout = self.source.timeout;
        let way = self.way.load_full();
        let fetched = tokio::time::timeout(timeout, fetch(&self.source, way.as_deref())).await;
        match fetched.unwrap_or(Err(FetchError::Timeout(timeout))) {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.newest.store(Some(Arc::new(Fetched { keys: Arc::clone(&keys), at: Instant::now() })));
                *failed = None;
                Ok(keys)
            }
            Err(error) => {
                let cause = causes(&error);
                tracing::warn!(uri = self.source.uri, %error, cause, "JWKS cannot be fetched");
                *failed = Some(Instant::now());
                Err(Rejection::Fetch)
            }
        }
    }
}

/// What an error came from, outermost first.
fn causes(error: &FetchError) -> Option<String> {
    let first = std::error::Error::source(error);
    let all: Vec<String> =
        std::iter::successors(first, |cause| cause.source()).map(ToString::to_string).collect();
    (!all.is_empty()).then(|| all.join(": "))
}
