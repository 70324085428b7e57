//! What a rule changes: headers, host and path of a request, and the answer of a redirect.

use http::header::{HOST, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, Response};
use waypoint_model::{HeaderChange, PathRewrite, Redirect, Rewrite};

use super::host::split_authority;
use crate::body::Body;

/// Applies header changes to a response, in their order. Changes that are no valid headers never get here: a rule with one
/// is [`super::table::Selected::Broken`].
pub(crate) fn change(headers: &mut HeaderMap, changes: &[HeaderChange]) {
    for change in changes {
        // Cannot fail, see above; a response is not withheld for it.
        let _ = change_one(headers, change);
    }
}

/// Builds the answer of a redirect: status and `Location` (RFC 9110 §15.4). `matched` is the prefix that was matched.
///
/// The scheme is `http` unless the redirect names one (inside a tunnel there is no TLS of ours to know of); the port of the
/// request is kept unless scheme or port are given; the default port of the scheme is left out.
///
/// # Errors
/// When the outcome is no valid URI, or the status none.
pub(crate) fn redirect(
    redirect: &Redirect,
    matched: &str,
    authority: &str,
    path: &str,
    query: Option<&str>,
) -> Result<Response<Body>, http::Error> {
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
    let path = match &redirect.path {
        Some(rewrite) => new_path(rewrite, Some(matched), path)?,
        None => path.to_owned(),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    // Read back as a URI, so that no part of the request can break out of its place.
    let location = Uri::try_from(format!("{scheme}://{host}{port}{path}{query}"))?;
    Response::builder()
        .status(redirect.status)
        .header(LOCATION, HeaderValue::try_from(location.to_string())?)
        .body(Body::Empty)
}

/// Rewrites host and path of a request head.
///
/// # Errors
/// When the path does not start with `prefix`, or the outcome is no valid URI.
pub(super) fn apply(rewrite: &Rewrite, prefix: Option<&str>, parts: &mut Parts) -> Result<(), http::Error> {
    if let Some(hostname) = &rewrite.hostname {
        set_authority(parts, hostname)?;
    }
    let Some(path) = &rewrite.path else { return Ok(()) };
    let path = new_path(path, prefix, parts.uri.path())?;
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.path_and_query = Some(PathAndQuery::try_from(format!("{path}{query}"))?);
    parts.uri = Uri::from_parts(uri)?;
    Ok(())
}

/// The new path (Gateway API `HTTPPathModifier`): segments after the prefix are kept, slashes at the seam are not doubled,
/// and an empty outcome is `/`.
fn new_path(rewrite: &PathRewrite, prefix: Option<&str>, path: &str) -> Result<String, http::Error> {
    match rewrite {
        PathRewrite::Full(full) if full.starts_with('/') => Ok(full.clone()),
        PathRewrite::Full(full) => Ok(format!("/{full}")),
        PathRewrite::Regex(..) => Uri::try_from("").map(|_| String::new()).map_err(Into::into),
        PathRewrite::Prefix(replacement) => {
            let prefix = prefix.unwrap_or_default().trim_end_matches('/');
            let rest = path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let Some(rest) = rest else {
                // A path that is not the one that was matched is sent nowhere: reading an empty URI is an error.
                return Uri::try_from("").map(|_| String::new()).map_err(Into::into);
            };
            let joined = format!("{}{rest}", replacement.trim_end_matches('/'));
            Ok(if joined.starts_with('/') { joined } else { format!("/{joined}") })
        }
    }
}

/// Whether a change can be carried out on any message.
pub(super) fn is_valid(change: &HeaderChange) -> bool {
    match change {
        HeaderChange::Set(name, value) | HeaderChange::Add(name, value) => {
            HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
        }
        HeaderChange::Remove(name) => HeaderName::try_from(name).is_ok(),
    }
}

/// Changes a header of a request. `host` means the authority, wherever it stands, and cannot be removed or doubled.
pub(super) fn change_request(parts: &mut Parts, change: &HeaderChange) -> Result<(), http::Error> {
    match change {
        HeaderChange::Set(name, value) | HeaderChange::Add(name, value) if is_host(name) => {
            set_authority(parts, value)
        }
        HeaderChange::Remove(name) if is_host(name) => Ok(()),
        other => change_one(&mut parts.headers, other),
    }
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case(HOST.as_str())
}

fn change_one(headers: &mut HeaderMap, change: &HeaderChange) -> Result<(), http::Error> {
    match change {
        HeaderChange::Set(name, value) => {
            headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        HeaderChange::Add(name, value) => {
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        HeaderChange::Remove(name) => {
            headers.remove(HeaderName::try_from(name)?);
        }
    }
    Ok(())
}

/// Sets the authority in both places where it may stand: `:authority` (the URI) and the header `host`.
fn set_authority(parts: &mut Parts, authority: &str) -> Result<(), http::Error> {
    let authority = Authority::try_from(authority)?;
    parts.headers.insert(HOST, HeaderValue::try_from(authority.as_str())?);
    if parts.uri.authority().is_some() {
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.authority = Some(authority);
        parts.uri = Uri::from_parts(uri)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(path: &str, rewrite: &Rewrite, prefix: Option<&str>) -> Result<Parts, http::Error> {
        let (mut parts, ()) =
            http::Request::get(path).header("host", "old.example").body(()).unwrap().into_parts();
        apply(rewrite, prefix, &mut parts).map(|()| parts)
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
            let parts = rewritten(path, &rewrite, Some(prefix)).unwrap();
            assert_eq!(parts.uri.to_string(), want, "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn a_path_without_the_matched_prefix_is_refused() {
        let rewrite = Rewrite { hostname: None, path: Some(PathRewrite::Prefix("/x".to_owned())) };
        assert!(rewritten("/bar", &rewrite, Some("/foo")).is_err());
        assert!(rewritten("/foobar", &rewrite, Some("/foo")).is_err());
    }

    #[test]
    fn host_and_full_path_are_rewritten_in_both_places() {
        let rewrite = Rewrite {
            hostname: Some("new.example".to_owned()),
            path: Some(PathRewrite::Full("/all".to_owned())),
        };
        let parts = rewritten("http://old.example/a/b?q=1", &rewrite, None).unwrap();
        assert_eq!(parts.uri.to_string(), "http://new.example/all?q=1");
        assert_eq!(parts.headers["host"], "new.example");
        let parts = rewritten("/a/b?q=1", &rewrite, None).unwrap();
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
            (to(None, None, None, prefix("/z")), "a.example", "http://a.example/z/q?x=1"),
            (to(None, None, None, prefix("/")), "a.example", "http://a.example/q?x=1"),
            (to(None, Some("b.example"), None, None), "[fd00::7]:8080", "http://b.example:8080/p/q?x=1"),
            (to(None, None, Some(81), None), "[fd00::7]:8080", "http://[fd00::7]:81/p/q?x=1"),
        ];
        for (wanted, authority, want) in rows {
            let response = redirect(&wanted, "/p", authority, "/p/q", Some("x=1")).unwrap();
            assert_eq!(response.status(), 302);
            assert_eq!(response.headers()[LOCATION], want, "{wanted:?} {authority}");
        }
    }

    #[test]
    fn a_location_that_is_no_uri_is_refused() {
        assert!(redirect(&to(None, Some("b example"), None, None), "", "a", "/", None).is_err());
        assert!(redirect(&to(None, None, None, None), "", "", "/", None).is_err());
    }

    #[test]
    fn a_change_of_host_changes_the_authority() {
        let request = http::Request::get("http://a.example/").header("host", "a.example").body(());
        let (mut parts, ()) = request.unwrap().into_parts();
        change_request(&mut parts, &HeaderChange::Add("Host".into(), "b.example:81".into())).unwrap();
        change_request(&mut parts, &HeaderChange::Remove("host".into())).unwrap();
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
        change(&mut headers, &changes);
        let seen: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(seen, [("a", &b"9"[..]), ("c", b"4"), ("c", b"5")]);
    }
}
