//! Identities and mutual TLS for any SPIFFE mesh.
//!
//! * [`SvidSource`] — where this workload's own certificate comes from: [`FileSource`], [`WorkloadApiSource`],
//!   [`RenewingSource`] or [`StaticSource`]. Sources renew by themselves; a failed renewal keeps the last certificate.
//! * [`MeshTls`] — both sides of the mesh's TLS: 1.3 only, ALPN `h2`, X25519MLKEM768 preferred, no resumption,
//!   a certificate from both peers. It hands out an [`Authenticated`] stream or a [`HandshakeError`].
//! * [`PeerIdentity`] — proof that a peer's certificate chains to its trust domain's bundle and bears exactly
//!   one URI SAN. Only the verifier makes one.
//! * [`Revocations`] — certificate revocation lists from a file.
//!
//! Knows SPIFFE and TLS, and nothing of Istio, HTTP or Kubernetes.

mod bundle;
mod chance;
mod clock;
mod crl;
mod error;
mod files;
mod identity;
mod io;
mod leaf;
mod provider;
mod revocation;
mod rotation;
mod source;
mod svid;
mod tls;
mod verifier;
mod watcher;
mod workload_api;

#[cfg(test)]
mod tests;

pub use bundle::check_roots;
pub use error::{HandshakeError, PeerRefusal, SvidError};
pub use files::{FilePaths, FileSource};
pub use identity::{Authenticated, PeerCertificate, PeerIdentity};
pub use io::Io;
pub use leaf::LeafError;
pub use revocation::Revocations;
pub use rotation::{Fetch, RenewingSource};
pub use source::{StaticSource, SvidSource};
pub use svid::X509Svid;
pub use tls::MeshTls;
pub use verifier::TrustDomains;
pub use workload_api::WorkloadApiSource;
