//! What a connection and a stream know, handed down by reference.

use std::net::SocketAddr;
use std::sync::Arc;

use certs::PeerIdentity;
use hbone::Target;

use crate::settings::Settings;
use crate::snapshot::ConfigCell;
use crate::telemetry::Telemetry;
use crate::upstream::Upstreams;

/// What all connections share.
pub struct Shared {
    /// Operator's choices and bounds.
    pub settings: Settings,
    /// The newest snapshot.
    pub config: ConfigCell,
    /// Towards endpoints.
    pub upstreams: Arc<Upstreams>,
    /// Where records go.
    pub telemetry: Telemetry,
}

/// One authenticated connection. Computed once, shared by its streams.
#[derive(Clone)]
pub struct PeerContext {
    /// Who is at the other end, by certificate.
    pub identity: PeerIdentity,
    /// Where it came from.
    pub address: SocketAddr,
}

/// One stream of a tunnel.
#[derive(Clone)]
pub struct StreamContext {
    /// What all connections share.
    pub shared: Arc<Shared>,
    /// Its connection's peer.
    pub peer: Arc<PeerContext>,
    /// Where it wants to go.
    pub target: Target,
}
