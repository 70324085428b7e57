//! Times: of waiting, of remembering, of leaving.

use anyhow::Result;
use http::{Request, StatusCode};
use portcullis_tests::application::hears;
use portcullis_tests::ca;
use portcullis_tests::http::{Client, Reply, empty, post_json};
use portcullis_tests::single::{ANY, HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Seen, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Answer, Refused};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub(crate) async fn bytes_that_tell_nothing_are_opaque() -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(ANY), b"").await?;
    let running = single.start_with_settings("sniffed: 24\nsniff_timeout: 20000\n").await?;
    let mut tunnel = running.tunnel(ANY).await?;
    tunnel.write_all(&[b'a'; 40]).await?;
    hears(&mut tunnel, &[b'a'; 40]).await?;
    Ok(running)
}

pub(crate) async fn silence_is_opaque() -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(ANY), b"220 ready\r\n").await?;
    let running = single.start_with_settings("sniff_timeout: 50\n").await?;
    hears(&mut running.tunnel(ANY).await?, b"220 ready\r\n").await?;
    Ok(running)
}

pub(crate) async fn an_endpoint_that_does_not_answer_is_given_up() -> Result<Running> {
    let single = Single::new(true).await?;
    single.pod.ztunnel.as_ref().into_iter().for_each(|ztunnel| ztunnel.answer(Answer::Ignore));
    let running = single.start_with_settings("connect_timeout: 200\n").await?;
    let refused = Refused::status_of(running.tunnel(RAW).await);
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    let line = running.mesh.portcullis.logged("the stream", |line| line["kind"] == "stream").await?;
    assert_eq!(line["response_flags"], "UF", "{line}");
    Ok(running)
}

pub(crate) async fn a_head_that_does_not_come_is_closed() -> Result<Running> {
    let running = Single::new(true).await?.start_with_settings("request_head_timeout: 200\n").await?;
    for begun in ["", "GET / HTTP/1.1\r\nHost: a"] {
        let mut tunnel = running.tunnel(HTTP).await?;
        let _perhaps_late = tunnel.write_all(begun.as_bytes()).await;
        let mut heard = Vec::new();
        let ended = wait::within("the end of the stream", tunnel.read_to_end(&mut heard)).await?;
        assert!(
            ended.is_err() || heard.is_empty() || heard.starts_with(b"HTTP/1.1 408"),
            "{begun:?}: {heard:?}"
        );
    }
    running.mesh.portcullis.metric_reaches(super::HITS, &[("limit", "request_head_timeout")], 2.0).await?;
    Ok(running)
}

/// Opens a session with each `initialize`; other requests are answered.
async fn sessions(settings: &str, sealed: bool) -> Result<(Running, Client, Upstream)> {
    let single = Single::new(true).await?;
    single.setup.policy(
        "rules",
        "app",
        "ALLOW",
        r#"- when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha]}]"#,
    )?;
    let number = AtomicUsize::new(0);
    let app = Upstream::start(single.pod.port(HTTP), move |seen: &Seen| {
        let mut answer =
            upstream::result(seen, &json!({"protocolVersion": "2025-06-18", "capabilities": {}}));
        if seen.json()["method"] == "initialize" {
            let id = format!("session-{}", number.fetch_add(1, Ordering::Relaxed));
            answer.headers_mut().insert("mcp-session-id", id.parse().expect("a header"));
        }
        answer
    })
    .await?;
    let path = single.setup.file("settings.yaml", settings)?;
    let mut run = single.setup.run().arg("--settings", path);
    if sealed {
        run = run.arg("--session-key", single.setup.file("key", "0123456789abcdef0123456789abcdef")?);
    }
    let running =
        Running { mesh: single.setup.start_with(run).await?, pod: single.pod, service: single.service };
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    Ok((running, client, app))
}

async fn initialize(client: &Client) -> Result<String> {
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let reply = client.send(post_json("/mcp", "app", &asked)?).await?;
    let id = reply.headers.get("mcp-session-id").and_then(|id| id.to_str().ok());
    id.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("no session: {reply:?}"))
}

async fn ping(client: &Client, session: &str) -> Result<Reply> {
    let mut request = post_json("/mcp", "app", &json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}))?;
    request.headers_mut().insert("mcp-session-id", session.parse()?);
    request.headers_mut().insert("mcp-protocol-version", "2025-06-18".parse()?);
    client.send(request).await
}

/// Opens sessions until the first is forgotten: the table is tidied now and then.
async fn forgotten(settings: &str, limit: &str) -> Result<Running> {
    let (running, client, _app) = sessions(settings, false).await?;
    let first = initialize(&client).await?;
    wait::until_async("a session was forgotten", async || {
        initialize(&client).await?;
        let metrics = running.mesh.portcullis.metrics().await?;
        Ok((metrics.sum(super::HITS, &[("limit", limit)]) > 0.0).then_some(()))
    })
    .await?;
    assert_eq!(ping(&client, &first).await?.status, StatusCode::NOT_FOUND);
    Ok(running)
}

pub(crate) async fn one_more_session_forgets_another() -> Result<Running> {
    forgotten("sessions: 1\n", "sessions").await
}

pub(crate) async fn an_idle_session_is_forgotten() -> Result<Running> {
    forgotten("session_idle: 100\n", "session_idle").await
}

pub(crate) async fn an_old_session_is_not_known() -> Result<Running> {
    let (running, client, _app) = sessions("session_age: 1\n", true).await?;
    let session = initialize(&client).await?;
    wait::until_async("the session is too old", async || {
        Ok((ping(&client, &session).await?.status == StatusCode::NOT_FOUND).then_some(()))
    })
    .await?;
    Ok(running)
}

pub(crate) async fn an_idle_label_set_is_forgotten() -> Result<Running> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start_with_settings("label_idle: 200\n").await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    client.send(Request::get("/").header("host", "app").body(empty())?).await?;
    wait::until_async("its label set was forgotten", async || {
        let metrics = running.mesh.portcullis.metrics().await?;
        Ok((metrics.sum("istio_requests_total", &[]) == 0.0).then_some(()))
    })
    .await?;
    Ok(running)
}

/// Begins a drain with a stream open, and waits until the binary tells of `phase`.
async fn drained(settings: &str, phase: &str) -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hi").await?;
    let running = single.start_with_settings(settings).await?;
    let mut tunnel = running.tunnel(RAW).await?;
    hears(&mut tunnel, b"hi").await?;
    running.mesh.portcullis.signal("TERM").await?;
    let events = running.mesh.portcullis.events();
    events.find_json(phase, |line| line["phase"] == phase).await?;
    if phase == "aborting" {
        let mut rest = Vec::new();
        let cut = wait::within("the cut", tunnel.read_to_end(&mut rest)).await?;
        assert!(cut.is_err(), "a reset, no end");
        events.find_json("how many were cut", |line| line["streams_cut"] == 1).await?;
    }
    Ok(running)
}

pub(crate) async fn a_drain_begins_after_its_linger() -> Result<Running> {
    drained("drain_linger: 100\ndrain_deadline: 60000\n", "draining").await
}

pub(crate) async fn a_drain_ends_at_its_deadline() -> Result<Running> {
    drained("drain_linger: 100\ndrain_deadline: 300\n", "aborting").await
}

pub(crate) async fn an_expired_peer_is_cut() -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hi").await?;
    let running = single.start_with_settings("recheck: 10\n").await?;
    let ca = &running.mesh.setup.ca;
    let brief = ca.issue(&ca::Request::workload(&ca.id("agents", "bot")).ending_in(Duration::seconds(3)))?;
    // A connection at rest leaves in order before that; one with a stream is cut.
    let connection = running.mesh.peer_with(&brief)?.dial().await?;
    let mut tunnel = connection.connect(&running.service.authority(RAW)).await?;
    hears(&mut tunnel, b"hi").await?;
    let cut = wait::within("the cut", tunnel.read(&mut [0; 8])).await?;
    assert!(cut.is_err(), "no clean end: {cut:?}");
    Ok(running)
}
