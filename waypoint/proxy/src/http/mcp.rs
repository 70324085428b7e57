//! MCP on its way in: its head, its session, its body where the answer depends on it, and the permit.

use std::sync::Arc;

use agent_protocols::mcp::{self, Exchange, Explanation, Head, HeadKind, Revision, ServerAsk};
use agent_protocols::{Kind, Malformed, Reply};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use waypoint_policy::{Attributes, Denial, DenyReason, HeadVerdict, Permit, PolicySet};

use super::asked::{self, Asked, Message};
use super::exchange::ExchangeLog;
use super::headers::{self, Target};
use super::http_sse::{self, Home};
use super::inspect::{self, Inspected};
use super::limit;
use super::request::{Judged, Refused, Screening};
use super::state;
use crate::body::Body;
use crate::context::StreamContext;
use crate::jwt::Verified;
use crate::peers::Place;
use crate::refusal::Refusal;
use crate::sessions::{Holder, Session};
use crate::snapshot::Destination;
use crate::upstream::Pick;

/// `Mcp-Session-Id` (MCP 2025-03-26, *Session Management*).
pub(crate) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// What came of judging an exchange.
pub(crate) struct Verdicts {
    /// The permit for all of it, or the first refusal.
    pub(crate) outcome: Result<Permit, Denial>,
    /// Which messages were refused, in the order of the body, and by what.
    pub(crate) denied: Vec<Option<DenyReason>>,
}

/// Judges every message of an exchange, and every thing that a message names. It goes as a whole or not at all.
pub(crate) fn judge(policy: &PolicySet, attributes: &Attributes<'_>, exchange: &Exchange<'_>) -> Verdicts {
    let mut denied = Vec::with_capacity(exchange.messages.len());
    let mut outcome: Option<Result<Permit, Denial>> = None;
    for message in &exchange.messages {
        let one = judge_message(policy, attributes, message);
        denied.push(one.as_ref().err().map(|denial| denial.reason.clone()));
        outcome = Some(match (outcome.take(), one) {
            (None, one) => one,
            (Some(Ok(all)), Ok(one)) => Ok(all.and(one)),
            (Some(Ok(_)), Err(denial)) | (Some(Err(denial)), _) => Err(denial),
        });
    }
    let outcome = outcome.unwrap_or_else(|| policy.decide(attributes, &agent_protocols::Plain));
    Verdicts { outcome, denied }
}

fn judge_message(
    policy: &PolicySet,
    attributes: &Attributes<'_>,
    message: &mcp::Message<'_>,
) -> Result<Permit, Denial> {
    if !message.is_known() {
        return Err(policy.deny_unknown_method(message.method.as_deref().unwrap_or_default()));
    }
    let mut permit: Option<Permit> = None;
    for subject in &message.subjects {
        let one = policy.decide(attributes, subject)?;
        permit = Some(match permit.take() {
            Some(all) => all.and(one),
            None => one,
        });
    }
    permit.ok_or_else(|| policy.deny_unknown_method(message.method.as_deref().unwrap_or_default()))
}

/// Judges one request to a destination whose policies test MCP facts.
pub(crate) async fn authorize(
    cx: &Arc<StreamContext>,
    destination: &Arc<Destination>,
    parts: &mut Parts,
    target: &Target,
    body: Incoming,
    log: &mut ExchangeLog,
) -> Result<Judged, Refused> {
    let head = Head::read(parts, &cx.shared.settings.limits.protocol()).map_err(malformed)?;
    log.mcp_head(&head);
    check_origin(cx, &head).map_err(malformed)?;
    if head.kind() != HeadKind::Message && !body.is_end_stream() {
        return Err(Refusal::BadRequest("unexpected_body").into()); // HTTP/2 needs no header to announce one.
    }
    let decision = destination.policy.decide_head(&asked::attributes(cx, parts, target, destination.port));
    match decision {
        HeadVerdict::Deny(denial) => Err(Refused::worded(denied(log, denial), mcp::no_access())),
        HeadVerdict::Permit(permit) if head.kind() != HeadKind::Message || destination.limits.is_empty() => {
            let judged = by_head(cx, destination, parts, target, body, head, permit, log)?;
            // Permitted whatever it asks for, so not because it looked like the opening of a stream.
            Ok(Judged { lifecycle: false, ..judged })
        }
        // Limits count messages, and what they refuse is answered by the message's id.
        HeadVerdict::ReadBody | HeadVerdict::Permit(_) if head.kind() == HeadKind::Message => {
            let limits = &cx.shared.settings.limits;
            let inspected = inspect::read(body, &cx.shared.inspection, limits).await.map_err(unread)?;
            let (kept, queried) = (head.clone(), enter_by_query(cx, destination, parts, target, log)?);
            let judged = by_body(cx, destination, parts, target, head, queried.clone(), inspected, log);
            match (judged, queried) {
                (Err(refused), Some(entered)) => {
                    let judged = on_its_stream(cx, destination, parts, target, &kept, entered, refused)?;
                    log.answers("refused_on_stream");
                    Ok(judged)
                }
                (judged, _) => judged,
            }
        }
        HeadVerdict::ReadBody | HeadVerdict::Permit(_) => {
            let attributes = asked::attributes(cx, parts, target, destination.port);
            let decision = destination.policy.decide(&attributes, &*head.facts());
            let permit =
                log.decided(decision).map_err(|refusal| Refused::worded(refusal, mcp::no_access()))?;
            by_head(cx, destination, parts, target, body, head, permit, log)
        }
    }
}

/// A browser sends a page's origin with what the page asks for (MCP, *Security Warning* of its transports): none but those that
/// are listed may ask, or a page could reach what its reader's network reaches (DNS rebinding).
fn check_origin(cx: &StreamContext, head: &Head) -> Result<(), Malformed> {
    let Some(origin) = head.origin() else { return Ok(()) };
    let listed = cx.shared.settings.origins.iter().any(|listed| listed.is(origin.as_bytes()));
    if listed { Ok(()) } else { Err(Malformed::new("origin_not_listed", StatusCode::FORBIDDEN, -32600)) }
}

/// What a refused message of HTTP+SSE leaves behind: a `ping` that brings the refusal to the session's stream. Anything else is
/// refused as it was.
fn on_its_stream(
    cx: &Arc<StreamContext>,
    destination: &Destination,
    parts: &mut Parts,
    target: &Target,
    head: &Head,
    entered: Entered,
    refused: Refused,
) -> Result<Judged, Refused> {
    let told = refused.reply.as_ref().filter(|reply| reply.is_for_request());
    let Some(told) = told.and_then(|reply| std::str::from_utf8(&reply.body).ok()) else {
        return Err(refused);
    };
    let holder = holder(cx, destination, target.token.as_deref());
    let home = Home { holder, endpoint: entered.session.endpoint.clone() };
    let attributes = asked::attributes(cx, parts, target, destination.port);
    let Some((permit, carrier)) = http_sse::carry(cx, destination, head, &attributes, &home, told) else {
        return Err(refused);
    };
    mcp::sanitize(&mut parts.headers, None);
    let body = http_sse::replace_body(&mut parts.headers, carrier);
    let pick = pinned(Some(&entered));
    let (screening, session) = (Screening::None, Some(entered));
    Ok(Judged { permit, asked: None, body, pick, screening, lifecycle: false, session, id: None })
}

/// Nothing depends on the body: it streams through.
#[expect(
    clippy::too_many_arguments,
    reason = "the request in its parts; a struct for one call would hide nothing"
)]
fn by_head(
    cx: &Arc<StreamContext>,
    destination: &Arc<Destination>,
    parts: &mut Parts,
    target: &Target,
    body: Incoming,
    head: Head,
    permit: Permit,
    log: &mut ExchangeLog,
) -> Result<Judged, Refused> {
    log.permitted(&permit);
    let modern = head.revision().is_some_and(|version| Revision::parse(version) == Revision::V2026_07_28);
    let queried = enter_by_query(cx, destination, parts, target, log)?;
    let session = enter(cx, destination, parts, target, queried, modern).map_err(|refusal| {
        log.session_refused();
        Refused::worded(refusal, mcp::session_not_found(None))
    })?;
    if head.last_event_id().is_some() && session.is_none() {
        return Err(Refused::worded(Refusal::SessionNotFound, mcp::session_not_found(None)));
    }
    limit::take(
        cx,
        destination,
        &asked::attributes(cx, parts, target, destination.port),
        &[(0, &*head.facts())],
        log,
    )
    .map_err(|limited| limit::refused(limited, None))?;
    let screening = if head.kind() == HeadKind::OpenStream { Screening::Stream } else { Screening::None };
    let lifecycle = head.kind() == HeadKind::OpenStream;
    let place = if lifecycle {
        Some(place(cx, destination, target.token.as_deref()).map_err(malformed)?)
    } else {
        None
    };
    let asked = Asked::new(cx, parts, target, destination.port, Message::Head(head)).holding(place);
    mcp::sanitize(&mut parts.headers, None);
    let pick = pinned(session.as_ref());
    Ok(Judged {
        permit,
        asked: Some(asked),
        body: log.observed(body),
        pick,
        screening,
        lifecycle,
        session,
        id: None,
    })
}

#[expect(
    clippy::too_many_arguments,
    reason = "the request in its parts; a struct for one call would hide nothing"
)]
fn by_body(
    cx: &Arc<StreamContext>,
    destination: &Arc<Destination>,
    parts: &mut Parts,
    target: &Target,
    head: Head,
    queried: Option<Entered>,
    inspected: Inspected,
    log: &mut ExchangeLog,
) -> Result<Judged, Refused> {
    log.body_read(inspected.bytes.len());
    let limits = cx.shared.settings.limits.protocol();
    let exchange = Exchange::read(&head, &inspected.bytes, &limits).map_err(malformed)?;
    log.mcp_exchange(&exchange, &cx.shared.settings.log_arguments);
    let first_id = exchange.messages.first().and_then(mcp::Message::id);
    let modern = exchange.revision == Revision::V2026_07_28;
    let session = enter(cx, destination, parts, target, queried, modern).map_err(|refusal| {
        log.session_refused();
        Refused::worded(refusal, mcp::session_not_found(first_id))
    })?;
    let attributes = asked::attributes(cx, parts, target, destination.port);
    let verdicts = judge(&destination.policy, &attributes, &exchange);
    let permit = log.decided(verdicts.outcome).map_err(|refusal| {
        let access = destination.policy.any_access(&attributes);
        let reply = if access { worded(cx, parts, &exchange, &verdicts.denied) } else { mcp::no_access() };
        Refused::worded(refusal, reply)
    })?;
    limit::take(cx, destination, &attributes, &limit::messages(&exchange), log).map_err(|limited| {
        let mode = cx.shared.settings.deny_mode;
        let reply = mcp::limited(&exchange, limited.message, limited.wait, mode);
        limit::refused(limited, reply)
    })?;
    let id = first_id.map(str::to_owned);
    let may_ask = |ask: &ServerAsk<'_>| destination.policy.decide(&attributes, ask).is_ok();
    let all = !destination.policy.judges_server() || ServerAsk::ALL.iter().all(may_ask);
    let lists = exchange.asks_for_list() || exchange.listens();
    let screening = match state::Called::of(&exchange) {
        _ if lists => Screening::Lists(id.clone()),
        called if !all => Screening::Server(id.clone(), called),
        Some(called) => Screening::Call(called),
        None => Screening::None,
    };
    let own = holder(cx, destination, target.token.as_deref());
    let stateful = state::open(&cx.shared.sessions, &own, &exchange, &inspected.bytes).map_err(malformed)?;
    let told = stateful.as_ref().unwrap_or(&inspected.bytes);
    let stripped = if all { None } else { stripped(&destination.policy, &attributes, told, &limits) };
    mcp::sanitize(&mut parts.headers, Some(&exchange));
    let pick = pinned(session.as_ref());
    let body = match stripped.or(stateful) {
        Some(body) => http_sse::replace_body(&mut parts.headers, body),
        None => Body::full(inspected.bytes.clone()),
    };
    let asked = Asked::new(cx, parts, target, destination.port, Message::Body(head, inspected));
    Ok(Judged { permit, asked: Some(asked), body, pick, screening, lifecycle: false, session, id })
}

/// The message without the capabilities that its server may not use, if it tells of one.
fn stripped(
    policy: &PolicySet,
    attributes: &Attributes<'_>,
    body: &[u8],
    limits: &agent_protocols::Limits,
) -> Option<Bytes> {
    mcp::strip_capabilities(body, limits, &mut |ask| policy.might_allow(attributes, ask))
}

/// A refusal by policy as the operator wants it to look.
fn worded(
    cx: &StreamContext,
    parts: &Parts,
    exchange: &Exchange<'_>,
    denied: &[Option<DenyReason>],
) -> Reply {
    let request_id =
        parts.headers.get(headers::REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let explain = |index: usize| {
        let reason = denied.get(index)?.as_ref()?;
        let (policy, name) = (reason.decided_by(), reason.name());
        Some(Explanation { policy, reason: name, request_id: request_id.to_owned() })
    };
    let refused: Vec<bool> = denied.iter().map(Option::is_some).collect();
    mcp::refuse_explaining(exchange, &refused, cx.shared.settings.deny_mode, &explain)
}

/// A place for one more stream of the server's own.
fn place(
    cx: &StreamContext,
    destination: &Destination,
    token: Option<&Verified>,
) -> Result<Place<Holder>, Malformed> {
    let most = cx.shared.settings.limits.peer_event_streams;
    let taken = cx.shared.event_streams.take(&holder(cx, destination, token), most);
    taken.ok_or_else(|| Malformed::new("too_many_streams", StatusCode::TOO_MANY_REQUESTS, -32600))
}

/// A session that the request belongs to.
#[derive(Clone)]
pub(crate) struct Entered {
    /// The id as its client knows it.
    pub(crate) shown: HeaderValue,
    pub(crate) session: Session,
}

/// Opens the session that the query names (HTTP+SSE).
fn enter_by_query(
    cx: &StreamContext,
    destination: &Destination,
    parts: &mut Parts,
    target: &Target,
    log: &mut ExchangeLog,
) -> Result<Option<Entered>, Refused> {
    let holder = holder(cx, destination, target.token.as_deref());
    http_sse::enter(&cx.shared.sessions, &holder, parts).map_err(|refusal| match refusal {
        Refusal::SessionNotFound => {
            log.session_refused();
            Refused::worded(refusal, mcp::session_not_found(None))
        }
        other => other.into(),
    })
}

/// Opens the session that the head names and puts the server's own id in its place. Revision 2026-07-28 has no sessions.
fn enter(
    cx: &StreamContext,
    destination: &Destination,
    parts: &mut Parts,
    target: &Target,
    queried: Option<Entered>,
    modern: bool,
) -> Result<Option<Entered>, Refusal> {
    let Some(shown) = parts.headers.get(&SESSION).cloned() else { return Ok(queried) };
    if modern {
        parts.headers.remove(&SESSION);
        return Ok(None);
    }
    let holder = holder(cx, destination, target.token.as_deref());
    let session = cx.shared.sessions.open(holder, &shown).ok_or(Refusal::SessionNotFound)?;
    parts.headers.insert(SESSION, session.upstream_id.clone());
    Ok(Some(Entered { shown, session }))
}

/// Sessions stick to the endpoint that keeps them.
fn pinned(entered: Option<&Entered>) -> Pick {
    Pick { pinned: entered.map(|entered| entered.session.endpoint.clone()), ..Pick::default() }
}

/// Whose sessions these are.
pub(crate) fn holder(cx: &StreamContext, destination: &Destination, token: Option<&Verified>) -> Holder {
    let service = destination.service.key.clone();
    Holder { service, principal: cx.peer.id().cloned(), user: token.map(Verified::user) }
}

/// A body that could not be read. One that is too large is refused in the words of the protocol.
fn unread(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::TooLargeToInspect { .. } => Refused::worded(refusal, mcp::too_large()),
        other => other.into(),
    }
}

fn malformed(malformed: Malformed) -> Refused {
    let reply: Reply = malformed.reply();
    Refused::worded(Refusal::Malformed(malformed), reply)
}

fn denied(log: &mut ExchangeLog, denial: Denial) -> Refusal {
    match log.decided(Err(denial)) {
        Err(refusal) => refusal,
        Ok(_permit) => Refusal::BadRequest("undecided"),
    }
}

/// Kinds by the names that policies and logs use.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Call => "call",
        Kind::List => "list",
        Kind::Lifecycle => "lifecycle",
        Kind::Response => "response",
        Kind::ServerRequest => "server_request",
        Kind::Plain => "plain",
    }
}
