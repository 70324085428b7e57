//! The session of HTTP+SSE (2024-11-05): in the query of the URI that the server names for the client's messages. It is sealed
//! there for whoever opened the stream, and a refusal is told on that stream: clients of this transport read no other answer.

use std::ops::Range;

use agent_protocols::mcp::{self as protocol, Exchange, Head, Unscreenable};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use waypoint_model::WorkloadUid;
use waypoint_policy::{Attributes, Permit};

use super::mcp::{self, Entered, SESSION};
use crate::body::Body;
use crate::context::StreamContext;
use crate::refusal::Refusal;
use crate::sessions::{Holder, Purpose, Session, Sessions};
use crate::snapshot::Destination;

/// Longest refusal that is sealed into an id, in bytes. What an SDK asks for and is told fits many times.
const MAX_REFUSAL: usize = 4 << 10;

/// Whose stream it is, at which endpoint: what is sealed on it is theirs.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) holder: Holder,
    pub(crate) endpoint: WorkloadUid,
}

/// Opens the session that the query names, and puts the server's own in its place.
///
/// # Errors
/// [`Refusal::SessionNotFound`] for one that is not this holder's, [`Refusal::BadRequest`] where two are named.
pub(crate) fn enter(
    sessions: &Sessions,
    holder: &Holder,
    parts: &mut Parts,
) -> Result<Option<Entered>, Refusal> {
    let query = parts.uri.query().unwrap_or_default();
    let found = protocol::session_in_query(query);
    let place = found.map_err(|protocol::TwoSessions| Refusal::BadRequest("two_sessions"))?;
    let Some(place) = place else { return Ok(None) };
    if parts.headers.contains_key(&SESSION) {
        return Err(Refusal::BadRequest("two_sessions"));
    }
    let shown = query.get(place.clone()).unwrap_or_default();
    let opened = sessions.unseal(Purpose::Session, holder, shown).ok_or(Refusal::SessionNotFound)?;
    let entered = Entered {
        shown: HeaderValue::try_from(shown).map_err(|_invalid| Refusal::SessionNotFound)?,
        session: Session {
            upstream_id: HeaderValue::try_from(&opened.id).map_err(|_invalid| Refusal::SessionNotFound)?,
            endpoint: opened.endpoint,
        },
    };
    parts.uri = renamed(&parts.uri, place, &opened.id).ok_or(Refusal::SessionNotFound)?;
    Ok(Some(entered))
}

/// The URI with another session in its query.
fn renamed(uri: &Uri, place: Range<usize>, id: &str) -> Option<Uri> {
    let query = protocol::replaced(uri.query()?, place, id);
    Some(Uri::from(format!("{}?{query}", uri.path()).parse::<PathAndQuery>().ok()?))
}

/// The URI of an `endpoint` event, with its session sealed.
///
/// # Errors
/// [`Unscreenable`] for a URI that leads elsewhere or names no session.
pub(crate) fn seal_endpoint(
    sessions: &Sessions,
    home: &Home,
    authority: &str,
    uri: &str,
) -> Result<String, Unscreenable> {
    let place = protocol::endpoint_session(uri, authority)?;
    let id = uri.get(place.clone()).unwrap_or_default();
    let sealed = sessions.seal(Purpose::Session, &home.holder, id, &home.endpoint);
    let sealed = sealed.ok_or(Unscreenable { name: "endpoint_uri" })?;
    Ok(protocol::replaced(uri, place, &sealed))
}

/// The refusal that was sealed for a stream of this holder.
pub(crate) fn open_refusal(sessions: &Sessions, holder: &Holder, sealed: &str) -> Option<String> {
    sessions.unseal(Purpose::Refusal, holder, sealed).map(|opened| opened.id)
}

/// What goes to the server instead of a refused message, so that its stream tells the refusal, whichever replica holds that.
/// `None`: not even a `ping` is permitted, or the refusal is too long; then it is told here.
pub(crate) fn carry(
    cx: &StreamContext,
    destination: &Destination,
    head: &Head,
    attributes: &Attributes<'_>,
    home: &Home,
    told: &str,
) -> Option<(Permit, String)> {
    if told.len() > MAX_REFUSAL {
        return None;
    }
    let sealed = cx.shared.sessions.seal(Purpose::Refusal, &home.holder, told, &home.endpoint)?;
    let carrier = protocol::carrier(&sealed);
    let limits = cx.shared.settings.limits.protocol();
    let exchange = Exchange::read(head, carrier.as_bytes(), &limits).ok()?;
    let permit = mcp::judge(&destination.policy, attributes, &exchange).outcome.ok()?;
    drop(exchange);
    Some((permit, carrier))
}

/// The body is not the one that these spoke of.
pub(crate) fn replace_body(headers: &mut HeaderMap, body: impl Into<Bytes>) -> Body {
    let body = body.into();
    for name in ["content-digest", "repr-digest", "digest"] {
        headers.remove(name);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Body::full(body)
}
