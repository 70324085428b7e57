//! Local TCP ports that lead somewhere else, for real clients that know nothing of the mesh.

use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A local port; it and its connections are closed when this value is dropped.
#[derive(Debug)]
pub struct Forwarded {
    /// Where to connect.
    pub address: SocketAddr,
    task: AbortHandle,
}

impl Forwarded {
    /// Carries every connection to the far end that `dial` opens for it. Where none can be opened the connection is
    /// closed, as ztunnel does; an end that breaks is passed on as a reset, never as a clean end.
    pub async fn to<S, F>(dial: impl Fn() -> F + Send + 'static) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?, dial)
    }

    /// The same on a listener that is there, perhaps in another network than this process's.
    pub fn on<S, F>(listener: TcpListener, dial: impl Fn() -> F + Send + 'static) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(carry(tcp, dial()));
            }
        });
        Ok(Self { address, task: task.abort_handle() })
    }

    /// A plain relay to `address`, for the same path without a waypoint.
    pub async fn directly(address: SocketAddr) -> Result<Self> {
        Self::to(move || async move { Ok(TcpStream::connect(address).await?) }).await
    }

    /// The URL of `path` behind this port. `localhost`, because MCP servers check the Host header for it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.address.port())
    }
}

async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    mut near: TcpStream,
    dial: impl Future<Output = Result<S>>,
) {
    // A failure to set an option of a socket shows as a failure to use it.
    let _ = near.set_nodelay(true);
    let Ok(mut far) = dial.await else { return };
    if copy_bidirectional(&mut near, &mut far).await.is_err() {
        let _ = near.set_zero_linger();
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}
