//! How the load reaches a contestant: streams in HBONE connections, or plain TCP.

use crate::world::World;
use anyhow::Result;
use portcullis_tests::http::Io;
use portcullis_tests::ztunnel::{Connection, Outbound, TunnelStream};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpStream;

/// Where and how to connect.
#[derive(Clone)]
pub(crate) enum Entrance {
    /// CONNECT `authority` inside mutual TLS.
    Hbone {
        /// The source pod's ztunnel.
        ztunnel: Outbound,
        /// What is asked for.
        authority: String,
    },
    /// Plain TCP.
    Plain(SocketAddr),
}

impl Entrance {
    /// HBONE at `waypoint`, which must be the ServiceAccount `expected`, to `target`.
    pub(crate) fn hbone(
        world: &World,
        expected: &str,
        waypoint: SocketAddr,
        target: (Ipv4Addr, u16),
    ) -> Result<Self> {
        let ztunnel = Outbound::speaking(world.client_tls(expected)?, waypoint);
        Ok(Self::Hbone { ztunnel, authority: SocketAddr::from(target).to_string() })
    }

    /// A connection of its own, on which streams can be opened.
    pub(crate) async fn connection(&self) -> Result<Way> {
        Ok(match self {
            Self::Hbone { ztunnel, authority } => Way::Tunnel(ztunnel.dial().await?, authority.clone()),
            Self::Plain(address) => Way::Plain(*address),
        })
    }
}

/// An open connection, or for plain TCP the address, since there a stream is a connection.
#[derive(Clone)]
pub(crate) enum Way {
    /// A HBONE connection and the authority to ask for.
    Tunnel(Connection, String),
    /// Plain TCP.
    Plain(SocketAddr),
}

impl Way {
    /// A stream to the backend.
    pub(crate) async fn stream(&self) -> Result<Box<dyn Io>> {
        Ok(match self {
            Self::Tunnel(connection, authority) => Box::new(connection.connect(authority).await?),
            Self::Plain(address) => {
                let tcp = TcpStream::connect(address).await?;
                tcp.set_nodelay(true)?;
                Box::new(tcp)
            }
        })
    }

    /// A stream whose DATA can be taken without copying.
    ///
    /// # Errors
    /// When the way is not a tunnel, or CONNECT is refused.
    pub(crate) async fn tunnel(&self) -> Result<TunnelStream> {
        match self {
            Self::Tunnel(connection, authority) => connection.connect(authority).await,
            Self::Plain(address) => anyhow::bail!("{address} takes no tunnels"),
        }
    }
}
