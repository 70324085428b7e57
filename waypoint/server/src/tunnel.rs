//! `portcullis tunnel`: a workload's ztunnel, as far as trying things by hand needs one.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certs::{HandshakeError, MeshTls, PeerRefusal, Revocations, TrustDomains};
use hbone::{Connector, Counters, LARGEST_READ, Peer, Pool, PoolSettings, Target};
use http::HeaderMap;
use spiffe_id::SpiffeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::cli::TunnelArgs;
use crate::identity::{self, IdentityError, Source};
use crate::logging::{LogControl, LogError, LogForm};
use crate::runtime;

/// Time for TCP and TLS to the waypoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Local connections at once.
const CONNECTIONS: usize = 1_000;

/// Pause after an accept error: out of descriptors, it would come again at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Why no tunnel was opened.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// Anybody who may connect would have our identity.
    #[error("--listen {0}: must be a loopback address, whoever connects there calls with this identity")]
    NotLoopback(SocketAddr),
    /// Not host:port.
    #[error(
        "--to {to}: {reason}; write host:port, for example 10.96.0.7:80 or github.tools.svc.cluster.local:80"
    )]
    Target {
        /// As given.
        to: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The waypoint was not reached, or did not prove who it is.
    #[error("--via {via}: {source}")]
    Waypoint {
        /// Its address.
        via: String,
        /// What happened.
        source: ConnectError,
    },
    /// The local address cannot be listened on.
    #[error("--listen {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system refuses a runtime.
    #[error("the process cannot be set up: {0}")]
    System(#[from] io::Error),
    /// Logging is not available.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why the waypoint was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error("no connection: {0}")]
    Tcp(#[from] io::Error),
    /// TLS failed.
    #[error("{0}")]
    Tls(#[from] HandshakeError),
    /// Nothing came in time.
    #[error("no answer in time")]
    Timeout,
}

/// Carries connections until it is interrupted.
///
/// # Errors
/// [`TunnelError`], before anything is carried. A stream that fails later is only logged.
pub fn command(args: TunnelArgs) -> Result<ExitCode, TunnelError> {
    LogControl::start("info", LogForm::Text)?;
    let workers = runtime::workers(None)?;
    workers.block_on(run(args)).map(|()| ExitCode::SUCCESS)
}

async fn run(args: TunnelArgs) -> Result<(), TunnelError> {
    if !args.listen.ip().is_loopback() {
        return Err(TunnelError::NotLoopback(args.listen));
    }
    let to = Target::parse(&args.to)
        .map_err(|error| TunnelError::Target { to: args.to.clone(), reason: error.to_string() })?;
    let source = identity::open(&Source::try_from(&args.source)?)?;
    let tls = MeshTls::new(&*source, TrustDomains::default(), Revocations::none());
    let mut svid = tls.svid();
    // With files it is there at once; an agent may take a moment.
    let _ = svid.wait_for(Option::is_some).await;
    let waypoint = Waypoint { via: args.via.clone(), tls };
    let expect = match args.expect {
        Some(expect) => expect.0,
        None => waypoint.ask_identity().await?,
    };
    let listen = |source| TunnelError::Listen { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    tracing::info!(%address, via = args.via, %to, waypoint = %expect, "tunnel open");
    carry(listener, Arc::new(Pool::new(waypoint, PoolSettings::default())), expect, to).await;
    Ok(())
}

type Tunnels = Pool<SpiffeId, Waypoint>;

/// Carries local connections until an interrupt.
async fn carry(listener: TcpListener, pool: Arc<Tunnels>, expect: SpiffeId, to: Target) {
    let mut streams = JoinSet::new();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            _ = &mut interrupted => return,
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
            accepted = listener.accept(), if streams.len() < CONNECTIONS => match accepted {
                Ok((socket, _)) => {
                    streams.spawn(stream(socket, Arc::clone(&pool), expect.clone(), to.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
}

async fn stream(socket: TcpStream, pool: Arc<Tunnels>, expect: SpiffeId, to: Target) {
    let tunnel = match pool.open(&expect, &to, HeaderMap::new()).await {
        Ok(tunnel) => tunnel,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            return tracing::warn!(%error, cause, "the waypoint did not open the tunnel");
        }
    };
    // The names are those of a waypoint; a copy has two ends and does not care which of them called.
    if let Err(error) =
        hbone::copy(tunnel, Bytes::new(), Peer::Tcp(socket), LARGEST_READ, &Counters::default()).await
    {
        tracing::info!(%error, "stream broken off");
    }
}

/// Connections to the waypoint, for a pool keyed by the identity that it must prove.
struct Waypoint {
    via: String,
    tls: MeshTls,
}

impl Waypoint {
    /// Who stands at the other end: a proven identity of our trust domain, whichever it is. From then on exactly that one
    /// is expected.
    async fn ask_identity(&self) -> Result<SpiffeId, TunnelError> {
        let ours = self.tls.local_id();
        let asked = match &ours {
            // Hardly the waypoint's: a handshake that expects it fails with the identity that was proven.
            Some(ours) => self.dial(ours).await.map(|_| ours.clone()),
            None => Err(ConnectError::Tls(HandshakeError::NoSvid)),
        };
        match asked {
            Ok(id) => Ok(id),
            Err(ConnectError::Tls(HandshakeError::Peer(PeerRefusal::WrongIdentity { presented }))) => {
                tracing::info!("the waypoint is {presented}; --expect {presented} insists on that");
                Ok(presented)
            }
            Err(source) => Err(TunnelError::Waypoint { via: self.via.clone(), source }),
        }
    }

    async fn dial(
        &self,
        expect: &SpiffeId,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ConnectError> {
        let dialled = async {
            let socket = TcpStream::connect(&self.via).await?;
            socket.set_nodelay(true)?;
            Ok(self.tls.connect(socket, std::slice::from_ref(expect)).await?.stream)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, dialled).await.unwrap_or(Err(ConnectError::Timeout))
    }
}

impl Connector<SpiffeId> for Waypoint {
    type Io = tokio_rustls::client::TlsStream<TcpStream>;
    type Error = ConnectError;

    async fn connect(&self, expect: &SpiffeId) -> Result<Self::Io, ConnectError> {
        self.dial(expect).await
    }
}
