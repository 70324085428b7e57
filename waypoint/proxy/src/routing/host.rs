//! Host names of routes, and the host of an authority.

use http::HeaderMap;
use http::header::HOST;

/// A host name that a route is limited to (Gateway API `HTTPRoute.spec.hostnames`), in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPattern {
    /// The route takes every host.
    Any,
    /// Exactly this host.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`: one or more labels before it.
    Suffix(String),
}

impl HostPattern {
    /// The patterns of a route; one that takes every host when it names none.
    pub(super) fn of_route(hostnames: &[String]) -> Vec<Self> {
        if hostnames.is_empty() {
            return vec![Self::Any];
        }
        hostnames.iter().map(|hostname| Self::parse(hostname)).collect()
    }

    fn parse(hostname: &str) -> Self {
        let hostname = hostname.to_ascii_lowercase();
        match hostname.strip_prefix('*') {
            Some("") => Self::Any,
            Some(suffix) => Self::Suffix(suffix.to_owned()),
            None => Self::Exact(hostname),
        }
    }

    /// Whether it takes `host`, which is in lower case and without a port.
    pub(super) fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// The greater goes first: characters of an exact name, then characters of any (Gateway API, `hostnames`).
    pub(super) fn specificity(&self) -> (usize, usize) {
        match self {
            Self::Any => (0, 0),
            Self::Exact(exact) => (exact.len(), exact.len()),
            Self::Suffix(suffix) => (0, suffix.len() + 1),
        }
    }
}

/// Whether `Host` says exactly this, once.
pub(crate) fn says_only(headers: &HeaderMap, authority: &str) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    hosts.next().is_some_and(|host| host == authority) && hosts.next().is_none()
}

/// Host and port of an authority. IPv6 keeps its brackets; what follows the last colon is a port only if it is digits.
pub(crate) fn split_authority(authority: &str) -> (&str, Option<&str>) {
    let after_brackets = authority.rfind(']').map_or(0, |at| at + 1);
    let colon = authority.get(after_brackets..).and_then(|rest| rest.rfind(':'));
    let Some((host, port)) = colon.and_then(|at| authority.split_at_checked(after_brackets + at)) else {
        return (authority, None);
    };
    let port = port.trim_start_matches(':');
    if port.bytes().all(|byte| byte.is_ascii_digit()) {
        (host, (!port.is_empty()).then_some(port))
    } else {
        (authority, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_takes_one_or_more_labels_and_not_the_bare_domain() {
        let rows = [
            ("example.com", "example.com", true),
            ("Example.COM", "example.com", true),
            ("example.com", "a.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*", "anything", true),
        ];
        for (pattern, host, want) in rows {
            assert_eq!(HostPattern::parse(pattern).matches(host), want, "{pattern} {host}");
        }
    }

    #[test]
    fn an_authority_splits_into_host_and_port() {
        let rows = [
            ("example.com", "example.com", None),
            ("example.com:80", "example.com", Some("80")),
            ("example.com:", "example.com", None),
            ("[fd00::7]:8080", "[fd00::7]", Some("8080")),
            ("[fd00::7]", "[fd00::7]", None),
            ("10.0.0.1:1", "10.0.0.1", Some("1")),
            ("", "", None),
        ];
        for (authority, host, port) in rows {
            assert_eq!(split_authority(authority), (host, port), "{authority}");
        }
    }
}
