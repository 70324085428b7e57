//! The pool against scripted endpoints.

use crate::support::*;
use hbone::{Connector, OpenError, Pool, PoolSettings, Reset, StreamError, Tunnel};
use http::{HeaderMap, Response};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Gives the far ends of its pipes to the test.
struct Pipes {
    far: mpsc::Sender<DuplexStream>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    dials: AtomicUsize,
    given_up: AtomicUsize,
    hangs: AtomicBool,
    fails: AtomicBool,
    /// How many seconds a connection may take new streams; 0: for ever.
    seconds: AtomicU64,
}

struct GivenUp<'a>(&'a AtomicUsize);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Connector<&'static str> for Pipes {
    type Io = DuplexStream;
    type Error = io::Error;

    async fn connect(&self, _: &&'static str) -> io::Result<DuplexStream> {
        self.counts.dials.fetch_add(1, Ordering::SeqCst);
        if self.counts.hangs.load(Ordering::SeqCst) {
            let _given_up = GivenUp(&self.counts.given_up);
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        if self.counts.fails.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = pipe();
        self.far.send(far).await.map_err(io::Error::other)?;
        Ok(near)
    }

    fn leaves_at(&self, _: &DuplexStream) -> Option<Instant> {
        let seconds = Some(self.counts.seconds.load(Ordering::SeqCst)).filter(|seconds| *seconds > 0)?;
        Some(Instant::now() + Duration::from_secs(seconds))
    }
}

struct Fixture {
    pool: Arc<Pool<&'static str, Pipes>>,
    far: mpsc::Receiver<DuplexStream>,
    counts: Arc<Counts>,
}

const KEY: &str = "a";

impl Fixture {
    fn new() -> Self {
        Self::with(PoolSettings::default())
    }

    fn with(settings: PoolSettings) -> Self {
        let (send, far) = mpsc::channel(100);
        let counts = Arc::<Counts>::default();
        let connector = Pipes { far: send, counts: Arc::clone(&counts) };
        Self { pool: Arc::new(Pool::new(connector, settings)), far, counts }
    }

    fn open(&self) -> JoinHandle<Result<Tunnel, OpenError>> {
        let pool = Arc::clone(&self.pool);
        tokio::spawn(async move { pool.open(&KEY, &target(), HeaderMap::new()).await })
    }

    fn dials(&self) -> usize {
        self.counts.dials.load(Ordering::SeqCst)
    }

    /// The next connection's far end, served raw.
    async fn raw(&mut self) -> RawServer {
        self.raw_with(h2::server::Builder::new()).await
    }

    async fn raw_with(&mut self, builder: h2::server::Builder) -> RawServer {
        RawServer::start(soon(self.far.recv()).await.unwrap(), builder)
    }

    /// The next connection's far end, served by our own server.
    async fn server(&mut self) -> Server {
        Server::start(soon(self.far.recv()).await.unwrap(), hbone::Settings::default())
    }
}

async fn opened(opening: JoinHandle<Result<Tunnel, OpenError>>) -> Tunnel {
    soon(opening).await.unwrap().unwrap()
}

async fn failed(opening: JoinHandle<Result<Tunnel, OpenError>>) -> OpenError {
    soon(opening).await.unwrap().unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_and_fifty_streams_share_two_connections() {
    let mut fixture = Fixture::new();
    let openings: Vec<_> = (0..150).map(|_| fixture.open()).collect();
    let mut first = fixture.raw().await;
    let mut raws = Vec::new();
    for _ in 0..100 {
        raws.push(first.accept().await);
    }
    let mut second = fixture.raw().await;
    for _ in 0..50 {
        raws.push(second.accept().await);
    }
    let mut tunnels = Vec::new();
    for opening in openings {
        tunnels.push(opened(opening).await);
    }
    assert_eq!((fixture.dials(), fixture.pool.connections(), fixture.pool.open_streams()), (2, 2, 150));
    drop((tunnels, raws));
    settle().await;
    assert_eq!((fixture.pool.connections(), fixture.pool.open_streams()), (2, 0));

    let again = fixture.open();
    let _raw = first.accept().await;
    let _tunnel = opened(again).await;
    assert_eq!(fixture.dials(), 2, "the oldest connection with room is used");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_allows_fewer_streams_gets_no_more() {
    let mut fixture = Fixture::new();
    let openings: Vec<_> = (0..11).map(|_| fixture.open()).collect();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(5);
    let (mut servers, mut raws) = (Vec::new(), Vec::new());
    for streams in [5, 5, 1] {
        let mut server = fixture.raw_with(builder.clone()).await;
        for _ in 0..streams {
            raws.push(server.accept().await);
        }
        servers.push(server);
    }
    let mut tunnels = Vec::new();
    for opening in openings {
        tunnels.push(opened(opening).await);
    }
    assert_eq!(fixture.dials(), 3);
}

#[tokio::test(start_paused = true)]
async fn keys_share_nothing() {
    let mut fixture = Fixture::new();
    let first = fixture.open();
    let mut one = fixture.raw().await;
    let _raw = one.accept().await;
    let _tunnel = opened(first).await;
    let pool = Arc::clone(&fixture.pool);
    let other = tokio::spawn(async move { pool.open(&"b", &target(), HeaderMap::new()).await });
    let mut two = fixture.raw().await;
    let _raw = two.accept().await;
    let _tunnel = opened(other).await;
    assert_eq!(fixture.pool.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_dial_fails_all_that_wait_and_the_next_dials_anew() {
    let mut fixture = Fixture::new();
    fixture.counts.fails.store(true, Ordering::SeqCst);
    let openings: Vec<_> = (0..20).map(|_| fixture.open()).collect();
    for opening in openings {
        match failed(opening).await {
            OpenError::Connect(source) => assert_eq!(source.to_string(), "connection refused"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.dials(), 1);
    fixture.counts.fails.store(false, Ordering::SeqCst);
    let opening = fixture.open();
    let mut server = fixture.raw().await;
    let _raw = server.accept().await;
    opened(opening).await;
    assert_eq!(fixture.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_speaks_no_http2_is_a_failed_dial() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut far = soon(fixture.far.recv()).await.unwrap();
    far.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(matches!(failed(opening).await, OpenError::Connect(_)));
    assert_eq!(fixture.pool.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_goaway_new_streams_go_elsewhere_and_running_ones_on() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut first = fixture.server().await;
    let mut old_far = first.accept().await;
    let mut old = opened(opening).await;
    first.order(Order::Graceful).await;
    settle().await;

    let opening = fixture.open();
    let mut second = fixture.server().await;
    let _new_far = second.accept().await;
    let _new = opened(opening).await;
    assert_eq!((fixture.dials(), fixture.pool.connections()), (2, 2));

    tokio::time::sleep(Duration::from_secs(60)).await;
    old.write_all(b"on").await.unwrap();
    let mut got = [0; 2];
    soon(old_far.read_exact(&mut got)).await.unwrap();
    old_far.write_all(&got).await.unwrap();
    old_far.shutdown().await.unwrap();
    old.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon(old.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"on");
    drop((old, old_far));
    assert!(matches!(soon(first.ended).await.unwrap(), Ok(())));
    settle().await;
    assert_eq!(fixture.pool.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_is_replaced() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut first = fixture.raw().await;
    let _raw = first.accept().await;
    let mut tunnel = opened(opening).await;
    first.task.abort();
    assert!(soon(tunnel.read_u8()).await.is_err());
    let opening = fixture.open();
    let mut second = fixture.raw().await;
    let _raw = second.accept().await;
    opened(opening).await;
    assert_eq!((fixture.dials(), fixture.pool.connections()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_tried_once_more_on_a_new_connection() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut first = fixture.raw().await;
    let (_, mut respond) = first.request().await;
    respond.send_reset(h2::Reason::REFUSED_STREAM);
    let mut second = fixture.raw().await;
    let _raw = second.accept().await;
    opened(opening).await;
    assert_eq!(fixture.dials(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stream_above_the_last_id_of_a_goaway_is_tried_once_more() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    // A server that says GOAWAY with last id 0 to the first stream.
    let mut far = soon(fixture.far.recv()).await.unwrap();
    let abrupt = tokio::spawn(async move {
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut seen = Vec::new();
        while !seen.windows(TARGET.len()).any(|w| w == TARGET.as_bytes()) && !has_headers(&seen) {
            assert_ne!(far.read_buf(&mut seen).await.unwrap(), 0);
        }
        far.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
        far
    });
    let mut second = fixture.raw().await;
    let _raw = second.accept().await;
    opened(opening).await;
    let _far = soon(abrupt).await.unwrap();
    assert_eq!(fixture.dials(), 2);
}

/// Whether the bytes of a client hold a HEADERS frame.
fn has_headers(seen: &[u8]) -> bool {
    let mut at = 24; // after the preface
    while let Some(head) = seen.get(at..at + 9) {
        if head[3] == 1 {
            return true;
        }
        at += 9 + (usize::from(head[1]) << 8 | usize::from(head[2]));
    }
    false
}

#[tokio::test(start_paused = true)]
async fn a_stream_refused_twice_is_an_error() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut servers = Vec::new();
    for _ in 0..2 {
        let mut server = fixture.raw().await;
        let (_, mut respond) = server.request().await;
        respond.send_reset(h2::Reason::REFUSED_STREAM);
        servers.push(server);
    }
    assert!(matches!(failed(opening).await, OpenError::Stream(StreamError::Reset(Reset::RefusedStream))));
    settle().await;
    assert_eq!((fixture.dials(), fixture.pool.connections()), (2, 0), "connections that refuse are let go");
}

#[tokio::test(start_paused = true)]
async fn no_other_reset_is_tried_again() {
    for code in [0, 1, 2, 8, 10, 11] {
        let mut fixture = Fixture::new();
        let opening = fixture.open();
        let mut server = fixture.raw().await;
        let (_, mut respond) = server.request().await;
        respond.send_reset(code.into());
        assert!(matches!(failed(opening).await, OpenError::Stream(StreamError::Reset(_))), "{code}");
        assert_eq!(fixture.dials(), 1, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_before_the_answer_is_not_tried_again() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut server = fixture.raw().await;
    let _request = server.request().await;
    server.task.abort();
    assert!(matches!(failed(opening).await, OpenError::Stream(StreamError::Http2(_))));
    assert_eq!(fixture.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_exactly_200_opens_a_tunnel() {
    let mut fixture = Fixture::new();
    let mut server = None;
    for status in [201, 204, 206, 301, 400, 401, 404, 500, 503] {
        let opening = fixture.open();
        if server.is_none() {
            server = Some(fixture.raw().await);
        }
        let (_, mut respond) = server.as_mut().unwrap().request().await;
        let response = Response::builder().status(status).body(()).unwrap();
        let mut send = respond.send_response(response, false).unwrap();
        match failed(opening).await {
            OpenError::Status(told) => assert_eq!(told.as_u16(), status),
            other => panic!("{other:?}"),
        }
        let cancelled = soon(std::future::poll_fn(|cx| send.poll_reset(cx))).await.unwrap();
        assert_eq!(cancelled, h2::Reason::CANCEL);
    }
    assert_eq!((fixture.dials(), fixture.pool.open_streams()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_streams_is_let_go_after_five_minutes() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut server = fixture.server().await;
    let far = server.accept().await;
    let tunnel = opened(opening).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(fixture.pool.connections(), 1, "it carries a stream");

    drop((tunnel, far));
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!(fixture.pool.connections(), 1);
    // A use in between starts the time again.
    let opening = fixture.open();
    let far = server.accept().await;
    drop((opened(opening).await, far));
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!((fixture.pool.connections(), fixture.dials()), (1, 1));
    tokio::time::sleep(Duration::from_secs(302)).await;
    assert_eq!(fixture.pool.connections(), 0);
    assert!(matches!(soon(server.ended).await.unwrap(), Ok(())), "closed properly");
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_nobody_waits_for_is_given_up() {
    let fixture = Fixture::new();
    fixture.counts.hangs.store(true, Ordering::SeqCst);
    let (one, two) = (fixture.open(), fixture.open());
    settle().await;
    one.abort();
    settle().await;
    assert_eq!(fixture.counts.given_up.load(Ordering::SeqCst), 0, "another still waits");
    two.abort();
    settle().await;
    assert_eq!(fixture.counts.given_up.load(Ordering::SeqCst), 1);
    assert_eq!((fixture.dials(), fixture.pool.connections()), (1, 0));
    let third = fixture.open();
    settle().await;
    assert_eq!(fixture.dials(), 2, "the next one dials anew");
    third.abort();
}

#[tokio::test(start_paused = true)]
async fn dropping_an_opening_cancels_its_stream() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut server = fixture.raw().await;
    let (_recv, mut respond) = server.request().await;
    assert_eq!(fixture.pool.open_streams(), 1);
    opening.abort();
    let reset = soon(std::future::poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
    assert_eq!(reset, h2::Reason::CANCEL);
    assert_eq!((fixture.pool.open_streams(), fixture.pool.connections()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn opening_has_a_deadline_for_dial_and_answer() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut server = fixture.raw().await;
    let (_recv, _respond) = server.request().await;
    let start = tokio::time::Instant::now();
    assert!(matches!(opening.await.unwrap().unwrap_err(), OpenError::Timeout));
    assert!(start.elapsed() <= Duration::from_secs(10));
    assert_eq!(fixture.pool.open_streams(), 0);

    let fixture = Fixture::new();
    fixture.counts.hangs.store(true, Ordering::SeqCst);
    assert!(matches!(fixture.open().await.unwrap().unwrap_err(), OpenError::Timeout));
    settle().await;
    assert_eq!(fixture.counts.given_up.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_no_longer_wanted_get_no_new_streams_and_running_ones_go_on() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut first = fixture.server().await;
    let mut far = first.accept().await;
    let mut tunnel = opened(opening).await;
    fixture.pool.retain(|key| *key != KEY);
    let opening = fixture.open();
    let mut second = fixture.server().await;
    let _far = second.accept().await;
    let _tunnel = opened(opening).await;
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(soon(far.read_u8()).await.unwrap(), b'x');
    drop((tunnel, far));
    assert!(matches!(soon(first.ended).await.unwrap(), Ok(())));
    settle().await;
    assert_eq!(fixture.pool.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_leaves_keeps_its_streams_and_gets_no_more() {
    let mut fixture = Fixture::new();
    fixture.counts.seconds.store(60, Ordering::SeqCst);
    let opening = fixture.open();
    let mut first = fixture.server().await;
    let mut far = first.accept().await;
    let mut tunnel = opened(opening).await;
    let leaves_at = tunnel.leaves_at().unwrap();
    assert!(leaves_at <= Instant::now() + Duration::from_secs(60));
    tokio::time::sleep_until(leaves_at - Duration::from_millis(1)).await;
    let opening = fixture.open();
    let _far = first.accept().await;
    let _tunnel = opened(opening).await;
    tokio::time::sleep_until(leaves_at).await;
    let opening = fixture.open();
    let mut second = fixture.server().await;
    let _far = second.accept().await;
    let another = opened(opening).await;
    assert!(another.leaves_at() > Some(leaves_at));
    tunnel.write_all(b"x").await.unwrap();
    assert_eq!(soon(far.read_u8()).await.unwrap(), b'x');
    assert_eq!((fixture.dials(), fixture.pool.connections()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_key_dropped_while_it_is_dialled_is_dialled_anew() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    settle().await;
    fixture.pool.retain(|_| false);
    let _unused = soon(fixture.far.recv()).await.map(|far| RawServer::start(far, h2::server::Builder::new()));
    let mut server = fixture.raw().await;
    let _raw = server.accept().await;
    opened(opening).await;
    assert_eq!((fixture.dials(), fixture.pool.connections()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_noticed_by_unanswered_pings() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut far = soon(fixture.far.recv()).await.unwrap();
    let silent = tokio::spawn(async move {
        far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut seen = Vec::new();
        while !has_headers(&seen) {
            far.read_buf(&mut seen).await.unwrap();
        }
        // HEADERS, END_HEADERS, stream 1: `:status 200`, and then silence.
        far.write_all(&[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]).await.unwrap();
        far
    });
    let mut tunnel = opened(opening).await;
    let start = tokio::time::Instant::now();
    assert_eq!(tunnel.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(start.elapsed().as_secs(), 30);
    settle().await;
    assert_eq!(fixture.pool.connections(), 0);
    drop(silent);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_pool_ends_its_connections() {
    let mut fixture = Fixture::new();
    let opening = fixture.open();
    let mut server = fixture.server().await;
    let mut far = server.accept().await;
    let mut tunnel = opened(opening).await;
    drop(fixture);
    assert!(soon(tunnel.read_u8()).await.is_err());
    assert!(soon(far.read_u8()).await.is_err());
}
