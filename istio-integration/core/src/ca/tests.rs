//! The client against a scripted istiod: gRPC by hand over TLS, so that it can do everything wrong.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response};
use prost::Message as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

const ID: &str = "spiffe://cluster.local/ns/app/sa/wp";
const NAME: &str = "istiod.istio-system.svc";

/// A root that signs.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Root {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "cluster.local");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate on the key of this request; `life` in seconds, from and to.
    fn sign(&self, csr: &str, uri: &str, life: (i64, i64)) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params = leaf(uri, life);
        request.signed_by(&self.issuer).unwrap().pem()
    }

    fn serving(&self) -> rustls::ServerConfig {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

fn leaf(uri: &str, (from, to): (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let at = |seconds| OffsetDateTime::from(SystemTime::now()) + time::Duration::seconds(seconds);
    (params.not_before, params.not_after) = (at(from), at(to));
    params
}

/// What istiod does with a call.
type Answer =
    Box<dyn Fn(&CertificateRequest, &Root) -> Result<Vec<String>, (u32, &'static str)> + Send + Sync>;

struct Istiod {
    root: Root,
    answer: Answer,
    seen: Mutex<Vec<(HeaderMap, CertificateRequest)>>,
}

/// Serves calls as `answer` says; `None` is silent.
async fn serve(istiod: Arc<Istiod>, listener: TcpListener, silent: bool) {
    let tls = TlsAcceptor::from(Arc::new(istiod.root.serving()));
    while let Ok((socket, _)) = listener.accept().await {
        let _ = call(&istiod, &tls, socket, silent).await;
    }
}

async fn call(
    istiod: &Istiod,
    tls: &TlsAcceptor,
    socket: TcpStream,
    silent: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut connection = h2::server::handshake(tls.accept(socket).await?).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        if silent {
            // The connection stays open and says nothing more.
            std::mem::forget(respond);
            continue;
        }
        let (head, mut body) = request.into_parts();
        let mut bytes = BytesMut::new();
        // Reading the body needs the connection to be driven.
        while bytes.len() < 5 || bytes.len() < 5 + u32::from_be_bytes(bytes[1..5].try_into()?) as usize {
            tokio::select! {
                chunk = body.data() => match chunk {
                    Some(chunk) => bytes.extend_from_slice(&chunk?),
                    None => break,
                },
                _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => break,
            }
        }
        let message = CertificateRequest::decode(&bytes[5..])?;
        let outcome = (istiod.answer)(&message, &istiod.root);
        istiod.seen.lock().unwrap().push((head.headers, message));
        let ok = Response::builder().header("content-type", "application/grpc").body(())?;
        let mut stream = respond.send_response(ok, false)?;
        let mut trailers = HeaderMap::new();
        match outcome {
            Ok(cert_chain) => {
                stream.send_data(framed(&CertificateResponse { cert_chain }), false)?;
                trailers.insert("grpc-status", 0.into());
            }
            Err((code, message)) => {
                trailers.insert("grpc-status", code.into());
                trailers.insert("grpc-message", message.parse()?);
            }
        }
        stream.send_trailers(trailers)?;
    }
    Ok(())
}

fn framed(message: &CertificateResponse) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut bytes).unwrap();
    bytes.freeze()
}

/// A client and the istiod that it asks.
struct Play {
    folder: tempfile::TempDir,
    istiod: Arc<Istiod>,
    client: IstiodCa,
}

impl Play {
    async fn of(
        silent: bool,
        answer: impl Fn(&CertificateRequest, &Root) -> Result<Vec<String>, (u32, &'static str)>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new();
        std::fs::write(folder.path().join("root.pem"), &root.pem).unwrap();
        std::fs::write(folder.path().join("token"), "the-token\n").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let istiod = Arc::new(Istiod { root, answer: Box::new(answer), seen: Mutex::default() });
        tokio::spawn(serve(Arc::clone(&istiod), listener, silent));
        let client = client(folder.path(), port);
        Self { folder, istiod, client }
    }

    async fn fault(&self) -> String {
        let outcome = tokio::time::timeout(Duration::from_secs(20), self.client.certificate()).await.unwrap();
        outcome.expect_err("a fault").to_string()
    }
}

fn client(folder: &Path, port: u16) -> IstiodCa {
    IstiodCa {
        endpoint: Endpoint {
            host: "127.0.0.1".to_owned(),
            port,
            server_name: NAME.to_owned(),
            root: folder.join("root.pem"),
        },
        token: folder.join("token"),
        cluster: "Kubernetes".to_owned(),
        identity: SpiffeId::parse(ID).unwrap(),
        ttl: Duration::from_secs(10),
        answer: Duration::from_millis(500),
    }
}

/// A chain as istiod makes it.
fn good(request: &CertificateRequest, root: &Root) -> Vec<String> {
    vec![root.sign(&request.csr, ID, (-120, request.validity_duration)), root.pem.clone()]
}

#[tokio::test]
async fn a_certificate_comes_for_a_fresh_key_with_token_and_cluster_id() {
    let play = Play::of(false, |request, root| Ok(good(request, root))).await;
    let first = play.client.certificate().await.unwrap();
    std::fs::write(play.folder.path().join("token"), "the-next-token").unwrap();
    let second = play.client.certificate().await.unwrap();
    assert_eq!(first.id().as_str(), ID);
    let life = first.not_after().duration_since(SystemTime::now()).unwrap();
    assert!((Duration::from_secs(7)..=Duration::from_secs(10)).contains(&life), "{life:?}");
    assert_ne!(first.serial(), second.serial());
    let seen = play.istiod.seen.lock().unwrap();
    let [(one, asked), (two, again)] = &seen[..] else { panic!("{} calls", seen.len()) };
    assert_eq!(one["authorization"], "Bearer the-token");
    assert_eq!(two["authorization"], "Bearer the-next-token");
    assert_eq!(one["clusterid"], "Kubernetes");
    assert_eq!(asked.validity_duration, 10);
    assert_ne!(asked.csr, again.csr);
    let csr = CertificateSigningRequestParams::from_pem(&asked.csr).unwrap();
    assert_eq!(csr.params.subject_alt_names, [SanType::URI(ID.try_into().unwrap())]);
    assert_eq!(csr.public_key.algorithm(), &rcgen::PKCS_ECDSA_P256_SHA256);
}

#[tokio::test]
async fn the_root_file_is_read_for_each_connection() {
    let play = Play::of(false, |request, root| Ok(good(request, root))).await;
    let path = play.folder.path().join("root.pem");
    std::fs::write(&path, Root::new().pem).unwrap();
    let fault = play.fault().await;
    assert!(fault.contains("fix: the mounted root is not that of this istiod"), "{fault}");
    std::fs::write(&path, &play.istiod.root.pem).unwrap();
    play.client.certificate().await.unwrap();
}

#[tokio::test]
async fn several_roots_may_come_and_an_intermediate_before_them() {
    let other = Root::new().pem;
    let play = Play::of(false, move |request, root| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let intermediate = params.signed_by(&key, &root.issuer).unwrap().pem();
        let signer = Root { issuer: Issuer::new(params, key), pem: String::new() };
        let leaf = signer.sign(&request.csr, ID, (-120, 10));
        Ok(vec![leaf, intermediate, format!("{other}{}", root.pem)])
    })
    .await;
    play.client.certificate().await.unwrap();
}

#[tokio::test]
async fn each_bad_reply_is_refused_by_name_with_a_fix() {
    type Reply = fn(&CertificateRequest, &Root) -> Result<Vec<String>, (u32, &'static str)>;
    let rows: [(&str, Reply); 12] = [
        (
            "spiffe://cluster.local/ns/app/sa/other where spiffe://cluster.local/ns/app/sa/wp was expected",
            |r, root| {
                Ok(vec![
                    root.sign(&r.csr, "spiffe://cluster.local/ns/app/sa/other", (-120, 10)),
                    root.pem.clone(),
                ])
            },
        ),
        ("the certificate expired", |r, root| Ok(vec![root.sign(&r.csr, ID, (-120, -60)), root.pem.clone()])),
        ("valid from", |r, root| Ok(vec![root.sign(&r.csr, ID, (60, 120)), root.pem.clone()])),
        ("does not fit", |_, root| {
            let foreign = csr::make(&SpiffeId::parse(ID).unwrap()).unwrap().0;
            Ok(vec![root.sign(&foreign, ID, (-120, 10)), root.pem.clone()])
        }),
        ("does not go with the roots", |r, root| {
            Ok(vec![root.sign(&r.csr, ID, (-120, 10)), Root::new().pem])
        }),
        ("holds no certificate", |_, root| Ok(vec!["garbage".to_owned(), root.pem.clone()])),
        ("trust bundle", |r, root| Ok(vec![root.sign(&r.csr, ID, (-120, 10)), "garbage".to_owned()])),
        ("1 elements", |r, root| Ok(vec![root.sign(&r.csr, ID, (-120, 10))])),
        ("0 elements", |_, _| Ok(Vec::new())),
        ("Unauthenticated: request authenticate failure; fix: the token", |_, _| {
            Err((16, "request authenticate failure"))
        }),
        ("SECRET_TTL must not exceed", |_, _| Err((3, "requested TTL 999h is greater than the max"))),
        ("Unimplemented: unknown service; fix: this is no certificate authority", |_, _| {
            Err((12, "unknown service"))
        }),
    ];
    for (expected, reply) in rows {
        let play = Play::of(false, reply).await;
        let fault = play.fault().await;
        assert!(fault.contains(expected) && fault.contains("fix: "), "{fault:?} is not {expected:?}");
    }
}

#[tokio::test]
async fn an_istiod_that_says_nothing_is_given_up() {
    let play = Play::of(true, |_, _| Ok(Vec::new())).await;
    let fault = play.fault().await;
    assert!(fault.contains("within 0.5 s"), "{fault}");
}

#[tokio::test]
async fn what_is_wrong_on_the_way_is_named_with_its_fix() {
    let play = Play::of(false, |request, root| Ok(good(request, root))).await;
    let named = IstiodCa {
        endpoint: Endpoint { server_name: "other.test".to_owned(), ..play.client.endpoint.clone() },
        ..play.client.clone()
    };
    let fault = named.certificate().await.unwrap_err().to_string();
    assert!(fault.contains("fix: set ALT_CA_HOSTNAME"), "{fault}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let fault = client(play.folder.path(), closed).certificate().await.unwrap_err().to_string();
    assert!(fault.contains("cannot connect") && fault.contains("CA_ADDR"), "{fault}");

    std::fs::write(play.folder.path().join("root.pem"), "garbage").unwrap();
    let fault = play.fault().await;
    assert!(fault.contains("root.pem: the trust bundle holds no certificate; fix: mount"), "{fault}");
    std::fs::remove_file(play.folder.path().join("root.pem")).unwrap();
    assert!(play.fault().await.contains("root.pem cannot be read"), "{}", play.fault().await);
    std::fs::remove_file(play.folder.path().join("token")).unwrap();
    assert!(play.fault().await.contains("the token"), "{}", play.fault().await);
}

#[test]
fn certificates_are_read_by_their_own_reader() {
    // The tests' own authority must be one that webpki accepts, or they would prove nothing.
    let root = Root::new();
    let der = CertificateDer::from_pem_slice(root.pem.as_bytes()).unwrap();
    assert!(!der.is_empty());
    certs::check_roots(root.pem.as_bytes()).unwrap();
}
