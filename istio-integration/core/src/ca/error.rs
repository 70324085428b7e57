//! Why there is no certificate from istiod, and what to do about it.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt::Write as _, io};

use certs::{PeerRefusal, SvidError};
use spiffe_id::SpiffeId;
use tonic::{Code, Status};

use super::{token, transport};
use crate::bootstrap::Endpoint;

/// How much of istiod's own words is passed on, in characters.
const WORDS: usize = 300;

/// Why istiod gave no usable certificate. Each text ends with the fix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// A mounted file cannot be read.
    #[error("{what} {} cannot be read: {cause}; fix: {fix}", path.display())]
    Unreadable {
        /// Which file it is.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
        /// What to do.
        fix: &'static str,
    },
    /// The token file holds none.
    #[error("the token {} {why}; fix: {}", path.display(), token::FIX)]
    Token {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The root file holds no usable certificate.
    #[error("istiod's root certificate {}: {cause}; fix: {}", path.display(), transport::ROOT_FIX)]
    Roots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: SvidError,
    },
    /// The cluster id is no header.
    #[error("ISTIO_META_CLUSTER_ID={cluster} cannot be sent; fix: use letters, digits and dashes")]
    BadClusterId {
        /// As given.
        cluster: String,
    },
    /// The address is none.
    #[error("{address} is no address: {why}; fix: set CA_ADDR to istiod's, as istiod.istio-system.svc:15012")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// No connection.
    #[error("cannot connect to istiod at {address}: {why}; fix: {fix}")]
    Unreachable {
        /// Where.
        address: String,
        /// The cause, and its causes.
        why: String,
        /// What to do.
        fix: &'static str,
    },
    /// Connected or not, nothing came back.
    #[error("no answer of istiod at {address} within {} s; fix: see whether istiod is up and reachable from this pod", within.as_secs_f32())]
    Silent {
        /// Where.
        address: String,
        /// The bound.
        within: Duration,
    },
    /// istiod said no.
    #[error("istiod at {address} refused: {code:?}: {message}; fix: {fix}")]
    Refused {
        /// Where.
        address: String,
        /// The gRPC status.
        code: Code,
        /// Its own words, shortened.
        message: String,
        /// What to do.
        fix: &'static str,
    },
    /// No key or request could be made.
    #[error("no certificate request could be made: {0}; fix: see whether TRUST_DOMAIN is right")]
    Request(String),
    /// Without a leaf and roots.
    #[error(
        "istiod's reply holds {elements} elements where a certificate and roots are due; fix: {NOT_OURS}"
    )]
    ShortChain {
        /// How many there were.
        elements: usize,
    },
    /// The certificate, its key or its roots cannot be used.
    #[error("istiod's certificate: {0}; fix: {fix}", fix = svid_fix(.0))]
    Svid(#[from] SvidError),
    /// A certificate for somebody else.
    #[error(
        "istiod's certificate is for {presented} where {expected} was expected; fix: TRUST_DOMAIN must be the mesh's \
         trustDomain, and the token that of our own ServiceAccount"
    )]
    WrongIdentity {
        /// Whom it names.
        presented: SpiffeId,
        /// Who we are.
        expected: SpiffeId,
    },
    /// No peer would accept it.
    #[error(
        "istiod's certificate does not go with the roots that came with it: {0}; fix: see cacerts of istiod"
    )]
    Chain(#[from] PeerRefusal),
}

const NOT_OURS: &str = "see whether CA_ADDR is istiod's address, and istiod's log";

fn svid_fix(error: &SvidError) -> &'static str {
    match error {
        SvidError::NotYetValid { .. } | SvidError::Expired { .. } => {
            "compare the clocks of this node and of istiod's; SECRET_TTL may be too short"
        }
        SvidError::EmptyBundle | SvidError::BadBundle(_) => "see the root certificate in cacerts of istiod",
        _ => NOT_OURS,
    }
}

impl CaError {
    /// From a connection that was not made.
    pub(super) fn unreachable(endpoint: &Endpoint, error: &tonic::transport::Error) -> Self {
        let mut why = error.to_string();
        let mut cause = error.source();
        while let Some(next) = cause {
            // Layers repeat each other's words.
            if !why.contains(&next.to_string()) {
                // Writing into a String cannot fail.
                let _ = write!(why, ": {next}");
            }
            cause = next.source();
        }
        let fix = if why.contains("UnknownIssuer") || why.contains("BadSignature") {
            "the mounted root is not that of this istiod; see the ConfigMap istio-ca-root-cert of this namespace"
        } else if why.contains("not valid for name") || why.contains("NotValidForName") {
            "set ALT_CA_HOSTNAME to a name in istiod's certificate, such as istiod.istio-system.svc"
        } else if why.contains("Expired") || why.contains("NotValidYet") || why.contains("expired") {
            "compare the clocks of this node and of istiod's"
        } else {
            "see whether istiod is up, CA_ADDR is its address, and no network policy is between"
        };
        Self::Unreachable { address: endpoint.authority(), why, fix }
    }

    /// From an answer that is none.
    pub(super) fn refused(address: &str, status: &Status) -> Self {
        let fix = match status.code() {
            Code::Unauthenticated => {
                "the token must be of this cluster, not ended, with audience istio-ca; ISTIO_META_CLUSTER_ID must be istiod's name for \
                 this cluster"
            }
            Code::PermissionDenied => "see istiod's log: this ServiceAccount may not have a certificate",
            Code::Unimplemented | Code::NotFound => {
                "this is no certificate authority; set CA_ADDR to istiod's address"
            }
            Code::InvalidArgument | Code::Internal | Code::Unknown => {
                "see istiod's log; SECRET_TTL must not exceed its MAX_WORKLOAD_CERT_TTL"
            }
            _ => "see whether istiod is up, and its log",
        };
        let message = status.message().chars().filter(|c| !c.is_control()).take(WORDS).collect();
        Self::Refused { address: address.to_owned(), code: status.code(), message, fix }
    }
}
