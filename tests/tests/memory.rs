//! What the waypoint may hold: under streams that nobody reads, under a crowd of large bodies, and for tunnels that rest. The totals
//! are those of `docs/operations.md`, and what the process really took is asked of `/proc`.

#![cfg(test)]

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portcullis_tests::http::full;
use portcullis_tests::portcullis::Portcullis;
use portcullis_tests::single::{HTTP, RAW, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Connection, TunnelStream};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;

/// Streams on one connection, as ztunnel opens them.
const EACH: usize = 100;

/// For a whole test's traffic, on a machine that does other things too.
const TIME: Duration = Duration::from_secs(100);

fn held(portcullis: &Portcullis, most: u64) -> Result<()> {
    let (now, peak) = (portcullis.resident_bytes()?, portcullis.peak_bytes()?);
    println!("resident: {:.1} MiB, at most {:.1} MiB", now as f64 / MIB as f64, peak as f64 / MIB as f64);
    ensure!(peak <= most * MIB, "the process held {} MiB, the bound is {most} MiB", peak / MIB);
    Ok(())
}

/// An application that writes without end, and never reads.
async fn pour(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((mut tcp, _)) = listener.accept().await {
        connections.spawn(async move {
            let chunk = vec![b'x'; 64 << 10];
            while tcp.write_all(&chunk).await.is_ok() {}
        });
    }
}

/// Reads without giving credit back, and then writes, until all streams together have used up what windows there are: 16 MiB of the
/// client's, and as much each of the waypoint's and of the endpoint's.
async fn stick(stream: &mut TunnelStream, down: &AtomicU64, up: &AtomicU64) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(20);
    while down.load(Relaxed) < 15 * MIB {
        if let Ok(Some(data)) = timeout(LOOK, stream.data_without_credit()).await {
            down.fetch_add(data?.len() as u64, Relaxed);
        }
    }
    let chunk = vec![b'y'; 64 << 10];
    while up.load(Relaxed) < 30 * MIB {
        if let Ok(taken) = timeout(LOOK, stream.write(&chunk)).await {
            up.fetch_add(taken? as u64, Relaxed);
        }
    }
    Ok(())
}

/// Both ways: windows of 4 and 16 MiB that the client does not open again, and an application that reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_that_nobody_reads_stay_under_160_mib() -> Result<()> {
    let single = Single::new(true).await?;
    let app = tokio::spawn(pour(TcpListener::bind(single.pod.port(RAW)).await?));
    let running = single.start().await?;
    let (connection, authority) = (running.bot()?.dial().await?, running.service.authority(RAW));
    let mut streams = try_join_all((0..EACH).map(|_| connection.connect(&authority))).await?;
    let (down, up) = (AtomicU64::new(0), AtomicU64::new(0));
    let stuck = streams.iter_mut().map(|stream| stick(stream, &down, &up));
    wait::within_time(TIME, "the windows to be used up", try_join_all(stuck)).await??;
    println!("{} MiB came down, {} MiB went up", down.load(Relaxed) / MIB, up.load(Relaxed) / MIB);
    held(&running.mesh.portcullis, 160)?;
    app.abort();
    Ok(())
}

/// An application that lets go of what it is told, and answers each post when it has come whole.
async fn swallow(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let service = service_fn(|request: Request<Incoming>| async move {
            let mut body = request.into_body();
            while body.frame().await.transpose()?.is_some() {}
            let answer = full(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
            let answer = Response::builder().header("content-type", "application/json").body(answer);
            Ok::<_, anyhow::Error>(answer?)
        });
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
    }
}

/// A call whose argument has so many bytes.
fn call(argument: usize) -> Bytes {
    let params = json!({ "name": "keep", "arguments": { "text": "a".repeat(argument) } });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }).to_string().into()
}

/// Posts, and reads how the answer begins. An answer may come before the body was taken, and then no more of it is.
async fn status_of(stream: TunnelStream, body: &Bytes) -> Result<String> {
    let (mut read, mut write) = tokio::io::split(stream);
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: app\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let send = async {
        if write.write_all(head.as_bytes()).await.is_ok() {
            let _ = write.write_all(body).await;
        }
        std::future::pending::<()>().await;
    };
    let mut begin = [0; 12];
    tokio::select! {
        read = read.read_exact(&mut begin) => drop(read?),
        () = send => {}
    }
    let begin = String::from_utf8_lossy(&begin);
    Ok(begin.strip_prefix("HTTP/1.1 ").with_context(|| begin.to_string())?.to_owned())
}

/// Each is judged, so each is wanted whole: those that find no room are told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_posts_of_4_mib_at_once_stay_under_384_mib() -> Result<()> {
    const POSTS: usize = 1000;
    let single = Single::new(true).await?;
    let rule = r#"- when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [keep]}]"#;
    single.setup.policy("calls", "app", "ALLOW", rule)?;
    let app = tokio::spawn(swallow(TcpListener::bind(single.pod.port(HTTP)).await?));
    let running = single.start().await?;
    let bot = running.bot()?;
    let connections: Vec<Connection> = try_join_all((0..POSTS / EACH).map(|_| bot.dial())).await?;
    let (authority, body) = (running.service.authority(HTTP), call((4 << 20) - 200));
    let post = |at: usize| {
        let (connection, authority, body) = (&connections[at % connections.len()], &authority, &body);
        async move { status_of(connection.connect(authority).await?, body).await }
    };
    let answers = wait::within_time(TIME, "1,000 posts", try_join_all((0..POSTS).map(post))).await??;
    let carried = answers.iter().filter(|status| **status == "200").count();
    let refused = answers.iter().filter(|status| **status == "503").count();
    println!("{carried} carried, {refused} without room");
    assert_eq!(carried + refused, POSTS, "{answers:?}");
    ensure!(carried > 0, "none was carried");
    app.abort();
    held(&running.mesh.portcullis, 384)
}

/// Each has carried a request, and rests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_tunnels_at_rest_stay_under_160_mib() -> Result<()> {
    const TUNNELS: usize = 5000;
    let single = Single::new(true).await?;
    let _app =
        Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, Bytes::new())).await?;
    let running = single.start().await?;
    let (bot, authority) = (running.bot()?, running.service.authority(HTTP));
    let get = format!("GET / HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    let fill = |connection: Connection| {
        let (authority, get) = (&authority, &get);
        async move {
            let mut streams = Vec::with_capacity(EACH);
            for _ in 0..EACH {
                let mut stream = connection.connect(authority).await?;
                stream.write_all(get.as_bytes()).await?;
                let mut answer = [0; 15];
                stream.read_exact(&mut answer).await?;
                ensure!(answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
                streams.push(stream);
            }
            Ok(streams)
        }
    };
    let connections = try_join_all((0..TUNNELS / EACH).map(|_| bot.dial())).await?;
    let before = running.mesh.portcullis.resident_bytes()?;
    let all = try_join_all(connections.into_iter().map(fill));
    let mut streams: Vec<TunnelStream> =
        wait::within_time(TIME, "5,000 tunnels", all).await??.into_iter().flatten().collect();
    let portcullis = &running.mesh.portcullis;
    // Buffers go when a tunnel has rested for a moment. One that keeps them takes 30 KiB.
    let rested = wait::until("the tunnels have let go of their buffers", || {
        portcullis
            .resident_bytes()
            .ok()
            .filter(|now| now.saturating_sub(before) <= TUNNELS as u64 * (20 << 10))
    });
    let each = rested.await?.saturating_sub(before) / TUNNELS as u64;
    println!("{each} bytes a tunnel");
    held(portcullis, 160)?;
    // They are as good as new.
    for stream in streams.iter_mut().step_by(500) {
        stream.write_all(get.as_bytes()).await?;
        let mut seen = Vec::new();
        wait::within("another answer", async {
            while !seen.windows(12).any(|part| part == b"HTTP/1.1 200") {
                ensure!(stream.read_buf(&mut seen).await? > 0, "the stream ended");
            }
            Ok(())
        })
        .await??;
    }
    Ok(())
}
