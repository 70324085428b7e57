//! One HBONE connection's loop, and one stream's steps.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hbone::{Connect, Connection, ConnectionError, Io};
use http::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_util::task::TaskTracker;
use waypoint_model::Protocol;
use waypoint_policy::Reads;

use crate::context::{PeerContext, Shared, StreamContext};
use crate::detect::{self, Found, Rewound};
use crate::drain::{self, DrainWatch, Phase};
use crate::http::server;
use crate::opaque;
use crate::peer_watch::PeerWatch;
use crate::refusal::Refusal;
use crate::snapshot::Destination;
use crate::telemetry::Telemetry;

/// Time for streams to write their records once their connection is gone.
const WIND_UP: Duration = Duration::from_secs(5);

/// Carries a connection's streams until it ends, its peer is no longer welcome, or the drain cuts it.
pub(crate) async fn run<IO: Io>(
    mut connection: Connection<IO>,
    peer: Arc<PeerContext>,
    watch: PeerWatch,
    shared: &Arc<Shared>,
    mut drain: DrainWatch,
) {
    let mut streams = JoinSet::new();
    let mut cut = drain.clone();
    let (own, _) = drain::channel();
    let stream_drain = drain.of_connection(&own);
    let mut draining = false;
    let (leaves_at, last_part) = watch.last_part();
    let mut leaving = Phase::Serving;
    let unwelcome = watch.unwelcome(shared.settings.limits.recheck);
    tokio::pin!(unwelcome);
    loop {
        tokio::select! {
            biased;
            () = cut.reached(Phase::Aborting) => {
                connection.abrupt_shutdown();
                break;
            }
            reason = &mut unwelcome => {
                tracing::info!(peer.addr = %peer.address, reason, "closing the peer's tunnels");
                shared.telemetry.handshake_failed(reason);
                connection.abrupt_shutdown();
                break;
            }
            () = drain.reached(Phase::Draining), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            // The peer's certificate is about to end: it is sent away as in a drain, and comes again with its new one.
            () = sleep_until(leaves_at), if leaving == Phase::Serving => {
                leaving = Phase::Lingering;
                own.advance(leaving);
                connection.graceful_shutdown();
            }
            () = sleep_until(leaves_at + last_part / 2), if leaving == Phase::Lingering => {
                leaving = Phase::Draining;
                own.advance(leaving);
            }
            _ended = streams.join_next(), if !streams.is_empty() => {}
            next = connection.next() => match next {
                Ok(Some(connect)) => drop(streams.spawn(stream(connect, Arc::clone(&peer), Arc::clone(shared), stream_drain.clone()))),
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(peer.addr = %peer.address, %error, "connection ended");
                    count(&error, &shared.telemetry);
                    break;
                }
            },
        }
    }
    drop(connection);
    let wind_up = async { while streams.join_next().await.is_some() {} };
    let _ = timeout(WIND_UP, wind_up).await;
}

fn count(error: &ConnectionError, telemetry: &Telemetry) {
    let reason = error.reason();
    telemetry.tunnel_failed(reason);
    if reason == "frame_size" {
        telemetry.limit_hit("frame");
    }
}

/// Carries one CONNECT stream of an authenticated peer to its destination (HBONE; RFC 9113 §8.5).
///
/// HTTP is accepted at once and refused inside; an opaque stream is accepted when its upstream is connected. What carries it is
/// boxed: the task has the size of its largest part for as long as the stream lives.
async fn stream(connect: Connect, peer: Arc<PeerContext>, shared: Arc<Shared>, drain: DrainWatch) {
    let _open = shared.telemetry.stream();
    let (cx, destination) = match admit(&connect, peer, &shared, drain) {
        Ok(admitted) => admitted,
        Err(refusal) => {
            tracing::info!(%refusal, "CONNECT refused");
            shared.telemetry.refused(refusal.reason());
            return connect.refuse(refusal.status());
        }
    };
    match destination.protocol {
        Protocol::Tcp | Protocol::Tls if destination.opaque_policy.asks_server_name() => {
            // The client's first bytes come after the 200 only, and the rules need them.
            if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
                Box::pin(opaque::relay_accepted(tunnel, Bytes::new(), &destination, cx)).await;
            }
        }
        Protocol::Tcp | Protocol::Tls => Box::pin(opaque::relay(connect, &destination, cx)).await,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
            if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
                let broken = tunnel.broken();
                server::serve(tunnel, broken, cx).await;
            }
        }
        Protocol::Undeclared => {
            if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
                Box::pin(undeclared(tunnel, &destination, cx)).await;
            }
        }
    }
}

fn admit(
    connect: &Connect,
    peer: Arc<PeerContext>,
    shared: &Arc<Shared>,
    drain: DrainWatch,
) -> Result<(StreamContext, Arc<Destination>), Refusal> {
    if !connect.is_connect() {
        return Err(Refusal::BadConnect);
    }
    let target = connect.target().map_err(|_malformed| Refusal::BadConnect)?;
    let Some(snapshot) = shared.config.load() else { return Err(Refusal::UnknownDestination(target)) };
    let destination = snapshot.destination(&target)?;
    let cx = StreamContext {
        shared: Arc::clone(shared),
        peer,
        target,
        server_name: None,
        drain,
        upgrades: TaskTracker::new(),
    };
    Ok((cx, destination))
}

/// The first bytes tell. A client that waits for the server to speak first is carried as opaque after `sniff_timeout`.
pub(crate) async fn undeclared<IO: opaque::Downstream>(
    mut io: IO,
    destination: &Arc<Destination>,
    cx: StreamContext,
) {
    let limits = &cx.shared.settings.limits;
    let (found, bound) = detect::detect(&mut io, limits.sniffed, limits.sniff_timeout).await;
    if let Some(limit) = bound {
        cx.shared.telemetry.limit_hit(limit);
    }
    match found {
        Ok((Found::Http, first)) => {
            let broken = io.broken();
            server::serve(Rewound::new(first, io.into_http()), broken, cx).await;
        }
        // What is read as MCP is never carried unread: neither silence nor other first bytes opt out.
        Ok((Found::Opaque, _unread)) if destination.reads() == Reads::Mcp => {
            opaque::refuse(io, &Refusal::BadRequest("opaque_on_mcp_port"), destination, &cx);
        }
        Ok((Found::Opaque, _unread)) if destination.reads() == Reads::A2a => {
            opaque::refuse(io, &Refusal::BadRequest("opaque_on_a2a_port"), destination, &cx);
        }
        Ok((Found::Opaque, first)) => opaque::relay_accepted(io, first, destination, cx).await,
        Err(error) => tracing::debug!(%error, "stream ended before its first bytes"),
    }
}
