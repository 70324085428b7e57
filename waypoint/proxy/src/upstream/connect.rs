//! A byte stream to an endpoint: through an HBONE tunnel to exactly the identity it must have, or plain TCP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use certs::{HandshakeError, MeshTls};
use hbone::{OpenError, Pool, PoolSettings, Target, Tunnel};
use http::HeaderMap;
use spiffe_id::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use waypoint_model::TunnelKind;

use super::Version;
use super::endpoints::{Endpoint, LiveTunnel};
use super::originate::FileError;
use super::resolve::Name;
use crate::limits::Limits;
use crate::peer_watch::{PeerWatch, Welcome};
use crate::socket::{self, ReadAhead};
use crate::telemetry::{Hits, LocalEnd};

/// Where ztunnel takes HBONE (`istio-hbone`, Istio's `HBONEPort`).
const HBONE_PORT: u16 = 15_008;

/// TCP keepalive as ztunnel sets it: first probe, interval, probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(180), Duration::from_secs(180), 9);

/// Least time for one of several addresses of a name.
const LEAST_PART: Duration = Duration::from_millis(250);

/// Why an endpoint could not be reached. Nothing of a request was sent then.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// No certificate of our own yet.
    #[error("no SVID to connect with")]
    NoOwnIdentity,
    /// It speaks HBONE, and nobody told whom to expect there.
    #[error("the endpoint's identity is not known")]
    NoEndpointIdentity,
    /// The host name has no address that we know.
    #[error("{0} is not resolved")]
    Unresolved(String, #[source] Arc<io::Error>),
    #[error("TCP")]
    Tcp(#[source] io::Error),
    #[error("TLS")]
    Handshake(#[source] HandshakeError),
    #[error("HBONE")]
    Tunnel(#[source] OpenError),
    /// Of TLS that a cluster asks for; the certificate's fault is in the cause.
    #[error("TLS origination")]
    Origination(#[source] io::Error),
    #[error("TLS origination: files")]
    TlsFiles(#[source] FileError),
    #[error("TLS origination: {0:?} is no server name")]
    ServerName(String),
    /// The server wants to speak something else.
    #[error("TLS origination: the server chose {0}")]
    Alpn(&'static str),
    #[error("HTTP")]
    Http(#[source] hyper::Error),
    #[error("no answer in time")]
    TimedOut,
    /// Circuit breaker: `limits.endpoint_connections`, or what the cluster says of connections and of requests that wait.
    #[error("too many connections, or requests that wait for one")]
    TooManyConnections,
}

impl ConnectError {
    /// Whether it is a want of ours: an endpoint is not to be ejected because we are out of descriptors, ports or memory.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::NoOwnIdentity | Self::TooManyConnections => true,
            Self::Tcp(error) => socket::is_exhausted(error),
            Self::Tunnel(OpenError::Connect(cause)) => {
                cause.downcast_ref::<Self>().is_some_and(Self::is_ours)
            }
            _other => false,
        }
    }

    /// Whether `connect_timeout` was over.
    pub(super) fn is_late(&self) -> bool {
        match self {
            Self::TimedOut | Self::Tunnel(OpenError::Timeout) => true,
            // The pool wraps what its connector says.
            Self::Tunnel(OpenError::Connect(cause)) => {
                cause.downcast_ref::<Self>().is_some_and(|cause| matches!(cause, Self::TimedOut))
            }
            _other => false,
        }
    }
}

/// What makes two tunnels interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TunnelKey {
    own: SpiffeId,
    to: LiveTunnel,
}

/// TCP and mutual TLS for a [`TunnelKey`].
struct MeshConnector {
    tls: MeshTls,
    timeout: Duration,
    recheck: Duration,
}

impl hbone::Connector<TunnelKey> for MeshConnector {
    type Io = Welcome<TlsStream<ReadAhead>>;
    type Error = ConnectError;

    async fn connect(&self, key: &TunnelKey) -> Result<Self::Io, ConnectError> {
        let tcp = dial(SocketAddr::new(key.to.address, HBONE_PORT), self.timeout).await?;
        let expected = [key.to.identity.clone()];
        let handshake =
            timeout(self.timeout, Box::pin(self.tls.connect(ReadAhead::of(tcp), &expected))).await;
        let authenticated =
            handshake.map_err(|_| ConnectError::TimedOut)?.map_err(ConnectError::Handshake)?;
        // The SVID was replaced by one of another identity since the key was made: not a tunnel of that key.
        if authenticated.local != key.own {
            return Err(ConnectError::NoOwnIdentity);
        }
        let watch = PeerWatch::new(&self.tls, authenticated.certificate);
        Ok(Welcome::new(authenticated.stream, watch, self.recheck))
    }

    fn leaves_at(&self, io: &Self::Io) -> Option<Instant> {
        Some(io.leaves_at())
    }
}

/// What will go over a byte stream; TLS wants to know.
#[derive(Clone, Copy)]
pub(super) struct Spoken<'a> {
    /// The request's host, or the service's.
    pub(super) host: &'a str,
    /// `None`: opaque bytes.
    pub(super) version: Option<Version>,
}

/// Opens byte streams to endpoints.
pub(super) struct Dialer {
    tls: MeshTls,
    tunnels: Pool<TunnelKey, MeshConnector>,
}

impl Dialer {
    pub(super) fn new(tls: MeshTls, limits: &Limits, hits: &Hits) -> Self {
        let http2 = hbone::Settings {
            stream_window: limits.stream_window,
            connection_window: limits.connection_window,
            max_frame_size: limits.frame,
            max_header_list: limits.header_list,
            send_buffer: limits.send_buffer,
            handshake_timeout: limits.handshake_timeout,
            observer: hits.observer(),
            ..hbone::Settings::default()
        };
        let settings = PoolSettings {
            http2,
            streams_per_connection: limits.upstream_streams_per_connection,
            idle: limits.upstream_idle,
            open_timeout: limits.connect_timeout,
        };
        let connector =
            MeshConnector { tls: tls.clone(), timeout: limits.connect_timeout, recheck: limits.recheck };
        Self { tls, tunnels: Pool::new(connector, settings) }
    }

    /// A byte stream to an endpoint, within its connect timeout: a tunnel or TCP, and TLS over it where its cluster says so.
    /// `headers` go on the CONNECT. Cancel safe.
    ///
    /// # Errors
    /// A [`ConnectError`]; an HBONE endpoint whose identity is unknown is never dialled.
    pub(super) async fn open(
        &self,
        endpoint: &Endpoint,
        headers: HeaderMap,
        spoken: Spoken<'_>,
    ) -> Result<Transport, ConnectError> {
        let limit = endpoint.terms.connect_timeout;
        let bare = match (endpoint.state.key.tunnel, &endpoint.state.name) {
            (TunnelKind::Plain, None) => dial(endpoint.address(), limit).await.map(Transport::Tcp)?,
            (TunnelKind::Plain, Some(name)) => dial_name(name, limit).await.map(Transport::Tcp)?,
            (TunnelKind::Hbone, _) => self.open_tunnel(endpoint, headers).await.map(Transport::Tunnel)?,
        };
        let Some(origination) = &endpoint.terms.tls else { return Ok(bare) };
        let connecting = Box::pin(origination.connect(bare, spoken.host, spoken.version));
        timeout(limit, connecting).await.map_err(|_| ConnectError::TimedOut)?.map(Transport::Tls)
    }

    async fn open_tunnel(&self, endpoint: &Endpoint, headers: HeaderMap) -> Result<Tunnel, ConnectError> {
        let own = self.tls.local_id().ok_or(ConnectError::NoOwnIdentity)?;
        let to = endpoint.state.key.live_tunnel().ok_or(ConnectError::NoEndpointIdentity)?;
        let (key, target) = (TunnelKey { own, to }, Target::Addr(endpoint.address()));
        let open = Box::pin(self.tunnels.open(&key, &target, headers));
        timeout(endpoint.terms.connect_timeout, open)
            .await
            .map_err(|_| ConnectError::TimedOut)?
            .map_err(ConnectError::Tunnel)
    }

    /// Our own identity, with which connections to HBONE endpoints are made.
    pub(super) fn own(&self, endpoint: &Endpoint) -> Option<SpiffeId> {
        match endpoint.state.key.tunnel {
            TunnelKind::Plain => None,
            TunnelKind::Hbone => self.tls.local_id(),
        }
    }

    /// Lets go of tunnels whose endpoint is gone; what runs on them goes on.
    pub(super) fn retain(&self, live: impl Fn(&LiveTunnel) -> bool) {
        self.tunnels.retain(|key| live(&key.to));
    }

    /// HBONE connections.
    pub(super) fn connections(&self) -> usize {
        self.tunnels.connections()
    }
}

/// One address after another, each with its part of the time that is left, but long enough for a handshake across the world.
async fn dial_name(name: &Arc<Name>, limit: Duration) -> Result<TcpStream, ConnectError> {
    let begun = Instant::now();
    let addresses = name.addresses().await?;
    let mut last = ConnectError::TimedOut;
    for (left, address) in (1..=addresses.len()).rev().zip(addresses) {
        let rest = limit.saturating_sub(begun.elapsed());
        let parts = u32::try_from(left).unwrap_or(u32::MAX);
        let part = (rest / parts).max(LEAST_PART).min(rest);
        match dial(address, part).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn dial(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    let connected = timeout(limit, TcpStream::connect(address)).await;
    let tcp = connected.map_err(|_| ConnectError::TimedOut)?.map_err(ConnectError::Tcp)?;
    prepare(&tcp).map_err(ConnectError::Tcp)?;
    Ok(tcp)
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    let (first, interval, probes) = KEEPALIVE;
    let keepalive =
        socket2::TcpKeepalive::new().with_time(first).with_interval(interval).with_retries(probes);
    tcp.set_nodelay(true)?;
    socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// A byte stream to an endpoint.
#[expect(clippy::large_enum_variant, reason = "a stream has one, and moves it once: a box would cost more")]
pub enum Transport {
    /// Through an HBONE tunnel.
    Tunnel(Tunnel),
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over one of the others.
    Tls(Box<TlsStream<Self>>),
}

impl Transport {
    /// Our end.
    pub(super) fn local(&self) -> Option<LocalEnd> {
        match self {
            Self::Tunnel(_) => Some(LocalEnd::Tunnel),
            Self::Tcp(tcp) => tcp.local_addr().ok().map(LocalEnd::Socket),
            Self::Tls(tls) => tls.get_ref().0.local(),
        }
    }

    /// The socket's other end, where it is known by address only.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Tunnel(_) => None,
            Self::Tcp(tcp) => tcp.peer_addr().ok(),
            Self::Tls(tls) => tls.get_ref().0.remote(),
        }
    }
}

impl Transport {
    /// When nothing new should begin on it any more.
    pub(super) fn leaves_at(&self) -> Option<Instant> {
        match self {
            Self::Tunnel(tunnel) => tunnel.leaves_at(),
            Self::Tcp(_) => None,
            Self::Tls(tls) => tls.get_ref().0.leaves_at(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_read(cx, buf),
            Self::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write(cx, buf),
            Self::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_write_vectored(cx, bufs),
            Self::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tunnel(tunnel) => tunnel.is_write_vectored(),
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_flush(cx),
            Self::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(tunnel) => Pin::new(tunnel).poll_shutdown(cx),
            Self::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
