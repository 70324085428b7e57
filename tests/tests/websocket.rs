//! WebSocket with a real library on both ends, and what ends it.

#![cfg(test)]

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use portcullis_tests::http::raw;
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::single::{HTTP, Single};
use portcullis_tests::stand::Stand;
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

const BOT: &str = "- from: [{source: {serviceAccounts: [agents/bot]}}]";
const OTHER: &str = "- from: [{source: {serviceAccounts: [agents/other]}}]";

#[tokio::test]
async fn messages_pass_both_ways_and_close_codes_stay() -> Result<()> {
    let stand = Stand::start(Runtime::Python1, "websocket_server.py", "http", BOT).await?;
    let port = stand.port_of("agents", "bot").await?;
    let report =
        Runtime::Python1.report("websocket_client.py", &[&port.url("/").replace("http:", "ws:")]).await?;
    let want = json!({"greeting": "hello", "text": "text", "large": 1_000_000, "pong": true, "close": 4001});
    assert_eq!(report, want);
    let line = stand.mesh.portcullis.logged("the upgrade", |line| line["response_code"] == 101).await?;
    // A million bytes of one letter; both ends compress. What counts is that the bytes after the 101 are told at all.
    assert!(line["bytes_received"].as_u64() > Some(1_000), "{line}");
    assert!(line["bytes_sent"].as_u64() > Some(1_000), "{line}");
    Ok(())
}

#[tokio::test]
async fn an_upgrade_that_the_policy_denies_is_403() -> Result<()> {
    let stand = Stand::start(Runtime::Python1, "websocket_server.py", "http", OTHER).await?;
    let port = stand.port_of("agents", "bot").await?;
    let report =
        Runtime::Python1.report("websocket_client.py", &[&port.url("/").replace("http:", "ws:")]).await?;
    assert_eq!(report, json!({"refused": 403}));
    Ok(())
}

#[tokio::test]
async fn an_open_socket_is_closed_when_the_policy_no_longer_allows_it() -> Result<()> {
    let stand = Stand::start(Runtime::Python1, "websocket_server.py", "http", BOT).await?;
    let tunnel = stand.mesh.peer("agents", "bot")?.connect(&stand.service.authority(HTTP)).await?;
    let (mut socket, _) = client_async("ws://app/", tunnel).await?;
    assert_eq!(socket.next().await.context("a greeting")??, Message::text("hello"));
    stand.mesh.change_policy("stand", "server", "ALLOW", &format!("{BOT}\n{OTHER}")).await?;
    socket.send(Message::text("still?")).await?;
    assert_eq!(wait::within("the echo", socket.next()).await?.context("an echo")??, Message::text("still?"));
    stand.mesh.change_policy("stand", "server", "ALLOW", OTHER).await?;
    let denied = Instant::now();
    let end = wait::within("the break", socket.next()).await?;
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    assert!(denied.elapsed() < Duration::from_secs(1), "took {:?}", denied.elapsed());
    Ok(())
}

/// Bytes that were not judged must not pass a hop that believes in an upgrade which was never asked for.
#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_not_believed() -> Result<()> {
    let single = Single::new(true).await?;
    let switching = |_: &upstream::Seen| {
        let mut answer = upstream::text(http::StatusCode::SWITCHING_PROTOCOLS, "");
        answer.headers_mut().insert("upgrade", "raw".parse().expect("a value"));
        answer.headers_mut().insert("connection", "upgrade".parse().expect("a value"));
        answer
    };
    let _app = Upstream::start(single.pod.port(HTTP), switching).await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let reply = raw(&mut tunnel, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
    assert!(reply.status() >= 500, "{}", reply.head);
    Ok(())
}
