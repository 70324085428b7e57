//! Certificates of workloads from istiod (`istio.v1.auth.IstioCertificateService`), asked for as a proxy does.
//! The gRPC of it is written by hand, so that a refusal shows as it came.

use crate::ca::Svid;
use crate::http::{Client, Reply, full};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut as _, BytesMut};
use http::Request;
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The name in istiod's certificate.
const NAME: &str = "istiod.istio-system.svc";

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The cluster that istiod watches, as a proxy names it in the header `clusterid`.
const CLUSTER: &str = "Kubernetes";

/// `IstioCertificateRequest` (istio.io/api security/v1alpha1/ca.proto).
#[derive(Clone, PartialEq, Message)]
struct CertificateRequest {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

/// `IstioCertificateResponse`: the leaf first, the roots last.
#[derive(Clone, PartialEq, Message)]
struct CertificateResponse {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

/// A workload's certificate from istiod.
#[derive(Debug)]
pub struct Identity {
    /// The chain with its key.
    pub svid: Svid,
    /// The roots of the mesh, in PEM.
    pub roots: String,
}

/// Asks the istiod at `address` for a certificate that lives for `life` (zero: its default), showing `token`.
///
/// # Errors
/// When it refuses, with the code and message of gRPC.
pub(super) async fn request(
    address: SocketAddr,
    roots: &str,
    token: &str,
    life: Duration,
) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
    let reply = call(
        address,
        roots,
        token,
        &CertificateRequest { csr, validity_duration: life.as_secs().try_into()? },
    )
    .await?;
    let answer = read(&reply)?;
    let (roots, chain) = answer.cert_chain.split_last().context("an empty chain")?;
    Ok(Identity { svid: Svid::from_pem(&chain.concat(), key)?, roots: roots.clone() })
}

async fn call(address: SocketAddr, roots: &str, token: &str, message: &CertificateRequest) -> Result<Reply> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = wait::within("istiod", TcpStream::connect(address)).await??;
    let tls = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME)?, tcp).await?;
    let request = Request::post(format!("https://{NAME}:{}{METHOD}", address.port()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"))
        .header("clusterid", CLUSTER);
    Client::http2(tls).await?.send(request.body(full(frame(message)))?).await
}

/// One message as gRPC frames it: not compressed, its length, its bytes.
fn frame(message: &impl Message) -> BytesMut {
    let bytes = message.encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(&bytes);
    frame
}

fn read(reply: &Reply) -> Result<CertificateResponse> {
    let told = |name: &str| {
        let value = reply.trailers.get(name).or_else(|| reply.headers.get(name))?;
        value.to_str().ok()
    };
    if told("grpc-status") != Some("0") {
        bail!("istiod refused: grpc-status {:?}, {:?}", told("grpc-status"), told("grpc-message"));
    }
    ensure!(reply.body.first() == Some(&0), "an answer that is compressed or empty");
    Ok(CertificateResponse::decode(reply.body.get(5..).unwrap_or_default())?)
}
