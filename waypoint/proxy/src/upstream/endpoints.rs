//! Endpoints: what makes one, what outlives a snapshot, and what a snapshot says of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use spiffe_id::SpiffeId;
use waypoint_model::{
    ClusterKey, EndpointAddress, ServiceKey, TunnelKind, UpstreamTls, Workload, WorkloadUid,
};

use super::health::{Active, Health};
use super::pool::EndpointPool;
use super::resolve::Name;
use super::terms::Terms;

/// What makes two endpoints of different snapshots the same one. The identity is part of it: a workload that came back as
/// another must not inherit connections that were verified for the first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EndpointKey {
    pub(super) owner: Owner,
    pub(super) workload: WorkloadUid,
    pub(super) address: EndpointAddress,
    pub(super) identity: Option<SpiffeId>,
    pub(super) tunnel: TunnelKind,
    /// TLS inside; connections that were checked otherwise are not this endpoint's.
    pub(super) tls: Option<UpstreamTls>,
}

/// Whose endpoint it is. Each has its own connections and health, as its terms are its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A service.
    Service(ServiceKey),
    /// A cluster of a control plane.
    Cluster(ClusterKey),
}

/// What outlives a snapshot: counters and pooled connections of one endpoint.
pub(super) struct State {
    pub(super) key: EndpointKey,
    pub(super) health: Arc<Health>,
    pub(super) pool: Arc<EndpointPool>,
    /// Of an endpoint that is told by host name.
    pub(super) name: Option<Arc<Name>>,
}

/// One endpoint as one snapshot sees it.
pub(super) struct Endpoint {
    pub(super) workload: Arc<Workload>,
    pub(super) ready: bool,
    /// Share among its siblings; never zero.
    pub(super) weight: u64,
    pub(super) state: Arc<State>,
    pub(super) terms: Arc<Terms>,
}

impl Endpoint {
    /// Where it listens, inside its tunnel or on its own: of a host name any address that it was last resolved to.
    pub(super) fn address(&self) -> SocketAddr {
        match (&self.state.key.address, &self.state.name) {
            (EndpointAddress::Socket(address), _) => *address,
            (EndpointAddress::Host(..), Some(name)) => name.first(),
            (EndpointAddress::Host(_, port), None) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)),
        }
    }

    /// For errors and logs: its address and port, or its host name and port.
    pub(super) fn name(&self) -> String {
        super::cluster::name(&self.state.key.address)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.state.health.is_ejected(now)
    }

    pub(super) fn active(&self) -> usize {
        self.state.health.active()
    }
}

/// Counts one more request on it, unless as many run as its terms allow.
pub(super) fn hold(endpoint: &Arc<Endpoint>) -> Option<Picked> {
    let active = endpoint.terms.start(&endpoint.state.health)?;
    Some(Picked { endpoint: Arc::clone(endpoint), active })
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
        let EndpointAddress::Socket(address) = self.address else { return None };
        Some(LiveTunnel { workload: self.workload.clone(), address: address.ip(), identity })
    }
}

/// An endpoint that was chosen, and is counted from now on.
pub(super) struct Picked {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) active: Active,
}
