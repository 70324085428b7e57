//! Applications behind the waypoint: an HTTP server that records what reaches it and answers as told, and a TCP echo.

use crate::http::{Body, empty, full, streamed};
use crate::wait;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

/// A request that reached the application.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The request target.
    pub uri: Uri,
    /// The headers, with `host` also for HTTP/2.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Seen {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

type Script = dyn Fn(&Seen) -> Response<Body> + Send + Sync;

/// An HTTP/1.1 and h2c server that records every request before it answers by its script.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    begun: AtomicUsize,
    script: Box<Script>,
}

impl Upstream {
    /// Starts a server at `address` that answers each request by `script`.
    pub async fn start(
        address: SocketAddr,
        script: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::on(TcpListener::bind(address).await.with_context(|| address.to_string())?, script)
    }

    /// The same on a listener that is there, perhaps in another network than this process's.
    pub fn on(
        listener: TcpListener,
        script: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            script: Box::new(script),
        });
        let task = tokio::spawn(accept_all(listener, shared.clone())).abort_handle();
        Ok(Self { address, shared, task })
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// TCP connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Requests whose head has come, also those that broke off in their body.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.shared.begun.load(Ordering::Relaxed)
    }

    /// Waits until `count` requests have come, and returns them all.
    pub async fn saw(&self, count: usize) -> Result<Vec<Seen>> {
        wait::until(&format!("the upstream saw {count} requests"), || {
            Some(self.seen()).filter(|seen| seen.len() >= count)
        })
        .await
    }

    /// Says that no request has come. Call it after the refusal was read. For refusals that could be overtaken by
    /// the request, send an allowed request afterwards and use [`Self::saw_only`].
    ///
    /// # Panics
    /// When one has come.
    #[track_caller]
    pub fn saw_nothing(&self) {
        let seen = self.seen();
        assert!(seen.is_empty(), "nothing was to reach the upstream, but it saw {seen:#?}");
    }

    /// Says that exactly these paths were asked for, in this order.
    ///
    /// # Panics
    /// When others were.
    #[track_caller]
    pub fn saw_only(&self, paths: &[&str]) {
        let seen: Vec<_> = self.seen().iter().map(|seen| seen.uri.path().to_owned()).collect();
        assert_eq!(seen, paths, "what reached the upstream");
    }

    /// Forgets what has come.
    pub fn forget(&self) {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(serve(tcp, shared));
    }
}

async fn serve(tcp: TcpStream, shared: Arc<Shared>) {
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
    let _ = tcp.set_nodelay(true);
    let service = service_fn(|request| answer(request, connection, shared.clone()));
    // An error here is a connection that broke, which the test sees from the other side.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service).await;
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    shared: Arc<Shared>,
) -> Result<Response<Body>, hyper::Error> {
    shared.begun.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let mut headers = head.headers;
    if let Some(authority) = head.uri.authority().and_then(|authority| authority.as_str().parse().ok()) {
        headers.entry(header::HOST).or_insert(authority);
    }
    let body = body.collect().await?.to_bytes();
    let seen = Seen { method: head.method, uri: head.uri, headers, body, connection };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
    Ok((shared.script)(&seen))
}

/// An answer with a text body.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
}

/// An answer with a JSON body and status 200.
#[must_use]
pub fn json(body: &Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, body.to_string());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The JSON-RPC result for the request that was seen, with its id.
#[must_use]
pub fn result(seen: &Seen, result: &Value) -> Response<Body> {
    let id = seen.json().get("id").cloned().unwrap_or_default();
    json(&serde_json::json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

/// A finished event stream of these blocks; each must end with an empty line.
#[must_use]
pub fn events(blocks: &[&str]) -> Response<Body> {
    event_stream(full(blocks.concat()))
}

/// An open event stream: what is sent goes out at once, and it ends when the sender is dropped.
#[must_use]
pub fn open_events() -> (mpsc::Sender<Frame<Bytes>>, Response<Body>) {
    let (sender, body) = streamed();
    (sender, event_stream(body))
}

fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

/// 202 with no body, as MCP servers acknowledge notifications.
#[must_use]
pub fn accepted() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// A TCP server that speaks first if told so, then sends back what it reads until the end of file, then closes.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    task: AbortHandle,
}

impl Echo {
    /// Starts a server that greets each connection with `greeting` (may be empty).
    pub async fn start(address: SocketAddr, greeting: &'static [u8]) -> Result<Self> {
        Self::on(TcpListener::bind(address).await.with_context(|| address.to_string())?, greeting)
    }

    /// The same on a listener that is there, perhaps in another network than this process's.
    pub fn on(listener: TcpListener, greeting: &'static [u8]) -> Result<Self> {
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(echo(tcp, greeting));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task: task.abort_handle() })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn echo(mut tcp: TcpStream, greeting: &[u8]) -> Result<(), Infallible> {
    use tokio::io::AsyncWriteExt as _;
    if tcp.write_all(greeting).await.is_ok() {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    }
    Ok(())
}
