//! TLS as ztunnel speaks it: 1.3 only, ALPN `h2`, no server name sent, both sides show an SVID.

use crate::ca::Svid;
use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const TLS_1_3: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The side of a source workload's ztunnel: shows `svid`, wants to meet `expect` exactly.
pub fn client_config(svid: &Svid, bundle: &str, expect: &str) -> Result<ClientConfig> {
    client_config_by(provider(), svid, bundle, expect)
}

/// The same with this cryptography.
pub fn client_config_by(
    provider: Arc<CryptoProvider>,
    svid: &Svid,
    bundle: &str,
    expect: &str,
) -> Result<ClientConfig> {
    let verifier = ExactId {
        expect: expect.to_owned(),
        roots: roots(bundle)?,
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(TLS_1_3)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = builder.with_client_auth_cert(svid.chain(), svid.key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// The side of a destination workload's ztunnel: shows `svid`, demands a client certificate under `bundle`.
pub fn server_config(svid: &Svid, bundle: &str) -> Result<ServerConfig> {
    server_config_by(provider(), svid, bundle)
}

/// The same with this cryptography.
pub fn server_config_by(provider: Arc<CryptoProvider>, svid: &Svid, bundle: &str) -> Result<ServerConfig> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(bundle)?), provider.clone()).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(TLS_1_3)?;
    let mut config =
        builder.with_client_cert_verifier(verifier).with_single_cert(svid.chain(), svid.key())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// One handshake with the waypoint at `address`, that tells the key exchange and the leaf that it showed.
pub async fn meet(
    config: ClientConfig,
    address: SocketAddr,
) -> Result<(NamedGroup, CertificateDer<'static>)> {
    let tcp = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector.connect(ServerName::IpAddress(address.ip().into()), tcp).await?;
    let (_, connection) = tls.get_ref();
    let group = connection.negotiated_key_exchange_group().context("a key exchange")?.name();
    let leaf = connection.peer_certificates().and_then(|chain| chain.first()).context("a certificate")?;
    Ok((group, leaf.clone().into_owned()))
}

/// The URI SANs of a certificate, in order; empty if it has none or can't be read.
#[must_use]
pub fn uri_sans(certificate: &[u8]) -> Vec<String> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uris.collect()
}

/// The serial number of a certificate in hexadecimal digits; empty if it can't be read.
#[must_use]
pub fn serial(certificate: &[u8]) -> String {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return String::new() };
    parsed.raw_serial_as_string().replace(':', "")
}

/// The crypto of every test peer; named once, so that no process-wide default is needed.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(bundle: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        store.add(certificate.context("trust bundle")?)?;
    }
    Ok(store)
}

/// Accepts a chain to the bundle whose URI SANs hold one exact SPIFFE id, as ztunnel does.
#[derive(Debug)]
struct ExactId {
    expect: String,
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ExactId {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let shown = uri_sans(end_entity);
        if shown.contains(&self.expect) {
            return Ok(ServerCertVerified::assertion());
        }
        let told = anyhow::anyhow!("expected {}, the server is {shown:?}", self.expect);
        Err(Error::Other(OtherError(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(told)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
