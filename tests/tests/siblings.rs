//! Streams of one tunnel leave each other alone, and a client that gives up is heard at once.

#![cfg(test)]

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use http::{Request, StatusCode};
use portcullis_tests::application::Application;
use portcullis_tests::http::{Client, empty};
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Connection, TunnelStream};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Streams beside the stuck one.
const SIBLINGS: usize = 99;
/// How much slower they may be for it.
const SLOWER: f64 = 1.5;
/// Requests of each sibling in one round.
const REQUESTS: usize = 3;
/// Rounds at least and at most, in turns with and without. The best counts: the machine's other work is in some rounds, a stuck stream's
/// harm would be in all.
const ROUNDS: (usize, usize) = (4, 30);

/// The 99th percentile of the latency of many requests on all siblings.
async fn round(siblings: &[Client]) -> Result<Duration> {
    let asked = siblings.iter().map(async |client| {
        let mut took = Vec::new();
        for _ in 0..REQUESTS {
            let begun = Instant::now();
            let reply = client.send(Request::get("/").header("host", "app").body(empty())?).await?;
            ensure!(reply.status == StatusCode::OK, "{}", reply.status);
            took.push(begun.elapsed());
        }
        Ok(took)
    });
    let mut took = try_join_all(asked).await?.concat();
    took.sort_unstable();
    took.get(took.len() * 99 / 100).copied().context("latencies")
}

/// Fills a stream until it takes no more: nobody reads at its other end.
async fn fill(mut tunnel: TunnelStream) -> Result<TunnelStream> {
    let chunk = vec![7; 64 << 10];
    while tokio::time::timeout(Duration::from_millis(500), tunnel.write_all(&chunk)).await.is_ok() {}
    Ok(tunnel)
}

async fn siblings(connection: &Connection, running: &Running) -> Result<Vec<Client>> {
    let authority = running.service.authority(HTTP);
    try_join_all((0..SIBLINGS).map(async |_| Client::http1(connection.connect(&authority).await?).await))
        .await
}

#[tokio::test]
async fn a_stuck_stream_does_not_slow_its_siblings() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let _web = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
        let raw = Application::start(single.pod.port(RAW)).await?;
        let running = single.start().await?;
        let (alone, with) = (running.bot()?.dial().await?, running.bot()?.dial().await?);
        let (free, beside) = (siblings(&alone, &running).await?, siblings(&with, &running).await?);
        let authority = running.service.authority(RAW);
        let (tunnel, _unread) = tokio::join!(with.connect(&authority), raw.accepted());
        let _stuck = fill(tunnel?).await?;
        let (mut best_free, mut best_beside, mut ratio) = (Duration::MAX, Duration::MAX, f64::MAX);
        for n in 0..ROUNDS.1 {
            best_free = best_free.min(round(&free).await?);
            best_beside = best_beside.min(round(&beside).await?);
            ratio = best_beside.as_secs_f64() / best_free.as_secs_f64();
            if n >= ROUNDS.0 && ratio <= SLOWER {
                break;
            }
        }
        println!("in mesh: {in_mesh}; p99 alone {best_free:?}, beside {best_beside:?}: {ratio:.2}");
        assert!(
            ratio <= SLOWER,
            "in mesh: {in_mesh}; {best_free:?} alone, {best_beside:?} beside it: {ratio:.2}"
        );
    }
    Ok(())
}

/// How a client gives up.
#[derive(Clone, Copy, Debug)]
enum Abort {
    /// In the middle of an answer.
    InAnswer,
    /// The same with a byte of a next request sent, behind which hyper does not read.
    Pipelined,
    /// While the server takes no more of its body.
    InBody,
    /// Inside HTTP/2, in the middle of an answer.
    Http2,
}

/// Longest time until the server sees it.
const HEARD: Duration = Duration::from_millis(100);

/// Reads until the connection ends, and says how long after `from` that was.
async fn ended(mut tcp: TcpStream, from: Instant) -> Result<Duration> {
    let mut rest = Vec::new();
    let _reset_or_end = wait::within("the server's side to break", tcp.read_to_end(&mut rest)).await?;
    Ok(from.elapsed())
}

async fn aborted(running: &Running, app: &Application, abort: Abort) -> Result<Duration> {
    let mut tunnel = running.tunnel(HTTP).await?;
    let post = b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 100000000\r\n\r\n";
    if let Abort::Http2 = abort {
        let client = Client::http2(tunnel).await?;
        let asked = client.open(Request::get("http://app/").body(empty())?);
        let (answer, tcp) = tokio::join!(asked, answering(app));
        let begun = Instant::now();
        drop((answer?, client));
        return ended(tcp?, begun).await;
    }
    match abort {
        Abort::InBody => {
            tunnel.write_all(post).await?;
            let tcp = app.accepted().await?;
            let tunnel = fill(tunnel).await?;
            let begun = Instant::now();
            drop(tunnel);
            ended(tcp, begun).await
        }
        Abort::InAnswer | Abort::Pipelined | Abort::Http2 => {
            tunnel.write_all(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n").await?;
            let tcp = answering(app).await?;
            let mut head = [0; 12];
            tunnel.read_exact(&mut head).await?;
            if let Abort::Pipelined = abort {
                tunnel.write_all(b"G").await?;
            }
            let begun = Instant::now();
            drop(tunnel);
            ended(tcp, begun).await
        }
    }
}

/// A server that has sent the beginning of an answer.
async fn answering(app: &Application) -> Result<TcpStream> {
    let mut tcp = app.accepted().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await?);
    }
    tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbegun").await?;
    Ok(tcp)
}

/// The best of a few counts, since the machine may be busy with other things; one that is never heard fails at once.
#[tokio::test]
async fn a_client_that_gives_up_is_heard_at_the_server_within_100_ms() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let app = Application::start(single.pod.port(HTTP)).await?;
        let running = single.start_with_settings("ejection_failures: 1000\n").await?;
        for abort in [Abort::InAnswer, Abort::Pipelined, Abort::InBody, Abort::Http2] {
            let mut best = Duration::MAX;
            for _ in 0..5 {
                best = best.min(aborted(&running, &app, abort).await?);
                if best < HEARD {
                    break;
                }
            }
            assert!(best < HEARD, "in mesh: {in_mesh}; {abort:?}: {best:?}");
        }
    }
    Ok(())
}
