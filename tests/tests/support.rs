//! The support proves itself: its two ztunnels and its clients and servers are tried on each other, without the waypoint.

#![cfg(test)]

use anyhow::Result;
use http::{Request, StatusCode};
use portcullis_tests::addresses::Addresses;
use portcullis_tests::ca::Ca;
use portcullis_tests::http::{Client, Events, empty, post_json, raw};
use portcullis_tests::upstream::{self, Echo, Upstream};
use portcullis_tests::ztunnel::{Answer, Inbound, Outbound, Refused};
use serde_json::json;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A source's ztunnel that talks straight to a destination's.
struct Pair {
    pod: Ipv4Addr,
    outbound: Outbound,
    inbound: Inbound,
    _addresses: Addresses,
}

impl Pair {
    async fn start(expect: &str) -> Result<Self> {
        let addresses = Addresses::lease()?;
        let pod = addresses.next();
        let ca = Ca::new("cluster.local")?;
        let below = ca.intermediate()?;
        let inbound = Inbound::start(&ca, &below.svid(&ca.id("tools", "server"))?, pod).await?;
        let source = ca.svid(&ca.id("agents", "bot"))?;
        let outbound = Outbound::new(&ca, &source, inbound.address, &ca.id("tools", expect))?;
        Ok(Self { pod, outbound, inbound, _addresses: addresses })
    }

    fn authority(&self, port: u16) -> String {
        format!("{}:{port}", self.pod)
    }
}

#[tokio::test]
async fn a_connect_is_seen_with_identity_and_authority() -> Result<()> {
    let pair = Pair::start("server").await?;
    let upstream = Upstream::start((pair.pod, 8080).into(), upstream_script).await?;
    let tunnel = pair.outbound.connect(&pair.authority(8080)).await?;
    let client = Client::http1(tunnel).await?;
    let reply = client.send(post_json("/mcp", "tools", &json!({"id": 1, "method": "ping"}))?).await?;
    assert_eq!(reply.json()?, json!({"jsonrpc": "2.0", "id": 1, "result": {"ok": true}}));
    let seen = pair.inbound.saw(1).await?;
    assert_eq!(seen[0].peer, "spiffe://cluster.local/ns/agents/sa/bot");
    assert_eq!(seen[0].authority, pair.authority(8080));
    assert_eq!(upstream.saw(1).await?[0].json()["method"], "ping");
    upstream.saw_only(&["/mcp"]);
    Ok(())
}

fn upstream_script(seen: &upstream::Seen) -> http::Response<portcullis_tests::http::Body> {
    upstream::result(seen, &json!({"ok": true}))
}

#[tokio::test]
async fn http2_and_events_pass() -> Result<()> {
    let pair = Pair::start("server").await?;
    let _upstream =
        Upstream::start((pair.pod, 8080).into(), |_| upstream::events(&[": hi\nid: 1\ndata: a\n\n"])).await?;
    let client = Client::http2(pair.outbound.connect(&pair.authority(8080)).await?).await?;
    let request = Request::get("http://tools/mcp").body(empty())?;
    let mut events = Events::of(client.open(request).await?);
    let event = events.next().await?.expect("one event");
    assert_eq!((event.id.as_deref(), event.data.as_str()), (Some("1"), "a"));
    assert_eq!(events.next().await?, None);
    Ok(())
}

#[tokio::test]
async fn a_raw_stream_passes_both_ways_and_half_closes() -> Result<()> {
    let pair = Pair::start("server").await?;
    let _echo = Echo::start((pair.pod, 9000).into(), b"hello ").await?;
    let mut tunnel = pair.outbound.connect(&pair.authority(9000)).await?;
    tunnel.write_all(b"world").await?;
    tunnel.shutdown().await?;
    let mut heard = String::new();
    tunnel.read_to_string(&mut heard).await?;
    assert_eq!(heard, "hello world");
    Ok(())
}

#[tokio::test]
async fn a_forwarded_port_carries_a_client_that_knows_nothing() -> Result<()> {
    let pair = Pair::start("server").await?;
    let _upstream =
        Upstream::start((pair.pod, 8080).into(), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let port = pair.outbound.forward(&pair.authority(8080)).await?;
    let mut tcp = tokio::net::TcpStream::connect(port.address).await?;
    let reply = raw(&mut tcp, &[b"GET / HTT", b"P/1.1\r\nHost: x\r\n\r\n"]).await?;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "hi"));
    Ok(())
}

#[tokio::test]
async fn refusals_and_resets_are_told_apart() -> Result<()> {
    let pair = Pair::start("server").await?;
    let nobody = pair.authority(1);
    assert_eq!(Refused::status_of(pair.outbound.connect(&nobody).await), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(Refused::status_of(pair.outbound.connect("127.0.0.1:1").await), StatusCode::BAD_REQUEST);
    pair.inbound.answer(Answer::Refuse(StatusCode::UNAUTHORIZED));
    assert_eq!(Refused::status_of(pair.outbound.connect(&nobody).await), StatusCode::UNAUTHORIZED);
    pair.inbound.answer(Answer::Reset(h2::Reason::REFUSED_STREAM));
    let error = pair.outbound.connect(&nobody).await.unwrap_err();
    let reason = error.downcast_ref::<h2::Error>().and_then(h2::Error::reason);
    assert_eq!(reason, Some(h2::Reason::REFUSED_STREAM));
    Ok(())
}

#[tokio::test]
async fn a_server_of_another_identity_is_not_talked_to() -> Result<()> {
    let pair = Pair::start("another").await?;
    let error = pair.outbound.connect(&pair.authority(1)).await.unwrap_err();
    assert!(
        format!("{error:#}").contains("expected spiffe://cluster.local/ns/tools/sa/another"),
        "{error:#}"
    );
    Ok(())
}

#[tokio::test]
async fn after_goaway_the_next_stream_comes_on_another_connection() -> Result<()> {
    let pair = Pair::start("server").await?;
    let _echo = Echo::start((pair.pod, 9000).into(), b"x").await?;
    let connection = pair.outbound.dial().await?;
    drop(connection.connect(&pair.authority(9000)).await?);
    pair.inbound.goaway();
    connection.closed().await??;
    drop(pair.outbound.connect(&pair.authority(9000)).await?);
    let seen = pair.inbound.saw(2).await?;
    assert_ne!(seen[0].connection, seen[1].connection);
    Ok(())
}
