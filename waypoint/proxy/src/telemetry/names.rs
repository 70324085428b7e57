//! Names that may become label values: a client may write any text as a tool's name, so only names that a server
//! really listed, or that a policy spells out, are shown; all others are `other`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use agent_protocols::mcp::methods;
use arc_swap::ArcSwap;
use waypoint_model::{Expr, MeshConfig, ServiceKey, StringMatch, Test};

use super::labels::OTHER;

/// Names kept for one service; what a server lists beyond it is `other`.
const NAMES_PER_SERVICE: usize = 1_000;

/// Longest name that is kept, in bytes.
const LONGEST_NAME: usize = 256;

type Names = HashMap<ServiceKey, Arc<HashSet<Arc<str>>>>;

/// Names by service. Reading takes no lock; writing copies what changes, which is rare.
pub(super) struct KnownNames {
    by_policy: ArcSwap<Names>,
    listed: ArcSwap<Names>,
    services: usize,
    other: Arc<str>,
}

impl KnownNames {
    /// `services` bounds the services whose listed names are kept.
    pub(super) fn new(services: usize) -> Self {
        Self { by_policy: ArcSwap::default(), listed: ArcSwap::default(), services, other: OTHER.into() }
    }

    /// The name itself if it is known for the service, else `other`.
    pub(super) fn bound(&self, service: Option<&ServiceKey>, name: &str) -> Arc<str> {
        let find = |names: &ArcSwap<Names>| names.load().get(service?)?.get(name).cloned();
        find(&self.by_policy).or_else(|| find(&self.listed)).unwrap_or_else(|| Arc::clone(&self.other))
    }

    /// Names that a server of the service listed.
    pub(super) fn listed(&self, service: &ServiceKey, names: &[String]) {
        let fits = |name: &&String| name.len() <= LONGEST_NAME;
        let known = self.listed.load();
        let have = known.get(service);
        let full = have.is_some_and(|set| set.len() >= NAMES_PER_SERVICE);
        let new = |name: &&String| have.is_none_or(|set| !set.contains(name.as_str()));
        if full || !names.iter().filter(fits).any(|name| new(&name)) {
            return;
        }
        self.listed.rcu(|all| {
            let mut all: Names = all.as_ref().clone();
            if !all.contains_key(service) && all.len() >= self.services {
                return all;
            }
            let mut set = all.get(service).map(|set| set.as_ref().clone()).unwrap_or_default();
            for name in names.iter().filter(fits) {
                if set.len() < NAMES_PER_SERVICE {
                    set.insert(name.as_str().into());
                }
            }
            all.insert(service.clone(), Arc::new(set));
            all
        });
    }

    /// Names that policies spell out for each service; replaces those of the mesh before.
    pub(super) fn named_by_policies(&self, mesh: &MeshConfig) {
        let of_service = |service: &waypoint_model::Service| {
            let of_ports = service.ports.values().flat_map(|port| &port.chain.policies);
            let keys = service.policies.iter().chain(of_ports);
            let policies = keys.filter_map(|key| mesh.policies.get(key));
            let mut names = HashSet::new();
            policies.flat_map(|policy| &policy.rules).for_each(|rule| collect(&rule.when, &mut names));
            names
        };
        let by_service = mesh.services.values().map(|service| (service.key.clone(), of_service(service)));
        let named = by_service.filter(|(_, names)| !names.is_empty());
        self.by_policy.store(Arc::new(named.map(|(key, names)| (key, Arc::new(names))).collect()));
    }
}

fn collect(expr: &Expr, into: &mut HashSet<Arc<str>>) {
    match expr {
        Expr::All(parts) | Expr::Any(parts) => parts.iter().for_each(|part| collect(part, into)),
        Expr::Not(part) => collect(part, into),
        Expr::Test(Test::Fact { key, value: StringMatch::Exact(name), .. })
            if matches!(key.as_str(), "tool" | "prompt" | "resource") =>
        {
            into.insert(name.as_str().into());
        }
        Expr::Test(_) => {}
    }
}

/// MCP methods of all revisions: as label values, any other text is `other`.
pub(super) fn bound_method(method: Option<&str>) -> &'static str {
    let Some(method) = method else { return super::labels::NONE };
    methods().iter().find(|known| known.name == method).map_or(OTHER, |known| known.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_only_after_the_server_listed_it() {
        let names = KnownNames::new(10);
        let (a, b) = (ServiceKey::new("ns", "a"), ServiceKey::new("ns", "b"));
        assert_eq!(&*names.bound(Some(&a), "search"), "other");
        names.listed(&a, &["search".to_owned()]);
        assert_eq!(&*names.bound(Some(&a), "search"), "search");
        assert_eq!(&*names.bound(Some(&b), "search"), "other");
        assert_eq!(&*names.bound(None, "search"), "other");
    }

    #[test]
    fn a_server_cannot_fill_the_names_without_bound() {
        let names = KnownNames::new(1);
        let (a, b) = (ServiceKey::new("ns", "a"), ServiceKey::new("ns", "b"));
        let many: Vec<String> = (0..NAMES_PER_SERVICE + 5).map(|n| n.to_string()).collect();
        names.listed(&a, &many);
        names.listed(&b, &["late".to_owned()]);
        assert_eq!(&*names.bound(Some(&a), "0"), "0");
        assert_eq!(&*names.bound(Some(&a), &NAMES_PER_SERVICE.to_string()), "other");
        assert_eq!(&*names.bound(Some(&b), "late"), "other");
        assert_eq!(names.listed.load().get(&a).map(|set| set.len()), Some(NAMES_PER_SERVICE));
    }

    #[test]
    fn a_very_long_name_is_not_kept() {
        let names = KnownNames::new(1);
        let a = ServiceKey::new("ns", "a");
        let long = "x".repeat(LONGEST_NAME + 1);
        names.listed(&a, std::slice::from_ref(&long));
        assert_eq!(&*names.bound(Some(&a), &long), "other");
    }

    #[test]
    fn methods_outside_the_protocol_are_other() {
        for known in ["tools/call", "initialize", "notifications/initialized"] {
            assert_eq!(bound_method(Some(known)), known);
        }
        assert_eq!(bound_method(Some("x/evil")), "other");
        assert_eq!(bound_method(None), "-");
    }
}
