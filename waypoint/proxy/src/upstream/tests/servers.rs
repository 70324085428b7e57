//! Servers that do what a test tells them, and count what they saw.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use certs::MeshTls;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::body::Body;

/// What a server saw.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicUsize,
    pub(super) closed: AtomicUsize,
    pub(super) requests: AtomicUsize,
}

impl Seen {
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// A running server; it ends with this.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Gives each TCP connection and its number, from 0, to `handle`.
    pub(super) async fn raw<F, R>(handle: F) -> Self
    where
        F: Fn(TcpStream, usize, Arc<Seen>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, handle)
    }

    fn on<F, R>(listener: TcpListener, handle: F) -> Self
    where
        F: Fn(TcpStream, usize, Arc<Seen>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let (mut tasks, counts) = (JoinSet::new(), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let number = counts.connections.fetch_add(1, Ordering::SeqCst);
                let (handled, counts) = (handle(tcp, number, Arc::clone(&counts)), Arc::clone(&counts));
                connections.spawn(async move {
                    handled.await;
                    counts.closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    /// HTTP/1.1 or HTTP/2 with prior knowledge; each request and its number, from 0, goes to `answer`.
    pub(super) async fn http<F, R>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>, usize) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::raw(move |tcp, _, seen| serve(tcp, answer.clone(), seen, None)).await
    }

    /// As [`Server::http`], allowing so many streams on an HTTP/2 connection.
    pub(super) async fn narrow<F, R>(max_streams: u32, answer: F) -> Self
    where
        F: Fn(Request<Incoming>, usize) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::raw(move |tcp, _, seen| serve(tcp, answer.clone(), seen, Some(max_streams))).await
    }

    /// Answers 200 with its own name.
    pub(super) async fn named(name: &'static str) -> Self {
        Self::http(move |_, _| async move { text(name) }).await
    }

    /// A ztunnel before a server at port 8080 of an address of its own.
    pub(super) async fn ztunnel(tls: MeshTls) -> (Self, Arc<Tunnelled>) {
        let tunnelled = Arc::new(Tunnelled::default());
        let shared = Arc::clone(&tunnelled);
        let mut server = Self::on(own_address().await, move |tcp, _, seen| {
            tunnelled_connection(tcp, tls.clone(), seen, Arc::clone(&shared))
        });
        server.address.set_port(8080);
        (server, tunnelled)
    }
}

/// What came through the tunnels of a ztunnel.
#[derive(Default)]
pub(super) struct Tunnelled {
    pub(super) authorities: std::sync::Mutex<Vec<String>>,
    pub(super) peers: std::sync::Mutex<Vec<String>>,
}

impl Tunnelled {
    pub(super) fn authorities(&self) -> Vec<String> {
        self.authorities.lock().unwrap().clone()
    }

    pub(super) fn peers(&self) -> Vec<String> {
        self.peers.lock().unwrap().clone()
    }
}

async fn tunnelled_connection(tcp: TcpStream, tls: MeshTls, seen: Arc<Seen>, tunnelled: Arc<Tunnelled>) {
    let Ok(authenticated) = tls.accept(tcp).await else { return };
    tunnelled.peers.lock().unwrap().push(authenticated.peer.id().to_string());
    let settings = hbone::Settings::default();
    let Ok(mut connection) = hbone::handshake(authenticated.stream, &settings).await else { return };
    let mut streams = JoinSet::new();
    while let Ok(Some(connect)) = connection.next().await {
        tunnelled.authorities.lock().unwrap().push(connect.target().unwrap().to_string());
        let tunnel = connect.accept(http::HeaderMap::new()).unwrap();
        let echo = |_, number: usize| async move { text(&format!("tunnelled {number}")) };
        streams.spawn(serve(tunnel, echo, Arc::clone(&seen), None));
    }
}

/// Port 15008 of a loopback address that nobody else uses, whichever tests run beside this one.
async fn own_address() -> TcpListener {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let process = std::process::id().to_be_bytes();
    loop {
        let next = u8::try_from(NEXT.fetch_add(1, Ordering::SeqCst)).expect("an address is left");
        let ip = IpAddr::from([127, 96 + process[2] % 32, process[3], next]);
        if let Ok(listener) = TcpListener::bind((ip, 15_008)).await {
            return listener;
        }
    }
}

pub(super) async fn serve<IO, F, R>(io: IO, answer: F, seen: Arc<Seen>, max_streams: Option<u32>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    F: Fn(Request<Incoming>, usize) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let number = seen.requests.fetch_add(1, Ordering::SeqCst);
        let answered = answer(request, number);
        async move { Ok::<_, std::convert::Infallible>(answered.await) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(max_streams.unwrap_or(200));
    let _ended = builder.serve_connection_with_upgrades(TokioIo::new(io), service).await;
}

pub(super) fn text(body: &str) -> Response<Body> {
    Response::new(Body::full(body.to_owned()))
}

/// Reads a request head and, by its `content-length`, its body.
pub(super) async fn read_request(tcp: &mut TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.trim().parse().unwrap());
            if request.len() >= end + 4 + length {
                return request;
            }
        }
        if tcp.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return request;
        }
    }
}

/// Waits until the other end closes or resets.
pub(super) async fn gone(tcp: &mut TcpStream) {
    let mut rest = [0; 1024];
    while tcp.read(&mut rest).await.unwrap_or(0) > 0 {}
}

/// An address at which nobody listens.
pub(super) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
