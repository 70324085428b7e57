//! What a rule changes on the way: headers, host and path of a request, and the answer of a redirect.

use std::sync::Arc;

use http::header::{HOST, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, Response};
use waypoint_model::{PathRewrite, Redirect, Rewrite};

use super::host::split_authority;
use super::matching::Matched;
use super::values::{Change, Name, Value};
use crate::body::Body;

/// A compiled [`Rewrite`].
#[derive(Debug)]
pub(crate) struct Rewriter {
    hostname: Option<Authority>,
    path: Option<PathRewriter>,
}

/// A compiled [`Redirect`].
#[derive(Debug)]
pub(crate) struct Redirector {
    redirect: Redirect,
    path: Option<PathRewriter>,
}

/// A compiled [`PathRewrite`].
#[derive(Debug)]
enum PathRewriter {
    Full(String),
    Prefix(String),
    Regex(regex::Regex, Vec<Part>),
}

/// A part of a substitution (RE2 `Rewrite`).
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Group(usize),
}

impl Rewriter {
    /// Compiles; `None` where nothing is rewritten.
    ///
    /// # Errors
    /// What cannot work, by name.
    pub(super) fn compile(rewrite: &Rewrite) -> Result<Option<Arc<Self>>, String> {
        if *rewrite == Rewrite::default() {
            return Ok(None);
        }
        let hostname = rewrite.hostname.as_deref().map(Authority::try_from).transpose();
        let hostname = hostname.map_err(|_bad| format!("{:?} is no host name", rewrite.hostname))?;
        let path = rewrite.path.as_ref().map(PathRewriter::compile).transpose()?;
        Ok(Some(Arc::new(Self { hostname, path })))
    }

    /// Rewrites host and path of a request head.
    ///
    /// # Errors
    /// When the path does not start with what was matched, or the outcome is no valid URI.
    pub(super) fn apply(&self, matched: &Matched, parts: &mut Parts) -> Result<(), http::Error> {
        if let Some(hostname) = &self.hostname {
            set_authority(parts, hostname)?;
        }
        let Some(path) = &self.path else { return Ok(()) };
        let path = path.apply(matched, parts.uri.path())?;
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(PathAndQuery::try_from(format!("{path}{query}"))?);
        parts.uri = Uri::from_parts(uri)?;
        Ok(())
    }
}

impl Redirector {
    /// Compiles.
    ///
    /// # Errors
    /// What cannot work, by name.
    pub(super) fn compile(redirect: &Redirect) -> Result<Arc<Self>, String> {
        if !matches!(redirect.status, 301..=303 | 307 | 308) {
            return Err(format!("{} is no status of a redirect", redirect.status));
        }
        let path = redirect.path.as_ref().map(PathRewriter::compile).transpose()?;
        Ok(Arc::new(Self { redirect: redirect.clone(), path }))
    }

    /// Builds the answer: status and `Location` (RFC 9110 §15.4).
    ///
    /// The scheme is `http` unless the redirect names one (inside a tunnel there is no TLS of ours to know of); the port of
    /// the request is kept unless scheme or port are given; the default port of the scheme is left out. A new path that has a
    /// query of its own takes the place of the request's too.
    ///
    /// # Errors
    /// When the outcome is no valid URI.
    pub(crate) fn answer(
        &self,
        matched: &Matched,
        authority: &str,
        path: &str,
        query: Option<&str>,
    ) -> Result<Response<Body>, http::Error> {
        let redirect = &self.redirect;
        let (own_host, own_port) = split_authority(authority);
        let scheme = redirect.scheme.as_deref().unwrap_or("http");
        let host = redirect.hostname.as_deref().unwrap_or(own_host);
        let port = match (redirect.port, &redirect.scheme) {
            (Some(port), _) => Some(port.to_string()),
            (None, Some(_)) => None,
            (None, None) => own_port.map(str::to_owned),
        };
        let usual = matches!((scheme, port.as_deref()), ("http", Some("80")) | ("https", Some("443")));
        let port = port.filter(|_| !usual).map(|port| format!(":{port}")).unwrap_or_default();
        let path = match &self.path {
            Some(rewrite) => rewrite.redirect(matched, path)?,
            None => path.to_owned(),
        };
        let query = query.filter(|_| !path.contains('?'));
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        // Read back as a URI, so that no part of the request can break out of its place.
        let location = Uri::try_from(format!("{scheme}://{host}{port}{path}{query}"))?;
        Response::builder()
            .status(redirect.status)
            .header(LOCATION, HeaderValue::try_from(location.to_string())?)
            .body(Body::Empty)
    }
}

impl PathRewriter {
    fn compile(rewrite: &PathRewrite) -> Result<Self, String> {
        let (pattern, text) = match rewrite {
            PathRewrite::Full(path) => return Ok(Self::Full(path.clone())),
            PathRewrite::Prefix(path) => return Ok(Self::Prefix(path.clone())),
            PathRewrite::Regex(pattern, text) => (pattern, text),
        };
        // Not as the pattern itself compares, which is the whole text: here it is looked for in the path.
        let regex = regex::RegexBuilder::new(pattern.as_str()).size_limit(1 << 20).build();
        let regex = regex.map_err(|error| error.to_string())?;
        let parts = substitution(text)?;
        let groups = regex.captures_len();
        match parts.iter().find(|part| matches!(part, Part::Group(group) if *group >= groups)) {
            Some(Part::Group(group)) => {
                Err(format!("`{text}` names group {group}, which `{}` has not", pattern.as_str()))
            }
            _none => Ok(Self::Regex(regex, parts)),
        }
    }

    /// The path of a redirect. As [`Self::apply`], but where the prefix is all of the path, its replacement stands as it is
    /// written, with a slash at its end: so Envoy does, and istiod takes that slash off for rewrites only.
    fn redirect(&self, matched: &Matched, path: &str) -> Result<String, http::Error> {
        match (self, matched) {
            (Self::Prefix(_), Matched::Segments(prefix)) if path == prefix.trim_end_matches('/') => {
                self.apply(&Matched::Whole, path)
            }
            _more => self.apply(matched, path),
        }
    }

    /// The new path. A prefix on a segment boundary is replaced as the Gateway API says (`HTTPPathModifier`): slashes at the
    /// seam are not doubled, and an empty outcome is `/`. Any other prefix is replaced as text, and a path that was compared
    /// as a whole is replaced as a whole (Envoy `prefix_rewrite`).
    fn apply(&self, matched: &Matched, path: &str) -> Result<String, http::Error> {
        let new = match (self, matched) {
            (Self::Full(full), _) => Some(full.clone()),
            (Self::Prefix(replacement), Matched::Whole) => Some(replacement.clone()),
            (Self::Prefix(replacement), Matched::Text(prefix)) => {
                path.strip_prefix(prefix.as_ref()).map(|rest| format!("{replacement}{rest}"))
            }
            (Self::Prefix(replacement), Matched::Segments(prefix)) => path
                .strip_prefix(prefix.trim_end_matches('/'))
                .filter(|rest| rest.is_empty() || rest.starts_with('/'))
                .map(|rest| format!("{}{rest}", replacement.trim_end_matches('/'))),
            (Self::Regex(regex, parts), _) => {
                let substitute = |found: &regex::Captures<'_>| substituted(parts, found);
                Some(regex.replace_all(path, substitute).into_owned())
            }
        };
        match new {
            // Servers would resolve it, and serve what no policy was asked about.
            Some(new) if has_dot_segments(&new) => nowhere(),
            Some(new) if new.starts_with('/') => Ok(new),
            Some(new) => Ok(format!("/{new}")),
            // A path that is not the one that was matched is sent nowhere: reading an empty URI is an error.
            None => nowhere(),
        }
    }
}

/// Reading an empty URI is an error.
fn nowhere() -> Result<String, http::Error> {
    Uri::try_from("").map(|_| String::new()).map_err(Into::into)
}

/// Whether a segment is `.` or `..`, however it is written.
fn has_dot_segments(path: &str) -> bool {
    let is_dots = |segment: &str| {
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        matches!(plain.as_str(), "." | "..")
    };
    path.split(['/', '\\']).any(|segment| segment.starts_with(['.', '%']) && is_dots(segment))
}

/// Reads a substitution: a backslash goes before the digit of a group, or before a backslash.
fn substitution(text: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut literal) = (Vec::new(), String::new());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            literal.push(character);
            continue;
        }
        match characters.next() {
            Some('\\') => literal.push('\\'),
            Some(digit @ '0'..='9') => {
                parts.push(Part::Text(std::mem::take(&mut literal)));
                parts.push(Part::Group(usize::from(digit as u8 - b'0')));
            }
            _other => return Err(format!("`{text}`: a backslash goes before a digit or a backslash")),
        }
    }
    parts.push(Part::Text(literal));
    Ok(parts)
}

fn substituted(parts: &[Part], found: &regex::Captures<'_>) -> String {
    let mut text = String::new();
    for part in parts {
        text.push_str(match part {
            Part::Text(text) => text,
            Part::Group(group) => found.get(*group).map_or("", |group| group.as_str()),
        });
    }
    text
}

/// Changes a header of a request, by a change that is settled. The authority cannot be removed or doubled.
pub(super) fn change_request(parts: &mut Parts, change: &Change) -> Result<(), http::Error> {
    match change {
        Change::Set(Name::Authority, Value::Plain(value))
        | Change::Add(Name::Authority, Value::Plain(value)) => {
            set_authority(parts, &Authority::try_from(value.as_bytes())?)
        }
        other => {
            other.apply(&mut parts.headers);
            Ok(())
        }
    }
}

/// Applies settled changes to a response, in their order.
pub(crate) fn change(headers: &mut HeaderMap, changes: &[Change]) {
    for change in changes {
        change.apply(headers);
    }
}

/// Sets the authority in both places where it may stand: `:authority` (the URI) and the header `host`.
fn set_authority(parts: &mut Parts, authority: &Authority) -> Result<(), http::Error> {
    parts.headers.insert(HOST, HeaderValue::try_from(authority.as_str())?);
    if parts.uri.authority().is_some() {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.authority = Some(authority.clone());
        parts.uri = Uri::from_parts(uri)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use waypoint_model::{HeaderChange, Pattern};

    use super::super::values::compile;
    use super::*;

    fn rewritten(path: &str, rewrite: &Rewrite, matched: &Matched) -> Result<Parts, http::Error> {
        let (mut parts, ()) =
            http::Request::get(path).header("host", "old.example").body(()).unwrap().into_parts();
        Rewriter::compile(rewrite).unwrap().unwrap().apply(matched, &mut parts).map(|()| parts)
    }

    fn segments(prefix: &str) -> Matched {
        Matched::Segments(prefix.into())
    }

    #[test]
    fn a_replaced_prefix_keeps_segments_and_never_doubles_slashes() {
        // The table of the Gateway API, HTTPPathModifier.replacePrefixMatch.
        let rows = [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo?q=1", "/foo", "/xyz", "/xyz?q=1"),
            ("/foo", "/", "/xyz", "/xyz/foo"),
        ];
        for (path, prefix, replacement, want) in rows {
            let rewrite = Rewrite { hostname: None, path: Some(PathRewrite::Prefix(replacement.to_owned())) };
            let parts = rewritten(path, &rewrite, &segments(prefix)).unwrap();
            assert_eq!(parts.uri.to_string(), want, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_path_that_got_dot_segments_is_sent_nowhere() {
        let prefix = |to: &str| Rewrite { hostname: None, path: Some(PathRewrite::Prefix(to.to_owned())) };
        let rows = [
            ("/a/..x", "/b", Some("/b/..x")),
            ("/a/x", "/b/..", None),
            ("/a/./x", "/b", None),
            ("/a/%2e%2E/x", "/b", None),
            ("/a/...", "/b", Some("/b/...")),
            ("/a/%2e%2ex", "/b", Some("/b/%2e%2ex")),
        ];
        for (path, to, want) in rows {
            let got = rewritten(path, &prefix(to), &segments("/a"));
            assert_eq!(got.ok().map(|parts| parts.uri.path().to_owned()).as_deref(), want, "{path} {to}");
        }
        let joined = rewritten("/a./x", &prefix("/b/."), &Matched::Text("/a".into()));
        assert!(joined.is_err(), "what was matched and what replaces it make one together");
    }

    #[test]
    fn a_path_without_the_matched_prefix_is_refused() {
        let rewrite = Rewrite { hostname: None, path: Some(PathRewrite::Prefix("/x".to_owned())) };
        assert!(rewritten("/bar", &rewrite, &segments("/foo")).is_err());
        assert!(rewritten("/foobar", &rewrite, &segments("/foo")).is_err());
    }

    #[test]
    fn host_and_full_path_are_rewritten_in_both_places() {
        let rewrite = Rewrite {
            hostname: Some("new.example".to_owned()),
            path: Some(PathRewrite::Full("/all".to_owned())),
        };
        let parts = rewritten("http://old.example/a/b?q=1", &rewrite, &Matched::Whole).unwrap();
        assert_eq!(parts.uri.to_string(), "http://new.example/all?q=1");
        assert_eq!(parts.headers["host"], "new.example");
        let parts = rewritten("/a/b?q=1", &rewrite, &Matched::Whole).unwrap();
        assert_eq!(
            (parts.uri.to_string().as_str(), &parts.headers["host"]),
            ("/all?q=1", &"new.example".parse().unwrap())
        );
    }

    fn to(
        scheme: Option<&str>,
        hostname: Option<&str>,
        port: Option<u16>,
        path: Option<PathRewrite>,
    ) -> Redirect {
        Redirect {
            scheme: scheme.map(Into::into),
            hostname: hostname.map(Into::into),
            port,
            path,
            status: 302,
        }
    }

    #[test]
    fn a_location_keeps_what_the_redirect_does_not_name() {
        let full = |path: &str| Some(PathRewrite::Full(path.to_owned()));
        let prefix = |path: &str| Some(PathRewrite::Prefix(path.to_owned()));
        let rows = [
            (to(None, Some("b.example"), None, None), "a.example", "http://b.example/p/q?x=1"),
            (to(None, Some("b.example"), None, None), "a.example:8080", "http://b.example:8080/p/q?x=1"),
            (to(Some("https"), None, None, None), "a.example:8080", "https://a.example/p/q?x=1"),
            (to(Some("https"), None, Some(443), None), "a.example", "https://a.example/p/q?x=1"),
            (to(Some("https"), None, Some(8443), None), "a.example", "https://a.example:8443/p/q?x=1"),
            (to(Some("http"), None, Some(80), None), "a.example:8080", "http://a.example/p/q?x=1"),
            (to(None, None, Some(80), None), "a.example", "http://a.example/p/q?x=1"),
            (to(None, None, None, full("/new")), "a.example:80", "http://a.example/new?x=1"),
            (to(None, None, None, full("/new?y")), "a.example", "http://a.example/new?y"),
            (to(None, None, None, prefix("/z")), "a.example", "http://a.example/z/q?x=1"),
            (to(None, None, None, prefix("/")), "a.example", "http://a.example/q?x=1"),
            (to(None, Some("b.example"), None, None), "[fd00::7]:8080", "http://b.example:8080/p/q?x=1"),
            (to(None, None, Some(81), None), "[fd00::7]:8080", "http://[fd00::7]:81/p/q?x=1"),
        ];
        for (wanted, authority, want) in rows {
            let response = Redirector::compile(&wanted).unwrap();
            let response = response.answer(&segments("/p"), authority, "/p/q", Some("x=1")).unwrap();
            assert_eq!(response.status(), 302);
            assert_eq!(response.headers()[LOCATION], want, "{wanted:?} {authority}");
        }
    }

    #[test]
    fn a_location_whose_prefix_was_all_of_the_path_is_the_replacement_as_written() {
        let rows = [
            ("/p", "/p", "/z/", "/z/"),
            ("/p/", "/p", "/z/", "/z/"),
            ("/p", "/p/", "/z/", "/z/"),
            ("/p", "/p", "/z", "/z"),
            ("/p", "/p", "/", "/"),
            ("/p/q", "/p", "/z/", "/z/q"),
        ];
        for (path, prefix, replacement, want) in rows {
            let wanted = to(None, None, None, Some(PathRewrite::Prefix(replacement.to_owned())));
            let response = Redirector::compile(&wanted).unwrap();
            let response = response.answer(&segments(prefix), "a.example", path, None).unwrap();
            assert_eq!(response.headers()[LOCATION], format!("http://a.example{want}"), "{path} {prefix}");
        }
    }

    #[test]
    fn a_location_that_is_no_uri_is_refused() {
        for (wanted, authority) in
            [(to(None, Some("b example"), None, None), "a"), (to(None, None, None, None), "")]
        {
            let redirector = Redirector::compile(&wanted).unwrap();
            assert!(redirector.answer(&Matched::Whole, authority, "/", None).is_err(), "{wanted:?}");
        }
    }

    #[test]
    fn a_change_of_host_changes_the_authority() {
        let request = http::Request::get("http://a.example/").header("host", "a.example").body(());
        let (mut parts, ()) = request.unwrap().into_parts();
        let changes =
            [HeaderChange::Add("Host".into(), "b.example:81".into()), HeaderChange::Remove("host".into())];
        for change in compile(&changes).unwrap() {
            change_request(&mut parts, &change).unwrap();
        }
        assert_eq!(parts.uri.to_string(), "http://b.example:81/");
        assert_eq!(parts.headers.get_all("host").iter().collect::<Vec<_>>(), ["b.example:81"]);
    }

    #[test]
    fn header_changes_set_add_and_remove() {
        let mut headers = HeaderMap::new();
        headers.append("a", "1".parse().unwrap());
        headers.append("a", "2".parse().unwrap());
        headers.append("b", "3".parse().unwrap());
        let changes = [
            HeaderChange::Set("A".into(), "9".into()),
            HeaderChange::Add("c".into(), "4".into()),
            HeaderChange::Add("c".into(), "5".into()),
            HeaderChange::Remove("b".into()),
        ];
        change(&mut headers, &compile(&changes).unwrap());
        let seen: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(seen, [("a", &b"9"[..]), ("c", b"4"), ("c", b"5")]);
    }

    #[test]
    fn text_and_whole_paths_are_replaced_as_envoy_does() {
        let prefix = |text: &str| PathRewrite::Prefix(text.to_owned());
        let pattern =
            |pattern: &str, text: &str| PathRewrite::Regex(Pattern::parse(pattern).unwrap(), text.to_owned());
        let text = |text: &str| Matched::Text(text.into());
        let rows = [
            ("/ab/c", text("/a"), prefix("/x"), "/xb/c"),
            ("/a/b", text("/a/"), prefix("/x/"), "/x/b"),
            ("/a/b", text("/a"), prefix("/"), "//b"),
            ("/a?q", Matched::Whole, prefix("/x"), "/x?q"),
            ("/v1/users/7", segments(""), pattern("^/v1/([a-z]+)/(.*)$", r"/\2/in/\1"), "/7/in/users"),
            ("/a/a?a", segments(""), pattern("a", r"b\0"), "/ba/ba?a"),
            ("/x", segments(""), pattern("^/x", ""), "/"),
        ];
        for (path, matched, rewrite, want) in rows {
            let rewrite = Rewrite { hostname: None, path: Some(rewrite) };
            assert_eq!(rewritten(path, &rewrite, &matched).unwrap().uri, want, "{path} {rewrite:?}");
        }
        for bad in [pattern("a", r"\1"), pattern("(a)", r"\x"), pattern("a", "\\")] {
            assert!(PathRewriter::compile(&bad).is_err(), "{bad:?}");
        }
    }
}
