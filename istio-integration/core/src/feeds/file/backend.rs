//! Routes to the services they attach to, and their backends to the services they lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypoint_model::{
    Backend, BackendTarget, Map, Mirror, Protocol, Rewrite, Route, RouteAction, RouteKey, RouteOrder,
    RoutePolicy, RouteRule,
};

use super::document::{Kind, Origin, ResourceKey};
use super::finding::{Finding, Severity};
use super::http_route::{ActionDoc, BackendDoc, Parent, RouteDoc, RuleDoc};
use super::http_route_policy::MirrorDoc;
use super::reference_grant::GrantDoc;
use super::resource::{Resource, Resources};
use super::service::ServiceDoc;

/// Routes in force, and the services that they are attached to, in the order in which they are tried.
#[derive(Default)]
pub(super) struct Routed {
    pub(super) routes: Map<RouteKey, Arc<Route>>,
    services: BTreeMap<ResourceKey, Vec<RouteKey>>,
}

impl Routed {
    /// Routes of a service.
    pub(super) fn of(&self, service: &ResourceKey) -> Vec<RouteKey> {
        self.services.get(service).cloned().unwrap_or_default()
    }
}

/// What routing needs to know of the mesh.
pub(super) struct Routing<'a> {
    services: BTreeMap<&'a ResourceKey, &'a ServiceDoc>,
    grants: Vec<(&'a str, &'a GrantDoc)>,
}

impl<'a> Routing<'a> {
    pub(super) fn new(resources: &'a Resources) -> Self {
        let mut routing = Self { services: BTreeMap::new(), grants: Vec::new() };
        for (key, entry) in resources {
            match entry.resource.as_ref() {
                Resource::Service(doc) => drop(routing.services.insert(key, doc)),
                Resource::Grant(doc) => routing.grants.push((&key.namespace, doc)),
                _ => {}
            }
        }
        routing
    }

    /// Attaches every route, the oldest first and then by name, as the Gateway API breaks ties.
    pub(super) fn run(&self, resources: &Resources, findings: &mut Vec<Finding>) -> Routed {
        let routes = resources.iter().filter_map(|(key, entry)| match entry.resource.as_ref() {
            Resource::Route(doc) => Some((key, &entry.origin, doc)),
            _ => None,
        });
        let mut routes: Vec<_> = routes.collect();
        routes.sort_by_key(|(key, _, doc)| (doc.created.is_none(), &doc.created, *key));
        let mut routed = Routed::default();
        for (key, origin, doc) in routes {
            self.route(doc, &mut routed, &mut About { route: key, origin, findings });
        }
        routed
    }

    fn route(&self, doc: &RouteDoc, routed: &mut Routed, about: &mut About<'_>) {
        let key = about.route;
        let mut attached = BTreeSet::new();
        for parent in &doc.parents {
            match self.attached(parent, &key.namespace) {
                Ok(port) => {
                    self.warn_of_opaque(parent, port, about);
                    attached.insert((port, &parent.service));
                }
                Err(message) => about.say(Severity::Error, &parent.field, message),
            }
        }
        if attached.is_empty() {
            return;
        }
        let rules: Vec<RouteRule> = doc.rules.iter().map(|rule| self.rule(rule, about)).collect();
        let ports: BTreeSet<Option<u16>> = attached.iter().map(|(port, _)| *port).collect();
        for (port, service) in attached {
            let route = RouteKey::new(&key.namespace, &route_name(&key.name, port, ports.len()));
            routed.services.entry(service.clone()).or_default().push(route.clone());
            routed.routes.entry(route.clone()).or_insert_with(|| {
                Arc::new(Route {
                    key: route,
                    hostnames: doc.hostnames.clone(),
                    port,
                    rules: rules.clone(),
                    order: RouteOrder::Precedence,
                })
            });
        }
    }

    /// The port that a route is limited to at this parent, or why it does not attach.
    fn attached(&self, parent: &Parent, namespace: &str) -> Result<Option<u16>, String> {
        let name = parent.service.full_name();
        if parent.service.namespace != namespace {
            return Err(format!(
                "{name} is in another namespace: a waypoint takes routes of the service's own only"
            ));
        }
        let service = self.services.get(&parent.service);
        let service =
            service.ok_or_else(|| format!("{} {name} is not in the folder", parent.service.kind))?;
        if let Some(port) = parent.port.filter(|port| !service.ports.contains_key(port)) {
            return Err(format!("{name} has no port {port}"));
        }
        let Some(section) = &parent.section else { return Ok(parent.port) };
        let mut ports = service.ports.iter();
        let named = ports.find(|(number, doc)| {
            doc.port.name.as_ref() == Some(section) && parent.port.is_none_or(|port| port == **number)
        });
        named.map(|(number, _)| Some(*number)).ok_or_else(|| format!("{name} has no port named {section}"))
    }

    /// Nothing is routed where nothing is read.
    fn warn_of_opaque(&self, parent: &Parent, port: Option<u16>, about: &mut About<'_>) {
        let ports = self.services.get(&parent.service).into_iter().flat_map(|service| &service.ports);
        let mut ports = ports.filter(|(number, _)| port.is_none_or(|port| port == **number));
        if ports.all(|(_, doc)| matches!(doc.port.protocol, Protocol::Tcp | Protocol::Tls)) {
            let message = "has no effect: the port carries opaque bytes, not HTTP";
            about.say(Severity::Warning, &parent.field, message.to_owned());
        }
    }

    fn rule(&self, doc: &RuleDoc, about: &mut About<'_>) -> RouteRule {
        let action = match &doc.action {
            ActionDoc::Redirect(redirect) => RouteAction::Redirect(redirect.clone()),
            ActionDoc::Forward { backends, rewrite } => RouteAction::Forward {
                backends: backends.iter().map(|backend| self.backend(backend, about)).collect(),
                rewrite: rewrite.clone(),
            },
            ActionDoc::Refuse(why) => RouteAction::Forward {
                backends: vec![Backend {
                    target: BackendTarget::Missing(why.clone()),
                    weight: 1,
                    request_headers: Vec::new(),
                    response_headers: Vec::new(),
                }],
                rewrite: Rewrite::default(),
            },
        };
        RouteRule {
            name: doc.name.clone(),
            matches: doc.matches.clone(),
            request_headers: doc.request_headers.clone(),
            response_headers: doc.response_headers.clone(),
            action,
            timeout: doc.timeout,
            backend_timeout: doc.backend_timeout,
            policy: self.policy(doc, about),
        }
    }

    /// A mirror that leads nowhere is left out: the request itself goes its way (Gateway API).
    fn policy(&self, doc: &RuleDoc, about: &mut About<'_>) -> RoutePolicy {
        let mut mirrors = Vec::new();
        for MirrorDoc { backend, fraction } in &doc.mirrors {
            match self.target(backend, &about.route.namespace) {
                Ok(target) => mirrors.push(Mirror { target, fraction: *fraction }),
                Err(message) => {
                    about.say(Severity::Error, &backend.field, format!("{message}; nothing is mirrored"));
                }
            }
        }
        let (retries, cors) = (doc.retries.clone(), doc.cors.clone());
        RoutePolicy { retries, mirrors, cors, ..RoutePolicy::default() }
    }

    fn backend(&self, doc: &BackendDoc, about: &mut About<'_>) -> Backend {
        let target = self.target(doc, &about.route.namespace).unwrap_or_else(|message| {
            about.say(
                Severity::Error,
                &doc.field,
                format!("{message}; its share of requests is answered with 500"),
            );
            BackendTarget::Missing(message)
        });
        Backend {
            target,
            weight: doc.weight,
            request_headers: doc.request_headers.clone(),
            response_headers: doc.response_headers.clone(),
        }
    }

    fn target(&self, doc: &BackendDoc, namespace: &str) -> Result<BackendTarget, String> {
        let BackendDoc { namespace: to, name, .. } = doc;
        let granted = || self.grants.iter().any(|(at, grant)| at == to && grant.permits(namespace, name));
        if to != namespace && !granted() {
            return Err(format!(
                "no ReferenceGrant in namespace {to} lets routes of {namespace} lead to {to}/{name}"
            ));
        }
        let key = ResourceKey { kind: Kind::Service, namespace: to.clone(), name: name.clone() };
        let service =
            self.services.get(&key).ok_or_else(|| format!("Service {to}/{name} is not in the folder"))?;
        let port = doc.port.ok_or_else(|| format!("the port of Service {to}/{name} is not given"))?;
        if !service.ports.contains_key(&port) {
            return Err(format!("Service {to}/{name} has no port {port}"));
        }
        Ok(BackendTarget::Service(service.key.clone(), port))
    }
}

/// The route that findings are about.
struct About<'a> {
    route: &'a ResourceKey,
    origin: &'a Origin,
    findings: &'a mut Vec<Finding>,
}

impl About<'_> {
    fn say(&mut self, severity: Severity, field: &str, message: String) {
        self.findings.push(self.route.finding(self.origin, severity, field, message));
    }
}

/// The model limits a route to one port, so a route that attaches to several is several routes.
fn route_name(name: &str, port: Option<u16>, ports: usize) -> String {
    match port {
        Some(port) if ports > 1 => format!("{name}:{port}"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::Loaded;
    use crate::feeds::file::testing::{POD, SERVICE, all, findings, load, web};

    fn route(name: &str, created: &str, parent: &str, rule: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: a{created}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rule}]}}\n"
        )
    }

    fn first_backend(loaded: &Loaded, name: &str) -> BackendTarget {
        let route = loaded.mesh.routes.values().find(|route| &*route.key.name == name).unwrap();
        match &route.rules[0].action {
            RouteAction::Forward { backends, .. } => backends[0].target.clone(),
            RouteAction::Redirect(_) | RouteAction::Respond { .. } => panic!("forwards"),
        }
    }

    #[test]
    fn routes_are_tried_by_age_then_name() {
        let rule = "{backendRefs: [{name: web, port: 80}]}";
        let made = |time: &str| format!(", creationTimestamp: '{time}'");
        let documents = [
            route("by-hand-b", "", "name: web", rule),
            route("by-hand-a", "", "name: web", rule),
            route("younger", &made("2026-02-01T00:00:00Z"), "name: web", rule),
            route("older", &made("2026-01-01T00:00:00Z"), "name: web, port: 80", rule),
        ];
        let mut all_documents = vec![SERVICE, POD];
        all_documents.extend(documents.iter().map(String::as_str));
        let loaded = load(&all(&all_documents));
        let names: Vec<_> = web(&loaded).routes.iter().map(|key| key.name.to_string()).collect();
        assert_eq!(names, ["older", "younger", "by-hand-a", "by-hand-b"]);
        let target = BackendTarget::Service(web(&loaded).key.clone(), 80);
        assert_eq!(first_backend(&loaded, "older"), target);
        assert_eq!(loaded.mesh.routes.values().filter(|route| route.port == Some(80)).count(), 1);
    }

    #[test]
    fn parents_and_backends_that_lead_nowhere_are_named() {
        let good = "{backendRefs: [{name: web, port: 80}]}";
        let rows = [
            ("name: none", good, "spec.parentRefs[0]", false),
            ("name: web, port: 99", good, "spec.parentRefs[0]", false),
            ("name: web, sectionName: none", good, "spec.parentRefs[0]", false),
            ("name: web, namespace: b", good, "spec.parentRefs[0]", false),
            ("name: web", "{backendRefs: [{name: none, port: 80}]}", "spec.rules[0].backendRefs[0]", true),
            ("name: web", "{backendRefs: [{name: web}]}", "spec.rules[0].backendRefs[0]", true),
            ("name: web", "{backendRefs: [{name: web, port: 99}]}", "spec.rules[0].backendRefs[0]", true),
            (
                "name: web",
                "{backendRefs: [{name: web, namespace: b, port: 80}]}",
                "spec.rules[0].backendRefs[0]",
                true,
            ),
        ];
        for (parent, rule, field, attached) in rows {
            let loaded = load(&all(&[SERVICE, POD, &route("r", "", parent, rule)]));
            let errors: Vec<_> = loaded.findings.iter().filter(|f| f.severity == Severity::Error).collect();
            assert_eq!(
                errors.iter().filter_map(|f| f.field.as_deref()).collect::<Vec<_>>(),
                [field],
                "{parent} {rule}"
            );
            assert_eq!(!web(&loaded).routes.is_empty(), attached, "{parent} {rule}");
            if attached {
                assert!(matches!(first_backend(&loaded, "r"), BackendTarget::Missing(_)), "{rule}");
            }
        }
    }

    #[test]
    fn a_route_on_an_opaque_port_is_warned_of() {
        let rule = "{backendRefs: [{name: web, port: 80}]}";
        for (parent, warned) in [("name: web", 0), ("name: web, port: 80", 0), ("name: web, port: 81", 1)] {
            let loaded = load(&all(&[SERVICE, POD, &route("r", "", parent, rule)]));
            assert_eq!(findings(&loaded, Severity::Warning).len(), warned, "{parent} {:?}", loaded.findings);
        }
    }

    #[test]
    fn a_grant_opens_a_namespace_to_routes() {
        let far = SERVICE.replace("namespace: a", "namespace: b").replace("10.96.0.1", "10.96.0.3");
        let to_far = route(
            "r",
            "",
            "name: web, sectionName: http",
            "{backendRefs: [{name: web, namespace: b, port: 80}]}",
        );
        let grant = |namespace: &str, name: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: b}}\n\
                 spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {namespace}}}], to: [{{group: '', kind: Service{name}}}]}}\n"
            )
        };
        let rows = [
            (grant("a", ""), true),
            (grant("a", ", name: web"), true),
            (grant("a", ", name: other"), false),
            (grant("c", ""), false),
        ];
        for (grant, want) in rows {
            let loaded = load(&all(&[SERVICE, &far, POD, &to_far, &grant]));
            let got = matches!(first_backend(&loaded, "r"), BackendTarget::Service(..));
            assert_eq!(got, want, "{grant}");
            assert_eq!(loaded.mesh.routes.values().next().unwrap().port, Some(80));
        }
    }

    #[test]
    fn a_route_that_never_was_valid_refuses() {
        let bad = route("r", "", "name: web", "{filters: [{type: ExtensionRef}]}");
        let loaded = load(&all(&[SERVICE, POD, &bad]));
        let BackendTarget::Missing(why) = first_backend(&loaded, "r") else { panic!("refuses") };
        assert!(why.contains("ExtensionRef is not supported"), "{why}");
        assert_eq!(web(&loaded).routes.len(), 1);
    }
}
