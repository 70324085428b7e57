//! Identities and mutual TLS for any SPIFFE mesh.
// SKELETON: signatures other crates build on; bodies to be written in the files named by the architecture.
#![allow(missing_docs, unused, clippy::all)]
use spiffe_id::SpiffeId;
use std::{path::PathBuf, sync::Arc, time::SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// A certificate chain with its key and the roots of the trust domains; checked to belong together.
#[derive(Debug)]
pub struct X509Svid { id: SpiffeId }
impl X509Svid {
    /// From PEM. Checks: exactly one URI SAN that is a SPIFFE id, key fits the leaf, validity, non-empty bundle.
    pub fn from_pem(chain: &[u8], key: &[u8], bundle: &[u8]) -> Result<Self, SvidError> { todo!() }
    pub fn id(&self) -> &SpiffeId { &self.id }
    pub fn not_before(&self) -> SystemTime { todo!() }
    pub fn not_after(&self) -> SystemTime { todo!() }
    pub fn serial(&self) -> &str { todo!() }
}
#[derive(Debug, thiserror::Error)]
pub enum SvidError { #[error("…")] Todo }

/// Where SVIDs come from. `None` until the first one; a failed renewal keeps the last (its error is logged and in `last_error`).
pub trait SvidSource: Send + Sync { fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>>; }
pub struct FileSource(());
#[derive(Clone, Debug)]
pub struct FilePaths { pub chain: PathBuf, pub key: PathBuf, pub bundle: PathBuf }
impl FileSource {
    /// Reads now (an error names file and reason) and watches the directories (symlink swap; chain and key taken together).
    pub fn open(paths: FilePaths) -> Result<Self, SvidError> { todo!() }
}
impl SvidSource for FileSource { fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> { todo!() } }
pub struct WorkloadApiSource(());
impl WorkloadApiSource { /// `unix:///…`; connects in the background with backoff.
    pub fn connect(endpoint: &str) -> Result<Self, SvidError> { todo!() } }
impl SvidSource for WorkloadApiSource { fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> { todo!() } }
/// A fixed SVID (tests, demo).
pub struct StaticSource(());
impl StaticSource { pub fn new(svid: X509Svid) -> Self { todo!() } pub fn replace(&self, svid: X509Svid) { todo!() } }
impl SvidSource for StaticSource { fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> { todo!() } }

/// Certificate revocation lists from a file, hot-reloaded. Unknown status is allowed (as ztunnel).
#[derive(Clone)]
pub struct Revocations(());
impl Revocations { pub fn none() -> Self { todo!() } pub fn open(path: PathBuf) -> Result<Self, SvidError> { todo!() } /// changes after each reload
    pub fn watch(&self) -> watch::Receiver<u64> { todo!() } }

/// Own trust domain comes from the SVID; aliases are accepted beside it for inbound peers.
#[derive(Clone, Debug, Default)]
pub struct TrustDomains { pub aliases: Vec<String> }

/// A peer whose certificate chains to its trust domain's bundle and bears exactly one URI SAN. Only the verifier makes one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerIdentity(SpiffeId);
impl PeerIdentity { pub fn id(&self) -> &SpiffeId { &self.0 } }
/// What is kept of a peer's chain, to check it again later.
#[derive(Clone, Debug)]
pub struct PeerCertificate(());
impl PeerCertificate { pub fn not_after(&self) -> SystemTime { todo!() } }
#[derive(Debug)]
pub struct Authenticated<S> { pub stream: S, pub peer: PeerIdentity, pub certificate: PeerCertificate, pub local: SpiffeId }

#[derive(Debug, thiserror::Error)]
pub enum HandshakeError { #[error("no SVID yet")] NoSvid, #[error("io")] Io(#[from] std::io::Error), #[error("…")] Todo }
impl HandshakeError { /// bounded metric label: `no_svid`, `timeout`, `no_certificate`, `untrusted`, `expired`, `revoked`, `not_spiffe`, `several_uris`, `trust_domain`, `wrong_identity`, `alpn`, `tls`, `io`
    pub fn reason(&self) -> &'static str { todo!() } }

/// Both sides of the mesh's TLS: 1.3 only, X25519MLKEM768 preferred, ALPN h2, no resumption, client certificate required.
#[derive(Clone)]
pub struct MeshTls(());
impl MeshTls {
    pub fn new(source: &dyn SvidSource, domains: TrustDomains, revocations: Revocations) -> Self { todo!() }
    pub async fn accept<IO: Io>(&self, io: IO) -> Result<Authenticated<tokio_rustls::server::TlsStream<IO>>, HandshakeError> { todo!() }
    /// The peer must bear one of exactly these ids.
    pub async fn connect<IO: Io>(&self, io: IO, expect: &[SpiffeId]) -> Result<Authenticated<tokio_rustls::client::TlsStream<IO>>, HandshakeError> { todo!() }
    /// The current SVID's id, `None` before the first.
    pub fn local_id(&self) -> Option<SpiffeId> { todo!() }
    pub fn svid(&self) -> watch::Receiver<Option<Arc<X509Svid>>> { todo!() }
    /// Re-check of an open connection: expired or revoked meanwhile?
    pub fn recheck(&self, certificate: &PeerCertificate) -> Result<(), HandshakeError> { todo!() }
    pub fn revocations(&self) -> watch::Receiver<u64> { todo!() }
}
