//! The tunnel itself: which CONNECTs are carried, when they are answered, and how ends and breaks travel through.

#![cfg(test)]

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use portcullis_tests::application::{Application, abort, hears, to_the_end};
use portcullis_tests::frames::kind;
use portcullis_tests::http::{Client, empty, raw};
use portcullis_tests::manifests::{self, Port};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::single::{ANY, HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Answer, Refused, TunnelStream};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

const ALLOW_OTHERS: &str = "- from: [{source: {serviceAccounts: [agents/other]}}]";

async fn get(tunnel: TunnelStream) -> Result<u16> {
    let client = Client::http1(tunnel).await?;
    let reply = client.send(Request::get("/").header("host", "app").body(empty())?).await?;
    Ok(reply.status.as_u16())
}

/// The io kind of a read that must fail.
async fn break_of(tunnel: &mut TunnelStream) -> Result<io::ErrorKind> {
    let mut heard = Vec::new();
    let read = wait::within("the break", tunnel.read_to_end(&mut heard)).await?;
    Ok(read.map(|_| ()).expect_err("a break never reads as a clean end").kind())
}

#[tokio::test]
async fn a_service_is_reached_by_ipv4_ipv6_and_name() -> Result<()> {
    let mut single = Single::new(true).await?;
    let (vip, ports) = (single.service.vip, [Port::new("web", HTTP).speaking("http")]);
    let manifest = manifests::service(NAMESPACE, "app", vip, &ports)
        .replace(&format!("clusterIPs: [{vip}]"), &format!("clusterIPs: [{vip}, 'fd00::7']"));
    single.setup.manifests.write("service-app", &[manifest])?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    single.setup.policy("all", "app", "ALLOW", "- {}")?;
    single.service.vip = vip;
    let running = single.start().await?;
    let connection = running.bot()?.dial().await?;
    let forms =
        ["10.96.0.1:8080", "[fd00::7]:8080", "app.tools.svc.cluster.local:8080", "[::ffff:10.96.0.1]:8080"];
    for authority in forms {
        let tunnel = connection.connect(authority).await.context(authority)?;
        assert_eq!(get(tunnel).await?, 200, "{authority}");
    }
    assert_eq!(app.seen().len(), forms.len());
    Ok(())
}

#[tokio::test]
async fn a_connect_to_what_is_not_ours_or_not_there_is_refused_and_the_connection_lives() -> Result<()> {
    let mut single = Single::new(true).await?;
    let other = single.setup.pod("other", true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    let own = running.mesh.portcullis.address("hbone")?;
    let connection = running.bot()?.dial().await?;
    let rows = [
        ("no port", "10.96.0.1".to_owned(), 400),
        ("port 0", "10.96.0.1:0".to_owned(), 400),
        ("address of nobody", "10.96.9.9:8080".to_owned(), 400),
        ("the waypoint itself", own.to_string(), 400),
        ("a pod behind no service of ours", other.port(HTTP).to_string(), 400),
        ("a pod of ours, past its service", running.pod.port(HTTP).to_string(), 400),
        ("a port that the service does not have", "10.96.0.1:1".to_owned(), 503),
        ("the same by name", "app.tools.svc.cluster.local:1".to_owned(), 503),
        ("a name of nobody", "nobody.tools.svc.cluster.local:8080".to_owned(), 503),
    ];
    for (what, authority, status) in rows {
        let refused = Refused::status_of(connection.connect(&authority).await);
        assert_eq!(refused.as_u16(), status, "{what}");
    }
    let get_request = Request::builder().method(Method::GET).uri("http://10.96.0.1:8080/").body(())?;
    assert_eq!(Refused::status_of(connection.open(get_request).await).as_u16(), 400, "not CONNECT");
    assert_eq!(get(connection.connect(&running.service.authority(HTTP)).await?).await?, 200);
    for reason in ["not_ours", "unknown_destination", "bad_connect"] {
        let reason = [("reason", reason)];
        running.mesh.portcullis.metric_reaches("portcullis_refusals_total", &reason, 1.0).await?;
    }
    Ok(())
}

/// Heads that no careful library would send, from a client that shares no code with us.
#[tokio::test]
async fn an_independent_client_is_served_and_its_odd_heads_are_not() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start().await?;
    let connect = |authority: &str| json!([[":method", "CONNECT"], [":authority", authority]]);
    let raw = running.service.authority(RAW);
    let cases = json!([
        {"headers": connect(&raw), "send": "echo"},
        {"headers": connect("10.96.0.1")},
        {"headers": connect("fd00::7:9000")},
        {"headers": connect("user@10.96.0.1:9000")},
        {"headers": [[":method", "GET"], [":scheme", "http"], [":authority", raw], [":path", "/"]]},
        {"headers": connect("10.96.0.1:9001")},
        {"headers": [[":method", "CONNECT"], [":authority", raw], ["baggage", "a=\u{e9}"]], "send": "again"},
    ]);
    let report = hbone_client(&running, &cases).await?;
    assert_eq!((&report["tls"], &report["alpn"]), (&json!("TLSv1.3"), &json!("h2")), "{report}");
    assert_eq!(report["server"], json!([["URI", running.mesh.waypoint_id()]]), "{report}");
    let answers = report["answers"].as_array().context("answers")?;
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_str().unwrap_or("none")).collect();
    assert_eq!(statuses, ["200", "400", "none", "400", "400", "503", "200"], "{report}");
    assert_eq!(answers[2]["reset"], 1, "HTTP/2 itself takes that for no authority: PROTOCOL_ERROR; {report}");
    assert_eq!((&answers[0]["body"], &answers[0]["clean"]), (&json!("echo"), &json!(true)), "{report}");
    assert_eq!(answers[6]["body"], "again", "{report}");
    Ok(())
}

async fn hbone_client(running: &Running, cases: &Value) -> Result<Value> {
    let ca = &running.mesh.setup.ca;
    let folder = tempfile::tempdir()?;
    let files = ca.svid(&ca.id("agents", "bot"))?.write_to(folder.path(), ca.bundle_pem())?;
    let target = running.mesh.portcullis.address("hbone")?.to_string();
    let paths = [&files.cert_chain, &files.key, &files.trust_bundle].map(|path| path.display().to_string());
    let [chain, key, bundle] = &paths;
    Runtime::Python1.report("hbone_client.py", &[&target, chain, key, bundle, &cases.to_string()]).await
}

#[tokio::test]
async fn http_is_accepted_at_once_and_refused_inside() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("others", "app", "ALLOW", ALLOW_OTHERS)?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let reply = raw(&mut tunnel, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
    assert_eq!((reply.status(), reply.text().as_str()), (403, "RBAC: access denied"));
    app.saw_nothing();
    assert!(running.pod.ztunnel.context("in the mesh")?.seen().is_empty());
    Ok(())
}

#[tokio::test]
async fn http_whose_upstream_is_down_is_answered_inside() -> Result<()> {
    let running = Running::start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let reply = raw(&mut tunnel, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
    assert_eq!(reply.status(), 503);
    let line = running.mesh.portcullis.logged("the failed request", |line| line["kind"] == "request").await?;
    assert_eq!(line["response_flags"], "UF", "{line}");
    Ok(())
}

#[tokio::test]
async fn opaque_is_not_accepted_before_its_upstream_is_connected() -> Result<()> {
    let running = Running::start().await?;
    let ztunnel = running.pod.ztunnel.as_ref().context("in the mesh")?;
    ztunnel.answer(Answer::Ignore);
    let bot = running.bot()?;
    let authority = running.service.authority(RAW);
    let mut connect = Box::pin(bot.connect(&authority));
    tokio::select! {
        accepted = &mut connect => panic!("accepted without an upstream: {accepted:?}"),
        seen = ztunnel.saw(1) => assert_eq!(seen?[0].authority, running.pod.port(RAW).to_string()),
    }
    assert!(connect.as_mut().now_or_never().is_none(), "the upstream has not answered yet");
    Ok(())
}

#[tokio::test]
async fn opaque_whose_upstream_cannot_be_dialled_is_503() -> Result<()> {
    for in_mesh in [true, false] {
        let running = Single::new(in_mesh).await?.start().await?;
        let refused = Refused::status_of(running.tunnel(RAW).await);
        assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE, "in mesh: {in_mesh}");
        let line = running.mesh.portcullis.logged("the stream", |line| line["kind"] == "stream").await?;
        assert_eq!((&line["response_code"], &line["response_flags"]), (&json!(503), &json!("UF")), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn opaque_that_the_policy_denies_is_401_and_nothing_is_dialled() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("others", "app", "ALLOW", ALLOW_OTHERS)?;
    let running = single.start().await?;
    assert_eq!(Refused::status_of(running.tunnel(RAW).await), StatusCode::UNAUTHORIZED);
    assert!(running.pod.ztunnel.context("in the mesh")?.seen().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_connection_carries_150_streams_at_once() -> Result<()> {
    const STREAMS: usize = 150;
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start().await?;
    let connection = running.bot()?.dial().await?;
    let authority = running.service.authority(RAW);
    let mut tunnels = try_join_all((0..STREAMS).map(|_| connection.connect(&authority))).await?;
    for (n, tunnel) in tunnels.iter_mut().enumerate() {
        tunnel.write_all(format!("stream {n}").as_bytes()).await?;
    }
    for (n, tunnel) in tunnels.iter_mut().enumerate() {
        hears(tunnel, format!("stream {n}").as_bytes()).await?;
    }
    let seen = running.pod.ztunnel.as_ref().context("in the mesh")?.seen();
    let connections: HashSet<_> = seen.iter().map(|connect| connect.connection).collect();
    assert_eq!(seen.len(), STREAMS);
    assert_eq!(connections.len(), 2, "100 streams a connection, as ztunnel is used to");
    drop(tunnels);
    gauge_falls_to(&running, "portcullis_streams", 0.0).await
}

async fn gauge_falls_to(running: &Running, gauge: &str, bound: f64) -> Result<()> {
    wait::until_async(&format!("{gauge} is at most {bound}"), async || {
        Ok((running.mesh.portcullis.metrics().await?.sum(gauge, &[]) <= bound).then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_destination_sees_the_waypoints_identity_and_the_endpoints_address() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
    let running = single.start().await?;
    let mut headers = HeaderMap::new();
    headers.insert("forwarded", HeaderValue::from_static("for=\"10.0.0.9:1\""));
    headers.insert("baggage", HeaderValue::from_static("k8s.namespace.name=forged"));
    let connection = running.bot()?.dial().await?;
    let mut tunnel = connection.connect_with(&running.service.authority(RAW), headers).await?;
    hears(&mut tunnel, b"hello").await?;
    let seen = running.pod.ztunnel.as_ref().context("in the mesh")?.saw(1).await?;
    assert_eq!(seen[0].peer, running.mesh.waypoint_id());
    assert_eq!(seen[0].authority, running.pod.port(RAW).to_string());
    Ok(())
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let _echo = Echo::start(single.pod.port(RAW), b"220 mail.example ESMTP\r\n").await?;
        let running = single.start().await?;
        let mut tunnel = running.tunnel(RAW).await?;
        hears(&mut tunnel, b"220 mail.example ESMTP\r\n").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_is_done_sending_still_hears() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let app = Application::start(single.pod.port(RAW)).await?;
        let running = single.start().await?;
        let (mut tunnel, mut tcp) = pair(&running, &app).await?;
        tunnel.write_all(b"that is all").await?;
        tunnel.shutdown().await?;
        assert_eq!(to_the_end(&mut tcp).await?, b"that is all");
        // The half-open stream outlives a change of configuration, when streams are looked at again.
        running.mesh.change_policy("all", "app", "ALLOW", "- {}").await?;
        for _ in 0..3 {
            tcp.write_all(b"more").await?;
            hears(&mut tunnel, b"more").await?;
        }
        drop(tcp);
        assert_eq!(to_the_end(&mut tunnel).await?, b"");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_done_sending_still_hears() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let app = Application::start(single.pod.port(RAW)).await?;
        let running = single.start().await?;
        let (mut tunnel, mut tcp) = pair(&running, &app).await?;
        tcp.write_all(b"bye").await?;
        tcp.shutdown().await?;
        assert_eq!(to_the_end(&mut tunnel).await?, b"bye");
        running.mesh.change_policy("all", "app", "ALLOW", "- {}").await?;
        for _ in 0..3 {
            tunnel.write_all(b"more").await?;
            hears(&mut tcp, b"more").await?;
        }
        tunnel.shutdown().await?;
        assert_eq!(to_the_end(&mut tcp).await?, b"");
    }
    Ok(())
}

async fn pair(running: &Running, app: &Application) -> Result<(TunnelStream, TcpStream)> {
    let (tunnel, tcp) = tokio::join!(running.tunnel(RAW), app.accepted());
    Ok((tunnel?, tcp?))
}

/// ztunnel reads CANCEL and NO_ERROR as a clean end, so neither may tell of a break.
#[tokio::test]
async fn a_reset_of_the_upstream_is_a_reset_and_never_an_end() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let app = Application::start(single.pod.port(RAW)).await?;
        let running = single.start().await?;
        let (mut tunnel, mut tcp) = pair(&running, &app).await?;
        tcp.write_all(b"part").await?;
        hears(&mut tunnel, b"part").await?;
        abort(tcp)?;
        let reason = wait::within("the reset", tunnel.reset_by_peer()).await??;
        assert!(![Reason::NO_ERROR, Reason::CANCEL].contains(&reason), "in mesh {in_mesh}: {reason:?}");
        assert_eq!(break_of(&mut tunnel).await?, io::ErrorKind::ConnectionReset, "in mesh {in_mesh}");
        let line = running.mesh.portcullis.logged("the stream", |line| line["kind"] == "stream").await?;
        assert_eq!(line["response_flags"], "UC", "{line}");
    }
    Ok(())
}

/// A body that lasts until the connection ends has no other mark of completeness; the others break off before theirs.
#[tokio::test]
async fn a_truncated_body_is_not_complete() -> Result<()> {
    let heads: [&[u8]; 3] = [
        b"HTTP/1.0 200 OK\r\n\r\npart",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
    ];
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let app = Application::start(single.pod.port(HTTP)).await?;
        let running = single.start().await?;
        for head in heads {
            let client = Client::http1(running.tunnel(HTTP).await?).await?;
            let request = Request::get("/").header("host", "app").body(empty())?;
            let (response, tcp) = tokio::join!(client.open(request), async {
                let mut tcp = app.accepted().await?;
                read_head(&mut tcp).await?;
                tcp.write_all(head).await?;
                anyhow::Ok(tcp)
            });
            let mut body = response?.into_body();
            let first = wait::within("the part", body.frame()).await?.context("a part")??;
            assert_eq!(first.into_data().unwrap_or_default(), "part");
            abort(tcp?)?;
            let next = wait::within("the break", body.frame()).await?;
            assert!(matches!(next, Some(Err(_))), "in mesh {in_mesh}: a break, not {next:?}");
        }
    }
    Ok(())
}

/// To a client of HTTP/1.0 the end of the stream is the end of the body.
#[tokio::test]
async fn a_body_that_broke_off_does_not_end_the_stream_of_an_http_1_0_client() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    tunnel.write_all(b"GET / HTTP/1.0\r\nHost: app\r\n\r\n").await?;
    let mut tcp = app.accepted().await?;
    read_head(&mut tcp).await?;
    tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n").await?;
    let mut heard = Vec::new();
    while !heard.ends_with(b"part") {
        heard.push(wait::within("the part", tunnel.read_u8()).await??);
    }
    abort(tcp)?;
    assert_eq!(break_of(&mut tunnel).await?, io::ErrorKind::ConnectionReset);
    Ok(())
}

async fn read_head(tcp: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(wait::within("a request head", tcp.read_u8()).await??);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_resets_is_felt_upstream_at_once() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let app = Application::start(single.pod.port(RAW)).await?;
        let running = single.start().await?;
        let (mut tunnel, mut tcp) = pair(&running, &app).await?;
        tunnel.write_all(b"half a").await?;
        hears(&mut tcp, b"half a").await?;
        let before = Instant::now();
        tunnel.reset(Reason::CANCEL);
        let read = wait::within("the break", tcp.read(&mut [0; 8])).await?;
        assert_eq!(read.expect_err("a break").kind(), io::ErrorKind::ConnectionReset, "in mesh {in_mesh}");
        assert!(before.elapsed() < Duration::from_secs(2), "took {:?}", before.elapsed());
        gauge_falls_to(&running, "portcullis_streams", 0.0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_vanishes_is_felt_upstream_at_once() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(RAW)).await?;
    let running = single.start().await?;
    let connection = running.bot()?.dial().await?;
    let authority = running.service.authority(RAW);
    let (tunnel, tcp) = tokio::join!(connection.connect(&authority), app.accepted());
    let (tunnel, mut tcp) = (tunnel?, tcp?);
    drop((tunnel, connection));
    let read = wait::within("the break", tcp.read(&mut [0; 8])).await?;
    assert_eq!(read.expect_err("a break").kind(), io::ErrorKind::ConnectionReset);
    gauge_falls_to(&running, "portcullis_tunnels", 0.0).await
}

/// What may pile up for one stream: its window towards the client, the window towards the endpoint's ztunnel, send
/// buffers and the sockets of this machine.
const MOST_IN_FLIGHT: usize = 40 << 20;

#[tokio::test]
async fn a_stream_that_nobody_reads_stalls_its_sender_and_not_its_siblings() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(RAW)).await?;
    let running = single.start().await?;
    let connection = running.bot()?.dial().await?;
    let authority = running.service.authority(RAW);
    let mut stuck = Vec::new();
    let mut written = 0;
    for _ in 0..3 {
        let (tunnel, tcp) = tokio::join!(connection.connect(&authority), app.accepted());
        stuck.push(tunnel?);
        written += fill(tcp?).await?;
    }
    assert!(written < 3 * MOST_IN_FLIGHT, "{written} bytes were taken for streams that nobody reads");
    let (tunnel, tcp) = tokio::join!(connection.connect(&authority), app.accepted());
    let (mut tunnel, mut tcp) = (tunnel?, tcp?);
    tunnel.write_all(b"question").await?;
    hears(&mut tcp, b"question").await?;
    tcp.write_all(b"answer").await?;
    hears(&mut tunnel, b"answer").await?;
    let resident = running.mesh.portcullis.resident_bytes()?;
    assert!(resident < 256 << 20, "{resident} bytes are held");
    Ok(())
}

/// Writes until nothing is taken any more, and leaves the connection open; returns how much was.
async fn fill(mut tcp: TcpStream) -> Result<usize> {
    const STALLED: Duration = Duration::from_millis(500);
    let (chunk, mut written) = (vec![7; 64 << 10], 0);
    while written < 2 * MOST_IN_FLIGHT {
        match tokio::time::timeout(STALLED, tcp.write(&chunk)).await {
            Ok(taken) => written += taken?,
            Err(_stalled) => break,
        }
    }
    // The socket must live as long as the test; its tunnel does.
    std::mem::forget(tcp);
    Ok(written)
}

#[tokio::test]
async fn a_server_that_does_not_read_stalls_its_client_and_not_the_siblings() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(RAW)).await?;
    let running = single.start().await?;
    let connection = running.bot()?.dial().await?;
    let authority = running.service.authority(RAW);
    let (stuck, unread) = tokio::join!(connection.connect(&authority), app.accepted());
    let (mut stuck, _unread) = (stuck?, unread?);
    let chunk = vec![7; 64 << 10];
    let mut written = 0;
    while let Ok(taken) = tokio::time::timeout(Duration::from_millis(500), stuck.write(&chunk)).await {
        written += taken?;
        assert!(written < MOST_IN_FLIGHT, "the client is never stalled");
    }
    let (tunnel, tcp) = tokio::join!(connection.connect(&authority), app.accepted());
    let (mut tunnel, mut tcp) = (tunnel?, tcp?);
    tunnel.write_all(b"question").await?;
    hears(&mut tcp, b"question").await
}

#[tokio::test]
async fn a_refused_stream_is_opened_again_and_the_client_does_not_notice() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
    let running = single.start().await?;
    hears(&mut running.tunnel(RAW).await?, b"hello").await?;
    let ztunnel = running.pod.ztunnel.as_ref().context("in the mesh")?;
    ztunnel.goaway();
    hears(&mut running.tunnel(RAW).await?, b"hello").await?;
    let seen = ztunnel.seen();
    assert_ne!(seen[0].connection, seen[1].connection, "a connection that said GOAWAY takes no more streams");
    Ok(())
}

/// REFUSED_STREAM says that nothing was processed (RFC 9113 §8.7).
#[tokio::test]
async fn a_stream_that_an_endpoint_refuses_unprocessed_is_tried_once_more() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
    let running = single.start().await?;
    let ztunnel = running.pod.ztunnel.as_ref().context("in the mesh")?;
    ztunnel.answer(Answer::ResetFirst(Reason::REFUSED_STREAM));
    hears(&mut running.tunnel(RAW).await?, b"hello").await?;
    assert_eq!(ztunnel.seen().len(), 2);
    ztunnel.answer(Answer::Reset(Reason::REFUSED_STREAM));
    assert_eq!(Refused::status_of(running.tunnel(RAW).await), StatusCode::SERVICE_UNAVAILABLE);
    // Three attempts, each on up to two connections.
    let tries = ztunnel.seen().len() - 2;
    assert!((2..=6).contains(&tries), "{tries} tries");
    Ok(())
}

#[tokio::test]
async fn the_settings_that_ztunnel_counts_on_are_announced() -> Result<()> {
    let running = Running::start().await?;
    let settings = running.frames().await?.until(kind::SETTINGS).await?;
    let announced: HashMap<u16, u32> = settings
        .payload
        .chunks_exact(6)
        .map(|pair| {
            (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]))
        })
        .collect();
    // RFC 9113 §6.5.2: streams, initial window, frame, header list.
    assert_eq!(announced.get(&3), Some(&200), "{announced:?}");
    assert_eq!(announced.get(&4), Some(&(4 << 20)), "{announced:?}");
    assert_eq!(announced.get(&5), Some(&(1 << 20)), "{announced:?}");
    assert_eq!(announced.get(&6), Some(&(64 << 10)), "{announced:?}");
    Ok(())
}

#[tokio::test]
async fn an_idle_connection_is_asked_whether_it_lives() -> Result<()> {
    let running = Running::start().await?;
    let mut frames = running.frames().await?;
    let settings = frames.until(kind::SETTINGS).await?;
    frames.acknowledge(&settings).await?;
    let quiet = Instant::now();
    frames.until(kind::PING).await?;
    assert!(quiet.elapsed() < Duration::from_secs(15), "took {:?}", quiet.elapsed());
    Ok(())
}

mod undeclared {
    //! A port that declares nothing: the first bytes tell.

    use super::*;

    #[tokio::test]
    async fn http1_is_told_even_when_it_comes_byte_by_byte() -> Result<()> {
        let single = Single::new(true).await?;
        let app = Upstream::start(single.pod.port(ANY), |_| upstream::text(StatusCode::OK, "hi")).await?;
        let running = single.start().await?;
        let mut tunnel = running.tunnel(ANY).await?;
        let request = b"PROPFIND /a HTTP/1.1\r\nHost: app\r\n\r\n";
        let parts: Vec<&[u8]> = request.chunks(1).collect();
        assert_eq!(raw(&mut tunnel, &parts).await?.status(), 200);
        app.saw_only(&["/a"]);
        let line = running.mesh.portcullis.logged("the request", |line| line["path"] == "/a").await?;
        assert_eq!((&line["kind"], &line["protocol"]), (&json!("request"), &json!("HTTP/1.1")), "{line}");
        Ok(())
    }

    #[tokio::test]
    async fn http2_with_prior_knowledge_is_told_and_stays_http2() -> Result<()> {
        let single = Single::new(true).await?;
        let _app = Upstream::start(single.pod.port(ANY), |_| upstream::text(StatusCode::OK, "hi")).await?;
        let running = single.start().await?;
        let client = Client::http2(running.tunnel(ANY).await?).await?;
        let reply = client.send(Request::get("http://app/b").body(empty())?).await?;
        assert_eq!(reply.status, 200);
        let line = running.mesh.portcullis.logged("the request", |line| line["path"] == "/b").await?;
        assert_eq!(line["protocol"], "HTTP/2", "{line}");
        Ok(())
    }

    #[tokio::test]
    async fn silence_becomes_opaque_so_that_a_server_may_speak_first() -> Result<()> {
        let single = Single::new(true).await?;
        let _echo = Echo::start(single.pod.port(ANY), b"* OK IMAP4rev2\r\n").await?;
        let running = single.start().await?;
        let before = Instant::now();
        hears(&mut running.tunnel(ANY).await?, b"* OK IMAP4rev2\r\n").await?;
        assert!(before.elapsed() >= Duration::from_millis(100), "the client is given its 100 ms");
        Ok(())
    }

    #[tokio::test]
    async fn tls_and_other_bytes_are_carried_unchanged() -> Result<()> {
        let single = Single::new(true).await?;
        let _echo = Echo::start(single.pod.port(ANY), b"").await?;
        let running = single.start().await?;
        let hellos: [&[u8]; 3] = [b"\x16\x03\x01\x02\x00\x01\x00", b"EHLO x\r\n", b"\0\0\0\x01"];
        for hello in hellos {
            let mut tunnel = running.tunnel(ANY).await?;
            tunnel.write_all(hello).await?;
            tunnel.shutdown().await?;
            assert_eq!(to_the_end(&mut tunnel).await?, hello);
        }
        Ok(())
    }

    /// Stalling the sniff gains nothing: an ALLOW rule that asks for an HTTP field allows no opaque stream, and a DENY
    /// rule loses the field and so denies more.
    #[tokio::test]
    async fn what_fell_back_to_opaque_is_judged_by_the_opaque_rules() -> Result<()> {
        let rows = [
            ("ALLOW", "- to: [{operation: {paths: [/ok]}}]", false),
            ("ALLOW", "- from: [{source: {serviceAccounts: [agents/bot]}}]", true),
            ("DENY", "- to: [{operation: {paths: [/secret]}}]", false),
            (
                "DENY",
                "- from: [{source: {serviceAccounts: [agents/other]}}]\n  to: [{operation: {paths: [/x]}}]",
                true,
            ),
        ];
        for (action, rules, carried) in rows {
            let single = Single::new(true).await?;
            single.setup.policy("p", "app", action, rules)?;
            let _echo = Echo::start(single.pod.port(ANY), b"hello").await?;
            let running = single.start().await?;
            let mut tunnel = running.tunnel(ANY).await?;
            if carried {
                hears(&mut tunnel, b"hello").await?;
            } else {
                assert_eq!(break_of(&mut tunnel).await?, io::ErrorKind::ConnectionReset, "{action} {rules}");
                assert!(running.pod.ztunnel.context("in the mesh")?.seen().is_empty(), "{action} {rules}");
            }
        }
        Ok(())
    }

    /// A port that is read as MCP is never carried unread, though a rule without facts would let an opaque stream pass.
    #[tokio::test]
    async fn what_is_read_as_mcp_is_not_carried_after_a_silence_or_behind_other_bytes() -> Result<()> {
        let single = Single::new(true).await?;
        let rules = "- from: [{source: {serviceAccounts: [agents/bot]}}]\n\
                     - from: [{source: {serviceAccounts: [agents/other]}}]\n  \
                     when: [{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [search]}]";
        single.setup.policy("p", "app", "ALLOW", rules)?;
        let _echo = Echo::start(single.pod.port(ANY), b"hello").await?;
        let running = single.start().await?;
        for first in [b"".as_slice(), b"\x16\x03\x01", b"EHLO x\r\n"] {
            let mut tunnel = running.tunnel(ANY).await?;
            tunnel.write_all(first).await?;
            assert_eq!(break_of(&mut tunnel).await?, io::ErrorKind::ConnectionReset, "{first:?}");
        }
        assert!(running.pod.ztunnel.context("in the mesh")?.seen().is_empty());
        let logged = |line: &serde_json::Value| {
            line["response_code_details"].to_string().contains("opaque_on_mcp_port")
        };
        running.mesh.portcullis.logged("the refusal", logged).await?;
        Ok(())
    }
}
