//! The one place where the newest snapshot stands.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use waypoint_model::MeshConfig;

use super::{Snapshot, build::build};
use crate::telemetry::Plans;
use crate::upstream::Upstreams;

/// Holds the newest snapshot; a request loads it once. Cheap to clone.
#[derive(Clone)]
pub struct ConfigCell(Arc<Inner>);

struct Inner {
    upstreams: Arc<Upstreams>,
    newest: ArcSwapOption<Snapshot>,
    generation: watch::Sender<u64>,
    /// Only the config task locks it.
    plans: Mutex<Plans>,
}

impl ConfigCell {
    /// A cell without a snapshot: nothing is served until the first [`ConfigCell::apply`].
    #[must_use]
    pub fn new(upstreams: Arc<Upstreams>) -> Self {
        let (newest, generation) = (ArcSwapOption::empty(), watch::Sender::new(0));
        Self(Arc::new(Inner { upstreams, newest, generation, plans: Mutex::default() }))
    }

    /// The newest snapshot; `None` before the first.
    #[must_use]
    pub fn load(&self) -> Option<Arc<Snapshot>> {
        self.0.newest.load_full()
    }

    /// Builds and stores; returns the generation that now serves. One caller at a time (the config task).
    pub fn apply(&self, mesh: &Arc<MeshConfig>) -> u64 {
        let inner = &self.0;
        let generation = *inner.generation.borrow() + 1;
        let previous = inner.newest.load_full();
        // A poisoned lock holds plans that are whole: each is stored when it is made.
        let mut plans = inner.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let (snapshot, clusters) = build(mesh, &inner.upstreams, &mut plans, previous.as_deref(), generation);
        inner.newest.store(Some(Arc::new(snapshot)));
        inner.upstreams.retain(&clusters);
        inner.generation.send_replace(generation);
        generation
    }

    /// Changes with each applied snapshot; long streams watch it.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::routing::table::Selected;
    use certs::{MeshTls, Revocations, SvidSource, TrustDomains, X509Svid};
    use hbone::Target;
    use waypoint_model::{
        Action, Backend, BackendTarget, ClusterKey, Endpoint, Locality, Policy, PolicyKey, Protocol, Rewrite,
        Route, RouteAction, RouteKey, RouteRule, Service, ServiceKey, ServicePort, TunnelKind, Workload,
        WorkloadUid,
    };

    /// A source without a certificate: nothing is dialled here.
    struct NoSource(watch::Sender<Option<Arc<X509Svid>>>);

    impl SvidSource for NoSource {
        fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
            self.0.subscribe()
        }
    }

    fn cell() -> ConfigCell {
        let source = NoSource(watch::Sender::new(None));
        let tls = MeshTls::new(&source, TrustDomains::default(), Revocations::none());
        ConfigCell::new(Upstreams::new(
            tls,
            &Limits::default(),
            Locality::default(),
            crate::telemetry::Hits::default(),
        ))
    }

    fn service(name: &str, fronted: bool, policies: Vec<PolicyKey>, routes: Vec<RouteKey>) -> Service {
        Service {
            key: ServiceKey::new("tools", &format!("{name}.tools.svc.cluster.local")),
            name: name.to_owned(),
            fronted,
            aliases: Vec::new(),
            vips: if fronted { vec!["10.96.0.1".parse().unwrap()] } else { Vec::new() },
            ports: [(80, ServicePort::new(None, Protocol::Http))].into(),
            endpoints: Vec::new(),
            policies,
            routes,
            jwt: Vec::new(),
        }
    }

    fn mesh(policy: &Arc<Policy>, routes: Vec<RouteKey>) -> Arc<MeshConfig> {
        let service = service("x", true, vec![policy.key.clone()], routes);
        let policies = [(policy.key.clone(), Arc::clone(policy))].into();
        let services = [(service.key.clone(), Arc::new(service))].into();
        Arc::new(MeshConfig { services, policies, ..MeshConfig::default() })
    }

    /// Service `x` splits between the services `a` and `b`, a million to one; each has one workload of its name.
    fn split() -> Arc<MeshConfig> {
        let mut mesh = MeshConfig::default();
        let key = RouteKey::new("tools", "split");
        let mut backends = Vec::new();
        for (name, weight) in [("a", 1_000_000), ("b", 1)] {
            let uid = WorkloadUid(name.into());
            let mut service = service(name, false, Vec::new(), Vec::new());
            service.endpoints.push(Endpoint {
                workload: uid.clone(),
                ports: [(80, 8080)].into(),
                ready: true,
            });
            let target = BackendTarget::Service(service.key.clone(), 80);
            backends.push(Backend {
                target,
                weight,
                request_headers: Vec::new(),
                response_headers: Vec::new(),
            });
            mesh.services.insert(service.key.clone(), Arc::new(service));
            mesh.workloads.insert(uid.clone(), Arc::new(workload(uid)));
        }
        let rule = RouteRule {
            name: "split".to_owned(),
            matches: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
            action: RouteAction::Forward { backends, rewrite: Rewrite::default() },
            timeout: None,
            backend_timeout: None,
            policy: waypoint_model::RoutePolicy::default(),
        };
        let route = Route {
            key: key.clone(),
            hostnames: Vec::new(),
            port: None,
            rules: vec![rule],
            order: waypoint_model::RouteOrder::Precedence,
        };
        mesh.routes.insert(key.clone(), Arc::new(route));
        let front = service("x", true, Vec::new(), vec![key]);
        mesh.services.insert(front.key.clone(), Arc::new(front));
        Arc::new(mesh)
    }

    fn workload(uid: WorkloadUid) -> Workload {
        let name = uid.0.to_string();
        Workload {
            uid,
            name: name.as_str().into(),
            namespace: "tools".into(),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            identity: None,
            tunnel: TunnelKind::Plain,
            locality: Locality::default(),
            workload_name: name.as_str().into(),
            canonical_name: name.as_str().into(),
            canonical_revision: "v1".into(),
            app: None,
            version: None,
            cluster: "".into(),
        }
    }

    fn policy() -> Arc<Policy> {
        let key = PolicyKey::new("tools", "p");
        Arc::new(Policy { key, action: Action::Allow, dry_run: false, rules: Vec::new(), unusable: None })
    }

    #[tokio::test]
    async fn what_did_not_change_is_not_compiled_again() {
        let (cell, policy_a) = (cell(), policy());
        let target = Target::parse("10.96.0.1:80").unwrap();
        let set = |cell: &ConfigCell| Arc::clone(&cell.load().unwrap().destination(&target).unwrap().policy);
        assert!(cell.load().is_none());
        assert_eq!(cell.apply(&mesh(&policy_a, Vec::new())), 1);
        let first = set(&cell);
        assert_eq!(cell.apply(&mesh(&policy_a, Vec::new())), 2);
        assert!(Arc::ptr_eq(&first, &set(&cell)));
        assert_eq!(cell.apply(&mesh(&policy(), Vec::new())), 3);
        assert!(!Arc::ptr_eq(&first, &set(&cell)));
    }

    #[tokio::test]
    async fn addresses_and_ports_that_are_not_ours_are_told_apart() {
        let cell = cell();
        cell.apply(&mesh(&policy(), Vec::new()));
        let snapshot = cell.load().unwrap();
        let rows = [
            ("10.96.0.1:80", None),
            ("[::ffff:10.96.0.1]:80", None),
            ("X.tools.svc.cluster.local:80", None),
            ("10.96.0.1:81", Some("unknown_destination")),
            ("10.96.0.2:80", Some("not_ours")),
            ("y.tools.svc.cluster.local:80", Some("unknown_destination")),
        ];
        for (target, want) in rows {
            let found = snapshot.destination(&Target::parse(target).unwrap());
            assert_eq!(found.err().map(|refusal| refusal.reason()), want, "{target}");
        }
    }

    /// Service `x` with a chain of its own on port 80.
    fn governed(policies: &[Arc<Policy>], chain: waypoint_model::Chain) -> Arc<MeshConfig> {
        let mut service = service("x", true, Vec::new(), Vec::new());
        service.ports.insert(80, ServicePort { chain, ..ServicePort::new(None, Protocol::Http) });
        let policies = policies.iter().map(|policy| (policy.key.clone(), Arc::clone(policy))).collect();
        let services = [(service.key.clone(), Arc::new(service))].into();
        Arc::new(MeshConfig { services, policies, ..MeshConfig::default() })
    }

    #[tokio::test]
    async fn a_port_obeys_the_policies_of_its_own_chain() {
        let (cell, own) = (cell(), policy());
        let target = Target::parse("10.96.0.1:80").unwrap();
        let allowed = |cell: &ConfigCell| {
            let snapshot = cell.load().unwrap();
            let destination = snapshot.destination(&target).unwrap();
            let ip = "10.0.0.1".parse().unwrap();
            let attributes = waypoint_policy::Attributes {
                source: waypoint_policy::Source { identity: None, ip, remote_ip: ip },
                destination: waypoint_policy::Destination { ip: None, port: 80, sni: None },
                http: None,
            };
            destination.opaque_policy.decide_stream(&attributes).is_ok()
        };
        let chain = |keys: &[&PolicyKey]| waypoint_model::Chain {
            policies: keys.iter().map(|key| (*key).clone()).collect(),
            ..waypoint_model::Chain::default()
        };
        cell.apply(&governed(&[], chain(&[])));
        assert!(allowed(&cell), "no policy at all");
        cell.apply(&governed(&[Arc::clone(&own)], chain(&[&own.key])));
        assert!(!allowed(&cell), "an ALLOW without rules");
        cell.apply(&governed(&[], chain(&[&PolicyKey::new("tools", "gone")])));
        assert!(!allowed(&cell), "a policy that nobody delivered");
        cell.apply(&governed(&[], chain(&[])));
        assert!(allowed(&cell), "what was missing before is not kept");
    }

    #[tokio::test]
    async fn a_chain_that_is_not_understood_serves_nothing() {
        let cell = cell();
        let why = Some("filter envoy.filters.http.lua is not supported".to_owned());
        cell.apply(&governed(
            &[],
            waypoint_model::Chain { unusable: why, ..waypoint_model::Chain::default() },
        ));
        let snapshot = cell.load().unwrap();
        let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
        let refusal = destination.served().expect_err("refused");
        assert_eq!(refusal.status(), http::StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refusal.detail(), "unserved: not served: filter envoy.filters.http.lua is not supported");
        assert!(!destination.policy.is_empty(), "and policy would deny, were it asked");
    }

    #[tokio::test]
    async fn a_chain_says_how_paths_are_normalized_and_which_routes_are_tried() {
        let cell = cell();
        let chain = waypoint_model::Chain {
            routes: vec![RouteKey::new("tools", "gone")],
            path_normalization: Some(waypoint_model::PathNormalization::DecodeAndMergeSlashes),
            ..waypoint_model::Chain::default()
        };
        cell.apply(&governed(&[], chain));
        let snapshot = cell.load().unwrap();
        let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
        let want = waypoint_model::PathNormalization::DecodeAndMergeSlashes;
        assert_eq!(destination.path_normalization, want);
        let (parts, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        let selected = destination.routes.select("x", "/", None, &parts, None);
        assert!(matches!(selected, Some(Selected::Broken { .. })));
    }

    #[tokio::test]
    async fn a_workload_is_addressed_by_its_own_address_on_any_port() {
        let (cell, own) = (cell(), policy());
        let pods = |chain| waypoint_model::Pods {
            addresses: ["127.0.0.1", "127.0.0.2"].map(|ip| ip.parse().unwrap()).into(),
            protocol: Protocol::Undeclared,
            chain,
        };
        let mesh = |chain| {
            let uid = WorkloadUid("a".into());
            Arc::new(MeshConfig {
                pods: Some(Arc::new(pods(chain))),
                workloads: [(uid.clone(), Arc::new(workload(uid)))].into_iter().collect(),
                policies: [(own.key.clone(), Arc::clone(&own))].into(),
                ..MeshConfig::default()
            })
        };
        let at = |cell: &ConfigCell, target: &str| {
            cell.load().unwrap().destination(&Target::parse(target).unwrap())
        };
        cell.apply(&mesh(waypoint_model::Chain::default()));
        let first = at(&cell, "127.0.0.1:8080").unwrap();
        assert_eq!((first.port, first.cluster.holds(&WorkloadUid("a".into()))), (8080, true));
        assert!(Arc::ptr_eq(&first, &at(&cell, "[::ffff:127.0.0.1]:8080").unwrap()), "made once");
        assert_eq!(at(&cell, "127.0.0.1:9090").unwrap().port, 9090);
        assert!(first.policy.is_empty() && first.served().is_ok());
        for (target, why) in [("127.0.0.2:8080", "no such workload"), ("127.0.0.3:8080", "not fronted")] {
            let refused = at(&cell, target).err().map(|refusal| refusal.reason());
            assert_eq!(refused, Some("not_ours"), "{why}");
        }
        let policies = vec![own.key.clone()];
        cell.apply(&mesh(waypoint_model::Chain { policies, ..waypoint_model::Chain::default() }));
        assert!(!at(&cell, "127.0.0.1:8080").unwrap().policy.is_empty(), "the newest policies hold");
        cell.apply(&Arc::new(MeshConfig::default()));
        assert_eq!(at(&cell, "127.0.0.1:8080").err().map(|refusal| refusal.reason()), Some("not_ours"));
    }

    #[tokio::test]
    async fn an_address_and_port_of_two_services_serves_neither() {
        let cell = cell();
        let mut mesh = MeshConfig::default();
        for (name, port) in [("a", 80), ("b", 80), ("c", 81)] {
            let mut service = service(name, true, Vec::new(), Vec::new());
            service.ports = [(port, ServicePort::new(None, Protocol::Http))].into();
            mesh.services.insert(service.key.clone(), Arc::new(service));
        }
        cell.apply(&Arc::new(mesh));
        let snapshot = cell.load().unwrap();
        let served = |target: &str| snapshot.destination(&Target::parse(target).unwrap()).unwrap().served();
        let why = served("10.96.0.1:80").expect_err("contested").detail();
        assert!(why.contains("tools/a.tools") && why.contains("tools/b.tools"), "{why}");
        assert!(served("10.96.0.1:81").is_ok(), "another port of the address is one service's own");
        assert!(served("a.tools.svc.cluster.local:80").is_ok(), "its name is its own");
    }

    #[tokio::test]
    async fn opaque_streams_go_by_weight_where_the_chain_splits_them() {
        let cell = cell();
        let split = |weights: &[(&str, u32)]| waypoint_model::Chain {
            streams: weights.iter().map(|(key, weight)| (ClusterKey((*key).into()), *weight)).collect(),
            ..waypoint_model::Chain::default()
        };
        let taken = |chain| {
            let mut mesh = Arc::unwrap_or_clone(governed(&[], chain));
            for (name, port) in [("a", 1), ("b", 2)] {
                let key = ClusterKey(name.into());
                let cluster = waypoint_model::Cluster {
                    key: key.clone(),
                    service: ServiceKey::new("tools", name),
                    port,
                    subset: None,
                    endpoints: Vec::new(),
                    traffic: waypoint_model::TrafficPolicy::default(),
                    unusable: None,
                };
                mesh.clusters.insert(key, Arc::new(cluster));
            }
            cell.apply(&Arc::new(mesh));
            let snapshot = cell.load().unwrap();
            let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
            (0..100).map(|_| destination.stream_cluster().port()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(taken(split(&[])), [80].into(), "the port's own");
        assert_eq!(taken(split(&[("a", 0), ("b", 1)])), [2].into());
        assert_eq!(taken(split(&[("a", 1), ("b", 1)])), [1, 2].into());
        assert_eq!(taken(split(&[("gone", 1)])), [80].into(), "a cluster that leads nowhere");
    }

    #[tokio::test]
    async fn a_route_that_nobody_delivered_leads_nowhere() {
        let cell = cell();
        cell.apply(&mesh(&policy(), vec![RouteKey::new("tools", "gone")]));
        let snapshot = cell.load().unwrap();
        let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
        let (parts, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        let selected = destination.routes.select("x", "/", None, &parts, None);
        assert!(matches!(selected, Some(Selected::Broken { .. })));
    }

    #[tokio::test]
    async fn a_session_goes_to_its_workload_whatever_the_weights() {
        let cell = cell();
        cell.apply(&split());
        let snapshot = cell.load().unwrap();
        let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
        let (parts, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        let taken =
            |pinned: Option<&WorkloadUid>| match destination.routes.select("x", "/", None, &parts, pinned) {
                Some(Selected::Forward(forward)) => forward.cluster.service().name.clone(),
                _ => panic!("not forwarded"),
            };
        for _ in 0..20 {
            assert_eq!(taken(Some(&WorkloadUid("b".into()))), "b");
            assert_eq!(taken(Some(&WorkloadUid("a".into()))), "a");
            assert_eq!(taken(Some(&WorkloadUid("gone".into()))), "a");
        }
    }

    /// `x`, whose port leads to the cluster `c`.
    fn chained(clusters: Vec<waypoint_model::Cluster>) -> Arc<MeshConfig> {
        let mut x = service("x", true, Vec::new(), Vec::new());
        let port = x.ports.get_mut(&80).unwrap();
        port.chain.cluster = Some(ClusterKey("c".into()));
        let clusters = clusters.into_iter().map(|cluster| (cluster.key.clone(), Arc::new(cluster))).collect();
        let services = [(x.key.clone(), Arc::new(x))].into();
        Arc::new(MeshConfig { services, clusters, ..MeshConfig::default() })
    }

    #[tokio::test]
    async fn a_port_leads_to_its_cluster_and_nowhere_where_nobody_delivered_that() {
        let told = waypoint_model::Cluster {
            key: ClusterKey("c".into()),
            service: ServiceKey::new("other", "elsewhere"),
            port: 81,
            subset: None,
            endpoints: Vec::new(),
            traffic: waypoint_model::TrafficPolicy::default(),
            unusable: None,
        };
        let cell = cell();
        for (clusters, port) in [(vec![told], 81), (Vec::new(), 80)] {
            cell.apply(&chained(clusters));
            let snapshot = cell.load().unwrap();
            let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
            assert_eq!(destination.cluster.port(), port);
            assert_eq!(destination.cluster.is_missing(), port == 80);
        }
    }

    /// `ambient.istio.io/xfcc-include-client-identity`: of one port, or of the process.
    #[tokio::test]
    async fn a_port_tells_who_called_where_its_settings_or_the_process_say_so() {
        let cell = cell();
        for (told, process, want) in [
            (None, false, false),
            (None, true, true),
            (Some(false), false, false),
            (Some(true), false, true),
            (Some(false), true, true),
        ] {
            let mut x = service("x", true, Vec::new(), Vec::new());
            x.ports.get_mut(&80).unwrap().chain.telemetry = told.map(|client_identity_header| {
                Arc::new(waypoint_model::TelemetrySettings { client_identity_header, ..Default::default() })
            });
            let services = [(x.key.clone(), Arc::new(x))].into();
            cell.apply(&Arc::new(MeshConfig { services, ..MeshConfig::default() }));
            let snapshot = cell.load().unwrap();
            let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
            assert_eq!(destination.tells_identity(process), want, "{told:?} {process}");
            assert_eq!(destination.telemetry.is_some(), told.is_some());
        }
    }
}
