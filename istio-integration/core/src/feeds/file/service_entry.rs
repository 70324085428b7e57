//! ServiceEntry with resolution STATIC: a service that Kubernetes does not know.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use waypoint_model::{Map, ServiceKey, ServicePort};

use super::binding::Binding;
use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};
use super::options::Options;
use super::protocol::{self, Selected};
use super::service::{Members, PortDoc, ServiceDoc, TargetPort};
use super::workload::WorkloadDoc;
use super::workload_entry::{self, EntryName, entry};

#[derive(Deserialize)]
struct Body {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<Port>,
    resolution: Option<String>,
    endpoints: Vec<workload_entry::Spec>,
    workload_selector: Option<WorkloadSelector>,
    export_to: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    number: u16,
    name: String,
    protocol: Option<String>,
    target_port: Option<u16>,
}

#[derive(Deserialize)]
struct WorkloadSelector {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Addresses that istiod allocated.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Vec<Allocated>,
}

#[derive(Deserialize)]
struct Allocated {
    value: IpAddr,
}

const UNREAD: Unread = Unread {
    harmless: &["spec.location", "status.*", "status.addresses[].host"],
    severity: Severity::Warning,
};

/// Translates a ServiceEntry.
pub(super) fn translate(document: &Document, options: &Options, remarks: &mut Remarks) -> Option<ServiceDoc> {
    let Body { spec, status } = decode::<Body>(&document.body, UNREAD, remarks)?;
    let resolution = spec.resolution.as_deref().unwrap_or("NONE");
    if resolution != "STATIC" {
        remarks
            .error("spec.resolution", format!("{resolution} is not supported: write STATIC with endpoints"));
        return None;
    }
    let mut hosts = hosts(&spec, remarks).into_iter();
    let hostname = hosts.next()?;
    if spec.export_to.iter().any(|to| to != "*") {
        remarks.warning("spec.exportTo", "is not read here: the service is visible to every namespace");
    }
    Some(ServiceDoc {
        key: ServiceKey::new(&document.key.namespace, &hostname),
        name: hostname,
        aliases: hosts.collect(),
        vips: vips(&spec, &status, remarks),
        ports: ports(&spec.ports, remarks),
        members: members(spec, document, options, remarks),
        publish_not_ready: false,
        binding: Binding::of(&document.meta.labels),
    })
}

fn hosts(spec: &Spec, remarks: &mut Remarks) -> Vec<String> {
    if spec.hosts.is_empty() {
        remarks.error("spec.hosts", "is empty");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        if host.is_empty() || host.contains('*') {
            remarks.error(
                format!("spec.hosts[{index}]"),
                format!("`{host}` is not supported: write a whole host name"),
            );
        }
    }
    spec.hosts.iter().map(|host| host.to_ascii_lowercase()).collect()
}

fn vips(spec: &Spec, status: &Status, remarks: &mut Remarks) -> Vec<IpAddr> {
    let mut vips = Vec::new();
    for (index, text) in spec.addresses.iter().enumerate() {
        match single_address(text) {
            Some(vip) => vips.push(vip),
            None => {
                let message = format!("`{text}` is not supported: write a single IP address");
                remarks.error(format!("spec.addresses[{index}]"), message);
            }
        }
    }
    if spec.addresses.is_empty() {
        vips.extend(status.addresses.iter().map(|allocated| allocated.value));
    }
    if vips.is_empty() {
        remarks.note("spec.addresses", "is not set: clients reach the service by its host name only");
    }
    vips
}

fn single_address(text: &str) -> Option<IpAddr> {
    let whole = |net: IpNet| (net.prefix_len() == net.max_prefix_len()).then(|| net.addr());
    text.parse().ok().or_else(|| text.parse::<IpNet>().ok().and_then(whole))
}

fn ports(written: &[Port], remarks: &mut Remarks) -> Map<u16, PortDoc> {
    let mut ports = Map::new();
    for (index, port) in written.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        if port.number == 0 {
            remarks.error(format!("{path}.number"), "0 is no port");
            continue;
        }
        let Selected::Carries(protocol) = protocol::of_entry_port(port.protocol.as_deref()) else {
            remarks.note(path, "is not TCP and does not pass through a waypoint");
            continue;
        };
        if let Some(unknown) = port.protocol.as_deref().filter(|name| !protocol::is_known(name)) {
            let message =
                format!("`{unknown}` is not known: the first bytes of each stream will tell what it carries");
            remarks.warning(format!("{path}.protocol"), message);
        }
        let target = TargetPort::Number(port.target_port.unwrap_or(port.number));
        let doc = PortDoc { port: ServicePort::new(Some(port.name.clone()), protocol), target };
        if ports.insert(port.number, doc).is_some() {
            remarks.error(format!("{path}.number"), format!("{} is there twice", port.number));
        }
    }
    ports
}

fn members(spec: Spec, document: &Document, options: &Options, remarks: &mut Remarks) -> Members {
    if let Some(selector) = spec.workload_selector {
        if !spec.endpoints.is_empty() {
            remarks.error("spec.endpoints", "cannot stand beside workloadSelector: remove one of them");
        }
        return Members::Labels(selector.labels);
    }
    let (namespace, service) = (&document.key.namespace, &document.meta.name);
    let inline = spec.endpoints.iter().enumerate();
    let endpoints = inline.filter_map(|(index, written)| -> Option<WorkloadDoc> {
        let name = EntryName {
            kind: "networking.istio.io/ServiceEntry",
            namespace,
            name: &format!("{service}/{}", written.address()),
        };
        entry(written, &format!("spec.endpoints[{index}]"), &name, options, remarks)
    });
    Members::Inline(endpoints.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::{document, fields};

    fn read(spec: &str) -> (Option<ServiceDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: se, namespace: a}}\nspec: {{{spec}}}\n"
        );
        (translate(&document(&text), &Options::default(), &mut remarks), remarks)
    }

    const GOOD: &str =
        "resolution: STATIC, hosts: [A.example, b.example], addresses: [10.96.9.1, 10.96.9.2/32]";

    #[test]
    fn an_entry_is_a_service_with_its_endpoints() {
        let (got, remarks) = read(&format!(
            "{GOOD}, location: MESH_INTERNAL, ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}], \
             endpoints: [{{address: 10.0.0.1, serviceAccount: vm, ports: {{http: 9090}}}}]"
        ));
        let got = got.unwrap();
        assert_eq!(remarks, Remarks::default());
        assert_eq!(
            (got.key.to_string(), got.aliases),
            ("a/a.example".to_owned(), vec!["b.example".to_owned()])
        );
        assert_eq!(got.vips.len(), 2);
        assert_eq!(got.ports[&80].target, TargetPort::Number(8080));
        let Members::Inline(endpoints) = got.members else { panic!("inline") };
        let uid = endpoints[0].workload.uid.to_string();
        assert_eq!(uid, "Kubernetes/networking.istio.io/ServiceEntry/a/se/10.0.0.1");
        assert_eq!(endpoints[0].port(Some("http"), &TargetPort::Number(8080)), Some(9090));
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let rows = [
            ("hosts: [a.example]".to_owned(), Severity::Error, "spec.resolution"),
            ("hosts: [a.example], resolution: DNS".to_owned(), Severity::Error, "spec.resolution"),
            ("hosts: [a.example], resolution: DYNAMIC_DNS".to_owned(), Severity::Error, "spec.resolution"),
            (
                "resolution: STATIC, hosts: ['*.example'], addresses: [10.0.0.1]".to_owned(),
                Severity::Error,
                "spec.hosts[0]",
            ),
            (
                "resolution: STATIC, hosts: [a.example], addresses: [10.0.0.0/8]".to_owned(),
                Severity::Error,
                "spec.addresses[0]",
            ),
            ("resolution: STATIC, hosts: [a.example]".to_owned(), Severity::Note, "spec.addresses"),
            (format!("{GOOD}, exportTo: [.]"), Severity::Warning, "spec.exportTo"),
            (format!("{GOOD}, subjectAltNames: [x]"), Severity::Warning, "spec.subjectAltNames"),
            (
                format!("{GOOD}, ports: [{{number: 53, name: dns, protocol: UDP}}]"),
                Severity::Note,
                "spec.ports[0]",
            ),
            (
                format!("{GOOD}, endpoints: [{{address: x.example}}]"),
                Severity::Error,
                "spec.endpoints[0].address",
            ),
            (
                format!("{GOOD}, endpoints: [{{address: 10.0.0.1}}], workloadSelector: {{labels: {{a: b}}}}"),
                Severity::Error,
                "spec.endpoints",
            ),
        ];
        for (spec, severity, field) in rows {
            let got = fields(&read(&spec).1);
            assert!(got.contains(&(severity, field.to_owned())), "{spec}: {got:?}");
        }
    }
}
