//! What a rule may ask about.

use std::borrow::Cow;
use std::net::IpAddr;

use spiffe_id::SpiffeId;

/// What is known of a stream or a request when it is judged.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub source: Source<'a>,
    /// For what.
    pub destination: Destination<'a>,
    /// `None` on an opaque stream. A set that was not compiled as opaque then holds every HTTP test for *not known yet*:
    /// such a test lets no ALLOW rule match and no DENY rule go.
    pub http: Option<HttpAttributes<'a>>,
}

/// The peer.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The identity that its certificate proves; `None` only where a listener accepts peers without one.
    pub identity: Option<&'a SpiffeId>,
    /// The address that the tunnel came from (`ipBlocks`, `source.ip`).
    pub ip: IpAddr,
    /// The original client's address: from X-Forwarded-For where that is trusted, else as `ip` (`remoteIpBlocks`, `remote.ip`).
    pub remote_ip: IpAddr,
}

/// What was addressed.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// Address, where one is known.
    pub ip: Option<IpAddr>,
    /// Service port for a service, else the workload's port.
    pub port: u16,
    /// Server name of a TLS ClientHello inside the tunnel.
    pub sni: Option<&'a str>,
}

/// The head of an HTTP request.
#[derive(Clone, Copy, Debug)]
pub struct HttpAttributes<'a> {
    /// As on the wire; gRPC is `POST`.
    pub method: &'a str,
    /// Normalized, without query: the same text that is sent on.
    pub path: &'a str,
    /// `:authority`, or `Host` in HTTP/1.1, with its port if it has one.
    pub authority: &'a str,
    /// As received.
    pub headers: &'a http::HeaderMap,
    /// Payload of the verified JSON Web Token, an object; `None` without one.
    pub claims: Option<&'a serde_json::Value>,
}

/// Attributes, and what several tests of them share.
pub(crate) struct Head<'a> {
    pub(crate) attributes: &'a Attributes<'a>,
    /// The authority in lower case, since hosts are compared without case.
    pub(crate) host: Cow<'a, str>,
}

impl<'a> Head<'a> {
    /// Whether the request says on whose behalf it comes: `X-Forwarded-For`, which any client can write.
    pub(crate) fn names_a_client(&self) -> bool {
        self.attributes.http.is_some_and(|http| http.headers.contains_key("x-forwarded-for"))
    }

    pub(crate) fn new(attributes: &'a Attributes<'a>) -> Self {
        let authority = attributes.http.map_or("", |http| http.authority);
        let mixed = authority.bytes().any(|b| b.is_ascii_uppercase());
        let host = if mixed { authority.to_ascii_lowercase().into() } else { authority.into() };
        Self { attributes, host }
    }
}

/// Namespaces that an identity names: each `ns` segment with something after it, as Istio's expression for `namespaces`
/// (`.*/ns/<value>/.*`) finds them. An id of Istio's shape has exactly one; another SPIFFE deployment may add segments, and
/// in a trust domain called `ns` that name is found too.
pub(crate) fn namespaces(id: &SpiffeId) -> impl Iterator<Item = &str> {
    labels(id.principal(), "ns").filter(|(_, rest)| rest.is_some()).map(|(namespace, _)| namespace)
}

/// ServiceAccounts that an identity names, as `(namespace, name)`: an `ns` segment, later an `sa` segment (Istio's
/// expression for `serviceAccounts` permits further segments between and after).
pub(crate) fn service_accounts(id: &SpiffeId) -> impl Iterator<Item = (&str, &str)> {
    let path = id.path().strip_prefix('/').unwrap_or_default();
    labels(path, "ns").flat_map(|(namespace, rest)| {
        labels(rest.unwrap_or_default(), "sa").map(move |(account, _)| (namespace, account))
    })
}

/// Each segment that follows a segment `label`, with what comes after it.
fn labels<'a>(path: &'a str, label: &'static str) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
    let split =
        |text: &'a str| text.split_once('/').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        loop {
            let (segment, after) = split(rest?);
            rest = after;
            if segment == label {
                return after.map(split);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_and_accounts_are_found_as_istio_finds_them() {
        type Row = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);
        let rows: &[Row] = &[
            ("spiffe://td/ns/a/sa/b", &["a"], &[("a", "b")]),
            ("spiffe://td/ns/a/sa/b/pod/c", &["a"], &[("a", "b")]),
            ("spiffe://td/region/x/ns/a/cluster/y/sa/b", &["a"], &[("a", "b")]),
            ("spiffe://td/ns/a", &[], &[]),
            ("spiffe://td/sa/b/ns/a/x", &["a"], &[]),
            ("spiffe://td/ns/ns/sa/sa", &["ns", "sa"], &[("ns", "sa")]),
            ("spiffe://td/ns/a/sa/b/ns/c/sa/d", &["a", "c"], &[("a", "b"), ("a", "d"), ("c", "d")]),
            ("spiffe://td/agent", &[], &[]),
            ("spiffe://ns/a/sa/b", &["a"], &[]),
            ("spiffe://td", &[], &[]),
        ];
        for (text, want_namespaces, want_accounts) in rows {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!(namespaces(&id).collect::<Vec<_>>(), *want_namespaces, "{text}");
            assert_eq!(service_accounts(&id).collect::<Vec<_>>(), *want_accounts, "{text}");
        }
    }
}
