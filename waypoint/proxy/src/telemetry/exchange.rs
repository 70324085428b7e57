//! Records: what is known of one request or one stream when it ends, filled by `&mut` along its way.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agent_protocols::a2a;
use spiffe_id::SpiffeId;
use waypoint_model::{Service, Workload};
use waypoint_policy::RuleName;

use super::captured::Captured;
use super::trace::{SpanContext, TracedRequest};

/// Who called.
#[derive(Clone, Debug)]
pub struct SourceRecord {
    /// Identity by certificate; `None` only where a listener takes peers without one.
    pub principal: Option<SpiffeId>,
    /// Where the connection came from.
    pub address: SocketAddr,
    /// The workload at that address, for labels only. Never an identity.
    pub workload: Option<Arc<Workload>>,
}

/// Our end of the byte stream to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalEnd {
    /// A stream inside an HBONE tunnel: it has no address of its own.
    Tunnel,
    /// A socket.
    Socket(SocketAddr),
}

/// Which cluster a request was for.
#[derive(Clone, Debug, Default)]
pub enum RoutedTo {
    /// The service's, or one that has no name of its own; also where no route was asked for yet.
    #[default]
    Service,
    /// A control plane's.
    Cluster(Arc<str>),
    /// None: no route took it, or the route answered it.
    Nowhere,
}

/// What policy said.
#[derive(Clone, Debug, Default)]
pub enum Decision {
    /// It ended before a policy was asked.
    #[default]
    NotDecided,
    /// Permitted, by this rule; `None` where no ALLOW policy is attached.
    Allowed(Option<RuleName>),
    /// Refused.
    Denied {
        /// Envoy's wording of the cause: `rbac_access_denied_matched_policy[<rule>]`, `[none]`.
        detail: String,
        /// The DENY rule that matched, if that was the cause.
        rule: Option<RuleName>,
    },
}

impl Decision {
    /// `allow`, `deny` or `not_decided`: log field and metric label.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotDecided => "not_decided",
            Self::Allowed(_) => "allow",
            Self::Denied { .. } => "deny",
        }
    }

    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleName> {
        match self {
            Self::NotDecided => None,
            Self::Allowed(rule) | Self::Denied { rule, .. } => rule.as_ref(),
        }
    }
}

/// An error and its causes in one line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Why it ended so: what was told, else the words of the denial.
pub(super) fn detail<'a>(told: &'a str, decision: &'a Decision) -> &'a str {
    match decision {
        Decision::Denied { detail, .. } if told.is_empty() => detail,
        Decision::Denied { .. } | Decision::NotDecided | Decision::Allowed(_) => told,
    }
}

/// What dry-run policies would have done beside those that are enforced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DryRun {
    /// It would have been refused.
    pub denied: bool,
    /// The dry-run rule that matched: DENY before ALLOW; `None` where it would have been refused for want of one.
    pub rule: Option<RuleName>,
}

/// As the log shows it: `deny[<rule>]`, `allow[<rule>]`, `deny[none]`.
impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = if self.denied { "deny" } else { "allow" };
        match &self.rule {
            Some(rule) => write!(f, "{decision}[{rule}]"),
            None => write!(f, "{decision}[none]"),
        }
    }
}

/// What an MCP exchange asked for and what became of it.
#[derive(Clone, Debug, Default)]
pub struct McpRecord {
    /// JSON-RPC method as on the wire; of a batch its first, or the refused one.
    pub method: Option<String>,
    /// Tool, prompt, resource or task that the message names.
    pub name: Option<String>,
    /// Protocol revision.
    pub revision: Option<String>,
    /// `call`, `list`, `lifecycle` or `response`.
    pub kind: Option<&'static str>,
    /// Arguments of the first message that the log is to tell, as far as it is to.
    pub arguments: Vec<(Arc<str>, String)>,
    /// Messages in the body; more than one in a batch.
    pub messages: usize,
    /// Whether the body was held and read to decide.
    pub body_read: bool,
    /// List entries left out of the answer.
    pub hidden: usize,
    /// List entries that stayed in the answer.
    pub list_entries: usize,
    /// The answer was a JSON-RPC error, if that was seen.
    pub failed: bool,
}

/// What a request asked of an agent over A2A.
#[derive(Clone, Debug, Default)]
pub struct A2aRecord {
    /// The operation by its name in A2A 1.0; `None`: a method that A2A does not have.
    pub operation: Option<&'static str>,
    /// `jsonrpc`, `rest` or `grpc`.
    pub binding: &'static str,
    /// The method as on the wire.
    pub method: String,
    /// `A2A-Version` as declared.
    pub version: Option<String>,
    /// The task that it names first.
    pub task: Option<String>,
    /// The context that it names.
    pub context: Option<String>,
    /// Tasks of others that were left out of a list.
    pub hidden: usize,
    /// URLs of a card that lead past this waypoint.
    pub card_elsewhere: Vec<String>,
}

impl A2aRecord {
    pub(crate) fn of(request: &a2a::Request) -> Self {
        Self {
            operation: request.operation.map(a2a::Operation::name),
            binding: match request.binding {
                a2a::Binding::JsonRpc => "jsonrpc",
                a2a::Binding::Rest => "rest",
                a2a::Binding::Grpc => "grpc",
            },
            method: request.method.clone(),
            version: request.version.clone(),
            task: request.tasks().first().cloned(),
            context: request.context().map(str::to_owned),
            hidden: 0,
            card_elsewhere: Vec::new(),
        }
    }
}

/// One HTTP request.
#[derive(Debug)]
pub struct RequestRecord {
    /// Wall clock at its first byte.
    pub started: SystemTime,
    /// Monotonic clock at its first byte; the duration is taken when the record is finished.
    pub clock: Instant,
    /// Who called.
    pub source: SourceRecord,
    /// The service that the tunnel names.
    pub service: Option<Arc<Service>>,
    /// Service port.
    pub port: u16,
    /// Address that the tunnel names; `None` for a host name.
    pub local: Option<SocketAddr>,
    /// Request method.
    pub method: http::Method,
    /// Path with query as received.
    pub path: String,
    /// `:authority` or Host.
    pub authority: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// User-Agent.
    pub user_agent: Option<String>,
    /// `x-request-id`.
    pub request_id: Option<String>,
    /// What policy said.
    pub decision: Decision,
    /// What dry-run policies would have said.
    pub dry_run: Option<DryRun>,
    /// AUDIT rules that matched.
    pub audited: Vec<RuleName>,
    /// Endpoint of the last attempt, and the address that was dialled.
    pub upstream: Option<(Arc<Workload>, SocketAddr)>,
    /// Our end of what carried the last attempt.
    pub upstream_local: Option<LocalEnd>,
    /// Why the endpoint was not reached, if that is what went wrong.
    pub transport_failure: Option<Arc<dyn Error + Send + Sync>>,
    /// From the moment that the request was whole until the head of its answer came; only where the port's settings ask.
    pub service_time: Option<Duration>,
    /// Route that took it.
    pub route: Option<Arc<str>>,
    /// Where that leads.
    pub routed_to: RoutedTo,
    /// What the protocol reader saw, on MCP ports or by observation.
    pub mcp: Option<McpRecord>,
    /// What was asked of an agent, on A2A ports.
    pub a2a: Option<A2aRecord>,
    /// Status of the answer; 0 if none was sent.
    pub status: u16,
    /// gRPC status of the answer.
    pub grpc_status: Option<i32>,
    /// Envoy's response flag; `-` or empty for none.
    pub flags: &'static str,
    /// Envoy's response code detail.
    pub detail: String,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// Snapshot that it was judged by.
    pub generation: u64,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// gRPC messages of the request and of the answer.
    pub grpc_messages: (u64, u64),
    /// Headers that the port's settings name.
    pub headers: Captured,
    /// What becomes its span, where the port is traced.
    pub(crate) traced: Option<Box<TracedRequest>>,
    /// Its place in a trace, known at its end.
    pub trace: Option<SpanContext>,
}

impl RequestRecord {
    /// A record that starts now; the rest is filled along the way.
    #[must_use]
    pub fn begin(source: SourceRecord) -> Self {
        Self::blank(source, SystemTime::now(), Instant::now())
    }

    fn blank(source: SourceRecord, started: SystemTime, clock: Instant) -> Self {
        Self {
            started,
            clock,
            source,
            service: None,
            port: 0,
            local: None,
            method: http::Method::GET,
            path: String::new(),
            authority: String::new(),
            protocol: "HTTP/1.1",
            user_agent: None,
            request_id: None,
            decision: Decision::NotDecided,
            dry_run: None,
            audited: Vec::new(),
            upstream: None,
            upstream_local: None,
            transport_failure: None,
            service_time: None,
            route: None,
            routed_to: RoutedTo::Service,
            mcp: None,
            a2a: None,
            status: 0,
            grpc_status: None,
            flags: "-",
            detail: String::new(),
            bytes_received: 0,
            bytes_sent: 0,
            generation: 0,
            grpc: false,
            grpc_messages: (0, 0),
            headers: Captured::default(),
            traced: None,
            trace: None,
        }
    }

    /// Takes the record out, to be finished; what stays behind is blank.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let source = SourceRecord { principal: None, address: self.source.address, workload: None };
        std::mem::replace(self, Self::blank(source, self.started, self.clock))
    }
}

/// One opaque stream. Refused ones have a status other than 200.
#[derive(Debug)]
pub struct StreamRecord {
    /// Wall clock at CONNECT.
    pub started: SystemTime,
    /// Monotonic clock at CONNECT.
    pub clock: Instant,
    /// Who called.
    pub source: SourceRecord,
    /// The service that the tunnel names.
    pub service: Option<Arc<Service>>,
    /// Service port.
    pub port: u16,
    /// Address that the tunnel names; `None` for a host name.
    pub local: Option<SocketAddr>,
    /// Server name of the TLS ClientHello, where it was read.
    pub server_name: Option<Arc<str>>,
    /// CONNECT's authority.
    pub authority: String,
    /// What policy said.
    pub decision: Decision,
    /// Endpoint, and the address that was dialled.
    pub upstream: Option<(Arc<Workload>, SocketAddr)>,
    /// Our end of what carries it on.
    pub upstream_local: Option<LocalEnd>,
    /// Why the endpoint was not reached, if that is what went wrong.
    pub transport_failure: Option<Arc<dyn Error + Send + Sync>>,
    /// Status of CONNECT.
    pub status: u16,
    /// Envoy's response flag; `-` or empty for none.
    pub flags: &'static str,
    /// Why it ended, where that was not an end by both sides.
    pub detail: String,
    /// Bytes from the client.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
    /// Of these, sent and received bytes that the metrics already have.
    pub reported: (u64, u64),
    /// Snapshot that it was judged by last.
    pub generation: u64,
    /// What dry-run policies would have said.
    pub dry_run: Option<DryRun>,
    /// AUDIT rules that matched.
    pub audited: Vec<RuleName>,
}

impl StreamRecord {
    /// A record that starts now; the rest is filled along the way.
    #[must_use]
    pub fn begin(source: SourceRecord) -> Self {
        Self {
            started: SystemTime::now(),
            clock: Instant::now(),
            source,
            service: None,
            port: 0,
            local: None,
            server_name: None,
            authority: String::new(),
            decision: Decision::NotDecided,
            upstream: None,
            upstream_local: None,
            transport_failure: None,
            status: 0,
            flags: "-",
            detail: String::new(),
            bytes_received: 0,
            bytes_sent: 0,
            reported: (0, 0),
            generation: 0,
            dry_run: None,
            audited: Vec::new(),
        }
    }

    /// Sent and received bytes that the metrics do not have yet.
    pub(super) fn unreported(&self) -> (u64, u64) {
        let (sent, received) = self.reported;
        (self.bytes_sent.saturating_sub(sent), self.bytes_received.saturating_sub(received))
    }

    /// Takes the record out, to be finished; what stays behind is blank.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let source = SourceRecord { principal: None, address: self.source.address, workload: None };
        std::mem::replace(self, Self::begin(source))
    }
}
