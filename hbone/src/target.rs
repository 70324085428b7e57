//! `:authority` → where a tunnel wants to go.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

/// Longest DNS name without its final dot, in bytes (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// Longest label of a DNS name, in bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// Where a tunnel wants to go, from `:authority`. The port is required (RFC 9110 §9.3.6); IPv6 stands in brackets.
///
/// [`fmt::Display`] writes the form that [`Target::parse`] reads back to an equal value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address and a port that is not 0: a service's VIP, or a pod's own address.
    Addr(SocketAddr),
    /// A service's full name; used between networks, where addresses mean nothing.
    Host {
        /// The name, lower-cased.
        name: DnsName,
        /// The service's port.
        port: NonZeroU16,
    },
}

/// Why a text is no [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// A CONNECT has no default port.
    #[error("the authority names no port")]
    NoPort,
    /// Port 0, user info, a path, a zone id, IPv6 without brackets, or a name that DNS does not allow.
    #[error("the authority is neither address:port nor name:port")]
    Invalid,
}

impl Target {
    /// Parses `address:port`, `[address]:port` or `name:port`, in this order.
    ///
    /// # Errors
    /// [`BadTarget::NoPort`] for a lone address or name, [`BadTarget::Invalid`] for everything else.
    pub fn parse(authority: &str) -> Result<Self, BadTarget> {
        let (host, port) = split_port(authority)?;
        if let Some(ip) = address(host)? {
            return Ok(Self::Addr(SocketAddr::new(ip, port.get())));
        }
        Ok(Self::Host { name: DnsName::parse(host)?, port })
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Addr(address) => address.port(),
            Self::Host { port, .. } => port.get(),
        }
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(authority: &str) -> Result<Self, BadTarget> {
        Self::parse(authority)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(address) => address.fmt(f),
            Self::Host { name, port } => write!(f, "{name}:{port}"),
        }
    }
}

/// Splits at the last colon; a lone bracketed address or a text without a colon has no port.
fn split_port(authority: &str) -> Result<(&str, NonZeroU16), BadTarget> {
    if authority.is_empty() {
        return Err(BadTarget::Invalid);
    }
    if authority.ends_with(']') {
        address(authority)?;
        return Err(BadTarget::NoPort);
    }
    let Some((host, port)) = authority.rsplit_once(':') else {
        check_host(authority)?;
        return Err(BadTarget::NoPort);
    };
    if port.is_empty() {
        check_host(host)?;
        return Err(BadTarget::NoPort);
    }
    Ok((host, parse_port(port)?))
}

/// Digits only: `u16::from_str` would also take a plus sign.
fn parse_port(text: &str) -> Result<NonZeroU16, BadTarget> {
    if text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(BadTarget::Invalid);
    }
    text.parse().map_err(|_| BadTarget::Invalid)
}

fn check_host(host: &str) -> Result<(), BadTarget> {
    match address(host)? {
        Some(_) => Ok(()),
        None => DnsName::parse(host).map(drop),
    }
}

/// An address literal; `None` is something else, perhaps a name. Zone ids do not parse and so are refused.
fn address(host: &str) -> Result<Option<IpAddr>, BadTarget> {
    if let Some(rest) = host.strip_prefix('[') {
        let inner = rest.strip_suffix(']').ok_or(BadTarget::Invalid)?;
        return inner.parse().map(|ip| Some(IpAddr::V6(ip))).map_err(|_| BadTarget::Invalid);
    }
    Ok(host.parse().ok().map(IpAddr::V4))
}

/// A DNS host name (RFC 1123 §2.1): lower-cased, without the final dot, checked label by label.
///
/// Cloning copies a pointer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// Parses a name of letters, digits and hyphens. One final dot is dropped; a name whose last label is a number is
    /// refused, since other parsers read `10.1` or `0x7f.1` as an IPv4 address.
    ///
    /// # Errors
    /// [`BadTarget::Invalid`].
    pub fn parse(text: &str) -> Result<Self, BadTarget> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > MAX_NAME || !name.split('.').all(is_label) || ends_in_number(name) {
            return Err(BadTarget::Invalid);
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }

    /// The name, lower-cased, without a final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_authority_is_an_address_or_a_name_with_a_port() {
        let table = [
            ("10.96.4.7:80", "10.96.4.7:80"),
            ("[fd00::7]:80", "[fd00::7]:80"),
            ("[FD00:0::7]:65535", "[fd00::7]:65535"),
            ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80"),
            ("echo.ns.svc.cluster.local:80", "echo.ns.svc.cluster.local:80"),
            ("Echo.NS.svc.cluster.local.:8080", "echo.ns.svc.cluster.local:8080"),
            ("localhost:1", "localhost:1"),
            ("1-2.3a:00443", "1-2.3a:443"),
        ];
        for (authority, shown) in table {
            assert_eq!(Target::parse(authority).map(|t| t.to_string()), Ok(shown.to_owned()), "{authority}");
        }
    }

    #[test]
    fn a_target_without_a_port_is_told_apart() {
        for authority in ["10.0.0.1", "[::1]", "echo.ns", "echo", "echo:", "10.0.0.1:", "[::1]:"] {
            assert_eq!(Target::parse(authority), Err(BadTarget::NoPort), "{authority}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long_label = format!("{}.x:80", "a".repeat(64));
        let long_name = format!("{}x:80", "a.".repeat(127));
        let table = [
            "",
            ":",
            ":80",
            "10.0.0.1:0",
            "echo:0",
            "[::1]:0",
            "echo:65536",
            "echo:+80",
            "echo:-1",
            "echo: 80",
            "echo:80 ",
            " echo:80",
            "echo:8O",
            "echo:000080",
            "::1:80",
            "::1",
            "fd00::7:80",
            "[::1",
            "::1]:80",
            "[::1]80",
            "[10.0.0.1]:80",
            "[echo]:80",
            "[fe80::1%1]:80",
            "[fe80::1%eth0]:80",
            "fe80::1%1:80",
            "user@echo:80",
            "user:pw@10.0.0.1:80",
            "echo/:80",
            "echo:80/",
            "http://echo:80",
            "echo:80?x",
            "echo:80#x",
            "-a:80",
            "a-:80",
            "a..b:80",
            ".a:80",
            "a..:80",
            ".:80",
            "a_b:80",
            "é:80",
            "a b:80",
            "a\0:80",
            "*.ns:80",
            "10.0.0.256:80",
            "10.1:80",
            "1:80",
            "0x7f.1:80",
            "a.0x7f:80",
            "10.0.0.01:80",
            "a:b:80",
            &long_label,
            &long_name,
        ];
        for authority in table {
            assert_eq!(Target::parse(authority), Err(BadTarget::Invalid), "{authority:?}");
        }
    }

    #[test]
    fn the_port_is_told_for_both_forms() {
        assert_eq!(Target::parse("10.0.0.1:80").map(|t| t.port()), Ok(80));
        assert_eq!(Target::parse("a.b:81").map(|t| t.port()), Ok(81));
    }

    fn target() -> impl Strategy<Value = Target> {
        let addr =
            (any::<IpAddr>(), 1..=u16::MAX).prop_map(|(ip, port)| Target::Addr(SocketAddr::new(ip, port)));
        let label = "[a-z]([a-z0-9-]{0,20}[a-z0-9])?";
        let host =
            (proptest::collection::vec(label, 1..6), 1..=u16::MAX).prop_map(|(labels, port)| Target::Host {
                name: DnsName::parse(&labels.join(".")).unwrap(),
                port: NonZeroU16::new(port).unwrap(),
            });
        prop_oneof![addr, host]
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_to_the_same(target in target()) {
            prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
        }

        #[test]
        fn any_text_that_parses_survives_a_round_trip(text in "[\\[\\]a-zA-Z0-9.:%@/ -]{0,40}") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert_ne!(target.port(), 0);
                prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
            }
        }
    }
}
