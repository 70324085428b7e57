//! What the mesh looks like to the waypoint: plain, immutable data that a feed emits and a snapshot is built from.
//!
//! It knows no wire format: neither Envoy's, nor Istio's, nor Kubernetes'. Entries refer to each other by key, so
//! that one changed entry is one changed `Arc`.

mod authz;
mod ids;
mod mesh;
mod route;
mod service;
mod string_match;
mod workload;

pub use authz::{Action, Expr, Policy, Rule, Test};
pub use ids::{PolicyKey, RouteKey, ServiceKey, WorkloadUid};
pub use mesh::{Map, MeshConfig, PathNormalization};
pub use route::{
    Backend, BackendTarget, HeaderChange, HeaderMatch, PathMatch, PathRewrite, QueryMatch, Redirect, Rewrite,
    Route, RouteAction, RouteMatch, RouteRule,
};
pub use service::{Endpoint, Protocol, Service, ServicePort};
pub use string_match::{PathPattern, StringMatch, Template, TemplateError};
pub use workload::{Locality, TunnelKind, Workload};
