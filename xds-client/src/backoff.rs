//! How long to wait before the next attempt.

use std::time::Duration;

/// Doubles from attempt to attempt up to a bound; each wait is shortened by up to a half at random, so that the clients of
/// a control plane that came back don't come all at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
    random: fastrand::Rng,
}

impl Backoff {
    /// Waits from `first` to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first.min(longest), random: fastrand::Rng::new() }
    }

    /// The wait before the next attempt.
    pub fn delay(&mut self) -> Duration {
        let full = self.next;
        self.next = full.saturating_mul(2).min(self.longest);
        full.mul_f64(1.0 - self.random.f64() / 2.0)
    }

    /// Something was answered: the next failure is a first one.
    pub fn reset(&mut self) {
        self.next = self.first.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(15);

    #[test]
    fn waits_double_up_to_the_bound_and_lose_at_most_a_half() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        let mut full = FIRST;
        for attempt in 0..40 {
            let delay = backoff.delay();
            assert!(delay > full / 2 - Duration::from_micros(1) && delay <= full, "{attempt}: {delay:?}");
            full = (full * 2).min(LONGEST);
        }
        assert_eq!(full, LONGEST);
        backoff.reset();
        assert!(backoff.delay() <= FIRST);
    }

    #[test]
    fn clients_do_not_come_all_at_once() {
        let first = |seed| {
            let mut backoff = Backoff::new(FIRST, LONGEST);
            backoff.random.seed(seed);
            backoff.delay()
        };
        let delays: std::collections::HashSet<Duration> = (0..100).map(first).collect();
        assert!(delays.len() > 90, "{}", delays.len());
    }
}
