//! A source workload's ztunnel: carries connections through CONNECT to a waypoint.

use super::{TunnelStream, WINDOWS};
use crate::ca::{Ca, Svid};
use crate::forward::Forwarded;
use crate::istio::PodNetwork;
use crate::{tls, wait};
use anyhow::{Context, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// A source pod's ztunnel: one identity, one waypoint. Like ztunnel it keeps one connection and opens streams on it.
#[derive(Clone)]
pub struct Outbound {
    tls: Arc<StdMutex<TlsConnector>>,
    waypoint: SocketAddr,
    /// The address that it dials from, if it has its own.
    source: Option<Ipv4Addr>,
    /// The network that it dials in, if not this process's.
    network: Option<PodNetwork>,
    pooled: Arc<Mutex<Option<Connection>>>,
}

impl Outbound {
    /// The ztunnel of a pod that holds `identity` and expects exactly `expect` at `waypoint`.
    pub fn new(ca: &Ca, identity: &Svid, waypoint: SocketAddr, expect: &str) -> Result<Self> {
        Self::trusting(ca.bundle_pem(), identity, waypoint, expect)
    }

    /// The same, trusting `roots` (PEM).
    pub fn trusting(roots: &str, identity: &Svid, waypoint: SocketAddr, expect: &str) -> Result<Self> {
        Ok(Self::speaking(tls::client_config(identity, roots, expect)?, waypoint))
    }

    /// The same with TLS as `config` says.
    #[must_use]
    pub fn speaking(config: ClientConfig, waypoint: SocketAddr) -> Self {
        let tls = Arc::new(StdMutex::new(TlsConnector::from(Arc::new(config))));
        Self { tls, waypoint, source: None, network: None, pooled: Arc::default() }
    }

    /// Dials with this identity from now on, as ztunnel does when its certificate was renewed; what is open stays. Clones renew too.
    pub fn renew(&self, roots: &str, identity: &Svid, expect: &str) -> Result<()> {
        let renewed = TlsConnector::from(Arc::new(tls::client_config(identity, roots, expect)?));
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// The same, dialling from a pod's network, and forwarding from its loopback.
    #[must_use]
    pub fn in_network(mut self, network: PodNetwork) -> Self {
        self.network = Some(network);
        self
    }

    /// The same, dialling from `source`, which the waypoint sees as the pod's address.
    #[must_use]
    pub fn from_address(mut self, source: Ipv4Addr) -> Self {
        self.source = Some(source);
        self
    }

    /// A connection of its own, apart from the pooled one.
    pub async fn dial(&self) -> Result<Connection> {
        wait::within("a tunnel connection", self.dial_unbounded()).await?
    }

    async fn dial_unbounded(&self) -> Result<Connection> {
        let socket = match &self.network {
            Some(network) => network.socket()?,
            None => TcpSocket::new_v4()?,
        };
        if let Some(source) = self.source {
            socket.bind((source, 0).into())?;
        }
        let tcp =
            socket.connect(self.waypoint).await.with_context(|| format!("dialling {}", self.waypoint))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.waypoint.ip().into());
        let connector = self.tls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tls = connector.connect(name, tcp).await.context("TLS with the waypoint")?;
        let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let serial = leaf.map(|leaf| tls::serial(leaf)).context("a certificate")?.into();
        let (send, driver) = h2::client::Builder::new()
            .initial_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .enable_push(false)
            .handshake::<_, Bytes>(tls)
            .await?;
        let driver = tokio::spawn(driver);
        Ok(Connection { send, serial, driver: Arc::new(Driver(Mutex::new(driver))) })
    }

    /// Opens a stream to `authority` on the pooled connection, dialling when there is none that still works.
    ///
    /// # Errors
    /// [`Refused`] (by `downcast_ref`) when the waypoint answered with another status than 200.
    pub async fn connect(&self, authority: &str) -> Result<TunnelStream> {
        let connection = self.usable().await?;
        connection.connect(authority).await
    }

    async fn usable(&self) -> Result<Connection> {
        let mut pooled = self.pooled.lock().await;
        if let Some(connection) = pooled.as_ref()
            && connection.send.clone().ready().await.is_ok()
        {
            return Ok(connection.clone());
        }
        let fresh = self.dial().await?;
        *pooled = Some(fresh.clone());
        Ok(fresh)
    }

    /// A local TCP port whose every connection is carried to `authority`: for real clients that know nothing of HBONE.
    pub async fn forward(&self, authority: &str) -> Result<Forwarded> {
        let near = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = match &self.network {
            Some(network) => network.listen(near)?,
            None => TcpListener::bind(near).await?,
        };
        self.forward_from(listener, authority)
    }

    /// The same from a listener whose port had to be known before.
    pub fn forward_from(&self, listener: TcpListener, authority: &str) -> Result<Forwarded> {
        let (this, authority) = (self.clone(), authority.to_owned());
        Forwarded::on(listener, move || {
            let (this, authority) = (this.clone(), authority.clone());
            async move { this.connect(&authority).await }
        })
    }
}

/// One TLS connection with HTTP/2 on it.
#[derive(Clone)]
pub struct Connection {
    send: SendRequest<Bytes>,
    /// The serial number of the certificate that the waypoint showed.
    pub serial: Arc<str>,
    driver: Arc<Driver>,
}

/// The task that moves frames; ends with the last clone of the connection.
struct Driver(Mutex<JoinHandle<Result<(), h2::Error>>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.get_mut().abort();
    }
}

impl Connection {
    /// Opens a stream as ztunnel does, and waits for the 200.
    pub async fn connect(&self, authority: &str) -> Result<TunnelStream> {
        self.connect_with(authority, HeaderMap::new()).await
    }

    /// The same with further headers (`baggage`, `forwarded`, `traceparent`).
    pub async fn connect_with(&self, authority: &str, headers: HeaderMap) -> Result<TunnelStream> {
        let mut request = Request::builder().method(Method::CONNECT).uri(authority).body(())?;
        *request.headers_mut() = headers;
        self.open(request).await
    }

    /// Sends any request head that opens a stream, for heads that no ztunnel would send.
    pub async fn open(&self, request: Request<()>) -> Result<TunnelStream> {
        wait::within("an answer to CONNECT", self.open_unbounded(request)).await?
    }

    async fn open_unbounded(&self, request: Request<()>) -> Result<TunnelStream> {
        let mut send = self.send.clone().ready().await?;
        let (answer, outgoing) = send.send_request(request, false)?;
        let (head, incoming) = answer.await?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Refused { status: head.status, headers: head.headers }.into());
        }
        Ok(TunnelStream::new(outgoing, incoming).on(self.driver.clone()))
    }

    /// Raw access to HTTP/2 for tests that count streams or send odd frames.
    #[must_use]
    pub fn h2(&self) -> SendRequest<Bytes> {
        self.send.clone()
    }

    /// Waits until the waypoint has closed the connection, and tells how it ended. Cancel safe.
    pub async fn closed(&self) -> Result<Result<(), h2::Error>> {
        let mut driver = self.driver.0.lock().await;
        wait::within("the waypoint to close the connection", &mut *driver)
            .await?
            .context("the driver was stopped")
    }
}

/// A CONNECT that was answered with another status than 200.
#[derive(Debug, thiserror::Error)]
#[error("CONNECT was refused with {status}")]
pub struct Refused {
    /// The status on the CONNECT stream.
    pub status: StatusCode,
    /// The headers that came with it.
    pub headers: HeaderMap,
}

impl Refused {
    /// The status that refused this CONNECT.
    ///
    /// # Panics
    /// When it was carried, or failed in another way than by a status.
    #[track_caller]
    pub fn status_of<T>(result: Result<T>) -> StatusCode {
        match result {
            Ok(_) => panic!("CONNECT was carried where a refusal was due"),
            Err(error) => match error.downcast_ref::<Self>() {
                Some(refused) => refused.status,
                None => panic!("CONNECT failed without a status: {error:#}"),
            },
        }
    }
}
