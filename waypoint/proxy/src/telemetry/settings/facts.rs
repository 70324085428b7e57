//! What is known of a request or of a stream when it ends, by the names that formats, filters and labels use.

use std::borrow::Cow;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use spiffe_id::SpiffeId;
use waypoint_model::{Service, Workload};

use super::super::captured::Side;
use super::super::exchange::{
    DryRun, LocalEnd, RequestRecord, RoutedTo, SourceRecord, StreamRecord, causes, detail,
};

/// Envoy's response flags in the order of their bits (`envoy/stream_info/stream_info.h`), as `response.flags` has them.
const FLAG_BITS: [&str; 25] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC",
];

/// The header by which Envoy's router tells how long an endpoint took. Here it is in the log alone.
pub(super) const SERVICE_TIME: &str = "x-envoy-upstream-service-time";

/// Our end of a stream inside an HBONE tunnel, as Envoy names that of its internal connections.
const INSIDE: &str = "envoy://internal_client_address/";

/// gRPC status codes by number (grpc.io, *Status codes*), in the spelling of Envoy's log.
const GRPC: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// A fact with a name of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    Method,
    Path,
    PathWithoutQuery,
    Query,
    Authority,
    Scheme,
    Protocol,
    UserAgent,
    RequestId,
    BytesReceived,
    BytesSent,
    Code,
    CodeDetails,
    TerminationDetails,
    Flags,
    FlagBits,
    GrpcStatus,
    GrpcNumber,
    Milliseconds,
    Took,
    Source,
    SourceIp,
    SourcePort,
    Local,
    LocalIp,
    LocalPort,
    Upstream,
    UpstreamIp,
    UpstreamPort,
    UpstreamRemote,
    UpstreamLocal,
    UpstreamLocalIp,
    UpstreamLocalPort,
    TransportFailure,
    Cluster,
    Route,
    ServerName,
    PeerUri,
    UpstreamPeerUri,
    Mtls,
    /// What an MCP message asks for, and what policy said of it.
    Mcp(Mcp),
    /// Who called, or who answered.
    Peer(End, Peer),
    /// The trace that it belongs to.
    TraceId,
    /// What Envoy knows and this process does not.
    Never,
}

/// A fact of an MCP message by the name that policies have for it, or the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mcp {
    Method,
    Tool,
    Prompt,
    Resource,
    Kind,
    ProtocolVersion,
    Decision,
    Rule,
}

/// One of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// A name of a workload (`WorkloadMetadataObject` of Istio's proxy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Workload,
    Namespace,
    Cluster,
    Service,
    Revision,
    App,
    Version,
    Name,
}

/// A value of one of the few types that attributes have.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Bool(bool),
    Number(i64),
    Text(Cow<'a, str>),
    Time(Duration),
}

impl Value<'_> {
    /// As text, e.g. for a label.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Number(value) => Cow::Owned(value.to_string()),
            Self::Text(text) => Cow::Borrowed(text),
            Self::Time(time) => Cow::Owned(format!("{}s", time.as_secs_f64())),
        }
    }
}

/// One record, with the time it took.
pub(in super::super) struct Facts<'a> {
    pub(super) started: SystemTime,
    took: Duration,
    source: &'a SourceRecord,
    service: Option<&'a Arc<Service>>,
    port: u16,
    local: Option<SocketAddr>,
    server_name: Option<&'a str>,
    upstream: Option<&'a (Arc<Workload>, SocketAddr)>,
    upstream_local: Option<LocalEnd>,
    transport_failure: Option<&'a (dyn Error + Send + Sync)>,
    authority: &'a str,
    status: u16,
    flags: &'static str,
    detail: &'a str,
    received: u64,
    sent: u64,
    request: Option<&'a RequestRecord>,
}

impl<'a> Facts<'a> {
    pub(in super::super) fn of_request(record: &'a RequestRecord, took: Duration) -> Self {
        Self {
            started: record.started,
            took,
            source: &record.source,
            service: record.service.as_ref(),
            port: record.port,
            local: record.local,
            server_name: None,
            upstream: record.upstream.as_ref(),
            upstream_local: record.upstream_local,
            transport_failure: record.transport_failure.as_deref(),
            authority: &record.authority,
            status: record.status,
            flags: record.flags,
            detail: detail(&record.detail, &record.decision),
            received: record.bytes_received,
            sent: record.bytes_sent,
            request: Some(record),
        }
    }

    pub(in super::super) fn of_stream(record: &'a StreamRecord, took: Duration) -> Self {
        Self {
            started: record.started,
            took,
            source: &record.source,
            service: record.service.as_ref(),
            port: record.port,
            local: record.local,
            server_name: record.server_name.as_deref(),
            upstream: record.upstream.as_ref(),
            upstream_local: record.upstream_local,
            transport_failure: record.transport_failure.as_deref(),
            authority: "",
            status: record.status,
            flags: record.flags,
            detail: detail(&record.detail, &record.decision),
            received: record.bytes_received,
            sent: record.bytes_sent,
            request: None,
        }
    }

    /// A header; the few that every record keeps are always there.
    pub(super) fn header(&self, side: Side, name: &HeaderName) -> Option<Value<'a>> {
        if side == Side::Response
            && name.as_str() == SERVICE_TIME
            && let Some(took) = self.request?.service_time
        {
            return Some(Value::Text(Cow::Owned(took.as_millis().to_string())));
        }
        let known = match (side, name.as_str()) {
            (Side::Request, "user-agent") => Some(Attribute::UserAgent),
            (Side::Request, "x-request-id") => Some(Attribute::RequestId),
            (Side::Request, "host") => Some(Attribute::Authority),
            _kept => None,
        };
        match known {
            Some(attribute) => self.get(attribute),
            None => {
                let value = self.request?.headers.find(side, name)?;
                Some(Value::Text(String::from_utf8_lossy(value.as_bytes())))
            }
        }
    }

    /// `None` where it is not known, or where a stream has no such thing.
    pub(super) fn get(&self, attribute: Attribute) -> Option<Value<'a>> {
        match attribute {
            Attribute::Method
            | Attribute::Path
            | Attribute::PathWithoutQuery
            | Attribute::Query
            | Attribute::Scheme
            | Attribute::Protocol
            | Attribute::UserAgent
            | Attribute::RequestId
            | Attribute::GrpcStatus
            | Attribute::GrpcNumber
            | Attribute::Route => self.of_http(attribute, self.request?),
            Attribute::Never => None,
            Attribute::Mcp(fact) => of_mcp(fact, self.request?),
            Attribute::Peer(end, name) => self.peer(end, name),
            Attribute::TraceId => {
                let trace = self.request?.trace?;
                Some(Value::Text(Cow::Owned(format!("{:032x}", trace.trace_id))))
            }
            Attribute::Authority => text(some(self.authority)),
            Attribute::BytesReceived => number(self.received),
            Attribute::BytesSent => number(self.sent),
            Attribute::Code => number(self.status),
            Attribute::CodeDetails => self.request.and(some(self.detail)).map(one_word),
            Attribute::TerminationDetails => {
                some(self.detail).filter(|_| self.request.is_none()).map(one_word)
            }
            Attribute::TransportFailure => {
                let causes = causes(self.transport_failure?);
                Some(Value::Text(Cow::Owned(one_word(&causes).text().into_owned())))
            }
            Attribute::Flags => text(Some(if self.flags.is_empty() { "-" } else { self.flags })),
            Attribute::FlagBits => {
                let bit = |flag: &str| FLAG_BITS.iter().position(|known| *known == flag);
                Some(Value::Number(self.flags().filter_map(bit).fold(0, |bits, bit| bits | 1 << bit)))
            }
            Attribute::Milliseconds => number(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX)),
            Attribute::Took => Some(Value::Time(self.took)),
            Attribute::Mtls => Some(Value::Bool(self.source.principal.is_some())),
            Attribute::PeerUri => text(self.source.principal.as_ref().map(SpiffeId::as_str)),
            Attribute::UpstreamPeerUri => {
                text(self.upstream.and_then(|(workload, _)| workload.identity.as_ref()).map(SpiffeId::as_str))
            }
            Attribute::ServerName => text(self.server_name),
            Attribute::Cluster => self.cluster().map(|name| Value::Text(Cow::Owned(name))),
            Attribute::Source => address(Some(self.source.address)),
            Attribute::SourceIp => ip(Some(self.source.address)),
            Attribute::SourcePort => number(self.source.address.port()),
            Attribute::Local => address(self.local),
            Attribute::LocalIp => ip(self.local),
            Attribute::LocalPort => number(self.port),
            // Not before there is a connection.
            Attribute::UpstreamRemote => {
                address(self.upstream_local.and(self.upstream).map(|(_, address)| *address))
            }
            Attribute::Upstream => address(self.upstream.map(|(_, address)| *address)),
            Attribute::UpstreamIp => ip(self.upstream.map(|(_, address)| *address)),
            Attribute::UpstreamPort => self.upstream.and_then(|(_, address)| number(address.port())),
            Attribute::UpstreamLocal | Attribute::UpstreamLocalIp | Attribute::UpstreamLocalPort => {
                match (self.upstream_local?, attribute) {
                    (LocalEnd::Tunnel, Attribute::UpstreamLocal) => text(Some(INSIDE)),
                    (LocalEnd::Tunnel, _no_address) => None,
                    (LocalEnd::Socket(local), Attribute::UpstreamLocal) => address(Some(local)),
                    (LocalEnd::Socket(local), Attribute::UpstreamLocalIp) => ip(Some(local)),
                    (LocalEnd::Socket(local), _port) => number(local.port()),
                }
            }
        }
    }

    fn of_http(&self, attribute: Attribute, request: &'a RequestRecord) -> Option<Value<'a>> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        match attribute {
            Attribute::Method => text(Some(request.method.as_str())),
            Attribute::Path => text(some(&request.path)),
            Attribute::PathWithoutQuery => text(some(path)),
            Attribute::Query => text(Some(query)),
            Attribute::Scheme => text(Some("http")),
            Attribute::Protocol => text(Some(request.protocol)),
            Attribute::UserAgent => text(request.user_agent.as_deref()),
            Attribute::RequestId => text(request.request_id.as_deref()),
            Attribute::Route => text(request.route.as_deref()),
            Attribute::GrpcNumber => request.grpc_status.map(|status| Value::Number(status.into())),
            Attribute::GrpcStatus => {
                let status = request.grpc_status?;
                let name = usize::try_from(status).ok().and_then(|status| GRPC.get(status));
                Some(name.map_or(Value::Number(status.into()), |name| Value::Text(Cow::Borrowed(name))))
            }
            _of_streams_too => None,
        }
    }

    fn peer(&self, end: End, name: Peer) -> Option<Value<'a>> {
        let workload = match end {
            End::Source => self.source.workload.as_deref()?,
            End::Destination => &*self.upstream?.0,
        };
        let text = match name {
            Peer::Workload => &*workload.workload_name,
            Peer::Namespace => &*workload.namespace,
            Peer::Cluster => &*workload.cluster,
            Peer::Service => &*workload.canonical_name,
            Peer::Revision => &*workload.canonical_revision,
            Peer::App => workload.app.as_deref()?,
            Peer::Version => workload.version.as_deref()?,
            Peer::Name => &*workload.name,
        };
        self::text(some(text))
    }

    /// Response flags, each alone.
    pub(super) fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.flags.split(',').filter(|flag| !matches!(*flag, "" | "-"))
    }

    /// What dry-run policies would have done.
    pub(super) fn dry_run(&self) -> Option<&'a DryRun> {
        self.request?.dry_run.as_ref()
    }

    /// The cluster that it was for, else as istiod names that of a waypoint's port.
    pub(in super::super) fn cluster(&self) -> Option<String> {
        let carries = match self.request.map(|request| &request.routed_to) {
            Some(RoutedTo::Nowhere) => return None,
            Some(RoutedTo::Cluster(name)) => return Some(name.as_ref().to_owned()),
            Some(RoutedTo::Service) => "http",
            None => "tcp",
        };
        let service = self.service?;
        Some(format!("inbound-vip|{}|{carries}|{}", self.port, service.key.hostname))
    }
}

fn of_mcp(fact: Mcp, request: &RequestRecord) -> Option<Value<'_>> {
    match fact {
        Mcp::Decision => return text(Some(request.decision.name())),
        Mcp::Rule => return request.decision.rule().map(|rule| Value::Text(Cow::Owned(rule.to_string()))),
        Mcp::Method | Mcp::Tool | Mcp::Prompt | Mcp::Resource | Mcp::Kind | Mcp::ProtocolVersion => {}
    }
    let mcp = request.mcp.as_ref()?;
    let named = |method: fn(&str) -> bool| {
        text(mcp.name.as_deref().filter(|_| mcp.method.as_deref().is_some_and(method)))
    };
    match fact {
        Mcp::Method => text(mcp.method.as_deref()),
        Mcp::Kind => text(mcp.kind),
        Mcp::ProtocolVersion => text(mcp.revision.as_deref()),
        Mcp::Tool => named(|method| method == "tools/call"),
        Mcp::Prompt => named(|method| method == "prompts/get"),
        Mcp::Resource => named(|method| method.starts_with("resources/")),
        Mcp::Decision | Mcp::Rule => None,
    }
}

/// Details are one word, as Envoy's are: lines are split at spaces.
fn one_word(text: &str) -> Value<'_> {
    let spaces = text.contains(char::is_whitespace);
    Value::Text(if spaces { Cow::Owned(text.replace(char::is_whitespace, "_")) } else { Cow::Borrowed(text) })
}

fn text(text: Option<&str>) -> Option<Value<'_>> {
    text.map(|text| Value::Text(Cow::Borrowed(text)))
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn number(number: impl Into<u64>) -> Option<Value<'static>> {
    Some(Value::Number(i64::try_from(number.into()).unwrap_or(i64::MAX)))
}

fn address(address: Option<SocketAddr>) -> Option<Value<'static>> {
    address.map(|address| Value::Text(Cow::Owned(address.to_string())))
}

fn ip(address: Option<SocketAddr>) -> Option<Value<'static>> {
    address.map(|address| Value::Text(Cow::Owned(address.ip().to_string())))
}
