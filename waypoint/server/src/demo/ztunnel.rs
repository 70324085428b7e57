//! The ztunnel in front of a destination pod, as far as a waypoint can see it: an HBONE server with the pod's identity that
//! takes tunnels from the waypoint alone and carries them to the pod's own ports.

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use hbone::{Connect, Counters, LARGEST_READ, Peer, Settings, Target};
use http::{HeaderMap, StatusCode};
use spiffe_id::SpiffeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::authority::WorkloadTls;

/// One destination pod's ztunnel.
pub(super) struct Ztunnel {
    /// The pod's certificate.
    pub(super) tls: WorkloadTls,
    /// The pod's address: tunnels may lead nowhere else.
    pub(super) address: Ipv4Addr,
    /// Who alone may come in.
    pub(super) waypoint: SpiffeId,
}

impl Ztunnel {
    /// Serves until the future is dropped.
    pub(super) async fn serve(self, listener: TcpListener) {
        let this = Arc::new(self);
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            connections.spawn(Arc::clone(&this).connection(socket));
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connection(self: Arc<Self>, socket: TcpStream) -> anyhow::Result<()> {
        socket.set_nodelay(true)?;
        let peer = self.tls.tls.accept(socket).await?;
        anyhow::ensure!(*peer.peer.id() == self.waypoint, "{} is not the waypoint", peer.peer.id());
        let mut connection = hbone::handshake(peer.stream, &Settings::default()).await?;
        let mut streams = JoinSet::new();
        while let Some(connect) = connection.next().await? {
            streams.spawn(stream(connect, self.address));
            while streams.try_join_next().is_some() {}
        }
        Ok(())
    }
}

async fn stream(connect: Connect, pod: Ipv4Addr) {
    let to = match connect.target() {
        Ok(Target::Addr(to)) if to.ip() == pod => to,
        _ => return connect.refuse(StatusCode::BAD_REQUEST),
    };
    let Ok(socket) = TcpStream::connect(to).await else {
        return connect.refuse(StatusCode::SERVICE_UNAVAILABLE);
    };
    // A socket that cannot be set up shows as one that cannot be used.
    let _ = socket.set_nodelay(true);
    let Ok(tunnel) = connect.accept(HeaderMap::new()) else { return };
    // Whichever side broke, the other has been told; a ztunnel has nothing to add.
    let _ = hbone::copy(tunnel, Bytes::new(), Peer::Tcp(socket), LARGEST_READ, &Counters::default()).await;
}
