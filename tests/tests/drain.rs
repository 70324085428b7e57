//! SIGTERM: not ready at once, still accepting for a while, then told to leave, then cut; and the exit code is 0.

#![cfg(test)]

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Frame as BodyFrame;
use portcullis_tests::application::{Application, hears};
use portcullis_tests::frames::kind;
use portcullis_tests::http::{Client, Events, empty, raw};
use portcullis_tests::portcullis::Portcullis;
use portcullis_tests::single::{ANY, HTTP, RAW, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use portcullis_tests::wait;
use serde_json::{Value, json};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Phases that are over before a test could look would prove nothing; ones that are never over by time need a signal.
const BY_SIGNAL: &str = "drain_linger: 60000\ndrain_deadline: 120000\n";

async fn phase(portcullis: &Portcullis, phase: &str) -> Result<()> {
    let told = |line: &Value| line["event"] == "stopping" && line["phase"] == phase;
    portcullis.events().find_json(phase, told).await?;
    Ok(())
}

async fn terminate(portcullis: &Portcullis, then: &str) -> Result<()> {
    portcullis.signal("TERM").await?;
    phase(portcullis, then).await
}

#[tokio::test]
async fn it_lingers_unready_but_accepting_then_drains_and_what_is_left_is_cut() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let mut running = single.start_with_settings(BY_SIGNAL).await?;
    let mut stream = running.tunnel(RAW).await?;
    stream.write_all(b"before").await?;
    hears(&mut stream, b"before").await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let mut held = Box::pin(raw(&mut tunnel, &[b"GET /held HTTP/1.1\r\nHost: app\r\n\r\n"]));
    let mut tcp = tokio::select! {
        tcp = app.accepted() => tcp?,
        answered = &mut held => panic!("nobody answered, but {answered:?}"),
    };

    terminate(&running.mesh.portcullis, "lingering").await?;
    for port in ["ready", "metrics", "admin"] {
        let (status, text) = running.mesh.portcullis.ask(port, Method::GET, "/healthz/ready").await?;
        assert_eq!((status, text.contains("stopping")), (503, true), "{port}: {text}");
    }
    let mut late =
        running.bot()?.connect(&running.service.authority(RAW)).await.context("still accepting")?;
    late.write_all(b"late").await?;
    hears(&mut late, b"late").await?;

    terminate(&running.mesh.portcullis, "draining").await?;
    let hbone = running.mesh.portcullis.address("hbone")?;
    wait::until_async("no more connections are accepted", async || Ok(TcpStream::connect(hbone).await.err()))
        .await?;
    stream.write_all(b"still").await?;
    hears(&mut stream, b"still").await?;
    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await?;
    let reply = held.await?;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "done"), "a running request finishes");
    assert!(reply.head.to_ascii_lowercase().contains("connection: close"), "{}", reply.head);

    terminate(&running.mesh.portcullis, "aborting").await?;
    for stream in [&mut stream, &mut late] {
        let read = wait::within("the cut", stream.read(&mut [0; 8])).await?;
        assert!(read.is_err(), "what was cut never looks finished: {read:?}");
    }
    let status = running.mesh.portcullis.ended().await?;
    assert_eq!(status.code(), Some(0));
    let stopped = |line: &Value| line["event"] == "stopped";
    let line = running.mesh.portcullis.events().find_json("the end", stopped).await?;
    assert_eq!(line["streams_cut"], 2, "{line}");
    let streams: Vec<_> = running.mesh.portcullis.access_log().json();
    assert_eq!(
        streams.iter().filter(|line| line["kind"] == "stream").count(),
        2,
        "cut streams are logged too"
    );
    Ok(())
}

#[tokio::test]
async fn the_deadline_cuts_event_streams_and_says_so_by_a_break() -> Result<()> {
    let single = Single::new(true).await?;
    let (sender, response) = upstream::open_events();
    let response = std::sync::Mutex::new(Some(response));
    let once = move |_: &_| response.lock().expect("one user").take().expect("one request");
    let _app = Upstream::start(single.pod.port(HTTP), once).await?;
    let mut running = single.start_with_settings("drain_linger: 200\ndrain_deadline: 1200\n").await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let mut events = Events::of(client.open(Request::get("/").header("host", "app").body(empty())?).await?);
    let start = Instant::now();
    terminate(&running.mesh.portcullis, "draining").await?;
    sender.send(BodyFrame::data(Bytes::from_static(b"data: still\n\n"))).await?;
    assert_eq!(events.next().await?.context("an event")?.data, "still");
    assert!(events.next().await.is_err(), "a cut stream of events is no finished one");
    assert!(start.elapsed() >= Duration::from_millis(1100), "only the deadline cuts: {:?}", start.elapsed());
    assert_eq!(running.mesh.portcullis.ended().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn nothing_open_is_nothing_to_wait_for() -> Result<()> {
    let mut running =
        Single::new(true).await?.start_with_settings("drain_linger: 300\ndrain_deadline: 60000\n").await?;
    let start = Instant::now();
    running.mesh.portcullis.signal("TERM").await?;
    assert_eq!(running.mesh.portcullis.ended().await?.code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(300), "lingered only {:?}", start.elapsed());
    Ok(())
}

/// What crosses the first GOAWAY on the wire must still be carried: ztunnel does not try again.
#[tokio::test]
async fn goaway_comes_in_two_steps_and_a_stream_between_them_is_carried() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
    let mut running = single.start_with_settings(BY_SIGNAL).await?;
    let mut frames = running.frames().await?;
    let settings = frames.until(kind::SETTINGS).await?;
    frames.acknowledge(&settings).await?;
    let authority = running.service.authority(RAW);
    frames.connect(1, &authority).await?;
    assert_eq!(frames.until(kind::DATA).await?.payload, b"hello");
    terminate(&running.mesh.portcullis, "lingering").await?;
    terminate(&running.mesh.portcullis, "draining").await?;
    assert_eq!(frames.until(kind::GOAWAY).await?.goaway(), Some(((1 << 31) - 1, 0)), "first: all streams");
    let ping = frames.until(kind::PING).await?;
    frames.connect(3, &authority).await?;
    let data = frames.until(kind::DATA).await?;
    assert_eq!((data.stream, data.payload.as_slice()), (3, b"hello".as_slice()));
    frames.acknowledge(&ping).await?;
    assert_eq!(frames.until(kind::GOAWAY).await?.goaway(), Some((3, 0)), "then: the last that was taken");
    terminate(&running.mesh.portcullis, "aborting").await?;
    assert_eq!(running.mesh.portcullis.ended().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn inner_http2_is_told_to_leave_and_finishes_what_runs() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let mut running = single.start_with_settings(BY_SIGNAL).await?;
    let client = Client::http2(running.tunnel(HTTP).await?).await?;
    let mut held = Box::pin(client.send(Request::get("http://app/held").body(empty())?));
    let mut tcp = tokio::select! {
        tcp = app.accepted() => tcp?,
        answered = &mut held => panic!("nobody answered, but {answered:?}"),
    };
    terminate(&running.mesh.portcullis, "lingering").await?;
    terminate(&running.mesh.portcullis, "draining").await?;
    tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await?;
    assert_eq!(held.await?.text(), "done");
    assert!(
        client.send(Request::get("http://app/after").body(empty())?).await.is_err(),
        "it was told to leave"
    );
    assert_eq!(running.mesh.portcullis.ended().await?.code(), Some(0), "with nothing open it ends");
    Ok(())
}

#[tokio::test]
async fn an_idle_kept_connection_is_closed_when_the_drain_begins() -> Result<()> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(ANY), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let mut running = single.start_with_settings(BY_SIGNAL).await?;
    let mut tunnel = running.tunnel(ANY).await?;
    assert_eq!(raw(&mut tunnel, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?.status(), 200);
    terminate(&running.mesh.portcullis, "lingering").await?;
    terminate(&running.mesh.portcullis, "draining").await?;
    assert_eq!(
        wait::within("the end", tunnel.read(&mut [0; 1])).await?.map_err(|e: io::Error| e.kind()),
        Ok(0)
    );
    assert_eq!(running.mesh.portcullis.ended().await?.code(), Some(0));
    Ok(())
}

/// Who asks again and again has left before connections that rest are closed, when a request may be on its way.
#[tokio::test]
async fn answers_while_it_lingers_end_their_connection() -> Result<()> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(ANY), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let mut running = single.start_with_settings(BY_SIGNAL).await?;
    let mut tunnel = running.tunnel(ANY).await?;
    let before = raw(&mut tunnel, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
    assert!(!before.head.to_ascii_lowercase().contains("connection:"), "{}", before.head);
    terminate(&running.mesh.portcullis, "lingering").await?;
    let last = raw(&mut tunnel, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
    assert_eq!((last.status(), last.text().as_str()), (200, "hi"));
    assert!(last.head.to_ascii_lowercase().contains("connection: close"), "{}", last.head);
    assert_eq!(wait::within("the end", tunnel.read(&mut [0; 1])).await?.map_err(|e| e.kind()), Ok(0));
    running.mesh.portcullis.signal("TERM").await?;
    assert_eq!(running.mesh.portcullis.ended().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn quitquitquit_drains_like_a_signal() -> Result<()> {
    let mut running = Single::new(true).await?.start_with_settings("drain_linger: 100\n").await?;
    let (status, _) = running.mesh.portcullis.ask("admin", Method::GET, "/quitquitquit").await?;
    assert_eq!(status, 405, "a link must not stop it");
    let (status, _) = running.mesh.portcullis.ask("admin", Method::POST, "/quitquitquit").await?;
    assert_eq!(status, 200);
    assert_eq!(running.mesh.portcullis.ended().await?.code(), Some(0));
    let phases: Vec<_> = running.mesh.portcullis.events().json();
    assert!(phases.iter().any(|line| line["phase"] == json!("lingering")), "{phases:?}");
    Ok(())
}
