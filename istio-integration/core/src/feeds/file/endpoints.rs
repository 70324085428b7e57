//! Who stands behind a service: what its selector picks, what EndpointSlices list, or what a ServiceEntry names.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use waypoint_model::{Endpoint, Locality, Map, TunnelKind, Workload, WorkloadUid};

use super::document::{Kind, Origin, ResourceKey};
use super::endpoint_slice::{SliceDoc, SliceEndpoint};
use super::finding::{Finding, Severity};
use super::namespace::NamespaceDoc;
use super::node::NodeDoc;
use super::options::Options;
use super::resource::{Resource, Resources};
use super::service::{Members, ServiceDoc};
use super::workload::{self, WorkloadDoc};

/// All workloads, and what finding them needs.
pub(super) struct Directory<'a> {
    options: &'a Options,
    namespaces: &'a BTreeMap<&'a str, &'a NamespaceDoc>,
    nodes: BTreeMap<&'a str, &'a NodeDoc>,
    documents: BTreeMap<&'a ResourceKey, &'a WorkloadDoc>,
    by_namespace: BTreeMap<&'a str, Vec<&'a WorkloadDoc>>,
    by_address: BTreeMap<IpAddr, &'a WorkloadDoc>,
    slices: BTreeMap<(&'a str, &'a str), Vec<(&'a str, &'a SliceDoc)>>,
    workloads: Map<WorkloadUid, Workload>,
}

impl<'a> Directory<'a> {
    /// Reads workloads, nodes and slices.
    pub(super) fn new(
        resources: &'a Resources,
        namespaces: &'a BTreeMap<&'a str, &'a NamespaceDoc>,
        options: &'a Options,
    ) -> Self {
        let mut directory = Self {
            options,
            namespaces,
            nodes: BTreeMap::new(),
            documents: BTreeMap::new(),
            by_namespace: BTreeMap::new(),
            by_address: BTreeMap::new(),
            slices: BTreeMap::new(),
            workloads: Map::new(),
        };
        for (key, entry) in resources {
            match entry.resource.as_ref() {
                Resource::Node(doc) => drop(directory.nodes.insert(&key.name, doc)),
                Resource::Slice(doc) => {
                    let slices = directory.slices.entry((&key.namespace, &doc.service)).or_default();
                    slices.push((&key.name, doc));
                }
                Resource::Workload(doc) => directory.index(key, doc),
                _ => {}
            }
        }
        let placed = directory.documents.values().copied().filter(|doc| doc.is_placed());
        for doc in placed.collect::<Vec<_>>() {
            directory.admit(doc);
        }
        directory
    }

    fn index(&mut self, key: &'a ResourceKey, doc: &'a WorkloadDoc) {
        self.documents.insert(key, doc);
        self.by_namespace.entry(&key.namespace).or_default().push(doc);
        for address in &doc.workload.addresses {
            self.by_address.entry(*address).or_insert(doc);
        }
    }

    /// Adds a workload as its node and namespace make it.
    fn admit(&mut self, doc: &WorkloadDoc) -> WorkloadUid {
        let namespace = self.namespaces.get(doc.workload.namespace.as_ref()).copied();
        let node = doc.node.as_deref().and_then(|name| self.nodes.get(name)).copied();
        let uid = doc.workload.uid.clone();
        self.workloads.insert(uid.clone(), doc.joined(namespace, node));
        uid
    }

    /// The endpoints of a service.
    pub(super) fn endpoints(
        &mut self,
        key: &ResourceKey,
        origin: &Origin,
        service: &ServiceDoc,
        findings: &mut Vec<Finding>,
    ) -> Vec<Endpoint> {
        let slices = match key.kind {
            Kind::Service => self.slices.get(&(key.namespace.as_str(), key.name.as_str())).cloned(),
            _ => None,
        };
        let endpoints = match (slices, &service.members) {
            (Some(slices), _) => self.sliced(service, &key.namespace, &slices),
            (None, Members::Labels(selector)) => self.selected(service, &key.namespace, selector),
            (None, Members::Inline(members)) => {
                members.iter().map(|doc| (self.admit(doc), endpoint(service, doc)).1).collect()
            }
        };
        findings.extend(
            unserved(service, &endpoints)
                .map(|(field, message)| key.finding(origin, Severity::Warning, &field, message)),
        );
        endpoints
    }

    fn selected(
        &self,
        service: &ServiceDoc,
        namespace: &str,
        selector: &BTreeMap<String, String>,
    ) -> Vec<Endpoint> {
        let here = self
            .by_namespace
            .get(namespace)
            .into_iter()
            .flatten()
            .filter(|doc| doc.is_placed() && doc.is_selected(selector));
        here.map(|doc| endpoint(service, doc)).collect()
    }

    /// One endpoint a workload: a pod with two address families is in two slices.
    fn sliced(
        &mut self,
        service: &ServiceDoc,
        namespace: &str,
        slices: &[(&str, &SliceDoc)],
    ) -> Vec<Endpoint> {
        let mut found: Map<WorkloadUid, Endpoint> = Map::new();
        for (slice_name, slice) in slices {
            for listed in &slice.endpoints {
                let workload = self.listed(namespace, slice_name, listed);
                let ports = slice_ports(service, slice);
                let ready = listed.ready || service.publish_not_ready;
                let known = found.entry(workload.clone());
                let endpoint = known.or_insert_with(|| Endpoint { workload, ports: Map::new(), ready });
                endpoint.ports.extend(ports);
            }
        }
        found.into_values().collect()
    }

    /// The workload at a listed address: its pod, or whoever else is known there, or one that only the slice knows,
    /// which is reached plainly since nobody vouches for an identity.
    fn listed(&mut self, namespace: &str, slice: &str, listed: &SliceEndpoint) -> WorkloadUid {
        let pod = listed.pod.as_ref().and_then(|(namespace, name)| {
            let key = ResourceKey { kind: Kind::Pod, namespace: namespace.clone(), name: name.clone() };
            self.documents.get(&key).copied()
        });
        match pod.or_else(|| self.by_address.get(&listed.address).copied()) {
            Some(doc) if doc.is_placed() => doc.workload.uid.clone(),
            Some(doc) => self.place(doc, listed.address),
            None => {
                let workload = self.unnamed(namespace, slice, listed);
                let uid = workload.uid.clone();
                self.workloads.insert(uid.clone(), workload);
                uid
            }
        }
    }

    /// Gives a pod whose manifest has no status the address that a slice lists it with.
    fn place(&mut self, doc: &WorkloadDoc, address: IpAddr) -> WorkloadUid {
        if !self.workloads.contains_key(&doc.workload.uid) {
            self.admit(doc);
        }
        if let Some(workload) = self.workloads.get_mut(&doc.workload.uid)
            && !workload.addresses.contains(&address)
        {
            workload.addresses.push(address);
        }
        doc.workload.uid.clone()
    }

    fn unnamed(&self, namespace: &str, slice: &str, listed: &SliceEndpoint) -> Workload {
        let name: Arc<str> = listed.address.to_string().into();
        let node = listed.node.as_deref().and_then(|name| self.nodes.get(name));
        let mut locality = node.map_or_else(Locality::default, |node| node.locality.clone());
        if let Some(zone) = &listed.zone {
            locality.zone = zone.as_str().into();
        }
        Workload {
            uid: workload::uid(
                "discovery.k8s.io/EndpointSlice",
                namespace,
                &format!("{slice}/{name}"),
                self.options,
            ),
            namespace: namespace.into(),
            addresses: vec![listed.address],
            identity: None,
            tunnel: TunnelKind::Plain,
            locality,
            workload_name: name.clone(),
            canonical_name: name.clone(),
            canonical_revision: "latest".into(),
            app: None,
            version: None,
            cluster: self.options.cluster.as_str().into(),
            name,
        }
    }

    /// All workloads, those of ServiceEntries and slices too.
    pub(super) fn into_workloads(self) -> Map<WorkloadUid, Arc<Workload>> {
        self.workloads.into_iter().map(|(uid, workload)| (uid, Arc::new(workload))).collect()
    }
}

fn endpoint(service: &ServiceDoc, doc: &WorkloadDoc) -> Endpoint {
    let ports = service.ports.iter();
    let ports = ports
        .filter_map(|(number, port)| Some((*number, doc.port(port.port.name.as_deref(), &port.target)?)));
    Endpoint {
        workload: doc.workload.uid.clone(),
        ports: ports.collect(),
        ready: doc.ready || service.publish_not_ready,
    }
}

fn slice_ports(service: &ServiceDoc, slice: &SliceDoc) -> Vec<(u16, u16)> {
    let target = |name: &str| slice.ports.iter().find(|(known, _)| known == name).map(|(_, port)| *port);
    let ports = service.ports.iter();
    ports
        .filter_map(|(number, port)| Some((*number, target(port.port.name.as_deref().unwrap_or_default())?)))
        .collect()
}

/// Ports that no endpoint serves, with the field to look at.
fn unserved(service: &ServiceDoc, endpoints: &[Endpoint]) -> impl Iterator<Item = (String, String)> {
    let nobody = endpoints.is_empty();
    let none = nobody.then(|| {
        let message =
            "nothing stands behind it: no Pod, WorkloadEntry, EndpointSlice or endpoint belongs to it";
        (String::new(), message.to_owned())
    });
    let ports = service
        .ports
        .keys()
        .filter(|port| !nobody && endpoints.iter().all(|one| !one.ports.contains_key(port)));
    let ports: Vec<_> = ports
        .map(|port| {
            (
                "spec.ports".to_owned(),
                format!("no endpoint serves port {port}: its target names no port there"),
            )
        })
        .collect();
    none.into_iter().chain(ports)
}

#[cfg(test)]
mod tests {
    use waypoint_model::{PolicyKey, Service};

    use super::*;
    use crate::feeds::file::Loaded;
    use crate::feeds::file::testing::{POD, SERVICE, all, findings, load, policy, service, web};

    /// Endpoint addresses with port and readiness, for one service port.
    fn served(loaded: &Loaded, service: &Service, port: u16) -> Vec<(String, u16, bool)> {
        let endpoints = service.endpoints.iter();
        let served = endpoints.filter_map(|endpoint| {
            let address = loaded.mesh.workloads.get(&endpoint.workload).unwrap().addresses[0];
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
        let named = loaded.mesh.workloads.values().find(|w| &*w.name == "web-1").unwrap();
        assert!(got.endpoints.iter().any(|endpoint| endpoint.workload == named.uid));
        let unnamed = loaded.mesh.workloads.values().find(|w| &*w.name == "10.244.9.9").unwrap();
        assert_eq!((unnamed.identity.clone(), unnamed.tunnel), (None, TunnelKind::Plain));
        assert_eq!(&*unnamed.locality.zone, "z1");
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
            (workload(&plain).tunnel, workload(&plain).locality.zone.as_ref()),
            (TunnelKind::Plain, "")
        );
        assert_eq!(
            (workload(&ambient).tunnel, workload(&ambient).locality.zone.as_ref()),
            (TunnelKind::Hbone, "z1")
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

    #[test]
    fn a_pod_without_status_gets_its_address_from_a_slice_and_keeps_its_identity() {
        let pod = POD
            .replace("status: {podIP: 10.244.0.1}", "")
            .replace("labels:", "annotations: {ambient.istio.io/redirection: enabled}, labels:");
        let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                     metadata: {name: s, namespace: a, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
                     ports: [{name: http, port: 7070}]\nendpoints: [{addresses: [10.244.0.5], targetRef: {kind: Pod, name: web-1}}]\n";
        let loaded = load(&all(&[SERVICE, &pod, slice]));
        assert_eq!(served(&loaded, web(&loaded), 80), [("10.244.0.5".to_owned(), 7070, true)]);
        let workload = loaded.mesh.workloads.values().next().unwrap();
        assert_eq!(workload.identity.as_ref().unwrap().principal(), "cluster.local/ns/a/sa/web");
        assert_eq!(workload.tunnel, TunnelKind::Hbone);
        let loaded = load(&all(&[SERVICE, &pod]));
        assert_eq!((web(&loaded).endpoints.len(), loaded.mesh.workloads.len()), (0, 0));
    }
}
