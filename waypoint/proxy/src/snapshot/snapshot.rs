//! One immutable view of the mesh.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hbone::Target;
use waypoint_model::{
    ClusterKey, LimitService, MeshConfig, PathNormalization, Policy, Protocol, Service, StreamBounds,
    Workload,
};
use waypoint_policy::{PolicySet, Reads};

use super::pods::PodDestinations;
use crate::jwt::{Authentication, Cache, Fetched};
use crate::rates::PortLimits;
use crate::refusal::Refusal;
use crate::routing::table::RouteTable;
use crate::telemetry::Plan;
use crate::upstream::Cluster;

/// What one request or stream sees of the mesh, from first to last.
pub struct Snapshot {
    pub(crate) generation: u64,
    pub(crate) mesh: Arc<MeshConfig>,
    /// Fronted services by virtual address, then port.
    pub(crate) by_address: HashMap<IpAddr, HashMap<u16, Arc<Destination>>>,
    /// Fronted services by lower-case host name, then port.
    pub(crate) by_host: HashMap<Arc<str>, HashMap<u16, Arc<Destination>>>,
    /// Workloads that are addressed by their own address.
    pub(crate) pods: Option<PodDestinations>,
    /// Keys of tokens that are fetched. The next snapshot takes over those that it uses.
    pub(crate) fetched: Fetched,
    /// Tokens that were verified, of all destinations.
    pub(crate) verified: Cache,
    /// Clusters that spans go to.
    pub(crate) collectors: HashMap<ClusterKey, Arc<Cluster>>,
    /// Where rate limit services are.
    pub(crate) limit_services: HashMap<LimitService, Arc<Cluster>>,
}

/// One port of a service that this waypoint fronts, with everything compiled for it.
pub struct Destination {
    /// The service.
    pub service: Arc<Service>,
    /// Service port.
    pub port: u16,
    /// What the port carries.
    pub protocol: Protocol,
    /// What the rules were compiled from.
    pub(crate) policies: Vec<Arc<Policy>>,
    /// Whether these are all: none was missing.
    pub(crate) policies_whole: bool,
    /// Rules for HTTP requests.
    pub policy: Arc<PolicySet>,
    /// Rules for opaque streams (Istio's asymmetry for HTTP fields applied).
    pub opaque_policy: Arc<PolicySet>,
    /// Tokens that it accepts.
    pub(crate) jwt: Arc<Authentication>,
    /// How often and how many at once.
    pub(crate) limits: Arc<PortLimits>,
    /// How request paths are made comparable.
    pub path_normalization: PathNormalization,
    /// Why nothing is served here: answered with 503.
    pub(crate) unusable: Option<Arc<str>>,
    /// Routes.
    pub routes: RouteTable,
    /// The service's own endpoints.
    pub cluster: Arc<Cluster>,
    /// Where opaque streams go, by weight; empty: to `cluster`.
    pub(crate) streams: Vec<(Arc<Cluster>, u32)>,
    /// How long opaque streams may last.
    pub(crate) stream_bounds: StreamBounds,
    /// What is told of its traffic; `None`: the settings of the process.
    pub(crate) telemetry: Option<Arc<Plan>>,
}

impl Destination {
    /// Whether the application is told who called; `process`: whether it is on all ports.
    pub(crate) fn tells_identity(&self, process: bool) -> bool {
        process || self.telemetry.as_ref().is_some_and(|plan| plan.identity_header())
    }
}

impl Destination {
    /// As what requests are read: as policies, or limits, ask for it.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.limits.read(self.policy.reads())
    }

    /// Whether anything may be served here at all.
    ///
    /// # Errors
    /// [`Refusal::Unserved`], with why.
    pub(crate) fn served(&self) -> Result<(), Refusal> {
        self.unusable.as_ref().map_or(Ok(()), |why| Err(Refusal::Unserved(Arc::clone(why))))
    }

    /// What two services with one address and port come to: which one is meant cannot be told, so none is served.
    pub(super) fn contested(&self, other: &Self) -> Self {
        let (one, two) = (&other.service.key, &self.service.key);
        let why = format!("{one} and {two} have the same address and port {}", self.port);
        let routes = RouteTable::compile(self.port, &[], &self.cluster, &mut |_| {
            Err("nothing is served here".to_owned())
        });
        let (service, cluster) = (Arc::clone(&self.service), Arc::clone(&self.cluster));
        Self { unusable: Some(why.into()), ..self.of_workload(service, self.port, cluster, routes) }
    }

    /// The same rules for a workload by its own address.
    pub(super) fn of_workload(
        &self,
        service: Arc<Service>,
        port: u16,
        cluster: Arc<Cluster>,
        routes: RouteTable,
    ) -> Self {
        Self {
            service,
            port,
            protocol: self.protocol,
            policies: self.policies.clone(),
            policies_whole: self.policies_whole,
            policy: Arc::clone(&self.policy),
            opaque_policy: Arc::clone(&self.opaque_policy),
            jwt: Arc::clone(&self.jwt),
            limits: Arc::clone(&self.limits),
            path_normalization: self.path_normalization,
            unusable: self.unusable.clone(),
            routes,
            cluster,
            streams: Vec::new(),
            stream_bounds: self.stream_bounds,
            telemetry: self.telemetry.clone(),
        }
    }

    /// Where one opaque stream goes.
    pub(crate) fn stream_cluster(&self) -> &Arc<Cluster> {
        let total: u64 = self.streams.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = if total == 0 { 0 } else { fastrand::u64(..total) };
        for (cluster, weight) in &self.streams {
            if left < u64::from(*weight) {
                return cluster;
            }
            left -= u64::from(*weight);
        }
        &self.cluster
    }
}

impl Snapshot {
    /// Names this snapshot in logs, metrics and `/config_dump`.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What it was built from.
    #[must_use]
    pub fn mesh(&self) -> &Arc<MeshConfig> {
        &self.mesh
    }

    /// The destination that a tunnel names.
    ///
    /// # Errors
    /// [`Refusal::NotOurs`] for an address or a name that this waypoint does not front, its own included;
    /// [`Refusal::UnknownDestination`] for a port that the service does not have, or a host that is not known.
    pub fn destination(&self, target: &Target) -> Result<Arc<Destination>, Refusal> {
        let (ports, port) = match target {
            Target::Addr(address) => (self.by_address.get(&address.ip().to_canonical()), address.port()),
            Target::Host { name, port } => (self.by_host.get(name.as_str()), port.get()),
        };
        match (ports, target) {
            (Some(ports), _) => {
                ports.get(&port).cloned().ok_or_else(|| Refusal::UnknownDestination(target.clone()))
            }
            (None, Target::Host { .. }) => Err(Refusal::UnknownDestination(target.clone())),
            (None, Target::Addr(address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                let made = self.pods.as_ref().and_then(|pods| pods.at(&self.mesh, address));
                made.ok_or_else(|| Refusal::NotOurs(target.clone()))
            }
        }
    }

    /// A port of the service with this host name.
    pub(crate) fn port(&self, hostname: &str, port: u16) -> Option<&Arc<Destination>> {
        self.by_host.get(hostname)?.get(&port)
    }

    /// The workload at an address, for telemetry only.
    #[must_use]
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.mesh.workloads.at(address)
    }
}
