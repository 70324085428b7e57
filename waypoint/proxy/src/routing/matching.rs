//! One compiled match of a route rule, and which of two goes first.

use std::sync::Arc;

use http::HeaderMap;
use waypoint_model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch};

use super::host::HostPattern;

/// What of a request a route may look at.
pub(super) struct Subject<'a> {
    /// Lower case, without a port.
    pub(super) host: &'a str,
    /// Authority as sent, for a match on the header `host`.
    pub(super) authority: &'a str,
    /// Normalized, without its query.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) method: &'a http::Method,
    pub(super) headers: &'a HeaderMap,
}

/// A conjunction of a host name and one `HTTPRouteMatch`.
pub(super) struct Matcher {
    host: HostPattern,
    path: PathTest,
    method: Option<String>,
    headers: Vec<HeaderMatch>,
    query: Vec<QueryMatch>,
}

enum PathTest {
    Exact(String),
    /// Without its trailing slash, which means nothing (Gateway API `PathMatchPathPrefix`): `/` is the empty text.
    Prefix(Arc<str>),
    /// A kind that is not built: matches nothing.
    Never,
}

/// Orders matchers; the greater is asked first. What is equal keeps the order of the routes: the oldest, then by rule.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    host: (usize, usize),
    exact_path: bool,
    prefix: usize,
    method: bool,
    headers: usize,
    query: usize,
}

impl Matcher {
    pub(super) fn new(host: HostPattern, wanted: &RouteMatch) -> Self {
        Self {
            host,
            path: PathTest::new(wanted.path.as_ref()),
            method: wanted.method.clone(),
            headers: first_of_each(&wanted.headers, |header| header.name.to_ascii_lowercase()),
            query: first_of_each(&wanted.query, |query| query.name.clone()),
        }
    }

    pub(super) fn precedence(&self) -> Precedence {
        let (exact_path, prefix) = match &self.path {
            PathTest::Exact(_) => (true, 0),
            PathTest::Never => (false, 0),
            PathTest::Prefix(prefix) => (false, prefix.len()),
        };
        Precedence {
            host: self.host.specificity(),
            exact_path,
            prefix,
            method: self.method.is_some(),
            headers: self.headers.len(),
            query: self.query.len(),
        }
    }

    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        self.host.matches(subject.host)
            && self.path.matches(subject.path)
            && self.method.as_deref().is_none_or(|method| method == subject.method.as_str())
            && self.headers.iter().all(|header| header_matches(header, subject))
            && self.query.iter().all(|query| query_matches(query, subject.query.unwrap_or_default()))
    }

    /// The prefix that a rewrite may replace; `None` where the whole path was compared.
    pub(super) fn prefix(&self) -> Option<&Arc<str>> {
        match &self.path {
            PathTest::Exact(_) | PathTest::Never => None,
            PathTest::Prefix(prefix) => Some(prefix),
        }
    }
}

impl PathTest {
    fn new(wanted: Option<&PathMatch>) -> Self {
        match wanted {
            None => Self::Prefix("".into()),
            Some(PathMatch::Exact(path)) => Self::Exact(path.clone()),
            Some(PathMatch::Prefix(prefix)) => Self::Prefix(prefix.trim_end_matches('/').into()),
            Some(PathMatch::TextPrefix(_) | PathMatch::Regex(_)) => Self::Never,
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == path,
            Self::Never => false,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_ref())
                .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/')),
        }
    }
}

/// Of several entries with one name only the first counts (Gateway API `HTTPHeaderMatch`, `HTTPQueryParamMatch`).
fn first_of_each<T: Clone>(entries: &[T], name: impl Fn(&T) -> String) -> Vec<T> {
    let mut seen = std::collections::HashSet::new();
    entries.iter().filter(|entry| seen.insert(name(entry))).cloned().collect()
}

fn header_matches(wanted: &HeaderMatch, subject: &Subject<'_>) -> bool {
    if wanted.name.eq_ignore_ascii_case("host") || wanted.name == ":authority" {
        return wanted.value.matches(subject.authority) != wanted.inverted;
    }
    let lines: Vec<&[u8]> =
        subject.headers.get_all(wanted.name.as_str()).iter().map(|value| value.as_bytes()).collect();
    let joined = lines.join(&b","[..]);
    let holds =
        !lines.is_empty() && std::str::from_utf8(&joined).is_ok_and(|text| wanted.value.matches(text));
    holds != wanted.inverted
}

/// Compares the first parameter of that name, as written (percent-encoding is not decoded, as in Envoy).
fn query_matches(wanted: &QueryMatch, query: &str) -> bool {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(name, _)| *name == wanted.name).is_some_and(|(_, value)| wanted.value.matches(value))
}
