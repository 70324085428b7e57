//! Priorities and localities (Envoy's load balancing): the lowest number first, and the next ones as it loses endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypoint_model::{Balancing, ClusterEndpoint, Locality};

use super::UpstreamError;
use super::endpoints::{Endpoint, Picked};
use super::group::Group;

/// How many endpoints of a priority may be unwell before others take a part, in percent of those that are well (Envoy's
/// overprovisioning factor 1.4).
const OVERPROVISIONING: usize = 140;

/// Endpoints of a control plane's cluster.
pub(super) struct Priorities {
    levels: Vec<Level>,
    panic: Panic,
}

/// When health is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panic {
    /// With a smaller share of healthy endpoints than this, percent, also those that are not ready are used; 0: never.
    Below(usize),
    /// When all ready ones are ejected: then none is better than another. And for another attempt, when the only others are
    /// ejected: what was ejected a while ago may be well again, and what failed just now is not.
    AllEjected,
}

/// One priority.
struct Level {
    groups: Vec<Share>,
    endpoints: usize,
    ready: usize,
}

/// One locality of a priority, or all of it.
struct Share {
    /// Among the localities of its priority.
    weight: u64,
    ready: usize,
    group: Group,
}

/// One choice.
struct Choice<'a> {
    hash: u64,
    tried: &'a [Arc<Endpoint>],
    now: u64,
    /// No endpoint is ejected: what was counted when the snapshot was built holds.
    quiet: bool,
}

impl Priorities {
    /// `panic`: the share of healthy endpoints, percent, below which health is not looked at; `None`: only when none is left.
    pub(super) fn new(
        endpoints: Vec<(&ClusterEndpoint, Arc<Endpoint>)>,
        balancing: &Balancing,
        panic: Option<u32>,
    ) -> Self {
        let mut levels: BTreeMap<u32, Vec<(&ClusterEndpoint, Arc<Endpoint>)>> = BTreeMap::new();
        for (told, endpoint) in endpoints {
            levels.entry(told.priority).or_default().push((told, endpoint));
        }
        let levels = levels.into_values().map(|endpoints| Level::new(endpoints, balancing)).collect();
        let panic = panic.map_or(Panic::AllEjected, |percent| Panic::Below(percent.min(100) as usize));
        Self { levels, panic }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.levels.iter().flat_map(Level::endpoints)
    }

    /// Chooses an endpoint. `quiet`: nothing is ejected now. `tried` are left out while there are others.
    pub(super) fn pick(
        &self,
        hash: Option<u64>,
        tried: &[Arc<Endpoint>],
        now: u64,
        quiet: bool,
    ) -> Result<Picked, UpstreamError> {
        let choice = Choice { hash: hash.unwrap_or_else(|| fastrand::u64(..)), tried, now, quiet };
        let total: usize = self.levels.iter().map(|level| level.health(&choice)).sum();
        let first = self.level(&choice, total);
        let panics = |level: &Level| self.panics(level, &choice, total);
        let in_order = || first.into_iter().chain(self.levels.iter());
        let untried = in_order().find_map(|level| level.choose(&choice, panics(level), true));
        let ejected = || match self.panic {
            Panic::AllEjected if !tried.is_empty() => {
                in_order().find_map(|level| level.choose(&choice, Panicking::Ejected, true))
            }
            Panic::AllEjected | Panic::Below(_) => None,
        };
        let again = || in_order().find_map(|level| level.choose(&choice, panics(level), false));
        let picked = untried.or_else(ejected).or_else(again);
        picked.ok_or_else(|| {
            let any = self.levels.iter().any(|level| level.usable(&choice, panics(level)) > 0);
            if any { UpstreamError::Overloaded } else { UpstreamError::NoEndpoint }
        })
    }

    /// The priority whose turn it is: each takes as much as its health allows, in order, of 100 percent. `total` is the
    /// sum of their health.
    fn level(&self, choice: &Choice<'_>, total: usize) -> Option<&Level> {
        if total == 0 {
            return None;
        }
        let number = usize::try_from(choice.hash % 100).unwrap_or(0);
        let mut end = 0;
        // With less than 100 in sum, each takes more in proportion. What rounding leaves goes to the first.
        let taken = self.levels.iter().find(|level| {
            end += level.health(choice) * 100 / total.min(100);
            number < end
        });
        taken.or_else(|| self.levels.iter().find(|level| level.health(choice) > 0))
    }

    fn panics(&self, level: &Level, choice: &Choice<'_>, total: usize) -> Panicking {
        match self.panic {
            Panic::AllEjected if total == 0 => Panicking::Ejected,
            // While the others are well enough to take everything, a priority may be as ill as it likes.
            Panic::Below(percent)
                if total < 100 && level.healthy(choice) * 100 < percent * level.endpoints =>
            {
                Panicking::All
            }
            Panic::AllEjected | Panic::Below(_) => Panicking::No,
        }
    }
}

/// What is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panicking {
    No,
    /// Ejections.
    Ejected,
    /// Ejections and readiness.
    All,
}

impl Panicking {
    fn takes(self, endpoint: &Endpoint, now: u64) -> bool {
        match self {
            Self::No => endpoint.ready && !endpoint.is_ejected(now),
            Self::Ejected => endpoint.ready,
            Self::All => true,
        }
    }
}

impl Level {
    fn new(endpoints: Vec<(&ClusterEndpoint, Arc<Endpoint>)>, balancing: &Balancing) -> Self {
        let (count, ready) = (endpoints.len(), endpoints.iter().filter(|(_, it)| it.ready).count());
        let by_locality = endpoints.iter().any(|(told, _)| told.locality_weight.is_some());
        let mut shares: BTreeMap<_, (u64, Vec<Arc<Endpoint>>)> = BTreeMap::new();
        for (told, endpoint) in endpoints {
            let place = by_locality.then(|| place(&told.locality));
            let share = shares.entry(place).or_default();
            // A locality without a weight gets nothing where others have one (Envoy).
            share.0 = if by_locality { u64::from(told.locality_weight.unwrap_or(0)) } else { 1 };
            share.1.push(endpoint);
        }
        let shares = shares.into_values().filter(|(weight, _)| *weight > 0);
        let groups = shares.map(|(weight, endpoints)| Share::new(weight, endpoints, balancing)).collect();
        Self { groups, endpoints: count, ready }
    }

    fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.groups.iter().flat_map(|share| share.group.endpoints())
    }

    fn healthy(&self, choice: &Choice<'_>) -> usize {
        if choice.quiet { self.ready } else { self.usable(choice, Panicking::No) }
    }

    fn usable(&self, choice: &Choice<'_>, panicking: Panicking) -> usize {
        self.endpoints().filter(|endpoint| panicking.takes(endpoint, choice.now)).count()
    }

    /// How much of the load it can take, percent.
    fn health(&self, choice: &Choice<'_>) -> usize {
        (self.healthy(choice) * OVERPROVISIONING).checked_div(self.endpoints).unwrap_or(0).min(100)
    }

    fn choose(&self, choice: &Choice<'_>, panicking: Panicking, untried: bool) -> Option<Picked> {
        let fits = |endpoint: &Endpoint| {
            let left_out = untried && choice.tried.iter().any(|other| other.is_same(endpoint));
            let has_room = endpoint.active() < endpoint.terms.endpoint_requests;
            panicking.takes(endpoint, choice.now) && has_room && !left_out
        };
        let first = self.share(choice, panicking);
        let in_order = first.into_iter().chain(&self.groups);
        in_order.map(|share| &share.group).find_map(|group| group.choose(choice.hash, &fits))
    }

    /// The locality whose turn it is, by weight and health.
    fn share(&self, choice: &Choice<'_>, panicking: Panicking) -> Option<&Share> {
        if let [only] = self.groups.as_slice() {
            return Some(only);
        }
        let weight = |share: &Share| share.weight * share.health(choice, panicking) as u64;
        let total: u64 = self.groups.iter().map(weight).sum();
        // Not the number that chose the priority: its remainder would choose among localities, too.
        let mut left = (total > 0).then(|| super::ring::mixed(choice.hash) % total)?;
        self.groups.iter().find(|share| match left.checked_sub(weight(share)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }
}

impl Share {
    fn new(weight: u64, endpoints: Vec<Arc<Endpoint>>, balancing: &Balancing) -> Self {
        let ready = endpoints.iter().filter(|endpoint| endpoint.ready).count();
        Self { weight, ready, group: Group::new(endpoints, balancing) }
    }

    fn health(&self, choice: &Choice<'_>, panicking: Panicking) -> usize {
        let all = self.group.endpoints();
        let takes = |it: &&Arc<Endpoint>| panicking.takes(it, choice.now);
        let usable = match panicking {
            Panicking::No if choice.quiet => self.ready,
            _ => all.iter().filter(takes).count(),
        };
        (usable * OVERPROVISIONING).checked_div(all.len()).unwrap_or(0).min(100)
    }
}

fn place(locality: &Locality) -> (Arc<str>, Arc<str>, Arc<str>) {
    let Locality { region, zone, subzone } = locality;
    (Arc::clone(region), Arc::clone(zone), Arc::clone(subzone))
}

#[cfg(test)]
#[path = "priorities_tests.rs"]
mod tests;
