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
        let all: Vec<&WorkloadDoc> = directory.documents.values().copied().collect();
        for doc in all {
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
        let namespace = self.namespaces.get(doc.workload.namespace.as_str()).copied();
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
        let here =
            self.by_namespace.get(namespace).into_iter().flatten().filter(|doc| doc.is_selected(selector));
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
            self.documents.get(&key)
        });
        if let Some(doc) = pod.or_else(|| self.by_address.get(&listed.address)) {
            return doc.workload.uid.clone();
        }
        let workload = self.unnamed(namespace, slice, listed);
        let uid = workload.uid.clone();
        self.workloads.insert(uid.clone(), workload);
        uid
    }

    fn unnamed(&self, namespace: &str, slice: &str, listed: &SliceEndpoint) -> Workload {
        let name = listed.address.to_string();
        let node = listed.node.as_deref().and_then(|name| self.nodes.get(name));
        let mut locality = node.map_or_else(Locality::default, |node| node.locality.clone());
        if let Some(zone) = &listed.zone {
            locality.zone.clone_from(zone);
        }
        Workload {
            uid: workload::uid(
                "discovery.k8s.io/EndpointSlice",
                namespace,
                &format!("{slice}/{name}"),
                self.options,
            ),
            namespace: namespace.to_owned(),
            addresses: vec![listed.address],
            identity: None,
            tunnel: TunnelKind::Plain,
            locality,
            workload_name: name.clone(),
            canonical_name: name.clone(),
            canonical_revision: "latest".to_owned(),
            app: None,
            version: None,
            cluster: self.options.cluster.clone(),
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
