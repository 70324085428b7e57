//! What is known of one endpoint's health: what runs on it, what failed, and until when it is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Longest ejection, in first ejections.
const MAX_EJECTION_FACTOR: u32 = 10;

/// Milliseconds since the data plane was made, so that a moment fits an atomic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        millis(self.0.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When an endpoint is ejected (Envoy's outlier detection, consecutive gateway and local-origin failures).
#[derive(Clone, Copy, Debug)]
pub(super) struct Ejection {
    /// Consecutive failures that eject; 0 never does.
    pub(super) failures: u32,
    /// First ejection; the next ones double, up to ten times it.
    pub(super) time: Duration,
}

/// Counters of one endpoint. All atomics: this stands on the way of every request.
#[derive(Debug, Default)]
pub(super) struct Health {
    active: AtomicUsize,
    connections: AtomicUsize,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// In the clock's milliseconds; 0: never ejected.
    ejected_until: AtomicU64,
}

impl Health {
    /// Requests and opaque streams that run.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts one more request or stream, unless `max` run already.
    pub(super) fn start(self: &Arc<Self>, max: usize) -> Option<Active> {
        take(&self.active, max).then(|| Active(Arc::clone(self)))
    }

    /// Counts one more connection, unless `max` are open already.
    pub(super) fn connect(self: &Arc<Self>, max: usize) -> Option<Slot> {
        take(&self.connections, max).then(|| Slot(Arc::clone(self)))
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    /// Notes a failure. Failures of what still ran when it was ejected do not prolong that.
    pub(super) fn failed(&self, now: u64, ejection: Ejection) {
        if ejection.failures == 0 || self.is_ejected(now) {
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < ejection.failures {
            return;
        }
        self.failures.store(0, Ordering::Relaxed);
        let before = self.ejections.fetch_add(1, Ordering::Relaxed);
        let factor = 2_u32.saturating_pow(before).min(MAX_EJECTION_FACTOR);
        let until = now.saturating_add(millis(ejection.time.saturating_mul(factor)));
        self.ejected_until.store(until, Ordering::Relaxed);
    }

    /// Notes a success. One that comes a whole ejection time after the last ejection's end forgets that there were any.
    pub(super) fn succeeded(&self, now: u64, ejection: Ejection) {
        // Read first: a store by every request would bounce the cache line between all workers.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        let quiet_since = self.ejected_until.load(Ordering::Relaxed).saturating_add(millis(ejection.time));
        if self.ejections.load(Ordering::Relaxed) != 0 && now >= quiet_since {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }
}

fn take(counter: &AtomicUsize, max: usize) -> bool {
    let more = |count: usize| (count < max).then_some(count.saturating_add(1));
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// One running request or stream; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Active(Arc<Health>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open connection; counted until it is dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Health>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Ejection = Ejection { failures: 3, time: Duration::from_secs(30) };

    fn fail(health: &Health, now: u64, times: usize) {
        (0..times).for_each(|_| health.failed(now, RULE));
    }

    #[test]
    fn only_consecutive_failures_eject() {
        let health = Health::default();
        fail(&health, 1, 2);
        health.succeeded(1, RULE);
        fail(&health, 1, 2);
        assert!(!health.is_ejected(1));
        fail(&health, 1, 1);
        assert!(health.is_ejected(1));
        assert!(health.is_ejected(30_000));
        assert!(!health.is_ejected(30_001));
    }

    #[test]
    fn repeated_ejections_double_up_to_ten_times_and_are_forgotten_in_peace() {
        let health = Health::default();
        let mut now = 1;
        for seconds in [30, 60, 120, 240, 300, 300] {
            fail(&health, now, 3);
            assert!(health.is_ejected(now + seconds * 1_000 - 1), "{seconds}");
            now += seconds * 1_000;
            assert!(!health.is_ejected(now), "{seconds}");
            health.succeeded(now, RULE);
        }
        health.succeeded(now + 30_000, RULE);
        fail(&health, now + 30_000, 3);
        assert!(!health.is_ejected(now + 60_000));
    }

    #[test]
    fn failures_while_ejected_do_not_prolong_it() {
        let health = Health::default();
        fail(&health, 1, 30);
        assert!(!health.is_ejected(30_001));
    }

    #[test]
    fn zero_failures_means_never_ejected() {
        let health = Health::default();
        (0..100).for_each(|_| health.failed(1, Ejection { failures: 0, ..RULE }));
        assert!(!health.is_ejected(1));
    }

    #[test]
    fn counts_stop_at_their_bound_and_come_back() {
        let health = Arc::new(Health::default());
        let first = health.start(2);
        let second = health.start(2);
        assert!(first.is_some() && second.is_some() && health.start(2).is_none());
        drop(first);
        assert_eq!(health.active(), 1);
        assert!(health.start(2).is_some());
        let slot = health.connect(1);
        assert!(slot.is_some() && health.connect(1).is_none());
    }
}
