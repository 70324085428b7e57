//! What a cluster of istiod and its endpoints say, in the words of the model.
//!
//! Translators are pure functions of one decoded resource: `cluster::translate(&Decoded<Cluster>)` gives
//! `Option<TranslatedCluster>`, where `None` is plumbing of Envoy's that nothing leads to from outside (`main_internal`, `encap`,
//! `connect_originate`, …); `endpoint::translate(&Decoded<ClusterLoadAssignment>)` gives [`TranslatedEndpoints`]. Who
//! stands at an endpoint's address is not theirs to say: the state joins it from the workload API, again whenever that changes.

use std::sync::Arc;

use waypoint_model::{Cluster, ClusterEndpoint, EndpointAddress};

use super::{MutualTls, Refused};

/// A cluster (CDS), translated.
#[derive(Clone, Debug, PartialEq)]
pub struct TranslatedCluster {
    /// The cluster. Without endpoints, unless they stand in it; with [`Cluster::unusable`] if it cannot be carried out.
    pub cluster: Cluster,
    /// The name under which its endpoints are asked for (EDS), its own or `service_name`; `None`: they stand in the cluster.
    pub endpoints_from: Option<Arc<str>>,
    /// Whether its one endpoint is the address of its service.
    pub own_destination: bool,
    /// Which of its endpoints cannot be used.
    pub mutual_tls: MutualTls,
    /// What was not understood: the reasons of a NACK.
    pub refused: Vec<Refused>,
    /// What is not carried out, for the log; it weakens nothing.
    pub notes: Vec<Refused>,
}

/// Endpoints (EDS), translated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TranslatedEndpoints {
    /// The endpoints; [`ClusterEndpoint::workload`] is `None` in each.
    pub endpoints: Vec<ClusterEndpoint>,
    /// Those of them that have a sidecar and no tunnel.
    pub sidecars: Vec<EndpointAddress>,
    /// What was not understood: the reasons of a NACK. If there are any, the last good endpoints stay.
    pub refused: Vec<Refused>,
    /// What is not carried out, for the log; it weakens nothing.
    pub notes: Vec<Refused>,
}
