//! What goes wrong with certificates and handshakes.

use std::{io, path::PathBuf, sync::Arc, time::SystemTime};

use rustls::{AlertDescription, CertificateError, OtherError};
use spiffe_id::SpiffeId;

use crate::leaf::LeafError;

/// Why an SVID, a bundle or a revocation list is unusable, or its source cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// The chain holds no `CERTIFICATE` section.
    #[error("the certificate chain holds no certificate")]
    NoCertificate,
    /// The chain is no proper PEM.
    #[error("the certificate chain cannot be read: {0}")]
    BadChain(String),
    /// The leaf is no X.509-SVID: not exactly one URI SAN, no SPIFFE ID, an authority.
    #[error("{0}")]
    Leaf(#[from] LeafError),
    /// The leaf is not valid yet.
    #[error("the certificate is valid from {}", readable(*.not_before))]
    NotYetValid {
        /// From when it will be.
        not_before: SystemTime,
    },
    /// The leaf has expired.
    #[error("the certificate expired at {}", readable(*.not_after))]
    Expired {
        /// Until when it was valid.
        not_after: SystemTime,
    },
    /// No private key in PEM.
    #[error("no private key in PEM: PKCS#8, SEC1 or PKCS#1, unencrypted")]
    NoKey,
    /// A private key that cannot be used. Says nothing of its content.
    #[error("the private key is of no kind that TLS 1.3 signs with, or damaged")]
    BadKey,
    /// The private key belongs to another certificate.
    #[error("the private key does not fit the leaf certificate")]
    KeyMismatch,
    /// The bundle holds no `CERTIFICATE` section: nobody could be trusted.
    #[error("the trust bundle holds no certificate")]
    EmptyBundle,
    /// The bundle is no proper PEM, or holds something that is no certificate.
    #[error("the trust bundle cannot be read: {0}")]
    BadBundle(String),
    /// A revocation list that cannot be read, or of a kind that is not understood (delta, indirect).
    #[error("the revocation list cannot be read: {0}")]
    BadRevocationList(String),
    /// A file cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// A file's content is unusable.
    #[error("{}: {cause}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: Box<Self>,
    },
    /// The thread that watches files cannot be started.
    #[error("cannot watch files: {0}")]
    Watch(io::Error),
    /// The Workload API's address is none.
    #[error("`{endpoint}` is no Workload API endpoint (`unix:///…`): {reason}")]
    BadEndpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The source works in the background and there is no Tokio runtime to do it in.
    #[error("no Tokio runtime to renew the SVID in")]
    NoRuntime,
}

/// A date for people. Falls back to seconds since 1970 where no date can be made of it.
fn readable(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let date = i64::try_from(seconds).ok().and_then(|s| x509_parser::time::ASN1Time::from_timestamp(s).ok());
    date.map_or_else(|| format!("{seconds} s after 1970"), |date| date.to_string())
}

/// Why the certificate of a peer is refused. The peer itself only sees a TLS alert.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefusal {
    /// No X.509-SVID.
    #[error("{0}")]
    Leaf(#[from] LeafError),
    /// A SPIFFE ID of a trust domain that is not ours, none of its aliases, or that no bundle is held for.
    #[error("trust domain `{0}` is not accepted")]
    TrustDomain(String),
    /// The leaf or an intermediate has expired.
    #[error("the certificate or one above it has expired")]
    Expired,
    /// The leaf or an intermediate is not valid yet.
    #[error("the certificate or one above it is not valid yet")]
    NotYetValid,
    /// A revocation list names the leaf or an intermediate.
    #[error("the certificate or one above it is revoked")]
    Revoked,
    /// The extended key usage does not permit this side of a connection.
    #[error("the certificate's extended key usage does not permit this side of a connection")]
    Usage,
    /// No chain to the trust domain's bundle, or a bad one.
    #[error("the certificate does not chain to the bundle of its trust domain: {0}")]
    Untrusted(webpki::Error),
    /// A proper workload, but not one of those that were expected here.
    #[error("the peer is {presented}, which was not expected here")]
    WrongIdentity {
        /// Who it is.
        presented: SpiffeId,
    },
}

impl PeerRefusal {
    /// Bounded metric label, as in [`HandshakeError::reason`].
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Leaf(LeafError::SeveralUris(_)) => "several_uris",
            Self::Leaf(_) => "not_spiffe",
            Self::TrustDomain(_) => "trust_domain",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::Usage => "usage",
            Self::Untrusted(_) => "untrusted",
            Self::WrongIdentity { .. } => "wrong_identity",
        }
    }

    /// From a failed path building.
    pub(crate) fn from_chain(error: webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::CertRevoked => Self::Revoked,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::Usage,
            E::CaUsedAsEndEntity => Self::Leaf(LeafError::Authority),
            other => Self::Untrusted(other),
        }
    }

    /// Back out of rustls, where [`CertificateError::from`] put it.
    fn from_tls(error: &CertificateError) -> Option<Self> {
        match error {
            CertificateError::Expired => Some(Self::Expired),
            CertificateError::NotValidYet => Some(Self::NotYetValid),
            CertificateError::Revoked => Some(Self::Revoked),
            CertificateError::UnknownIssuer => Some(Self::Untrusted(webpki::Error::UnknownIssuer)),
            CertificateError::BadSignature => {
                Some(Self::Untrusted(webpki::Error::InvalidSignatureForPublicKey))
            }
            CertificateError::Other(OtherError(inner)) => inner.downcast_ref().cloned(),
            _ => None,
        }
    }
}

/// Where TLS has an alert that helps the peer's operator and tells no policy, it is chosen; the rest is
/// `certificate_unknown` or `access_denied`.
impl From<PeerRefusal> for CertificateError {
    fn from(refusal: PeerRefusal) -> Self {
        match refusal {
            PeerRefusal::Expired => Self::Expired,
            PeerRefusal::NotYetValid => Self::NotValidYet,
            PeerRefusal::Revoked => Self::Revoked,
            PeerRefusal::Untrusted(webpki::Error::UnknownIssuer) => Self::UnknownIssuer,
            other => Self::Other(OtherError(Arc::new(other))),
        }
    }
}

/// Why a handshake did not end in an [`Authenticated`](crate::Authenticated) stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The source has not delivered an SVID yet.
    #[error("no SVID yet")]
    NoSvid,
    /// Our own SVID has expired and was not renewed; no peer could accept it.
    #[error("our own certificate expired at {}", readable(*.not_after))]
    OwnExpired {
        /// Until when it was valid.
        not_after: SystemTime,
    },
    /// The caller's deadline passed. Made by callers: this crate sets none.
    #[error("the handshake took too long")]
    Timeout,
    /// The client sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The peer's certificate is refused.
    #[error("{0}")]
    Peer(#[from] PeerRefusal),
    /// `connect` was called without an expected identity. Nothing was sent.
    #[error("no identity is expected of the peer, so none would do")]
    NothingExpected,
    /// The peer does not agree on ALPN `h2`, or offers no ALPN at all.
    #[error("the peer does not speak h2 by ALPN")]
    Alpn,
    /// Any other failure of TLS: no common version, group or cipher, a malformed message, an alert of the peer.
    #[error("TLS failed: {0}")]
    Tls(rustls::Error),
    /// The connection failed or ended.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

impl HandshakeError {
    /// A bounded label for metrics: `no_svid`, `own_expired`, `timeout`, `no_certificate`, `untrusted`, `expired`,
    /// `not_yet_valid`, `revoked`, `usage`, `not_spiffe`, `several_uris`, `trust_domain`, `wrong_identity`, `alpn`,
    /// `tls` or `io`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSvid => "no_svid",
            Self::OwnExpired { .. } => "own_expired",
            Self::Timeout => "timeout",
            Self::NoCertificate => "no_certificate",
            Self::Peer(refusal) => refusal.reason(),
            Self::NothingExpected => "wrong_identity",
            Self::Alpn => "alpn",
            Self::Tls(_) => "tls",
            Self::Io(_) => "io",
        }
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        match &error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            rustls::Error::InvalidCertificate(certificate) => match PeerRefusal::from_tls(certificate) {
                Some(refusal) => Self::Peer(refusal),
                None => Self::Tls(error),
            },
            _ => Self::Tls(error),
        }
    }
}

/// tokio-rustls hands rustls' errors on inside of an `io::Error`.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::from(tls.clone()),
            None => Self::Io(error),
        }
    }
}
