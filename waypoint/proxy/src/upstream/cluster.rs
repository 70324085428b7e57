//! Clusters as the data plane uses them: endpoints joined with their workloads, and how one is chosen.

use std::net::SocketAddr;
use std::sync::Arc;

use waypoint_model::{
    ClusterEndpoint, ClusterKey, EndpointAddress, HttpVersion, Locality, Service, ServiceKey, TunnelKind,
    Workload, WorkloadUid,
};

use super::endpoints::{Endpoint, EndpointKey, Owner, Picked, State, hold};
use super::nearest::Nearest;
use super::priorities::Priorities;
use super::terms::{Taken, Terms};
use super::{Pick, UpstreamError, Version};

/// Endpoints of one service port, as one snapshot sees them: the service's own, or those that a control plane gave a
/// cluster. Their health is shared with other snapshots.
pub struct Cluster {
    service: Arc<Service>,
    port: u16,
    terms: Arc<Terms>,
    layout: Layout,
    /// Why nothing can be sent to it.
    broken: Option<UpstreamError>,
}

/// How endpoints are ordered.
enum Layout {
    Nearest(Nearest),
    Shared(Priorities),
}

/// Where a cluster finds workloads, and what outlives its snapshot.
pub(super) struct Sources<'a> {
    pub(super) workloads: &'a dyn Fn(&WorkloadUid) -> Option<Arc<Workload>>,
    pub(super) states: &'a mut dyn FnMut(EndpointKey) -> Arc<State>,
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

    /// Its name, if a control plane gave it one.
    pub(crate) fn key(&self) -> Option<&ClusterKey> {
        self.terms.budget.as_ref().map(|budget| &budget.key)
    }

    /// What is spoken to its endpoints: as the cluster says, else `declared`; `client` is what the request came by.
    #[must_use]
    pub fn version(&self, declared: Version, client: http::Version) -> Version {
        match self.terms.http {
            None => declared,
            Some(HttpVersion::Http1) => Version::Http1,
            Some(HttpVersion::Http2) => Version::Http2,
            Some(HttpVersion::AsClient) if client == http::Version::HTTP_2 => Version::Http2,
            Some(HttpVersion::AsClient) => Version::Http1,
        }
    }

    /// Whether TLS is spoken to its endpoints, beside any tunnel.
    pub(crate) fn originates_tls(&self) -> bool {
        self.terms.tls.is_some()
    }

    /// Whether a request may be tried again: where a cluster bounds retries, it `holds` one for as long as it tries.
    pub(super) fn may_retry(&self, holds: &mut Option<Taken>) -> bool {
        if holds.is_none() {
            let Some(taken) = self.terms.retry() else { return false };
            *holds = taken;
        }
        true
    }

    /// Whether this workload is one of its endpoints.
    pub(crate) fn holds(&self, workload: &WorkloadUid) -> bool {
        self.pinned(workload).is_some()
    }

    /// Joins the endpoints of a service port with their workloads.
    pub(super) fn of_service(
        service: &Arc<Service>,
        port: u16,
        own: &Locality,
        terms: Arc<Terms>,
        sources: &mut Sources<'_>,
    ) -> Self {
        let mut nearest = Nearest::default();
        for endpoint in &service.endpoints {
            let workload = (sources.workloads)(&endpoint.workload);
            let (Some(target), Some(workload)) = (endpoint.ports.get(&port), workload) else { continue };
            let Some(ip) = workload.addresses.first() else { continue };
            let key = EndpointKey {
                owner: Owner::Service(service.key.clone()),
                workload: workload.uid.clone(),
                address: EndpointAddress::Socket(SocketAddr::new(ip.to_canonical(), *target)),
                identity: workload.identity.clone(),
                tunnel: workload.tunnel,
                tls: None,
            };
            let (state, terms) = ((sources.states)(key), Arc::clone(&terms));
            let locality = workload.locality.clone();
            let endpoint = Endpoint { workload, ready: endpoint.ready, weight: 1, state, terms };
            nearest.add(own, &locality, Arc::new(endpoint));
        }
        let (service, layout) = (Arc::clone(service), Layout::Nearest(nearest));
        Self { service, port, terms, layout, broken: None }
    }

    /// Joins the endpoints of a control plane's cluster with their workloads. `service`: the one it belongs to, if known.
    pub(super) fn of_model(
        model: &waypoint_model::Cluster,
        service: Option<&Arc<Service>>,
        terms: Arc<Terms>,
        sources: &mut Sources<'_>,
    ) -> Self {
        let (mut endpoints, mut left_out) = (Vec::new(), None);
        for told in &model.endpoints {
            match joined(told, model, &terms, sources) {
                Ok(endpoint) => endpoints.push((told, Arc::new(endpoint))),
                Err(why) => {
                    tracing::debug!(cluster = %model.key, %why, "endpoint left out");
                    left_out = Some(why);
                }
            }
        }
        if let Some(budget) = &terms.budget {
            budget.resize(endpoints.len());
        }
        let why = model.unusable.clone().or_else(|| left_out.filter(|_| endpoints.is_empty()));
        let broken = why.map(|why| UpstreamError::Unusable { cluster: model.key.clone(), why: why.into() });
        let outlier = model.traffic.outlier.as_ref();
        let panic = outlier.map(|outlier| outlier.min_health_percent);
        let layout = Layout::Shared(Priorities::new(endpoints, &model.traffic.balancing, panic));
        let service = service.map_or_else(|| stub(&model.service), Arc::clone);
        Self { service, port: model.port, terms, layout, broken }
    }

    /// A cluster that nobody delivered.
    pub(super) fn missing(key: &ClusterKey, service: &Arc<Service>, port: u16, terms: Arc<Terms>) -> Self {
        let broken = Some(UpstreamError::NoCluster(key.clone()));
        let layout = Layout::Nearest(Nearest::default());
        Self { service: Arc::clone(service), port, terms, layout, broken }
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let (nearest, shared) = match &self.layout {
            Layout::Nearest(nearest) => (Some(nearest.endpoints()), None),
            Layout::Shared(shared) => (None, Some(shared.endpoints())),
        };
        nearest.into_iter().flatten().chain(shared.into_iter().flatten())
    }

    fn pinned(&self, uid: &WorkloadUid) -> Option<&Arc<Endpoint>> {
        self.endpoints().find(|endpoint| endpoint.workload.uid == *uid)
    }

    /// Chooses an endpoint: the session's, or one as the cluster balances. `tried` are left out while there are others.
    ///
    /// # Errors
    /// [`UpstreamError::NoEndpoint`], [`UpstreamError::PinnedGone`] or [`UpstreamError::Overloaded`], and why the cluster
    /// cannot be used at all.
    pub(super) fn pick(
        &self,
        pick: &Pick,
        tried: &[Arc<Endpoint>],
        now: u64,
    ) -> Result<Picked, UpstreamError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if let Some(uid) = &pick.pinned {
            // Neither ejection nor readiness counts: no other endpoint knows the session.
            let endpoint = self.pinned(uid).ok_or(UpstreamError::PinnedGone)?;
            return hold(endpoint).ok_or(UpstreamError::Overloaded);
        }
        match &self.layout {
            Layout::Nearest(nearest) => nearest.pick(tried, now),
            Layout::Shared(shared) => {
                let quiet = self.terms.budget.as_ref().is_some_and(|budget| !budget.has_ejected(now));
                shared.pick(pick.hash, tried, now, quiet)
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self.broken, Some(UpstreamError::NoCluster(_)))
    }

    #[cfg(test)]
    pub(crate) fn without_endpoints(key: &ServiceKey, port: u16) -> Arc<Self> {
        let terms = Arc::new(Terms::of_process(&crate::limits::Limits::default()));
        let layout = Layout::Nearest(Nearest::default());
        Arc::new(Self { service: stub(key), port, terms, layout, broken: None })
    }
}

/// An endpoint with its workload, or why it must not be used.
fn joined(
    told: &ClusterEndpoint,
    cluster: &waypoint_model::Cluster,
    terms: &Arc<Terms>,
    sources: &mut Sources<'_>,
) -> Result<Endpoint, String> {
    let at = name(&told.address);
    let known = told.workload.as_ref().and_then(|uid| (sources.workloads)(uid));
    // A workload that takes tunnels is never sent plain bytes, whatever the cluster says.
    let tunnel = match known.as_ref().map(|workload| workload.tunnel) {
        Some(TunnelKind::Hbone) => TunnelKind::Hbone,
        _ => told.tunnel,
    };
    let identity = known.as_ref().and_then(|workload| workload.identity.clone());
    let address = match (&told.address, tunnel) {
        (EndpointAddress::Host(..), TunnelKind::Hbone) => {
            return Err(format!("{at} takes tunnels, which go to addresses and not to host names"));
        }
        (EndpointAddress::Host(host, port), TunnelKind::Plain) => EndpointAddress::Host(host.clone(), *port),
        (EndpointAddress::Socket(_), TunnelKind::Hbone) if identity.is_none() => {
            return Err(format!("{at} takes tunnels, and nobody told whose identity to expect there"));
        }
        (EndpointAddress::Socket(socket), _) => {
            EndpointAddress::Socket(SocketAddr::new(socket.ip().to_canonical(), socket.port()))
        }
    };
    let workload = known.unwrap_or_else(|| unknown(&at, told));
    let (owner, tls) = (Owner::Cluster(cluster.key.clone()), cluster.traffic.tls.clone());
    let key = EndpointKey { owner, workload: workload.uid.clone(), address, identity, tunnel, tls };
    let (state, terms) = ((sources.states)(key), Arc::clone(terms));
    Ok(Endpoint { workload, ready: told.ready, weight: u64::from(told.weight.max(1)), state, terms })
}

/// `address:port` or `host:port`.
pub(super) fn name(address: &EndpointAddress) -> String {
    match address {
        EndpointAddress::Socket(address) => address.to_string(),
        EndpointAddress::Host(host, port) => format!("{host}:{port}"),
    }
}

/// Who stands at an address of which nobody told a workload: nothing but the address. Empty names are shown as unknown.
fn unknown(at: &str, told: &ClusterEndpoint) -> Arc<Workload> {
    let empty: Arc<str> = "".into();
    Arc::new(Workload {
        uid: WorkloadUid(at.into()),
        name: Arc::clone(&empty),
        namespace: Arc::clone(&empty),
        addresses: match &told.address {
            EndpointAddress::Socket(address) => vec![address.ip()],
            EndpointAddress::Host(..) => Vec::new(),
        },
        identity: None,
        tunnel: TunnelKind::Plain,
        locality: told.locality.clone(),
        workload_name: Arc::clone(&empty),
        canonical_name: Arc::clone(&empty),
        canonical_revision: Arc::clone(&empty),
        app: None,
        version: None,
        cluster: empty,
    })
}

/// A service of which nothing but the name is known.
fn stub(key: &ServiceKey) -> Arc<Service> {
    Arc::new(Service {
        key: key.clone(),
        name: key.hostname.to_string(),
        fronted: false,
        aliases: Vec::new(),
        vips: Vec::new(),
        ports: waypoint_model::Map::new(),
        endpoints: Vec::new(),
        policies: Vec::new(),
        routes: Vec::new(),
        jwt: Vec::new(),
    })
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
