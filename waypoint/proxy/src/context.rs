//! What a connection and a stream know, handed down by reference.

use std::net::SocketAddr;
use std::sync::Arc;

use certs::PeerIdentity;
use hbone::Target;
use spiffe_id::SpiffeId;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use waypoint_policy::{Attributes, Destination, Source};

use crate::drain::DrainWatch;
use crate::handles::Handles;
use crate::peers::Peers;
use crate::rates::Rates;
use crate::sessions::{Holder, Sessions};
use crate::settings::Settings;
use crate::snapshot::{ConfigCell, Snapshot};
use crate::telemetry::{SourceRecord, Telemetry};
use crate::upstream::Upstreams;

/// What all connections share.
pub(crate) struct Shared {
    /// Operator's choices and bounds.
    pub(crate) settings: Settings,
    /// The newest snapshot.
    pub(crate) config: ConfigCell,
    /// Towards endpoints.
    pub(crate) upstreams: Arc<Upstreams>,
    /// Where records go.
    pub(crate) telemetry: Telemetry,
    /// Who opened which MCP session.
    pub(crate) sessions: Sessions,
    /// Who made which task and context of an agent.
    pub(crate) handles: Handles,
    /// What rate and concurrency limits have counted.
    pub(crate) rates: Rates,
    /// Event streams of servers' own that each identity has open to each service.
    pub(crate) event_streams: Peers<Holder>,
    /// Bodies held for judging, in KiB (`inspected_total`).
    pub(crate) inspection: Arc<Semaphore>,
    /// Bodies kept while their answers stream, in KiB: another quarter of `inspected_total`.
    pub(crate) kept: Arc<Semaphore>,
}

/// Who says so.
#[derive(Clone, Debug)]
pub(crate) enum PeerName {
    /// The certificate of the tunnel that we terminated.
    Verified(PeerIdentity),
    /// The node's ztunnel, over loopback, in a PROXY header; `None`: its client had no identity.
    Vouched(Option<SpiffeId>),
}

/// One connection's other end. Computed once, shared by its streams.
#[derive(Clone, Debug)]
pub(crate) struct PeerContext {
    pub(crate) name: PeerName,
    /// Where it came from.
    pub(crate) address: SocketAddr,
    /// Our own identity on this connection.
    pub(crate) local: Option<SpiffeId>,
}

impl PeerContext {
    pub(crate) fn id(&self) -> Option<&SpiffeId> {
        match &self.name {
            PeerName::Verified(identity) => Some(identity.id()),
            PeerName::Vouched(id) => id.as_ref(),
        }
    }

    /// The source as the policies see it. X-Forwarded-For is not trusted, so the remote address is the tunnel's.
    pub(crate) fn source(&self) -> Source<'_> {
        let ip = self.address.ip();
        Source { identity: self.id(), ip, remote_ip: ip }
    }
}

/// One stream of a tunnel.
#[derive(Clone)]
pub(crate) struct StreamContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: Arc<PeerContext>,
    /// Where it wants to go.
    pub(crate) target: Target,
    /// Server name of the TLS ClientHello inside, where a policy asks for it and it was read.
    pub(crate) server_name: Option<Arc<str>>,
    /// The process' phase.
    pub(crate) drain: DrainWatch,
    /// Owns what outlives the inner HTTP connection: upgraded streams.
    pub(crate) upgrades: TaskTracker,
}

impl StreamContext {
    /// What an opaque stream can be judged by.
    pub(crate) fn attributes(&self, port: u16) -> Attributes<'_> {
        Attributes { source: self.peer.source(), destination: self.destination(port), http: None }
    }

    /// The address that the tunnel names.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match &self.target {
            Target::Addr(address) => Some(*address),
            Target::Host { .. } => None,
        }
    }

    /// The destination as the policies see it.
    pub(crate) fn destination(&self, port: u16) -> Destination<'_> {
        let ip = self.local().map(|address| address.ip());
        Destination { ip, port, sni: self.server_name.as_deref() }
    }

    /// The source as the records show it.
    pub(crate) fn source_record(&self, snapshot: Option<&Snapshot>) -> SourceRecord {
        let at = snapshot.and_then(|snapshot| snapshot.workload_at(self.peer.address.ip()));
        // Another identity at that address: a stale entry, or a gateway in between. Its labels would be somebody else's.
        let workload = at.filter(|workload| workload.identity.as_ref() == self.peer.id()).cloned();
        SourceRecord { principal: self.peer.id().cloned(), address: self.peer.address, workload }
    }
}
