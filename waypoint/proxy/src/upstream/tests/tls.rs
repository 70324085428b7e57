//! TLS that a cluster asks for, against servers that say what they saw of it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use http::Request;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use waypoint_model::{HttpVersion, TrafficPolicy, UpstreamTls};

use super::super::{Transport, UpstreamError};
use super::mesh::{Client, plain, told};
use super::servers::{Seen, Server, serve, text};
use super::soon;
use crate::body::Body;
use crate::limits::Limits;

/// Issues certificates of web servers, and lies as a file.
pub(in crate::upstream) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(in crate::upstream) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Chain and key in PEM, for these names.
    pub(in crate::upstream) fn issue(&self, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        let name = |name: &&str| match name.contains("://") {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    pub(in crate::upstream) fn write(&self, folder: &Path, name: &str) -> String {
        write(folder, name, &self.pem)
    }
}

pub(in crate::upstream) fn write(folder: &Path, name: &str, pem: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, pem).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What a server is.
struct Web<'a> {
    authority: &'a Authority,
    names: &'a [&'a str],
    alpn: &'a [&'a str],
    versions: &'a [&'static SupportedProtocolVersion],
    /// Asks clients for a certificate of it.
    clients: Option<&'a Authority>,
}

impl<'a> Web<'a> {
    fn new(authority: &'a Authority, names: &'a [&'a str]) -> Self {
        Self { authority, names, alpn: &[], versions: rustls::ALL_VERSIONS, clients: None }
    }

    /// Answers each request with the server name, its HTTP version and the host it asks for.
    async fn start(&self) -> (Server, Arc<Mutex<Vec<String>>>) {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.versions)
            .unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let roots = Arc::new(clients.roots());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let (chain, key) = self.authority.issue(self.names);
        let chain = vec![CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let (acceptor, names) = (TlsAcceptor::from(Arc::new(config)), Arc::<Mutex<Vec<String>>>::default());
        let seen_names = Arc::clone(&names);
        let server = Server::raw(move |tcp, _, seen: Arc<Seen>| {
            let (acceptor, names) = (acceptor.clone(), Arc::clone(&seen_names));
            async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let name = tls.get_ref().1.server_name().unwrap_or("-").to_owned();
                names.lock().unwrap().push(name.clone());
                let answer = move |request: Request<_>, _| {
                    let told = format!("{name} {:?}", request.version());
                    async move { text(&told) }
                };
                serve(tls, answer, seen, None).await;
            }
        })
        .await;
        (server, names)
    }
}

/// A client whose cluster is the server, by TLS.
fn client(server: &Server, tls: UpstreamTls, http: Option<HttpVersion>) -> Client {
    let at = plain("web", server.address);
    let policy = TrafficPolicy { tls: Some(tls), http, ..TrafficPolicy::default() };
    Client::to(std::slice::from_ref(&at)).with_cluster(vec![told(&at)], policy)
}

fn asking(host: &str) -> Request<Body> {
    Request::get(format!("http://{host}/")).body(Body::Empty).unwrap()
}

/// The last cause of a failed connect.
fn cause(error: &UpstreamError) -> String {
    let UpstreamError::Connect { source, .. } = error else { panic!("{error:?}") };
    let first: &dyn std::error::Error = &**source;
    std::iter::successors(Some(first), |error| error.source()).last().unwrap().to_string()
}

#[tokio::test]
async fn a_certificate_must_have_the_right_root_and_a_right_name() {
    let (folder, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let id = "spiffe://td/ns/web/sa/web";
    let (server, _) = Web::new(&ours, &["web.example", id]).start().await;
    let (stranger, _) = Web::new(&theirs, &["web.example", id]).start().await;
    let tls = UpstreamTls { sni: Some("web.example".to_owned()), ca_file, ..UpstreamTls::default() };
    let names = |names: &[&str]| UpstreamTls {
        subject_alt_names: names.iter().map(|&name| name.to_owned()).collect(),
        ..tls.clone()
    };
    let sni = |name: &str| UpstreamTls { sni: Some(name.to_owned()), ..tls.clone() };
    let insecure = UpstreamTls { insecure: true, ca_file: None, ..sni("other.example") };
    let rows = [
        ("the server name", &server, tls.clone(), None),
        ("another server name", &server, sni("other.example"), Some("certificate not valid for name")),
        ("one of the listed names", &server, names(&["x.example", "web.example"]), None),
        ("an identity", &server, names(&[id]), None),
        (
            "none of the listed names",
            &server,
            names(&["x.example", "spiffe://td/x"]),
            Some("NotValidForName"),
        ),
        (
            "a listed name, whatever the server name",
            &server,
            UpstreamTls { sni: Some("other.example".to_owned()), ..names(&[id]) },
            None,
        ),
        ("another root", &stranger, tls.clone(), Some("invalid peer certificate")),
        ("another root and a listed name", &stranger, names(&[id]), Some("invalid peer certificate")),
        ("unchecked", &stranger, insecure, None),
        (
            "no such file",
            &server,
            UpstreamTls { ca_file: Some("/nowhere.pem".to_owned()), ..tls.clone() },
            Some("No such file"),
        ),
    ];
    for (name, server, tls, refused) in rows {
        let before = server.seen.requests();
        let sent = client(server, tls, None).get().await;
        match (sent, refused) {
            (Ok((status, _)), None) => assert_eq!(status, 200, "{name}"),
            (Err(error), Some(why)) => {
                let cause = cause(&error);
                assert!(cause.contains(why), "{name}: {cause}");
                assert_eq!(server.seen.requests(), before, "{name}");
            }
            (sent, _) => panic!("{name}: {sent:?}"),
        }
    }
}

#[tokio::test]
async fn what_the_waypoint_itself_fetches_goes_by_the_clusters_tls() {
    let (folder, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let tls = UpstreamTls { sni: Some("keys.example".to_owned()), ca_file, ..UpstreamTls::default() };
    for (authority, trusted) in [(&ours, true), (&theirs, false)] {
        let (server, names) = Web::new(authority, &["keys.example"]).start().await;
        let client = client(&server, tls.clone(), None);
        let request = Request::get("https://keys.example/jwks").body(()).unwrap();
        let fetched = soon(client.upstreams.fetch(&client.cluster, request)).await;
        assert_eq!(fetched.is_ok(), trusted, "{:?}", fetched.err());
        assert_eq!(server.seen.requests(), usize::from(trusted));
        if trusted {
            assert_eq!(*names.lock().unwrap(), ["keys.example"]);
        }
    }
}

#[tokio::test]
async fn without_a_server_name_each_host_has_connections_of_its_own() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let (server, names) = Web::new(&ours, &["a.example", "b.example"]).start().await;
    let client = client(&server, UpstreamTls { ca_file, ..UpstreamTls::default() }, None);
    for host in ["a.example", "a.example", "b.example", "a.example:80"] {
        client.fetch(asking(host)).await.unwrap();
    }
    assert_eq!(*names.lock().unwrap(), ["a.example", "b.example"], "and uses them again");
    assert!(client.fetch(asking("c.example")).await.is_err(), "the certificate is of others");
}

/// Whoever asks for one host after another must not shut out those who ask for the next.
#[tokio::test]
async fn idle_connections_of_other_hosts_make_room() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let hosts: Vec<String> = (0..8).map(|n| format!("h{n}.example")).collect();
    let names: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let of_endpoint = Limits { endpoint_connections: 2, ..Limits::default() };
    let rows = [
        (HttpVersion::Http1, of_endpoint.clone(), None),
        (HttpVersion::Http2, of_endpoint, None),
        (HttpVersion::Http1, Limits::default(), Some(2)),
        (HttpVersion::Http2, Limits::default(), Some(2)),
    ];
    for (http, limits, of_cluster) in rows {
        let alpn: &[&str] = if http == HttpVersion::Http2 { &["h2"] } else { &[] };
        let (server, _) = Web { alpn, ..Web::new(&ours, &names) }.start().await;
        let at = plain("web", server.address);
        let tls = Some(UpstreamTls { ca_file: ca_file.clone(), ..UpstreamTls::default() });
        let mut policy = TrafficPolicy { tls, http: Some(http), ..TrafficPolicy::default() };
        policy.limits.connections = of_cluster;
        let client =
            Client::bounded(&limits, std::slice::from_ref(&at)).with_cluster(vec![told(&at)], policy);
        for host in &names {
            let (status, _) = soon(Box::pin(client.fetch(asking(host)))).await.unwrap();
            assert_eq!(status, 200, "{http:?} {of_cluster:?} {host}");
        }
    }
}

#[tokio::test]
async fn http2_is_offered_where_it_is_spoken_and_nothing_else_is_taken_for_it() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let tls = UpstreamTls { sni: Some("web.example".to_owned()), ca_file, ..UpstreamTls::default() };
    let chose = |alpn| UpstreamTls { alpn: vec![alpn], ..tls.clone() };
    let rows = [
        (&["h2"][..], tls.clone(), HttpVersion::Http2, Ok("web.example HTTP/2.0")),
        (&[], tls.clone(), HttpVersion::Http2, Ok("web.example HTTP/2.0")),
        (&[], tls.clone(), HttpVersion::Http1, Ok("web.example HTTP/1.1")),
        (&["http/1.1"], chose("http/1.1".to_owned()), HttpVersion::Http1, Ok("web.example HTTP/1.1")),
        (&["http/1.1"], chose("http/1.1".to_owned()), HttpVersion::Http2, Err("the server chose no h2")),
        (&["h2"], chose("h2".to_owned()), HttpVersion::Http1, Err("the server chose h2")),
    ];
    for (alpn, tls, http, want) in rows {
        let (server, _) = Web { alpn, ..Web::new(&ours, &["web.example"]) }.start().await;
        match (client(&server, tls, Some(http)).get().await, want) {
            (Ok((_, told)), Ok(want)) => assert_eq!(told, want),
            (Err(error), Err(why)) => assert!(cause(&error).contains(why), "{}", cause(&error)),
            (got, want) => panic!("{got:?}, not {want:?}"),
        }
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_to_servers_that_have_no_better() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let web = Web { versions: &[&rustls::version::TLS12], ..Web::new(&ours, &["web.example"]) };
    let (server, _) = web.start().await;
    let tls = UpstreamTls { sni: Some("web.example".to_owned()), ca_file, ..UpstreamTls::default() };
    assert_eq!(client(&server, tls, None).get().await.unwrap().0, 200);
}

#[tokio::test]
async fn our_certificate_is_shown_where_the_cluster_has_one() {
    let (folder, ours, theirs) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let web = Web { clients: Some(&ours), ..Web::new(&ours, &["web.example"]) };
    let (server, _) = web.start().await;
    let of = |authority: &Authority, name: &str| {
        let (chain, key) = authority.issue(&["client.example"]);
        let chain = write(folder.path(), &format!("{name}-chain.pem"), &chain);
        Some((chain, write(folder.path(), &format!("{name}-key.pem"), &key)))
    };
    let tls = UpstreamTls {
        sni: Some("web.example".to_owned()),
        ca_file: Some(ours.write(folder.path(), "ca.pem")),
        ..UpstreamTls::default()
    };
    for (client_files, works) in [(of(&ours, "ours"), true), (of(&theirs, "theirs"), false), (None, false)] {
        let tls = UpstreamTls { client_files, ..tls.clone() };
        assert_eq!(client(&server, tls, None).get().await.is_ok(), works);
    }
}

#[tokio::test]
async fn opaque_bytes_go_by_tls_too() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let (server, names) = Web::new(&ours, &["server.s.svc.cluster.local"]).start().await;
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let client = client(&server, UpstreamTls { ca_file, ..UpstreamTls::default() }, None);
    let (mut transport, _chosen) = client.open().await.unwrap();
    assert!(matches!(transport, Transport::Tls(_)));
    transport.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(transport.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(*names.lock().unwrap(), ["server.s.svc.cluster.local"], "the service's name");
}

#[tokio::test]
async fn a_cluster_whose_tls_changed_does_not_use_connections_that_were_checked_otherwise() {
    let (folder, ours) = (tempfile::tempdir().unwrap(), Authority::new());
    let ca_file = Some(ours.write(folder.path(), "ca.pem"));
    let (server, _) = Web::new(&ours, &["web.example"]).start().await;
    let insecure =
        UpstreamTls { sni: Some("web.example".to_owned()), insecure: true, ..UpstreamTls::default() };
    let lax = client(&server, insecure.clone(), None);
    lax.get().await.unwrap();
    let strict = UpstreamTls {
        insecure: false,
        ca_file,
        subject_alt_names: vec!["other.example".to_owned()],
        ..insecure
    };
    let at = plain("web", server.address);
    let policy = TrafficPolicy { tls: Some(strict), ..TrafficPolicy::default() };
    assert!(lax.with_cluster(vec![told(&at)], policy).get().await.is_err());
}
