//! Scripted peers.

use bytes::Bytes;
use hbone::{Connect, ConnectionError, Io, Settings, Target, Tunnel};
use http::{HeaderMap, Method, Request};
use std::future::Future;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) const TARGET: &str = "10.96.4.7:80";

pub(crate) fn target() -> Target {
    Target::parse(TARGET).unwrap()
}

/// What must happen soon; with a paused clock, before anything waits for time.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(5), what).await.expect("this did not happen in time")
}

/// Lets every other task run until all of them wait. Needs a paused clock.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(crate) fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

pub(crate) enum Order {
    Graceful,
    Abrupt,
}

/// Our server in a task; it hands out what it accepts.
pub(crate) struct Server {
    pub(crate) connects: mpsc::Receiver<Connect>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) ended: JoinHandle<Result<(), ConnectionError>>,
}

impl Server {
    pub(crate) fn start(io: impl Io, settings: Settings) -> Self {
        let (send, connects) = mpsc::channel(500);
        let (orders, mut receive) = mpsc::channel(1);
        let ended = tokio::spawn(async move {
            let mut connection = hbone::handshake(io, &settings).await?;
            loop {
                tokio::select! {
                    Some(order) = receive.recv() => match order {
                        Order::Graceful => connection.graceful_shutdown(),
                        Order::Abrupt => connection.abrupt_shutdown(),
                    },
                    connect = connection.next() => match connect? {
                        Some(connect) => drop(send.send(connect).await),
                        None => return Ok(()),
                    },
                }
            }
        });
        Self { connects, orders, ended }
    }

    pub(crate) async fn connect(&mut self) -> Connect {
        soon(self.connects.recv()).await.expect("the connection has ended")
    }

    pub(crate) async fn accept(&mut self) -> Tunnel {
        self.connect().await.accept(HeaderMap::new()).unwrap()
    }

    pub(crate) async fn order(&self, order: Order) {
        self.orders.send(order).await.unwrap_or_else(|_| panic!("the connection has ended"));
    }
}

/// A raw HTTP/2 client in a task.
pub(crate) async fn raw_client(io: impl Io) -> RawClient {
    raw_client_with(io, &h2::client::Builder::new()).await
}

pub(crate) async fn raw_client_with(io: impl Io, builder: &h2::client::Builder) -> RawClient {
    let (h2, connection) = soon(builder.handshake(io)).await.unwrap();
    RawClient { h2, ended: tokio::spawn(connection) }
}

pub(crate) struct RawClient {
    pub(crate) h2: h2::client::SendRequest<Bytes>,
    pub(crate) ended: JoinHandle<Result<(), h2::Error>>,
}

impl RawClient {
    /// Sends a CONNECT.
    pub(crate) async fn connect(&mut self) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut h2 = soon(self.h2.clone().ready()).await.unwrap();
        h2.send_request(request(Method::CONNECT, TARGET), false).unwrap()
    }

    /// Sends a CONNECT and gets a 200.
    pub(crate) async fn open(&mut self, server: &mut Server) -> (Raw, Tunnel) {
        let (response, send) = self.connect().await;
        let tunnel = server.accept().await;
        let recv = soon(response).await.unwrap().into_body();
        (Raw { send, recv }, tunnel)
    }
}

pub(crate) fn request(method: Method, uri: &str) -> Request<()> {
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

/// A stream of a raw peer.
pub(crate) struct Raw {
    pub(crate) send: h2::SendStream<Bytes>,
    pub(crate) recv: h2::RecvStream,
}

impl Raw {
    /// Queues bytes, whatever the window.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.send.send_data(Bytes::copy_from_slice(data), false).unwrap();
    }

    pub(crate) fn end(&mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
    }

    /// Everything until END_STREAM, or the code of the reset.
    pub(crate) async fn read_all(&mut self) -> (Vec<u8>, Option<h2::Reason>) {
        let mut all = Vec::new();
        while let Some(data) = soon(self.recv.data()).await {
            match data {
                Ok(data) => {
                    all.extend_from_slice(&data);
                    self.recv.flow_control().release_capacity(data.len()).unwrap();
                }
                Err(error) => return (all, Some(error.reason().expect("a code"))),
            }
        }
        (all, None)
    }

    /// Exactly `count` bytes.
    pub(crate) async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < count {
            let data = soon(self.recv.data()).await.expect("no end").unwrap();
            self.recv.flow_control().release_capacity(data.len()).unwrap();
            all.extend_from_slice(&data);
        }
        assert_eq!(all.len(), count);
        all
    }

    /// How many bytes may still be sent. Needs a paused clock.
    pub(crate) async fn credit(&mut self) -> usize {
        self.send.reserve_capacity(1 << 20);
        settle().await;
        let credit = self.send.capacity();
        self.send.reserve_capacity(0);
        credit
    }

    pub(crate) async fn reset_code(&mut self) -> h2::Reason {
        soon(std::future::poll_fn(|cx| self.send.poll_reset(cx))).await.unwrap()
    }
}

/// A raw HTTP/2 server in a task; it hands out requests.
pub(crate) struct RawServer {
    pub(crate) requests: mpsc::Receiver<(Request<h2::RecvStream>, h2::server::SendResponse<Bytes>)>,
    pub(crate) windows: mpsc::Sender<u32>,
    pub(crate) task: JoinHandle<()>,
}

impl RawServer {
    pub(crate) fn start(io: impl Io, builder: h2::server::Builder) -> Self {
        let (send, requests) = mpsc::channel(500);
        let (windows, mut window) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            let Ok(mut connection) = builder.handshake::<_, Bytes>(io).await else { return };
            loop {
                tokio::select! {
                    Some(size) = window.recv() => connection.set_initial_window_size(size).unwrap(),
                    request = connection.accept() => match request {
                        Some(Ok(request)) => drop(send.send(request).await),
                        _ => return,
                    },
                }
            }
        });
        Self { requests, windows, task }
    }

    pub(crate) async fn request(&mut self) -> (h2::RecvStream, h2::server::SendResponse<Bytes>) {
        let (request, respond) = soon(self.requests.recv()).await.expect("the connection has ended");
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.uri().to_string(), TARGET);
        (request.into_body(), respond)
    }

    /// Sets the window of all streams.
    pub(crate) async fn allow(&self, window: u32) {
        self.windows.send(window).await.unwrap();
        settle().await;
    }

    pub(crate) async fn accept(&mut self) -> Raw {
        let (recv, mut respond) = self.request().await;
        Raw { recv, send: respond.send_response(http::Response::new(()), false).unwrap() }
    }
}
