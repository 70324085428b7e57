//! What a route does beside choosing a backend (Istio `HTTPRoute` of a `VirtualService`).

use std::time::Duration;

use serde::Serialize;

use crate::{BackendTarget, StringMatch};

/// Retries, mirrors, CORS, faults and affinity of a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RoutePolicy {
    /// When a request is sent again; `None`: the process' own rule (only where nothing was processed).
    pub retries: Option<Retries>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// Delays and errors on purpose.
    pub fault: Option<Fault>,
    /// What a [`crate::Balancing::ConsistentHash`] cluster hashes: the first that the request has.
    pub hash: Vec<HashKey>,
    /// Whether HTTP/1.1 upgrades (WebSocket) are carried.
    pub no_upgrade: bool,
}

/// When a request is sent again (Envoy `RetryPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Retries {
    /// At most so many times again.
    pub attempts: u32,
    /// After which outcomes.
    pub on: Vec<RetryOn>,
    /// One attempt.
    pub per_try_timeout: Option<Duration>,
    /// First pause, doubled each time; `None`: 25 ms.
    pub backoff: Option<Duration>,
}

/// An outcome after which a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// REFUSED_STREAM, or a GOAWAY below it.
    RefusedStream,
    /// Reset or closed before a response head.
    Reset,
    /// Reset before the request was sent whole.
    ResetBeforeRequest,
    /// Any 5xx, a reset, or no answer in time.
    ServerError,
    /// 502, 503 or 504, or as `Reset`.
    GatewayError,
    /// 409.
    Retriable4xx,
    /// One of these statuses.
    Statuses(Vec<u16>),
    /// A gRPC status, by number, in the response head.
    GrpcStatus(u32),
}

/// A copy of each request, whose answer is dropped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mirror {
    /// Where to.
    pub target: BackendTarget,
    /// Share of requests, in millionths.
    pub fraction: u32,
}

/// Cross-origin resource sharing (Istio `CorsPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Origins that may call.
    pub allow_origins: Vec<StringMatch>,
    /// `access-control-allow-methods`.
    pub allow_methods: String,
    /// `access-control-allow-headers`.
    pub allow_headers: String,
    /// `access-control-expose-headers`.
    pub expose_headers: String,
    /// `access-control-max-age`.
    pub max_age: String,
    /// `access-control-allow-credentials`.
    pub allow_credentials: bool,
    /// Preflights of other origins go on to the service instead of being answered here.
    pub forward_unmatched_preflights: bool,
}

/// Delays and errors on purpose (Istio `HTTPFaultInjection`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// A pause before the request goes on, for a share of requests in millionths.
    pub delay: Option<(Duration, u32)>,
    /// An answer of this status in its place, for a share of requests in millionths.
    pub abort: Option<(u16, u32)>,
    /// A gRPC status in its place, for a share of requests in millionths.
    pub grpc_abort: Option<(u32, u32)>,
}

/// What is hashed for affinity (Istio `ConsistentHashLB`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HashKey {
    /// A request header, lower-case name.
    Header(String),
    /// A cookie; one is set where a time to live is given and the request has none.
    Cookie {
        /// Name.
        name: String,
        /// `Path`.
        path: String,
        /// `Max-Age`; zero: a session cookie; `None`: the cookie is only read.
        ttl: Option<Duration>,
    },
    /// A query parameter.
    Query(String),
    /// The caller's address.
    SourceIp,
}
