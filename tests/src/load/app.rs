//! The application that answers all callers, over HTTP/1.1 and h2c. It keeps nothing of what it was asked.

use super::mcp::Sessions;
use crate::http::{Body, streamed};
use crate::upstream::{self, Seen};
use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, sleep};

/// Pause between two events of the endless stream.
const TICK: Duration = Duration::from_millis(20);

/// How long it takes for an answer to `/slow`.
const SLOW: Duration = Duration::from_millis(100);

/// A running application. It and its connections end when this is dropped.
pub struct App {
    task: JoinHandle<()>,
    requests: Arc<Requests>,
}

#[derive(Default)]
struct Requests {
    begun: AtomicUsize,
    unanswered: AtomicUsize,
}

impl App {
    /// Starts it at `address`, with the MCP sessions of `sessions` on `/mcp`.
    pub async fn start(address: SocketAddr, sessions: Sessions) -> Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
        Ok(Self::on(listener, sessions))
    }

    /// The same on a listener that is there, perhaps in another network than this process's.
    #[must_use]
    pub fn on(listener: TcpListener, sessions: Sessions) -> Self {
        let requests = Arc::<Requests>::default();
        let count = requests.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                connections.spawn(serve(tcp, sessions.clone(), count.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { task, requests }
    }

    /// Ends it, with all its connections; its address is free then.
    pub async fn end(mut self) {
        self.task.abort();
        // It has been told to end, and that is how it ends.
        let _ = (&mut self.task).await;
    }

    /// Requests so far.
    #[must_use]
    pub fn begun(&self) -> usize {
        self.requests.begun.load(Ordering::Relaxed)
    }

    /// Requests whose answer has not begun, and calls of both ways that have not ended.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.requests.unanswered.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(tcp: TcpStream, sessions: Sessions, requests: Arc<Requests>) {
    let service = service_fn(move |request| {
        let (sessions, requests) = (sessions.clone(), requests.clone());
        async move { respond(request, &sessions, Unanswered::one(requests)).await }
    });
    // A socket that fails shows at its other end.
    let _ = tcp.set_nodelay(true);
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service).await;
}

/// One request, until it is answered or its connection has broken.
struct Unanswered(Arc<Requests>);

impl Unanswered {
    fn one(requests: Arc<Requests>) -> Self {
        requests.begun.fetch_add(1, Ordering::Relaxed);
        requests.unanswered.fetch_add(1, Ordering::Relaxed);
        Self(requests)
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn respond(
    request: Request<Incoming>,
    sessions: &Sessions,
    counted: Unanswered,
) -> Result<Response<Body>, hyper::Error> {
    if request.uri().path() == "/echo.Echo/Both" {
        return Ok(both(request.into_body(), counted));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let seen = Seen { method: head.method, uri: head.uri, headers: head.headers, body, connection: 0 };
    if seen.uri.path() == "/slow" {
        sleep(SLOW).await;
    }
    Ok(sessions.answer(&seen).unwrap_or_else(|| answer(&seen)))
}

/// What it answers to requests that are no MCP.
#[must_use]
pub fn answer(seen: &Seen) -> Response<Body> {
    match seen.uri.path() {
        "/ticks" => ticks(),
        "/echo.Echo/Unary" => grpc(seen.body.clone()),
        _ => upstream::text(StatusCode::OK, "ok"),
    }
}

/// Numbered events without end.
fn ticks() -> Response<Body> {
    let (sender, response) = upstream::open_events();
    tokio::spawn(async move {
        let mut pace = interval(TICK);
        for number in 0_u64.. {
            pace.tick().await;
            let event = Bytes::from(format!("id: {number}\ndata: {number}\n\n"));
            if sender.send(Frame::data(event)).await.is_err() {
                return;
            }
        }
    });
    response
}

/// The message back, and the status in trailers.
fn grpc(message: Bytes) -> Response<Body> {
    let (sender, body) = streamed();
    for frame in [Frame::data(message), Frame::trailers(ok())] {
        // The queue is longer than two.
        let _ = sender.try_send(frame);
    }
    as_grpc(body)
}

/// Each message back as it comes, and the status when the last has come.
fn both(messages: Incoming, counted: Unanswered) -> Response<Body> {
    // Who breaks a call off gets no more of it, so nobody takes this end for a clean one.
    let frames = BodyStream::new(messages).take_while(|frame| std::future::ready(frame.is_ok()));
    let data = frames.filter_map(|frame| {
        // The end comes as DATA without a byte; sent on as such, a hundred of them end the connection (h2).
        let data = frame.ok().and_then(|frame| frame.into_data().ok()).filter(|data| !data.is_empty());
        std::future::ready(data.map(|data| Ok::<_, Infallible>(Frame::data(data))))
    });
    let end = futures_util::stream::once(async move {
        drop(counted);
        Ok(Frame::trailers(ok()))
    });
    as_grpc(StreamBody::new(data.chain(end)).boxed_unsync())
}

fn ok() -> HeaderMap {
    HeaderMap::from_iter([(header::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))])
}

fn as_grpc(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
