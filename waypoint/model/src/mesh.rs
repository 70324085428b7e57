//! The root of the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::{Cluster, ClusterKey, Pods, Policy, PolicyKey, Route, RouteKey, Service, ServiceKey, Workloads};

/// Entries by key, in order, so that dumps and tests are stable.
pub type Map<K, V> = BTreeMap<K, V>;

/// Everything a waypoint was told: what it fronts, who stands behind and before it, and what is permitted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeshConfig {
    /// Services that this waypoint fronts, and those its routes lead to.
    pub services: Map<ServiceKey, Arc<Service>>,
    /// Workloads that are addressed by their own address, if this waypoint stands before any.
    pub pods: Option<Arc<Pods>>,
    /// Workloads: endpoints, and the sources whose labels telemetry shows.
    pub workloads: Workloads,
    /// Policies by key; what each service is subject to is in [`Service::policies`].
    pub policies: Map<PolicyKey, Arc<Policy>>,
    /// Routes by key; those of a service are in [`Service::routes`].
    pub routes: Map<RouteKey, Arc<Route>>,
    /// Clusters by key: where routes and ports of a control plane lead. Without one a service's own endpoints are used.
    pub clusters: Map<ClusterKey, Arc<Cluster>>,
    /// How request paths are made comparable before they are judged and sent on (Istio `MeshConfig.pathNormalization`).
    pub path_normalization: PathNormalization,
    /// Trust domains whose clients are accepted beside those of our own (Istio `MeshConfig.trustDomainAliases`); `None`: those
    /// that the process was told.
    pub trust_domains: Option<Vec<String>>,
}

/// Istio's path normalization, from weakest to strongest. Percent-encoded `%2F` and `%5C` are decoded by the last only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum PathNormalization {
    /// The path as received.
    None,
    /// RFC 3986 dot segments resolved, `\` read as `/`. Istio's default.
    #[default]
    Base,
    /// `Base`, and runs of `/` merged.
    MergeSlashes,
    /// `%2F` and `%5C` decoded first, then as `MergeSlashes`.
    DecodeAndMergeSlashes,
}
