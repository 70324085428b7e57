//! The sandwich: the node's ztunnel ended HBONE and tells by PROXY v2 who calls whom.

#![cfg(test)]

use anyhow::Result;
use portcullis_tests::application::{Application, abort, hears};
use portcullis_tests::http::raw;
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use portcullis_tests::wait;
use serde_json::Value;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const BOT: &str = "spiffe://cluster.local/ns/agents/sa/bot";
const ALLOW_BOT: &str = "- from: [{source: {principals: [cluster.local/ns/agents/sa/bot]}}]";

/// A header as ztunnel writes it: version 2, PROXY, TCP over IPv4, the identity in TLV 0xD0.
fn header(destination: (Ipv4Addr, u16), identity: Option<&str>) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.extend(Ipv4Addr::new(10, 244, 0, 7).octets());
    rest.extend(destination.0.octets());
    rest.extend(40_000_u16.to_be_bytes());
    rest.extend(destination.1.to_be_bytes());
    if let Some(identity) = identity {
        rest.push(0xd0);
        rest.extend(u16::try_from(identity.len()).expect("short").to_be_bytes());
        rest.extend(identity.as_bytes());
    }
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([0x21, 0x11]);
    bytes.extend(u16::try_from(rest.len()).expect("short").to_be_bytes());
    bytes.extend(rest);
    bytes
}

async fn sandwich(single: Single) -> Result<Running> {
    sandwich_with(single, |run| run).await
}

async fn sandwich_with(single: Single, more: impl FnOnce(Run) -> Run) -> Result<Running> {
    single.setup.policy("bot", "app", "ALLOW", ALLOW_BOT)?;
    let run = more(single.setup.run().arg("--proxy-protocol-address", "127.0.0.1:0"));
    Ok(Running { mesh: single.setup.start_with(run).await?, pod: single.pod, service: single.service })
}

async fn connect(running: &Running, head: &[u8]) -> Result<TcpStream> {
    let mut tcp = TcpStream::connect(running.mesh.portcullis.address("proxy_protocol")?).await?;
    tcp.write_all(head).await?;
    Ok(tcp)
}

#[tokio::test]
async fn the_identity_of_the_header_is_judged() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = sandwich(single).await?;
    let to = (running.service.vip, HTTP);
    let rows = [
        ("as allowed", Some(BOT), 200),
        ("somebody else", Some("spiffe://cluster.local/ns/agents/sa/other"), 403),
        ("nobody", None, 403),
    ];
    for (what, identity, status) in rows {
        let mut tcp = connect(&running, &header(to, identity)).await?;
        let reply = raw(&mut tcp, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
        assert_eq!(reply.status(), status, "{what}");
    }
    assert_eq!(app.seen().len(), 1);
    let allowed = |line: &Value| line["response_code"] == 200;
    let line = running.mesh.portcullis.logged("the request", allowed).await?;
    assert_eq!(line["source_principal"], BOT, "{line}");
    assert!(
        line["source_address"].as_str().is_some_and(|address| address.starts_with("10.244.0.7")),
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn opaque_streams_come_this_way_too() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
    let running = sandwich(single).await?;
    let to = (running.service.vip, RAW);
    let mut tcp = connect(&running, &header(to, Some(BOT))).await?;
    hears(&mut tcp, b"hello").await?;
    tcp.write_all(b"echo").await?;
    hears(&mut tcp, b"echo").await?;
    let mut denied = connect(&running, &header(to, None)).await?;
    assert_closed(&mut denied, "nobody").await
}

async fn assert_closed(tcp: &mut TcpStream, what: &str) -> Result<()> {
    let mut heard = Vec::new();
    // A clean end or a RST: what matters is that nothing is said.
    let _ = wait::within("the close", tcp.read_to_end(&mut heard)).await?;
    assert_eq!(heard, b"", "{what}");
    Ok(())
}

#[tokio::test]
async fn garbage_and_what_is_not_ours_is_closed_without_a_word() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = sandwich(single).await?;
    let good = header((running.service.vip, HTTP), Some(BOT));
    let patched = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let rows = [
        ("no header at all", b"GET / HTTP/1.1\r\nHost: app\r\n\r\n".to_vec()),
        ("PROXY v1", b"PROXY TCP4 10.0.0.1 10.96.0.1 1 8080\r\nGET / HTTP/1.1\r\n\r\n".to_vec()),
        ("another version", patched(12, 0x31)),
        ("LOCAL", patched(12, 0x20)),
        ("UDP", patched(13, 0x12)),
        ("a length that ends in a field", patched(15, 5)),
        (
            "an identity that is none",
            header((running.service.vip, HTTP), Some("cluster.local/ns/agents/sa/bot")),
        ),
        ("an address that is not ours", header((Ipv4Addr::new(10, 96, 9, 9), HTTP), Some(BOT))),
        ("a port that the service does not have", header((running.service.vip, 1), Some(BOT))),
    ];
    for (what, mut bytes) in rows {
        bytes.extend(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n");
        let mut tcp = connect(&running, &bytes).await?;
        assert_closed(&mut tcp, what).await?;
    }
    app.saw_nothing();
    let mut tcp = connect(&running, &good).await?;
    assert_eq!(raw(&mut tcp, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_header_that_comes_in_pieces_is_read() -> Result<()> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = sandwich(single).await?;
    let mut tcp = connect(&running, b"").await?;
    tcp.set_nodelay(true)?;
    let mut bytes = header((running.service.vip, HTTP), Some(BOT));
    bytes.extend(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n");
    let parts: Vec<&[u8]> = bytes.chunks(7).collect();
    assert_eq!(raw(&mut tcp, &parts).await?.status(), 200);
    Ok(())
}

#[tokio::test]
async fn it_listens_on_loopback_only() -> Result<()> {
    let single = Single::new(true).await?;
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:15088"] {
        let run = single.setup.run().arg("--proxy-protocol-address", address);
        let mut portcullis = Portcullis::start_unready(&run)?;
        assert_eq!(portcullis.ended().await?.code(), Some(2), "{address}");
        let said = portcullis.events().all().join("\n");
        assert!(said.contains("--proxy-protocol-address") && said.contains("loopback"), "{said}");
    }
    Ok(())
}

/// There is no HTTP/2 around these streams that could tell of a break: only a RST does.
#[tokio::test]
async fn the_drain_cuts_these_streams_too_and_not_by_an_end() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
        let text = "drain_linger: 60000\ndrain_deadline: 120000\n";
        let settings = single.setup.file("settings.yaml", text)?;
        let mut running = sandwich_with(single, |run| run.arg("--settings", settings)).await?;
        let mut tcp = connect(&running, &header((running.service.vip, RAW), Some(BOT))).await?;
        hears(&mut tcp, b"hello").await?;
        let portcullis = &mut running.mesh.portcullis;
        for phase in ["lingering", "draining"] {
            portcullis.signal("TERM").await?;
            portcullis.events().find_json(phase, |line| line["phase"] == phase).await?;
        }
        tcp.write_all(b"still").await?;
        hears(&mut tcp, b"still").await?;
        portcullis.signal("TERM").await?;
        assert_reset(&mut tcp, in_mesh).await?;
        assert_eq!(portcullis.ended().await?.code(), Some(0));
        let streams = portcullis.access_log().json();
        assert_eq!(streams.len(), 1, "a stream that was cut is logged too: {streams:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_that_no_longer_allows_a_stream_cuts_it_and_not_by_an_end() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
        let running = sandwich(single).await?;
        let mut tcp = connect(&running, &header((running.service.vip, RAW), Some(BOT))).await?;
        hears(&mut tcp, b"hello").await?;
        running.mesh.change_policy("bot", "app", "DENY", "- {}").await?;
        assert_reset(&mut tcp, in_mesh).await?;
    }
    Ok(())
}

/// To a client of HTTP/1.0 the end of the connection is the end of the body.
#[tokio::test]
async fn a_body_that_broke_off_does_not_end_the_connection_of_an_http_1_0_client() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let running = sandwich(single).await?;
    let mut tcp = connect(&running, &header((running.service.vip, HTTP), Some(BOT))).await?;
    tcp.write_all(b"GET / HTTP/1.0\r\nHost: app\r\n\r\n").await?;
    let mut upstream = app.accepted().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(wait::within("a request head", upstream.read_u8()).await??);
    }
    upstream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n").await?;
    let mut heard = Vec::new();
    while !heard.ends_with(b"part") {
        heard.push(wait::within("the part", tcp.read_u8()).await??);
    }
    abort(upstream)?;
    assert_reset(&mut tcp, true).await
}

async fn assert_reset(tcp: &mut TcpStream, in_mesh: bool) -> Result<()> {
    let read = wait::within("the cut", tcp.read(&mut [0; 8])).await?;
    let read = read.map_err(|error| error.kind());
    assert_eq!(read, Err(std::io::ErrorKind::ConnectionReset), "in mesh {in_mesh}");
    Ok(())
}

#[tokio::test]
async fn without_the_flag_nothing_listens() -> Result<()> {
    let running = Running::start().await?;
    assert!(running.mesh.portcullis.address("proxy_protocol").is_err());
    Ok(())
}
