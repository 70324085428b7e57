//! Model to snapshot: joins what targets each destination and compiles it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use waypoint_model::{
    Backend, BackendTarget, Chain, ClusterKey, CollectorAddress, JwtRule, LimitService, MeshConfig, Pods,
    Policy, PolicyKey, Rewrite, Route, RouteAction, RouteKey, RouteRule, Service, ServiceKey, ServicePort,
};
use waypoint_policy::{PolicySet, asks_port};

use super::pods::PodDestinations;
use super::{Destination, Snapshot};
use crate::jwt::{Authentication, Cache, Fetched, Source, Way};
use crate::rates::PortLimits;
use crate::routing::table::RouteTable;
use crate::telemetry::{Plans, PlansBuilding};
use crate::upstream::{Cluster, Upstreams};

/// Compiles a mesh. Policies of `previous` that are the same objects are not compiled again, so cost follows the change;
/// routes and endpoint lists are cheap and made anew.
pub(super) fn build(
    mesh: &Arc<MeshConfig>,
    upstreams: &Arc<Upstreams>,
    plans: &mut Plans,
    previous: Option<&Snapshot>,
    generation: u64,
) -> (Snapshot, Vec<Arc<Cluster>>) {
    let mut clusters = Clusters { mesh, upstreams, made: HashMap::new(), named: HashMap::new() };
    let mut plans = plans.building();
    let mut tokens = Tokens::after(previous);
    let mut snapshot = Snapshot {
        generation,
        mesh: Arc::clone(mesh),
        by_address: HashMap::new(),
        by_host: HashMap::new(),
        pods: None,
        fetched: Fetched::new(),
        verified: tokens.verified.clone(),
        collectors: HashMap::new(),
        limit_services: HashMap::new(),
    };
    for service in mesh.services.values().filter(|service| service.fronted) {
        let ports = destinations(mesh, service, &mut clusters, &mut tokens, &mut plans, previous, generation);
        for vip in &service.vips {
            let at = snapshot.by_address.entry(vip.to_canonical()).or_default();
            for (number, destination) in &ports {
                let shared = at.get(number).map(|other| Arc::new(destination.contested(other)));
                at.insert(*number, shared.unwrap_or_else(|| Arc::clone(destination)));
            }
        }
        for host in
            std::iter::once(service.key.hostname.as_ref()).chain(service.aliases.iter().map(String::as_str))
        {
            snapshot.by_host.insert(host.to_ascii_lowercase().into(), ports.clone());
        }
    }
    if let Some(pods) = &mesh.pods {
        let shared =
            destinations(mesh, &any_workload(pods), &mut clusters, &mut tokens, &mut plans, None, generation);
        let shared = shared.into_values().next();
        snapshot.pods = shared.map(|shared| PodDestinations {
            shared,
            upstreams: Arc::clone(upstreams),
            made: Mutex::default(),
        });
    }
    snapshot.collectors = collectors(mesh, &mut clusters);
    snapshot.limit_services = limit_services(mesh, &mut clusters);
    snapshot.fetched = tokens.in_use();
    for (source, keys) in &snapshot.fetched {
        keys.go(clusters.way_to(source));
    }
    plans.finish();
    let mut clusters: Vec<_> = clusters.made.into_values().chain(clusters.named.into_values()).collect();
    let before = previous.and_then(|snapshot| snapshot.pods.as_ref());
    if let (Some(pods), Some(before)) = (&snapshot.pods, before) {
        clusters.extend(pods.take_over(mesh, before));
    }
    (snapshot, clusters)
}

/// Clusters that spans of any port go to. Those that nobody delivered are missing, and said when a span goes there.
fn collectors(mesh: &MeshConfig, clusters: &mut Clusters<'_>) -> HashMap<ClusterKey, Arc<Cluster>> {
    let services = mesh.services.values().filter(|service| service.fronted);
    let ports = services.flat_map(|service| service.ports.values().map(|port| &port.chain));
    let chains = ports.chain(mesh.pods.iter().map(|pods| &pods.chain));
    let traced = chains.filter_map(|chain| chain.telemetry.as_ref()?.tracing.as_ref());
    let mut found = HashMap::new();
    for tracing in traced {
        if let CollectorAddress::Cluster(key) = &tracing.collector.to
            && !found.contains_key(key)
            && let Some(cluster) = clusters.named(key)
        {
            found.insert(key.clone(), cluster);
        }
    }
    found
}

/// Where rate limit services of any port are. Those that nobody delivered are missing, and said when they are asked.
fn limit_services(mesh: &MeshConfig, clusters: &mut Clusters<'_>) -> HashMap<LimitService, Arc<Cluster>> {
    let services = mesh.services.values().filter(|service| service.fronted);
    let ports = services.flat_map(|service| service.ports.values().map(|port| &port.chain));
    let limits = ports.chain(mesh.pods.iter().map(|pods| &pods.chain)).flat_map(|chain| &chain.global_limits);
    let mut found = HashMap::new();
    for service in limits.map(|limit| &limit.service) {
        if !found.contains_key(service)
            && let Some(cluster) = clusters.of_limits(service)
        {
            found.insert(service.clone(), cluster);
        }
    }
    found
}

/// Stands for every port of every workload by address, so that what holds on them is compiled once.
fn any_workload(pods: &Pods) -> Arc<Service> {
    let nowhere = Some(ClusterKey("workloads by their own address".into()));
    let chain = Chain { cluster: nowhere, routes: Vec::new(), streams: Vec::new(), ..pods.chain.clone() };
    let port = ServicePort { chain, ..ServicePort::new(None, pods.protocol) };
    Arc::new(Service {
        key: ServiceKey::new("", "workloads"),
        name: String::new(),
        fronted: true,
        aliases: Vec::new(),
        vips: Vec::new(),
        ports: [(0, port)].into(),
        endpoints: Vec::new(),
        policies: Vec::new(),
        routes: Vec::new(),
        jwt: Vec::new(),
    })
}

/// What tokens are verified with, taken over from the snapshot before: keys that were fetched, results, compiled rules.
struct Tokens<'a> {
    previous: Option<&'a Snapshot>,
    fetched: Fetched,
    used: HashSet<Source>,
    verified: Cache,
}

impl<'a> Tokens<'a> {
    fn after(previous: Option<&'a Snapshot>) -> Self {
        let fetched = previous.map(|snapshot| snapshot.fetched.clone()).unwrap_or_default();
        let verified = previous.map(|snapshot| snapshot.verified.clone()).unwrap_or_default();
        Self { previous, fetched, used: HashSet::new(), verified }
    }

    /// The rules of a port, those of its service first. Rules that did not change are not compiled again.
    fn compile(&mut self, service: &Service, number: u16, port: &ServicePort) -> Arc<Authentication> {
        let rules: Vec<Arc<JwtRule>> = service.jwt.iter().chain(&port.chain.jwt).cloned().collect();
        let before = self.previous.and_then(|snapshot| snapshot.port(&service.key.hostname, number));
        let same = before.map(|before| &before.jwt).filter(|before| before.written() == rules);
        let compiled = same
            .cloned()
            .unwrap_or_else(|| Arc::new(Authentication::compile(rules, &mut self.fetched, &self.verified)));
        self.used.extend(compiled.sources().cloned());
        compiled
    }

    fn in_use(mut self) -> Fetched {
        self.fetched.retain(|source, _| self.used.contains(source));
        self.fetched
    }
}

/// Clusters of this build, made once each.
struct Clusters<'a> {
    mesh: &'a Arc<MeshConfig>,
    upstreams: &'a Arc<Upstreams>,
    made: HashMap<(ServiceKey, u16), Arc<Cluster>>,
    named: HashMap<ClusterKey, Arc<Cluster>>,
}

impl Clusters<'_> {
    fn get(&mut self, key: &ServiceKey, port: u16) -> Option<Arc<Cluster>> {
        let at = (key.clone(), port);
        if let Some(cluster) = self.made.get(&at) {
            return Some(Arc::clone(cluster));
        }
        let service = self.mesh.services.get(key).filter(|service| service.ports.contains_key(&port))?;
        let cluster = self.upstreams.cluster(service, port, &|uid| self.mesh.workloads.get(uid).cloned());
        self.made.insert(at, Arc::clone(&cluster));
        Some(cluster)
    }

    fn named(&mut self, key: &ClusterKey) -> Option<Arc<Cluster>> {
        if let Some(cluster) = self.named.get(key) {
            return Some(Arc::clone(cluster));
        }
        let told = self.mesh.clusters.get(key)?;
        let service = self.mesh.services.get(&told.service);
        let cluster =
            self.upstreams.named_cluster(told, service, &|uid| self.mesh.workloads.get(uid).cloned());
        self.named.insert(key.clone(), Arc::clone(&cluster));
        Some(cluster)
    }

    fn of_limits(&mut self, service: &LimitService) -> Option<Arc<Cluster>> {
        match service {
            LimitService::Cluster(key) => self.named(key),
            LimitService::Service(host, port) => {
                let mut services = self.mesh.services.keys();
                let key = services.find(|key| key.hostname == *host)?.clone();
                self.get(&key, *port)
            }
        }
    }

    /// How keys are fetched that are fetched through a cluster; `None` where that was not delivered.
    fn way_to(&mut self, source: &Source) -> Option<Way> {
        let cluster = self.named(source.cluster.as_ref()?)?;
        Some(Way { upstreams: Arc::clone(self.upstreams), cluster })
    }

    /// Where a port leads that no route takes a request of.
    fn of_port(&mut self, service: &Arc<Service>, number: u16, port: &ServicePort) -> Option<Arc<Cluster>> {
        match &port.chain.cluster {
            None => self.get(&service.key, number),
            Some(key) => {
                let missing = || self.upstreams.missing_cluster(key, service, number);
                Some(self.named(key).unwrap_or_else(missing))
            }
        }
    }

    /// Where opaque streams of a port lead, by weight.
    fn of_streams(
        &mut self,
        service: &Arc<Service>,
        number: u16,
        port: &ServicePort,
    ) -> Vec<(Arc<Cluster>, u32)> {
        let mut streams = Vec::new();
        for (key, weight) in &port.chain.streams {
            let found = self.named(key);
            let missing = || self.upstreams.missing_cluster(key, service, number);
            streams.push((found.unwrap_or_else(missing), *weight));
        }
        streams
    }

    /// Where a backend leads, or why nowhere (500, Gateway API).
    fn find(&mut self, target: &BackendTarget) -> Result<Arc<Cluster>, String> {
        match target {
            BackendTarget::Service(key, port) => {
                self.get(key, *port).ok_or_else(|| format!("backend {key}:{port} is not known"))
            }
            BackendTarget::Cluster(key) => {
                self.named(key).ok_or_else(|| format!("cluster {key} was not delivered"))
            }
            BackendTarget::Missing(what) => Err(what.clone()),
        }
    }
}

/// All policies that a port of a service is subject to, compiled; a key that nobody delivered denies.
pub(crate) fn attached(mesh: &MeshConfig, service: &Service, port: u16, opaque: bool) -> PolicySet {
    match service.ports.get(&port) {
        Some(own) => Attached::new(mesh, service, own).compile(Some(port), opaque, 0),
        None => PolicySet::compile(&[], &[PolicyKey::new("", "a port that is not known")], opaque, 0),
    }
}

/// What a port is subject to: the policies of its service, and its own.
struct Attached {
    policies: Vec<Arc<Policy>>,
    /// Keys that nobody delivered, and a chain that is not understood: they deny.
    missing: Vec<PolicyKey>,
}

impl Attached {
    fn new(mesh: &MeshConfig, service: &Service, port: &ServicePort) -> Self {
        let keys = || service.policies.iter().chain(&port.chain.policies);
        let policies = keys().filter_map(|key| mesh.policies.get(key).cloned()).collect();
        let missing = keys().filter(|key| !mesh.policies.contains_key(key)).cloned();
        // Nothing is served on it anyway: should a way be left open, it leads to a denial.
        let unusable =
            port.chain.unusable.as_ref().map(|_| PolicyKey::new("", "a chain that is not understood"));
        Self { policies, missing: missing.chain(unusable).collect() }
    }

    /// `port`: where it is attached; `None`: on every port alike.
    fn compile(&self, port: Option<u16>, opaque: bool, generation: u64) -> PolicySet {
        let (policies, missing) = (&self.policies, &self.missing);
        match port {
            Some(port) => PolicySet::compile_at(port, policies, missing, opaque, generation),
            None => PolicySet::compile(policies, missing, opaque, generation),
        }
    }

    fn is_same_as(&self, before: &[Arc<Policy>]) -> bool {
        let pairs = before.iter().zip(&self.policies);
        self.missing.is_empty()
            && before.len() == self.policies.len()
            && pairs.into_iter().all(|(before, now)| Arc::ptr_eq(before, now))
    }
}

fn destinations(
    mesh: &MeshConfig,
    service: &Arc<Service>,
    clusters: &mut Clusters<'_>,
    tokens: &mut Tokens<'_>,
    plans: &mut PlansBuilding<'_>,
    previous: Option<&Snapshot>,
    generation: u64,
) -> HashMap<u16, Arc<Destination>> {
    let mut ports: HashMap<u16, Arc<Destination>> = HashMap::new();
    for (number, port) in &service.ports {
        let Some(cluster) = clusters.of_port(service, *number, port) else { continue };
        let attached = Attached::new(mesh, service, port);
        let siblings =
            ports.values().chain(previous.and_then(|before| before.port(&service.key.hostname, *number)));
        let policies_whole = attached.missing.is_empty();
        // Port 0 stands for every port of workloads that are addressed by their own address.
        let here = Some(*number).filter(|number| *number != 0);
        let Policies { policies, policy, opaque_policy } = compile(here, attached, siblings, generation);
        let keys = service.routes.iter().chain(&port.chain.routes);
        let routes: Vec<Arc<Route>> = keys.map(|key| route(mesh, key)).collect();
        let routes = RouteTable::compile(*number, &routes, &cluster, &mut |target| clusters.find(target));
        let limits = PortLimits::compile(&port.chain);
        let unusable =
            port.chain.unusable.as_deref().map(Arc::from).or_else(|| limits.unusable(policy.reads()));
        let destination = Destination {
            service: Arc::clone(service),
            port: *number,
            protocol: port.protocol,
            policies,
            policies_whole,
            policy,
            opaque_policy,
            path_normalization: port.chain.path_normalization.unwrap_or(mesh.path_normalization),
            unusable,
            jwt: tokens.compile(service, *number, port),
            limits: Arc::new(limits),
            routes,
            streams: clusters.of_streams(service, *number, port),
            stream_bounds: port.chain.stream_bounds,
            cluster,
            telemetry: port.chain.telemetry.as_ref().map(|settings| plans.plan(settings)),
        };
        ports.insert(*number, Arc::new(destination));
    }
    ports
}

/// The policies of one port, and what they compile to.
struct Policies {
    policies: Vec<Arc<Policy>>,
    policy: Arc<PolicySet>,
    opaque_policy: Arc<PolicySet>,
}

/// Compiles, unless a port before this one, or the same port of the snapshot before, has the very same policies.
fn compile<'a>(
    port: Option<u16>,
    attached: Attached,
    mut siblings: impl Iterator<Item = &'a Arc<Destination>>,
    generation: u64,
) -> Policies {
    let asks_port = asks_port(&attached.policies);
    let alike = |before: &&Arc<Destination>| !asks_port || port == Some(before.port);
    if let Some(before) = siblings
        .find(|before| alike(before) && attached.is_same_as(&before.policies) && before.policies_whole)
    {
        let (policy, opaque_policy) = (Arc::clone(&before.policy), Arc::clone(&before.opaque_policy));
        return Policies { policies: attached.policies, policy, opaque_policy };
    }
    let compiled = |opaque| Arc::new(attached.compile(port, opaque, generation));
    let (policy, opaque_policy) = (compiled(false), compiled(true));
    Policies { policies: attached.policies, policy, opaque_policy }
}

/// A route of the mesh. One that a service refers to and nobody delivered leads nowhere, instead of to the service past it.
fn route(mesh: &MeshConfig, key: &RouteKey) -> Arc<Route> {
    mesh.routes.get(key).cloned().unwrap_or_else(|| {
        let target = BackendTarget::Missing(format!("route {key} was not delivered"));
        let backends =
            vec![Backend { target, weight: 1, request_headers: Vec::new(), response_headers: Vec::new() }];
        let rule = RouteRule {
            name: key.to_string(),
            matches: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            action: RouteAction::Forward { backends, rewrite: Rewrite::default() },
            timeout: None,
            backend_timeout: None,
            policy: waypoint_model::RoutePolicy::default(),
        };
        Arc::new(Route {
            key: key.clone(),
            hostnames: Vec::new(),
            port: None,
            rules: vec![rule],
            order: waypoint_model::RouteOrder::Precedence,
        })
    })
}
