//! All resources joined into one mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use waypoint_model::{Map, MeshConfig, Service, ServiceKey, ServicePort};

use super::attachment::Attachment;
use super::backend::Routing;
use super::binding::{Fronted, Waypoint};
use super::document::{Origin, ResourceKey};
use super::endpoints::Directory;
use super::envoy_filter::LimitsDoc;
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
            ports: doc
                .ports
                .iter()
                .map(|(number, port)| (*number, limited(doc, *number, &port.port, attached.limits(key))))
                .collect(),
            endpoints: directory.endpoints(key, origin, doc, &mut findings),
            policies: attached.of(key),
            routes: routed.of(key),
            jwt: attached.tokens(key),
        };
        findings.extend(
            joined.add(service).into_iter().map(|message| key.finding(origin, Severity::Error, "", message)),
        );
    }
    let mesh = MeshConfig {
        services: joined.services,
        pods: None,
        workloads: directory.into_workloads().into_iter().collect(),
        policies: attached.policies,
        routes: routed.routes,
        clusters: Map::new(),
        path_normalization: options.path_normalization,
        trust_domains: None,
    };
    (mesh, findings)
}

/// A port with the limits that hold there.
fn limited(doc: &ServiceDoc, number: u16, port: &ServicePort, limits: &[LimitsDoc]) -> ServicePort {
    let mut port = port.clone();
    for one in limits {
        one.apply(&doc.key.hostname, number, &mut port.chain);
    }
    port
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
    use super::*;
    use crate::feeds::file::testing::{POD, SERVICE, all, findings, gateway, load, load_with, web};

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
}
