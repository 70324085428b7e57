//! The judgement of one request without traffic: what `portcullis check` asks.
//!
//! The head is cleaned, the body read and the policies asked by the very functions that serve a tunnel, so that an answer
//! here is an answer there. Routes, sessions and endpoints are left out: they decide where a request goes, not whether it may.

use std::net::{IpAddr, SocketAddr};

use agent_protocols::mcp::{Exchange, Head, HeadKind};
use agent_protocols::{Malformed, Plain, a2a};
use http::request::Parts;
use spiffe_id::SpiffeId;
use waypoint_model::{MeshConfig, PathNormalization, Service};
use waypoint_policy::{
    Attributes, Denial, Destination, HeadVerdict, HttpAttributes, Permit, PolicySet, Reads, Source,
};

use crate::context::{PeerContext, PeerName};
use crate::http::{a2a as agent, headers, mcp};
use crate::jwt::{Authentication, Cache, Fetched, Rejection, Verified};
use crate::limits::Limits;
use crate::snapshot::attached;

/// Who asks, and from where.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Proven identity.
    pub identity: SpiffeId,
    /// Where its tunnel comes from.
    pub address: IpAddr,
}

/// What is asked for.
#[derive(Debug)]
pub enum Request<'a> {
    /// An opaque stream.
    Stream,
    /// An HTTP request with its body; the body is looked at only where a tunnel's would be.
    Http {
        /// Its head.
        parts: Box<Parts>,
        /// Its body.
        body: &'a [u8],
        /// Claims of its token, as if that had been verified. `None`: it bears no token.
        claims: Option<&'a serde_json::Value>,
    },
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The stream as such.
    Stream,
    /// A plain HTTP request, by its head.
    Http,
    /// An MCP request, whatever its body says.
    McpHead,
    /// An MCP request with its body.
    McpBody,
    /// An A2A request with what it names.
    A2a,
}

/// What a tunnel's request would get.
#[derive(Debug)]
pub enum Answer {
    /// It would be sent.
    Permitted(Permit),
    /// Policy refuses it.
    Denied(Denial),
    /// It would be refused before policy is asked, since it could be read in more than one way; by the bounded name of
    /// what is wrong with it.
    Unreadable(&'static str),
}

/// The policies of one port of a service, compiled as for a tunnel.
#[must_use]
pub fn policies(mesh: &MeshConfig, service: &Service, port: u16, opaque: bool) -> PolicySet {
    attached(mesh, service, port, opaque)
}

/// What the policies are asked about a destination.
#[must_use]
pub fn destination(service: &Service, port: u16) -> Destination<'_> {
    Destination { ip: service.vips.first().copied(), port, sni: None }
}

/// Judges one request to a service's port.
#[must_use]
pub fn judge(
    mesh: &MeshConfig,
    service: &Service,
    port: u16,
    caller: &Caller,
    request: Request<'_>,
) -> (Judged, Answer) {
    let peer = PeerContext {
        name: PeerName::Vouched(Some(caller.identity.clone())),
        address: SocketAddr::new(caller.address, 0),
        local: None,
    };
    let (source, destination) = (peer.source(), destination(service, port));
    match request {
        Request::Stream => {
            let policy = policies(mesh, service, port, true);
            let answer = policy.decide_stream(&Attributes { source, destination, http: None });
            (Judged::Stream, answer.into())
        }
        Request::Http { mut parts, body, claims } => {
            let policy = policies(mesh, service, port, false);
            let reads = policy.reads();
            let cleaned = clean(&mut parts, &peer, mesh.path_normalization);
            let judged = cleaned.and_then(|target| with_token(target, service, port, claims, &mut parts));
            let target = match judged {
                Ok(target) => target,
                Err(why) if reads == Reads::Mcp => return (Judged::McpHead, Answer::Unreadable(why)),
                Err(why) => return (Judged::Http, Answer::Unreadable(why)),
            };
            let attributes = seen(source, destination, &parts, &target);
            match reads {
                Reads::Mcp => judge_mcp(&policy, &attributes, &parts, body),
                Reads::A2a => judge_a2a(&policy, &attributes, &parts, body),
                Reads::Http | Reads::Opaque => (Judged::Http, policy.decide(&attributes, &Plain).into()),
            }
        }
    }
}

fn clean(
    parts: &mut Parts,
    peer: &PeerContext,
    how: PathNormalization,
) -> Result<headers::Target, &'static str> {
    let target = headers::prepare(parts, how)?;
    headers::identify(&mut parts.headers, peer, false);
    headers::request_id(&mut parts.headers);
    Ok(target)
}

/// The target with what its token says, by the rules of the port.
fn with_token(
    target: headers::Target,
    service: &Service,
    port: u16,
    claims: Option<&serde_json::Value>,
    parts: &mut Parts,
) -> Result<headers::Target, &'static str> {
    let Some(claims) = claims else { return Ok(target) };
    let own = service.ports.get(&port).into_iter().flat_map(|port| &port.chain.jwt);
    let rules = service.jwt.iter().chain(own).cloned().collect();
    let rules = Authentication::compile(rules, &mut Fetched::new(), &Cache::default());
    let token = rules.assume(claims, parts).map_err(Rejection::name)?;
    Ok(headers::Target { token: Some(token), ..target })
}

fn seen<'a>(
    source: Source<'a>,
    destination: Destination<'a>,
    parts: &'a Parts,
    target: &'a headers::Target,
) -> Attributes<'a> {
    let http = HttpAttributes {
        method: parts.method.as_str(),
        path: &target.path,
        authority: &target.authority,
        headers: &parts.headers,
        claims: target.token.as_deref().map(Verified::claims),
    };
    Attributes { source, destination, http: Some(http) }
}

/// The steps of `http/mcp.rs`, without what only an open connection has.
fn judge_mcp(
    policy: &PolicySet,
    attributes: &Attributes<'_>,
    parts: &Parts,
    body: &[u8],
) -> (Judged, Answer) {
    let head = match Head::read(parts, &Limits::default().protocol()) {
        Ok(head) => head,
        Err(malformed) => return (Judged::McpHead, malformed.into()),
    };
    match policy.decide_head(attributes) {
        HeadVerdict::Permit(permit) => (Judged::McpHead, Answer::Permitted(permit)),
        HeadVerdict::Deny(denial) => (Judged::McpHead, Answer::Denied(denial)),
        HeadVerdict::ReadBody if head.kind() == HeadKind::Message => {
            let answer = match Exchange::read(&head, body, &Limits::default().protocol()) {
                Ok(exchange) => mcp::judge(policy, attributes, &exchange).outcome.into(),
                Err(malformed) => malformed.into(),
            };
            (Judged::McpBody, answer)
        }
        HeadVerdict::ReadBody => (Judged::McpHead, policy.decide(attributes, &*head.facts()).into()),
    }
}

/// The steps of `http/a2a.rs`, but for whose tasks are named: that only a running waypoint knows.
fn judge_a2a(
    policy: &PolicySet,
    attributes: &Attributes<'_>,
    parts: &Parts,
    body: &[u8],
) -> (Judged, Answer) {
    let head = match a2a::Head::read(parts) {
        Ok(head) => head,
        Err(malformed) => return (Judged::A2a, malformed.into()),
    };
    if let HeadVerdict::Deny(denial) = policy.decide_head(attributes) {
        return (Judged::A2a, Answer::Denied(denial));
    }
    if head.is_plain() {
        return (Judged::Http, policy.decide(attributes, &Plain).into());
    }
    let answer = match a2a::Request::read(&head, body, &[], &Limits::default().protocol()) {
        Ok(request) => agent::judge(policy, attributes, &request).into(),
        Err(malformed) => malformed.into(),
    };
    (Judged::A2a, answer)
}

impl From<Result<Permit, Denial>> for Answer {
    fn from(result: Result<Permit, Denial>) -> Self {
        match result {
            Ok(permit) => Self::Permitted(permit),
            Err(denial) => Self::Denied(denial),
        }
    }
}

impl From<Malformed> for Answer {
    fn from(malformed: Malformed) -> Self {
        Self::Unreadable(malformed.name())
    }
}
