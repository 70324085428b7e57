//! One request, top to bottom.

use std::sync::Arc;

use agent_protocols::{Plain, Reply};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use waypoint_model::Protocol;
use waypoint_policy::{Permit, Reads};

use super::a2a::{self, Agent};
use super::affinity::{self, Affinity};
use super::answering::Answering;
use super::asked::{self, Asked, Message};
use super::cors::{self, Crossing};
use super::exchange::ExchangeLog;
use super::headers::{self, Target};
use super::http_sse::Home;
use super::lasting::RequestRead;
use super::mcp::{self, Entered};
use super::state::Called;
use super::{answer, fault, limit, mirror, screen, upgrade, watched};
use crate::body::Body;
use crate::context::StreamContext;
use crate::refusal::Refusal;
use crate::routing::rewrite;
use crate::routing::table::{self, Forward, Selected};
use crate::snapshot::Destination;
use crate::upstream::{Pick, Version};

/// A request that may be sent, and what its answer needs.
pub(crate) struct Judged {
    pub(crate) permit: Permit,
    /// Kept to judge a long answer again; `None` where no policy is attached.
    pub(crate) asked: Option<Asked>,
    pub(crate) body: Body,
    pub(crate) pick: Pick,
    pub(crate) screening: Screening,
    /// An MCP GET that was permitted because it opens a stream, and whose answer must be one.
    pub(crate) lifecycle: bool,
    pub(crate) session: Option<Entered>,
    /// The JSON-RPC id that an error in the server's place carries, as JSON text.
    pub(crate) id: Option<String>,
}

/// Which part of an answer is filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Screening {
    /// Nothing.
    None,
    /// A list was asked for (with this JSON-RPC id): whatever comes back is filtered or withheld.
    Lists(Option<String>),
    /// An answer in which the server may give its client a state. What cannot be read in it passes as it is: a state that was not
    /// sealed does not come back.
    Call(Called),
    /// A call (with this JSON-RPC id, and what a state is given for) in whose answer the server may not ask for everything that it might: what it may not is
    /// taken out, or the answer is withheld.
    Server(Option<String>, Option<Called>),
    /// A stream of the server's own: list results on it are filtered by their shape.
    Stream,
    /// An agent was asked over A2A: what it tells of is the peer's, or withheld.
    Agent(Box<Agent>),
}

/// A refusal, in the protocol's own words where it has some.
pub(crate) struct Refused {
    pub(crate) refusal: Box<Refusal>,
    pub(crate) reply: Option<Box<Reply>>,
    /// What lets a browser show it to a page of another origin.
    pub(crate) crossing: Option<Box<HeaderMap>>,
}

impl Refused {
    pub(crate) fn worded(refusal: Refusal, reply: Reply) -> Self {
        Self { refusal: Box::new(refusal), reply: Some(Box::new(reply)), crossing: None }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal: Box::new(refusal), reply: None, crossing: None }
    }
}

/// Answers one request: with what its destination says, or with a refusal. Every request is recorded once.
///
/// `ambiguous`: its connection sent a head with two lengths. It is answered with 400 and closed (RFC 9112 §6.1).
pub(crate) async fn handle(
    cx: &Arc<StreamContext>,
    mut request: Request<Incoming>,
    ambiguous: bool,
) -> Response<Body> {
    if request.method() == http::Method::CONNECT {
        upgrade::finish(cx, hyper::upgrade::on(&mut request));
    }
    let is_head = request.method() == http::Method::HEAD;
    let mut log = ExchangeLog::begin(cx, &request);
    if ambiguous {
        let refused = Refused::from(Refusal::BadRequest("two_lengths"));
        let mut answer = answer::refusal(&refused, false);
        answer.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        return log.refused(&refused.refusal, answer);
    }
    let limit = cx.shared.settings.limits.header_list;
    let answered = match headers::is_too_large(&request, limit) {
        true => Err(Refused::from(Refusal::HeadTooLarge)),
        false => forward(cx, request, &mut log).await,
    };
    match answered {
        Ok(response) => log.answered(response),
        Err(refused) => {
            let mut answer = answer::refusal(&refused, log.is_grpc());
            if is_head {
                *answer.body_mut() = Body::Empty; // hyper would send it on HTTP/2, and clients break off there.
            }
            log.refused(&refused.refusal, answer)
        }
    }
}

async fn forward(
    cx: &Arc<StreamContext>,
    request: Request<Incoming>,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, Refused> {
    let snapshot = cx.shared.config.load().ok_or_else(|| Refusal::UnknownDestination(cx.target.clone()))?;
    let destination = &snapshot.destination(&cx.target)?;
    log.destined(&snapshot, destination, request.headers());
    destination.served()?;
    let (mut parts, body) = request.into_parts();
    let upgrading = parts.extensions.remove::<OnUpgrade>();
    let mut target = clean(cx, destination, &mut parts, log)?;
    authenticate(destination, &mut parts, &mut target).await?;
    let mut judged = match destination.reads() {
        Reads::Mcp => mcp::authorize(cx, destination, &mut parts, &target, body, log).await?,
        Reads::A2a => a2a::authorize(cx, destination, &mut parts, &target, body, log).await?,
        Reads::Http | Reads::Opaque => plain(cx, destination, &parts, &target, body, log)?,
    };
    limit::ask(cx, judged.asked.as_ref(), log).await?;
    let (query, pinned) = (target.query.as_deref(), judged.pick.pinned.as_ref());
    let selected = destination.routes.select(&target.authority, &target.path, query, &parts, pinned);
    let selected = selected.ok_or(Refusal::NoRoute)?;
    log.routed(&selected);
    let policy = selected.policy().map_err(Refusal::BrokenRoute)?;
    // In istiod's order of filters: tokens and policies (above), then faults, then cross-origin requests, then the route.
    if let Some(answer) = fault::meet(&policy.fault, log).await {
        return Ok(answer::without_body_for(&parts.method, answer));
    }
    let crossing = match cors::cross(policy.cors.as_ref(), &parts) {
        Crossing::Pass(headers) => headers,
        Crossing::Answer(answer) => {
            log.answers("cors_response");
            return Ok(answer);
        }
    };
    let answered = match &selected {
        Selected::Answer(own) => {
            log.answers("direct_response");
            let facts = log.facts(cx, parts.version);
            answer::by_route(own, &target, &parts, &facts, log.is_grpc()).map_err(Refused::from)
        }
        Selected::Forward(route) => {
            let affinity = prepare(cx, destination, route, &parts, &target, &mut judged)?;
            let sent = send(cx, destination, parts, upgrading, judged, route, log).await;
            sent.map(|mut response| {
                affinity.mark(response.headers_mut());
                response
            })
        }
        Selected::Broken { why, .. } => Err(Refusal::BrokenRoute(Arc::clone(why)).into()),
    };
    match answered {
        Ok(mut response) => {
            cors::mark(response.headers_mut(), crossing);
            Ok(response)
        }
        Err(refused) => Err(Refused { crossing: Some(Box::new(crossing)), ..refused }),
    }
}

/// What the route says of how a request is sent: which endpoint, how often, and to whom copies go.
fn prepare(
    cx: &StreamContext,
    destination: &Destination,
    route: &Forward,
    parts: &Parts,
    target: &Target,
    judged: &mut Judged,
) -> Result<Affinity, Refused> {
    let policy = &route.policy;
    if policy.no_upgrade && headers::is_websocket(&parts.headers) {
        return Err(Refusal::BadRequest("upgrade").into());
    }
    let agent = mirror::is_agent_call(destination.reads(), parts);
    if agent && !policy.mirrors.is_empty() {
        return Err(Refusal::BrokenRoute("a mirror would run an agent's calls twice".into()).into());
    }
    // An agent's call goes out again only where nothing was processed, whatever the route says: a tool must not run twice.
    judged.pick.retries = policy.retries.clone().filter(|_| !agent);
    let affinity = affinity::of(&policy.hash, parts, target, cx.peer.address.ip());
    judged.pick.hash = affinity.hash;
    Ok(affinity)
}

/// Makes the head unambiguous, and takes out what only we may say.
fn clean(
    cx: &StreamContext,
    destination: &Destination,
    parts: &mut Parts,
    log: &mut ExchangeLog,
) -> Result<Target, Refusal> {
    let target = headers::prepare(parts, destination.path_normalization).map_err(Refusal::BadRequest)?;
    headers::identify(&mut parts.headers, &cx.peer, destination.tells_identity(cx.shared.settings.xfcc));
    let id = headers::request_id(&mut parts.headers);
    log.named(&target, id, &parts.headers);
    Ok(target)
}

/// Verifies the request's token, if it bears one, before any policy is asked.
async fn authenticate(
    destination: &Destination,
    parts: &mut Parts,
    target: &mut Target,
) -> Result<(), Refusal> {
    let whole = parts.uri.clone();
    let verified = destination.jwt.authenticate(parts).await;
    target.token = verified.map_err(|why| Refusal::Token { why, realm: headers::realm(target, &whole) })?;
    target.query = parts.uri.query().map(str::to_owned);
    Ok(())
}

/// Plain HTTP: the head decides, the body streams through.
fn plain(
    cx: &Arc<StreamContext>,
    destination: &Arc<Destination>,
    parts: &Parts,
    target: &Target,
    body: Incoming,
    log: &mut ExchangeLog,
) -> Result<Judged, Refused> {
    let attributes = asked::attributes(cx, parts, target, destination.port);
    let permit = log.decided(destination.policy.decide(&attributes, &Plain))?;
    limit::take(cx, destination, &attributes, &[(0, &Plain)], log)
        .map_err(|limited| limit::refused(limited, None))?;
    let watched = !destination.policy.is_empty();
    let asked = watched.then(|| Asked::new(cx, parts, target, destination.port, Message::Plain));
    let body = if cx.shared.settings.observe { log.observed(body) } else { log.counted(body) };
    let (pick, screening) = (Pick::default(), Screening::None);
    Ok(Judged { permit, asked, body, pick, screening, lifecycle: false, session: None, id: None })
}

async fn send(
    cx: &Arc<StreamContext>,
    destination: &Arc<Destination>,
    mut parts: Parts,
    upgrading: Option<OnUpgrade>,
    judged: Judged,
    route: &Forward,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, Refused> {
    let version = upstream_version(destination.protocol, parts.version);
    let ends_session = parts.method == http::Method::DELETE;
    let spoken = route.cluster.version(version, parts.version);
    let asks_upgrade = headers::is_websocket(&parts.headers) && spoken == Version::Http1;
    if judged.screening != Screening::None {
        screen::ask_for_identity(&mut parts.headers);
    }
    log.propagate(&mut parts.headers);
    headers::authority_for_upstream(&mut parts, log.authority()).map_err(Refusal::BadRequest)?;
    let facts = log.facts(cx, parts.version);
    let broken = |_invalid| Refusal::BrokenRoute(Arc::clone(&route.name));
    route.apply(&mut parts, &facts).map_err(broken)?;
    let changes = table::settle(&route.response_headers, &facts, &parts.headers).map_err(broken)?;
    let answers = judged.screening != Screening::None && destination.policy.judges_server();
    let answering = answers.then(|| Answering::of(&parts, &route.cluster, &judged.pick, version)).flatten();
    let mut request = Request::from_parts(parts, judged.body);
    if !asks_upgrade {
        let mirrors = &route.policy.mirrors;
        request = mirror::shadow(cx, &judged.permit, mirrors, version, route.timeout, request);
    }
    let (upstreams, mut chosen) = (&cx.shared.upstreams, None);
    log.sending();
    let pick = Pick { backend_timeout: route.backend_timeout, ..judged.pick };
    let sent = upstreams
        .send(&judged.permit, &route.cluster, &pick, version, route.timeout, request, &mut chosen)
        .await;
    log.upstream(chosen.as_ref(), sent.as_ref().ok().map(Response::status));
    let mut response = sent.map_err(|error| answer::upstream(error, judged.session.is_some()))?;
    answer::clean(&mut response);
    let mut home = None;
    if destination.reads() == Reads::Mcp {
        home = judged.asked.as_ref().zip(chosen.as_ref()).map(|(asked, chosen)| Home {
            holder: asked.holder(destination),
            endpoint: chosen.workload.uid.clone(),
        });
        let ended = judged.session.as_ref().filter(|_| ends_session && response.status().is_success());
        if let (Some(entered), Some(home)) = (ended, &home) {
            cx.shared.sessions.forget(home.holder.clone(), &entered.shown);
        }
        answer::bind_session(cx, home.as_ref(), judged.session.as_ref(), &mut response);
        answer::withhold(&response, judged.lifecycle, judged.id.as_deref())?;
    }
    rewrite::change(response.headers_mut(), &changes);
    if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
        return upgrade::carry(
            cx,
            asks_upgrade.then_some(upgrading).flatten(),
            response,
            judged.asked,
            chosen,
            log,
        );
    }
    let mut asked = judged.asked;
    if answer::is_event_stream(&response) {
        if asked.as_ref().is_some_and(Asked::has_read_body) {
            response.extensions_mut().insert(RequestRead);
        }
        asked = asked.map(Asked::for_long);
    }
    let answering =
        answering.map(|answering| answering.to(chosen.as_ref().map(|chosen| &chosen.workload.uid)));
    let response = screen::apply(response, &judged.screening, asked.as_ref(), home, answering, log).await?;
    if judged.screening == Screening::None {
        asked = asked.map(Asked::unscreened);
    }
    Ok(watched::watch(response, asked, log.deadline(route.timeout)))
}

/// What is spoken to the endpoint: as the port declares, else as the client did.
fn upstream_version(protocol: Protocol, client: http::Version) -> Version {
    match protocol {
        Protocol::Http2 | Protocol::Grpc => Version::Http2,
        Protocol::Undeclared if client == http::Version::HTTP_2 => Version::Http2,
        Protocol::Http | Protocol::Undeclared | Protocol::Tcp | Protocol::Tls => Version::Http1,
    }
}
