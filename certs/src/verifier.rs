//! Judges the certificate of a peer.

use std::{sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use spiffe_id::SpiffeId;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::{
    bundle::{Bundle, Bundles},
    error::PeerRefusal,
    identity::{PeerCertificate, PeerIdentity},
    leaf::Leaf,
    provider,
    revocation::Revocations,
    svid::X509Svid,
};

/// Our own trust domain comes from the SVID; these are others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustDomains {
    /// Former or second names of our trust domain (Istio `trustDomainAliases`). Their peers are accepted as clients,
    /// by our own bundle unless one of their own is held.
    pub aliases: Vec<String>,
}

/// Which end of a connection a certificate is shown at; its extended key usage must permit that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// The peer opened the connection.
    Client,
    /// The peer was called.
    Server,
}

/// Whom we trust while we hold one SVID.
#[derive(Debug)]
pub(crate) struct Trust {
    own_domain: String,
    /// Those of now: they may change while an SVID lasts.
    domains: Arc<ArcSwap<TrustDomains>>,
    bundles: Arc<Bundles>,
    revocations: Revocations,
}

impl Trust {
    pub(crate) fn new(
        svid: &X509Svid,
        domains: Arc<ArcSwap<TrustDomains>>,
        revocations: Revocations,
    ) -> Self {
        Self {
            own_domain: svid.id().trust_domain().to_owned(),
            domains,
            bundles: Arc::clone(svid.bundles()),
            revocations,
        }
    }

    /// Reads the leaf, finds the bundle of its trust domain, and builds a chain to it. The leaf is not believed
    /// before that.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<PeerIdentity, PeerRefusal> {
        let id = Leaf::read(leaf)?.id;
        let bundle = self.bundle(id.trust_domain(), usage)?;
        verify_chain(leaf, intermediates, bundle, usage, now, &self.revocations)?;
        Ok(PeerIdentity::proven(id))
    }

    /// What a finished handshake proved: the identity again, and what is kept to check it later.
    pub(crate) fn proven(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Result<(PeerIdentity, PeerCertificate), PeerRefusal> {
        let leaf = Leaf::read(chain.first().map_or(&[], |leaf| leaf.as_ref()))?;
        let bundle = Arc::clone(self.bundle(leaf.id.trust_domain(), usage)?);
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let certificate = PeerCertificate::new(chain, bundle, usage, leaf.not_after);
        Ok((PeerIdentity::proven(leaf.id), certificate))
    }

    /// Clients must be of our trust domain or an alias. Servers may be of a federated one: `connect` demands an exact
    /// identity besides.
    fn bundle(&self, domain: &str, usage: Usage) -> Result<&Arc<Bundle>, PeerRefusal> {
        if domain == self.own_domain {
            return Ok(self.bundles.for_own());
        }
        let is_alias = self.domains.load().aliases.iter().any(|alias| alias == domain);
        match (self.bundles.for_federated(domain), is_alias, usage) {
            (Some(bundle), true, _) | (Some(bundle), false, Usage::Server) => Ok(bundle),
            (None, true, _) => Ok(self.bundles.for_own()),
            (Some(_), false, Usage::Client) | (None, false, _) => {
                Err(PeerRefusal::TrustDomain(domain.to_owned()))
            }
        }
    }
}

/// Is a certificate that was good at its handshake still good? Judged by the roots of then and the lists of now.
pub(crate) fn recheck(
    certificate: &PeerCertificate,
    now: UnixTime,
    revocations: &Revocations,
) -> Result<(), PeerRefusal> {
    let Some((leaf, intermediates)) = certificate.chain().split_first() else {
        return Err(PeerRefusal::from_chain(webpki::Error::BadDer));
    };
    verify_chain(leaf, intermediates, certificate.bundle(), certificate.usage(), now, revocations)
}

/// Our own chain, leaf first, as a peer with this bundle would judge it at either end of a connection.
pub(crate) fn check_own(
    chain: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: SystemTime,
) -> Result<(), PeerRefusal> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(PeerRefusal::from_chain(webpki::Error::BadDer));
    };
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    for usage in [Usage::Client, Usage::Server] {
        verify_chain(leaf, intermediates, bundle, usage, now, &Revocations::none())?;
    }
    Ok(())
}

/// Signatures, validity, usage, constraints and revocation of the whole path (RFC 5280 §6).
fn verify_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    usage: Usage,
    now: UnixTime,
    revocations: &Revocations,
) -> Result<(), PeerRefusal> {
    let leaf = EndEntityCert::try_from(leaf).map_err(PeerRefusal::from_chain)?;
    let usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let (lists, algorithms) = (revocations.lists(), algorithms().all);
    let not_revoked = |path: &VerifiedPath<'_>| lists.check(path, bundle, algorithms);
    leaf.verify_for_usage(algorithms, bundle.anchors(), intermediates, now, usage, None, Some(&not_revoked))
        .map(|_path| ())
        .map_err(PeerRefusal::from_chain)
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider::mesh().signature_verification_algorithms
}

fn refuse(refusal: PeerRefusal) -> rustls::Error {
    CertificateError::from(refusal).into()
}

/// Never asked of us: no configuration offers TLS 1.2.
fn no_tls12() -> rustls::Error {
    rustls::Error::General("TLS 1.2 is not spoken here".to_owned())
}

/// Judges who calls us.
#[derive(Debug)]
pub(crate) struct InboundVerifier(pub(crate) Arc<Trust>);

impl ClientCertVerifier for InboundVerifier {
    /// None: what we trust is nobody's business before they said who they are, and SPIFFE clients hold one SVID.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.verify(end_entity, intermediates, Usage::Client, now).map_err(refuse)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// Judges whom we call: by exact identity, never by the name that was dialled.
#[derive(Debug)]
pub(crate) struct OutboundVerifier {
    pub(crate) trust: Arc<Trust>,
    pub(crate) expected: Vec<SpiffeId>,
}

impl ServerCertVerifier for OutboundVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let peer = self.trust.verify(end_entity, intermediates, Usage::Server, now).map_err(refuse)?;
        if !self.expected.contains(peer.id()) {
            return Err(refuse(PeerRefusal::WrongIdentity { presented: peer.id().clone() }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
