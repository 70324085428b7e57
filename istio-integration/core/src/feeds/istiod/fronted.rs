//! Listeners and the workload API together: the services that this waypoint fronts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use waypoint_model::{Map, Pods, Policy, PolicyKey, Route, RouteKey, Service, ServiceKey, ServicePort};

use super::{FrontedPods, FrontedPort, Index, Translated};

/// What listeners make of the mesh. What did not change stays the same `Arc`.
#[derive(Debug, Default)]
pub(super) struct Fronted {
    /// Services by key.
    pub(super) services: Map<ServiceKey, Arc<Service>>,
    /// Workloads by their own address.
    pub(super) pods: Option<Arc<Pods>>,
    /// Policies by key.
    pub(super) policies: Map<PolicyKey, Arc<Policy>>,
    /// Routes by key.
    pub(super) routes: Map<RouteKey, Arc<Route>>,
}

impl Fronted {
    /// Joins all listeners with the workload API. A listener that says that nothing may be served makes every port unusable.
    pub(super) fn join<'a>(
        &mut self,
        listeners: impl Iterator<Item = &'a Translated> + Clone,
        index: &Index,
    ) {
        let unusable = listeners.clone().find_map(|listener| listener.unusable.clone());
        let mut services: BTreeMap<ServiceKey, Service> = BTreeMap::new();
        for port in listeners.clone().flat_map(|listener| &listener.ports) {
            add(&mut services, port, unusable.as_ref(), index);
        }
        self.pods = pods(listeners.clone(), unusable.as_ref(), self.pods.take());
        self.policies = listeners
            .clone()
            .flat_map(|listener| &listener.policies)
            .map(|policy| (policy.key.clone(), Arc::clone(policy)))
            .collect();
        self.routes = listeners
            .flat_map(|listener| &listener.routes)
            .map(|route| (route.key.clone(), Arc::clone(route)))
            .collect();
        let keep = |(key, fresh): (ServiceKey, Service)| {
            let same = self.services.get(&key).filter(|before| ***before == fresh).cloned();
            (key, same.unwrap_or_else(|| Arc::new(fresh)))
        };
        self.services = services.into_iter().map(keep).collect();
    }
}

/// The workloads of all listeners. Those of two listeners with different chains are not served: which one holds cannot be told.
fn pods<'a>(
    listeners: impl Iterator<Item = &'a Translated>,
    unusable: Option<&String>,
    before: Option<Arc<Pods>>,
) -> Option<Arc<Pods>> {
    let mut all: Option<Pods> = None;
    for told in listeners.filter_map(|listener| listener.pods.as_ref()) {
        let FrontedPods { addresses, protocol, chain } = told;
        let pods = all.get_or_insert_with(|| Pods {
            addresses: BTreeSet::new(),
            protocol: *protocol,
            chain: chain.clone(),
        });
        pods.addresses.extend(addresses.iter().map(IpAddr::to_canonical));
        if pods.protocol != *protocol || pods.chain != *chain {
            pods.chain.unusable.get_or_insert_with(|| "two chains for workloads by address".to_owned());
        }
    }
    let mut pods = all?;
    if let Some(why) = unusable {
        pods.chain.unusable.get_or_insert_with(|| why.clone());
    }
    Some(before.filter(|before| **before == pods).unwrap_or_else(|| Arc::new(pods)))
}

fn add(
    services: &mut BTreeMap<ServiceKey, Service>,
    port: &FrontedPort,
    unusable: Option<&String>,
    index: &Index,
) {
    let (key, name) = identify(port, index);
    let service = services.entry(key.clone()).or_insert_with(|| Service {
        key,
        name,
        fronted: true,
        aliases: Vec::new(),
        vips: Vec::new(),
        ports: Map::new(),
        endpoints: Vec::new(),
        policies: Vec::new(),
        routes: Vec::new(),
        jwt: Vec::new(),
    });
    for vip in &port.vips {
        if !service.vips.contains(vip) {
            service.vips.push(*vip);
        }
    }
    let mut chain = port.chain.clone();
    if let Some(why) = unusable {
        chain.unusable.get_or_insert_with(|| why.clone());
    }
    service.ports.insert(port.port, ServicePort { name: None, protocol: port.protocol, chain });
}

/// Namespace and short name. The workload API may tell of a service later than its listener comes: until then the host name
/// has to do, `<name>.<namespace>.svc.<domain>` of a Kubernetes service; of others the namespace is not known.
fn identify(port: &FrontedPort, index: &Index) -> (ServiceKey, String) {
    if let Some(service) = index.service(&port.hostname, &port.vips) {
        return (service.key.clone(), service.name.clone());
    }
    let mut parts = port.hostname.splitn(4, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(namespace), Some("svc")) => {
            (ServiceKey::new(namespace, &port.hostname), name.to_owned())
        }
        _ => (ServiceKey::new("", &port.hostname), port.hostname.to_string()),
    }
}
