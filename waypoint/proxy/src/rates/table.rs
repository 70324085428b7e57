//! Quotas in use: how full each bucket is, and how many requests run. The clock is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use waypoint_model::{Quota, TokenBucket};

use crate::telemetry::Hits;

/// Independent parts, so that requests seldom wait for each other.
const SHARDS: usize = 16;
/// A full part looks for quotas that it may forget no more often than this.
const SWEEP: Duration = Duration::from_millis(50);
/// When a request that found too many others running may come again; nobody can know.
const RUNNING_WAIT: Duration = Duration::from_secs(1);

/// Names one quota: a hash under a key of this process, of the limit and of what is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct QuotaKey(pub(super) u128);

/// The quota is used up; for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UsedUp {
    pub(super) wait: Duration,
}

/// Quotas of all limits, at most `rate_buckets`.
///
/// A quota that is whole again is as good as one that never was, so such are forgotten where room is needed. Where all are in
/// use, further descriptions of a limit share one quota: whoever makes up names wins nothing by it.
pub(super) struct Table {
    shards: [Mutex<Shard>; SHARDS],
    most: usize,
    hits: Hits,
}

#[derive(Default)]
struct Shard {
    quotas: HashMap<QuotaKey, State>,
    swept: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// When the bucket is full again, on the clock of the process.
    full_at: Duration,
    running: u32,
}

impl Table {
    pub(super) fn new(most: usize, hits: Hits) -> Self {
        Self { shards: Default::default(), most: most.div_ceil(SHARDS), hits }
    }

    /// Takes one from a quota; answers which was taken: the one asked for, or `shared` where there is no room for it.
    ///
    /// # Errors
    /// [`UsedUp`]; then nothing is taken.
    pub(super) fn take(
        &self,
        key: QuotaKey,
        shared: QuotaKey,
        quota: Quota,
        now: Duration,
    ) -> Result<QuotaKey, UsedUp> {
        let mut shard = self.shard(key);
        if let Some(state) = shard.quotas.get_mut(&key) {
            return state.take(quota, now).map(|()| key);
        }
        if shard.has_room(self.most, now) {
            return shard.quotas.entry(key).or_default().take(quota, now).map(|()| key);
        }
        drop(shard);
        self.hits.reached("rate_buckets");
        // One for each limit at most, so beyond the bound by no more than there are limits.
        self.shard(shared).quotas.entry(shared).or_default().take(quota, now).map(|()| shared)
    }

    /// Gives back what was taken: a token of a request that was refused after all, or the place of one that ended.
    pub(super) fn give_back(&self, key: QuotaKey, quota: Quota) {
        let mut shard = self.shard(key);
        let Some(state) = shard.quotas.get_mut(&key) else { return };
        match quota {
            Quota::Rate(bucket) => state.full_at = state.full_at.saturating_sub(cost(bucket)),
            Quota::Concurrent(_) => state.running = state.running.saturating_sub(1),
        }
    }

    /// Quotas remembered.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).quotas.len()).sum()
    }

    fn shard(&self, key: QuotaKey) -> MutexGuard<'_, Shard> {
        let [first, ..] = &self.shards;
        let at = usize::try_from(key.0 % SHARDS as u128).unwrap_or_default();
        lock(self.shards.get(at).unwrap_or(first))
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn has_room(&mut self, most: usize, now: Duration) -> bool {
        if self.quotas.len() >= most && now.saturating_sub(self.swept) >= SWEEP {
            self.quotas.retain(|_, state| state.running > 0 || state.full_at > now);
            self.swept = now;
        }
        self.quotas.len() < most
    }
}

impl State {
    fn take(&mut self, quota: Quota, now: Duration) -> Result<(), UsedUp> {
        match quota {
            Quota::Rate(bucket) => self.take_token(bucket, now),
            Quota::Concurrent(most) if self.running >= most => Err(UsedUp { wait: RUNNING_WAIT }),
            Quota::Concurrent(_) => {
                self.running += 1;
                Ok(())
            }
        }
    }

    /// The bucket as one number: when it will be full. A token is there if that is less than a whole filling away.
    fn take_token(&mut self, bucket: TokenBucket, now: Duration) -> Result<(), UsedUp> {
        let cost = cost(bucket);
        let next = self.full_at.max(now).saturating_add(cost);
        let whole = cost.saturating_mul(bucket.most);
        let ahead = next.saturating_sub(now);
        if ahead > whole {
            return Err(UsedUp { wait: ahead.saturating_sub(whole) });
        }
        self.full_at = next;
        Ok(())
    }
}

/// How long one token takes to come.
fn cost(bucket: TokenBucket) -> Duration {
    (bucket.interval / bucket.fill.max(1)).max(Duration::from_nanos(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: QuotaKey = QuotaKey(0);

    fn table(most: usize) -> Table {
        Table::new(most, Hits::default())
    }

    fn rate(most: u32, fill: u32, interval: Duration) -> Quota {
        Quota::Rate(TokenBucket { most, fill, interval })
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn ten_a_second_lets_ten_pass_at_once_and_the_eleventh_after_a_tenth() {
        let (table, quota) = (table(100), rate(10, 10, at(1_000)));
        let take = |key, millis| table.take(QuotaKey(key), SHARED, quota, at(millis));
        for _ in 0..10 {
            assert_eq!(take(1, 5_000), Ok(QuotaKey(1)));
        }
        assert_eq!(take(1, 5_000), Err(UsedUp { wait: at(100) }));
        assert_eq!(take(1, 5_040), Err(UsedUp { wait: at(60) }));
        assert_eq!(take(2, 5_040), Ok(QuotaKey(2)), "others are not concerned");
        assert_eq!(take(1, 5_100), Ok(QuotaKey(1)));
        assert_eq!(take(1, 5_100), Err(UsedUp { wait: at(100) }));
        // However long it rested, it holds no more than it can.
        assert_eq!((0..20).filter(|_| take(1, 60_000).is_ok()).count(), 10);
    }

    #[test]
    fn a_refused_request_costs_nothing_and_a_token_can_be_given_back() {
        let (table, quota) = (table(100), rate(1, 1, at(1_000)));
        let take = |millis| table.take(QuotaKey(1), SHARED, quota, at(millis));
        assert!(take(0).is_ok());
        assert!((0..5).all(|_| take(0) == Err(UsedUp { wait: at(1_000) })));
        table.give_back(QuotaKey(1), quota);
        assert!(take(0).is_ok());
    }

    #[test]
    fn so_many_run_at_once_and_no_more() {
        let (table, quota) = (table(100), Quota::Concurrent(2));
        let take = || table.take(QuotaKey(1), SHARED, quota, at(0));
        assert!(take().is_ok() && take().is_ok());
        assert_eq!(take(), Err(UsedUp { wait: RUNNING_WAIT }));
        table.give_back(QuotaKey(1), quota);
        assert!(take().is_ok());
    }

    #[test]
    fn beyond_the_bound_descriptions_share_a_quota_until_others_are_whole_again() {
        let (table, quota) = (table(SHARDS * 2), rate(1, 1, at(1_000)));
        let take = |key, millis| table.take(QuotaKey(key), SHARED, quota, at(millis));
        // All of one shard.
        let keys = [1, 17, 33, 49];
        assert_eq!(take(keys[0], 1_000), Ok(QuotaKey(1)));
        assert_eq!(take(keys[1], 1_000), Ok(QuotaKey(17)));
        assert_eq!(take(keys[2], 1_000), Ok(SHARED));
        assert!(take(keys[3], 1_000).is_err(), "the shared one is used up");
        assert!(take(keys[0], 1_000).is_err(), "and nobody's quota was given up for it");
        assert_eq!(table.len(), 3);
        assert_eq!(take(keys[3], 2_100), Ok(QuotaKey(49)));
    }

    #[test]
    fn what_runs_is_never_forgotten() {
        let (table, quota) = (table(SHARDS), Quota::Concurrent(1));
        let take = |key, millis| table.take(QuotaKey(key), SHARED, quota, at(millis));
        assert!(take(1, 0).is_ok());
        assert_eq!(take(17, 100_000), Ok(SHARED));
        assert!(take(1, 200_000).is_err());
        table.give_back(QuotaKey(1), quota);
        assert_eq!(take(33, 300_000), Ok(QuotaKey(33)));
    }
}
