//! Answers: refusals in the words of their protocol, and what of an upstream's answer may go down.

use std::borrow::Cow;
use std::sync::Arc;

use agent_protocols::Reply;
use agent_protocols::mcp as protocol;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::cors;
use super::headers::{self, Target};
use super::http_sse::Home;
use super::mcp::{Entered, SESSION};
use super::request::Refused;
use crate::body::Body;
use crate::context::StreamContext;
use crate::rates::Limited;
use crate::refusal::Refusal;
use crate::routing::rewrite;
use crate::routing::table::{self, Answer, Own};
use crate::routing::values::Facts;
use crate::upstream::UpstreamError;

/// Envoy's and Istio's text for a policy refusal; tests and runbooks know it.
const RBAC: &str = "RBAC: access denied";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// gRPC status codes (grpc.io, *Status codes*).
const GRPC_PERMISSION_DENIED: u16 = 7;
const GRPC_EXHAUSTED: u16 = 8;
const GRPC_INTERNAL: u16 = 13;
const GRPC_UNAVAILABLE: u16 = 14;
const GRPC_UNAUTHENTICATED: u16 = 16;

/// The answer to a refused request. It names no policy, address or cause.
pub(crate) fn refusal(refused: &Refused, grpc: bool) -> Response<Body> {
    let (refusal, status) = (&*refused.refusal, refused.refusal.status());
    let mut response = match &refused.reply {
        Some(reply) => match reply.grpc_status {
            Some(code) => grpc_answer(code, &reply.body),
            None => build(reply.status, reply.content_type, reply.body.clone()),
        },
        None if grpc => grpc_refusal(grpc_status(refusal, status), &text(refusal)),
        None => build(status, "text/plain", Bytes::from(text(refusal).into_owned())),
    };
    if let Refusal::Token { realm, .. } = refusal
        && let Ok(challenge) =
            HeaderValue::try_from(format!("Bearer realm=\"{realm}\", error=\"invalid_token\""))
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge); // RFC 6750 §3.
    }
    if let Refusal::Limited(limited) = refusal {
        tell_limit(limited, response.headers_mut());
    }
    if let Some(crossing) = &refused.crossing {
        cors::mark(response.headers_mut(), crossing.as_ref().clone());
    }
    response
}

/// When to come again, in whole seconds (RFC 9110 §10.2.3), and what the limit adds.
fn tell_limit(limited: &Limited, headers: &mut HeaderMap) {
    let seconds = limited.wait.as_secs() + u64::from(limited.wait.subsec_nanos() > 0);
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    for (name, value) in &limited.refusal.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
}

/// The answer that a route gives itself: a redirect, or a status and a text. A gRPC client is told in trailers.
///
/// # Errors
/// [`Refusal::BrokenRoute`] when the outcome is no valid URI or header.
pub(crate) fn by_route(
    own: &Answer,
    target: &Target,
    parts: &Parts,
    facts: &Facts,
    grpc: bool,
) -> Result<Response<Body>, Refusal> {
    let broken = |_invalid| Refusal::BrokenRoute(Arc::clone(&own.name));
    let mut response = match &own.own {
        Own::Redirect(redirect, matched) => redirect
            .answer(matched, &target.authority, &target.path, target.query.as_deref())
            .map_err(broken)?,
        Own::Respond(status, body) => self::own(*status, body.clone(), grpc),
    };
    response = without_body_for(&parts.method, response);
    let changes = table::settle(&own.response_headers, facts, &parts.headers).map_err(broken)?;
    rewrite::change(response.headers_mut(), &changes);
    Ok(response)
}

/// An answer of our own to HEAD has no body; hyper would send it on HTTP/2, and clients break off there.
pub(crate) fn without_body_for(method: &http::Method, response: Response<Body>) -> Response<Body> {
    if method == http::Method::HEAD { response.map(|_body| Body::Empty) } else { response }
}

/// A status and a text; a gRPC client is told in trailers.
pub(crate) fn own(status: StatusCode, body: Bytes, grpc: bool) -> Response<Body> {
    if grpc { grpc_answer(grpc_code(status), &body) } else { build(status, "text/plain", body) }
}

/// The HTTP status that says as much as a gRPC status (*google.rpc.Code*).
pub(crate) fn http_status(code: u32) -> StatusCode {
    match code {
        0 => StatusCode::OK,
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        4 => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        8 => StatusCode::TOO_MANY_REQUESTS,
        12 => StatusCode::NOT_IMPLEMENTED,
        14 => StatusCode::SERVICE_UNAVAILABLE,
        16 => StatusCode::UNAUTHORIZED,
        _other => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// gRPC's own table (*HTTP to gRPC Status Code Mapping*), as Envoy uses it for answers of its own.
pub(crate) fn grpc_code(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => GRPC_INTERNAL,
        401 => 16,
        403 => GRPC_PERMISSION_DENIED,
        404 => 12,
        429 | 502 | 503 | 504 => GRPC_UNAVAILABLE,
        _other => 2,
    }
}

/// Trailers-only, with a text of any kind as its message: percent-encoded (gRPC over HTTP/2, `Percent-Encoded`).
pub(crate) fn grpc_answer(code: u16, message: &[u8]) -> Response<Body> {
    let mut response = grpc_refusal(code, "");
    let encode = |byte: &u8| match byte {
        b'%' | 0..0x20 | 0x7f.. => format!("%{byte:02X}"),
        other => char::from(*other).to_string(),
    };
    let message: String = message.iter().map(encode).collect();
    if let Ok(message) = HeaderValue::try_from(message) {
        response.headers_mut().insert(GRPC_MESSAGE, message);
    }
    response
}

fn build(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    if !body.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        *response.body_mut() = Body::full(body);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110 §15.5.6; only MCP ports limit methods.
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST, DELETE"));
    }
    response
}

/// Trailers-only (gRPC over HTTP/2, *Responses*).
fn grpc_refusal(code: u16, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(code));
    // Our own words, printable and without `%`, so that nothing has to be encoded.
    headers.extend(HeaderValue::try_from(message).map(|message| (GRPC_MESSAGE, message)));
    response
}

fn grpc_status(refusal: &Refusal, status: StatusCode) -> u16 {
    match status {
        _ if matches!(refusal, Refusal::Limited(limited) if limited.refusal.exhausted) => GRPC_EXHAUSTED,
        StatusCode::UNAUTHORIZED => GRPC_UNAUTHENTICATED,
        StatusCode::FORBIDDEN => GRPC_PERMISSION_DENIED,
        StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => GRPC_INTERNAL,
        StatusCode::NOT_FOUND => 12,
        StatusCode::GATEWAY_TIMEOUT => 4,
        _other => GRPC_UNAVAILABLE,
    }
}

fn text(refusal: &Refusal) -> Cow<'static, str> {
    let fixed = match refusal {
        Refusal::Token { why, .. } => return why.to_string().into(),
        Refusal::Denied(_) => RBAC,
        Refusal::Limited(_) => "rate limited",
        Refusal::NotOurs(_) | Refusal::UnknownDestination(_) => "unknown destination",
        Refusal::BadConnect | Refusal::BadRequest(_) | Refusal::Malformed(_) => "bad request",
        Refusal::TooLargeToInspect { .. } => "payload too large",
        Refusal::InspectionBusy => "overloaded",
        Refusal::BodyNotReceived | Refusal::BodyTooSlow => "request timeout",
        Refusal::HeadTooLarge => "request header fields too large",
        Refusal::SessionNotFound => "session not found",
        Refusal::TaskNotFound => "task not found",
        Refusal::NoRoute => "no route",
        Refusal::BrokenRoute(_) => "no backend",
        Refusal::Unscreenable(_) => "bad gateway",
        Refusal::Unserved(_) => "service unavailable",
        Refusal::Timeout => "upstream request timeout",
        Refusal::Upstream(error) => match error {
            UpstreamError::NoCluster(_) => "no backend",
            UpstreamError::NoEndpoint | UpstreamError::Unusable { .. } => "no healthy upstream",
            UpstreamError::PinnedGone => "session not found",
            UpstreamError::Overloaded => "overloaded",
            UpstreamError::Connect { .. } | UpstreamError::Reset { .. } => {
                "upstream connect error or disconnect/reset before headers"
            }
            UpstreamError::Timeout => "upstream request timeout",
        },
    };
    fixed.into()
}

/// An upstream that failed. A session whose endpoint is gone is a session that ended, and its client starts another.
pub(crate) fn upstream(error: UpstreamError, in_session: bool) -> Refused {
    let ended = in_session && matches!(error, UpstreamError::PinnedGone);
    let refusal = Refusal::Upstream(error);
    if ended { Refused::worded(refusal, protocol::session_not_found(None)) } else { refusal.into() }
}

/// Takes hop-by-hop headers out of an upstream's answer (RFC 9110 §7.6.1); an upgrade keeps its own.
pub(crate) fn clean(response: &mut Response<Body>) {
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers::remove_all(headers, |name| match name {
        "keep-alive" | "proxy-connection" | "transfer-encoding" | "te" => true,
        "connection" | "upgrade" => !switching,
        _other => false,
    });
}

/// Binds a session that the server opened to the identity that asked, and shows the client the id that it is to use.
pub(crate) fn bind_session(
    cx: &Arc<StreamContext>,
    home: Option<&Home>,
    entered: Option<&Entered>,
    response: &mut Response<Body>,
) {
    let success = response.status().is_success();
    let headers = response.headers_mut();
    let Some(id) = headers.remove(&SESSION) else { return };
    let known = entered.filter(|entered| entered.session.upstream_id == id);
    let shown = match (known, home) {
        (Some(entered), _) => Some(entered.shown.clone()),
        (None, Some(home)) if success => cx.shared.sessions.bind(home.holder.clone(), &id, &home.endpoint),
        (None, _) => None,
    };
    if let Some(shown) = shown {
        headers.insert(SESSION, shown);
    }
}

/// What an MCP server may not answer: a redirect, which its client would follow past the policies; and to a GET that was
/// permitted because it opens an event stream, anything else of content. `id`: of the request, as JSON text.
///
/// # Errors
/// [`Refusal::Unscreenable`]: 502, in the words of the protocol.
pub(crate) fn withhold(response: &Response<Body>, lifecycle: bool, id: Option<&str>) -> Result<(), Refused> {
    let refuse = |name| {
        let reply = Reply { status: StatusCode::BAD_GATEWAY, ..protocol::unscreenable(id) };
        Err(Refused::worded(Refusal::Unscreenable(name), reply))
    };
    match response.status() {
        status if status.is_redirection() => refuse("redirect"),
        status if status.is_success() && lifecycle && !is_event_stream(response) => {
            refuse("not_an_event_stream")
        }
        _fine => Ok(()),
    }
}

/// By media type, whatever its case and parameters.
pub(crate) fn is_event_stream(response: &Response<Body>) -> bool {
    media_type(response).is_some_and(|media| media.eq_ignore_ascii_case("text/event-stream"))
}

pub(crate) fn is_json(response: &Response<Body>) -> bool {
    media_type(response).is_some_and(|media| media.eq_ignore_ascii_case("application/json"))
}

fn media_type(response: &Response<Body>) -> Option<&str> {
    let value = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}
