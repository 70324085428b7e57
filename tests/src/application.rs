//! A TCP application whose every byte and every close the test decides.

use crate::wait;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A listening application that does nothing by itself.
#[derive(Debug)]
pub struct Application {
    listener: TcpListener,
}

impl Application {
    /// Listens at `address`.
    pub async fn start(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
        Ok(Self { listener })
    }

    /// The next connection.
    pub async fn accepted(&self) -> Result<TcpStream> {
        let (tcp, _) = wait::within("a connection to the application", self.listener.accept()).await??;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }
}

/// Closes a connection with a RST.
pub fn abort(tcp: TcpStream) -> Result<()> {
    tcp.set_zero_linger()?;
    drop(tcp);
    Ok(())
}

/// Reads exactly as many bytes as `expected` has, and says that they are these.
///
/// # Panics
/// When others come.
pub async fn hears(io: &mut (impl AsyncRead + Unpin), expected: &[u8]) -> Result<()> {
    let mut heard = vec![0; expected.len()];
    wait::within("bytes", io.read_exact(&mut heard)).await?.context("before all bytes came")?;
    assert_eq!(String::from_utf8_lossy(&heard), String::from_utf8_lossy(expected));
    Ok(())
}

/// Reads to a clean end, and returns what came. An error when the stream broke instead.
pub async fn to_the_end(io: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut heard = Vec::new();
    wait::within("the end of the stream", io.read_to_end(&mut heard)).await??;
    Ok(heard)
}
