//! Envoy's command operators (*Access logging: command operators* of its documentation): `%NAME(ARGUMENT):LENGTH%`.

use std::borrow::Cow;

use http::HeaderName;

use super::super::captured::Side;
use super::clock::Clock;
use super::expression::Expression;
use super::facts::{Attribute, End, Facts, Mcp, Peer, Value};
use super::parse::parse;

/// A format as a list of pieces.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Written as it stands.
    Literal(String),
    /// What an operator stands for.
    Operator(Operator),
}

/// One operator.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    source: Source,
    /// Characters that are written at most.
    most: Option<usize>,
}

#[derive(Clone, Debug)]
enum Source {
    /// Not known here: always `-`.
    Unknown,
    /// When it began.
    Start(Clock),
    /// The first that is there.
    First(Vec<Place>),
    /// `%CEL(expression)%`.
    Expression(Expression),
}

#[derive(Clone, Debug)]
enum Place {
    Attribute(Attribute),
    Header(Side, HeaderName),
}

impl Operator {
    /// What it stands for; `None` where that is not known.
    pub(super) fn value<'a>(&'a self, facts: &Facts<'a>) -> Option<Value<'a>> {
        let value = match &self.source {
            Source::Unknown => None,
            Source::Start(clock) => Some(Value::Text(Cow::Owned(clock.write(facts.started)?))),
            Source::First(places) => places.iter().find_map(|place| match place {
                Place::Attribute(attribute) => facts.get(*attribute),
                Place::Header(side, name) => facts.header(*side, name),
            }),
            Source::Expression(expression) => expression.value(facts),
        }?;
        Some(match (value, self.most) {
            (Value::Text(text), Some(most)) => Value::Text(cut(text, most)),
            (value, _) => value,
        })
    }

    /// Calls `see` with each header that it names.
    pub(super) fn headers(&self, see: &mut dyn FnMut(Side, &HeaderName)) {
        match &self.source {
            Source::Unknown | Source::Start(_) => {}
            Source::First(places) => places.iter().for_each(|place| {
                if let Place::Header(side, name) = place {
                    see(*side, name);
                }
            }),
            Source::Expression(expression) => expression.headers(see),
        }
    }
}

fn cut(text: Cow<'_, str>, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => text,
        Some((end, _)) => match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.get(..end).unwrap_or_default()),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        },
    }
}

/// Splits a format into pieces. What is no operator that is known is told to `unknown`, and becomes `-`.
pub(super) fn pieces(format: &str, unknown: &mut dyn FnMut(&str)) -> Vec<Piece> {
    let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), format);
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let Some((name, argument, most, after)) = split(after) else {
            unknown(after);
            literal.push('-');
            rest = "";
            continue;
        };
        rest = after;
        let source = source(name, argument).unwrap_or_else(|| {
            unknown(name);
            Source::Unknown
        });
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(Piece::Operator(Operator { source, most }));
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    pieces
}

/// Name, argument, length, and what follows the closing `%`. An argument may hold parentheses and `%`: it ends at the
/// first `)` after which the operator is over.
fn split(text: &str) -> Option<(&str, Option<&str>, Option<usize>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_')?;
    let (name, rest) = text.split_at_checked(end).filter(|(name, _)| !name.is_empty())?;
    let Some(inner) = rest.strip_prefix('(') else {
        let (most, rest) = closing(rest)?;
        return Some((name, None, most, rest));
    };
    inner.match_indices(')').find_map(|(at, _)| {
        let (most, rest) = closing(inner.get(at + 1..)?)?;
        Some((name, inner.get(..at), most, rest))
    })
}

/// `:LENGTH%` or `%`.
fn closing(text: &str) -> Option<(Option<usize>, &str)> {
    match text.strip_prefix(':') {
        None => text.strip_prefix('%').map(|rest| (None, rest)),
        Some(text) => {
            let (length, rest) = text.split_once('%')?;
            Some((Some(length.parse().ok()?), rest))
        }
    }
}

fn source(name: &str, argument: Option<&str>) -> Option<Source> {
    let places = match (name, argument) {
        ("START_TIME", format) => return Clock::parse(format.unwrap_or_default()).map(Source::Start),
        ("CEL", Some(expression)) => return parse(expression).ok().map(Source::Expression),
        ("REQ", Some(names)) => alternatives(names, Side::Request)?,
        ("RESP", Some(names)) => alternatives(names, Side::Response)?,
        ("REQ_WITHOUT_QUERY", Some(names)) => without_query(alternatives(names, Side::Request)?),
        ("TRAILER", Some(name)) if name.eq_ignore_ascii_case("grpc-status") => {
            vec![Place::Attribute(Attribute::GrpcNumber)]
        }
        ("GRPC_STATUS", Some("NUMBER")) => vec![Place::Attribute(Attribute::GrpcNumber)],
        ("GRPC_STATUS", None | Some("CAMEL_STRING")) => vec![Place::Attribute(Attribute::GrpcStatus)],
        ("DYNAMIC_METADATA", Some(place)) => vec![Place::Attribute(Attribute::Mcp(mcp(place)?))],
        ("FILTER_STATE", Some(place)) => vec![Place::Attribute(filter_state(place)?)],
        (name, None) => vec![Place::Attribute(attribute(name)?)],
        (_unknown, Some(_)) => return None,
    };
    Some(Source::First(places))
}

fn attribute(name: &str) -> Option<Attribute> {
    Some(match name {
        "PROTOCOL" => Attribute::Protocol,
        "RESPONSE_CODE" => Attribute::Code,
        "RESPONSE_FLAGS" => Attribute::Flags,
        "RESPONSE_CODE_DETAILS" => Attribute::CodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => Attribute::TerminationDetails,
        "BYTES_RECEIVED" => Attribute::BytesReceived,
        "BYTES_SENT" => Attribute::BytesSent,
        "DURATION" => Attribute::Milliseconds,
        "GRPC_STATUS_NUMBER" => Attribute::GrpcNumber,
        "UPSTREAM_HOST" => Attribute::Upstream,
        "UPSTREAM_REMOTE_ADDRESS" => Attribute::UpstreamRemote,
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Attribute::UpstreamIp,
        "UPSTREAM_REMOTE_PORT" => Attribute::UpstreamPort,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Attribute::Cluster,
        "UPSTREAM_PEER_URI_SAN" => Attribute::UpstreamPeerUri,
        "DOWNSTREAM_LOCAL_ADDRESS" => Attribute::Local,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Attribute::LocalIp,
        "DOWNSTREAM_LOCAL_PORT" => Attribute::LocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Attribute::Source,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Attribute::SourceIp
        }
        "DOWNSTREAM_REMOTE_PORT" | "DOWNSTREAM_DIRECT_REMOTE_PORT" => Attribute::SourcePort,
        "DOWNSTREAM_PEER_URI_SAN" => Attribute::PeerUri,
        "REQUESTED_SERVER_NAME" => Attribute::ServerName,
        "ROUTE_NAME" => Attribute::Route,
        "TRACE_ID" => Attribute::TraceId,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Attribute::TransportFailure,
        "UPSTREAM_LOCAL_ADDRESS" => Attribute::UpstreamLocal,
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Attribute::UpstreamLocalIp,
        "UPSTREAM_LOCAL_PORT" => Attribute::UpstreamLocalPort,
        _unknown => return None,
    })
}

/// What Istio's proxy keeps of both ends: `downstream_peer_obj:FIELD:workload` and its like, and the caller's principal.
fn filter_state(place: &str) -> Option<Attribute> {
    if place == "io.istio.peer_principal:PLAIN" {
        return Some(Attribute::PeerUri);
    }
    let (object, field) = place.split_once(":FIELD:")?;
    let end = match object {
        "downstream_peer_obj" => End::Source,
        "upstream_peer_obj" => End::Destination,
        _unknown => return None,
    };
    let name = match field {
        "workload" => Peer::Workload,
        "namespace" => Peer::Namespace,
        "cluster" => Peer::Cluster,
        "service" => Peer::Service,
        "revision" => Peer::Revision,
        "app" => Peer::App,
        "version" => Peer::Version,
        "name" => Peer::Name,
        // The kind of its controller is not told to us.
        "type" => return Some(Attribute::Never),
        _unknown => return None,
    };
    Some(Attribute::Peer(end, name))
}

/// `FILTER:KEY`. The keys are those of policies (`experimental.envoy.filters.http.mcp[KEY]`), and what was decided.
fn mcp(place: &str) -> Option<Mcp> {
    Some(match place.strip_prefix("envoy.filters.http.mcp:")? {
        "method" => Mcp::Method,
        "tool" => Mcp::Tool,
        "prompt" => Mcp::Prompt,
        "resource" => Mcp::Resource,
        "kind" => Mcp::Kind,
        "protocol_version" => Mcp::ProtocolVersion,
        "decision" => Mcp::Decision,
        "rule" => Mcp::Rule,
        _unknown => return None,
    })
}

/// `NAME?OTHER`: the other where the first is not there.
fn alternatives(names: &str, side: Side) -> Option<Vec<Place>> {
    names.splitn(2, '?').map(|name| place(name, side)).collect()
}

fn place(name: &str, side: Side) -> Option<Place> {
    let name = name.to_ascii_lowercase();
    let attribute = match (side, name.as_str()) {
        (Side::Request, ":method") => Attribute::Method,
        // The path as received: what a route makes of it is not logged, so `X-ENVOY-ORIGINAL-PATH?:PATH` is right.
        (Side::Request, ":path" | "x-envoy-original-path") => Attribute::Path,
        (Side::Request, ":authority" | "host") => Attribute::Authority,
        (Side::Request, ":scheme") => Attribute::Scheme,
        (Side::Response, ":status") => Attribute::Code,
        _header => return Some(Place::Header(side, name.parse().ok()?)),
    };
    Some(Place::Attribute(attribute))
}

fn without_query(places: Vec<Place>) -> Vec<Place> {
    let cut = |place| match place {
        Place::Attribute(Attribute::Path) => Place::Attribute(Attribute::PathWithoutQuery),
        other => other,
    };
    places.into_iter().map(cut).collect()
}
