//! Pod: an address, an identity and labels.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};
use super::meta::Meta;
use super::options::Options;
use super::workload::{Capture, Naming, WorkloadDoc, is_ambient, workload};

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    service_account_name: Option<String>,
    service_account: Option<String>,
    node_name: Option<String>,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    ports: Vec<ContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: IpAddr,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

/// What says how a pod is run, not how it is reached.
const UNREAD: Unread = Unread {
    harmless: &[
        "spec.activeDeadlineSeconds",
        "spec.affinity",
        "spec.automountServiceAccountToken",
        "spec.containers[].*",
        "spec.containers[].ports[].hostIP",
        "spec.containers[].ports[].hostPort",
        "spec.dnsConfig",
        "spec.dnsPolicy",
        "spec.enableServiceLinks",
        "spec.ephemeralContainers",
        "spec.hostAliases",
        "spec.hostIPC",
        "spec.hostPID",
        "spec.hostUsers",
        "spec.hostname",
        "spec.imagePullSecrets",
        "spec.initContainers[].*",
        "spec.initContainers[].ports[].hostIP",
        "spec.initContainers[].ports[].hostPort",
        "spec.nodeSelector",
        "spec.os",
        "spec.overhead",
        "spec.preemptionPolicy",
        "spec.priority",
        "spec.priorityClassName",
        "spec.readinessGates",
        "spec.resourceClaims",
        "spec.resources",
        "spec.restartPolicy",
        "spec.runtimeClassName",
        "spec.schedulerName",
        "spec.schedulingGates",
        "spec.securityContext",
        "spec.setHostnameAsFQDN",
        "spec.shareProcessNamespace",
        "spec.subdomain",
        "spec.terminationGracePeriodSeconds",
        "spec.tolerations",
        "spec.topologySpreadConstraints",
        "spec.volumes",
        "status.*",
        "status.conditions[].*",
        "status.podIPs[].*",
    ],
    severity: Severity::Warning,
};

/// Translates a Pod; one that has ended is no workload, and one without address has at most what a slice gives it.
pub(super) fn translate(
    document: &Document,
    options: &Options,
    remarks: &mut Remarks,
) -> Option<WorkloadDoc> {
    let body = decode::<Body>(&document.body, UNREAD, remarks)?;
    let (spec, status) = (&body.spec, &body.status);
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        remarks.note("status.phase", "the pod has ended and serves nothing");
        return None;
    }
    let addresses = addresses(status);
    if addresses.is_empty() {
        remarks.note("status.podIP", "is missing: only an EndpointSlice can give the pod an address");
    }
    let meta = &document.meta;
    let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref());
    let naming = Naming {
        kind: "/Pod",
        namespace: &document.key.namespace,
        name: &meta.name,
        workload_name: &workload_name(meta),
        service_account: account.filter(|name| !name.is_empty()).unwrap_or("default"),
    };
    Some(WorkloadDoc {
        workload: workload(&naming, addresses, &meta.labels, options, remarks),
        labels: meta.labels.clone(),
        ready: is_ready(meta, status),
        container_ports: container_ports(spec),
        port_map: BTreeMap::new(),
        node: spec.node_name.clone(),
        capture: capture(meta, spec),
    })
}

fn addresses(status: &Status) -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = status.pod_ip.into_iter().collect();
    for PodIp { ip } in &status.pod_ips {
        if !all.contains(ip) {
            all.push(*ip);
        }
    }
    all
}

/// The Ready condition; a manifest written by hand need not have one, and is then ready unless its phase says no.
fn is_ready(meta: &Meta, status: &Status) -> bool {
    if meta.deletion_timestamp.is_some() {
        return false;
    }
    match status.conditions.iter().find(|condition| condition.kind == "Ready") {
        Some(condition) => condition.status == "True",
        None => matches!(status.phase.as_deref(), None | Some("Running")),
    }
}

fn container_ports(spec: &Spec) -> BTreeMap<String, u16> {
    let containers = spec.init_containers.iter().chain(&spec.containers);
    let ports = containers.flat_map(|container| &container.ports);
    let tcp = ports.filter(|port| matches!(port.protocol.as_deref(), None | Some("TCP")));
    tcp.filter_map(|port| Some((port.name.clone()?, port.container_port))).collect()
}

/// A pod on the host's network is never captured: ztunnel would see the host's traffic.
fn capture(meta: &Meta, spec: &Spec) -> Capture {
    if spec.host_network {
        return Capture::No;
    }
    if meta.annotation("ambient.istio.io/redirection") == Some("enabled") || is_ambient(&meta.labels) {
        return Capture::Yes;
    }
    match meta.label("istio.io/dataplane-mode") {
        Some(_) => Capture::No,
        None => Capture::AsNamespace,
    }
}

/// The controller's name as people know it: a ReplicaSet's Deployment, a Job's CronJob.
fn workload_name(meta: &Meta) -> String {
    let owner = meta.owner_references.iter().find(|owner| owner.controller);
    let Some(owner) = owner.or(meta.owner_references.first()) else { return meta.name.clone() };
    let stem = match owner.kind.as_str() {
        "ReplicaSet" => match meta.label("pod-template-hash") {
            Some(hash) => owner.name.strip_suffix(hash).and_then(|name| name.strip_suffix('-')),
            None => owner.name.rsplit_once('-').map(|(stem, _)| stem),
        },
        "Job" => owner.name.rsplit_once('-').filter(|(_, time)| is_schedule(time)).map(|(stem, _)| stem),
        _ => None,
    };
    stem.unwrap_or(&owner.name).to_owned()
}

/// What a CronJob puts behind its name: minutes or seconds since 1970.
fn is_schedule(text: &str) -> bool {
    (8..=10).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::{document, fields};

    fn read(meta: &str, spec: &str, status: &str) -> (Option<WorkloadDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p-1, namespace: a{meta}}}\nspec: {{{spec}}}\nstatus: {{{status}}}\n"
        );
        (translate(&document(&text), &Options::default(), &mut remarks), remarks)
    }

    fn pod(meta: &str, spec: &str) -> WorkloadDoc {
        read(meta, spec, "podIP: 10.244.0.1").0.unwrap()
    }

    #[test]
    fn identity_is_the_service_accounts() {
        let rows = [
            ("", "spiffe://cluster.local/ns/a/sa/default"),
            ("serviceAccountName: bot", "spiffe://cluster.local/ns/a/sa/bot"),
            ("serviceAccount: old", "spiffe://cluster.local/ns/a/sa/old"),
        ];
        for (spec, want) in rows {
            let got = pod("", spec).workload;
            assert_eq!(got.identity.unwrap().as_str(), want);
            assert_eq!(got.uid.to_string(), "Kubernetes//Pod/a/p-1");
        }
    }

    #[test]
    fn readiness_is_the_condition_or_the_phase() {
        let rows = [
            ("", true),
            (", phase: Running", true),
            (", phase: Pending", false),
            (", phase: Running, conditions: [{type: Ready, status: 'False'}]", false),
            (", phase: Pending, conditions: [{type: Ready, status: 'True', reason: x}]", true),
        ];
        for (status, want) in rows {
            let (got, remarks) = read("", "", &format!("podIP: 10.244.0.1{status}"));
            assert_eq!(got.unwrap().ready, want, "{status}");
            assert_eq!(fields(&remarks), []);
        }
        assert!(!pod(", deletionTimestamp: '2026-01-01T00:00:00Z'", "").ready);
    }

    #[test]
    fn a_pod_without_address_is_noted_and_one_at_its_end_is_no_workload() {
        let rows = [("", "status.podIP", true), ("phase: Failed, podIP: 10.0.0.1", "status.phase", false)];
        for (status, field, there) in rows {
            let (got, remarks) = read("", "", status);
            assert_eq!(got.is_some(), there, "{status}");
            assert_eq!(fields(&remarks), [(Severity::Note, field.to_owned())]);
        }
    }

    #[test]
    fn capture_is_told_by_annotation_label_or_namespace() {
        let rows = [
            ("", "", Capture::AsNamespace),
            (", annotations: {ambient.istio.io/redirection: enabled}", "", Capture::Yes),
            (", labels: {istio.io/dataplane-mode: ambient}", "", Capture::Yes),
            (", labels: {istio.io/dataplane-mode: none}", "", Capture::No),
            (", labels: {istio.io/dataplane-mode: ambient}", "hostNetwork: true", Capture::No),
        ];
        for (meta, spec, want) in rows {
            assert_eq!(pod(meta, spec).capture, want, "{meta} {spec}");
        }
    }

    #[test]
    fn names_come_from_owner_and_labels() {
        let owner = |kind: &str, name: &str| {
            format!(", ownerReferences: [{{kind: {kind}, name: {name}, controller: true}}]")
        };
        let rows = [
            (String::new(), "p-1", "p-1", "latest"),
            (owner("ReplicaSet", "web-5d4f8"), "web", "web", "latest"),
            (
                owner("ReplicaSet", "web-5d-4f8") + ", labels: {pod-template-hash: 5d-4f8}",
                "web",
                "web",
                "latest",
            ),
            (owner("StatefulSet", "db"), "db", "db", "latest"),
            (owner("Job", "nightly-28000000"), "nightly", "nightly", "latest"),
            (owner("Job", "once-a"), "once-a", "once-a", "latest"),
            (", labels: {app: x, version: v2}".to_owned(), "p-1", "x", "v2"),
            (
                ", labels: {app: x, app.kubernetes.io/name: w, app.kubernetes.io/version: '3'}".to_owned(),
                "p-1",
                "w",
                "3",
            ),
            (", labels: {app: x, service.istio.io/canonical-name: z}".to_owned(), "p-1", "z", "latest"),
        ];
        for (meta, name, canonical, revision) in rows {
            let got = pod(&meta, "").workload;
            let got =
                (got.workload_name.as_ref(), got.canonical_name.as_ref(), got.canonical_revision.as_ref());
            assert_eq!(got, (name, canonical, revision), "{meta}");
        }
    }

    #[test]
    fn ordinary_pod_fields_need_no_word_and_others_are_named() {
        let spec = "nodeName: node1, restartPolicy: Always, volumes: [], serviceaccount: x, \
                    containers: [{name: c, image: i, env: [], ports: [{containerPort: 80, name: http, portname: w}]}]";
        let (got, remarks) = read("", spec, "podIP: 10.244.0.1, qosClass: Burstable");
        assert_eq!(got.unwrap().container_ports, BTreeMap::from([("http".to_owned(), 80)]));
        let want = ["spec.serviceaccount", "spec.containers[0].ports[0].portname"];
        assert_eq!(fields(&remarks), want.map(|field| (Severity::Warning, field.to_owned())));
    }
}
