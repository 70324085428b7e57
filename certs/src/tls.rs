//! Both sides of the mesh's TLS.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::{
    ClientConfig, CommonState, ServerConfig, client::Resumption, pki_types::ServerName,
    server::NoServerSessionStorage, sign::SingleCertAndKey, version::TLS13,
};
use spiffe_id::SpiffeId;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    clock::Clock,
    error::HandshakeError,
    identity::{Authenticated, PeerCertificate, PeerIdentity},
    io::Io,
    provider,
    revocation::Revocations,
    source::SvidSource,
    svid::X509Svid,
    verifier::{self, InboundVerifier, OutboundVerifier, Trust, TrustDomains, Usage},
};

/// The one protocol inside: HTTP/2 (RFC 9113 §3.3).
const H2: &[u8] = b"h2";

/// Both sides of the mesh's TLS: 1.3 only, X25519MLKEM768 preferred, ALPN `h2` demanded, no resumption, no SNI, and a
/// certificate from both peers.
///
/// Each handshake uses the SVID of its moment; connections that are open go on when it changes. Cheap to clone. The
/// source may be dropped if it is a [`FileSource`](crate::FileSource) or
/// [`WorkloadApiSource`](crate::WorkloadApiSource): those live as long as somebody listens.
#[derive(Clone)]
pub struct MeshTls(Arc<Inner>);

struct Inner {
    svid: watch::Receiver<Option<Arc<X509Svid>>>,
    domains: Arc<ArcSwap<TrustDomains>>,
    revocations: Revocations,
    clock: Clock,
    /// Made of the SVID that was last used, so that a handshake need not make it again.
    party: ArcSwapOption<Party>,
}

/// One SVID, made ready for handshakes.
struct Party {
    svid: Arc<X509Svid>,
    trust: Arc<Trust>,
    server: Arc<ServerConfig>,
    client: ClientConfig,
}

impl MeshTls {
    /// TLS with the SVIDs of `source`.
    #[must_use]
    pub fn new(source: &dyn SvidSource, domains: TrustDomains, revocations: Revocations) -> Self {
        Self::with_clock(source, domains, revocations, Clock::system())
    }

    pub(crate) fn with_clock(
        source: &dyn SvidSource,
        domains: TrustDomains,
        revocations: Revocations,
        clock: Clock,
    ) -> Self {
        let (domains, party) = (Arc::new(ArcSwap::from_pointee(domains)), ArcSwapOption::empty());
        Self(Arc::new(Inner { svid: source.watch(), domains, revocations, clock, party }))
    }

    /// The accepting side. The peer must show a valid X.509-SVID of our trust domain or an alias of it.
    ///
    /// Sets no deadline: that is the caller's. Dropping the future drops `io`.
    ///
    /// # Errors
    /// [`HandshakeError`], whose `reason` is fit for a metric. The peer only sees a TLS alert or the end of the
    /// connection.
    pub async fn accept<IO: Io>(
        &self,
        io: IO,
    ) -> Result<Authenticated<server::TlsStream<IO>>, HandshakeError> {
        let party = self.party()?;
        let stream = TlsAcceptor::from(Arc::clone(&party.server)).accept(io).await?;
        let (peer, certificate) = party.authenticated(stream.get_ref().1, Usage::Client)?;
        Ok(Authenticated { stream, peer, certificate, local: party.svid.id().clone() })
    }

    /// The opening side. The peer must bear one of exactly these ids.
    ///
    /// Sets no deadline: that is the caller's. Dropping the future drops `io`. With TLS 1.3 the peer judges us after
    /// this has returned: its refusal shows as an alert at the first read.
    ///
    /// # Errors
    /// [`HandshakeError`], whose `reason` is fit for a metric. An empty `expect` is refused before a byte is sent.
    pub async fn connect<IO: Io>(
        &self,
        io: IO,
        expect: &[SpiffeId],
    ) -> Result<Authenticated<client::TlsStream<IO>>, HandshakeError> {
        if expect.is_empty() {
            return Err(HandshakeError::NothingExpected);
        }
        let party = self.party()?;
        let stream = party.connector(expect).connect(nameless(), io).await?;
        let (peer, certificate) = party.authenticated(stream.get_ref().1, Usage::Server)?;
        Ok(Authenticated { stream, peer, certificate, local: party.svid.id().clone() })
    }

    /// Whom handshakes accept beside our own trust domain from now on. Connections that are open go on: what their peers may
    /// do is for policies to say.
    pub fn set_trust_domains(&self, domains: TrustDomains) {
        self.0.domains.store(Arc::new(domains));
    }

    /// The id of the current SVID, `None` before the first.
    #[must_use]
    pub fn local_id(&self) -> Option<SpiffeId> {
        self.0.svid.borrow().as_ref().map(|svid| svid.id().clone())
    }

    /// The current SVID and every later one.
    #[must_use]
    pub fn svid(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
        self.0.svid.clone()
    }

    /// Is the certificate of an open connection still good? Costs a few signature checks; ask after
    /// [`Self::revocations`] changed and when [`PeerCertificate::not_after`] has passed.
    ///
    /// # Errors
    /// [`HandshakeError::Peer`] with `expired` or `revoked`: the connection is to be closed.
    pub fn recheck(&self, certificate: &PeerCertificate) -> Result<(), HandshakeError> {
        Ok(verifier::recheck(certificate, self.0.clock.unix(), &self.0.revocations)?)
    }

    /// Changes whenever other revocation lists were read.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.0.revocations.watch()
    }

    /// The current SVID, ready for a handshake. Two handshakes at once may both make it ready after a change; both
    /// results are right.
    fn party(&self) -> Result<Arc<Party>, HandshakeError> {
        let svid = self.0.svid.borrow().clone().ok_or(HandshakeError::NoSvid)?;
        if self.0.clock.now() > svid.not_after() {
            return Err(HandshakeError::OwnExpired { not_after: svid.not_after() });
        }
        let held = self.0.party.load_full();
        if let Some(party) = held.filter(|party| Arc::ptr_eq(&party.svid, &svid)) {
            return Ok(party);
        }
        let party = Arc::new(self.0.prepare(svid)?);
        self.0.party.store(Some(Arc::clone(&party)));
        Ok(party)
    }
}

/// Says who we are, and nothing of what rustls keeps of our key.
impl fmt::Debug for MeshTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshTls").field("local_id", &self.local_id()).finish_non_exhaustive()
    }
}

impl Inner {
    fn prepare(&self, svid: Arc<X509Svid>) -> Result<Party, HandshakeError> {
        let trust = Arc::new(Trust::new(&svid, Arc::clone(&self.domains), self.revocations.clone()));
        let server = Arc::new(self.server_config(&svid, &trust)?);
        let client = self.client_config(&svid, &trust)?;
        Ok(Party { svid, trust, server, client })
    }

    fn server_config(&self, svid: &X509Svid, trust: &Arc<Trust>) -> Result<ServerConfig, rustls::Error> {
        let verifier = Arc::new(InboundVerifier(Arc::clone(trust)));
        let own = SingleCertAndKey::from(Arc::clone(svid.certified()));
        let mut config = ServerConfig::builder_with_details(provider::mesh(), Arc::new(self.clock.clone()))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(own));
        config.alpn_protocols = vec![H2.to_vec()];
        // A resumed session would pass by the verifier, and so by revocation and a changed bundle.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn client_config(&self, svid: &X509Svid, trust: &Arc<Trust>) -> Result<ClientConfig, rustls::Error> {
        // Every connection brings its own verifier; this one, which expects nobody, is never used.
        let verifier = Arc::new(OutboundVerifier { trust: Arc::clone(trust), expected: Vec::new() });
        let own = SingleCertAndKey::from(Arc::clone(svid.certified()));
        let mut config = ClientConfig::builder_with_details(provider::mesh(), Arc::new(self.clock.clone()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(own));
        config.alpn_protocols = vec![H2.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}

impl Party {
    /// The configuration is shared parts and one short list, so a copy per connection is cheap.
    fn connector(&self, expect: &[SpiffeId]) -> TlsConnector {
        let verifier = OutboundVerifier { trust: Arc::clone(&self.trust), expected: expect.to_vec() };
        let mut config = self.client.clone();
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        TlsConnector::from(Arc::new(config))
    }

    /// What the handshake proved. rustls lets peers pass that offer no ALPN at all; we do not.
    fn authenticated(
        &self,
        connection: &CommonState,
        usage: Usage,
    ) -> Result<(PeerIdentity, PeerCertificate), HandshakeError> {
        if connection.alpn_protocol() != Some(H2) {
            return Err(HandshakeError::Alpn);
        }
        let chain = connection.peer_certificates().ok_or(HandshakeError::NoCertificate)?;
        Ok(self.trust.proven(chain, usage)?)
    }
}

/// rustls wants a name to dial. Ours is none that could be sent or matched.
fn nameless() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into())
}
