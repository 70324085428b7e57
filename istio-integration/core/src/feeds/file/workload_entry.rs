//! WorkloadEntry, on its own or inline in a ServiceEntry: a VM, or anything else that has an address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use waypoint_model::Locality;

use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};
use super::options::Options;
use super::workload::{Capture, Naming, WorkloadDoc, parse_locality, workload};

#[derive(Deserialize)]
struct Body {
    spec: Spec,
}

/// `WorkloadEntry.spec`, and an element of `ServiceEntry.spec.endpoints`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    address: String,
    ports: BTreeMap<String, u16>,
    labels: BTreeMap<String, String>,
    network: String,
    locality: String,
    weight: Option<u32>,
    service_account: String,
}

const UNREAD: Unread = Unread { harmless: &["status"], severity: Severity::Warning };

/// Translates a WorkloadEntry.
pub(super) fn translate(
    document: &Document,
    options: &Options,
    remarks: &mut Remarks,
) -> Option<WorkloadDoc> {
    let mut spec = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    // Labels of the resource itself win over those that are meant for its workload, as in Istio.
    spec.labels.extend(document.meta.labels.clone());
    let name = &document.meta.name;
    let kind = "networking.istio.io/WorkloadEntry";
    entry(&spec, "spec", &EntryName { kind, namespace: &document.key.namespace, name }, options, remarks)
}

/// What an entry is called.
pub(super) struct EntryName<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

impl Spec {
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// Translates one entry; `path` is where it stands.
pub(super) fn entry(
    spec: &Spec,
    path: &str,
    name: &EntryName<'_>,
    options: &Options,
    remarks: &mut Remarks,
) -> Option<WorkloadDoc> {
    let Ok(address) = spec.address.parse::<IpAddr>() else {
        let message = format!(
            "`{}` is not supported: write an IP address (no host name, no unix socket)",
            spec.address
        );
        remarks.error(format!("{path}.address"), message);
        return None;
    };
    if !spec.network.is_empty() {
        remarks.warning(
            format!("{path}.network"),
            "is not read here: the address must be reachable as it stands",
        );
    }
    if spec.weight.is_some() {
        remarks.note(format!("{path}.weight"), "is not used: endpoints are chosen by outstanding requests");
    }
    let account = spec.service_account.as_str();
    let naming = Naming {
        kind: name.kind,
        namespace: name.namespace,
        name: name.name,
        workload_name: name.name,
        service_account: if account.is_empty() { "default" } else { account },
    };
    let mut workload = workload(&naming, vec![address], &spec.labels, options, remarks);
    let locality = parse_locality(&spec.locality);
    if locality != Locality::default() {
        workload.locality = locality;
    }
    let tunnelled = spec.labels.get("networking.istio.io/tunnel").is_some_and(|kind| kind == "http");
    Some(WorkloadDoc {
        workload,
        labels: spec.labels.clone(),
        ready: true,
        container_ports: BTreeMap::new(),
        port_map: spec.ports.clone(),
        node: None,
        capture: if tunnelled { Capture::Yes } else { Capture::No },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::{document, fields};

    fn read(spec: &str) -> (Option<WorkloadDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: vm, namespace: a, labels: {{app: x}}}}\nspec: {{{spec}}}\n"
        );
        (translate(&document(&text), &Options::default(), &mut remarks), remarks)
    }

    #[test]
    fn an_entry_is_a_workload() {
        let (got, remarks) = read(
            "address: 10.0.0.9, ports: {http: 8080}, labels: {app: w, version: v1, networking.istio.io/tunnel: http}, \
             locality: r/z/s, serviceAccount: vm",
        );
        let got = got.unwrap();
        assert_eq!(remarks, Remarks::default());
        assert_eq!(got.workload.uid.to_string(), "Kubernetes/networking.istio.io/WorkloadEntry/a/vm");
        assert_eq!(got.workload.identity.unwrap().principal(), "cluster.local/ns/a/sa/vm");
        assert_eq!((got.workload.locality.zone.as_ref(), got.capture), ("z", Capture::Yes));
        assert_eq!((got.workload.app.as_deref(), got.workload.version.as_deref()), (Some("x"), Some("v1")));
        assert_eq!(got.port_map, BTreeMap::from([("http".to_owned(), 8080)]));
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let rows = [
            ("address: vm.example.com", Severity::Error, "spec.address"),
            ("address: unix:///tmp/x", Severity::Error, "spec.address"),
            ("labels: {a: b}", Severity::Error, "spec.address"),
            ("address: 10.0.0.9, network: n2", Severity::Warning, "spec.network"),
            ("address: 10.0.0.9, weight: 3", Severity::Note, "spec.weight"),
            ("address: 10.0.0.9, other: 3", Severity::Warning, "spec.other"),
            ("address: 10.0.0.9, serviceAccount: a/b", Severity::Error, "spec"),
        ];
        for (spec, severity, field) in rows {
            let (_, remarks) = read(spec);
            assert_eq!(fields(&remarks), [(severity, field.to_owned())], "{spec}");
        }
    }
}
