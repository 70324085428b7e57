//! Which endpoint: health, locality, and the choice of one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use spiffe_id::SpiffeId;
use waypoint_model::{Locality, Service, ServiceKey, TunnelKind, Workload, WorkloadUid};

use super::health::{Active, Health};
use super::pool::EndpointPool;
use super::{Pick, UpstreamError};

/// What makes two endpoints of different snapshots the same one. The identity is part of it: a workload that came back as
/// another must not inherit connections that were verified for the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EndpointKey {
    pub(super) service: ServiceKey,
    pub(super) workload: WorkloadUid,
    pub(super) address: SocketAddr,
    pub(super) identity: Option<SpiffeId>,
    pub(super) tunnel: TunnelKind,
}

/// What outlives a snapshot: counters and pooled connections of one endpoint.
pub(super) struct State {
    pub(super) key: EndpointKey,
    pub(super) health: Arc<Health>,
    pub(super) pool: Arc<EndpointPool>,
}

/// One endpoint as one snapshot sees it.
pub(super) struct Endpoint {
    pub(super) workload: Arc<Workload>,
    pub(super) ready: bool,
    pub(super) state: Arc<State>,
}

impl Endpoint {
    /// Where it listens, inside its tunnel or on its own.
    pub(super) fn address(&self) -> SocketAddr {
        self.state.key.address
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }
}

/// The endpoints of one service port, as one snapshot sees them; their health is shared with other snapshots.
pub struct Cluster {
    service: Arc<Service>,
    port: u16,
    /// By [`distance`].
    tiers: [Vec<Arc<Endpoint>>; 3],
}

impl Cluster {
    /// The service whose endpoints these are.
    #[must_use]
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// The service port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether this workload is one of its endpoints.
    pub(crate) fn holds(&self, workload: &WorkloadUid) -> bool {
        self.pinned(workload).is_some()
    }

    /// Joins the endpoints of a service port with their workloads. `state` finds or makes what outlives the snapshot.
    pub(super) fn new(
        service: &Arc<Service>,
        port: u16,
        own: &Locality,
        workloads: &dyn Fn(&WorkloadUid) -> Option<Arc<Workload>>,
        state: &mut dyn FnMut(EndpointKey) -> Arc<State>,
    ) -> Self {
        let mut tiers: [Vec<Arc<Endpoint>>; 3] = Default::default();
        for endpoint in &service.endpoints {
            let (Some(target), Some(workload)) = (endpoint.ports.get(&port), workloads(&endpoint.workload))
            else {
                continue;
            };
            let Some(ip) = workload.addresses.first() else { continue };
            let key = EndpointKey {
                service: service.key.clone(),
                workload: workload.uid.clone(),
                address: SocketAddr::new(ip.to_canonical(), *target),
                identity: workload.identity.clone(),
                tunnel: workload.tunnel,
            };
            let distance = distance(own, &workload.locality);
            if let Some(tier) = tiers.get_mut(distance) {
                tier.push(Arc::new(Endpoint { workload, ready: endpoint.ready, state: state(key) }));
            }
        }
        Self { service: Arc::clone(service), port, tiers }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.tiers.iter().flatten()
    }

    fn pinned(&self, uid: &WorkloadUid) -> Option<&Arc<Endpoint>> {
        self.endpoints().find(|endpoint| endpoint.workload.uid == *uid)
    }

    #[cfg(test)]
    pub(crate) fn without_endpoints(key: &ServiceKey, port: u16) -> Arc<Self> {
        let service = Service {
            key: key.clone(),
            name: key.hostname.to_string(),
            fronted: true,
            aliases: vec![],
            vips: vec![],
            ports: waypoint_model::Map::new(),
            endpoints: vec![],
            policies: vec![],
            routes: vec![],
            jwt: Vec::new(),
        };
        Arc::new(Self { service: Arc::new(service), port, tiers: Default::default() })
    }
}

/// 0: own zone, 1: own region, 2: elsewhere. An unknown locality, own or other, is elsewhere.
fn distance(own: &Locality, other: &Locality) -> usize {
    let region = !own.region.is_empty() && own.region == other.region;
    let zone = region && !own.zone.is_empty() && own.zone == other.zone;
    match (region, zone) {
        (_, true) => 0,
        (true, false) => 1,
        (false, false) => 2,
    }
}

/// The workload and address of an HBONE endpoint that some cluster still names; for forgetting tunnels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LiveTunnel {
    pub(super) workload: WorkloadUid,
    pub(super) address: IpAddr,
    pub(super) identity: SpiffeId,
}

impl EndpointKey {
    pub(super) fn live_tunnel(&self) -> Option<LiveTunnel> {
        let identity = self.identity.clone().filter(|_| self.tunnel == TunnelKind::Hbone)?;
        Some(LiveTunnel { workload: self.workload.clone(), address: self.address.ip(), identity })
    }
}

/// An endpoint that was chosen, and is counted from now on.
pub(super) struct Picked {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) active: Active,
}

/// Chooses an endpoint: the session's, or the less busy of two at random among the ready ones of the nearest locality that
/// has a healthy one.
///
/// Ejected endpoints are left out unless all are ejected (then none is better than another). `tried` are left out while
/// there are others. `max` is the circuit breaker: what an endpoint may run at once.
///
/// # Errors
/// [`UpstreamError::NoEndpoint`], [`UpstreamError::PinnedGone`] or [`UpstreamError::Overloaded`].
pub(super) fn pick(
    cluster: &Cluster,
    pick: &Pick,
    tried: &[Arc<Endpoint>],
    now: u64,
    max: usize,
) -> Result<Picked, UpstreamError> {
    if let Some(uid) = &pick.pinned {
        // Neither ejection nor readiness counts: no other endpoint knows the session.
        let endpoint = cluster.pinned(uid).ok_or(UpstreamError::PinnedGone)?;
        return hold(endpoint, max).ok_or(UpstreamError::Overloaded);
    }
    let ejected = |endpoint: &Endpoint| endpoint.state.health.is_ejected(now);
    let mut ready = cluster.endpoints().filter(|endpoint| endpoint.ready).peekable();
    if ready.peek().is_none() {
        return Err(UpstreamError::NoEndpoint);
    }
    let all_ejected = ready.all(|endpoint| ejected(endpoint));
    let usable = |endpoint: &Endpoint| {
        endpoint.ready && (all_ejected || !ejected(endpoint)) && endpoint.state.health.active() < max
    };
    let untried = |endpoint: &Endpoint| !tried.iter().any(|other| other.is_same(endpoint));
    let first = cluster.tiers.iter().find_map(|tier| choose(tier, max, |it| usable(it) && untried(it)));
    let again = || cluster.tiers.iter().find_map(|tier| choose(tier, max, usable));
    first.or_else(again).ok_or(UpstreamError::Overloaded)
}

fn hold(endpoint: &Arc<Endpoint>, max: usize) -> Option<Picked> {
    let active = endpoint.state.health.start(max)?;
    Some(Picked { endpoint: Arc::clone(endpoint), active })
}

/// The less busy of two that fit, picked at random. Counts first and walks again, so that nothing is allocated.
fn choose(from: &[Arc<Endpoint>], max: usize, fits: impl Fn(&Endpoint) -> bool) -> Option<Picked> {
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
        (Some(one), Some(other)) if other.state.health.active() < one.state.health.active() => Some(other),
        (one, other) => one.or(other),
    };
    better.and_then(|endpoint| hold(endpoint, max)).or_else(|| fitting().find_map(|it| hold(it, max)))
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
