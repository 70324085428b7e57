//! The destination: a pod whose ztunnel and application are this process.
//!
//! It takes HBONE on `:15008` and plain TCP on the application's ports. What it answers is asked for by the path, so that it
//! costs the same whoever stands before it.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_tests::http::Io;
use portcullis_tests::ztunnel::TunnelStream;
use rustls::ServerConfig;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::mcp;
use crate::world::HBONE;

/// What a port of the backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum App {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS.
    H2c,
    /// gRPC.
    Grpc,
    /// Bytes without end, from the first byte that comes.
    Raw,
}

impl App {
    /// Its port.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Http1 => 8080,
            Self::H2c => 8081,
            Self::Grpc => 8082,
            Self::Raw => 9000,
        }
    }

    fn at(port: u16) -> Option<Self> {
        [Self::Http1, Self::H2c, Self::Grpc, Self::Raw].into_iter().find(|app| app.port() == port)
    }
}

/// Windows of HTTP/2, of a stream and a connection: as ztunnel's.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// Streams that a peer may open on one connection: as ztunnel's.
const STREAMS: u32 = 200;

/// The largest answer.
pub(crate) const LARGEST: usize = 1 << 20;

static ZEROES: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![b'0'; LARGEST]));

type Body = Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>;

/// The running backend; ends when dropped.
pub(crate) struct Backend(Vec<JoinHandle<()>>);

impl Backend {
    /// Listens on all ports of `pod`.
    pub(crate) async fn start(pod: Ipv4Addr, tls: ServerConfig) -> Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let tunnels = listen(pod, HBONE).await?;
        let mut tasks = vec![tokio::spawn(accept(tunnels, move |tcp| serve_tunnel(tcp, acceptor.clone())))];
        for app in [App::Http1, App::H2c, App::Grpc] {
            let plain = listen(pod, app.port()).await?;
            tasks.push(tokio::spawn(accept(plain, move |tcp| async move {
                serve_http(tcp, app).await;
                Ok(())
            })));
        }
        Ok(Self(tasks))
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(pod: Ipv4Addr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((pod, port));
    // Thousands of connections may come at once.
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| address.to_string())?;
    Ok(socket.listen(4096)?)
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    while let Ok((tcp, _)) = listener.accept().await {
        let _ = tcp.set_nodelay(true);
        // How a connection ends is seen by the load, which counts what was answered.
        tokio::spawn(serve(tcp));
    }
}

async fn serve_tunnel(tcp: TcpStream, acceptor: TlsAcceptor) -> Result<()> {
    let tls = acceptor.accept(tcp).await?;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(STREAMS)
        .handshake::<_, Bytes>(tls)
        .await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let app = request.uri().port_u16().and_then(App::at);
        let status = app.map_or(StatusCode::NOT_FOUND, |_| StatusCode::OK);
        let mut head = Response::new(());
        *head.status_mut() = status;
        let send = respond.send_response(head, app.is_none())?;
        let stream = TunnelStream::new(send, request.into_body());
        match app {
            Some(App::Raw) => drop(tokio::spawn(pour(stream))),
            Some(app) => drop(tokio::spawn(serve_http(stream, app))),
            None => {}
        }
    }
    Ok(())
}

/// Sends bytes from the first that comes until the stream breaks.
async fn pour(mut stream: TunnelStream) {
    if stream.data().await.is_some() {
        while stream.send(ZEROES.slice(..64 << 10)).await.is_ok() {}
    }
}

async fn serve_http(io: impl Io, app: App) {
    let service = service_fn(answer);
    // A client that goes away in the middle is part of the load.
    let _ = match app {
        App::Http1 | App::Raw => http1::Builder::new().serve_connection(TokioIo::new(io), service).await,
        App::H2c | App::Grpc => {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.initial_stream_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
            http.serve_connection(TokioIo::new(io), service).await
        }
    };
}

/// How many requests for [`TOGETHER`] have come.
static WAITING: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// Path of requests that are answered when the number that follows it has come.
pub(crate) const TOGETHER: &str = "/together/";

/// The size of their answers.
pub(crate) const SMALL: usize = 1024;

/// Forgets the requests for [`TOGETHER`] that came so far.
pub(crate) fn nobody_waits() {
    WAITING.send_replace(0);
}

async fn all_of(count: usize) {
    WAITING.send_modify(|waiting| *waiting += 1);
    // The sender is never dropped.
    let _ = WAITING.subscribe().wait_for(|waiting| *waiting >= count).await;
}

/// Answers what the path asks for: `…/bytes/N`, `…/echo` (gRPC), `/together/N`, `/mcp…`.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    if let Some((_, size)) = path.rsplit_once("/bytes/") {
        drain(body).await?;
        let size = size.parse().unwrap_or(0).min(LARGEST);
        return Ok(Response::new(Either::Left(Full::new(ZEROES.slice(..size)))));
    }
    if let Some(count) = path.strip_prefix(TOGETHER) {
        all_of(count.parse().unwrap_or(0)).await;
        return Ok(Response::new(Either::Left(Full::new(ZEROES.slice(..SMALL)))));
    }
    if path.ends_with("/echo") {
        return Ok(trailers_after(body.collect().await?.to_bytes()));
    }
    if head.method == Method::GET && path == mcp::EVENTS {
        return Ok(typed(mcp::SSE, Either::Right(open_events())));
    }
    let (kind, answer) = mcp::answer(path);
    drain(body).await?;
    Ok(typed(kind, Either::Left(Full::new(answer))))
}

async fn drain(mut body: Incoming) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

fn typed(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// One event, and then nothing for ever.
fn open_events() -> UnsyncBoxBody<Bytes, Infallible> {
    let first = stream::iter([Ok(Frame::data(Bytes::from_static(b": open\n\n")))]);
    StreamBody::new(futures_util::StreamExt::chain(first, stream::pending())).boxed_unsync()
}

fn trailers_after(message: Bytes) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
    typed("application/grpc", Either::Right(StreamBody::new(stream::iter(frames)).boxed_unsync()))
}
