//! The one mapping from failure to wire: status, response flag, detail, and whose fault it is.

use std::sync::Arc;

use agent_protocols::Malformed;
use hbone::Target;
use http::StatusCode;
use waypoint_policy::Denial;

use crate::jwt::Rejection;
use crate::rates::Limited;
use crate::telemetry::causes;
use crate::upstream::UpstreamError;

/// Why a request or a stream was not carried.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// CONNECT to something that this waypoint does not front, or to itself.
    #[error("no service of this waypoint owns {0}")]
    NotOurs(Target),
    /// A service of ours, but not that port; or a name that nobody told us of.
    #[error("{0} is not known")]
    UnknownDestination(Target),
    /// Not CONNECT, or an authority that cannot be read.
    #[error("the CONNECT request is malformed")]
    BadConnect,
    /// The policies say no.
    #[error("denied by policy")]
    Denied(Denial),
    /// It came too often, or while too many others ran.
    #[error("limited by {}", .0.limit)]
    Limited(Box<Limited>),
    /// Its token is not good.
    #[error("{why}")]
    Token {
        /// What is wrong with it.
        why: Rejection,
        /// What was asked for, as the answer's challenge names it.
        realm: String,
    },
    /// The request cannot be read in one way only.
    #[error("{0}")]
    Malformed(Malformed),
    /// The head of a plain HTTP request is ambiguous or not allowed, by name.
    #[error("{0}")]
    BadRequest(&'static str),
    /// A body larger than `inspected_body`.
    #[error("the body exceeds {limit} bytes and could not be judged")]
    TooLargeToInspect {
        /// The bound.
        limit: usize,
    },
    /// `inspected_total` is used up.
    #[error("too many bodies are being judged")]
    InspectionBusy,
    /// The client broke its body off.
    #[error("the request body did not arrive")]
    BodyNotReceived,
    /// The client did not send its body within `inspection_timeout`.
    #[error("the request body did not arrive in time")]
    BodyTooSlow,
    /// The session is not one that this identity opened here.
    #[error("the session is not known")]
    SessionNotFound,
    /// An agent's task or context that is not this identity's.
    #[error("the task is not known")]
    TaskNotFound,
    /// Routes exist and none takes the request.
    #[error("no route matches")]
    NoRoute,
    /// A route leads nowhere.
    #[error("route leads nowhere: {0}")]
    BrokenRoute(Arc<str>),
    /// The port has a filter or a setting that is not understood, so nothing is served on it (fail closed).
    #[error("not served: {0}")]
    Unserved(Arc<str>),
    /// Nothing usable came from the endpoint.
    #[error("{0}")]
    Upstream(#[source] UpstreamError),
    /// The head of a request is larger than `limits.header_list`.
    #[error("the request's head is too large")]
    HeadTooLarge,
    /// An answer that had to be filtered could not be read.
    #[error("the answer could not be filtered: {0}")]
    Unscreenable(&'static str),
    /// The request's deadline passed.
    #[error("the request took longer than its route allows")]
    Timeout,
}

/// The setting behind a bound of the protocol reader.
fn of_reading(name: &str) -> Option<&'static str> {
    Some(match name {
        "too_deep" => "json_depth",
        "too_many_members" => "json_members",
        "key_too_long" => "json_key",
        "batch_too_long" | "too_many_subscriptions" => "batch_messages",
        "name_too_long" => "name_length",
        "too_many_parameters" => "parameter_headers",
        "too_many_streams" => "peer_event_streams",
        _ => return None,
    })
}

/// Envoy's word (*Response code details* of its documentation), and the causes where it leaves room for them.
fn of_upstream(error: &UpstreamError) -> String {
    let reset = |reason: &str| format!("upstream_reset_before_response_started{{{reason}}}");
    match error {
        UpstreamError::NoEndpoint => "no_healthy_upstream".to_owned(),
        UpstreamError::NoCluster(_) => format!("cluster_not_found{{{error}}}"),
        UpstreamError::Timeout => "response_timeout".to_owned(),
        UpstreamError::Overloaded => reset("overflow"),
        UpstreamError::Connect { .. } => reset(&format!("remote_connection_failure|{}", causes(error))),
        UpstreamError::Reset { .. } => reset(&format!("connection_termination|{}", causes(error))),
        UpstreamError::Unusable { .. } | UpstreamError::PinnedGone => causes(error),
    }
}

impl Refusal {
    /// HTTP status of the answer, inside a tunnel or on CONNECT.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest("inner_connect") => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest("upgrade") => StatusCode::FORBIDDEN, // As Envoy answers it.
            Self::NotOurs(_) | Self::BadConnect | Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::UnknownDestination(_) | Self::Unserved(_) | Self::InspectionBusy => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::Limited(limited) => {
                StatusCode::from_u16(limited.refusal.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS)
            }
            Self::Token { why, .. } => why.status(),
            Self::Malformed(malformed) => malformed.status,
            Self::TooLargeToInspect { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyNotReceived | Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::SessionNotFound | Self::TaskNotFound | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BrokenRoute(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unscreenable(_) => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Upstream(error) => match error {
                UpstreamError::PinnedGone => StatusCode::NOT_FOUND,
                UpstreamError::Timeout => StatusCode::GATEWAY_TIMEOUT,
                UpstreamError::NoCluster(_) => StatusCode::INTERNAL_SERVER_ERROR,
                UpstreamError::NoEndpoint
                | UpstreamError::Unusable { .. }
                | UpstreamError::Overloaded
                | UpstreamError::Connect { .. }
                | UpstreamError::Reset { .. } => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }

    /// Envoy's response flag, `-` where Envoy has none.
    #[must_use]
    pub fn flag(&self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::BrokenRoute(_) => "NC",
            Self::Timeout => "UT",
            Self::Limited(_) => "RL",
            Self::BodyNotReceived | Self::BodyTooSlow => "DC",
            Self::InspectionBusy => "UO",
            Self::Upstream(error) => match error {
                UpstreamError::NoEndpoint | UpstreamError::Unusable { .. } | UpstreamError::PinnedGone => {
                    "UH"
                }
                UpstreamError::NoCluster(_) => "NC",
                UpstreamError::Overloaded => "UO",
                UpstreamError::Connect { .. } => "UF",
                UpstreamError::Reset { .. } => "UC",
                UpstreamError::Timeout => "UT",
            },
            Self::Malformed(_)
            | Self::BadRequest(_)
            | Self::BadConnect
            | Self::HeadTooLarge
            | Self::TooLargeToInspect { .. } => "DPE",
            Self::NotOurs(_) | Self::UnknownDestination(_) | Self::Unserved(_) => "NR",
            Self::Denied(_)
            | Self::Token { .. }
            | Self::SessionNotFound
            | Self::TaskNotFound
            | Self::Unscreenable(_) => "-",
        }
    }

    /// Bounded name for `portcullis_refusals_total{reason}`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotOurs(_) => "not_ours",
            Self::UnknownDestination(_) => "unknown_destination",
            Self::BadConnect => "bad_connect",
            Self::Denied(_) => "denied",
            Self::Limited(_) => "limited",
            Self::Token { why, .. } => why.name(),
            Self::Malformed(malformed) => malformed.name(),
            Self::BadRequest(name) => name,
            Self::TooLargeToInspect { .. } => "too_large_to_inspect",
            Self::HeadTooLarge => "head_too_large",
            Self::InspectionBusy => "inspection_busy",
            Self::BodyNotReceived => "body_not_received",
            Self::BodyTooSlow => "body_too_slow",
            Self::SessionNotFound => "session_not_found",
            Self::TaskNotFound => "task_not_found",
            Self::NoRoute => "no_route",
            Self::BrokenRoute(_) => "broken_route",
            Self::Unserved(_) => "unserved",
            Self::Unscreenable(_) => "unscreenable",
            Self::Timeout => "timeout",
            Self::Upstream(error) => match error {
                UpstreamError::NoEndpoint => "no_endpoint",
                UpstreamError::Unusable { .. } => "cluster_unusable",
                UpstreamError::NoCluster(_) => "no_cluster",
                UpstreamError::PinnedGone => "session_endpoint_gone",
                UpstreamError::Overloaded => "overloaded",
                UpstreamError::Connect { .. } => "upstream_connect",
                UpstreamError::Reset { .. } => "upstream_reset",
                UpstreamError::Timeout => "upstream_timeout",
            },
        }
    }

    /// The setting whose bound was reached, if that is the cause.
    #[must_use]
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            Self::TooLargeToInspect { .. } => Some("inspected_body"),
            Self::HeadTooLarge => Some("header_list"),
            Self::InspectionBusy => Some("inspected_total"),
            Self::BodyTooSlow => Some("inspection_timeout"),
            Self::Unscreenable("list_too_large") => Some("screened_list"),
            Self::Unscreenable("list_too_long") => Some("list_entries"),
            Self::Malformed(malformed) => of_reading(malformed.name()),
            // Bounds towards endpoints are counted there, at every attempt.
            _no_bound => None,
        }
    }

    /// Why an endpoint was not reached, if that is what went wrong.
    #[must_use]
    pub fn transport_failure(&self) -> Option<Arc<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Upstream(UpstreamError::Connect { source, .. }) => Some(Arc::clone(source)),
            _reached => None,
        }
    }

    /// Response code details, as the access log shows them. Never sent to a client.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Denied(denial) => denial.reason.detail(),
            Self::Limited(limited) => limited.detail(),
            Self::Token { why, .. } => why.detail(),
            Self::NoRoute => "route_not_found".to_owned(),
            Self::Timeout => "response_timeout".to_owned(),
            Self::Upstream(error) => of_upstream(error),
            other => format!("{}: {other}", other.reason()),
        }
    }
}
