//! What is particular to one port of a service.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::{
    ClusterKey, GlobalLimit, JwtRule, LocalLimit, PathNormalization, PolicyKey, RouteKey, TelemetrySettings,
};

/// What holds on one port beside what its service says. istiod compiles one filter chain for each port; a feed of
/// manifests leaves it empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Chain {
    /// Policies of this port, beside [`crate::Service::policies`].
    pub policies: Vec<PolicyKey>,
    /// Routes of this port, tried after [`crate::Service::routes`].
    pub routes: Vec<RouteKey>,
    /// Tokens that are accepted on this port, beside [`crate::Service::jwt`].
    pub jwt: Vec<Arc<JwtRule>>,
    /// Where requests go that no route takes; `None`: to the service's own endpoints.
    pub cluster: Option<ClusterKey>,
    /// Where opaque streams go, by weight; empty: as `cluster` says.
    pub streams: Vec<(ClusterKey, u32)>,
    /// How long opaque streams may last.
    #[serde(skip_serializing_if = "StreamBounds::is_none")]
    pub stream_bounds: StreamBounds,
    /// Path normalization of this port; `None`: the mesh's.
    pub path_normalization: Option<PathNormalization>,
    /// What is told of its traffic; `None`: the settings of the process.
    pub telemetry: Option<Arc<TelemetrySettings>>,
    /// Limits of this port, each of which must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Arc<LocalLimit>>,
    /// Limits of this port that a service counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub global_limits: Vec<Arc<GlobalLimit>>,
    /// Why nothing is served on this port, e.g. a filter that is not known: every request is answered with 503, every
    /// opaque stream is refused (fail closed).
    pub unusable: Option<String>,
}

/// How long opaque streams may last (Istio `ConnectionPoolSettings.TCPSettings`); `None`: as long as they like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamBounds {
    /// Without a byte either way.
    pub idle: Option<Duration>,
    /// At all.
    pub whole: Option<Duration>,
}

impl StreamBounds {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}
