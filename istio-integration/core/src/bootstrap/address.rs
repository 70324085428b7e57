//! Where istiod is, and how it is recognized.

use std::path::PathBuf;

/// A server of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// DNS name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The name that its certificate must bear; `host` unless the environment names another.
    pub server_name: String,
    /// Roots that its certificate must chain to, in PEM. The kubelet replaces the file: read it for each connection.
    pub root: PathBuf,
}

impl Endpoint {
    /// `host:port`, `[v6]:port`, with or without `https://`. TLS always: istiod's plain port tells no identity.
    pub(super) fn parse(address: &str, server_name: Option<&str>, root: PathBuf) -> Result<Self, String> {
        const FIX: &str = "fix: write it as istiod.istio-system.svc:15012";
        if address.starts_with("http://") {
            return Err(format!("is not encrypted\n  {FIX}"));
        }
        let text = address.strip_prefix("https://").unwrap_or(address);
        let (host, port) = text.rsplit_once(':').ok_or(format!("has no port\n  {FIX}"))?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(format!("has no port\n  {FIX}"))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(format!("has no IPv6 address in its brackets\n  {FIX}")),
            None => host,
        };
        let is_name = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        let in_brackets = text.starts_with('[');
        if !in_brackets && !is_name(host) {
            return Err(format!("has no host name\n  {FIX}"));
        }
        let server_name = server_name.unwrap_or(host).to_owned();
        Ok(Self { host: host.to_owned(), port, server_name, root })
    }

    /// `host:port`, with brackets around IPv6.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port_and_is_encrypted() {
        let of = |text| {
            Endpoint::parse(text, None, PathBuf::new())
                .map(|endpoint| (endpoint.authority(), endpoint.server_name))
        };
        let good = |authority: &str, name: &str| Ok((authority.to_owned(), name.to_owned()));
        assert_eq!(
            of("istiod.istio-system.svc:15012"),
            good("istiod.istio-system.svc:15012", "istiod.istio-system.svc")
        );
        assert_eq!(of("https://istiod:15012"), good("istiod:15012", "istiod"));
        assert_eq!(of("10.0.0.1:15012"), good("10.0.0.1:15012", "10.0.0.1"));
        assert_eq!(of("[fd00::1]:15012"), good("[fd00::1]:15012", "fd00::1"));
        for bad in [
            "istiod",
            "istiod:",
            "istiod:0",
            "istiod:http",
            ":15012",
            "http://istiod:15010",
            "fd00::1:15012",
            "[x]:1",
            "a b:1",
            "a/b:1",
        ] {
            assert!(of(bad).is_err_and(|fault| fault.contains("fix: ")), "{bad}");
        }
    }

    #[test]
    fn another_name_may_be_demanded_of_the_certificate() {
        let endpoint =
            Endpoint::parse("127.0.0.1:15012", Some("istiod.istio-system.svc"), PathBuf::new()).unwrap();
        assert_eq!(
            (endpoint.host.as_str(), endpoint.server_name.as_str()),
            ("127.0.0.1", "istiod.istio-system.svc")
        );
    }
}
