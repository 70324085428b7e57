//! Keys that are fetched through a control plane's cluster, from snapshot to snapshot.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use certs::{MeshTls, Revocations, SvidSource, TrustDomains, X509Svid};
use hbone::Target;
use serde_json::json;
use tokio::sync::watch;
use waypoint_model::{
    Cluster, ClusterEndpoint, ClusterKey, EndpointAddress, Jwks, Locality, MeshConfig, Protocol, Service,
    ServiceKey, ServicePort, TrafficPolicy, TunnelKind,
};

use super::tests::{Signer, ask, key_server, rule};
use super::*;
use crate::limits::Limits;
use crate::snapshot::ConfigCell;
use crate::upstream::Upstreams;

const KEYS: &str = "outbound|80||keys.example";

/// A source without a certificate: no tunnel is opened here.
struct NoSource(watch::Sender<Option<Arc<X509Svid>>>);

impl SvidSource for NoSource {
    fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
        self.0.subscribe()
    }
}

fn cell() -> ConfigCell {
    let source = NoSource(watch::Sender::new(None));
    let tls = MeshTls::new(&source, TrustDomains::default(), Revocations::none());
    ConfigCell::new(Upstreams::new(
        tls,
        &Limits::default(),
        Locality::default(),
        crate::telemetry::Hits::default(),
    ))
}

/// Service `x`, whose tokens are verified with keys of `uri`, through the cluster [`KEYS`]; `at`: its endpoint, if it is
/// delivered.
fn mesh(uri: &str, at: Option<SocketAddr>) -> Arc<MeshConfig> {
    let keys = Jwks::Remote {
        uri: uri.to_owned(),
        cluster: Some(ClusterKey(KEYS.into())),
        timeout: Duration::from_secs(5),
        cache: Duration::from_secs(300),
    };
    let mut port = ServicePort::new(None, Protocol::Http);
    port.chain.jwt.push(Arc::new(rule("i", keys)));
    let service = Service {
        key: ServiceKey::new("x", "x"),
        name: "x".to_owned(),
        fronted: true,
        aliases: Vec::new(),
        vips: vec!["10.96.0.1".parse().unwrap()],
        ports: [(80, port)].into(),
        endpoints: Vec::new(),
        policies: Vec::new(),
        routes: Vec::new(),
        jwt: Vec::new(),
    };
    let clusters = at.map(|at| (ClusterKey(KEYS.into()), Arc::new(cluster(at)))).into_iter().collect();
    let services = [(service.key.clone(), Arc::new(service))].into();
    Arc::new(MeshConfig { services, clusters, ..MeshConfig::default() })
}

fn cluster(at: SocketAddr) -> Cluster {
    let endpoint = ClusterEndpoint {
        workload: None,
        address: EndpointAddress::Socket(at),
        tunnel: TunnelKind::Plain,
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        locality_weight: None,
        ready: true,
    };
    Cluster {
        key: ClusterKey(KEYS.into()),
        service: ServiceKey::new("auth", "keys.example"),
        port: 80,
        subset: None,
        endpoints: vec![endpoint],
        traffic: TrafficPolicy::default(),
        unusable: None,
    }
}

async fn asked(cell: &ConfigCell, token: &str) -> Result<Option<Value>, Rejection> {
    let destination = cell.load().unwrap().destination(&Target::parse("10.96.0.1:80").unwrap()).unwrap();
    ask(&destination.jwt, token).await
}

#[tokio::test]
async fn a_clusters_endpoint_is_asked_whatever_the_uris_host_is() {
    let signer = Signer::ec("ES256", "");
    let (address, served) = key_server("200 OK", json!({ "keys": [signer.jwk()] }).to_string()).await;
    let token = signer.sign(&json!({"iss": "i"}));
    let cell = cell();
    cell.apply(&mesh("http://keys.example/jwks", Some(address)));
    assert_eq!(asked(&cell, &token).await, Ok(Some(json!({"iss": "i"}))));
    // The keys outlive the snapshot, even where the next one has no way to them.
    cell.apply(&mesh("http://keys.example/jwks", None));
    assert!(asked(&cell, &signer.sign(&json!({"iss": "i", "jti": "2"}))).await.is_ok());
    assert_eq!(served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_cluster_that_comes_later_is_used_from_then_on() {
    let signer = Signer::ec("ES256", "");
    let (address, served) = key_server("200 OK", json!({ "keys": [signer.jwk()] }).to_string()).await;
    let token = signer.sign(&json!({"iss": "i"}));
    let cell = cell();
    cell.apply(&mesh("http://keys.example/jwks", None));
    assert_eq!(asked(&cell, &token).await, Err(Rejection::Fetch));
    cell.apply(&mesh("http://keys.example/jwks", Some(address)));
    let fetched = async {
        while asked(&cell, &token).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await; // a failed fetch is not tried again at once
        }
    };
    tokio::time::timeout(Duration::from_secs(10), fetched).await.expect("the keys");
    assert_eq!(served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn https_is_never_fetched_without_tls_and_no_other_scheme_at_all() {
    let signer = Signer::ec("ES256", "");
    let (address, served) = key_server("200 OK", json!({ "keys": [signer.jwk()] }).to_string()).await;
    let token = signer.sign(&json!({"iss": "i"}));
    for uri in ["https://keys.example/jwks", "ftp://keys.example/jwks", "/jwks", "x y"] {
        let cell = cell();
        cell.apply(&mesh(uri, Some(address)));
        assert_eq!(asked(&cell, &token).await, Err(Rejection::Fetch), "{uri}");
    }
    assert_eq!(served.load(Ordering::Relaxed), 0);
}
