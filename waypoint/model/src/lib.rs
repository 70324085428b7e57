//! What the mesh looks like to the waypoint: plain, immutable data that a feed emits and a snapshot is built from.
//!
//! It knows no wire format: neither Envoy's, nor Istio's, nor Kubernetes'. Entries refer to each other by key, so
//! that one changed entry is one changed `Arc`.

mod authz;
mod chain;
mod cluster;
mod ids;
mod jwt;
mod mesh;
mod rates;
mod route;
mod service;
mod string_match;
mod telemetry;
mod traffic;
mod workload;
mod workloads;

pub use authz::{Action, Expr, Policy, Rule, Test};
pub use chain::{Chain, StreamBounds};
pub use cluster::{
    Balancing, Cluster, ClusterEndpoint, ConnectionLimits, EndpointAddress, HttpVersion, OutlierDetection,
    TrafficPolicy, UpstreamTls,
};
pub use ids::{ClusterKey, PolicyKey, RouteKey, ServiceKey, WorkloadUid};
pub use jwt::{Jwks, JwtLocations, JwtRule};
pub use mesh::{Map, MeshConfig, PathNormalization};
pub use rates::{
    Absent, DescribedBy, DescribedQuota, Description, DescriptionPart, GlobalLimit, LimitRefusal,
    LimitService, LimitShare, LocalLimit, Quota, TokenBucket,
};
pub use route::{
    Backend, BackendTarget, HeaderChange, HeaderMatch, PathMatch, PathRewrite, QueryMatch, Redirect, Rewrite,
    Route, RouteAction, RouteMatch, RouteOrder, RouteRule,
};
pub use service::{Endpoint, Pods, Protocol, Service, ServicePort};
pub use string_match::{PathPattern, Pattern, StringMatch, Template, TemplateError};
pub use telemetry::{
    AccessLog, Collector, CollectorAddress, CollectorProtocol, DryRunTag, LabelValue, LogFormat,
    MetricOverride, SpanTag, SpanTagValue, TelemetrySettings, TraceForm, TracingSettings,
};
pub use traffic::{Cors, Fault, HashKey, Mirror, Retries, RetryOn, RoutePolicy};
pub use workload::{Locality, TunnelKind, Workload};
pub use workloads::Workloads;
