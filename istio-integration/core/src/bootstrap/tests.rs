//! The environment that istiod renders, and every way in which it can be wrong.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;

/// What istiod 1.31 renders for a Gateway `wp` of namespace `app`, with the `fieldRef`s filled in.
const GOLDEN: &[(&str, &str)] = &[
    ("ISTIO_META_SERVICE_ACCOUNT", "wp"),
    ("ISTIO_META_NODE_NAME", "node-1"),
    ("PILOT_CERT_PROVIDER", "istiod"),
    ("CA_ADDR", "istiod.istio-system.svc:15012"),
    ("POD_NAME", "wp-7d9c5b9f4-abcde"),
    ("POD_NAMESPACE", "app"),
    ("INSTANCE_IP", "10.244.0.12"),
    ("SERVICE_ACCOUNT", "wp"),
    ("HOST_IP", "10.0.0.1"),
    ("ISTIO_CPU_LIMIT", "2"),
    (
        "PROXY_CONFIG",
        "{\"proxyMetadata\":{\"ISTIO_META_ENABLE_HBONE\":\"true\"},\"image\":{\"imageType\":\"distroless\"}}\n",
    ),
    ("ISTIO_META_ENABLE_HBONE", "true"),
    ("GOMEMLIMIT", "1073741824"),
    ("GOMAXPROCS", "2"),
    ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
    ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
    ("ISTIO_META_WORKLOAD_NAME", "wp"),
    ("ISTIO_META_OWNER", "kubernetes://apis/apps/v1/namespaces/app/deployments/wp"),
    ("ISTIO_META_MESH_ID", "cluster.local"),
    ("TRUST_DOMAIN", "cluster.local"),
];

const LABELS: &str = "gateway.istio.io/managed=\"istio.io-mesh-controller\"\ngateway.networking.k8s.io/gateway-name=\"wp\"\npod-template-hash=\"7d9c5b9f4\"\n";
const ANNOTATIONS: &str =
    "ambient.istio.io/xfcc-include-client-identity=\"True\"\nistio.io/rev=\"default\"\n";

fn flags() -> Flags {
    Flags { domain: Some("app.svc.cluster.local".to_owned()), service_cluster: Some("wp.app".to_owned()) }
}

/// The golden environment with these changes; an empty value takes the variable out.
fn read(changes: &[(&str, &str)], root: &Path) -> Result<Bootstrap, BootstrapError> {
    let variables =
        GOLDEN.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Bootstrap::read(&variables.collect(), &Files::below(root), &flags())
}

fn changed(changes: &[(&str, &str)]) -> Bootstrap {
    read(changes, Path::new("/nonexistent")).unwrap()
}

fn container() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/istio/pod")).unwrap();
    fs::write(root.path().join("etc/istio/pod/labels"), LABELS).unwrap();
    fs::write(root.path().join("etc/istio/pod/annotations"), ANNOTATIONS).unwrap();
    root
}

#[test]
fn what_istiod_renders_is_enough() {
    let root = container();
    let bootstrap = read(&[], root.path()).unwrap();
    let endpoint = Endpoint {
        host: "istiod.istio-system.svc".to_owned(),
        port: 15012,
        server_name: "istiod.istio-system.svc".to_owned(),
        root: root.path().join("var/run/secrets/istio/root-cert.pem"),
    };
    let metadata = json!({
        "CLUSTER_ID": "Kubernetes",
        "INTERCEPTION_MODE": "REDIRECT",
        "MESH_ID": "cluster.local",
        "NODE_NAME": "node-1",
        "OWNER": "kubernetes://apis/apps/v1/namespaces/app/deployments/wp",
        "SERVICE_ACCOUNT": "wp",
        "WORKLOAD_NAME": "wp",
        "NAME": "wp-7d9c5b9f4-abcde",
        "NAMESPACE": "app",
        "INSTANCE_IPS": "10.244.0.12",
        "LABELS": {
            "gateway.istio.io/managed": "istio.io-mesh-controller",
            "gateway.networking.k8s.io/gateway-name": "wp",
        },
        "ANNOTATIONS": {"ambient.istio.io/xfcc-include-client-identity": "True", "istio.io/rev": "default"},
        "PROXY_CONFIG": {
            "proxyMetadata": {"ISTIO_META_ENABLE_HBONE": "true"},
            "image": {"imageType": "distroless"},
        },
        "ENABLE_HBONE": "true",
        "ISTIO_VERSION": "1.31.0",
    });
    let expected = Bootstrap {
        xds: endpoint.clone(),
        ca: endpoint,
        token: root.path().join("var/run/secrets/tokens/istio-token"),
        cluster: "Kubernetes".to_owned(),
        network: String::new(),
        domain: "cluster.local".to_owned(),
        identity: SpiffeId::parse("spiffe://cluster.local/ns/app/sa/wp").unwrap(),
        ttl: Duration::from_secs(86_400),
        crl: None,
        workers: NonZeroUsize::new(2),
        drain: DrainTimes::default(),
        xfcc: true,
        node: Node {
            id: "waypoint~10.244.0.12~wp-7d9c5b9f4-abcde.app~app.svc.cluster.local".to_owned(),
            cluster: "wp.app".to_owned(),
            metadata: metadata.as_object().unwrap().clone(),
        },
    };
    assert_eq!(bootstrap, expected);
}

#[test]
fn addresses_come_from_the_most_specific_name() {
    let discovery = ("PROXY_CONFIG", r#"{"discoveryAddress": "istiod-canary.istio-system.svc:15012"}"#);
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let rows: &[Row<'_>] = &[
        (&[("CA_ADDR", "")], "istiod.istio-system.svc:15012", "istiod.istio-system.svc:15012"),
        (&[discovery], "istiod-canary.istio-system.svc:15012", "istiod.istio-system.svc:15012"),
        (
            &[discovery, ("CA_ADDR", "")],
            "istiod-canary.istio-system.svc:15012",
            "istiod-canary.istio-system.svc:15012",
        ),
        (&[discovery, ("XDS_ADDRESS", "a:1"), ("CA_ADDR", "")], "a:1", "a:1"),
        (&[("XDS_ADDRESS", "a:1"), ("CA_ADDRESS", "b:2")], "a:1", "b:2"),
    ];
    for (changes, xds, ca) in rows {
        let bootstrap = changed(changes);
        assert_eq!(
            (bootstrap.xds.authority().as_str(), bootstrap.ca.authority().as_str()),
            (*xds, *ca),
            "{changes:?}"
        );
    }
}

#[test]
fn names_roots_and_token_can_be_others() {
    let bootstrap = changed(&[
        ("ALT_XDS_HOSTNAME", "xds.test"),
        ("ALT_CA_HOSTNAME", "ca.test"),
        ("XDS_ROOT_CA", "/roots/xds.pem"),
        ("CA_ROOT_CA", "./roots/ca.pem"),
        ("AUTH_TOKEN", "./tokens/mine"),
    ]);
    let at = |path: &str| Path::new("/nonexistent").join(path);
    assert_eq!((bootstrap.xds.server_name.as_str(), &bootstrap.xds.root), ("xds.test", &at("roots/xds.pem")));
    assert_eq!((bootstrap.ca.server_name.as_str(), &bootstrap.ca.root), ("ca.test", &at("roots/ca.pem")));
    assert_eq!(bootstrap.token, at("tokens/mine"));
}

#[test]
fn names_of_ztunnel_serve_where_the_agents_are_missing() {
    let bootstrap = changed(&[("ISTIO_META_CLUSTER_ID", ""), ("CLUSTER_ID", "west"), ("NETWORK", "net-2")]);
    assert_eq!((bootstrap.cluster.as_str(), bootstrap.network.as_str()), ("west", "net-2"));
    assert_eq!(bootstrap.node.metadata["CLUSTER_ID"], "west");
    assert_eq!(bootstrap.node.metadata["NETWORK"], "net-2");
}

#[test]
fn metadata_is_passed_on_whatever_its_name() {
    let bootstrap = changed(&[
        ("ISTIO_META_ANYTHING", "at all"),
        ("ISTIO_METAJSON_WHATEVER", r#"{"LABELS": {"app": "x"}, "NUMBER": 3}"#),
        (
            "PROXY_CONFIG",
            r#"{"proxyMetadata": {"ISTIO_META_FROM_CONFIG": "yes", "OTHER": "no"}, "tracing": {}}"#,
        ),
    ]);
    let metadata = bootstrap.node.metadata;
    assert_eq!(metadata["ANYTHING"], "at all");
    assert_eq!(metadata["NUMBER"], 3);
    assert_eq!(metadata["LABELS"], json!({"app": "x"}));
    assert_eq!(metadata["FROM_CONFIG"], "yes");
    assert_eq!(metadata["PROXY_CONFIG"]["tracing"], json!({}));
    assert!(!metadata.contains_key("OTHER"));
}

#[test]
fn workers_follow_the_configuration_and_then_the_limit() {
    let of = |changes| changed(changes).workers.map(NonZeroUsize::get);
    assert_eq!(of(&[]), Some(2));
    assert_eq!(of(&[("ISTIO_CPU_LIMIT", "")]), None);
    assert_eq!(of(&[("PROXY_CONFIG", r#"{"concurrency": 4}"#)]), Some(4));
    assert_eq!(of(&[("PROXY_CONFIG", r#"{"concurrency": 0}"#)]), None);
}

#[test]
fn certificates_of_a_few_seconds_can_be_asked_for() {
    assert_eq!(changed(&[("SECRET_TTL", "10s")]).ttl, Duration::from_secs(10));
    assert_eq!(changed(&[("SECRET_TTL", "1h0m0s")]).ttl, Duration::from_secs(3600));
}

#[test]
fn a_revocation_list_counts_when_it_is_mounted() {
    let root = container();
    assert_eq!(read(&[("CRL_PATH", "/crl/ca-crl.pem")], root.path()).unwrap().crl, None);
    fs::create_dir(root.path().join("crl")).unwrap();
    fs::write(root.path().join("crl/ca-crl.pem"), "").unwrap();
    let there = read(&[("CRL_PATH", "/crl/ca-crl.pem")], root.path()).unwrap().crl;
    assert_eq!(there, Some(root.path().join("crl/ca-crl.pem")));
}

#[test]
fn each_fault_names_its_variable_and_the_fix() {
    for (name, value) in [
        ("POD_NAME", ""),
        ("POD_NAMESPACE", ""),
        ("INSTANCE_IP", ""),
        ("INSTANCE_IP", "wp"),
        ("TRUST_DOMAIN", "no domain"),
        ("CA_ADDR", "istiod"),
        ("XDS_ADDRESS", "http://istiod:15010"),
        ("AUTH_TOKEN", "eyJhbGciOi"),
        ("SECRET_TTL", "soon"),
        ("SECRET_TTL", "900ms"),
        ("ISTIO_CPU_LIMIT", "some"),
        ("PROXY_CONFIG", "[]"),
        ("CA_ROOT_CA", "SYSTEM"),
        ("XDS_ROOT_CA", "-----BEGIN CERTIFICATE-----"),
        ("ISTIO_METAJSON_X", "no"),
        ("ISTIO_META_GENERATOR", "api"),
        ("ISTIO_META_CERT_SIGNER", "clusterissuers.cert-manager.io/x"),
        ("CA_PROVIDER", "GoogleCAS"),
        ("FILE_MOUNTED_CERTS", "true"),
    ] {
        let error = read(&[(name, value)], Path::new("/nonexistent")).expect_err(name).to_string();
        assert!(error.contains(name) && error.contains("fix: "), "{name}={value}: {error}");
        assert!(name != "AUTH_TOKEN" || !error.contains(value), "{error}");
    }
    let none: [(&str, &str); 2] = [("SERVICE_ACCOUNT", ""), ("ISTIO_META_SERVICE_ACCOUNT", "")];
    assert!(read(&none, Path::new("/nonexistent")).unwrap_err().to_string().starts_with("SERVICE_ACCOUNT"));
}

#[test]
fn all_faults_are_told_at_once() {
    let error =
        read(&[("POD_NAME", ""), ("SECRET_TTL", "soon"), ("CA_ADDR", "x")], Path::new("/nonexistent"))
            .unwrap_err();
    assert_eq!(error.faults.len(), 3, "{error}");
}

#[test]
fn the_domain_must_be_that_of_the_pods_namespace() {
    for domain in ["cluster.local", "other.svc.cluster.local", "app.svc."] {
        let flags = Flags { domain: Some(domain.to_owned()), service_cluster: None };
        let environment =
            GOLDEN.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let error =
            Bootstrap::read(&environment, &Files::below(Path::new("/nonexistent")), &flags).unwrap_err();
        assert!(error.to_string().starts_with("--domain"), "{domain}: {error}");
    }
}
