//! Sockets: accepting, the cap on connections, and what each connection is driven through.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use certs::MeshTls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::context::{PeerContext, PeerName, Shared};
use crate::drain::{DrainWatch, Phase};
use crate::handles::Handles;
use crate::peer_watch::PeerWatch;
use crate::peers::Peers;
use crate::rates::{LimitServices, Rates};
use crate::sessions::Sessions;
use crate::settings::Settings;
use crate::snapshot::ConfigCell;
use crate::socket::ReadAhead;
use crate::telemetry::Telemetry;
use crate::upstream::Upstreams;
use crate::{sandwich, socket, tunnel};

/// Pause after an accept error that will not go away at once (out of descriptors or memory).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What arrives at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// HBONE: mutual TLS, HTTP/2, CONNECT.
    Hbone,
    /// Plain streams behind a PROXY v2 header, written by the node's ztunnel. Loopback only.
    ProxyProtocol,
}

/// Why a listener cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// A PROXY header is believed, so only this host may write one.
    #[error("a PROXY protocol listener must be bound to a loopback address, not {0}")]
    NotLoopback(SocketAddr),
    /// The socket is unusable.
    #[error("the listener's address cannot be read")]
    Socket(#[source] io::Error),
}

/// The data plane: everything between accepted sockets and endpoints.
pub struct Proxy {
    shared: Arc<Shared>,
    tls: MeshTls,
    connections: Arc<Semaphore>,
    handshakes: Semaphore,
    open: AtomicUsize,
    /// Flow-control credit granted to open connections, in bytes.
    credit: Arc<AtomicU64>,
    peers: Peers,
}

impl Proxy {
    /// A data plane that serves what `config` holds. `limit_services`: whoever asks rate limit services; without it limits that
    /// such a service counts have no answer.
    #[must_use]
    pub fn new(
        settings: Settings,
        tls: MeshTls,
        telemetry: Telemetry,
        upstreams: Arc<Upstreams>,
        config: ConfigCell,
        limit_services: Option<Arc<dyn LimitServices>>,
    ) -> Arc<Self> {
        let limits = &settings.limits;
        let (connections, handshakes) = (limits.connections, limits.handshakes);
        let shared = Shared {
            handles: Handles::new(limits, telemetry.hits()),
            sessions: Sessions::new(&settings.session_keys, limits, telemetry.hits()),
            rates: Rates::new(limits, limit_services, telemetry.hits()),
            event_streams: Peers::default(),
            inspection: Arc::new(Semaphore::new(limits.inspected_total >> 10)),
            kept: Arc::new(Semaphore::new(limits.inspected_total >> 12)),
            config,
            upstreams,
            telemetry,
            settings,
        };
        Arc::new(Self {
            shared: Arc::new(shared),
            tls,
            connections: Arc::new(Semaphore::new(connections)),
            handshakes: Semaphore::new(handshakes),
            open: AtomicUsize::new(0),
            credit: Arc::new(AtomicU64::new(0)),
            peers: Peers::default(),
        })
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Room taken by bodies that are held to be judged, in bytes; it is given out in steps of a KiB.
    #[must_use]
    pub fn inspected_bytes(&self) -> usize {
        let total = self.shared.settings.limits.inspected_total;
        let held = |whole: usize, left: &Semaphore| whole.saturating_sub(left.available_permits()) << 10;
        held(total >> 10, &self.shared.inspection) + held(total >> 12, &self.shared.kept)
    }

    /// MCP sessions remembered now.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions.count()
    }

    /// Quotas of rate and concurrency limits in use now.
    #[must_use]
    pub fn rate_buckets(&self) -> usize {
        self.shared.rates.count()
    }

    /// Accepts until the drain begins, then waits until every connection has ended.
    ///
    /// # Errors
    /// When the listener is not one that may serve `inbound`. A failing accept is not an error: it is logged and tried again.
    ///
    /// Cancel safe in the sense that dropping it resets everything it carries.
    ///
    /// Boxed here: a plain `async fn` would be compiled where it is first polled, with what it polls, and the binary's own crate is
    /// compiled for size.
    pub fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        inbound: Inbound,
        drain: DrainWatch,
    ) -> Pin<Box<dyn Future<Output = Result<(), ListenerError>> + Send>> {
        Box::pin(Arc::clone(self).accept_all(listener, inbound, drain))
    }

    async fn accept_all(
        self: Arc<Self>,
        listener: TcpListener,
        inbound: Inbound,
        mut drain: DrainWatch,
    ) -> Result<(), ListenerError> {
        let address = listener.local_addr().map_err(ListenerError::Socket)?;
        if inbound == Inbound::ProxyProtocol && !address.ip().to_canonical().is_loopback() {
            return Err(ListenerError::NotLoopback(address));
        }
        let mut open = JoinSet::new();
        let watch = drain.clone();
        loop {
            tokio::select! {
                biased;
                () = drain.reached(Phase::Draining) => break,
                _ended = open.join_next(), if !open.is_empty() => {}
                (slot, accepted) = self.accept(&listener) => match accepted {
                    Ok((tcp, from)) => drop(open.spawn(Arc::clone(&self).connection(tcp, from, inbound, watch.clone(), slot))),
                    Err(error) => back_off(&error, &self.shared.telemetry).await,
                },
            }
        }
        drop(listener);
        while open.join_next().await.is_some() {}
        Ok(())
    }

    /// Waits for a slot, then for a connection. Dropping it loses neither: the slot goes back, the backlog keeps the socket.
    async fn accept(
        &self,
        listener: &TcpListener,
    ) -> (Option<OwnedSemaphorePermit>, io::Result<(TcpStream, SocketAddr)>) {
        if self.connections.available_permits() == 0 {
            self.shared.telemetry.limit_hit("connections");
        }
        let slot = Arc::clone(&self.connections).acquire_owned().await.ok();
        let accepted = listener.accept().await;
        // On a socket for both families an IPv4 peer shows as IPv6; rules and workloads know it as IPv4.
        (slot, accepted.map(|(tcp, from)| (tcp, SocketAddr::new(from.ip().to_canonical(), from.port()))))
    }

    async fn connection(
        self: Arc<Self>,
        tcp: TcpStream,
        from: SocketAddr,
        inbound: Inbound,
        drain: DrainWatch,
        _slot: Option<OwnedSemaphorePermit>,
    ) {
        let _ = tcp.set_nodelay(true);
        let _counted = Counted::one(&self.open);
        match inbound {
            Inbound::Hbone => self.hbone(tcp, from, drain).await,
            Inbound::ProxyProtocol => {
                let mut cut = drain.clone();
                tokio::select! {
                    () = sandwich::serve(tcp, from, &self.shared, drain) => {}
                    () = cut.reached(Phase::Aborting) => {} // Dropping it resets what it carries.
                }
            }
        }
    }

    async fn hbone(&self, tcp: TcpStream, from: SocketAddr, drain: DrainWatch) {
        let limits = &self.shared.settings.limits;
        let Ok(handshake) = self.handshakes.try_acquire() else {
            self.shared.telemetry.limit_hit("handshakes");
            return;
        };
        let authenticated = match timeout(limits.handshake_timeout, self.tls.accept(ReadAhead::of(tcp))).await
        {
            Ok(Ok(authenticated)) => authenticated,
            Ok(Err(error)) => {
                tracing::info!(peer.addr = %from, reason = error.reason(), %error, "handshake failed");
                return self.shared.telemetry.handshake_failed(error.reason());
            }
            Err(_elapsed) => {
                self.shared.telemetry.limit_hit("handshake_timeout");
                return self.shared.telemetry.handshake_failed("timeout");
            }
        };
        drop(handshake);
        let Some(_place) = self.peers.take(authenticated.peer.id(), limits.peer_connections) else {
            tracing::info!(peer.addr = %from, peer.id = %authenticated.peer.id(), "too many connections of this peer");
            return self.shared.telemetry.limit_hit("peer_connections");
        };
        let credit = Credit::grant(&self.credit, limits.connection_window, limits.total_window);
        if !credit.full {
            self.shared.telemetry.limit_hit("total_window");
        }
        let settings = http2_settings(&self.shared, credit.full);
        let connection = match hbone::handshake(authenticated.stream, &settings).await {
            Ok(connection) => connection,
            Err(error) => {
                if matches!(error, hbone::ConnectionError::Timeout) {
                    self.shared.telemetry.limit_hit("handshake_timeout");
                }
                return self.shared.telemetry.handshake_failed("http2");
            }
        };
        let peer = PeerContext {
            name: PeerName::Verified(authenticated.peer),
            address: from,
            local: Some(authenticated.local),
        };
        let watch = PeerWatch::new(&self.tls, authenticated.certificate);
        let _open = self.shared.telemetry.tunnel();
        tunnel::run(connection, Arc::new(peer), watch, &self.shared, drain).await;
    }
}

/// One of something, for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's share of `total_window`.
struct Credit {
    total: Arc<AtomicU64>,
    granted: u64,
    full: bool,
}

impl Credit {
    /// The whole window while it fits under `bound`, else [`SMALL_WINDOW`].
    fn grant(total: &Arc<AtomicU64>, window: u32, bound: u64) -> Self {
        let fits = |before: u64| before.checked_add(window.into()).filter(|after| *after <= bound);
        let full = total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        let granted = u64::from(if full { window } else { SMALL_WINDOW });
        if !full {
            total.fetch_add(granted, Ordering::Relaxed);
        }
        Self { total: Arc::clone(total), granted, full }
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.total.fetch_sub(self.granted, Ordering::Relaxed);
    }
}

/// Connection window where the credit is used up; a stream gets a quarter of it, so that one that stalls leaves some to others.
/// Small windows keep a crowd of connections within the credit that memory was planned for (`total_window`).
const SMALL_WINDOW: u32 = 64 << 10;

fn http2_settings(shared: &Shared, full: bool) -> hbone::Settings {
    let limits = &shared.settings.limits;
    let (stream, connection) = if full {
        (limits.stream_window, limits.connection_window)
    } else {
        (SMALL_WINDOW / 4, SMALL_WINDOW)
    };
    hbone::Settings {
        stream_window: stream,
        connection_window: connection,
        max_streams: limits.streams_per_connection,
        max_frame_size: limits.frame,
        max_header_list: limits.header_list,
        send_buffer: limits.send_buffer,
        handshake_timeout: limits.handshake_timeout,
        idle_frames: limits.idle_frames,
        observer: shared.telemetry.hits().observer(),
        ..hbone::Settings::default()
    }
}

/// A connection that died in the backlog is nobody's fault and nothing to wait for; the rest is about resources.
async fn back_off(error: &io::Error, telemetry: &Telemetry) {
    if error.kind() != io::ErrorKind::ConnectionAborted {
        tracing::warn!(%error, "accepting failed");
        if socket::is_exhausted(error) {
            telemetry.limit_hit("open_files");
        }
        tokio::time::sleep(ACCEPT_BACKOFF).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_window_costs_what_it_is_and_a_full_one_comes_back() {
        let total = Arc::new(AtomicU64::new(0));
        let window = 16 << 20;
        let first = Credit::grant(&total, window, 20 << 20);
        let small: Vec<Credit> = (0..8).map(|_| Credit::grant(&total, window, 20 << 20)).collect();
        assert!(first.full && small.iter().all(|credit| !credit.full));
        assert_eq!(total.load(Ordering::Relaxed), (16 << 20) + (8 << 16));
        drop(first);
        assert!(Credit::grant(&total, window, 20 << 20).full);
        drop(small);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }
}
