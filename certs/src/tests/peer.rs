//! Peers made of bare rustls, which do what ours never would: show any certificate, or none, and speak any protocol.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::danger::{ClientCertVerified, ClientCertVerifier},
    version::TLS13,
};
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use spiffe_id::SpiffeId;

use super::{authority::Issued, soon};
use crate::{Authenticated, HandshakeError, MeshTls};

/// A peer of bare rustls.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) shows: Option<Issued>,
    pub(crate) protocols: Vec<&'static [u8]>,
    pub(crate) groups: Vec<&'static dyn SupportedKxGroup>,
}

impl Peer {
    pub(crate) fn showing(issued: Issued) -> Self {
        let groups = aws_lc_rs::default_provider().kx_groups;
        Self { shows: Some(issued), protocols: vec![b"h2"], groups }
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider { kx_groups: self.groups.clone(), ..aws_lc_rs::default_provider() })
    }

    pub(crate) fn client_config(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous(self.provider())));
        let mut config = match &self.shows {
            Some(issued) => {
                let (chain, key) = der(issued);
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.iter().map(|p| p.to_vec()).collect();
        config
    }

    fn server_config(&self) -> ServerConfig {
        let (chain, key) = der(self.shows.as_ref().expect("a server shows a certificate"));
        let mut config = ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Credulous(self.provider())))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = self.protocols.iter().map(|p| p.to_vec()).collect();
        config
    }

    /// Calls `mesh`. What the mesh says, and what this peer gets to read afterwards.
    pub(crate) async fn calls(
        &self,
        mesh: &MeshTls,
    ) -> (Accepted, io::Result<client::TlsStream<DuplexStream>>) {
        call(Arc::new(self.client_config()), mesh).await
    }

    /// Is called by `mesh`, which expects `expect`.
    pub(crate) async fn called_by(&self, mesh: &MeshTls, expect: &[SpiffeId]) -> (Connected, Served) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(Arc::new(self.server_config()));
        soon(async { tokio::join!(mesh.connect(near, expect), acceptor.accept(far)) }).await
    }
}

pub(crate) type Accepted = Result<Authenticated<server::TlsStream<DuplexStream>>, HandshakeError>;
pub(crate) type Connected = Result<Authenticated<client::TlsStream<DuplexStream>>, HandshakeError>;
pub(crate) type Served = io::Result<server::TlsStream<DuplexStream>>;

/// With TLS 1.3 a client learns only by reading whether it was accepted: a refused one reads an alert here.
pub(crate) async fn call(
    config: Arc<ClientConfig>,
    mesh: &MeshTls,
) -> (Accepted, io::Result<client::TlsStream<DuplexStream>>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(config);
    let dial = async {
        let name = ServerName::try_from("looked.up.example").unwrap();
        connector.connect(name, near).await
    };
    let (accepted, client) = soon(async { tokio::join!(mesh.accept(far), dial) }).await;
    let client = match (&accepted, client) {
        (Err(_), Ok(mut stream)) => soon(stream.read(&mut [0; 1])).await.and_then(|read| match read {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(stream),
        }),
        (_, client) => client,
    };
    (accepted, client)
}

fn der(issued: &Issued) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    (chain, PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap())
}

/// Believes everybody.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Credulous {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
