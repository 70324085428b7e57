//! Metrics by label set, bounded: a set that nobody touches for a while is forgotten, and what is beyond the bound shares
//! one set. One look-up serves several metrics of the same labels.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

/// A label set with a stand-in for those beyond the bound of [`crate::limits::Limits::label_sets`].
pub(super) trait Bounded:
    EncodeLabelSet + Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static
{
    /// The set that takes what is beyond the bound.
    fn other() -> Self;
}

/// How many label sets a metric has, and for how long an unused one is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Label sets of one family.
    pub(super) most: usize,
    /// A set that was not touched for so long is left out after the scrape that shows it last.
    pub(super) idle: Duration,
}

/// Where a full family looks for idle sets, it does so at most this often: the look costs a pass over all.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// `M` holds the metrics of one label set.
///
/// Each request hashes some twenty names here. What clients choose of them meets a seeded hash, and `most` bounds how many collide.
#[derive(Debug)]
pub(super) struct Sets<L, M> {
    sets: RwLock<HashMap<L, Kept<M>, RandomState>>,
    bounds: Bounds,
    began: Instant,
    /// Milliseconds after `began` of the last look for idle sets.
    looked: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept<M> {
    metrics: M,
    /// Milliseconds after [`Sets::began`].
    touched: AtomicU64,
}

impl<L: Bounded, M: Default + fmt::Debug + Send + Sync + 'static> Sets<L, M> {
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { sets: RwLock::default(), bounds, began: Instant::now(), looked: AtomicU64::new(0) })
    }

    /// Counts; `false` when the set was beyond the bound.
    pub(super) fn with(&self, labels: &L, count: impl FnOnce(&M)) -> bool {
        let now = self.now();
        if let Some(kept) = self.read().get(labels) {
            kept.touched.store(now, Ordering::Relaxed);
            count(&kept.metrics);
            return true;
        }
        self.make_room(now);
        let mut sets = self.write();
        let fits = sets.len() < self.bounds.most || sets.contains_key(labels);
        let labels = if fits { labels.clone() } else { L::other() };
        let kept = sets.entry(labels).or_default();
        kept.touched.store(now, Ordering::Relaxed);
        count(&kept.metrics);
        fits
    }

    /// Forgets the sets that were idle for too long. Their counters begin at zero when they come again, which Prometheus
    /// takes for a restart.
    pub(super) fn forget_idle(&self) {
        let now = self.now();
        self.looked.store(now, Ordering::Relaxed);
        let idle = u64::try_from(self.bounds.idle.as_millis()).unwrap_or(u64::MAX);
        let fresh = |kept: &Kept<M>| now.saturating_sub(kept.touched.load(Ordering::Relaxed)) < idle;
        if self.read().values().all(fresh) {
            return;
        }
        self.write().retain(|_, kept| fresh(kept));
    }

    fn make_room(&self, now: u64) {
        let full = self.read().len() >= self.bounds.most;
        let since = now.saturating_sub(self.looked.load(Ordering::Relaxed));
        if full && u128::from(since) >= LOOK_AGAIN.as_millis() {
            self.forget_idle();
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    // A panic while counting leaves nothing half done that another thread could not go on with.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<L, Kept<M>, RandomState>> {
        self.sets.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<L, Kept<M>, RandomState>> {
        self.sets.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One metric of a label set; not shown until it is counted for the first time.
#[derive(Debug)]
pub(super) struct Cell<T>(OnceLock<T>);

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Make> Cell<T> {
    pub(super) fn get(&self) -> &T {
        self.0.get_or_init(T::make)
    }
}

/// A metric that knows how it begins.
pub(super) trait Make {
    fn make() -> Self;
}

/// One metric of all label sets, under its own name.
struct View<L, M, T> {
    sets: Arc<Sets<L, M>>,
    pick: fn(&M) -> &Cell<T>,
}

impl<L, M, T> fmt::Debug for View<L, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").finish_non_exhaustive()
    }
}

impl<L, M, T> EncodeMetric for View<L, M, T>
where
    L: Bounded,
    M: Default + fmt::Debug + Send + Sync + 'static,
    T: EncodeMetric + TypedMetric,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (labels, kept) in self.sets.read().iter() {
            if let Some(metric) = (self.pick)(&kept.metrics).0.get() {
                metric.encode(encoder.encode_family(labels)?)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        T::TYPE
    }
}

/// Shows one metric of `sets` as `name`.
pub(super) fn show<L, M, T>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    sets: &Arc<Sets<L, M>>,
    pick: fn(&M) -> &Cell<T>,
) where
    L: Bounded,
    M: Default + fmt::Debug + Send + Sync + 'static,
    T: EncodeMetric + TypedMetric + Send + Sync + 'static,
{
    registry.register(name, help, View { sets: Arc::clone(sets), pick });
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::encoding::{EncodeLabel, LabelSetEncoder};
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Name(&'static str);

    impl Bounded for Name {
        fn other() -> Self {
            Self("other")
        }
    }

    impl EncodeLabelSet for Name {
        fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
            ("name", self.0).encode(encoder.encode_label())
        }
    }

    #[derive(Debug, Default)]
    struct Both {
        first: Cell<Counter>,
        second: Cell<Counter>,
    }

    fn sets(most: usize, idle: Duration) -> (Arc<Sets<Name, Both>>, Registry) {
        let sets = Sets::new(Bounds { most, idle });
        let mut registry = Registry::default();
        show(&mut registry, "first", "", &sets, |both: &Both| &both.first);
        show(&mut registry, "second", "", &sets, |both: &Both| &both.second);
        (sets, registry)
    }

    fn first(both: &Both) {
        both.first.get().inc();
    }

    fn shown(registry: &Registry) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        let mut lines: Vec<_> =
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn metrics_of_the_same_labels_are_found_at_once_and_shown_under_their_names() {
        let (sets, registry) = sets(9, Duration::MAX);
        assert!(sets.with(&Name("a"), |both| {
            first(both);
            both.second.get().inc_by(2);
        }));
        assert!(sets.with(&Name("b"), first));
        let want =
            [r#"first_total{name="a"} 1"#, r#"first_total{name="b"} 1"#, r#"second_total{name="a"} 2"#];
        assert_eq!(shown(&registry), want);
    }

    #[test]
    fn what_is_beyond_the_bound_shares_one_set() {
        let (sets, registry) = sets(1, Duration::MAX);
        assert!(sets.with(&Name("a"), first));
        assert!(!sets.with(&Name("b"), first));
        assert!(!sets.with(&Name("c"), first));
        assert!(sets.with(&Name("a"), first));
        assert_eq!(shown(&registry), [r#"first_total{name="a"} 2"#, r#"first_total{name="other"} 2"#]);
    }

    #[test]
    fn an_idle_set_is_forgotten_and_begins_again_at_zero() {
        let (sets, registry) = sets(9, Duration::ZERO);
        sets.with(&Name("a"), first);
        sets.with(&Name("a"), first);
        sets.forget_idle();
        assert_eq!(shown(&registry), [""; 0]);
        sets.with(&Name("a"), first);
        assert_eq!(shown(&registry), [r#"first_total{name="a"} 1"#]);
    }

    #[test]
    fn a_set_in_use_is_kept() {
        let (sets, registry) = sets(9, Duration::from_secs(3600));
        sets.with(&Name("a"), first);
        sets.forget_idle();
        assert_eq!(shown(&registry), [r#"first_total{name="a"} 1"#]);
    }
}
