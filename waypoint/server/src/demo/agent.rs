//! A workload that calls: its identity, and its ztunnel's tunnels to the waypoint.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use certs::HandshakeError;
use hbone::{Connector, OpenError, Pool, PoolSettings, Target, Tunnel};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use spiffe_id::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::authority::WorkloadTls;

/// A source workload behind its ztunnel.
pub(super) struct Agent {
    /// Its ServiceAccount's name.
    pub(super) name: &'static str,
    /// Its SPIFFE id.
    pub(super) id: SpiffeId,
    tunnels: Pool<SpiffeId, Dial>,
    waypoint: SpiffeId,
    requests: Arc<AtomicUsize>,
}

/// How the waypoint is reached.
pub(super) struct Dial {
    /// The workload's certificate.
    pub(super) tls: WorkloadTls,
    /// The workload's own address.
    pub(super) from: Ipv4Addr,
    /// The waypoint's HBONE port.
    pub(super) to: SocketAddr,
}

/// Why the waypoint was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// TCP failed.
    #[error("no connection")]
    Tcp(#[from] std::io::Error),
    /// TLS failed.
    #[error("no mutual TLS")]
    Tls(#[from] HandshakeError),
}

impl Connector<SpiffeId> for Dial {
    type Io = tokio_rustls::client::TlsStream<TcpStream>;
    type Error = DialError;

    async fn connect(&self, waypoint: &SpiffeId) -> Result<Self::Io, DialError> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::from(self.from), 0))?;
        socket.set_nodelay(true)?;
        let stream = socket.connect(self.to).await?;
        Ok(self.tls.tls.connect(stream, std::slice::from_ref(waypoint)).await?.stream)
    }
}

impl Agent {
    /// A workload that expects exactly `waypoint` at the other end.
    pub(super) fn new(name: &'static str, id: SpiffeId, dial: Dial, waypoint: SpiffeId) -> Self {
        let tunnels = Pool::new(dial, PoolSettings::default());
        Self { name, id, tunnels, waypoint, requests: Arc::default() }
    }

    /// HTTP requests that it has sent.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// A tunnel to a Service, as ztunnel opens one for each connection of its application.
    pub(super) async fn open(&self, to: &Target) -> Result<Tunnel, OpenError> {
        self.tunnels.open(&self.waypoint, to, HeaderMap::new()).await
    }

    /// An HTTP/1.1 connection to a Service through a tunnel.
    pub(super) async fn http(&self, to: &Target) -> Result<Connection> {
        Connection::over(self.open(to).await?, Arc::clone(&self.requests)).await
    }
}

/// An HTTP/1.1 connection; closed when dropped.
pub(super) struct Connection {
    /// Sends one request after the other.
    sender: SendRequest<Full<Bytes>>,
    requests: Arc<AtomicUsize>,
    _driver: JoinSet<()>,
}

impl Connection {
    /// HTTP/1.1 over any byte stream.
    async fn over(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        requests: Arc<AtomicUsize>,
    ) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        let mut driver = JoinSet::new();
        // How it ends is told to whoever waits for an answer.
        driver.spawn(async move { drop(connection.await) });
        Ok(Self { sender, requests, _driver: driver })
    }

    /// HTTP/1.1 over plain TCP: for what is not carried by the mesh.
    pub(super) async fn direct(to: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        Self::over(socket, Arc::default()).await
    }

    /// One request, and the whole answer.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>> {
        self.sender.ready().await?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }
}
