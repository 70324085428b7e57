//! The sandwich: the node's ztunnel ends HBONE and hands the plain stream over loopback, behind a PROXY v2 header.

use std::net::SocketAddr;
use std::sync::Arc;

use hbone::{Target, proxy_protocol};
use spiffe_id::SpiffeId;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use waypoint_model::Protocol;

use crate::context::{PeerContext, PeerName, Shared, StreamContext};
use crate::detect::Rewound;
use crate::drain::DrainWatch;
use crate::http::server;
use crate::opaque::Downstream;
use crate::refusal::Refusal;
use crate::snapshot::Destination;
use crate::{opaque, tunnel};

/// Carries one connection. Anything but a readable header from this host is closed without a word.
pub(crate) async fn serve(mut tcp: TcpStream, from: SocketAddr, shared: &Arc<Shared>, drain: DrainWatch) {
    let _open = shared.telemetry.stream();
    let (cx, destination) = match admit(&mut tcp, from, shared, drain).await {
        Ok(admitted) => admitted,
        Err(reason) => {
            tracing::info!(peer.addr = %from, reason, "PROXY connection refused");
            return shared.telemetry.refused(reason);
        }
    };
    match destination.protocol {
        Protocol::Tcp | Protocol::Tls => {
            opaque::relay_accepted(tcp, bytes::Bytes::new(), &destination, cx).await;
        }
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            let broken = tcp.broken();
            server::serve(Rewound::new(bytes::Bytes::new(), tcp.into_http()), broken, cx).await;
        }
        Protocol::Undeclared => tunnel::undeclared(tcp, &destination, cx).await,
    }
}

async fn admit(
    tcp: &mut TcpStream,
    from: SocketAddr,
    shared: &Arc<Shared>,
    drain: DrainWatch,
) -> Result<(StreamContext, Arc<Destination>), &'static str> {
    if !from.ip().to_canonical().is_loopback() {
        return Err("proxy_not_loopback");
    }
    let read = timeout(shared.settings.limits.handshake_timeout, proxy_protocol::read(tcp));
    let header = read.await.map_err(|_elapsed| "proxy_timeout")?.map_err(|_error| "proxy_malformed")?;
    let vouched =
        header.identity.as_deref().map(SpiffeId::parse).transpose().map_err(|_error| "proxy_identity")?;
    let peer = PeerContext { name: PeerName::Vouched(vouched), address: header.source, local: None };
    let target = Target::Addr(header.destination);
    let snapshot = shared.config.load().ok_or("not_ready")?;
    let destination = snapshot.destination(&target).map_err(|refusal| Refusal::reason(&refusal))?;
    let cx = StreamContext {
        shared: Arc::clone(shared),
        peer: Arc::new(peer),
        target,
        server_name: None,
        drain,
        upgrades: TaskTracker::new(),
    };
    Ok((cx, destination))
}
