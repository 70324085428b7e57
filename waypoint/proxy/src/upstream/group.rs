//! Endpoints that share requests among them by weight: one priority, or one locality of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use waypoint_model::Balancing;

use super::cluster::name;
use super::endpoints::{Endpoint, Picked, hold};
use super::ring::{Ring, mixed};

/// How often a weighted choice may fall on an endpoint that does not fit before all are looked at.
const DRAWS: usize = 3;

/// Endpoints and how one of them is chosen.
pub(super) struct Group {
    endpoints: Vec<Arc<Endpoint>>,
    /// The sum of weights up to and with each.
    ends: Vec<u64>,
    total: u64,
    /// All weights are the same.
    even: bool,
    order: Order,
}

enum Order {
    LeastRequest,
    /// Counts requests. Starts anywhere, so that many waypoints do not begin with the same endpoint.
    InTurn(AtomicU64),
    Random,
    Hash(Ring),
}

impl Group {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, balancing: &Balancing) -> Self {
        let order = match balancing {
            Balancing::LeastRequest => Order::LeastRequest,
            Balancing::RoundRobin => Order::InTurn(AtomicU64::new(u64::from(fastrand::u32(..)))),
            Balancing::Random => Order::Random,
            Balancing::ConsistentHash => {
                let points = endpoints.iter().map(|it| (name(&it.state.key.address), it.weight));
                Order::Hash(Ring::new(&points.collect::<Vec<_>>()))
            }
        };
        let ends: Vec<u64> = endpoints
            .iter()
            .scan(0_u64, |sum, endpoint| {
                *sum = sum.saturating_add(endpoint.weight);
                Some(*sum)
            })
            .collect();
        let total = ends.last().copied().unwrap_or(0);
        let even =
            endpoints.windows(2).all(|pair| matches!(pair, [one, other] if one.weight == other.weight));
        Self { endpoints, ends, total, even, order }
    }

    pub(super) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// One of those that fit, counted from now on. `hash` is what a consistent hash goes by.
    pub(super) fn choose(&self, hash: u64, fits: &dyn Fn(&Endpoint) -> bool) -> Option<Picked> {
        let fitting = || self.endpoints.iter().filter(|endpoint| fits(endpoint));
        let chosen = match &self.order {
            Order::LeastRequest => self.less_busy(fits),
            Order::InTurn(turn) => self.in_turn(turn, fits),
            Order::Random => self.random(fits),
            Order::Hash(ring) => {
                ring.from(mixed(hash)).filter_map(|index| self.endpoints.get(index)).find(|it| fits(it))
            }
        };
        // Others may have filled it up in this very moment: then what is left will do.
        chosen.and_then(hold).or_else(|| fitting().find_map(hold))
    }

    /// The endpoint in whose part of the sum of weights `number` falls.
    fn at(&self, number: u64) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(self.ends.partition_point(|end| *end <= number))
    }

    /// Any that fits, by weight. Where draws keep missing, what does not fit is counted out first.
    fn random(&self, fits: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        if self.total == 0 {
            return None;
        }
        let mut draws = (0..DRAWS).filter_map(|_| self.at(fastrand::u64(..self.total)));
        if let Some(drawn) = draws.find(|endpoint| fits(endpoint)) {
            return Some(drawn);
        }
        let fitting = || self.endpoints.iter().filter(|endpoint| fits(endpoint));
        let total: u64 = fitting().map(|endpoint| endpoint.weight).sum();
        let mut left = (total > 0).then(|| fastrand::u64(..total))?;
        fitting().find(|endpoint| match left.checked_sub(endpoint.weight) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }

    /// The less busy of two for its weight; of two alike the first, so that idle endpoints share by weight.
    fn less_busy(&self, fits: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let one = self.random(fits)?;
        let other = self.random(fits)?;
        let other =
            if other.is_same(one) { self.beside(one).filter(|it| fits(it)).unwrap_or(one) } else { other };
        let load = |of: &Endpoint, weight: u64| (of.active() as u64).saturating_mul(weight);
        let is_less = load(other, one.weight) < load(one, other.weight);
        Some(if is_less { other } else { one })
    }

    /// Any other endpoint.
    fn beside(&self, one: &Arc<Endpoint>) -> Option<&Arc<Endpoint>> {
        let start = fastrand::usize(..self.endpoints.len().max(1));
        let (before, after) = self.endpoints.split_at_checked(start)?;
        after.iter().chain(before).find(|endpoint| !endpoint.is_same(one))
    }

    /// In turn. With weights the turns of an endpoint are spread evenly, as multiples of the golden ratio are over a circle.
    fn in_turn(&self, turn: &AtomicU64, fits: &dyn Fn(&Endpoint) -> bool) -> Option<&Arc<Endpoint>> {
        let count = self.endpoints.len() as u64;
        for _ in 0..count {
            let number = turn.fetch_add(1, Ordering::Relaxed);
            let at = if self.even {
                self.endpoints.get(usize::try_from(number % count).ok()?)
            } else {
                let circle = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                self.at(u64::try_from((circle * u128::from(self.total)) >> 64).ok()?)
            };
            if let Some(endpoint) = at.filter(|endpoint| fits(endpoint)) {
                return Some(endpoint);
            }
        }
        self.random(fits)
    }
}
