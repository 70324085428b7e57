//! What an agent answers, read on its way down: whose tasks it tells of, and where its card leads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use agent_protocols::a2a::{self, Binding, GrpcScreen, Handle, Operation, Owner, SseScreen};
use agent_protocols::mcp::{Screened, Unscreenable};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame};

use super::a2a::Agent;
use super::answer::is_event_stream;
use super::asked::Asked;
use super::exchange::ExchangeLog;
use super::passing::Passing;
use super::request::Refused;
use super::screen::{is_identity, read, rewritten};
use crate::body::{Body, BodyError};
use crate::context::StreamContext;
use crate::sessions::Holder;

/// Reads an answer as its operation demands.
///
/// # Errors
/// [`crate::refusal::Refusal::Unscreenable`] in the words of the binding: it is never passed unread.
pub(super) async fn apply(
    response: Response<Body>,
    agent: &Agent,
    asked: &Asked,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, Refused> {
    let withheld = |name| agent.unscreenable(name);
    if response.status().is_redirection() {
        return Err(withheld("redirect")); // Its client would follow it past the policies.
    }
    if is_empty(&response) || !response.status().is_success() {
        return Ok(response);
    }
    let grpc = agent.binding == Binding::Grpc;
    if !is_identity(response.headers()) || (grpc && is_grpc_coded(response.headers())) {
        return Err(withheld("content_encoding"));
    }
    if grpc {
        let limits = asked.cx().shared.settings.limits.protocol();
        let screen = Screen::Grpc(GrpcScreen::new(agent.operation, &limits));
        return Ok(stream(response, screen, agent, asked, log));
    }
    if is_event_stream(&response) {
        let limits = asked.cx().shared.settings.limits.protocol();
        let screen = Screen::Sse(SseScreen::new(agent.operation, agent.binding, limits));
        return Ok(stream(response, screen, agent, asked, log));
    }
    if !is_json(response.headers()) {
        return Err(withheld("content_type"));
    }
    json(response, agent, asked, log).await.map_err(withheld)
}

fn is_empty(response: &Response<Body>) -> bool {
    response.body().is_end_stream()
}

fn is_grpc_coded(headers: &HeaderMap) -> bool {
    headers.get("grpc-encoding").is_some_and(|coding| coding != "identity")
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()?.split(';').next());
    let is = |essence: &str| ["application/json", "application/a2a+json"].contains(&essence);
    essence.is_some_and(|essence| is(&essence.trim().to_ascii_lowercase()))
}

async fn json(
    response: Response<Body>,
    agent: &Agent,
    asked: &Asked,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, &'static str> {
    let limits = &asked.cx().shared.settings.limits;
    let (mut parts, body) = response.into_parts();
    let (bytes, None) = read(body, limits.screened_list).await? else { return Err("list_too_large") };
    if matches!(agent.operation, Operation::GetAgentCard | Operation::GetExtendedAgentCard) {
        look_at_card(&bytes, asked, log);
        return Ok(Response::from_parts(parts, Body::full(bytes)));
    }
    let (mut owner, mut counts) = (Claims::new(agent, asked), Screened::default());
    let limits = limits.protocol();
    let changed = a2a::screen_json(&bytes, agent.operation, agent.binding, &limits, &mut owner, &mut counts);
    let changed = changed.map_err(|Unscreenable { name }| name)?;
    log.passing().screened(counts);
    if changed.is_some() {
        rewritten(&mut parts.headers);
    }
    Ok(Response::from_parts(parts, Body::full(changed.unwrap_or(bytes))))
}

/// A card is never changed: it may be signed. Where it leads past this waypoint, that is told.
fn look_at_card(card: &[u8], asked: &Asked, log: &mut ExchangeLog) {
    let Some(destination) = asked.destination() else { return };
    let service = &destination.service;
    let (host, aliases) = (&*service.key.hostname, &service.aliases);
    let short = |name: &str| host.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    let is_here = |name: &str| {
        let name = name.strip_suffix('.').unwrap_or(name);
        name == host || aliases.iter().any(|alias| alias == name) || short(name)
    };
    let limits = asked.cx().shared.settings.limits.protocol();
    let elsewhere = a2a::elsewhere(card, &limits, &is_here);
    if !elsewhere.is_empty() {
        asked.cx().shared.telemetry.refused("card_elsewhere");
        log.card_elsewhere(elsewhere);
    }
}

fn stream(
    response: Response<Body>,
    screen: Screen,
    agent: &Agent,
    asked: &Asked,
    log: &ExchangeLog,
) -> Response<Body> {
    let cx = Arc::clone(asked.cx());
    let (holder, told) = (agent.holder.clone(), log.passing());
    response.map(|body| Body::Stream(Box::pin(AgentStream { body, screen, cx, holder, told, ended: false })))
}

/// What belongs to whom, by the table of this process.
struct Claims<'a> {
    cx: &'a StreamContext,
    holder: &'a Holder,
}

impl<'a> Claims<'a> {
    fn new(agent: &'a Agent, asked: &'a Asked) -> Self {
        Self { cx: asked.cx(), holder: &agent.holder }
    }
}

impl Owner for Claims<'_> {
    fn claim(&mut self, handle: Handle, id: &str) -> bool {
        self.cx.shared.handles.claim(self.holder, handle, id)
    }

    fn owns(&mut self, task: &str) -> bool {
        let handles = &self.cx.shared.handles;
        match self.cx.shared.settings.adopt_tasks {
            true => handles.claim(self.holder, Handle::Task, task),
            false => handles.owns(self.holder, Handle::Task, task),
        }
    }
}

enum Screen {
    Sse(SseScreen),
    Grpc(GrpcScreen),
}

/// A stream of answers, read message by message.
struct AgentStream {
    body: Body,
    screen: Screen,
    cx: Arc<StreamContext>,
    holder: Holder,
    told: Arc<Passing>,
    ended: bool,
}

impl AgentStream {
    fn filter(&mut self, chunk: &[u8]) -> Result<Bytes, Unscreenable> {
        let mut owner = Claims { cx: &self.cx, holder: &self.holder };
        let mut counts = Screened::default();
        let out = match &mut self.screen {
            Screen::Sse(screen) => screen.push(chunk, &mut owner, &mut counts),
            Screen::Grpc(screen) => screen.push(chunk, &mut owner, &mut counts),
        };
        self.told.screened(counts);
        out.inspect_err(|why| {
            self.cx.shared.telemetry.refused(why.name);
            if why.name == "event_too_large" {
                self.cx.shared.telemetry.limit_hit("sse_event");
            }
        })
    }

    /// A message that is left half read is never passed, so its end is not one.
    fn is_torn(&self) -> bool {
        matches!(&self.screen, Screen::Grpc(screen) if screen.is_torn())
    }

    fn break_off(&mut self, why: Unscreenable) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.ended = true;
        self.body = Body::Empty; // Lets go of the upstream at once.
        Poll::Ready(Some(Err(why.into())))
    }
}

impl HttpBody for AgentStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        while !this.ended {
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)) else { break };
            let data = match frame?.into_data() {
                Ok(data) => data,
                Err(_trailers) if this.is_torn() => {
                    return this.break_off(Unscreenable { name: "grpc_frame" });
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            };
            match this.filter(&data) {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out)))),
                Err(why) => return this.break_off(why),
            }
        }
        if !std::mem::replace(&mut this.ended, true) && this.is_torn() {
            return this.break_off(Unscreenable { name: "grpc_frame" });
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
