//! The head of a request, made unambiguous and cleaned of what a client may not say.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri, Version};
use waypoint_model::PathNormalization;

use super::path;
use crate::context::PeerContext;
use crate::jwt::Verified;
use crate::routing::host;

/// The client's certificate, as a proxy may say it (Envoy).
const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What concerns one connection only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "http2-settings",
];

/// What a caller could tell Envoy's router of retries and timeouts. Here routes alone say it, and no proxy behind us is to
/// obey what ours would not.
const STEERING: [&str; 8] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
];

/// Bytes of a path that a challenge tells (Envoy).
const REALM_PATH: usize = 256;

/// What a request says of itself once it is clean.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `:authority`, or `Host`.
    pub(crate) authority: String,
    /// Normalized, without query.
    pub(crate) path: String,
    /// Without its `?`.
    pub(crate) query: Option<String>,
    /// The token that it bears, once that is verified.
    pub(crate) token: Option<Arc<Verified>>,
}

/// Whether a head of HTTP/2 is larger than `limit` as RFC 9113 §6.5.2 counts it; HTTP/1 has its own bound in the reader.
pub(crate) fn is_too_large<B>(request: &http::Request<B>, limit: u32) -> bool {
    if request.version() != http::Version::HTTP_2 {
        return false;
    }
    let field = |name: usize, value: usize| name + value + 32;
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let authority = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let pseudo = field(5, path) + field(10, authority);
    let fields = request.headers().iter().map(|(name, value)| field(name.as_str().len(), value.len()));
    fields.sum::<usize>() + pseudo > usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Reads and cleans a head in place; afterwards its URI is the normalized path and query only.
///
/// # Errors
/// The name of what is ambiguous or not allowed.
pub(crate) fn prepare(parts: &mut Parts, how: PathNormalization) -> Result<Target, &'static str> {
    if parts.method == Method::CONNECT {
        return Err("inner_connect");
    }
    let authority = authority(parts)?;
    check_transfer_coding(&parts.headers)?;
    let path = path::normalize(parts.uri.path(), how)?;
    // A path that is as it should be is not built and read a second time.
    let plain = matches!(path, Cow::Borrowed(_));
    let kept = parts.uri.path_and_query().filter(|whole| plain && whole.as_str().starts_with('/'));
    let (kept, path) = (kept.cloned(), path.into_owned());
    let query = parts.uri.query().map(str::to_owned);
    parts.uri = match kept {
        Some(kept) => kept.into(),
        None => rebuilt(&path, query.as_deref())?,
    };
    strip_hop_by_hop(&mut parts.headers)?;
    join_cookies(&mut parts.headers)?;
    Ok(Target { authority, path, query, token: None })
}

fn rebuilt(path: &str, query: Option<&str>) -> Result<Uri, &'static str> {
    let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    Ok(Uri::from(whole.parse::<PathAndQuery>().map_err(|_malformed| "path_character")?))
}

/// Removes every header whose name is unwanted. Most requests bear few of them, so what is there is looked at instead of looking
/// for each that could be. `unwanted` must know few names only: each one found costs another pass.
pub(super) fn remove_all(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    while let Some(name) = headers.keys().find(|name| unwanted(name.as_str())).cloned() {
        headers.remove(name);
    }
}

/// HTTP/2 may split a cookie into lines, which are one value when put together (RFC 9113 §8.2.3): judged as the server reads it.
fn join_cookies(headers: &mut HeaderMap) -> Result<(), &'static str> {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return Ok(());
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_invalid| "cookie")?;
    headers.insert(COOKIE, whole);
    Ok(())
}

/// One authority, however it was said: a request whose `:authority` (or absolute form) and `Host` differ is two requests.
fn authority(parts: &Parts) -> Result<String, &'static str> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().map(|host| host.to_str().map_err(|_not_ascii| "host")).transpose()?;
    if hosts.next().is_some() {
        return Err("several_hosts");
    }
    match (parts.uri.authority(), host) {
        (Some(authority), _) if authority.as_str().contains('@') => Err("userinfo"),
        (Some(authority), Some(host)) if !authority.as_str().eq_ignore_ascii_case(host) => {
            Err("host_differs")
        }
        (Some(authority), _) => Ok(authority.as_str().to_owned()),
        (None, Some(host)) if host.contains('@') => Err("userinfo"),
        (None, Some(host)) => Ok(host.to_owned()),
        (None, None) if parts.version == Version::HTTP_10 => Ok(String::new()),
        (None, None) => Err("no_host"),
    }
}

/// A body in any other coding than chunks is not what its bytes say, and only some readers would decode it (RFC 9112 §6.1).
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && codings.next().is_none() { Ok(()) } else { Err("transfer_coding") }
}

/// Also what steers. An upgrade to WebSocket is the one hop-by-hop matter that is carried on.
fn strip_hop_by_hop(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let websocket = is_websocket(headers);
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or_default().split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        // `Connection: x` must remove neither what is judged nor what frames the message.
        if matches!(name, HOST | CONTENT_LENGTH | TRANSFER_ENCODING) || name.as_str().starts_with("mcp-") {
            return Err("connection_option");
        }
        headers.remove(name);
    }
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    remove_all(headers, |name| HOP_BY_HOP.contains(&name) || STEERING.contains(&name));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if websocket {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(())
}

/// Whether an HTTP/1.1 request asks to become a WebSocket (RFC 6455 §4.1).
pub(crate) fn is_websocket(headers: &HeaderMap) -> bool {
    let token = |name: HeaderName, want: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(want))
    };
    token(CONNECTION, "upgrade") && token(UPGRADE, "websocket")
}

/// Who called, for the application: what a client says of it is removed, ours is set where that is configured.
pub(crate) fn identify(headers: &mut HeaderMap, peer: &PeerContext, xfcc: bool) {
    remove_all(headers, is_xfcc);
    if let (true, Some(uri), Some(by)) = (xfcc, peer.id(), peer.local.as_ref())
        && let Ok(value) = HeaderValue::try_from(format!("By={by};URI={uri}"))
    {
        headers.insert(XFCC, value);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
}

/// In either spelling: a CGI-style server takes one for the other.
fn is_xfcc(name: &str) -> bool {
    let alike = |(one, other): (u8, u8)| one == other || (one == b'_' && other == b'-');
    name.len() == XFCC.as_str().len() && name.bytes().zip(XFCC.as_str().bytes()).all(alike)
}

/// Writes the authority where either version of HTTP looks for it: an absolute URI (`:authority`) and `Host`.
///
/// # Errors
/// An authority that cannot stand in a URI.
pub(crate) fn authority_for_upstream(parts: &mut Parts, authority: &str) -> Result<(), &'static str> {
    if authority.is_empty() {
        return Ok(()); // HTTP/1.0 without Host.
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(authority.parse().map_err(|_malformed| "host")?);
    parts.uri = Uri::from_parts(uri).map_err(|_malformed| "host")?;
    if !host::says_only(&parts.headers, authority) {
        parts.headers.insert(HOST, HeaderValue::try_from(authority).map_err(|_malformed| "host")?);
    }
    Ok(())
}

/// What was asked for, as Envoy names it in a challenge (RFC 9110 §11.5): no more of the path than 256 bytes.
pub(crate) fn realm(target: &Target, uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = path.get(..REALM_PATH).unwrap_or(path);
    // Neither may stand in a quoted string.
    format!("http://{}{path}", target.authority).replace(['"', '\\'], "")
}

/// The request's id; one is made where the client sent none.
pub(crate) fn request_id(headers: &mut HeaderMap) -> String {
    if let Some(id) = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()) {
        return id.to_owned();
    }
    let id = uuid_v4(fastrand::u128(..));
    if let Ok(value) = HeaderValue::try_from(&id) {
        headers.insert(REQUEST_ID, value);
    }
    id
}

/// RFC 9562 §5.4.
fn uuid_v4(random: u128) -> String {
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let mut id = String::with_capacity(36);
    for (at, byte) in bits.to_be_bytes().into_iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            id.push('-');
        }
        id.extend([byte >> 4, byte & 0xf].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn crumbs_of_a_cookie_are_judged_as_one() {
        let request =
            http::Request::get("/").header("host", "x").header("cookie", "a=1").header("cookie", "b=2");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        prepare(&mut parts, PathNormalization::Base).unwrap();
        let cookies: Vec<_> = parts.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn a_host_with_a_user_is_no_host() {
        let request = http::Request::get("/").header("host", "x@admin.example");
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(prepare(&mut parts, PathNormalization::Base).err(), Some("userinfo"));
    }

    #[test]
    fn one_authority_or_none() {
        let rows = [
            (parts(http::Request::get("/").header(HOST, "a:80")), Ok("a:80")),
            (parts(http::Request::get("http://a/x").header(HOST, "A")), Ok("a")),
            (parts(http::Request::get("http://a/x").header(HOST, "b")), Err("host_differs")),
            (parts(http::Request::get("/").header(HOST, "a").header(HOST, "a")), Err("several_hosts")),
            (parts(http::Request::get("http://u@a/x")), Err("userinfo")),
            (parts(http::Request::get("/")), Err("no_host")),
        ];
        for (parts, want) in rows {
            assert_eq!(authority(&parts), want.map(str::to_owned), "{parts:?}");
        }
    }

    #[test]
    fn hop_by_hop_goes_and_websocket_stays() {
        let request =
            http::Request::get("/a/../x?q=1").header(HOST, "a").header(CONNECTION, "Upgrade, x-drop");
        let mut parts =
            parts(request.header(UPGRADE, "websocket").header("x-drop", "1").header("keep-alive", "5"));
        let target = prepare(&mut parts, PathNormalization::Base).unwrap();
        assert_eq!((target.path.as_str(), target.query.as_deref()), ("/x", Some("q=1")));
        assert_eq!(parts.uri, "/x?q=1");
        assert!(!parts.headers.contains_key("x-drop") && !parts.headers.contains_key("keep-alive"));
        assert!(is_websocket(&parts.headers));
    }

    #[test]
    fn what_goes_on_is_path_and_query_however_they_came() {
        let rows = [
            ("/x?q=1", "/x?q=1"),
            ("/x?", "/x?"),
            ("/a/../x?q=1", "/x?q=1"),
            ("http://a/x?q=1", "/x?q=1"),
            ("http://a?q=1", "/?q=1"),
            ("http://a", "/"),
        ];
        for (uri, want) in rows {
            let mut parts = parts(http::Request::get(uri).header(HOST, "a"));
            let target = prepare(&mut parts, PathNormalization::Base).unwrap();
            assert_eq!(parts.uri.to_string(), want, "{uri}");
            assert_eq!((parts.uri.path(), parts.uri.query()), (&*target.path, target.query.as_deref()));
        }
    }

    #[test]
    fn a_caller_does_not_steer_retries() {
        let request = STEERING
            .iter()
            .fold(http::Request::get("/").header(HOST, "a"), |request, name| request.header(*name, "5"));
        let mut parts = parts(request);
        prepare(&mut parts, PathNormalization::Base).unwrap();
        assert_eq!(parts.headers.keys().collect::<Vec<_>>(), [HOST]);
    }

    #[test]
    fn connection_cannot_remove_what_is_judged() {
        for name in ["mcp-session-id", "content-length", "host", "Mcp-Method"] {
            let mut parts = parts(http::Request::get("/").header(HOST, "a").header(CONNECTION, name));
            assert_eq!(
                prepare(&mut parts, PathNormalization::Base).err(),
                Some("connection_option"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_body_comes_in_chunks_or_as_it_is() {
        let rows = [
            (vec![], Ok(())),
            (vec!["Chunked"], Ok(())),
            (vec!["gzip, chunked"], Err("transfer_coding")),
            (vec!["identity"], Err("transfer_coding")),
            (vec!["chunked", "chunked"], Err("transfer_coding")),
        ];
        for (codings, want) in rows {
            let add =
                |request: http::request::Builder, coding: &&str| request.header(TRANSFER_ENCODING, *coding);
            let request = codings.iter().fold(http::Request::post("/").header(HOST, "a"), add);
            let told = prepare(&mut parts(request), PathNormalization::Base).map(|_target| ());
            assert_eq!(told, want, "{codings:?}");
        }
    }

    #[test]
    fn a_made_request_id_is_a_version_4_uuid() {
        assert_eq!(uuid_v4(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid_v4(0), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn a_clients_word_on_certificates_is_removed() {
        let id = |text| Some(spiffe_id::SpiffeId::parse(text).unwrap());
        let name = crate::context::PeerName::Vouched(id("spiffe://td/ns/a/sa/a"));
        let peer =
            PeerContext { name, address: "10.0.0.1:1".parse().unwrap(), local: id("spiffe://td/ns/w/sa/w") };
        for (xfcc, want) in
            [(false, None), (true, Some("By=spiffe://td/ns/w/sa/w;URI=spiffe://td/ns/a/sa/a"))]
        {
            let mut headers = HeaderMap::new();
            headers.append(
                "x_forwarded-client_cert",
                HeaderValue::from_static("URI=spiffe://td/ns/admin/sa/root"),
            );
            headers.append(XFCC, HeaderValue::from_static("URI=spiffe://td/ns/admin/sa/root"));
            headers.append(XFCC, HeaderValue::from_static("URI=spiffe://td/ns/admin/sa/root"));
            identify(&mut headers, &peer, xfcc);
            let seen: Vec<_> = headers.get_all(XFCC).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(seen, want.into_iter().collect::<Vec<_>>());
            assert!(!headers.contains_key("x_forwarded-client_cert"));
        }
    }
}
