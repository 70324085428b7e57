//! What is known of one endpoint's health: what runs on it, what failed, and until when it is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::terms::Taken;

/// Longest ejection by the process' settings, in first ejections.
const MAX_EJECTION_FACTOR: u32 = 10;

/// Longest ejection by a cluster's settings, unless its first is longer (Envoy `max_ejection_time`).
const MAX_EJECTION: Duration = Duration::from_secs(300);

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

/// When an endpoint is ejected (Envoy's outlier detection). Counts are of outcomes in a row; 0 never ejects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ejection {
    /// 5xx answers.
    pub(super) server: u32,
    /// 502, 503 and 504.
    pub(super) gateway: u32,
    /// Failures before an answer; `None`: counted as both of the others.
    pub(super) local: Option<u32>,
    /// First ejection.
    pub(super) time: Duration,
    /// How the next ones grow.
    pub(super) growth: Growth,
    /// At most this share of a cluster's endpoints is ejected, percent.
    pub(super) most_percent: u32,
}

/// How ejections grow when they repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// Doubled each time, up to ten times the first: the process' settings.
    Double,
    /// The first times how many there were, up to five minutes: a cluster's settings (Envoy).
    Times,
}

impl Ejection {
    /// How long the next one lasts, after so many `before`.
    fn length(&self, before: u32) -> Duration {
        match self.growth {
            Growth::Double => self.time.saturating_mul(2_u32.saturating_pow(before).min(MAX_EJECTION_FACTOR)),
            Growth::Times => {
                self.time.saturating_mul(before.saturating_add(1)).min(MAX_EJECTION.max(self.time))
            }
        }
    }
}

/// What came of an attempt, as ejection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer that is no 5xx, or a connection.
    Fine,
    /// A 5xx that is none of the next.
    ServerError,
    /// 502, 503 or 504: what gateways say of a server that is not well.
    GatewayError,
    /// No answer: connect failure, reset or timeout.
    NoAnswer,
}

/// Counters of one endpoint. All atomics: this stands on the way of every request.
#[derive(Debug, Default)]
pub(super) struct Health {
    active: AtomicUsize,
    connections: AtomicUsize,
    server: AtomicU32,
    gateway: AtomicU32,
    local: AtomicU32,
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
        take(&self.active, max).then(|| Active { health: Arc::clone(self), _within: None })
    }

    /// Counts one more connection, unless `max` are open already.
    pub(super) fn connect(self: &Arc<Self>, max: usize) -> Option<Slot> {
        take(&self.connections, max).then(|| Slot { health: Arc::clone(self), within: None })
    }

    /// Open connections.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    /// Notes an outcome; whether the endpoint has to be ejected. Failures of what still ran when it was ejected do not prolong
    /// that. A fine one that comes a whole ejection time after the last ejection's end forgets that there were any.
    pub(super) fn note(&self, outcome: Outcome, now: u64, rule: &Ejection) -> bool {
        match outcome {
            Outcome::Fine => {
                self.forget([&self.server, &self.gateway, &self.local]);
                self.calm(now, rule);
                false
            }
            _failed if self.is_ejected(now) => false,
            Outcome::ServerError => {
                self.forget([&self.gateway, &self.local]);
                reaches(&self.server, rule.server)
            }
            Outcome::GatewayError => {
                self.forget([&self.local]);
                reaches(&self.server, rule.server) | reaches(&self.gateway, rule.gateway)
            }
            Outcome::NoAnswer => match rule.local {
                Some(local) => reaches(&self.local, local),
                None => reaches(&self.server, rule.server) | reaches(&self.gateway, rule.gateway),
            },
        }
    }

    /// Read first: a store by every request would bounce the cache line between all workers.
    fn forget<const N: usize>(&self, counters: [&AtomicU32; N]) {
        for counter in counters {
            if counter.load(Ordering::Relaxed) != 0 {
                counter.store(0, Ordering::Relaxed);
            }
        }
    }

    fn calm(&self, now: u64, rule: &Ejection) {
        if self.ejections.load(Ordering::Relaxed) == 0 {
            return;
        }
        let quiet_since = self.ejected_until.load(Ordering::Relaxed).saturating_add(millis(rule.time));
        if now >= quiet_since {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// Leaves it alone for a time, and says until when.
    pub(super) fn eject(&self, now: u64, rule: &Ejection) -> u64 {
        self.forget([&self.server, &self.gateway, &self.local]);
        let before = self.ejections.fetch_add(1, Ordering::Relaxed);
        let until = now.saturating_add(millis(rule.length(before)));
        self.ejected_until.store(until, Ordering::Relaxed);
        until
    }
}

/// Counts one more; whether that makes `most`.
fn reaches(counter: &AtomicU32, most: u32) -> bool {
    most != 0 && counter.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= most
}

/// Counts one more, unless there are `max`.
pub(super) fn take(counter: &AtomicUsize, max: usize) -> bool {
    let more = |count: usize| (count < max).then_some(count.saturating_add(1));
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// One running request or stream; counted until it is dropped.
pub(super) struct Active {
    health: Arc<Health>,
    _within: Option<Taken>,
}

impl Active {
    /// Counted in its cluster, too.
    pub(super) fn within(mut self, taken: Option<Taken>) -> Self {
        self._within = taken;
        self
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.health.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open connection; counted until it is dropped.
pub(super) struct Slot {
    health: Arc<Health>,
    within: Option<Taken>,
}

impl Slot {
    /// Counted in its cluster, too.
    pub(super) fn within(mut self, taken: Option<Taken>) -> Self {
        self.within = taken;
        self
    }

    /// It may be used by another now: whoever waits in its cluster looks again.
    pub(super) fn freed(&self) {
        if let Some(taken) = &self.within {
            taken.freed();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.health.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Ejection = Ejection {
        server: 0,
        gateway: 3,
        local: None,
        time: Duration::from_secs(30),
        growth: Growth::Double,
        most_percent: 100,
    };

    /// As many times; ejected as soon as the rule says so.
    fn see(health: &Health, outcome: Outcome, now: u64, times: usize, rule: &Ejection) {
        for _ in 0..times {
            if health.note(outcome, now, rule) {
                health.eject(now, rule);
            }
        }
    }

    #[test]
    fn only_consecutive_failures_eject() {
        let health = Health::default();
        see(&health, Outcome::NoAnswer, 1, 2, &RULE);
        see(&health, Outcome::Fine, 1, 1, &RULE);
        see(&health, Outcome::GatewayError, 1, 2, &RULE);
        assert!(!health.is_ejected(1));
        see(&health, Outcome::NoAnswer, 1, 1, &RULE);
        assert!(health.is_ejected(1));
        assert!(health.is_ejected(30_000));
        assert!(!health.is_ejected(30_001));
    }

    #[test]
    fn repeated_ejections_grow_as_the_rule_says_and_are_forgotten_in_peace() {
        let times = Ejection { growth: Growth::Times, ..RULE };
        let rows: [(Ejection, &[u64]); 2] = [
            (RULE, &[30, 60, 120, 240, 300, 300]),
            (times, &[30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300]),
        ];
        for (rule, lengths) in rows {
            let health = Health::default();
            let mut now = 1;
            for seconds in lengths {
                see(&health, Outcome::NoAnswer, now, 3, &rule);
                assert!(health.is_ejected(now + seconds * 1_000 - 1), "{seconds}");
                now += seconds * 1_000;
                assert!(!health.is_ejected(now), "{seconds}");
                see(&health, Outcome::Fine, now, 1, &rule);
            }
            see(&health, Outcome::Fine, now + 30_000, 1, &rule);
            see(&health, Outcome::NoAnswer, now + 30_000, 3, &rule);
            assert!(!health.is_ejected(now + 60_000));
        }
    }

    #[test]
    fn failures_while_ejected_do_not_prolong_it() {
        let health = Health::default();
        see(&health, Outcome::NoAnswer, 1, 30, &RULE);
        assert!(!health.is_ejected(30_001));
    }

    #[test]
    fn zero_failures_means_never_ejected() {
        let health = Health::default();
        see(&health, Outcome::NoAnswer, 1, 100, &Ejection { gateway: 0, ..RULE });
        assert!(!health.is_ejected(1));
    }

    #[test]
    fn each_kind_of_failure_counts_where_the_rule_says() {
        use Outcome::{Fine, GatewayError, NoAnswer, ServerError};
        let rule = Ejection { server: 3, gateway: 2, ..RULE };
        let split = Ejection { local: Some(2), ..rule };
        let no_gateway = Ejection { gateway: 0, ..rule };
        let rows: [(&str, Ejection, &[Outcome], bool); 9] = [
            ("any 5xx", rule, &[ServerError, ServerError, ServerError], true),
            ("gateway errors", rule, &[GatewayError, GatewayError], true),
            ("a 500 between them", rule, &[GatewayError, ServerError, Fine, GatewayError], false),
            ("a gateway error is a 5xx", no_gateway, &[ServerError, GatewayError, ServerError], true),
            ("no answer is one of both", rule, &[GatewayError, NoAnswer], true),
            ("apart", split, &[NoAnswer, NoAnswer], true),
            ("an answer ends what is counted apart", split, &[NoAnswer, ServerError, NoAnswer], false),
            ("apart it is no 5xx", split, &[ServerError, NoAnswer, ServerError], false),
            ("not looked at", Ejection { server: 0, ..split }, &[ServerError; 9], false),
        ];
        for (name, rule, outcomes, ejects) in rows {
            let health = Health::default();
            outcomes.iter().for_each(|outcome| see(&health, *outcome, 1, 1, &rule));
            assert_eq!(health.is_ejected(1), ejects, "{name}");
        }
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
