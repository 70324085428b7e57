//! Service: what a client addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use waypoint_model::{Map, ServiceKey, ServicePort};

use super::binding::Binding;
use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};
use super::options::Options;
use super::protocol::{self, Selected};
use super::workload::WorkloadDoc;

/// A Service or ServiceEntry as its own document tells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServiceDoc {
    pub(super) key: ServiceKey,
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) vips: Vec<IpAddr>,
    pub(super) ports: Map<u16, PortDoc>,
    pub(super) members: Members,
    /// Endpoints count as ready whatever they say of themselves.
    pub(super) publish_not_ready: bool,
    pub(super) binding: Binding,
}

/// A port and where it leads.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PortDoc {
    pub(super) port: ServicePort,
    pub(super) target: TargetPort,
}

/// Where a port leads on an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetPort {
    Number(u16),
    /// Name of a container's port.
    Name(String),
}

/// What stands behind it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Members {
    /// Workloads of its namespace that bear these labels; none of them: whatever EndpointSlices say.
    Labels(BTreeMap<String, String>),
    /// These.
    Inline(Vec<WorkloadDoc>),
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<Port>,
    selector: BTreeMap<String, String>,
    publish_not_ready_addresses: bool,
    session_affinity: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    port: u16,
    protocol: Option<String>,
    app_protocol: Option<String>,
    target_port: Option<Value>,
}

/// What says how the outside reaches a Service, or how kube-proxy spreads it.
const UNREAD: Unread = Unread {
    harmless: &[
        "status",
        "spec.allocateLoadBalancerNodePorts",
        "spec.externalIPs",
        "spec.externalTrafficPolicy",
        "spec.healthCheckNodePort",
        "spec.internalTrafficPolicy",
        "spec.ipFamilies",
        "spec.ipFamilyPolicy",
        "spec.loadBalancerClass",
        "spec.loadBalancerIP",
        "spec.loadBalancerSourceRanges",
        "spec.ports[].nodePort",
        "spec.sessionAffinityConfig",
        "spec.trafficDistribution",
    ],
    severity: Severity::Warning,
};

/// Translates a Kubernetes Service.
pub(super) fn translate(document: &Document, options: &Options, remarks: &mut Remarks) -> Option<ServiceDoc> {
    let spec = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    let (namespace, name) = (&document.key.namespace, &document.meta.name);
    if spec.kind.as_deref() == Some("ExternalName") {
        remarks
            .error("spec.type", "ExternalName is not supported: write a ServiceEntry with resolution STATIC");
        return None;
    }
    if spec.session_affinity.as_deref() == Some("ClientIP") {
        remarks.warning(
            "spec.sessionAffinity",
            "ClientIP has no effect here: MCP sessions keep to their endpoint anyway",
        );
    }
    Some(ServiceDoc {
        key: ServiceKey::new(namespace, &format!("{name}.{namespace}.svc.{}", options.domain)),
        name: name.clone(),
        aliases: Vec::new(),
        vips: vips(&spec, remarks),
        ports: ports(&spec.ports, remarks),
        members: Members::Labels(spec.selector),
        publish_not_ready: spec.publish_not_ready_addresses,
        binding: Binding::of(&document.meta.labels),
    })
}

fn vips(spec: &Spec, remarks: &mut Remarks) -> Vec<IpAddr> {
    let mut vips = Vec::new();
    let fields = spec.cluster_ips.iter().map(|text| ("spec.clusterIPs", text));
    for (field, text) in [("spec.clusterIP", &spec.cluster_ip)].into_iter().chain(fields) {
        match text.parse::<IpAddr>() {
            Ok(vip) if !vips.contains(&vip) => vips.push(vip),
            Ok(_) => {}
            Err(_) if matches!(text.as_str(), "" | "None") => {}
            Err(_) => remarks.error(field, format!("`{text}` is no IP address")),
        }
    }
    if vips.is_empty() && spec.cluster_ip != "None" {
        remarks.note("spec.clusterIP", "is not set: clients reach the service by its host name only");
    }
    vips
}

fn ports(written: &[Port], remarks: &mut Remarks) -> Map<u16, PortDoc> {
    let mut ports = Map::new();
    for (index, port) in written.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let Some(found) = service_port(port, &path, remarks) else { continue };
        if ports.insert(port.port, found).is_some() {
            remarks.error(format!("{path}.port"), format!("{} is there twice", port.port));
        }
    }
    ports
}

fn service_port(port: &Port, path: &str, remarks: &mut Remarks) -> Option<PortDoc> {
    if port.port == 0 {
        remarks.error(format!("{path}.port"), "0 is no port");
        return None;
    }
    let app_protocol = port.app_protocol.as_deref();
    if let Some(unknown) = app_protocol.filter(|name| !protocol::is_known(name)) {
        let message =
            format!("`{unknown}` is not known: the first bytes of each stream will tell what it carries");
        remarks.warning(format!("{path}.appProtocol"), message);
    }
    match protocol::of_service_port(port.protocol.as_deref(), app_protocol, port.name.as_deref(), port.port) {
        Selected::NotTcp => {
            remarks.note(path, "is not TCP and does not pass through a waypoint");
            None
        }
        Selected::Carries(protocol) => {
            let target = target_port(port, path, remarks)?;
            Some(PortDoc { port: ServicePort::new(port.name.clone(), protocol), target })
        }
    }
}

fn target_port(port: &Port, path: &str, remarks: &mut Remarks) -> Option<TargetPort> {
    match &port.target_port {
        None => Some(TargetPort::Number(port.port)),
        Some(Value::String(name)) if !name.is_empty() => {
            // A number in quotes is one, as the API server reads it.
            Some(name.parse().map_or_else(|_| TargetPort::Name(name.clone()), TargetPort::Number))
        }
        Some(value) => {
            let number = value.as_u64().and_then(|number| u16::try_from(number).ok());
            match number {
                Some(0) => Some(TargetPort::Number(port.port)),
                Some(number) => Some(TargetPort::Number(number)),
                None => {
                    remarks.error(
                        format!("{path}.targetPort"),
                        format!("{value} is neither a port nor a port's name"),
                    );
                    None
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use waypoint_model::Protocol;

    use super::*;
    use crate::feeds::file::testing::{document, fields};

    fn read(spec: &str) -> (Option<ServiceDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let text =
            format!("apiVersion: v1\nkind: Service\nmetadata: {{name: s, namespace: a}}\nspec: {{{spec}}}\n");
        (translate(&document(&text), &Options::default(), &mut remarks), remarks)
    }

    #[test]
    fn a_service_has_addresses_and_ports() {
        let (got, remarks) = read(
            "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], selector: {app: x}, ports: [\
             {port: 80, name: http, targetPort: web, nodePort: 30080}, {port: 81, targetPort: 8081}, {port: 82}, {port: 83, targetPort: '8083'}]",
        );
        let got = got.unwrap();
        assert_eq!(remarks, Remarks::default());
        assert_eq!(got.key.to_string(), "a/s.a.svc.cluster.local");
        assert_eq!(got.vips, ["10.96.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        let targets: Vec<_> = got.ports.iter().map(|(port, doc)| (*port, doc.target.clone())).collect();
        let want = [
            (80, TargetPort::Name("web".to_owned())),
            (81, TargetPort::Number(8081)),
            (82, TargetPort::Number(82)),
            (83, TargetPort::Number(8083)),
        ];
        assert_eq!(targets, want);
        assert_eq!(got.ports[&80].port.protocol, Protocol::Http);
    }

    #[test]
    fn a_headless_service_has_no_address() {
        let (got, remarks) = read("clusterIP: None, ports: [{port: 80}]");
        assert_eq!((got.unwrap().vips, remarks), (vec![], Remarks::default()));
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let vip = "clusterIP: 10.96.0.1";
        let rows = [
            ("type: ExternalName, externalName: x.example".to_owned(), Severity::Error, "spec.type"),
            (String::new(), Severity::Note, "spec.clusterIP"),
            ("clusterIP: x".to_owned(), Severity::Error, "spec.clusterIP"),
            (format!("{vip}, ports: [{{port: 0}}]"), Severity::Error, "spec.ports[0].port"),
            (
                format!("{vip}, ports: [{{port: 80}}, {{port: 80, name: b}}]"),
                Severity::Error,
                "spec.ports[1].port",
            ),
            (format!("{vip}, ports: [{{port: 53, protocol: UDP}}]"), Severity::Note, "spec.ports[0]"),
            (
                format!("{vip}, ports: [{{port: 80, targetPort: 70000}}]"),
                Severity::Error,
                "spec.ports[0].targetPort",
            ),
            (
                format!("{vip}, ports: [{{port: 80, appProtocol: htpp}}]"),
                Severity::Warning,
                "spec.ports[0].appProtocol",
            ),
            (format!("{vip}, ports: [{{prot: 80}}]"), Severity::Error, "spec.ports[0]"),
            (format!("{vip}, sessionAffinity: ClientIP"), Severity::Warning, "spec.sessionAffinity"),
            (format!("{vip}, selectors: {{}}"), Severity::Warning, "spec.selectors"),
        ];
        for (spec, severity, field) in rows {
            let got = fields(&read(&spec).1);
            assert!(got.contains(&(severity, field.to_owned())), "{spec}: {got:?}");
        }
    }
}
