//! What Pods, WorkloadEntries and the endpoints of a ServiceEntry have in common.

use std::collections::BTreeMap;
use std::net::IpAddr;

use spiffe_id::SpiffeId;
use waypoint_model::{Locality, TunnelKind, Workload, WorkloadUid};

use super::finding::Remarks;
use super::namespace::NamespaceDoc;
use super::node::{NodeDoc, labelled_locality};
use super::options::Options;
use super::service::TargetPort;

/// A workload as its own document tells; node and namespace may add to it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WorkloadDoc {
    pub(super) workload: Workload,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ready: bool,
    /// Target port by the name of a container's port.
    pub(super) container_ports: BTreeMap<String, u16>,
    /// Target port by the name of a service's port (`WorkloadEntry.ports`).
    pub(super) port_map: BTreeMap<String, u16>,
    pub(super) node: Option<String>,
    pub(super) capture: Capture,
}

/// Whether a ztunnel stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capture {
    Yes,
    No,
    /// If its namespace is labelled `istio.io/dataplane-mode: ambient`.
    AsNamespace,
}

impl WorkloadDoc {
    /// The workload with what its node and its namespace add.
    pub(super) fn joined(&self, namespace: Option<&NamespaceDoc>, node: Option<&NodeDoc>) -> Workload {
        let mut workload = self.workload.clone();
        let ambient = || namespace.is_some_and(|doc| is_ambient(&doc.labels));
        if self.capture == Capture::Yes || self.capture == Capture::AsNamespace && ambient() {
            workload.tunnel = TunnelKind::Hbone;
        }
        if let (Some(node), true) = (node, workload.locality == Locality::default()) {
            workload.locality = node.locality.clone();
        }
        workload
    }

    /// Whether it has an address of its own.
    pub(super) fn is_placed(&self) -> bool {
        !self.workload.addresses.is_empty()
    }

    /// Where it serves a service's port: by the name of the service's port, else by the port's target.
    pub(super) fn port(&self, name: Option<&str>, target: &TargetPort) -> Option<u16> {
        if let Some(port) = name.and_then(|name| self.port_map.get(name)) {
            return Some(*port);
        }
        match target {
            TargetPort::Number(port) => Some(*port),
            TargetPort::Name(name) => self.container_ports.get(name).copied(),
        }
    }

    /// Whether every label of a selector is there. An empty selector selects nothing, as in Kubernetes.
    pub(super) fn is_selected(&self, selector: &BTreeMap<String, String>) -> bool {
        !selector.is_empty() && selector.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

pub(super) fn is_ambient(labels: &BTreeMap<String, String>) -> bool {
    labels.get("istio.io/dataplane-mode").is_some_and(|mode| mode == "ambient")
}

/// What tells a workload's names; the rest of [`Workload`] is derived from labels.
pub(super) struct Naming<'a> {
    /// Group and kind in the uid, e.g. `/Pod`.
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Name of what owns it.
    pub(super) workload_name: &'a str,
    pub(super) service_account: &'a str,
}

/// A workload that is reached plainly until its capture is known.
pub(super) fn workload(
    naming: &Naming<'_>,
    addresses: Vec<IpAddr>,
    labels: &BTreeMap<String, String>,
    options: &Options,
    remarks: &mut Remarks,
) -> Workload {
    let first =
        |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).map(|value| value.as_str().into());
    let canonical_name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let canonical_revision =
        first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    Workload {
        uid: uid(naming.kind, naming.namespace, naming.name, options),
        name: naming.name.into(),
        namespace: naming.namespace.into(),
        addresses,
        identity: identity(naming, options, remarks),
        tunnel: TunnelKind::Plain,
        locality: locality(labels),
        workload_name: naming.workload_name.into(),
        canonical_name: canonical_name.unwrap_or_else(|| naming.workload_name.into()),
        canonical_revision: canonical_revision.unwrap_or_else(|| "latest".into()),
        app: labels.get("app").map(|value| value.as_str().into()),
        version: labels.get("version").map(|value| value.as_str().into()),
        cluster: options.cluster.as_str().into(),
    }
}

pub(super) fn uid(kind: &str, namespace: &str, name: &str, options: &Options) -> WorkloadUid {
    WorkloadUid(format!("{}/{kind}/{namespace}/{name}", options.cluster).into())
}

fn identity(naming: &Naming<'_>, options: &Options, remarks: &mut Remarks) -> Option<SpiffeId> {
    match SpiffeId::istio(&options.trust_domain, naming.namespace, naming.service_account) {
        Ok(identity) => Some(identity),
        Err(error) => {
            remarks.error("spec", format!("its names make no SPIFFE ID: {error}"));
            None
        }
    }
}

/// Label `istio-locality` (`region.zone.subzone`, since a label holds no `/`), else the topology labels.
fn locality(labels: &BTreeMap<String, String>) -> Locality {
    match labels.get("istio-locality") {
        Some(text) => parse_locality(&text.replace('.', "/")),
        None => labelled_locality(labels),
    }
}

/// `region/zone/subzone`.
pub(super) fn parse_locality(text: &str) -> Locality {
    let mut parts = text.splitn(3, '/').map(std::sync::Arc::from);
    let mut part = || parts.next().unwrap_or_default();
    Locality { region: part(), zone: part(), subzone: part() }
}
