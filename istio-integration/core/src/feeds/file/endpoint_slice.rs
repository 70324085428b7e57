//! EndpointSlice: endpoints of a Service by address.

use std::net::IpAddr;

use serde::Deserialize;

use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};

/// A slice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SliceDoc {
    /// Name of the Service, in the slice's namespace.
    pub(super) service: String,
    /// Target ports by the name of the service's port; empty where the port has none.
    pub(super) ports: Vec<(String, u16)>,
    pub(super) endpoints: Vec<SliceEndpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SliceEndpoint {
    pub(super) address: IpAddr,
    pub(super) ready: bool,
    /// Namespace and name.
    pub(super) pod: Option<(String, String)>,
    pub(super) node: Option<String>,
    pub(super) zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    address_type: String,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Port {
    #[serde(default)]
    name: String,
    port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    target_ref: Option<TargetRef>,
    node_name: Option<String>,
    zone: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
}

#[derive(Deserialize)]
struct TargetRef {
    kind: String,
    name: String,
    namespace: Option<String>,
}

const UNREAD: Unread = Unread {
    harmless: &[
        "endpoints[].conditions.serving",
        "endpoints[].conditions.terminating",
        "endpoints[].deprecatedTopology",
        "endpoints[].hints",
        "endpoints[].hostname",
        "endpoints[].targetRef.*",
        "ports[].appProtocol",
    ],
    severity: Severity::Warning,
};

/// Translates an EndpointSlice that belongs to a Service.
pub(super) fn translate(document: &Document, remarks: &mut Remarks) -> Option<SliceDoc> {
    let body = decode::<Body>(&document.body, UNREAD, remarks)?;
    if !matches!(body.address_type.as_str(), "IPv4" | "IPv6") {
        remarks.error("addressType", format!("{} is not supported: write IPv4 or IPv6", body.address_type));
        return None;
    }
    let Some(service) = document.meta.label("kubernetes.io/service-name") else {
        remarks.warning(
            "metadata.labels[kubernetes.io/service-name]",
            "is missing: the slice belongs to no Service",
        );
        return None;
    };
    let ports = ports(&body.ports, remarks);
    let mut endpoints = Vec::new();
    for (index, written) in body.endpoints.iter().enumerate() {
        endpoints.extend(endpoint(written, index, &document.key.namespace, remarks));
    }
    Some(SliceDoc { service: service.to_owned(), ports, endpoints })
}

fn ports(written: &[Port], remarks: &mut Remarks) -> Vec<(String, u16)> {
    let mut ports = Vec::new();
    for (index, port) in written.iter().enumerate() {
        match (port.protocol.as_deref(), port.port) {
            (None | Some("TCP"), Some(number)) => ports.push((port.name.clone(), number)),
            (None | Some("TCP"), None) => {
                remarks.error(format!("ports[{index}].port"), "is missing: write the number");
            }
            (Some(other), _) => {
                remarks.note(format!("ports[{index}].protocol"), format!("{other} is not carried"))
            }
        }
    }
    ports
}

/// The first address is the one to use, as Kubernetes says.
fn endpoint(
    written: &Endpoint,
    index: usize,
    namespace: &str,
    remarks: &mut Remarks,
) -> Option<SliceEndpoint> {
    let field = || format!("endpoints[{index}].addresses");
    let Some(text) = written.addresses.first() else {
        remarks.error(field(), "is empty");
        return None;
    };
    let Ok(address) = text.parse() else {
        remarks.error(field(), format!("`{text}` is no IP address"));
        return None;
    };
    let target = written.target_ref.as_ref().filter(|target| target.kind == "Pod");
    let namespace_of = |target: &TargetRef| target.namespace.clone().unwrap_or_else(|| namespace.to_owned());
    Some(SliceEndpoint {
        address,
        ready: written.conditions.ready.unwrap_or(true),
        pod: target.map(|target| (namespace_of(target), target.name.clone())),
        node: written.node_name.clone(),
        zone: written.zone.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::{document, fields};

    fn read(body: &str) -> (Option<SliceDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let head = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                    metadata: {name: s, namespace: a, labels: {kubernetes.io/service-name: web}}\n";
        (translate(&document(&format!("{head}{body}")), &mut remarks), remarks)
    }

    #[test]
    fn a_slice_lists_addresses_pods_and_ports() {
        let (got, remarks) = read(
            "addressType: IPv4\nports: [{name: http, port: 8080, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]\n\
             endpoints: [{addresses: [10.244.0.1], conditions: {ready: false, serving: true}, targetRef: {kind: Pod, name: p}},\
             {addresses: [10.244.0.2], nodeName: node1}]\n",
        );
        let got = got.unwrap();
        assert_eq!(fields(&remarks), [(Severity::Note, "ports[1].protocol".to_owned())]);
        assert_eq!((got.service.as_str(), got.ports), ("web", vec![("http".to_owned(), 8080)]));
        let pod = Some(("a".to_owned(), "p".to_owned()));
        assert_eq!((got.endpoints[0].ready, &got.endpoints[0].pod), (false, &pod));
        assert_eq!((got.endpoints[1].ready, &got.endpoints[1].pod), (true, &None));
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        let rows = [
            ("addressType: FQDN\n", "addressType"),
            ("addressType: IPv4\nports: [{name: http}]\n", "ports[0].port"),
            ("addressType: IPv4\nendpoints: [{addresses: [web.example]}]\n", "endpoints[0].addresses"),
            ("addressType: IPv4\nendpoints: [{addresses: []}]\n", "endpoints[0].addresses"),
        ];
        for (body, field) in rows {
            assert_eq!(fields(&read(body).1), [(Severity::Error, field.to_owned())], "{body}");
        }
    }
}
