// SKELETON: files endpoints.rs, connect.rs, pool.rs, send.rs
//! Towards an endpoint: which one, over which connection, and one attempt after another.
use crate::{body::Body, limits::Limits};
use certs::MeshTls;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use waypoint_model::{Locality, Protocol, Service, ServiceKey, TunnelKind, Workload, WorkloadUid};
use waypoint_policy::Permit;

/// Everything towards endpoints: health that outlives a snapshot, tunnels, inner HTTP connections.
pub struct Upstreams {
    _p: (),
}
/// The endpoints of one service port, as one snapshot sees them; their health is shared with other snapshots.
pub struct Cluster {
    _p: (),
}
/// One endpoint, counted while held.
#[derive(Clone)]
pub struct Chosen {
    pub workload: Arc<Workload>,
    pub address: SocketAddr, /* , in-flight guard */
}
#[derive(Clone, Debug, Default)]
pub struct Pick {
    /// sessions stick to their endpoint
    pub pinned: Option<WorkloadUid>,
}
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    #[error("no endpoint")]
    NoEndpoint, /* UH 503 */
    #[error("the session's endpoint is gone")]
    PinnedGone, /* 404 for the MCP session */
    #[error("circuit open")]
    Overloaded, /* UO 503 */
    #[error("connect to {endpoint}")]
    Connect {
        endpoint: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    }, /* UF 503 */
    #[error("reset by {endpoint}")]
    Reset {
        endpoint: String,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    }, /* UC 503 */
    #[error("timeout")]
    Timeout, /* UT 504 */
}
impl Upstreams {
    pub fn new(tls: MeshTls, limits: &Limits, locality: Locality) -> Arc<Self> {
        todo!()
    }
    /// The cluster of a service port (called while a snapshot is built; the state of known endpoints is kept).
    pub fn cluster(
        self: &Arc<Self>,
        service: &Arc<Service>,
        port: u16,
        workloads: &dyn Fn(&WorkloadUid) -> Option<Arc<Workload>>,
    ) -> Arc<Cluster> {
        todo!()
    }
    /// Forgets endpoints and closes pooled connections that no cluster of the newest snapshot names (pod-IP reuse).
    pub fn retain(&self, live: &[Arc<Cluster>]) {
        todo!()
    }
    /// An opaque connection: HBONE tunnel or TCP. Tries another endpoint when connecting fails (no byte was sent).
    pub async fn open_stream(
        &self,
        permit: &Permit,
        cluster: &Cluster,
        headers: HeaderMap,
    ) -> Result<(hbone::Peer, Chosen), UpstreamError> {
        todo!()
    }
    /// Sends one request: `Body::Full`/`Empty` up to the replay limit may be tried again, and only where nothing was processed
    /// (connect failure, REFUSED_STREAM), or the method is safe (GET, HEAD, OPTIONS) and no response began. Sets `chosen`.
    /// The response keeps its endpoint counted until its body ends. Upgrades are left to the caller (`hyper::upgrade::on`).
    pub async fn send(
        &self,
        permit: &Permit,
        cluster: &Cluster,
        pick: &Pick,
        version: Version,
        timeout: Option<Duration>,
        request: Request<Body>,
        chosen: &mut Option<Chosen>,
    ) -> Result<Response<Body>, UpstreamError> {
        todo!()
    }
    pub fn connections(&self) -> usize {
        todo!()
    }
}
/// What is spoken to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Http1,
    Http2,
}
impl Cluster {
    pub fn service(&self) -> &Arc<Service> {
        todo!()
    }
    pub fn port(&self) -> u16 {
        todo!()
    }
}
