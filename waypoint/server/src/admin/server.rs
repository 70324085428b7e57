//! A small HTTP/1.1 server for the admin ports.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::{Admin, Surface};

/// Connections of one port at once; a scraper needs one. One more ends the oldest: whoever holds sockets open must not
/// make the kubelet find us unready.
const CONNECTIONS: usize = 64;
/// Time for a whole connection: one request and its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after an accept error that will not go away at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Answers on one port until it is dropped; its connections end with it.
pub async fn serve(listener: TcpListener, surface: Surface, admin: Arc<Admin>) {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                // Finished connections are taken out first, so that the set stays small.
                while connections.try_join_next().is_some() {}
                make_room(&mut oldest_first);
                let connection = connection(socket, from.ip(), surface, Arc::clone(&admin));
                oldest_first.push_back(connections.spawn(connection));
            }
            Err(error) => {
                tracing::debug!(%error, "accepting on an admin port failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Forgets the connections that have ended, and ends the oldest if there are still too many.
fn make_room(oldest_first: &mut VecDeque<AbortHandle>) {
    oldest_first.retain(|connection| !connection.is_finished());
    while oldest_first.len() >= CONNECTIONS {
        let Some(oldest) = oldest_first.pop_front() else { return };
        oldest.abort();
    }
}

async fn connection(socket: TcpStream, from: IpAddr, surface: Surface, admin: Arc<Admin>) {
    let answer = service_fn(move |request| {
        let reply = admin.answer(surface, from, &request);
        async move { Ok::<_, Infallible>(reply) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), answer);
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to an admin port failed"),
        Err(_) => tracing::debug!("a connection to an admin port took too long"),
    }
}
