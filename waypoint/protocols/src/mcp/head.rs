//! What the head of an HTTP request says, and what it alone refuses.

use crate::facts::{FactKey, Facts, Given, Kind, Plain, Truth, tell};
use crate::http::{Media, accepts_event_stream, is_coded, media_type, single};
use crate::limits::Limits;
use crate::reply::Malformed;
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(super) const NAME: HeaderName = HeaderName::from_static("mcp-name");
pub(super) const PARAM_PREFIX: &str = "mcp-param-";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Session id, in bytes; a sealed id is under 1 KiB.
const MAX_SESSION: usize = 4096;

/// The head of a request on an MCP port.
#[derive(Clone, Debug)]
pub struct Head {
    kind: HeadKind,
    session: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
    pub(super) method: Option<HeaderValue>,
    pub(super) name: Option<HeaderValue>,
    last_event_id: Option<HeaderValue>,
    origin: Option<HeaderValue>,
}

/// What sort of request a head begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// POST: a body to read.
    Message,
    /// GET that opens a stream (`Accept: text/event-stream`).
    OpenStream,
    /// DELETE with a session.
    EndSession,
    /// GET and DELETE without those marks, and OPTIONS: plain HTTP on this port.
    Plain,
}

impl Head {
    /// Reads the head. What decides is never the path: everything on the port is in scope.
    ///
    /// # Errors
    /// [`Malformed`] for other HTTP methods (405), a body on GET or DELETE, both or doubtful framing headers, a
    /// protocol upgrade, a body that is coded or not JSON (415), and `Mcp-*` headers that stand twice (`-32020`).
    /// A body on GET or DELETE that only HTTP/2 frames announce is the caller's to refuse.
    pub fn read(parts: &Parts, limits: &Limits) -> Result<Self, Malformed> {
        let headers = &parts.headers;
        check_method(&parts.method)?;
        check_override(parts.uri.query())?;
        check_framing(headers)?;
        check_upgrade(headers)?;
        let head = Self {
            kind: kind(&parts.method, headers),
            session: mcp_header(headers, SESSION)?,
            version: mcp_header(headers, VERSION)?,
            method: mcp_header(headers, METHOD)?,
            name: mcp_header(headers, NAME)?,
            last_event_id: mcp_header(headers, LAST_EVENT_ID)?,
            origin: origin(headers)?,
        };
        head.check_session()?;
        check_parameters(headers, limits.parameters)?;
        if head.kind == HeadKind::Message {
            check_content(headers)?
        } else {
            check_bodiless(headers)?
        }
        Ok(head)
    }

    /// What sort of request this is.
    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// The session id as the client sent it; visible ASCII.
    pub fn session(&self) -> Option<&str> {
        text(self.session.as_ref())
    }

    /// The `MCP-Protocol-Version` header.
    pub fn revision(&self) -> Option<&str> {
        text(self.version.as_ref())
    }

    /// The `Last-Event-ID` header: the stream is to be resumed. Never without a session.
    pub fn last_event_id(&self) -> Option<&str> {
        text(self.last_event_id.as_ref())
    }

    /// The `Origin` header: a browser sent the request. Which origins may is the caller's to say.
    pub fn origin(&self) -> Option<&HeaderValue> {
        self.origin.as_ref()
    }

    /// Facts that the head gives. Of a message all but the session is still to be read; a GET or DELETE names
    /// nothing; plain HTTP has none.
    pub fn facts(&self) -> Box<dyn Facts + '_> {
        match self.kind {
            HeadKind::Plain => Box::new(Plain),
            HeadKind::Message | HeadKind::OpenStream | HeadKind::EndSession => Box::new(HeadFacts(self)),
        }
    }

    pub(super) fn session_header(&self) -> Option<&HeaderValue> {
        self.session.as_ref()
    }

    fn check_session(&self) -> Result<(), Malformed> {
        let visible = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_graphic);
        if self.session.as_ref().is_some_and(|s| s.is_empty() || s.len() > MAX_SESSION || !visible(s)) {
            return Err(Malformed::invalid("bad_session"));
        }
        // Without a session, event ids are guessable across callers.
        if self.last_event_id.is_some() && self.session.is_none() && self.kind == HeadKind::OpenStream {
            return Err(Malformed::invalid("resume_without_session"));
        }
        Ok(())
    }
}

struct HeadFacts<'h>(&'h Head);

impl Facts for HeadFacts<'_> {
    fn kind(&self) -> Kind {
        if self.0.kind == HeadKind::Message { Kind::Call } else { Kind::Lifecycle }
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        let is_message = self.0.kind == HeadKind::Message;
        match key {
            FactKey::Session => tell(self.0.session(), test),
            _ if is_message => Truth::NotYet,
            // No A2A is read here: it cannot be told.
            FactKey::A2a(_) => Truth::NotYet,
            FactKey::ProtocolVersion => tell(self.0.revision(), test),
            FactKey::Kind => tell(self.kind().as_str(), test),
            FactKey::Method
            | FactKey::Tool
            | FactKey::Prompt
            | FactKey::Resource
            | FactKey::Task
            | FactKey::Argument(_)
            | FactKey::ToolHint(_)
            | FactKey::ServerRequest
            | FactKey::ServerRequestHost => Truth::No,
        }
    }

    fn arguments(&self) -> Given<'_> {
        if self.0.kind == HeadKind::Message { Given::NotYet } else { Given::Nothing }
    }
}

fn kind(method: &Method, headers: &HeaderMap) -> HeadKind {
    match *method {
        Method::POST => HeadKind::Message,
        Method::GET if accepts_event_stream(headers) => HeadKind::OpenStream,
        Method::DELETE if headers.contains_key(SESSION) => HeadKind::EndSession,
        _ => HeadKind::Plain,
    }
}

pub(crate) fn check_method(method: &Method) -> Result<(), Malformed> {
    match *method {
        Method::GET | Method::POST | Method::DELETE | Method::OPTIONS => Ok(()),
        _ => Err(Malformed::new("http_method", StatusCode::METHOD_NOT_ALLOWED, -32600)),
    }
}

/// Some frameworks take the method from the query; no MCP URL has a use for it.
pub(crate) fn check_override(query: Option<&str>) -> Result<(), Malformed> {
    let mut pairs = query.map(|q| url::form_urlencoded::parse(q.as_bytes())).into_iter().flatten();
    if pairs.any(|(key, _)| key.eq_ignore_ascii_case("_method")) {
        return Err(Malformed::invalid("method_override"));
    }
    Ok(())
}

pub(crate) fn check_framing(headers: &HeaderMap) -> Result<(), Malformed> {
    let length = single(headers, header::CONTENT_LENGTH).map_err(|_| Malformed::invalid("content_length"))?;
    if length.is_some() && headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Malformed::invalid("length_and_transfer_encoding"));
    }
    Ok(())
}

/// `h2c` is an offer that may be ignored (RFC 9110 §7.8), and some clients make it with every request; it is removed
/// before forwarding. Anything else would take the stream out of sight.
pub(crate) fn check_upgrade(headers: &HeaderMap) -> Result<(), Malformed> {
    let harmless = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"h2c");
    if headers.get_all(header::UPGRADE).iter().all(harmless) {
        return Ok(());
    }
    Err(Malformed::new("upgrade", StatusCode::FORBIDDEN, -32600))
}

fn check_parameters(headers: &HeaderMap, most: usize) -> Result<(), Malformed> {
    if headers.keys().filter(|name| name.as_str().starts_with(PARAM_PREFIX)).count() > most {
        return Err(Malformed::new(
            "too_many_parameters",
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            -32600,
        ));
    }
    Ok(())
}

fn check_content(headers: &HeaderMap) -> Result<(), Malformed> {
    if is_coded(headers) {
        return Err(Malformed::media("content_encoding"));
    }
    let line =
        single(headers, header::CONTENT_TYPE).map_err(|_| Malformed::invalid("repeated_content_type"))?;
    let Some(line) = line else { return Err(Malformed::media("content_type")) };
    if line.as_bytes().contains(&b',') {
        return Err(Malformed::invalid("repeated_content_type"));
    }
    match media_type(line) {
        Some((Media::Json, None)) => Ok(()),
        Some((Media::Json, Some(charset))) if charset.eq_ignore_ascii_case("utf-8") => Ok(()),
        Some((Media::Json, Some(_))) => Err(Malformed::media("charset")),
        _ => Err(Malformed::media("content_type")),
    }
}

pub(crate) fn check_bodiless(headers: &HeaderMap) -> Result<(), Malformed> {
    let length = headers.get(header::CONTENT_LENGTH);
    if length.is_some_and(|length| length != "0") || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(Malformed::invalid("body_not_allowed"));
    }
    Ok(())
}

fn origin(headers: &HeaderMap) -> Result<Option<HeaderValue>, Malformed> {
    let refused = |_| Malformed::new("repeated_origin", StatusCode::FORBIDDEN, -32600);
    Ok(single(headers, header::ORIGIN).map_err(refused)?.cloned())
}

/// A header of MCP: once, in ASCII.
fn mcp_header(headers: &HeaderMap, name: HeaderName) -> Result<Option<HeaderValue>, Malformed> {
    let value = single(headers, name).map_err(|_| Malformed::header("repeated_header"))?;
    if value.is_some_and(|value| value.to_str().is_err()) {
        return Err(Malformed::header("bad_header_value"));
    }
    Ok(value.cloned())
}

pub(super) fn text(value: Option<&HeaderValue>) -> Option<&str> {
    value.and_then(|value| value.to_str().ok())
}
