//! Tunnels: ends, resets, flow control.

use crate::support::*;
use bytes::Bytes;
use hbone::{Reset, Settings, StreamError, Tunnel};
use http::HeaderMap;
use proptest::prelude::*;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

async fn both(settings: Settings) -> (RawClient, Server) {
    let (near, far) = pipe();
    let server = Server::start(far, settings);
    (raw_client(near).await, server)
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn each_direction_ends_alone_and_the_other_stays_for_a_day() {
    let (mut client, mut server) = both(Settings::default()).await;

    let (mut raw, mut tunnel) = client.open(&mut server).await;
    raw.push(b"last words");
    raw.end();
    let mut got = Vec::new();
    soon(tunnel.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"last words");
    tokio::time::sleep(DAY).await;
    tunnel.write_all(b"an answer").await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(raw.read_all().await, (b"an answer".to_vec(), None));

    let (mut raw, mut tunnel) = client.open(&mut server).await;
    tunnel.write_all(b"server first").await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(raw.read_all().await, (b"server first".to_vec(), None));
    tokio::time::sleep(DAY).await;
    raw.push(b"late");
    raw.end();
    got.clear();
    soon(tunnel.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"late");
}

#[tokio::test(start_paused = true)]
async fn no_reset_of_the_peer_reads_as_an_end() {
    let (mut client, mut server) = both(Settings::default()).await;
    for code in [0, 1, 2, 5, 7, 8, 10, 11, 77] {
        let (mut raw, mut tunnel) = client.open(&mut server).await;
        raw.push(b"cut");
        let mut got = [0; 3];
        soon(tunnel.read_exact(&mut got)).await.unwrap();
        raw.send.send_reset(code.into());
        for _ in 0..2 {
            assert_eq!(
                soon(tunnel.read(&mut got)).await.unwrap_err().kind(),
                ErrorKind::ConnectionReset,
                "{code}"
            );
        }
        assert_eq!(soon(tunnel.write(b"x")).await.unwrap_err().kind(), ErrorKind::ConnectionReset, "{code}");
        assert_eq!(soon(tunnel.shutdown()).await.unwrap_err().kind(), ErrorKind::ConnectionReset, "{code}");
        let (mut reader, mut writer) = tunnel.into_split();
        let expected = Reset::from(h2::Reason::from(code));
        match soon(reader.data()).await {
            Some(Err(StreamError::Reset(reset))) => assert_eq!(reset, expected),
            other => panic!("{code}: {other:?}"),
        }
        match soon(writer.broken()).await {
            StreamError::Reset(reset) => assert_eq!(reset, expected),
            other => panic!("{code}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_ours_is_what_the_peer_reads() {
    let (mut client, mut server) = both(Settings::default()).await;
    let table = [
        (Reset::Cancel, 8),
        (Reset::InternalError, 2),
        (Reset::RefusedStream, 7),
        (Reset::ConnectError, 10),
        (Reset::NoError, 0),
        (Reset::Other(5), 5),
    ];
    for (reset, code) in table {
        let (mut raw, mut tunnel) = client.open(&mut server).await;
        tunnel.reset(reset);
        assert_eq!(raw.read_all().await, (Vec::new(), Some(code.into())), "{reset:?}");
        assert_eq!(soon(tunnel.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_tunnel_is_never_a_clean_end() {
    let (mut client, mut server) = both(Settings::default()).await;

    let (mut raw, mut tunnel) = client.open(&mut server).await;
    tunnel.write_all(b"half of it").await.unwrap();
    drop(tunnel);
    let (_, reset) = raw.read_all().await;
    assert_eq!(reset, Some(h2::Reason::INTERNAL_ERROR));

    let (mut raw, tunnel) = client.open(&mut server).await;
    let (_reader, writer) = tunnel.into_split();
    drop(writer);
    assert_eq!(raw.reset_code().await, h2::Reason::INTERNAL_ERROR);
}

#[tokio::test(start_paused = true)]
async fn after_a_shutdown_a_drop_lets_all_bytes_out_and_stops_the_peer() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    let sent = vec![7; 60_000];
    tunnel.write_all(&sent).await.unwrap();
    tunnel.shutdown().await.unwrap();
    drop(tunnel);
    assert_eq!(raw.read_all().await, (sent, None));
    assert_eq!(raw.reset_code().await, h2::Reason::NO_ERROR);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_an_error() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (_raw, mut tunnel) = client.open(&mut server).await;
    client.ended.abort();
    assert_eq!(soon(tunnel.read_u8()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(soon(tunnel.write_all(b"x")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn trailers_are_an_error_that_stays() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (mut raw, tunnel) = client.open(&mut server).await;
    raw.push(b"x");
    raw.send.send_trailers(HeaderMap::new()).unwrap();
    let (mut reader, _writer) = tunnel.into_split();
    assert_eq!(soon(reader.data()).await.unwrap().unwrap(), "x");
    for _ in 0..2 {
        assert!(matches!(soon(reader.data()).await, Some(Err(StreamError::Trailers))));
    }
}

#[tokio::test(start_paused = true)]
async fn sending_after_the_end_is_an_error() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (_raw, mut tunnel) = client.open(&mut server).await;
    tunnel.shutdown().await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(tunnel.write(b"x").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_for_credit_learns_of_a_reset() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (mut raw, tunnel) = client.open(&mut server).await;
    let (_reader, mut writer) = tunnel.into_split();
    let sending = tokio::spawn(async move { writer.send(Bytes::from(vec![0; 1 << 20])).await });
    settle().await;
    assert!(!sending.is_finished(), "the window of the raw client has 64 KiB");
    raw.send.send_reset(h2::Reason::CANCEL);
    assert!(matches!(soon(sending).await.unwrap(), Err(StreamError::Reset(Reset::Cancel))));
}

#[tokio::test(start_paused = true)]
async fn writes_wait_for_credit_and_then_all_arrives() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            tunnel.write_all(&sent).await.unwrap();
            tunnel.shutdown().await.unwrap();
            tunnel
        }
    });
    assert_eq!(raw.read_all().await, (sent, None));
    soon(writing).await.unwrap();
}

fn narrow() -> Settings {
    Settings { stream_window: 64 << 10, connection_window: 1 << 20, ..Settings::default() }
}

#[tokio::test(start_paused = true)]
async fn an_unread_tunnel_stalls_its_sender_and_no_sibling() {
    let (mut client, mut server) = both(narrow()).await;
    let (mut stuck, mut unread) = client.open(&mut server).await;
    let (mut lively, mut read) = client.open(&mut server).await;
    stuck.push(&vec![1; 64 << 10]);
    settle().await;
    assert_eq!(stuck.credit().await, 0);

    let sent = vec![2; 2 << 20];
    lively.push(&sent);
    lively.end();
    let mut got = Vec::new();
    soon(read.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, sent);
    assert_eq!(stuck.credit().await, 0, "still unread");

    let mut first = vec![0; 64 << 10];
    soon(unread.read_exact(&mut first)).await.unwrap();
    stuck.end();
    assert_eq!(soon(unread.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_gives_back_the_credit_of_the_read_before() {
    let (mut client, mut server) = both(narrow()).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    raw.push(&vec![1; 64 << 10]);
    settle().await;
    let mut half = vec![0; 40 << 10];
    soon(tunnel.read_exact(&mut half)).await.unwrap();
    soon(tunnel.read_exact(&mut half[..1])).await.unwrap();
    assert!(raw.credit().await >= 32 << 10);
}

#[tokio::test(start_paused = true)]
async fn uncopied_bytes_give_credit_back_only_when_released() {
    let (mut client, mut server) = both(narrow()).await;
    let (mut raw, tunnel) = client.open(&mut server).await;
    let (mut reader, _writer) = tunnel.into_split();
    raw.push(&vec![1; 64 << 10]);
    let mut got = 0;
    while got < 64 << 10 {
        got += soon(reader.data()).await.unwrap().unwrap().len();
    }
    assert_eq!(raw.credit().await, 0);
    reader.release(usize::MAX);
    assert_eq!(raw.credit().await, 64 << 10);
}

#[tokio::test(start_paused = true)]
async fn bytes_left_from_a_read_come_first_from_the_split_reader() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    raw.push(b"hello");
    assert_eq!(soon(tunnel.read_u8()).await.unwrap(), b'h');
    let (mut reader, _writer) = tunnel.into_split();
    assert_eq!(soon(reader.data()).await.unwrap().unwrap(), "ello");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_shows_the_headers_of_the_other_side() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let (sender, driver) = hbone::connect(near, &Settings::default()).await.unwrap();
    let _driver = tokio::spawn(driver.run());
    let header =
        |value| HeaderMap::from_iter([(http::header::FORWARDED, http::HeaderValue::from_static(value))]);
    let opening = tokio::spawn(async move { sender.open(&target(), header("for=a")).await });
    let accepted = server.connect().await.accept(header("for=b")).unwrap();
    assert_eq!(accepted.headers()[http::header::FORWARDED], "for=a");
    assert_eq!(soon(opening).await.unwrap().unwrap().headers()[http::header::FORWARDED], "for=b");
}

#[tokio::test(start_paused = true)]
async fn small_frames_that_nobody_reads_end_the_connection_at_their_budget() {
    let settings = Settings { small_frame_budget: 100 * 255, ..Settings::default() };
    let (mut client, mut server) = both(settings).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    for _ in 0..3 {
        for _ in 0..90 {
            raw.push(b"x");
        }
        let mut read = [0; 90];
        soon(tunnel.read_exact(&mut read)).await.unwrap();
    }
    settle().await;
    assert!(!server.ended.is_finished(), "what was read costs nothing");
    for _ in 0..102 {
        raw.push(b"x");
    }
    match soon(server.ended).await.unwrap() {
        Err(hbone::ConnectionError::Flood(reason)) => assert_eq!(reason, "small_frames"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn slices_written_together_arrive_in_order() {
    let (mut client, mut server) = both(Settings::default()).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    assert!(AsyncWrite::is_write_vectored(&tunnel));
    let slices = [b"head ".as_slice(), b"", b"and ", b"body"].map(std::io::IoSlice::new);
    assert_eq!(tunnel.write_vectored(&slices).await.unwrap(), 13);
    assert_eq!(raw.read(13).await, b"head and body");

    // More than the window of 65,535 bytes holds: what fits is taken, across slices.
    let (one, two) = (vec![1; 50_000], vec![2; 50_000]);
    let taken = tunnel.write_vectored(&[&one, &two].map(|data| std::io::IoSlice::new(data))).await.unwrap();
    assert!((50_001..=65_535).contains(&taken), "{taken}");
    assert_eq!(raw.read(taken).await, [one, two].concat()[..taken]);
    assert_eq!(tunnel.write_vectored(&[]).await.unwrap(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn however_bytes_are_cut_they_arrive_the_same(
        writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..20),
        reads in proptest::collection::vec(1..5000_usize, 1..10),
        split_after in 0..20_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (sent, got) = runtime.block_on(async {
            let (mut client, mut server) = both(narrow()).await;
            let (mut raw, mut tunnel) = client.open(&mut server).await;
            writes.iter().for_each(|data| raw.push(data));
            raw.end();
            let mut got = Vec::new();
            for size in reads.iter().cycle().take(split_after) {
                let mut buffer = vec![0; *size];
                let read = soon(tunnel.read(&mut buffer)).await.unwrap();
                got.extend_from_slice(&buffer[..read]);
            }
            let (mut reader, _writer) = tunnel.into_split();
            while let Some(data) = soon(reader.data()).await {
                let data = data.unwrap();
                got.extend_from_slice(&data);
                reader.release(data.len());
            }
            (writes.concat(), got)
        });
        prop_assert_eq!(sent, got);
    }
}

#[test]
fn a_tunnel_stays_small() {
    assert!(size_of::<Tunnel>() <= 256, "{}", size_of::<Tunnel>());
}
