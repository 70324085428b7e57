//! When a burst of updates is over.

use std::time::Duration;

use tokio::time::Instant;

/// A burst is over when nothing came for so long.
const QUIET: Duration = Duration::from_millis(10);

/// And at the latest after this: policy must not wait for a mesh that never rests.
const LONGEST: Duration = Duration::from_millis(100);

/// Updates that are gathered into one configuration.
#[derive(Debug, Default)]
pub(super) struct Gather(Option<Burst>);

#[derive(Clone, Copy, Debug)]
struct Burst {
    begun: Instant,
    last: Instant,
}

impl Gather {
    /// An update came.
    pub(super) fn add(&mut self) {
        let now = Instant::now();
        let begun = self.0.map_or(now, |burst| burst.begun);
        self.0 = Some(Burst { begun, last: now });
    }

    /// Ends the burst.
    pub(super) fn end(&mut self) {
        self.0 = None;
    }

    /// Waits until the burst is over; without one, for ever. `more_due`: something is known to be under way, so that quiet
    /// alone does not end it. Cancel safe.
    pub(super) async fn over(&self, more_due: bool) {
        let Some(Burst { begun, last }) = self.0 else { return std::future::pending().await };
        let latest = begun + LONGEST;
        tokio::time::sleep_until(if more_due { latest } else { latest.min(last + QUIET) }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lasts(steps: u64, apart: Duration, more_due: bool) -> Duration {
        let mut gather = Gather::default();
        let begun = Instant::now();
        for step in 0..steps {
            if step > 0 && tokio::time::timeout(apart, gather.over(more_due)).await.is_ok() {
                break;
            }
            gather.add();
        }
        gather.over(more_due).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_ends_when_it_is_quiet_and_at_the_latest_after_a_tenth_of_a_second() {
        let milliseconds = Duration::from_millis;
        let rows = [
            ("one update", lasts(1, milliseconds(0), false).await, 10),
            ("three in a row", lasts(3, milliseconds(5), false).await, 20),
            ("a mesh that never rests", lasts(1000, milliseconds(5), false).await, 100),
            ("more is under way", lasts(1, milliseconds(0), true).await, 100),
        ];
        for (name, lasted, expected) in rows {
            let off = lasted.abs_diff(milliseconds(expected));
            assert!(off <= milliseconds(2), "{name}: {lasted:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_updates_there_is_nothing_to_wait_for() {
        let mut gather = Gather::default();
        gather.add();
        gather.end();
        let waited = tokio::time::timeout(Duration::from_secs(60), gather.over(false)).await;
        assert!(waited.is_err());
    }
}
