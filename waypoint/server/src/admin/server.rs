//! A small HTTP/1.1 server for the admin ports.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Admin, Surface};

/// Connections of one port at once; a scraper needs one.
const CONNECTIONS: usize = 64;
/// Time for a request's head, and for an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after an accept error that will not go away at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Answers on one port until it is dropped; its connections end with it.
pub async fn serve(listener: TcpListener, surface: Surface, admin: Arc<Admin>) {
    let mut connections = JoinSet::new();
    loop {
        // Finished connections are taken out first, so that the set stays small.
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((socket, _)) => {
                connections.spawn(connection(socket, surface, Arc::clone(&admin)));
            }
            Err(error) => {
                tracing::debug!(%error, "accepting on an admin port failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, surface: Surface, admin: Arc<Admin>) {
    let answer = service_fn(move |request| {
        let reply = admin.answer(surface, &request);
        async move { Ok::<_, Infallible>(reply) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(socket), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to an admin port failed");
    }
}
