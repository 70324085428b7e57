//! Helpers of the tests: documents from text, and a mesh from text.

use std::path::Path;
use std::sync::Arc;

use waypoint_model::Service;

use super::document::{Contents, Document};
use super::finding::Remarks;
use super::options::Options;
use super::{Finding, Loaded, Severity};

/// The one document of a text.
pub(super) fn document(yaml: &str) -> Document {
    let contents = Contents::read(&Arc::from(Path::new("test.yaml")), yaml);
    assert_eq!(contents.findings, [], "{yaml}");
    let [document] = <[Document; 1]>::try_from(contents.documents).unwrap();
    document
}

/// The fields that remarks name, with how much they matter.
pub(super) fn fields(remarks: &Remarks) -> Vec<(Severity, String)> {
    remarks.iter().map(|remark| (remark.severity, remark.field.clone().unwrap_or_default())).collect()
}

/// A folder with one file of that text, loaded.
pub(super) fn load(yaml: &str) -> Loaded {
    load_with(yaml, &Options::default())
}

/// As [`load`], with settings.
pub(super) fn load_with(yaml: &str, options: &Options) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test.yaml"), yaml).unwrap();
    super::load(dir.path(), options).unwrap()
}

/// Findings of one severity, without the folder they were found in.
pub(super) fn findings(loaded: &Loaded, severity: Severity) -> Vec<String> {
    let matter = loaded.findings.iter().filter(|finding| finding.severity == severity);
    matter.map(|finding| Finding { file: "test.yaml".into(), ..finding.clone() }.to_string()).collect()
}

/// A service bound to the waypoint `wp`, with an HTTP and an opaque port.
pub(super) const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: a, labels: {istio.io/use-waypoint: wp}}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: main}, {name: tcp-x, port: 81, targetPort: 8081}]
";

/// A pod behind it.
pub(super) const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: a, labels: {app: web}}
spec: {serviceAccountName: web, nodeName: node1, containers: [{name: c, ports: [{name: main, containerPort: 8080}]}]}
status: {podIP: 10.244.0.1}
";

/// A waypoint.
pub(super) fn gateway(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n"
    )
}

/// A policy that allows everything at a target.
pub(super) fn policy(namespace: &str, target: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{target}], rules: [{{}}]}}\n"
    )
}

/// Several documents as one text.
pub(super) fn all(documents: &[&str]) -> String {
    documents.join("\n---\n")
}

/// A service by its key.
pub(super) fn service<'a>(loaded: &'a Loaded, key: &str) -> &'a Service {
    let found = loaded.mesh.services.values().find(|service| service.key.to_string() == key);
    found.unwrap_or_else(|| panic!("{key} is not there: {:?}", loaded.findings))
}

/// The service of [`SERVICE`].
pub(super) fn web(loaded: &Loaded) -> &Service {
    service(loaded, "a/web.a.svc.cluster.local")
}
