//! A2A on its way in: its binding, its operation and what it names, the policies, and whose tasks and contexts those are.
//!
//! Its body is read in any case: even where the policies do not depend on it, nobody may use what is another's.

use std::sync::Arc;

use agent_protocols::a2a::{self, Binding, Handle, Head, Operation, Request, Why};
use agent_protocols::{Facts, Malformed, Plain};
use bytes::Bytes;
use http::HeaderValue;
use http::request::Parts;
use http_body::Body as _;
use hyper::body::Incoming;
use waypoint_policy::{Attributes, Denial, HeadVerdict, Permit, PolicySet};

use super::asked::{self, Asked, Message};
use super::exchange::ExchangeLog;
use super::headers::Target;
use super::inspect;
use super::limit;
use super::mcp::holder;
use super::request::{Judged, Refused, Screening};
use crate::body::Body;
use crate::context::StreamContext;
use crate::rates::Counted;
use crate::refusal::Refusal;
use crate::sessions::Holder;
use crate::snapshot::Destination;
use crate::upstream::Pick;

/// What the answer to a request is read for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) operation: Operation,
    pub(crate) binding: Binding,
    /// Raw JSON text of the JSON-RPC id.
    pub(crate) id: Option<String>,
    /// Whose what it makes will be.
    pub(crate) holder: Holder,
}

impl Agent {
    /// The answer in an agent's place, where its own is withheld.
    pub(crate) fn unscreenable(&self, name: &'static str) -> Refused {
        let reply = a2a::refuse(self.binding, self.id.as_deref(), Why::Unscreenable);
        Refused::worded(Refusal::Unscreenable(name), reply)
    }
}

/// Judges everything that a request names: it goes as a whole or not at all.
pub(crate) fn judge(
    policy: &PolicySet,
    attributes: &Attributes<'_>,
    request: &Request,
) -> Result<Permit, Denial> {
    let unknown = || policy.deny_unknown_method(&request.method);
    if request.operation.is_none() {
        return Err(unknown());
    }
    let mut permit: Option<Permit> = None;
    for subject in request.subjects() {
        let one = policy.decide(attributes, &subject as &dyn Facts)?;
        permit = Some(match permit.take() {
            Some(all) => all.and(one),
            None => one,
        });
    }
    permit.ok_or_else(unknown)
}

/// Judges one request to a destination whose policies test A2A facts.
pub(crate) async fn authorize(
    cx: &Arc<StreamContext>,
    destination: &Arc<Destination>,
    parts: &mut Parts,
    target: &Target,
    body: Incoming,
    log: &mut ExchangeLog,
) -> Result<Judged, Refused> {
    let head = Head::read(parts).map_err(|why| malformed(Head::binding_of(parts), why))?;
    if !head.has_body() && !body.is_end_stream() {
        return Err(Refusal::BadRequest("unexpected_body").into()); // HTTP/2 needs no header to announce one.
    }
    let attributes = asked::attributes(cx, parts, target, destination.port);
    let binding = head.binding();
    if let HeadVerdict::Deny(denial) = destination.policy.decide_head(&attributes) {
        let refused = |refusal| Refused::worded(refusal, a2a::refuse(binding, None, Why::NoAccess));
        return log.decided(Err(denial)).map_err(refused).and_then(|_permit| undecided());
    }
    if head.is_plain() {
        let refused = |refusal| Refused::worded(refusal, a2a::refuse(binding, None, Why::NoAccess));
        let permit = log.decided(destination.policy.decide(&attributes, &Plain)).map_err(refused)?;
        limit::take(cx, destination, &attributes, &[(0, &Plain)], log)
            .map_err(|limited| limit::refused(limited, None))?;
        let asked = Asked::new(cx, parts, target, destination.port, Message::Plain);
        return Ok(judged(permit, asked, Body::Empty, Screening::None));
    }
    let limits = &cx.shared.settings.limits;
    let bytes = match head.has_body() {
        true => inspect::read(body, &cx.shared.inspection, limits).await?,
        false => inspect::Inspected::nothing(),
    };
    let push_hosts = &cx.shared.settings.push_hosts;
    let request = Request::read(&head, &bytes.bytes, push_hosts, &limits.protocol())
        .map_err(|why| malformed(binding, why))?;
    log.a2a(&request, bytes.bytes.len());
    by_request(cx, destination, parts, target, request, bytes.bytes, log)
}

fn by_request(
    cx: &Arc<StreamContext>,
    destination: &Arc<Destination>,
    parts: &mut Parts,
    target: &Target,
    request: Request,
    body: Bytes,
    log: &mut ExchangeLog,
) -> Result<Judged, Refused> {
    let attributes = asked::attributes(cx, parts, target, destination.port);
    let answer = |why| a2a::refuse(request.binding, request.id(), why);
    let permit = log.decided(judge(&destination.policy, &attributes, &request)).map_err(|refusal| {
        let why = match request.operation {
            _ if !destination.policy.any_access(&attributes) => Why::NoAccess,
            Some(_) => Why::Denied(cx.shared.settings.deny_mode),
            None => Why::UnknownMethod,
        };
        Refused::worded(refusal, answer(why))
    })?;
    let holder = holder(cx, destination, target.token.as_deref());
    if !is_own(cx, &holder, &request) {
        log.task_refused();
        return Err(Refused::worded(Refusal::TaskNotFound, answer(Why::NotFound)));
    }
    let subjects: Vec<_> = request.subjects().collect();
    let counted: Vec<Counted<'_>> = subjects.iter().map(|subject| (0, subject as &dyn Facts)).collect();
    // No binding has words of its own for it but its status: clients of agents wait upon 429 and UNAVAILABLE.
    limit::take(cx, destination, &attributes, &counted, log)
        .map_err(|limited| limit::refused(limited, None))?;
    let screening = match request.operation {
        Some(operation) => {
            let (binding, id) = (request.binding, request.id().map(str::to_owned));
            Screening::Agent(Box::new(Agent { operation, binding, id, holder }))
        }
        None => Screening::None,
    };
    if request.binding == Binding::Grpc {
        // What is compressed cannot be read on its way down.
        parts.headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    }
    let asked = Asked::new(cx, parts, target, destination.port, Message::A2a(request));
    let body = if body.is_empty() { Body::Empty } else { Body::full(body) };
    Ok(judged(permit, asked, body, screening))
}

/// Whether everything that a request names is the peer's. A context that nobody is known to have made is made by the
/// message that names it: clients choose them too.
fn is_own(cx: &StreamContext, holder: &Holder, request: &Request) -> bool {
    let handles = &cx.shared.handles;
    let adopts = cx.shared.settings.adopt_tasks;
    let own = |handle, id: &str| match adopts || handle == Handle::Context {
        true => handles.claim(holder, handle, id),
        false => handles.owns(holder, handle, id),
    };
    let tasks = request.tasks().iter().all(|task| own(Handle::Task, task));
    tasks && request.context().is_none_or(|context| own(Handle::Context, context))
}

fn judged(permit: Permit, asked: Asked, body: Body, screening: Screening) -> Judged {
    let pick = Pick::default();
    Judged { permit, asked: Some(asked), body, pick, screening, lifecycle: false, session: None, id: None }
}

fn malformed(binding: Binding, malformed: Malformed) -> Refused {
    let reply = a2a::refuse(binding, None, Why::Malformed(&malformed));
    Refused::worded(Refusal::Malformed(malformed), reply)
}

fn undecided<T>() -> Result<T, Refused> {
    Err(Refusal::BadRequest("undecided").into())
}
