//! The four types that a waypoint subscribes to.

use std::fmt;

use serde::Serialize;

/// A type of resource of istiod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// Where requests go (CDS).
    Cluster,
    /// Who serves a cluster (EDS).
    Endpoint,
    /// What is fronted, and what holds on it (LDS).
    Listener,
    /// Who is who: workloads and services (the workload API).
    Address,
}

impl Kind {
    /// All, in the order in which istiod pushes them.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Address];

    /// As xDS names it.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Address => "type.googleapis.com/istio.workload.Address",
        }
    }

    /// The type that xDS names so.
    #[must_use]
    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == type_url)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "clusters",
            Self::Endpoint => "endpoints",
            Self::Listener => "listeners",
            Self::Address => "workloads",
        })
    }
}
