//! Workloads: who stands at an address.

use std::net::IpAddr;

use serde::Serialize;
use spiffe_id::SpiffeId;

use crate::WorkloadUid;

/// A pod or a VM: its addresses, its identity and the names telemetry shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Unique id.
    pub uid: WorkloadUid,
    /// Pod or WorkloadEntry name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The exact SPIFFE ID that its certificate bears; `None` where no mTLS is spoken to it.
    pub identity: Option<SpiffeId>,
    /// How it is reached.
    pub tunnel: TunnelKind,
    /// Where it runs.
    pub locality: Locality,
    /// Owning workload (Deployment, …), `name` where unknown.
    pub workload_name: String,
    /// `service.istio.io/canonical-name`.
    pub canonical_name: String,
    /// `service.istio.io/canonical-revision`.
    pub canonical_revision: String,
    /// Label `app`.
    pub app: Option<String>,
    /// Label `version`.
    pub version: Option<String>,
    /// Cluster id.
    pub cluster: String,
}

/// How a workload is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum TunnelKind {
    /// Plain TCP to the workload's address and port.
    Plain,
    /// An HBONE tunnel (mutual TLS, HTTP/2 CONNECT) to the workload's address, port 15008.
    Hbone,
}

/// Region, zone and subzone; empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Locality {
    /// Label `topology.kubernetes.io/region`.
    pub region: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: String,
    /// Label `topology.istio.io/subzone`.
    pub subzone: String,
}
