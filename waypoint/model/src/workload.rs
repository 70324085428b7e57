//! Workloads: who stands at an address.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use spiffe_id::SpiffeId;

use crate::WorkloadUid;

/// A pod or a VM: its addresses, its identity and the names telemetry shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workload {
    /// Unique id.
    pub uid: WorkloadUid,
    /// Pod or WorkloadEntry name.
    pub name: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The exact SPIFFE ID that its certificate bears; `None` where no mTLS is spoken to it.
    pub identity: Option<SpiffeId>,
    /// How it is reached.
    pub tunnel: TunnelKind,
    /// Where it runs.
    pub locality: Locality,
    /// Owning workload (Deployment, …), `name` where unknown.
    pub workload_name: Arc<str>,
    /// `service.istio.io/canonical-name`.
    pub canonical_name: Arc<str>,
    /// `service.istio.io/canonical-revision`.
    pub canonical_revision: Arc<str>,
    /// Label `app`.
    pub app: Option<Arc<str>>,
    /// Label `version`.
    pub version: Option<Arc<str>>,
    /// Cluster id.
    pub cluster: Arc<str>,
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
    pub region: Arc<str>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// Label `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}
