//! How endpoints fare, for dumps.

use std::collections::HashMap;

use waypoint_model::{ClusterKey, EndpointAddress};

use super::Upstreams;
use super::endpoints::Owner;

/// What the data plane knows of an endpoint by having used it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Left out for a time, because it failed too often.
    pub ejected: bool,
    /// Requests and streams that run on it.
    pub active: usize,
    /// Connections that are open to it; those inside tunnels are not counted.
    pub connections: usize,
}

impl Upstreams {
    /// How the endpoints of a control plane's clusters fare now. Holds up no request.
    #[must_use]
    pub fn cluster_endpoints(&self) -> HashMap<(ClusterKey, EndpointAddress), EndpointStatus> {
        let now = self.clock.now();
        let of_cluster = |owner: &Owner| match owner {
            Owner::Cluster(key) => Some(key.clone()),
            Owner::Service(_) => None,
        };
        self.states()
            .iter()
            .filter_map(|(key, state)| {
                let status = EndpointStatus {
                    ejected: state.health.is_ejected(now),
                    active: state.health.active(),
                    connections: state.health.connections(),
                };
                Some(((of_cluster(&key.owner)?, key.address.clone()), status))
            })
            .collect()
    }
}
