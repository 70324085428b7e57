//! Why there is no stream: one sentence with the address, and one that says what to do.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::CertificateError;
use tonic::Code;

/// Why a stream could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The token file cannot be read.
    #[error("the token file {} cannot be read", .path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// What is in the token file is no token. Its content is not shown.
    #[error("{from} holds no token: {why}")]
    NotAToken {
        /// The file, or that it was given as text.
        from: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The roots cannot be read.
    #[error("the roots in {path} cannot be read", path = .path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is no root among what was given.
    #[error("{from} holds no certificate that can be a root: {why}")]
    NoRoots {
        /// The file, or that they were given as text.
        from: String,
        /// What is wrong with it.
        why: String,
    },
    /// The host has no address.
    #[error("{address}: the name has no address")]
    Resolve {
        /// `host:port`.
        address: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// TCP or TLS did not come up in time.
    #[error("{address} did not accept a connection within {within:?}")]
    ConnectTimeout {
        /// `host:port`.
        address: String,
        /// The deadline.
        within: Duration,
    },
    /// TCP or TLS failed.
    #[error("{address}: {}", .reason.said)]
    Connect {
        /// `host:port`.
        address: String,
        /// What went wrong.
        reason: CannotConnect,
    },
    /// The control plane refused the call, or ended the stream with an error.
    #[error("{address} says {code:?}: {message}")]
    Refused {
        /// `host:port`.
        address: String,
        /// A code of gRPC.
        code: Code,
        /// What it says.
        message: String,
    },
    /// Nothing was answered in time.
    #[error("{address} answered nothing within {within:?}")]
    Unanswered {
        /// `host:port`.
        address: String,
        /// The deadline.
        within: Duration,
    },
    /// The control plane ended the stream without an error, as it does when it restarts or balances its load.
    #[error("{address} ended the stream")]
    Ended {
        /// `host:port`.
        address: String,
    },
    /// The connection broke, or the other end fell silent.
    #[error("the connection to {address} broke: {why}")]
    Broken {
        /// `host:port`.
        address: String,
        /// What the transport says.
        why: String,
    },
    /// A response cannot be read: it is too large, or not what it should be.
    #[error("a response of {address} cannot be read: {why}")]
    Unreadable {
        /// `host:port`.
        address: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Failure {
    /// What whoever runs this can do about it.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Token { .. } | Self::NotAToken { .. } => {
                "mount a service account token there, with the audience that the control plane asks for"
            }
            Self::Roots { .. } | Self::NoRoots { .. } => {
                "give a PEM file with the root certificates of the control plane's CA"
            }
            Self::Resolve { .. } => "check the address and the DNS of this host",
            Self::ConnectTimeout { .. } => {
                "check the address, and whether a network policy or firewall drops the connection"
            }
            Self::Connect { reason, .. } => reason.fix,
            Self::Refused { code: Code::Unauthenticated, .. } => {
                "check that the token is valid, not expired, and of the audience that the control plane asks for"
            }
            Self::Refused { code: Code::PermissionDenied, .. } => {
                "check that the namespace and service account of the node are those of the token"
            }
            Self::Refused { code: Code::Unimplemented, .. } => {
                "check the address: what answers there does not speak delta ADS"
            }
            Self::Refused { .. } => "look into the control plane's log; it is tried again",
            Self::Unanswered { .. } | Self::Ended { .. } | Self::Broken { .. } => {
                "nothing, if it comes back: it is tried again"
            }
            Self::Unreadable { .. } => "look at the size of the mesh and at the version of the control plane",
        }
    }

    /// Sorts what a stream ended with.
    pub(crate) fn from_status(address: &str, status: &tonic::Status) -> Self {
        let address = address.to_owned();
        let message = status.message().to_owned();
        match (status.code(), status.source()) {
            (Code::OutOfRange | Code::Internal, None) if is_decoding(&message) => {
                Self::Unreadable { address, why: message }
            }
            // An error with a cause was made on this side, by the transport.
            (_, Some(cause)) => Self::Broken { address, why: broken(cause) },
            (code, None) => Self::Refused { address, code, message },
        }
    }

    /// Sorts what dialling failed with.
    pub(crate) fn from_transport(address: &str, error: &tonic::transport::Error) -> Self {
        Self::Connect { address: address.to_owned(), reason: CannotConnect::from(error as &dyn Error) }
    }
}

/// Why no connection came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CannotConnect {
    /// In words.
    pub said: String,
    /// What to do.
    pub fix: &'static str,
}

impl From<&(dyn Error + 'static)> for CannotConnect {
    fn from(error: &(dyn Error + 'static)) -> Self {
        if let Some(tls) = find::<rustls::Error>(error) {
            return Self { said: format!("TLS: {tls}"), fix: tls_fix(tls) };
        }
        let fix = match find::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => "check the address, and whether the control plane runs",
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                "check the port: what listens there may not speak TLS"
            }
            _ => "check the address, and whether the network lets us reach it",
        };
        Self { said: innermost(error), fix }
    }
}

fn tls_fix(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "override the server name with one that the certificate bears"
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "give the root certificate of the CA that signed the control plane's certificate"
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                "compare the clocks of this host and of the control plane, or renew its certificate"
            }
            _ => "look at the control plane's certificate",
        },
        rustls::Error::InvalidMessage(_) => "check the port: what listens there may not speak TLS",
        _ => "look at the TLS settings of the control plane",
    }
}

/// An error and all its causes; those that an [`io::Error`] wraps as well.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    causes(error).filter_map(|cause| cause.downcast_ref::<E>()).last()
}

/// How a connection broke. That the other end is gone shows in several ways, some of them wordy.
fn broken(error: &(dyn Error + 'static)) -> String {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let of_stream = find::<h2::Error>(error).and_then(h2::Error::get_io);
    match of_stream.or_else(|| find::<io::Error>(error)).map(io::Error::kind) {
        Some(BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof) => {
            "the other end is gone".to_owned()
        }
        _ => innermost(error),
    }
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

fn is_decoding(message: &str) -> bool {
    message.contains("decod")
}
