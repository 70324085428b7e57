//! The composition root: certificates, configuration, telemetry, data plane and admin ports, put together once.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use certs::{MeshTls, SvidSource, TrustDomains};
use istio_integration::feeds::file::LoadError;
use istio_integration::feeds::istiod;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use waypoint_proxy::drain::{self, Drain};
use waypoint_proxy::snapshot::ConfigCell;
use waypoint_proxy::telemetry::Telemetry;
use waypoint_proxy::upstream::Upstreams;
use waypoint_proxy::{Collectors, Inbound, LimitServices, ListenerError, Proxy};

use crate::admin::{self, Admin, Readiness, Surface};
use crate::background::{Background, Ended};
use crate::config::{Addresses, Launch};
use crate::events::{Event, Events};
use crate::feed::{Applier, Feed};
use crate::identity::{self, IdentityError};
use crate::limit_services::GrpcLimits;
use crate::logging::LogControl;
use crate::mesh::Mesh;
use crate::shutdown::{self, Cut, Stop};
use crate::sockets;
use crate::traces::Export;

/// How long the last log lines are waited for.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How long the last spans are waited for.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// An error in one line with what caused it.
#[must_use]
pub fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_cause(cause)),
        None => error.to_string(),
    }
}

/// Where the process' words go and its orders come from.
pub struct Hooks {
    /// Access log lines.
    pub log_sink: Box<dyn Write + Send>,
    /// Events of its life.
    pub events: Events,
    /// The log's filter, for `/logging`.
    pub log: LogControl,
    /// For `/quitquitquit`.
    pub ask: mpsc::Sender<Stop>,
    /// Orders to stop.
    pub stops: mpsc::Receiver<Stop>,
}

/// Why a waypoint could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No usable certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The folder of manifests cannot be read.
    #[error("--manifests: {}\n  fix: give a folder that exists and can be read", with_cause(.0))]
    Manifests(#[from] LoadError),
    /// An address cannot be listened on.
    #[error("{flag} {address}: {source}\n  fix: choose another address, or port 0 for a free one")]
    Bind {
        /// The flag that gave it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A listener of the data plane failed.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// istiod cannot be reached as the environment says.
    #[error("istiod: {0}\n  fix: correct the container's environment")]
    Istiod(#[from] istiod::UnusableSettings),
    /// A task ended that must not: a fault of ours.
    #[error("a part of the waypoint ended by itself: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// A task beside the traffic ended that must not. The process ends too, rather than serve what is no longer kept true.
    #[error(transparent)]
    Background(#[from] Ended),
}

/// Serves until it is told to stop and everything has ended. Runs on the control thread; traffic runs on `workers`.
///
/// Not cancel safe: dropped, it ends at once and cuts what is open.
///
/// # Errors
/// [`StartError`], before anything is served, or when a listener fails or a part of the waypoint ends by itself.
pub async fn serve(launch: Launch, hooks: Hooks, workers: &Handle) -> Result<Cut, StartError> {
    let Hooks { log_sink, events, log, ask, mut stops } = hooks;
    let limits = launch.settings.limits.clone();
    let telemetry = Telemetry::new(launch.access_log, log_sink, &limits);
    let source = identity::open(&launch.identity)?;
    let tls = mesh_tls(&launch, &*source)?;
    if let Some(tracing) = &launch.tracing {
        telemetry.trace(tracing);
    }
    let core = Core::build(&launch, tls, telemetry, workers);
    let export = core.export(workers);

    let mut background = Background::default();
    let applier =
        Applier::new(core.config.clone(), core.telemetry.clone(), core.tls.clone(), workers.clone());
    let status = applier.status();
    let control_plane = follow(&launch.mesh, applier, &core.telemetry, limits.xds_queue, &mut background)?;
    let report = report_certificate(core.tls.clone(), core.telemetry.clone());
    background.spawn("the report of certificates", report);

    let (drain, drain_watch) = drain::channel();
    let bound = watch::Sender::new(false);
    let readiness = Readiness {
        source: Arc::clone(&source),
        svid: core.tls.svid(),
        generation: core.config.generations(),
        control_plane,
        bound: bound.subscribe(),
        drain: drain_watch,
    };
    let admin = Arc::new(Admin {
        config: core.config.clone(),
        proxy: Arc::clone(&core.proxy),
        upstreams: Arc::clone(&core.upstreams),
        telemetry: core.telemetry.clone(),
        readiness: readiness.clone(),
        feed: status,
        launch: launch.clone(),
        log,
        started: SystemTime::now(),
        stop: ask,
    });
    let listeners = Listeners::bind(&launch.addresses, &events, workers)?;
    let traffic = listeners.serve(&core.proxy, &drain, &admin, workers, &mut background);
    bound.send_replace(true);
    background.spawn("the report of readiness", tell_ready(readiness, events.clone()));

    let open = || (core.proxy.open(), core.telemetry.open_streams());
    let parts = Parts { traffic, background };
    let outcome = until_stopped(&drain, &limits, &mut stops, &events, parts, open).await;
    drop(source);
    if let Some(export) = export
        && !export.finish(LAST_SPANS).await
    {
        tracing::warn!("the last spans could not be exported");
    }
    finish(&events, &core.telemetry, &outcome);
    outcome
}

/// Starts what tells us the mesh: manifests are read before anything is served, istiod may come later. Returns how the
/// connection to a control plane stands.
fn follow(
    mesh: &Mesh,
    mut applier: Applier,
    telemetry: &Telemetry,
    queue: usize,
    background: &mut Background,
) -> Result<Option<watch::Receiver<istiod::Connection>>, StartError> {
    match mesh {
        Mesh::Manifests(manifests) => {
            let (feed, first) = Feed::open(manifests)?;
            applier.load(first);
            background.spawn("the feed of manifests", feed.follow(applier));
            Ok(None)
        }
        Mesh::Istiod(bootstrap) => {
            let hits = telemetry.hits();
            let feed = istiod::Feed::new(bootstrap, queue)?.on_full(move || hits.reached("xds_queue"));
            let connection = feed.connection();
            background.spawn("the feed of istiod", async { match feed.follow(applier).await {} });
            Ok(Some(connection))
        }
    }
}

/// The parts that carry traffic.
struct Core {
    tls: MeshTls,
    telemetry: Telemetry,
    upstreams: Arc<Upstreams>,
    config: ConfigCell,
    proxy: Arc<Proxy>,
}

impl Core {
    fn build(launch: &Launch, tls: MeshTls, telemetry: Telemetry, workers: &Handle) -> Self {
        let _traffic = workers.enter();
        let settings = launch.settings.clone();
        let upstreams =
            Upstreams::new(tls.clone(), &settings.limits, launch.locality.clone(), telemetry.hits());
        let config = ConfigCell::new(Arc::clone(&upstreams));
        let mesh = Collectors::new(config.clone(), Arc::clone(&upstreams));
        let limits: Arc<dyn LimitServices> = Arc::new(GrpcLimits::new(mesh));
        let (tls_of, telemetry_of, upstreams_of) = (tls.clone(), telemetry.clone(), Arc::clone(&upstreams));
        let proxy = Proxy::new(settings, tls_of, telemetry_of, upstreams_of, config.clone(), Some(limits));
        Self { tls, telemetry, upstreams, config, proxy }
    }
}

impl Core {
    /// Starts to export spans. They travel as requests do, so on the workers.
    fn export(&self, workers: &Handle) -> Option<Export> {
        let _traffic = workers.enter();
        let mesh = Collectors::new(self.config.clone(), Arc::clone(&self.upstreams));
        Some(Export::start(self.telemetry.spans()?, mesh))
    }
}

fn mesh_tls(launch: &Launch, source: &dyn SvidSource) -> Result<MeshTls, IdentityError> {
    let aliases = launch.mesh.trust_domain_aliases().to_vec();
    let revocations = identity::revocations(launch.crl.as_deref())?;
    Ok(MeshTls::new(source, TrustDomains { aliases }, revocations))
}

/// Bound sockets.
struct Listeners {
    hbone: TcpListener,
    proxy_protocol: Option<TcpListener>,
    admin: TcpListener,
    metrics: TcpListener,
    envoy_metrics: Option<TcpListener>,
    ready: TcpListener,
}

impl Listeners {
    fn bind(addresses: &Addresses, events: &Events, workers: &Handle) -> Result<Self, StartError> {
        let bind = |flag, what, address| {
            // A socket belongs to the runtime on which it was made: traffic and readiness to the workers.
            let traffic = matches!(what, "hbone" | "proxy_protocol" | "ready");
            let listener = if traffic {
                let _traffic = workers.enter();
                sockets::listen(address)
            } else {
                sockets::listen(address)
            };
            let listener = listener.map_err(|source| StartError::Bind { flag, address, source })?;
            let address = listener.local_addr().unwrap_or(address);
            events.tell(Event::Listening { what, address });
            Ok::<_, StartError>(listener)
        };
        Ok(Self {
            // First: a kubelet that finds nobody there starts us again.
            ready: bind("--ready-address", "ready", addresses.ready)?,
            hbone: bind("--hbone-address", "hbone", addresses.hbone)?,
            proxy_protocol: match addresses.proxy_protocol {
                Some(address) => Some(bind("--proxy-protocol-address", "proxy_protocol", address)?),
                None => None,
            },
            admin: bind("--admin-address", "admin", addresses.admin)?,
            metrics: bind("--metrics-address", "metrics", addresses.metrics)?,
            envoy_metrics: match addresses.envoy_metrics {
                Some(address) => Some(bind("Envoy's metrics port", "envoy_metrics", address)?),
                None => None,
            },
        })
    }

    /// Starts to serve: the tasks of the set returned end when everything is drained, the ports in `background` do not.
    fn serve(
        self,
        proxy: &Arc<Proxy>,
        drain: &Drain,
        admin: &Arc<Admin>,
        workers: &Handle,
        background: &mut Background,
    ) -> JoinSet<Result<(), ListenerError>> {
        let mut traffic = JoinSet::new();
        let mut carry = |listener: TcpListener, inbound: Inbound| {
            let (proxy, drain) = (Arc::clone(proxy), drain.watch());
            traffic.spawn_on(async move { proxy.serve(listener, inbound, drain).await }, workers);
        };
        carry(self.hbone, Inbound::Hbone);
        if let Some(listener) = self.proxy_protocol {
            carry(listener, Inbound::ProxyProtocol);
        }
        let port = |listener, surface| admin::serve(listener, surface, Arc::clone(admin));
        background.spawn("the admin port", port(self.admin, Surface::Admin));
        background.spawn("the metrics port", port(self.metrics, Surface::Metrics));
        if let Some(listener) = self.envoy_metrics {
            background.spawn("the port of Envoy's metrics", port(listener, Surface::EnvoyMetrics));
        }
        // Among the traffic, so that it tests the path it speaks for.
        background.spawn_on("the readiness port", port(self.ready, Surface::Ready), workers);
        traffic
    }
}

/// Everything that runs.
struct Parts {
    /// Ends when everything is drained.
    traffic: JoinSet<Result<(), ListenerError>>,
    /// Never ends.
    background: Background,
}

impl Parts {
    /// Waits until everything is drained, or for the first part that fails. Cancel safe.
    async fn served(&mut self) -> Result<(), StartError> {
        loop {
            // Both arms are cancel safe.
            tokio::select! {
                ended = self.traffic.join_next() => match ended {
                    Some(ended) => ended??,
                    None => return Ok(()),
                },
                ended = self.background.ended() => return Err(ended.into()),
            }
        }
    }
}

/// Waits for the stop and drains, or for a part that fails before.
async fn until_stopped(
    drain: &Drain,
    limits: &waypoint_proxy::limits::Limits,
    stops: &mut mpsc::Receiver<Stop>,
    events: &Events,
    mut parts: Parts,
    open: impl Fn() -> (usize, usize),
) -> Result<Cut, StartError> {
    let mut failed = Ok(());
    let served = async { failed = parts.served().await };
    let cut = shutdown::drain(drain, limits, stops, events, served, open).await;
    failed.map(|()| cut)
}

fn finish(events: &Events, telemetry: &Telemetry, outcome: &Result<Cut, StartError>) {
    if let Ok(cut) = outcome {
        if cut.streams > 0 || cut.connections > 0 {
            let (connections, streams) = (cut.connections, cut.streams);
            tracing::warn!(connections, streams, "cut at the end of the drain");
        }
        events.tell(Event::Stopped { connections_cut: cut.connections, streams_cut: cut.streams });
    }
    if !telemetry.flush(LAST_LINES) {
        tracing::warn!("the last access log lines could not be written");
    }
}

/// Tells once, and then waits for ever, as all that runs in the background.
async fn tell_ready(mut readiness: Readiness, events: Events) {
    let generation = readiness.reached().await;
    events.tell(Event::Ready { generation });
    std::future::pending().await
}

/// Shows when our certificate expires, and says each new one.
async fn report_certificate(tls: MeshTls, telemetry: Telemetry) {
    let mut svids = tls.svid();
    loop {
        let current = svids.borrow_and_update().clone();
        if let Some(svid) = current {
            telemetry.certificate(svid.not_after());
            tracing::info!(id = %svid.id(), serial = svid.serial(), "certificate");
        }
        if svids.changed().await.is_err() {
            let never: Infallible = std::future::pending().await;
            match never {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_by_itself_ends_the_process_although_nobody_asked() {
        let (drain, _watch) = drain::channel();
        let (_ask, mut stops) = shutdown::stops();
        let limits = waypoint_proxy::limits::Limits::default();
        let mut parts = Parts { traffic: JoinSet::new(), background: Background::default() };
        parts.traffic.spawn(std::future::pending());
        parts.background.spawn("the feed of manifests", async {});
        let events = Events::new(|_| {});
        let outcome = until_stopped(&drain, &limits, &mut stops, &events, parts, || (0, 0));
        let outcome = tokio::time::timeout(Duration::from_secs(10), outcome).await.expect("it ends");
        assert_eq!(outcome.unwrap_err().to_string(), "the feed of manifests ended by itself");
    }
}
