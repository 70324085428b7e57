//! Where the control plane is, how it is trusted and how we show who we are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

/// How to reach a control plane, and the bounds of the stream.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`; the host is a name, an IPv4 address, or an IPv6 address in brackets.
    pub address: String,
    /// How the control plane is authenticated.
    pub security: Security,
    /// Bearer token that says who we are; read anew for each connection.
    pub token: Option<BearerToken>,
    /// Further headers of the call, such as `clusterid`.
    pub headers: Vec<(String, String)>,
    /// Until TCP and TLS are up. Default 5 s, as ztunnel.
    pub connect_timeout: Duration,
    /// From the first request to the first answer of a stream. Default 60 s: a control plane that starts, or that many clients
    /// ask at once, is slow, and to come again makes it slower.
    pub answer_timeout: Duration,
    /// Silence after which an HTTP/2 ping is sent. Default 30 s, as ztunnel.
    pub keepalive_interval: Duration,
    /// How long the answer to a ping may take before the connection counts as lost. Default 10 s, as ztunnel.
    pub keepalive_timeout: Duration,
    /// Size of one response at most, in bytes. Default 200 MiB, as ztunnel.
    pub message_limit_bytes: usize,
    /// First wait before a new attempt. Default 10 ms, as ztunnel.
    pub backoff_first: Duration,
    /// Longest wait before a new attempt. Default 15 s, as ztunnel.
    pub backoff_longest: Duration,
    /// Updates handed out and not answered at most; with so many nothing more is read. Default 64.
    pub unsettled_limit: usize,
}

impl Settings {
    /// Settings with defaults for all that has one.
    #[must_use]
    pub fn new(address: impl Into<String>, security: Security) -> Self {
        Self {
            address: address.into(),
            security,
            token: None,
            headers: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_mins(1),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            message_limit_bytes: 200 << 20,
            backoff_first: Duration::from_millis(10),
            backoff_longest: Duration::from_secs(15),
            unsettled_limit: 64,
        }
    }

    /// Headers in the form that a call wants.
    pub(crate) fn checked_headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, UnusableSettings> {
        let checked = |(name, value): &(String, String)| {
            let header =
                HeaderName::try_from(name.as_str()).ok().zip(HeaderValue::try_from(value.as_str()).ok());
            header.ok_or_else(|| UnusableSettings::Header { name: name.clone() })
        };
        self.headers.iter().map(checked).collect()
    }

    /// Refuses what no attempt could mend.
    pub(crate) fn check(&self) -> Result<(), UnusableSettings> {
        self.checked_headers()?;
        if self.token.is_some() && matches!(self.security, Security::Plaintext) {
            return Err(UnusableSettings::TokenInTheClear { address: self.address.clone() });
        }
        let port = self.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        match port {
            Some(_) if self.uri().parse::<http::Uri>().is_ok() => Ok(()),
            _ => Err(UnusableSettings::Address { address: self.address.clone() }),
        }
    }

    pub(crate) fn uri(&self) -> String {
        let scheme = match self.security {
            Security::Plaintext => "http",
            Security::Tls { .. } => "https",
        };
        format!("{scheme}://{}", self.address)
    }
}

/// How the control plane is authenticated.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all, and nothing is secret. No token is sent this way.
    Plaintext,
    /// TLS.
    Tls {
        /// Whom to trust; read anew for each connection.
        roots: Roots,
        /// The name that the certificate must bear, if it is not the host of the address.
        server_name: Option<String>,
    },
}

/// Root certificates in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// In a file, which may change.
    File(PathBuf),
    /// As they stand.
    Pem(String),
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Pem(_) => f.write_str("the roots given as PEM text"),
        }
    }
}

/// A bearer token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum BearerToken {
    /// In a file, which is renewed by others.
    File(PathBuf),
    /// As it stands.
    Literal(String),
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Literal(_) => f.write_str("Literal(…)"),
        }
    }
}

/// Settings that no attempt could make work.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableSettings {
    /// Not `host:port`.
    #[error("{address:?} is not host:port")]
    Address {
        /// What was given.
        address: String,
    },
    /// Not a header.
    #[error("{name:?} is not the name of a header, or its value cannot be sent")]
    Header {
        /// Its name; the value may be secret.
        name: String,
    },
    /// A token would be sent readable for all.
    #[error("the token for {address} would be sent in the clear; use TLS, or give no token")]
    TokenInTheClear {
        /// Where it would be sent.
        address: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused_before_the_first_attempt() {
        let plain = |address: &str| Settings::new(address, Security::Plaintext);
        let tls = Security::Tls { roots: Roots::Pem(String::new()), server_name: None };
        for good in ["localhost:15012", "[::1]:1", "127.0.0.1:65535"] {
            assert_eq!(plain(good).check(), Ok(()), "{good}");
        }
        for bad in ["localhost", "localhost:", "localhost:99999", "a b:1", ""] {
            let refused = plain(bad).check();
            assert_eq!(refused, Err(UnusableSettings::Address { address: bad.to_owned() }), "{bad}");
        }
        let token = Some(BearerToken::Literal("secret".into()));
        let in_the_clear = Settings { token: token.clone(), ..plain("h:1") };
        assert!(matches!(in_the_clear.check(), Err(UnusableSettings::TokenInTheClear { .. })));
        assert_eq!(Settings { token, ..Settings::new("h:1", tls) }.check(), Ok(()));
        let header = Settings { headers: vec![("a b".into(), "c".into())], ..plain("h:1") };
        assert_eq!(header.check(), Err(UnusableSettings::Header { name: "a b".into() }));
    }

    #[test]
    fn a_token_is_never_shown() {
        let settings = Settings {
            token: Some(BearerToken::Literal("secret".into())),
            ..Settings::new("h:1", Security::Plaintext)
        };
        assert!(!format!("{settings:?}").contains("secret"));
    }
}
