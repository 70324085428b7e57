//! What istiod really sent is understood: `istio-integration/core/tests/dumps` holds resources of a broad set of manifests.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use istio_protos::{Finding, Nested, inspect, table};

/// Folder of the dumps, and the type of what is in it.
const TYPES: [(&str, &str); 5] = [
    ("Address", "istio.workload.Address"),
    ("Authorization", "istio.security.Authorization"),
    ("Cluster", "envoy.config.cluster.v3.Cluster"),
    ("ClusterLoadAssignment", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("Listener", "envoy.config.listener.v3.Listener"),
];

fn dumps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/dumps")
}

fn findings_of(folder: &str, type_name: &str) -> (usize, Vec<Finding>) {
    let message = table::message(type_name).unwrap();
    let mut files: Vec<_> =
        fs::read_dir(dumps().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let findings =
        files.iter().flat_map(|file| inspect(message, &fs::read(file).unwrap(), Nested::Enter).unwrap());
    (files.len(), findings.collect())
}

#[test]
fn nothing_that_istiod_sends_is_unknown_and_what_is_refused_is_refused_by_name() {
    let mut refused: Vec<_> = TYPES
        .iter()
        .flat_map(|(folder, type_name)| {
            let (files, findings) = findings_of(folder, type_name);
            assert!(files > 1, "{folder} has {files} dumps");
            findings
        })
        .map(|finding| finding.to_string())
        .map(|text| text.rsplit_once('(').unwrap().1.to_owned())
        .collect();
    refused.sort();
    refused.dedup();
    assert_eq!(
        refused,
        [
            "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig): refused, hosts that only the client names are not resolved",
            "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig): refused, hosts that only the client names are not resolved",
            "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz): refused, external authorization is not built here, so the chain refuses everything",
            "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb): refused, gRPC-Web is not built here",
            "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz): refused, external authorization is not built here, so the chain refuses everything",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager).http_filters[1].config_discovery: refused, extensions are not run here",
        ]
    );
}
