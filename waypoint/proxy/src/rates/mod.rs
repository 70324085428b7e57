//! How often and how many at once: limits per caller, tool or whatever else describes a request.
//!
//! They are asked after the policies, so that what is denied costs nothing, and before the route. A request that one of several
//! limits refuses takes nothing from the others.

mod describe;
mod global;
mod port;
mod table;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_protocols::Facts;
use waypoint_model::{LimitRefusal, LimitShare, Quota, ServiceKey};
use waypoint_policy::Attributes;

pub(crate) use global::Asking;
pub use global::{LimitAnswer, LimitAsked, LimitQuestion, LimitServices, LimitUnanswered};
pub(crate) use port::PortLimits;

use crate::limits::Limits;
use crate::telemetry::{Hits, Telemetry};
use port::is_for;
use table::{QuotaKey, Table};

/// All quotas of the process.
pub(crate) struct Rates {
    table: Arc<Table>,
    start: Instant,
    /// Two keys, so that nobody finds descriptions that share a quota.
    hashers: [RandomState; 2],
    services: Option<Arc<dyn LimitServices>>,
}

/// A request that came too often, or while too many others ran.
#[derive(Clone, Debug)]
pub struct Limited {
    /// The limit's name.
    pub limit: Arc<str>,
    /// When to come again.
    pub wait: Duration,
    /// How the limit says that a refusal looks.
    pub refusal: LimitRefusal,
    /// Whether a service counted it.
    pub global: bool,
    /// Which message of a batch it was.
    pub(crate) message: usize,
}

impl Limited {
    /// Envoy's word for it, and which limit it was.
    pub(crate) fn detail(&self) -> String {
        let word = if self.global { "request_rate_limited" } else { "local_rate_limited" };
        format!("{word}{{{}}}", self.limit)
    }
}

/// One thing that is asked for: the place of its message, and what is known of it.
pub(crate) type Counted<'a> = (usize, &'a dyn Facts);

/// Where requests are counted.
pub(crate) struct Place<'a> {
    pub(crate) service: &'a ServiceKey,
    pub(crate) port: u16,
    pub(crate) limits: &'a PortLimits,
}

/// What a request took. Its place among those that run is free again when this is dropped.
pub(crate) struct Held {
    table: Arc<Table>,
    taken: Vec<(QuotaKey, Quota)>,
}

impl Held {
    /// It was refused after all: its tokens are there again, too.
    pub(crate) fn refund(mut self) {
        for (key, quota) in self.taken.drain(..) {
            self.table.give_back(key, quota);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for (key, quota) in self.taken.drain(..) {
            if matches!(quota, Quota::Concurrent(_)) {
                self.table.give_back(key, quota);
            }
        }
    }
}

impl Rates {
    pub(crate) fn new(limits: &Limits, services: Option<Arc<dyn LimitServices>>, hits: Hits) -> Self {
        Self {
            table: Arc::new(Table::new(limits.rate_buckets, hits)),
            start: Instant::now(),
            hashers: [RandomState::new(), RandomState::new()],
            services,
        }
    }

    /// Quotas in use.
    pub(crate) fn count(&self) -> usize {
        self.table.len()
    }

    /// Takes what a request costs, all or nothing.
    ///
    /// # Errors
    /// [`Limited`], with the first limit that refused.
    pub(crate) fn take(
        &self,
        place: &Place<'_>,
        attributes: &Attributes<'_>,
        counted: &[Counted<'_>],
        telemetry: &Telemetry,
    ) -> Result<Held, Limited> {
        let mut held = Held { table: Arc::clone(&self.table), taken: Vec::new() };
        let now = self.start.elapsed();
        for local in &place.limits.local {
            let Some(enforced) = drawn(local.limit.share) else { continue };
            for (message, facts) in counted {
                let taken = self.take_one(place, local, attributes, *facts, now, &mut held.taken);
                let Err((used_up, shadow)) = taken else { continue };
                if shadow || !enforced {
                    telemetry.limited(&local.limit.name, "would_limit");
                    continue;
                }
                telemetry.limited(&local.limit.name, "limited");
                held.refund();
                return Err(Limited {
                    limit: Arc::clone(&local.limit.name),
                    wait: used_up.wait,
                    refusal: local.limit.refusal.clone(),
                    global: false,
                    message: *message,
                });
            }
        }
        Ok(held)
    }

    /// One thing at one limit. The second part of the error: it is only told of.
    fn take_one(
        &self,
        place: &Place<'_>,
        local: &port::Local,
        attributes: &Attributes<'_>,
        facts: &dyn Facts,
        now: Duration,
        taken: &mut Vec<(QuotaKey, Quota)>,
    ) -> Result<(), (table::UsedUp, bool)> {
        let limit = &*local.limit;
        let (mut met, mut shadowed) = (false, None);
        for described in local.describers.iter().filter_map(|one| one.describe(attributes, facts)) {
            for (at, quota) in limit.quotas.iter().enumerate().filter(|(_, quota)| is_for(quota, &described))
            {
                met = true;
                let key = self.key(place, &limit.name, at, Some(&described));
                let shared = self.key(place, &limit.name, at, None);
                match self.table.take(key, shared, quota.quota, now) {
                    Ok(key) => taken.push((key, quota.quota)),
                    Err(used_up) if quota.shadow => shadowed = Some(used_up),
                    Err(used_up) => return Err((used_up, false)),
                }
            }
        }
        if let Some(general) = limit.general
            && (!met || limit.general_counts_all)
        {
            let key = self.key(place, &limit.name, usize::MAX, None);
            let key = self.table.take(key, key, general, now).map_err(|used_up| (used_up, false))?;
            taken.push((key, general));
        }
        shadowed.map_or(Ok(()), |used_up| Err((used_up, true)))
    }

    /// The same from snapshot to snapshot: a limit that is edited goes on with what it counted.
    fn key(
        &self,
        place: &Place<'_>,
        limit: &str,
        at: usize,
        described: Option<&describe::Described>,
    ) -> QuotaKey {
        let quota = (place.service, place.port, limit, at, described);
        let hash = |hasher: &RandomState| u128::from(hasher.hash_one(quota));
        let [first, second] = &self.hashers;
        QuotaKey((hash(first) << 64) | hash(second))
    }
}

/// Whether a request is counted, and then whether it may be refused.
fn drawn(share: LimitShare) -> Option<bool> {
    let draw =
        |share: u32| share >= LimitShare::ALL.counted || fastrand::u32(..LimitShare::ALL.counted) < share;
    draw(share.counted).then(|| draw(share.enforced))
}
