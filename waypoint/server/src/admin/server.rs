//! A small HTTP/1.1 server for the admin ports.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use super::{Admin, Surface};

/// Connections of one port at once; a scraper needs one. One more ends the oldest: whoever holds sockets open must not
/// make the kubelet find us unready.
const CONNECTIONS: usize = 64;
/// Time for a whole connection: one request and its answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The same where answers may be large.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause after an accept error that will not go away at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Answers on one port until it is dropped; its connections end with it.
pub async fn serve(listener: TcpListener, surface: Surface, admin: Arc<Admin>) {
    let mut connections = JoinSet::new();
    let mut oldest_first = VecDeque::new();
    let long = Arc::new(Semaphore::new(1));
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                // Finished connections are taken out first, so that the set stays small.
                while connections.try_join_next().is_some() {}
                make_room(&mut oldest_first);
                let connection =
                    connection(socket, from.ip(), surface, Arc::clone(&admin), Arc::clone(&long));
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

async fn connection(
    socket: TcpStream,
    from: IpAddr,
    surface: Surface,
    admin: Arc<Admin>,
    long: Arc<Semaphore>,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (admin, long) = (Arc::clone(&admin), Arc::clone(&long));
        async move {
            if surface.is_long(request.uri().path()) {
                return answer_long(surface, from, request, admin, long).await;
            }
            Ok(admin.answer(surface, from, &request))
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), answer);
    let time = if surface == Surface::Admin { LONG_TIMEOUT } else { CONNECTION_TIMEOUT };
    match tokio::time::timeout(time, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to an admin port failed"),
        Err(_) => tracing::debug!("a connection to an admin port took too long"),
    }
}

/// On a thread of its own, since this one applies configurations, and one after the other, since each may hold as much memory
/// as the configuration has. A caller that goes away lets the next one in only when its answer is made.
async fn answer_long(
    surface: Surface,
    from: IpAddr,
    request: Request<Incoming>,
    admin: Arc<Admin>,
    long: Arc<Semaphore>,
) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let turn = long.acquire_owned().await.map_err(|_| NoAnswer)?;
    let answer = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        admin.answer(surface, from, &request)
    });
    answer.await.map_err(|_| NoAnswer)
}

/// The runtime ends; so does the connection.
#[derive(Debug, thiserror::Error)]
#[error("the process ends")]
struct NoAnswer;
