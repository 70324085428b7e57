//! Who the peer is, once that is proven.

use std::{sync::Arc, time::SystemTime};

use rustls::pki_types::CertificateDer;
use spiffe_id::SpiffeId;

use crate::{bundle::Bundle, verifier::Usage};

/// A peer whose certificate chains to its trust domain's bundle and bears exactly one URI SAN
/// (SPIFFE X.509-SVID §2, §5). Only the verifier makes one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity(SpiffeId);

impl PeerIdentity {
    /// For the verifier, after the chain was checked.
    pub(crate) fn proven(id: SpiffeId) -> Self {
        Self(id)
    }

    /// The peer's SPIFFE ID.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0
    }
}

/// What is kept of a peer's chain, to check it again while its connection is open
/// ([`MeshTls::recheck`](crate::MeshTls::recheck)). Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerCertificate(Arc<Presented>);

#[derive(Debug)]
struct Presented {
    chain: Vec<CertificateDer<'static>>,
    /// The roots of the moment of the handshake: a root that leaves the bundle later ends no connection.
    bundle: Arc<Bundle>,
    usage: Usage,
    not_after: SystemTime,
}

impl PeerCertificate {
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        bundle: Arc<Bundle>,
        usage: Usage,
        not_after: SystemTime,
    ) -> Self {
        Self(Arc::new(Presented { chain, bundle, usage, not_after }))
    }

    /// When the peer's leaf certificate expires. An intermediate may expire earlier; `recheck` sees that too.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// Leaf first.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    pub(crate) fn bundle(&self) -> &Bundle {
        &self.0.bundle
    }

    pub(crate) fn usage(&self) -> Usage {
        self.0.usage
    }
}

/// A TLS stream whose two ends know each other.
#[derive(Debug)]
pub struct Authenticated<S> {
    /// The stream, its handshake done and ALPN `h2` agreed upon.
    pub stream: S,
    /// Who is at the other end.
    pub peer: PeerIdentity,
    /// The peer's certificate, for later checks.
    pub certificate: PeerCertificate,
    /// Who we said we are.
    pub local: SpiffeId,
}
