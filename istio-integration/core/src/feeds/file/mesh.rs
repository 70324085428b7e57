//! All resources joined into one mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use waypoint_model::{Map, MeshConfig, Service, ServiceKey};

use super::attachment::Attachment;
use super::backend::Routing;
use super::binding::{Fronted, Waypoint};
use super::document::{Origin, ResourceKey};
use super::endpoints::Directory;
use super::finding::{Finding, Severity};
use super::namespace::NamespaceDoc;
use super::options::Options;
use super::resource::{Resource, Resources};
use super::service::ServiceDoc;

/// Joins resources. `unreadable` names the documents that may be policies and that nobody could read.
pub(super) fn join(
    resources: &Resources,
    unreadable: &[String],
    options: &Options,
) -> (MeshConfig, Vec<Finding>) {
    let mut findings = Vec::new();
    let namespaces = namespaces(resources);
    let waypoint = waypoint(resources, options, &mut findings);
    let services: Vec<_> = services(resources).collect();
    let mut fronted = BTreeMap::new();
    for (key, origin, doc) in &services {
        let ours = match waypoint.fronts(&doc.binding, &key.namespace, &namespaces) {
            Fronted::Yes => true,
            Fronted::No => false,
            Fronted::Refused(why) => {
                findings.push(key.finding(origin, Severity::Warning, "metadata.labels", why));
                false
            }
        };
        fronted.insert(*key, ours);
    }
    let attachment = Attachment { waypoint: &waypoint, services: &fronted };
    let attached = attachment.run(resources, unreadable, &mut findings);
    let routed = Routing::new(resources).run(resources, &mut findings);
    let mut directory = Directory::new(resources, &namespaces, options);
    let mut joined = Joined::default();
    for (key, origin, doc) in services {
        let service = Service {
            key: doc.key.clone(),
            name: doc.name.clone(),
            fronted: fronted.get(key).copied().unwrap_or_default(),
            aliases: doc.aliases.clone(),
            vips: doc.vips.clone(),
            ports: doc.ports.iter().map(|(number, port)| (*number, port.port.clone())).collect(),
            endpoints: directory.endpoints(key, origin, doc, &mut findings),
            policies: attached.of(key),
            routes: routed.of(key),
        };
        findings.extend(
            joined.add(service).into_iter().map(|message| key.finding(origin, Severity::Error, "", message)),
        );
    }
    let mesh = MeshConfig {
        services: joined.services,
        workloads: directory.into_workloads(),
        policies: attached.policies,
        routes: routed.routes,
        path_normalization: options.path_normalization,
    };
    (mesh, findings)
}

fn services(resources: &Resources) -> impl Iterator<Item = (&ResourceKey, &Origin, &ServiceDoc)> {
    resources.iter().filter_map(|(key, entry)| match entry.resource.as_ref() {
        Resource::Service(doc) => Some((key, &entry.origin, doc)),
        _ => None,
    })
}

fn namespaces(resources: &Resources) -> BTreeMap<&str, &NamespaceDoc> {
    let named = resources.iter().filter_map(|(key, entry)| match entry.resource.as_ref() {
        Resource::Namespace(doc) => Some((key.name.as_str(), doc)),
        _ => None,
    });
    named.collect()
}

/// Which Gateway we are: the one that the settings name, else the only one there is.
fn waypoint(resources: &Resources, options: &Options, findings: &mut Vec<Finding>) -> Waypoint {
    let gateways = resources.iter().filter_map(|(key, entry)| match entry.resource.as_ref() {
        Resource::Gateway(doc) if doc.ours => Some((key, &entry.origin, doc)),
        _ => None,
    });
    let gateways: Vec<_> = gateways.collect();
    if let Some((namespace, name)) = &options.gateway {
        let named = gateways.iter().find(|(key, ..)| key.namespace == *namespace && key.name == *name);
        let document = named.map(|(_, _, doc)| (*doc).clone());
        return Waypoint::Gateway { namespace: namespace.clone(), name: name.clone(), document };
    }
    match gateways.as_slice() {
        [] => Waypoint::Everything,
        [(key, _, doc)] => Waypoint::Gateway {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            document: Some((*doc).clone()),
        },
        several => {
            for (key, origin, _) in several {
                let message = "is one of several waypoints in the folder, so no service is served: name the Gateway to be";
                findings.push(key.finding(origin, Severity::Error, "", message));
            }
            Waypoint::Unknown
        }
    }
}

/// Services that do not claim what another has: a host or an address leads to one service.
#[derive(Default)]
struct Joined {
    services: Map<ServiceKey, Arc<Service>>,
    addresses: BTreeMap<IpAddr, ServiceKey>,
}

impl Joined {
    /// Adds a service; says what of it another one already has.
    fn add(&mut self, mut service: Service) -> Vec<String> {
        if self.services.contains_key(&service.key) {
            return vec![format!(
                "host {} belongs to another service of its namespace already",
                service.key.hostname
            )];
        }
        let mut taken = Vec::new();
        let Self { addresses, .. } = self;
        service.vips.retain(|vip| match addresses.get(vip) {
            Some(owner) => {
                taken.push(format!("address {vip} belongs to {owner} already and does not lead here"));
                false
            }
            None => true,
        });
        for vip in &service.vips {
            self.addresses.insert(*vip, service.key.clone());
        }
        self.services.insert(service.key.clone(), Arc::new(service));
        taken
    }
}

#[cfg(test)]
mod tests {
    use waypoint_model::{BackendTarget, PolicyKey, RouteAction, TunnelKind};

    use super::*;
    use crate::feeds::file::Loaded;
    use crate::feeds::file::testing::{findings, load, load_with};

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: main}, {name: tcp-x, port: 81, targetPort: 8081}]
";

    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: a, labels: {app: web}}
spec: {serviceAccountName: web, nodeName: node1, containers: [{name: c, ports: [{name: main, containerPort: 8080}]}]}
status: {podIP: 10.244.0.1}
";

    fn gateway(namespace: &str, name: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n"
        )
    }

    fn policy(namespace: &str, target: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\n\
             spec: {{targetRefs: [{target}], rules: [{{}}]}}\n"
        )
    }

    fn all(documents: &[&str]) -> String {
        documents.join("\n---\n")
    }

    fn service<'a>(loaded: &'a Loaded, key: &str) -> &'a Service {
        let found = loaded.mesh.services.values().find(|service| service.key.to_string() == key);
        found.unwrap_or_else(|| panic!("{key} is not there: {:?}", loaded.findings))
    }

    fn web(loaded: &Loaded) -> &Service {
        service(loaded, "a/web.a.svc.cluster.local")
    }

    /// Endpoint addresses with port and readiness, for one service port.
    fn served(loaded: &Loaded, service: &Service, port: u16) -> Vec<(String, u16, bool)> {
        let endpoints = service.endpoints.iter();
        let served = endpoints.filter_map(|endpoint| {
            let address = loaded.mesh.workloads[&endpoint.workload].addresses[0];
            Some((address.to_string(), *endpoint.ports.get(&port)?, endpoint.ready))
        });
        served.collect()
    }

    #[test]
    fn a_selector_finds_pods_and_their_named_ports() {
        let entry = "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, namespace: a}\n\
                     spec: {address: 10.0.0.9, labels: {app: web}, ports: {http: 9090}}\n";
        let elsewhere = POD.replace("namespace: a", "namespace: b");
        let loaded = load(&all(&[SERVICE, POD, entry, &elsewhere]));
        let got = web(&loaded);
        let want = [("10.244.0.1".to_owned(), 8080, true), ("10.0.0.9".to_owned(), 9090, true)];
        assert_eq!(served(&loaded, got, 80), want);
        assert_eq!(served(&loaded, got, 81)[1], ("10.0.0.9".to_owned(), 8081, true));
    }

    #[test]
    fn endpoint_slices_win_over_the_selector() {
        let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {name: s, namespace: a, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
                     ports: [{name: http, port: 7070}]\nendpoints: [{addresses: [10.244.0.1], targetRef: {kind: Pod, name: web-1}},\
                     {addresses: [10.244.9.9], conditions: {ready: false}, zone: z1}]\n";
        let loaded = load(&all(&[SERVICE, POD, slice]));
        let got = web(&loaded);
        let mut endpoints = served(&loaded, got, 80);
        endpoints.sort();
        let want = [("10.244.0.1".to_owned(), 7070, true), ("10.244.9.9".to_owned(), 7070, false)];
        assert_eq!(endpoints, want);
        let named = loaded.mesh.workloads.values().find(|w| w.name == "web-1").unwrap();
        assert!(got.endpoints.iter().any(|endpoint| endpoint.workload == named.uid));
        let unnamed = loaded.mesh.workloads.values().find(|w| w.name == "10.244.9.9").unwrap();
        assert_eq!((unnamed.identity.clone(), unnamed.tunnel), (None, TunnelKind::Plain));
        assert_eq!(unnamed.locality.zone, "z1");
        let warnings = findings(&loaded, Severity::Warning);
        assert!(warnings[0].contains("spec.ports: no endpoint serves port 81"), "{warnings:?}");
    }

    #[test]
    fn a_namespace_captures_its_pods_and_a_node_places_them() {
        let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {istio.io/dataplane-mode: ambient}}\n";
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node1, labels: {topology.kubernetes.io/zone: z1}}\n";
        let plain = load(&all(&[SERVICE, POD]));
        let ambient = load(&all(&[SERVICE, POD, namespace, node]));
        let workload = |loaded: &Loaded| loaded.mesh.workloads.values().next().unwrap().as_ref().clone();
        assert_eq!(
            (workload(&plain).tunnel, workload(&plain).locality.zone.as_str()),
            (TunnelKind::Plain, "")
        );
        assert_eq!(
            (workload(&ambient).tunnel, workload(&ambient).locality.zone.as_str()),
            (TunnelKind::Hbone, "z1")
        );
    }

    #[test]
    fn without_a_gateway_every_service_is_fronted() {
        let unlabelled = SERVICE.replace(", labels: {istio.io/use-waypoint: wp}", "");
        let loaded = load(&all(&[&unlabelled, POD]));
        assert!(web(&loaded).fronted);
        assert!(
            findings(&loaded, Severity::Note)[0].contains("every service is served"),
            "{:?}",
            loaded.findings
        );
    }

    #[test]
    fn with_a_gateway_only_what_is_bound_to_it_is_fronted() {
        let options = |gateway: Option<(&str, &str)>| Options {
            gateway: gateway.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
            ..Options::default()
        };
        let nginx = gateway("a", "other").replace("istio-waypoint", "nginx");
        let rows = [
            (vec![gateway("a", "wp")], None, true),
            (vec![gateway("a", "other")], None, false),
            (vec![gateway("b", "wp")], None, false),
            (vec![gateway("a", "wp"), nginx], None, true),
            (vec![gateway("a", "wp"), gateway("a", "two")], None, false),
            (vec![gateway("a", "wp"), gateway("a", "two")], Some(("a", "wp")), true),
            (vec![gateway("a", "wp"), gateway("a", "two")], Some(("a", "two")), false),
            (vec![], Some(("a", "wp")), true),
            (vec![], Some(("a", "two")), false),
        ];
        for (gateways, chosen, want) in rows {
            let mut documents = vec![SERVICE, POD];
            documents.extend(gateways.iter().map(String::as_str));
            let loaded = load_with(&all(&documents), &options(chosen));
            assert_eq!(web(&loaded).fronted, want, "{gateways:?} {chosen:?}");
        }
        let loaded = load(&all(&[SERVICE, POD, &gateway("a", "wp"), &gateway("a", "two")]));
        assert_eq!(findings(&loaded, Severity::Error).len(), 2);
    }

    #[test]
    fn policies_attach_to_what_they_target() {
        let other = SERVICE.replace("web", "other").replace("10.96.0.1", "10.96.0.2");
        let unbound =
            other.replace("other", "unbound").replace("use-waypoint: wp", "x: wp").replace("0.2", "0.3");
        let wp = gateway("a", "wp");
        let group = "group: gateway.networking.k8s.io";
        let rows: [(&str, String, &[&str], Option<Severity>); 9] = [
            ("a", "{kind: Service, name: web}".to_owned(), &["web"], None),
            ("a", "{kind: Service, name: none}".to_owned(), &[], Some(Severity::Warning)),
            ("a", "{kind: Service, name: unbound}".to_owned(), &[], Some(Severity::Warning)),
            ("b", "{kind: Service, name: web}".to_owned(), &[], Some(Severity::Warning)),
            ("a", format!("{{{group}, kind: Gateway, name: wp}}"), &["other", "web"], None),
            ("a", format!("{{{group}, kind: Gateway, name: two}}"), &[], Some(Severity::Note)),
            (
                "istio-system",
                format!("{{{group}, kind: GatewayClass, name: istio-waypoint}}"),
                &["other", "web"],
                None,
            ),
            ("istio-system", format!("{{{group}, kind: GatewayClass, name: x}}"), &[], Some(Severity::Note)),
            (
                "a",
                format!("{{{group}, kind: GatewayClass, name: istio-waypoint}}"),
                &[],
                Some(Severity::Error),
            ),
        ];
        for (namespace, target, want, severity) in rows {
            let loaded = load(&all(&[SERVICE, &other, &unbound, POD, &wp, &policy(namespace, &target)]));
            let services = loaded.mesh.services.values().filter(|service| !service.policies.is_empty());
            let got: Vec<_> = services.map(|service| service.name.as_str()).collect();
            assert_eq!(got, want, "{target}");
            let about = loaded.findings.iter().find(|finding| finding.kind == "AuthorizationPolicy");
            assert_eq!(about.map(|finding| finding.severity), severity, "{target}");
        }
    }

    #[test]
    fn a_policy_that_cannot_be_judged_denies_its_targets() {
        let other = SERVICE.replace("web", "other").replace("10.96.0.1", "10.96.0.2");
        let far = SERVICE.replace("namespace: a", "namespace: b").replace("10.96.0.1", "10.96.0.3");
        let to_web = "targetRefs: [{kind: Service, name: web}]";
        let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: wp}";
        let rows: [(&str, String, &[&str]); 7] = [
            ("a", format!("{to_web}, action: CUSTOM"), &["a/web"]),
            ("a", format!("{to_web}, rules: [{{from: [{{source: {{ipBlocks: [x]}}}}]}}]"), &["a/web"]),
            ("a", format!("{to_web}, rules: [{{from: [{{source: {{principal: [x]}}}}]}}]"), &["a/web"]),
            ("a", format!("{to_web}, rules: [{{from: }}]"), &["a/web"]),
            ("a", "targetRefs: [{kind: Servce, name: web}]".to_owned(), &["a/other", "a/web"]),
            ("istio-system", "targetRefs: 1".to_owned(), &["a/other", "a/web", "b/web"]),
            ("a", format!("targetRefs: [{gateway}]"), &["a/other", "a/web"]),
        ];
        for (namespace, spec, want) in rows {
            let policy = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {{{spec}}}\n"
            );
            let loaded = load(&all(&[SERVICE, &other, &far, POD, &policy]));
            let key = PolicyKey::new(namespace, "p");
            let services = loaded.mesh.services.values().filter(|service| service.policies == [key.clone()]);
            let got: Vec<_> =
                services.map(|service| format!("{}/{}", service.key.namespace, service.name)).collect();
            assert_eq!(got, want, "{spec}");
            assert!(loaded.mesh.policies[&key].unusable.is_some(), "{spec}");
            assert!(!findings(&loaded, Severity::Error).is_empty(), "{spec}");
        }
    }

    #[test]
    fn request_authentication_denies_where_it_is_asked_for() {
        let jwt = |spec: &str| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: j, namespace: a}}\nspec: {{{spec}}}\n"
            )
        };
        let loaded =
            load(&all(&[SERVICE, POD, &jwt("targetRefs: [{kind: Service, name: web}], jwtRules: []")]));
        assert_eq!(web(&loaded).policies, [PolicyKey::new("a", "RequestAuthentication/j")]);
        let loaded = load(&all(&[SERVICE, POD, &jwt("jwtRules: []")]));
        assert_eq!(web(&loaded).policies, []);
        assert_eq!(findings(&loaded, Severity::Error), [] as [&str; 0]);
    }

    #[test]
    fn a_broken_dry_run_denies_nothing() {
        let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                      metadata: {name: p, namespace: a, annotations: {istio.io/dry-run: 'true'}}\n\
                      spec: {targetRefs: [{kind: Service, name: web}], action: CUSTOM}\n";
        let loaded = load(&all(&[SERVICE, POD, policy]));
        assert_eq!(web(&loaded).policies, []);
        assert_eq!(findings(&loaded, Severity::Error).len(), 1);
    }

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
            RouteAction::Redirect(_) => panic!("forwards"),
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

    #[test]
    fn an_address_leads_to_one_service() {
        let other = SERVICE.replace("web", "other");
        let loaded = load(&all(&[SERVICE, &other, POD]));
        let owners = loaded.mesh.services.values().filter(|service| !service.vips.is_empty()).count();
        assert_eq!(owners, 1);
        assert!(
            findings(&loaded, Severity::Error)[0].contains("10.96.0.1 belongs to"),
            "{:?}",
            loaded.findings
        );
    }

    #[test]
    fn a_service_entry_has_its_own_endpoints_or_selects_them() {
        let entry = |members: &str| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: e, namespace: a}}\n\
                 spec: {{hosts: [e.example], addresses: [10.96.0.7], resolution: STATIC, \
                 ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8088}}], {members}}}\n"
            )
        };
        let target = "{group: networking.istio.io, kind: ServiceEntry, name: e}";
        let inline = entry("endpoints: [{address: 10.0.0.1, labels: {networking.istio.io/tunnel: http}}]");
        let loaded = load(&all(&[&inline, &policy("a", target)]));
        let got = service(&loaded, "a/e.example");
        assert_eq!(served(&loaded, got, 80), [("10.0.0.1".to_owned(), 8088, true)]);
        assert_eq!(loaded.mesh.workloads.values().next().unwrap().tunnel, TunnelKind::Hbone);
        assert_eq!(got.policies, [PolicyKey::new("a", "p")]);
        let loaded = load(&all(&[&entry("workloadSelector: {labels: {app: web}}"), POD]));
        let got = service(&loaded, "a/e.example");
        assert_eq!(served(&loaded, got, 80), [("10.244.0.1".to_owned(), 8088, true)]);
    }
}
