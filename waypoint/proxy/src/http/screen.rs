//! Lists show what may be called: answers filtered on their way down. Courtesy only; the call itself is judged again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use agent_protocols::mcp::{
    self as protocol, Entry, Judge, ListChanges, Screened, ServerAsk, SseScreen, Unscreenable, Withheld,
};
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;

use super::agent_screen;
use super::answer::{is_event_stream, is_json};
use super::answering::Answering;
use super::asked::Asked;
use super::exchange::ExchangeLog;
use super::http_sse::{self, Home};
use super::list_changed::Changes;
use super::passing::Passing;
use super::request::{Refused, Screening};
use super::state::{self, Called};
use crate::body::{Body, BodyError};
use crate::refusal::Refusal;

/// An answer that will be filtered must come uncoded.
pub(crate) fn ask_for_identity(headers: &mut HeaderMap) {
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Filters an answer as it was decided to be.
///
/// # Errors
/// [`Refusal::Unscreenable`] for an answer that should be filtered and cannot be: it is never passed unfiltered.
pub(crate) async fn apply(
    response: Response<Body>,
    screening: &Screening,
    asked: Option<&Asked>,
    home: Option<Home>,
    answering: Option<Answering>,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, Refused> {
    let Some(asked) = asked.filter(|_| *screening != Screening::None) else { return Ok(response) };
    let id = match screening {
        Screening::Agent(agent) => return agent_screen::apply(response, agent, asked, log).await,
        Screening::Lists(id) | Screening::Server(id, _) => id.as_deref(),
        Screening::None | Screening::Stream | Screening::Call(_) => None,
    };

    let lists = (*screening == Screening::Stream).then(ListChanges::all);
    let called = match screening {
        Screening::Call(called) => Some(called.clone()),
        Screening::Server(_, called) => called.clone(),
        Screening::None | Screening::Lists(_) | Screening::Stream | Screening::Agent(_) => None,
    };
    let lenient = matches!(screening, Screening::Call(_));
    let told = Told { home, called, lists, lenient, answering };
    let screened = match lenient {
        true => call(response, asked, told, log).await,
        false => screen(response, asked, told, log).await,
    };
    screened.map_err(|name| Refused::worded(Refusal::Unscreenable(name), protocol::unscreenable(id)))
}

/// What an answer tells of beside lists.
struct Told {
    /// `None`: no handle is sealed or opened.
    home: Option<Home>,
    /// What a state is given for; `None`: none is.
    called: Option<Called>,
    /// The lists whose changes are told.
    lists: Option<ListChanges>,
    /// Only a state is looked for, and what cannot be read passes as it is.
    lenient: bool,
    /// `None`: no policy refuses a server anything, or its clients answer nothing.
    answering: Option<Answering>,
}

async fn screen(
    response: Response<Body>,
    asked: &Asked,
    told: Told,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, &'static str> {
    if !is_identity(response.headers()) {
        return Err("content_encoding");
    }
    if is_event_stream(&response) {
        return Ok(stream(response, asked, told, log));
    }
    if is_json(&response) {
        return list(response, asked, &told, log).await;
    }
    if response.status() == StatusCode::ACCEPTED {
        return Ok(acknowledged(response)); // Some servers say so in words.
    }
    // Without content there is nothing to hide: 202 and 204, and errors that are no JSON.
    let empty = response.body().is_end_stream();
    if empty || !response.status().is_success() { Ok(response) } else { Err("content_type") }
}

/// Seals a state that the server gives. Nothing else hangs on it, so what cannot be read passes as it is.
async fn call(
    response: Response<Body>,
    asked: &Asked,
    told: Told,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, &'static str> {
    if !is_identity(response.headers()) {
        return Ok(response);
    }
    if is_event_stream(&response) {
        return Ok(stream(response, asked, told, log));
    }
    if !is_json(&response) {
        return Ok(response);
    }
    let limits = &asked.cx().shared.settings.limits;
    let (mut parts, body) = response.into_parts();
    let (bytes, rest) = read(body, limits.screened_list).await?;
    if let Some(rest) = rest {
        let whole = Rejoined { read: Some(bytes), rest };
        return Ok(Response::from_parts(parts, Body::Stream(Box::pin(whole))));
    }
    let (mut sieve, mut counts) = (Sieve::new(asked, &told), Screened::default());
    let changed = protocol::screen_json(&bytes, &limits.protocol(), &mut sieve, &mut counts).ok().flatten();
    if changed.is_some() {
        rewritten(&mut parts.headers);
    }
    Ok(Response::from_parts(parts, Body::full(changed.unwrap_or(bytes))))
}

/// What was read of a body, and what follows it.
struct Rejoined {
    read: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Rejoined {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.read.take() {
            Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }
}

/// What is acknowledged only has nothing to tell.
fn acknowledged(response: Response<Body>) -> Response<Body> {
    let (mut parts, _words) = response.into_parts();
    rewritten(&mut parts.headers);
    parts.headers.remove(CONTENT_TYPE);
    Response::from_parts(parts, Body::Empty)
}

pub(super) fn is_identity(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

async fn list(
    response: Response<Body>,
    asked: &Asked,
    told: &Told,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, &'static str> {
    let limits = &asked.cx().shared.settings.limits;
    let (mut parts, body) = response.into_parts();
    let (bytes, None) = read(body, limits.screened_list).await? else { return Err("list_too_large") };
    let (mut sieve, mut counts) = (Sieve::new(asked, told), Screened::default());
    let changed = protocol::screen_json(&bytes, &limits.protocol(), &mut sieve, &mut counts);
    sieve.settle();
    let changed = changed.map_err(|Unscreenable { name }| name)?;
    log.passing().screened(counts);
    log.listed(&sieve.names);
    if changed.is_some() {
        rewritten(&mut parts.headers);
    }
    Ok(Response::from_parts(parts, Body::full(changed.unwrap_or(bytes))))
}

/// The body is not the one that these spoke of.
pub(super) fn rewritten(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.remove(ETAG);
    headers.remove("content-digest");
    headers.remove("repr-digest");
}

/// Reads a body to its end, or until more than `limit` bytes have come; then also what is left of it.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<(Bytes, Option<Body>), &'static str> {
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_broken| "upstream_broke_off")?.into_data() else { continue };
        joined.extend_from_slice(&data);
        if joined.len() > limit {
            return Ok((joined.freeze(), Some(body)));
        }
    }
    Ok((joined.freeze(), None))
}

fn stream(response: Response<Body>, asked: &Asked, told: Told, log: &ExchangeLog) -> Response<Body> {
    let limits = asked.cx().shared.settings.limits.protocol();
    let (mut parts, body) = response.into_parts();
    rewritten(&mut parts.headers);
    let screened = ScreenedStream {
        body,
        screen: if told.lenient { SseScreen::lenient(limits) } else { SseScreen::new(limits) },
        asked: asked.clone(),
        changes: told.lists.as_ref().map(|lists| Changes::new(asked, lists)),
        told,
        passing: log.passing(),
        ended: false,
    };
    Response::from_parts(parts, Body::Stream(Box::pin(screened)))
}

/// Judges entries by the newest snapshot, and remembers what the server really lists.
struct Sieve<'a> {
    asked: &'a Asked,
    told: &'a Told,
    acknowledged: Option<ListChanges>,
    names: Vec<String>,
    withheld: Vec<Withheld>,
}

impl<'a> Sieve<'a> {
    fn new(asked: &'a Asked, told: &'a Told) -> Self {
        Self { asked, told, acknowledged: None, names: Vec::new(), withheld: Vec::new() }
    }

    /// Counts what the server sent and its client does not get, and answers what it asked for.
    fn settle(&mut self) {
        for message in std::mem::take(&mut self.withheld) {
            self.asked.cx().shared.telemetry.refused(message.name);
            if let (Some(answering), Some(id)) = (&self.told.answering, &message.id) {
                answering.refuse(self.asked, id);
            }
        }
    }
}

impl Judge for Sieve<'_> {
    fn keep(&mut self, entry: &Entry<'_>) -> bool {
        self.names.push(entry.name.clone().into_owned());
        self.asked.may_see(entry)
    }

    fn endpoint(&mut self, uri: &str) -> Result<String, Unscreenable> {
        let home = self.told.home.as_ref().ok_or(Unscreenable { name: "endpoint_event" })?;
        http_sse::seal_endpoint(&self.asked.cx().shared.sessions, home, self.asked.authority(), uri)
    }

    fn acknowledged(&mut self, lists: ListChanges) {
        self.acknowledged = Some(lists);
    }

    fn state(&mut self, state: &str) -> Option<String> {
        let Told { home: Some(home), called: Some(called), .. } = self.told else { return None };
        state::seal(&self.asked.cx().shared.sessions, home, called, state)
    }

    fn refusal(&mut self, sealed: &str) -> Option<String> {
        http_sse::open_refusal(&self.asked.cx().shared.sessions, &self.told.home.as_ref()?.holder, sealed)
    }

    fn judges_server(&self) -> bool {
        !self.told.lenient
    }

    fn may_ask(&mut self, ask: &ServerAsk<'_>) -> bool {
        self.asked.server_may(ask)
    }

    fn withheld(&mut self, message: Withheld) {
        self.withheld.push(message);
    }
}

/// An event stream, filtered event by event.
struct ScreenedStream {
    body: Body,
    screen: SseScreen,
    asked: Asked,
    told: Told,
    /// `None`: it does not tell of changed lists, or not yet.
    changes: Option<Changes>,
    passing: Arc<Passing>,
    ended: bool,
}

impl ScreenedStream {
    fn count(&self, why: &Unscreenable) {
        let telemetry = &self.asked.cx().shared.telemetry;
        telemetry.refused(why.name);
        if why.name == "event_too_large" {
            telemetry.limit_hit("sse_event");
        }
    }

    fn filter(&mut self, chunk: &[u8]) -> Result<Bytes, Unscreenable> {
        let (mut sieve, mut counts) = (Sieve::new(&self.asked, &self.told), Screened::default());
        let out = self.screen.push(chunk, &mut sieve, &mut counts);
        sieve.settle();
        let out = out?;
        let acknowledged = sieve.acknowledged.take();
        let (telemetry, names) = (&self.asked.cx().shared.telemetry, std::mem::take(&mut sieve.names));
        if let Some(destination) = self.asked.destination().filter(|_| !names.is_empty()) {
            telemetry.listed(&destination.service, &names);
        }
        self.passing.screened(counts);
        if let Some(lists) = acknowledged {
            self.changes = Some(Changes::new(&self.asked, &lists));
        }
        Ok(out)
    }
}

impl HttpBody for ScreenedStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        while !this.ended {
            // What is sent on ends with an event, or stands between two.
            if let Some(Poll::Ready(told)) =
                this.changes.as_mut().map(|changes| changes.poll(&this.asked, cx))
            {
                return Poll::Ready(Some(Ok(Frame::data(told))));
            }
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { break };
            let Ok(data) = frame?.into_data() else { continue };
            match this.filter(&data) {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                Err(unscreenable) => {
                    this.count(&unscreenable);
                    this.ended = true;
                    this.body = Body::Empty;
                    return Poll::Ready(Some(Err(unscreenable.into())));
                }
            }
        }
        this.ended = true;
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
