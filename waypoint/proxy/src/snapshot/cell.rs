//! The one place where the newest snapshot stands.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use waypoint_model::MeshConfig;

use super::{Snapshot, build::build};
use crate::upstream::Upstreams;

/// Holds the newest snapshot; a request loads it once. Cheap to clone.
#[derive(Clone)]
pub struct ConfigCell(Arc<Inner>);

struct Inner {
    upstreams: Arc<Upstreams>,
    newest: ArcSwapOption<Snapshot>,
    generation: watch::Sender<u64>,
}

impl ConfigCell {
    /// A cell without a snapshot: nothing is served until the first [`ConfigCell::apply`].
    #[must_use]
    pub fn new(upstreams: Arc<Upstreams>) -> Self {
        Self(Arc::new(Inner { upstreams, newest: ArcSwapOption::empty(), generation: watch::Sender::new(0) }))
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
        let (snapshot, clusters) = build(mesh, &inner.upstreams, previous.as_deref(), generation);
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
    use certs::{MeshTls, Revocations, SvidSource, TrustDomains, X509Svid};
    use hbone::Target;
    use waypoint_model::{
        Action, Locality, Policy, PolicyKey, Protocol, RouteKey, Service, ServiceKey, ServicePort,
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
        ConfigCell::new(Upstreams::new(tls, &Limits::default(), Locality::default()))
    }

    fn mesh(policy: &Arc<Policy>, routes: Vec<RouteKey>) -> Arc<MeshConfig> {
        let key = ServiceKey::new("tools", "x.tools.svc.cluster.local");
        let service = Service {
            key: key.clone(),
            name: "x".to_owned(),
            fronted: true,
            aliases: Vec::new(),
            vips: vec!["10.96.0.1".parse().unwrap()],
            ports: [(80, ServicePort { name: None, protocol: Protocol::Http })].into(),
            endpoints: Vec::new(),
            policies: vec![policy.key.clone()],
            routes,
        };
        let policies = [(policy.key.clone(), Arc::clone(policy))].into();
        Arc::new(MeshConfig {
            services: [(key, Arc::new(service))].into(),
            policies,
            ..MeshConfig::default()
        })
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

    #[tokio::test]
    async fn a_route_that_nobody_delivered_leads_nowhere() {
        let cell = cell();
        cell.apply(&mesh(&policy(), vec![RouteKey::new("tools", "gone")]));
        let snapshot = cell.load().unwrap();
        let destination = snapshot.destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
        let (parts, ()) = http::Request::get("/").body(()).unwrap().into_parts();
        let selected = destination.routes.select("x", "/", None, &parts);
        assert!(matches!(selected, Some(crate::routing::table::Selected::Broken { .. })));
    }
}
