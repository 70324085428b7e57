//! One compiled match of a route rule, and which of two goes first.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use waypoint_model::{HeaderMatch, PathMatch, Pattern, QueryMatch, RouteMatch, RouteOrder, StringMatch};

use super::host::HostPattern;

/// What of a request a route may look at.
pub(super) struct Subject<'a> {
    /// Lower case, without a port.
    pub(super) host: &'a str,
    /// Authority as sent, for a match on `host` or `:authority`.
    pub(super) authority: &'a str,
    /// Normalized, without its query.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) method: &'a http::Method,
    pub(super) headers: &'a HeaderMap,
}

/// A conjunction of a host name and one match of a rule.
pub(super) struct Matcher {
    host: HostPattern,
    path: PathTest,
    ignore_case: bool,
    method: Option<String>,
    headers: Vec<HeaderMatch>,
    query: Vec<QueryMatch>,
}

enum PathTest {
    Exact(String),
    /// Without its trailing slash, which means nothing (Gateway API `PathMatchPathPrefix`): `/` is the empty text.
    Prefix(Arc<str>),
    /// Wherever a segment ends.
    TextPrefix(Arc<str>),
    /// Of the whole path, in the case written: `ignore_path_case` does not concern it (Envoy `safe_regex`).
    Regex(Pattern),
}

/// The part of a path that a rule compared, for what replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    /// All of it.
    Whole,
    /// A prefix on a segment boundary, without its trailing slash.
    Segments(Arc<str>),
    /// A prefix that may end inside a segment.
    Text(Arc<str>),
}

/// Orders matchers; the greater is asked first. What is equal keeps the order of the routes: the oldest, then by rule.
///
/// The Gateway API leaves the place of regular expressions open. They go after all prefixes, where istiod sorts them.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    host: (usize, usize),
    path: PathKind,
    length: usize,
    method: bool,
    headers: usize,
    query: usize,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PathKind {
    Regex,
    Prefix,
    Exact,
}

impl Matcher {
    /// Of several headers or parameters with one name only the first counts in a route of the Gateway API
    /// (`HTTPHeaderMatch`, `HTTPQueryParamMatch`); a control plane's all hold.
    pub(super) fn new(host: HostPattern, wanted: &RouteMatch, order: RouteOrder) -> Self {
        let (headers, query) = match order {
            RouteOrder::Precedence => (
                first_of_each(&wanted.headers, |header| header.name.to_ascii_lowercase()),
                first_of_each(&wanted.query, |query| query.name.clone()),
            ),
            RouteOrder::AsWritten => (wanted.headers.clone(), wanted.query.clone()),
        };
        Self {
            host,
            path: PathTest::new(wanted.path.as_ref()),
            ignore_case: wanted.ignore_path_case,
            method: wanted.method.clone(),
            headers,
            query,
        }
    }

    pub(super) fn precedence(&self) -> Precedence {
        let (path, length) = match &self.path {
            PathTest::Exact(_) => (PathKind::Exact, 0),
            PathTest::Prefix(prefix) | PathTest::TextPrefix(prefix) => (PathKind::Prefix, prefix.len()),
            PathTest::Regex(pattern) => (PathKind::Regex, pattern.as_str().len()),
        };
        Precedence {
            host: self.host.specificity(),
            path,
            length,
            method: self.method.is_some(),
            headers: self.headers.len(),
            query: self.query.len(),
        }
    }

    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        self.host.matches(subject.host)
            && self.path.matches(subject.path, self.ignore_case)
            && self.method.as_deref().is_none_or(|method| method == subject.method.as_str())
            && self.headers.iter().all(|header| header_matches(header, subject))
            && self.query.iter().all(|query| query_matches(query, subject.query.unwrap_or_default()))
    }

    /// Which part of `path`, which it matches, it compared: as the path spells it.
    pub(super) fn matched(&self, path: &str) -> Matched {
        let part = |prefix: &Arc<str>| match path.get(..prefix.len()) {
            Some(part) if part != &**prefix => part.into(),
            _same => Arc::clone(prefix),
        };
        match &self.path {
            PathTest::Exact(_) | PathTest::Regex(_) => Matched::Whole,
            PathTest::Prefix(prefix) => Matched::Segments(part(prefix)),
            PathTest::TextPrefix(prefix) => Matched::Text(part(prefix)),
        }
    }
}

impl PathTest {
    fn new(wanted: Option<&PathMatch>) -> Self {
        match wanted {
            None => Self::Prefix("".into()),
            Some(PathMatch::Exact(path)) => Self::Exact(path.clone()),
            Some(PathMatch::Prefix(prefix)) => Self::Prefix(prefix.trim_end_matches('/').into()),
            Some(PathMatch::TextPrefix(prefix)) => Self::TextPrefix(prefix.as_str().into()),
            Some(PathMatch::Regex(pattern)) => Self::Regex(pattern.clone()),
        }
    }

    fn matches(&self, path: &str, ignore_case: bool) -> bool {
        match self {
            Self::Exact(exact) => is_same(exact, path, ignore_case),
            Self::Prefix(prefix) => after(path, prefix, ignore_case)
                .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/')),
            Self::TextPrefix(prefix) => after(path, prefix, ignore_case).is_some(),
            Self::Regex(pattern) => pattern.matches(path.as_bytes()),
        }
    }
}

fn is_same(one: &str, other: &str, ignore_case: bool) -> bool {
    if ignore_case { one.eq_ignore_ascii_case(other) } else { one == other }
}

/// What follows a prefix.
fn after<'a>(path: &'a str, prefix: &str, ignore_case: bool) -> Option<&'a str> {
    let (start, rest) = path.split_at_checked(prefix.len())?;
    is_same(start, prefix, ignore_case).then_some(rest)
}

fn first_of_each<T: Clone>(entries: &[T], name: impl Fn(&T) -> String) -> Vec<T> {
    let mut seen = std::collections::HashSet::new();
    entries.iter().filter(|entry| seen.insert(name(entry))).cloned().collect()
}

/// An absent header fails. Inverted, it is compared as an empty one (Envoy `treat_missing_header_as_empty`, which istiod sets
/// there), so that it holds unless the comparison takes an empty text. Of several lines one is enough, each compared alone
/// (Envoy `match_headers_individually`).
fn header_matches(wanted: &HeaderMatch, subject: &Subject<'_>) -> bool {
    let matches = |line: &[u8]| text_matches(&wanted.value, line);
    let holds = match pseudo_header(&wanted.name, subject) {
        Some(value) => matches(&value),
        None => {
            let mut lines = subject.headers.get_all(wanted.name.as_str()).iter().peekable();
            match (lines.peek(), wanted.inverted) {
                (Some(_), _) => lines.any(|line| matches(line.as_bytes())),
                (None, true) => wanted.value != StringMatch::Present && matches(b""),
                (None, false) => return false,
            }
        }
    };
    holds != wanted.inverted
}

/// What stands for a header in HTTP/2. The scheme is what the proxy before us says of it (`x-forwarded-proto`), else `http`:
/// inside a tunnel nothing else is known.
fn pseudo_header<'a>(name: &str, subject: &Subject<'a>) -> Option<Cow<'a, [u8]>> {
    match name.to_ascii_lowercase().as_str() {
        "host" | ":authority" => Some(subject.authority.as_bytes().into()),
        ":method" => Some(subject.method.as_str().as_bytes().into()),
        ":scheme" => Some(scheme(subject.headers).as_bytes().into()),
        ":path" => Some(match subject.query {
            Some(query) => format!("{}?{query}", subject.path).into_bytes().into(),
            None => subject.path.as_bytes().into(),
        }),
        _other => None,
    }
}

fn scheme(headers: &HeaderMap) -> &'static str {
    match headers.get("x-forwarded-proto") {
        Some(told) if told.as_bytes().eq_ignore_ascii_case(b"https") => "https",
        _other => "http",
    }
}

/// Compares bytes: a header need not be UTF-8. What is there is present, even when it is empty (Envoy `present_match`).
pub(crate) fn text_matches(wanted: &StringMatch, text: &[u8]) -> bool {
    match wanted {
        StringMatch::Exact(exact) => text == exact.as_bytes(),
        StringMatch::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
        StringMatch::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
        StringMatch::Present => true,
        StringMatch::Regex(pattern) => pattern.matches(text),
    }
}

/// Compares the first parameter of that name.
fn query_matches(wanted: &QueryMatch, query: &str) -> bool {
    query_value(query, &wanted.name).is_some_and(|value| text_matches(&wanted.value, value.as_bytes()))
}

/// The first parameter of that name, as written: percent-encoding is not decoded, as in Envoy.
pub(crate) fn query_value<'a>(query: &'a str, wanted: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == wanted).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(wanted: RouteMatch, order: RouteOrder, target: &str) -> bool {
        let request = http::Request::get(target)
            .header("x", "1")
            .header("x", "2")
            .header("empty", "")
            .header("raw", http::HeaderValue::from_bytes(b"a\xff").unwrap());
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let subject = Subject {
            host: "h",
            authority: "h:80",
            path: parts.uri.path(),
            query: parts.uri.query(),
            method: &parts.method,
            headers: &parts.headers,
        };
        Matcher::new(HostPattern::of_route(&[]).remove(0), &wanted, order).matches(&subject)
    }

    fn regex(text: &str) -> StringMatch {
        StringMatch::Regex(Pattern::parse(text).unwrap())
    }

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.to_owned())
    }

    #[test]
    fn paths_match_as_envoys_do() {
        let text = |text: &str| PathMatch::TextPrefix(text.to_owned());
        let pattern = |text: &str| PathMatch::Regex(Pattern::parse(text).unwrap());
        let rows = [
            (text("/a"), false, "/ab", true),
            (text("/a"), false, "/A", false),
            (text("/a"), true, "/Ab", true),
            (text("/a/"), false, "/a", false),
            (PathMatch::Prefix("/a".to_owned()), true, "/A/b", true),
            (PathMatch::Prefix("/a".to_owned()), true, "/Ab", false),
            (PathMatch::Exact("/a".to_owned()), true, "/A", true),
            (PathMatch::Exact("/a".to_owned()), false, "/A", false),
            (pattern("/a/[0-9]+"), false, "/a/12", true),
            (pattern("/a/[0-9]+"), false, "/a/12/", false),
            (pattern("/a/[0-9]+"), false, "/x/a/12", false),
            (pattern("/a"), false, "/a?q=1", true),
            (pattern("/a"), true, "/A", false),
        ];
        for (path, ignore_path_case, target, want) in rows {
            let wanted = RouteMatch { path: Some(path.clone()), ignore_path_case, ..RouteMatch::default() };
            assert_eq!(
                holds(wanted, RouteOrder::AsWritten, target),
                want,
                "{path:?} {ignore_path_case} {target}"
            );
        }
    }

    #[test]
    fn headers_match_as_envoys_do() {
        let rows = [
            ("x", exact("1"), false, true),
            ("x", exact("2"), false, true),
            ("x", exact("1,2"), false, false),
            ("X", StringMatch::Prefix("1".to_owned()), false, true),
            ("x", StringMatch::Suffix("2".to_owned()), false, true),
            ("x", regex("1,."), false, false),
            ("x", regex("1"), false, true),
            ("x", exact("3"), true, true),
            ("x", exact("2"), true, false),
            ("x", StringMatch::Present, false, true),
            ("x", StringMatch::Present, true, false),
            ("empty", StringMatch::Present, false, true),
            ("raw", regex(r"(?-u)a\xff"), false, true),
            ("none", exact("1"), false, false),
            ("none", StringMatch::Present, false, false),
            ("none", exact("1"), true, true),
            ("none", StringMatch::Present, true, true),
            ("none", regex(".*"), true, false),
            (":authority", exact("h:80"), false, true),
            ("Host", exact("h:80"), false, true),
            (":method", exact("GET"), false, true),
            (":method", exact("POST"), true, true),
            (":scheme", exact("http"), false, true),
            (":path", exact("/p?a=1"), false, true),
        ];
        for (name, value, inverted, want) in rows {
            let header = HeaderMatch { name: name.to_owned(), value: value.clone(), inverted };
            let wanted = RouteMatch { headers: vec![header], ..RouteMatch::default() };
            assert_eq!(holds(wanted, RouteOrder::AsWritten, "/p?a=1"), want, "{name} {value:?} {inverted}");
        }
    }

    #[test]
    fn parameters_match_as_envoys_do() {
        let rows = [
            ("a", exact("1"), true),
            ("a", exact("2"), false),
            ("b", exact("x%20y"), true),
            ("b", exact("x y"), false),
            ("b", regex("x.*"), true),
            ("b", StringMatch::Prefix("x".to_owned()), true),
            ("c", StringMatch::Present, true),
            ("d", StringMatch::Present, false),
            ("", StringMatch::Present, false),
        ];
        for (name, value, want) in rows {
            let query = QueryMatch { name: name.to_owned(), value: value.clone() };
            let wanted = RouteMatch { query: vec![query], ..RouteMatch::default() };
            assert_eq!(
                holds(wanted, RouteOrder::AsWritten, "/?a=1&&a=2&b=x%20y&c"),
                want,
                "{name} {value:?}"
            );
        }
    }

    #[test]
    fn two_tests_of_one_header_both_hold_where_a_control_plane_wrote_them() {
        let header = |value, inverted| HeaderMatch { name: "x".to_owned(), value, inverted };
        let headers = vec![header(StringMatch::Present, false), header(exact("2"), true)];
        let wanted = RouteMatch { headers, ..RouteMatch::default() };
        assert!(!holds(wanted.clone(), RouteOrder::AsWritten, "/"));
        assert!(holds(wanted, RouteOrder::Precedence, "/"));
    }
}
