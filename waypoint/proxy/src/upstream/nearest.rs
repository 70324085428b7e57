//! A service's own endpoints: the less busy of two at random in the nearest locality that has a healthy one.

use std::sync::Arc;

use waypoint_model::Locality;

use super::UpstreamError;
use super::endpoints::{Endpoint, Picked, hold};

/// Endpoints by [`distance`].
#[derive(Default)]
pub(super) struct Nearest([Vec<Arc<Endpoint>>; 3]);

impl Nearest {
    pub(super) fn add(&mut self, own: &Locality, locality: &Locality, endpoint: Arc<Endpoint>) {
        if let Some(tier) = self.0.get_mut(distance(own, locality)) {
            tier.push(endpoint);
        }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.0.iter().flatten()
    }

    /// Chooses among the ready ones. Ejected endpoints are left out unless all are ejected (then none is better than
    /// another). `tried` are left out while there are others, be they ejected: what was ejected a while ago may be well
    /// again, and what failed just now is not.
    pub(super) fn pick(&self, tried: &[Arc<Endpoint>], now: u64) -> Result<Picked, UpstreamError> {
        let mut ready = self.endpoints().filter(|endpoint| endpoint.ready).peekable();
        if ready.peek().is_none() {
            return Err(UpstreamError::NoEndpoint);
        }
        let all_ejected = ready.all(|endpoint| endpoint.is_ejected(now));
        let has_room = |it: &Endpoint| it.ready && it.active() < it.terms.endpoint_requests;
        let usable = |it: &Endpoint| has_room(it) && (all_ejected || !it.is_ejected(now));
        let untried = |it: &Endpoint| !tried.iter().any(|other| other.is_same(it));
        let one_of = |fits: &dyn Fn(&Endpoint) -> bool| self.0.iter().find_map(|tier| choose(tier, fits));
        let first = one_of(&|it| usable(it) && untried(it));
        let ejected = || if tried.is_empty() { None } else { one_of(&|it| has_room(it) && untried(it)) };
        first.or_else(ejected).or_else(|| one_of(&usable)).ok_or(UpstreamError::Overloaded)
    }
}

/// 0: own zone, 1: own region, 2: elsewhere. An unknown locality, own or other, is elsewhere.
pub(super) fn distance(own: &Locality, other: &Locality) -> usize {
    let region = !own.region.is_empty() && own.region == other.region;
    let zone = region && !own.zone.is_empty() && own.zone == other.zone;
    match (region, zone) {
        (_, true) => 0,
        (true, false) => 1,
        (false, false) => 2,
    }
}

/// The less busy of two that fit, picked at random. Counts first and walks again, so that nothing is allocated.
fn choose(from: &[Arc<Endpoint>], fits: impl Fn(&Endpoint) -> bool) -> Option<Picked> {
    let fitting = || from.iter().filter(|endpoint| fits(endpoint));
    let count = fitting().count();
    if count == 0 {
        return None;
    }
    let one = fastrand::usize(..count);
    let other = if count == 1 { one } else { (one + fastrand::usize(1..count)) % count };
    // Between counting and walking others may have filled one up: then what is left will do.
    let (one, other) = (fitting().nth(one), fitting().nth(other));
    let better = match (one, other) {
        (Some(one), Some(other)) if other.active() < one.active() => Some(other),
        (one, other) => one.or(other),
    };
    better.and_then(hold).or_else(|| fitting().find_map(hold))
}
