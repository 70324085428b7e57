//! Copying between a tunnel and a tunnel or a socket.

use crate::support::*;
use bytes::Bytes;
use hbone::{CopyError, Counters, Peer, Reset, Settings, StreamError, Tunnel};
use http::HeaderMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A copy in a task, with a raw client before it.
struct Copy {
    client: Raw,
    counters: Arc<Counters>,
    done: JoinHandle<Result<(), CopyError>>,
    _connection: (RawClient, Server),
}

impl Copy {
    async fn start(upstream: Peer, preread: &'static [u8]) -> Self {
        Self::start_with(upstream, preread, Settings::default()).await
    }

    async fn start_with(upstream: Peer, preread: &'static [u8], settings: Settings) -> Self {
        let (near, far) = pipe();
        let mut server = Server::start(far, settings);
        let mut connection = raw_client(near).await;
        let (client, downstream) = connection.open(&mut server).await;
        let counters = Arc::new(Counters::default());
        let done = tokio::spawn({
            let counters = Arc::clone(&counters);
            async move {
                hbone::copy(downstream, Bytes::from_static(preread), upstream, hbone::LARGEST_READ, &counters)
                    .await
            }
        });
        Self { client, counters, done, _connection: (connection, server) }
    }

    fn counted(&self) -> (u64, u64) {
        (
            self.counters.from_client.load(Ordering::Relaxed),
            self.counters.from_upstream.load(Ordering::Relaxed),
        )
    }

    async fn result(self) -> Result<(), CopyError> {
        soon(self.done).await.unwrap()
    }
}

async fn socket() -> (Peer, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (Peer::Tcp(ours.unwrap()), theirs.unwrap().0)
}

/// An upstream tunnel and the raw server behind it.
async fn tunnel(settings: Settings) -> (Peer, Raw, (RawServer, JoinHandle<()>)) {
    let (tunnel, raw, keep) = opened(settings).await;
    (Peer::Tunnel(tunnel), raw, keep)
}

async fn opened(settings: Settings) -> (Tunnel, Raw, (RawServer, JoinHandle<()>)) {
    opened_by(h2::server::Builder::new(), settings).await
}

async fn opened_by(
    builder: h2::server::Builder,
    settings: Settings,
) -> (Tunnel, Raw, (RawServer, JoinHandle<()>)) {
    let (near, far) = pipe();
    let mut server = RawServer::start(far, builder);
    let (sender, driver) = soon(hbone::connect(near, &settings)).await.unwrap();
    let driver = tokio::spawn(async move { drop(driver.run().await) });
    let opening = tokio::spawn(async move { sender.open(&target(), HeaderMap::new()).await });
    let raw = server.accept().await;
    (soon(opening).await.unwrap().unwrap(), raw, (server, driver))
}

#[tokio::test]
async fn bytes_go_both_ways_preread_first_and_are_counted() {
    let (upstream, mut far) = socket().await;
    let mut copy = Copy::start(upstream, b"GET ").await;
    copy.client.push(b"/ HTTP/1.0\r\n\r\n");
    let mut request = [0; 18];
    soon(far.read_exact(&mut request)).await.unwrap();
    assert_eq!(&request, b"GET / HTTP/1.0\r\n\r\n");

    let answer = vec![9; 1_000_000];
    let writing = tokio::spawn({
        let answer = answer.clone();
        async move {
            far.write_all(&answer).await.unwrap();
            far.shutdown().await.unwrap();
            far
        }
    });
    assert_eq!(copy.client.read_all().await, (answer, None));
    let mut far = soon(writing).await.unwrap();

    // Half closed: the other direction goes on.
    copy.client.push(b"more");
    copy.client.end();
    let mut rest = Vec::new();
    soon(far.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"more");
    let counters = Arc::clone(&copy.counters);
    assert!(copy.result().await.is_ok());
    assert_eq!(counters.from_client.load(Ordering::Relaxed), 22);
    assert_eq!(counters.from_upstream.load(Ordering::Relaxed), 1_000_000);
}

#[tokio::test]
async fn a_client_that_ends_first_still_gets_its_answer() {
    let (upstream, mut far) = socket().await;
    let mut copy = Copy::start(upstream, b"").await;
    copy.client.push(b"all of it");
    copy.client.end();
    let mut request = Vec::new();
    soon(far.read_to_end(&mut request)).await.unwrap();
    assert_eq!(request, b"all of it");
    far.write_all(b"answer").await.unwrap();
    assert_eq!(copy.client.read(6).await, b"answer");
    assert_eq!(copy.counted(), (9, 6));
    drop(far);
    assert_eq!(copy.client.read_all().await, (Vec::new(), None));
    assert!(copy.result().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn half_open_lasts_for_hours_in_both_directions() {
    let long = Duration::from_secs(6 * 3600);
    for client_first in [true, false] {
        let (upstream, mut far, _keep) = tunnel(Settings::default()).await;
        let mut copy = Copy::start(upstream, b"").await;
        let (ends, stays) = match client_first {
            true => (&mut copy.client, &mut far),
            false => (&mut far, &mut copy.client),
        };
        ends.end();
        assert_eq!(stays.read_all().await, (Vec::new(), None));
        tokio::time::sleep(long).await;
        stays.push(b"late");
        assert_eq!(ends.read(4).await, b"late");
        tokio::time::sleep(long).await;
        stays.end();
        assert_eq!(ends.read_all().await, (Vec::new(), None));
        assert!(copy.result().await.is_ok());
    }
}

#[tokio::test]
async fn an_upstream_rst_is_a_reset_after_what_it_sent() {
    let (upstream, mut far) = socket().await;
    let mut copy = Copy::start(upstream, b"").await;
    far.write_all(b"truncat").await.unwrap();
    assert_eq!(copy.client.read(7).await, b"truncat");
    far.set_zero_linger().unwrap();
    drop(far);
    assert_eq!(copy.client.read_all().await, (Vec::new(), Some(h2::Reason::CONNECT_ERROR)));
    match copy.result().await {
        Err(CopyError::Upstream(error)) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_right_before_an_rst_is_not_lost() {
    // An HTTP server that answers early and closes with the request unread: answer, then RST, at once.
    for _ in 0..20 {
        let (upstream, mut far) = socket().await;
        let mut copy = Copy::start(upstream, b"").await;
        far.write_all(b"413 and bye").await.unwrap();
        far.set_zero_linger().unwrap();
        drop(far);
        assert_eq!(copy.client.read_all().await, (b"413 and bye".to_vec(), Some(h2::Reason::CONNECT_ERROR)));
        assert!(matches!(copy.result().await, Err(CopyError::Upstream(_))));
    }
}

#[tokio::test]
async fn an_rst_found_while_writing_is_never_an_end() {
    for _ in 0..20 {
        let (upstream, far) = socket().await;
        let mut copy = Copy::start(upstream, b"").await;
        far.set_zero_linger().unwrap();
        drop(far);
        for _ in 0..50 {
            let _ = copy.client.send.send_data(Bytes::from_static(b"more"), false);
            tokio::task::yield_now().await;
        }
        assert_eq!(copy.client.read_all().await.1, Some(h2::Reason::CONNECT_ERROR));
        assert!(matches!(copy.result().await, Err(CopyError::Upstream(_))));
    }
}

#[tokio::test]
async fn an_upstream_that_ended_and_then_resets_stops_a_silent_client() {
    let (upstream, mut far) = socket().await;
    let mut copy = Copy::start(upstream, b"").await;
    copy.client.push(b"unread");
    far.shutdown().await.unwrap();
    assert_eq!(copy.client.read_all().await, (Vec::new(), None));
    far.readable().await.unwrap();
    far.set_zero_linger().unwrap();
    drop(far);
    assert_eq!(
        copy.client.reset_code().await,
        h2::Reason::NO_ERROR,
        "its answer was whole; it shall send no more"
    );
    assert!(matches!(copy.result().await, Err(CopyError::Upstream(_))));
}

#[tokio::test]
async fn a_client_reset_is_an_rst_upstream() {
    for code in [h2::Reason::NO_ERROR, h2::Reason::CANCEL, h2::Reason::INTERNAL_ERROR] {
        let (upstream, mut far) = socket().await;
        let mut copy = Copy::start(upstream, b"").await;
        copy.client.push(b"cut");
        let mut got = [0; 3];
        soon(far.read_exact(&mut got)).await.unwrap();
        copy.client.send.send_reset(code);
        assert_eq!(
            soon(far.read(&mut got)).await.unwrap_err().kind(),
            ErrorKind::ConnectionReset,
            "{code:?}"
        );
        match copy.result().await {
            Err(CopyError::Downstream(StreamError::Reset(reset))) => assert_eq!(reset, Reset::from(code)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_reset_is_noticed_while_upstream_takes_nothing() {
    let (upstream, mut far) = socket().await;
    let mut copy = Copy::start(upstream, b"").await;
    copy.client.push(&vec![1; 8 << 20]);
    far.readable().await.unwrap();
    let before = loop {
        let before = copy.counted();
        tokio::time::sleep(Duration::from_millis(20)).await;
        if copy.counted() == before {
            break before;
        }
    };
    assert!(before.0 < 8 << 20, "upstream took it all");
    copy.client.send.send_reset(h2::Reason::CANCEL);
    assert!(matches!(copy.result().await, Err(CopyError::Downstream(_))));
    let mut got = Vec::new();
    assert_eq!(soon(far.read_to_end(&mut got)).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_reset_after_its_end_and_the_answers_end_is_noticed() {
    let (upstream, mut far) = socket().await;
    let mut copy = Copy::start(upstream, b"").await;
    far.shutdown().await.unwrap();
    assert_eq!(copy.client.read_all().await, (Vec::new(), None));
    copy.client.send.send_reset(h2::Reason::CANCEL);
    assert_eq!(soon(far.read(&mut [0])).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(matches!(copy.result().await, Err(CopyError::Downstream(_))));
}

#[tokio::test]
async fn dropping_the_copy_resets_both_sides() {
    let (upstream, mut far) = socket().await;
    let mut copy = Copy::start(upstream, b"hi").await;
    let mut got = [0; 2];
    soon(far.read_exact(&mut got)).await.unwrap();
    copy.done.abort();
    assert_eq!(copy.client.read_all().await, (Vec::new(), Some(h2::Reason::INTERNAL_ERROR)));
    assert_eq!(soon(far.read(&mut got)).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn resets_cross_between_tunnels_and_no_code_becomes_an_end() {
    for code in [0, 1, 2, 5, 8, 10] {
        let (upstream, mut far, _keep) = tunnel(Settings::default()).await;
        let mut copy = Copy::start(upstream, b"").await;
        far.push(b"trunc");
        assert_eq!(copy.client.read(5).await, b"trunc");
        far.send.send_reset(code.into());
        assert_eq!(copy.client.read_all().await, (Vec::new(), Some(h2::Reason::CONNECT_ERROR)), "{code}");
        assert!(matches!(copy.result().await, Err(CopyError::Upstream(_))), "{code}");

        let (upstream, mut far, _keep) = tunnel(Settings::default()).await;
        let mut copy = Copy::start(upstream, b"").await;
        copy.client.push(b"trunc");
        assert_eq!(far.read(5).await, b"trunc");
        copy.client.send.send_reset(code.into());
        assert_eq!(far.read_all().await, (Vec::new(), Some(h2::Reason::INTERNAL_ERROR)), "{code}");
        assert!(matches!(copy.result().await, Err(CopyError::Downstream(_))), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_answer_that_stops_the_request_stays_whole() {
    // RFC 9113 §8.1: END_STREAM, then RST_STREAM(NO_ERROR).
    let (upstream, mut far, _keep) = tunnel(Settings::default()).await;
    let mut copy = Copy::start(upstream, b"").await;
    far.push(b"413");
    far.end();
    drop(far);
    assert_eq!(copy.client.read_all().await, (b"413".to_vec(), None));
    assert_eq!(copy.client.reset_code().await, h2::Reason::NO_ERROR);
    assert!(matches!(copy.result().await, Err(CopyError::Upstream(_))));
}

/// A server that lets its streams send nothing until it says so.
fn closed_window() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(0);
    builder
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_credit_only_for_what_upstream_took() {
    let window = 64 << 10;
    let settings =
        Settings { stream_window: window as u32, connection_window: 1 << 20, ..Settings::default() };
    let (upstream, mut far, keep) = opened_by(closed_window(), Settings::default()).await;
    let mut copy = Copy::start_with(Peer::Tunnel(upstream), b"", settings).await;
    copy.client.push(&vec![1; window]);
    assert_eq!(copy.client.credit().await, 0, "the copy holds all of it and upstream takes none");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((copy.client.credit().await, copy.counted().0), (0, 0));
    keep.0.allow(window as u32).await;
    assert_eq!(far.read(window).await.len(), window);
    assert_eq!((copy.client.credit().await, copy.counted().0), (window, window as u64));
}

#[tokio::test(start_paused = true)]
async fn a_client_reset_is_noticed_after_the_answers_end_while_upstream_takes_nothing() {
    let (upstream, mut far, _keep) = opened_by(closed_window(), Settings::default()).await;
    let mut copy = Copy::start(Peer::Tunnel(upstream), b"").await;
    copy.client.push(b"not taken");
    far.end();
    assert_eq!(copy.client.read_all().await, (Vec::new(), None));
    copy.client.send.send_reset(h2::Reason::CANCEL);
    assert!(matches!(copy.result().await, Err(CopyError::Downstream(_))));
    assert_eq!(far.reset_code().await, h2::Reason::INTERNAL_ERROR);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_of_a_broken_upstream_is_not_waited_for_forever() {
    let (upstream, mut far, _keep) = tunnel(Settings::default()).await;
    let copy = Copy::start(upstream, b"").await; // its client reads nothing: a window of 65,535 bytes
    far.push(&vec![1; 100_000]);
    settle().await;
    far.send.send_reset(h2::Reason::INTERNAL_ERROR);
    let done = tokio::time::timeout(Duration::from_secs(60), copy.done).await.unwrap().unwrap();
    assert!(matches!(done, Err(CopyError::Upstream(_))), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_stays_small() {
    let (downstream, _raw, _keep) = opened(Settings::default()).await;
    let (upstream, _raw2, _keep2) = tunnel(Settings::default()).await;
    let counters = Counters::default();
    let copy = hbone::copy(downstream, Bytes::new(), upstream, hbone::LARGEST_READ, &counters);
    assert!(size_of_val(&copy) <= 2304, "{}", size_of_val(&copy));
}
