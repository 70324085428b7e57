//! Limits: how often, and how many at once.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::ClusterKey;

/// One part of the port's limits, counted by this process alone (Envoy `LocalRateLimit`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LocalLimit {
    /// Names it in the log and in metrics (`stat_prefix`).
    pub name: Arc<str>,
    /// How requests are described to it.
    pub descriptions: Vec<Description>,
    /// The quotas of what is described. One request may meet several.
    pub quotas: Vec<DescribedQuota>,
    /// For every request, or for those that meet none of `quotas`.
    pub general: Option<Quota>,
    /// Whether `general` also counts what meets one of `quotas`.
    pub general_counts_all: bool,
    /// For which requests it holds.
    pub share: LimitShare,
    /// How a refusal looks.
    pub refusal: LimitRefusal,
}

/// Limits over all replicas, counted by a service (Envoy's rate limit service, version 3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GlobalLimit {
    /// Names it in the log and in metrics.
    pub name: Arc<str>,
    /// The service's name for this set of limits.
    pub domain: Arc<str>,
    /// How requests are described to it. A request that none describes is not asked for.
    pub descriptions: Vec<Description>,
    /// Where it is.
    pub service: LimitService,
    /// `:authority` of the calls; `None`: the name of the cluster.
    pub authority: Option<String>,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Whether requests are refused where there is no answer. Envoy's default is that they pass.
    pub deny_on_failure: bool,
    /// For which requests it holds.
    pub share: LimitShare,
    /// How a refusal looks.
    pub refusal: LimitRefusal,
}

/// Where a rate limit service is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum LimitService {
    /// A cluster of the control plane.
    Cluster(ClusterKey),
    /// A host name of a service and its port.
    Service(Arc<str>, u16),
}

/// For which requests a limit holds, in millionths of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LimitShare {
    /// Counted.
    pub counted: u32,
    /// Of these, refused when the limit is reached; the others are only told of.
    pub enforced: u32,
}

impl LimitShare {
    /// Every request.
    pub const ALL: Self = Self { counted: 1_000_000, enforced: 1_000_000 };
}

/// How a refusal looks to plain HTTP and gRPC. MCP has answers of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitRefusal {
    /// HTTP status, from 400.
    pub status: u16,
    /// Whether gRPC is told RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub exhausted: bool,
    /// Headers of the answer, literal.
    pub headers: Vec<(String, String)>,
}

impl Default for LimitRefusal {
    fn default() -> Self {
        Self { status: 429, exhausted: false, headers: Vec::new() }
    }
}

/// One way to describe a request: its parts in order.
pub type Description = Vec<DescriptionPart>;

/// One part of a description: a key, and a value that the request gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DescriptionPart {
    /// The key.
    pub key: String,
    /// Where its value is from.
    pub value: DescribedBy,
    /// What happens where the request has no such value.
    pub absent: Absent,
}

/// What of a request a part is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum DescribedBy {
    /// This text.
    Text(String),
    /// The caller's SPIFFE ID.
    Principal,
    /// The caller's address.
    RemoteAddress,
    /// A request header, lower-case name.
    Header(String),
    /// A fact of a protocol, as policies name it: filter `http.mcp` and key `tool`.
    Fact {
        /// Without `envoy.filters.`.
        filter: String,
        /// As in `experimental.envoy.filters.<filter>[<key>]`.
        key: String,
    },
}

/// What a part is where the request has no value for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Absent {
    /// The whole description does not hold.
    #[default]
    NotDescribed,
    /// The part is left out.
    LeftOut,
    /// This text.
    Text(String),
}

/// The quota of requests that are described so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DescribedQuota {
    /// Keys and values of the description, all of them and in this order. `None`: any value, and each has a quota of its own.
    pub entries: Vec<(String, Option<String>)>,
    /// How much.
    pub quota: Quota,
    /// Only told of, never refused.
    pub shadow: bool,
}

/// How much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Quota {
    /// A token for each request.
    Rate(TokenBucket),
    /// So many at once.
    Concurrent(u32),
}

/// A bucket that fills steadily.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TokenBucket {
    /// Tokens when it is full: so many requests may come at once. Not zero.
    pub most: u32,
    /// Tokens that come in each `interval`. Not zero.
    pub fill: u32,
    /// At least a millisecond.
    pub interval: Duration,
}
