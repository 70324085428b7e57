//! Towards an endpoint: which one, over which connection, and one attempt after another.

mod bodies;
mod cluster;
mod connect;
mod connections;
mod endpoints;
mod group;
mod health;
mod lease;
mod nearest;
mod originate;
mod own;
mod pool;
mod priorities;
mod resolve;
mod retry;
mod ring;
mod send;
mod status;
mod terms;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certs::MeshTls;
use http::{HeaderMap, Request, Response};
use waypoint_model::{
    ClusterKey, EndpointAddress, Locality, Service, TunnelKind, UpstreamTls, Workload, WorkloadUid,
};
use waypoint_policy::Permit;

use crate::body::Body;
use crate::limits::Limits;
use crate::telemetry::{Hits, LocalEnd};
use bodies::Running;
pub use cluster::Cluster;
use cluster::Sources;
pub use connect::Transport;
use connect::{ConnectError, Dialer, Spoken};
use connections::Connections;
use endpoints::{Endpoint, EndpointKey, Picked, State};
use health::{Active, Clock, Health, Outcome, Slot};
use originate::Origination;
use pool::EndpointPool;
use resolve::{Name, Resolver};
use send::{Blame, Failure, Message, RETRIES, deadline};
pub use status::EndpointStatus;
use terms::{Budget, Terms};

/// Everything towards endpoints: health that outlives a snapshot, tunnels, inner HTTP connections.
pub struct Upstreams {
    limits: Limits,
    locality: Locality,
    clock: Clock,
    connections: Connections,
    /// Locked while a snapshot is built and for metrics, never by a request.
    states: Mutex<HashMap<EndpointKey, Arc<State>>>,
    /// As `states`, of the control plane's clusters.
    budgets: Mutex<HashMap<ClusterKey, Arc<Budget>>>,
    /// As `states`, by what clusters ask for: files are read once for all that ask for the same.
    originations: Mutex<HashMap<UpstreamTls, Arc<Origination>>>,
    /// Of clusters without a policy of their own.
    terms: Arc<Terms>,
}

/// One endpoint that was chosen.
///
/// From [`Upstreams::open_stream`], and after an upgrade, it is counted as busy while this or a clone of it is held.
/// Otherwise the response body counts it.
#[derive(Clone)]
pub struct Chosen {
    /// The workload; one without a name where only the address is known.
    pub workload: Arc<Workload>,
    /// Its address and target port.
    pub address: SocketAddr,
    /// Our end of what leads there, once that is known.
    pub local: Option<LocalEnd>,
    _counted: Option<Arc<Counted>>,
}

/// What a [`Chosen`] keeps counted; never looked at.
#[expect(dead_code, reason = "held for what dropping it releases")]
enum Counted {
    Stream(Active, Slot),
    Upgrade(Running),
}

/// How an endpoint is chosen, and how long one attempt may take.
#[derive(Clone, Debug, Default)]
pub struct Pick {
    /// The workload that holds the session; no other will do.
    pub pinned: Option<WorkloadUid>,
    /// What the route's hash policies made of the request, for clusters that balance by it; `None`: any endpoint.
    pub hash: Option<u64>,
    /// One attempt, from its start to the last byte of its response; `None`: no limit of its own.
    pub backend_timeout: Option<Duration>,
    /// After which outcomes it is sent again beside those where nothing was processed; `None`: after no other.
    pub retries: Option<Arc<waypoint_model::Retries>>,
}

/// Why nothing came from upstream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The service has no ready endpoint (UH, 503).
    #[error("no endpoint")]
    NoEndpoint,
    /// A control plane's cluster that cannot be used (UH, 503).
    #[error("cluster {cluster} cannot be used: {why}")]
    Unusable {
        /// Which.
        cluster: ClusterKey,
        /// Why.
        why: Arc<str>,
    },
    /// A port leads to a cluster that nobody delivered (NC, 500).
    #[error("cluster {0} was not delivered")]
    NoCluster(ClusterKey),
    /// The workload that holds the session is gone (404 for an MCP session).
    #[error("the session's endpoint is gone")]
    PinnedGone,
    /// `limits.endpoint_requests` or `limits.endpoint_connections` is reached (UO, 503).
    #[error("circuit open")]
    Overloaded,
    /// TCP, TLS, HBONE or the check of its identity failed; nothing was sent (UF, 503).
    #[error("connect to {endpoint}")]
    Connect {
        /// Address and port.
        endpoint: String,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The connection or the stream ended before a response head (UC, 503).
    #[error("reset by {endpoint}")]
    Reset {
        /// Address and port.
        endpoint: String,
        /// Why.
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The request's or the attempt's deadline passed (UT, 504).
    #[error("timeout")]
    Timeout,
}

/// What is spoken to the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.1, one request at a time on a connection.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

impl Upstreams {
    /// Connects with `tls`, within `limits`, whose reaching `hits` counts; endpoints near `locality` are preferred.
    #[must_use]
    pub fn new(tls: MeshTls, limits: &Limits, locality: Locality, hits: Hits) -> Arc<Self> {
        let clock = Clock::start();
        let connections = Connections::new(Dialer::new(tls, limits, &hits), limits, clock, hits);
        let terms = Arc::new(Terms::of_process(limits));
        Arc::new(Self {
            limits: limits.clone(),
            locality,
            clock,
            connections,
            states: Mutex::default(),
            budgets: Mutex::default(),
            originations: Mutex::default(),
            terms,
        })
    }

    /// The cluster of a service port (called while a snapshot is built). What is known of an endpoint is kept, as long as it
    /// has the same workload, address and identity.
    #[must_use]
    pub fn cluster(
        self: &Arc<Self>,
        service: &Arc<Service>,
        port: u16,
        workloads: &dyn Fn(&WorkloadUid) -> Option<Arc<Workload>>,
    ) -> Arc<Cluster> {
        let terms = Arc::clone(&self.terms);
        self.with_sources(workloads, |sources| {
            Cluster::of_service(service, port, &self.locality, terms, sources)
        })
    }

    /// A cluster of a control plane (called while a snapshot is built), `service` being the one it belongs to, if that is
    /// known. What is known of its endpoints is kept as in [`Upstreams::cluster`].
    #[must_use]
    pub fn named_cluster(
        self: &Arc<Self>,
        cluster: &waypoint_model::Cluster,
        service: Option<&Arc<Service>>,
        workloads: &dyn Fn(&WorkloadUid) -> Option<Arc<Workload>>,
    ) -> Arc<Cluster> {
        let budget = {
            let mut budgets = self.budgets();
            let fresh = || Budget::new(cluster.key.clone());
            Arc::clone(budgets.entry(cluster.key.clone()).or_insert_with(fresh))
        };
        let tls = cluster.traffic.tls.as_ref().map(|tls| self.origination(tls));
        let terms = Arc::new(Terms::of_cluster(&self.limits, &cluster.traffic, tls, budget));
        self.with_sources(workloads, |sources| Cluster::of_model(cluster, service, terms, sources))
    }

    /// In the place of a cluster that a port of `service` leads to and nobody delivered: everything sent to it fails.
    #[must_use]
    pub fn missing_cluster(&self, key: &ClusterKey, service: &Arc<Service>, port: u16) -> Arc<Cluster> {
        Arc::new(Cluster::missing(key, service, port, Arc::clone(&self.terms)))
    }

    fn origination(&self, tls: &UpstreamTls) -> Arc<Origination> {
        let mut known = self.originations();
        Arc::clone(known.entry(tls.clone()).or_insert_with(|| Origination::new(tls)))
    }

    fn with_sources(
        &self,
        workloads: &dyn Fn(&WorkloadUid) -> Option<Arc<Workload>>,
        make: impl FnOnce(&mut Sources<'_>) -> Cluster,
    ) -> Arc<Cluster> {
        let mut known = self.states();
        let mut states = |key: EndpointKey| {
            let fresh = || {
                let connections = &self.connections;
                let hits = connections.hits.clone();
                Arc::new(State::new(key.clone(), &self.limits, &connections.resolver, hits))
            };
            Arc::clone(known.entry(key.clone()).or_insert_with(fresh))
        };
        Arc::new(make(&mut Sources { workloads, states: &mut states }))
    }

    /// Forgets endpoints that no cluster of the newest snapshot names, and lets go of their connections: what runs on them
    /// goes on, nothing new does (a pod's address may be another's by now).
    pub fn retain(&self, live: &[Arc<Cluster>]) {
        let endpoints = || live.iter().flat_map(|cluster| cluster.endpoints());
        let keys: HashSet<&EndpointKey> = endpoints().map(|endpoint| &endpoint.state.key).collect();
        let tunnels: HashSet<_> = keys.iter().filter_map(|key| key.live_tunnel()).collect();
        self.states().retain(|key, state| {
            let kept = keys.contains(key);
            if !kept {
                state.pool.close();
            }
            kept
        });
        self.connections.dialer.retain(|tunnel| tunnels.contains(tunnel));
        let named: HashSet<_> = live.iter().filter_map(|cluster| cluster.key()).collect();
        self.budgets().retain(|key, _| named.contains(key));
        self.originations().retain(|_, origination| Arc::strong_count(origination) > 1);
    }

    /// An opaque byte stream to an endpoint: an HBONE tunnel or TCP, and TLS where the cluster says so. `headers` go on the CONNECT. When connecting fails,
    /// another endpoint is tried (no byte was sent). Cancel safe.
    ///
    /// # Errors
    /// An [`UpstreamError`]; never `Reset` or `Timeout`.
    pub async fn open_stream(
        &self,
        _permit: &Permit,
        cluster: &Cluster,
        headers: HeaderMap,
    ) -> Result<(Transport, Chosen), UpstreamError> {
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut last: Option<UpstreamError> = None;
        loop {
            let picked = self.pick(cluster, &Pick::default(), &tried);
            let Picked { endpoint, active } = match (picked, last) {
                (Ok(picked), _) => picked,
                (Err(error), earlier) => return Err(earlier.unwrap_or(error)),
            };
            let failure = match self.open_at(cluster, &endpoint, headers.clone()).await {
                Ok((transport, slot)) => {
                    self.blame(&endpoint).saw(Outcome::Fine);
                    let local = transport.local();
                    let counted = Some(Counted::Stream(active, slot));
                    return Ok((transport, Chosen { local, ..Chosen::new(&endpoint, counted) }));
                }
                Err(failure) => failure,
            };
            failure.count(&self.connections.hits);
            if failure.is_of_endpoint() {
                self.blame(&endpoint).saw(Outcome::NoAnswer);
            }
            let error = failure.at(&endpoint);
            if tried.len() >= RETRIES {
                return Err(error);
            }
            tried.push(endpoint);
            last = Some(error);
        }
    }

    async fn open_at(
        &self,
        cluster: &Cluster,
        endpoint: &Endpoint,
        headers: HeaderMap,
    ) -> Result<(Transport, Slot), Failure> {
        let slot = endpoint.terms.connect(&endpoint.state.health).map_err(Failure::Connect)?;
        let slot = slot.ok_or(Failure::Connect(ConnectError::TooManyConnections))?;
        let spoken = Spoken { host: &cluster.service().key.hostname, version: None };
        let opened = self.connections.dialer.open(endpoint, headers, spoken).await;
        Ok((opened.map_err(Failure::Connect)?, slot))
    }

    /// Sends one request and waits for the head of its response.
    ///
    /// It is tried again, at most twice and on another endpoint if there is one, only where nothing was processed (connect
    /// failure, REFUSED_STREAM, GOAWAY below it, a kept connection closed before a byte was written) and its body is whole:
    /// none of it was taken, or it is held in memory and not larger than `limits.retry_replay`. GET, HEAD and OPTIONS
    /// without a body are also tried again when the connection is lost before a response.
    ///
    /// With `pick.retries` it is also tried again after the outcomes that these name, after a pause, as often as they say. A
    /// body that passes is kept for that while it is not larger than `limits.retry_replay`; beyond it there is no other attempt.
    ///
    /// `timeout` is for the whole request, to the last byte of the response; the body fails when it passes. `chosen` is set
    /// to the endpoint of the last attempt. The response keeps its endpoint counted until its body ends or is dropped; after
    /// an upgrade (`hyper::upgrade::on`) `chosen` does. Hop-by-hop headers are the caller's to remove, both ways.
    ///
    /// Dropping the future, or the response body before its end, resets the upstream at once.
    ///
    /// # Errors
    /// An [`UpstreamError`] of the last attempt.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that the caller decided")]
    pub async fn send(
        &self,
        _permit: &Permit,
        cluster: &Cluster,
        pick: &Pick,
        version: Version,
        timeout: Option<Duration>,
        request: Request<Body>,
        chosen: &mut Option<Chosen>,
    ) -> Result<Response<Body>, UpstreamError> {
        let version = cluster.version(version, request.version());
        let message = Message::new(request, version, cluster, self.limits.retry_replay);
        let mut message = message.map_err(|error| UpstreamError::Connect {
            endpoint: cluster.service().key.to_string(),
            source: Arc::new(error),
        })?;
        self.send_to(cluster, pick, version, deadline(timeout), &mut message, chosen).await
    }

    /// Open connections to endpoints: HBONE tunnels' and plain ones.
    #[must_use]
    pub fn connections(&self) -> usize {
        let states = self.states();
        let plain = states.values().filter(|state| state.key.tunnel == TunnelKind::Plain);
        plain.map(|state| state.health.connections()).sum::<usize>() + self.connections.dialer.connections()
    }

    /// Requests and opaque streams that run at endpoints.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.states().values().map(|state| state.health.active()).sum()
    }

    /// Endpoints that are ejected now.
    #[must_use]
    pub fn ejected(&self) -> usize {
        let now = self.clock.now();
        self.states().values().filter(|state| state.health.is_ejected(now)).count()
    }

    fn pick(&self, cluster: &Cluster, pick: &Pick, tried: &[Arc<Endpoint>]) -> Result<Picked, UpstreamError> {
        let picked = cluster.pick(pick, tried, self.clock.now());
        if matches!(picked, Err(UpstreamError::Overloaded)) {
            self.connections.hits.reached("endpoint_requests");
        }
        picked
    }

    fn blame(&self, endpoint: &Arc<Endpoint>) -> Blame {
        Blame { endpoint: Arc::clone(endpoint), clock: self.clock }
    }

    fn states(&self) -> MutexGuard<'_, HashMap<EndpointKey, Arc<State>>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn originations(&self) -> MutexGuard<'_, HashMap<UpstreamTls, Arc<Origination>>> {
        self.originations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budgets(&self) -> MutexGuard<'_, HashMap<ClusterKey, Arc<Budget>>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(key: EndpointKey, limits: &Limits, resolver: &Resolver, hits: Hits) -> Self {
        let name = match &key.address {
            EndpointAddress::Host(host, port) => Some(Name::new(host, *port, resolver)),
            EndpointAddress::Socket(_) => None,
        };
        let pool = EndpointPool::new(limits, hits);
        Self { key, health: Arc::new(Health::default()), pool, name }
    }
}

impl Chosen {
    fn new(endpoint: &Endpoint, counted: Option<Counted>) -> Self {
        Self {
            workload: Arc::clone(&endpoint.workload),
            address: endpoint.address(),
            local: None,
            _counted: counted.map(Arc::new),
        }
    }

    fn uncounted(endpoint: &Endpoint) -> Self {
        Self::new(endpoint, None)
    }

    fn counted(endpoint: &Endpoint, running: Running) -> Self {
        let local = running.lease.local();
        Self { local, ..Self::new(endpoint, Some(Counted::Upgrade(running))) }
    }
}

#[cfg(test)]
mod tests;
