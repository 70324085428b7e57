//! What goes on inside a tunnel: HTTP/1.1 and HTTP/2, bodies both ways, endpoints that are chosen, left alone and tried again.

#![cfg(test)]

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use portcullis_tests::application::{Application, abort, hears};
use portcullis_tests::http::{Client, Events, Reply, empty, full, raw, streamed};
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::{Mesh, Pod, Service, Setup};
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::{process, wait};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

async fn get(client: &Client, path: &str) -> Result<Reply> {
    client.send(Request::get(path).header("host", "app").body(empty())?).await
}

async fn client(running: &Running) -> Result<Client> {
    Client::http1(running.tunnel(HTTP).await?).await
}

async fn says(pod: &Pod, port: u16, text: &'static str) -> Result<Upstream> {
    Upstream::start(pod.port(port), move |_| upstream::text(StatusCode::OK, text)).await
}

/// A Service with two pods.
struct Pair {
    setup: Setup,
    pods: [Pod; 2],
    service: Service,
}

impl Pair {
    async fn new(in_mesh: [bool; 2]) -> Result<Self> {
        let mut setup = Setup::new()?;
        let pods = [setup.pod("app", in_mesh[0]).await?, setup.pod("app", in_mesh[1]).await?];
        let ports = [Port::new("web", HTTP).speaking("http"), Port::new("raw", RAW).speaking("tcp")];
        let service = setup.service("app", &ports)?;
        Ok(Self { setup, pods, service })
    }

    async fn start(self, settings: &str) -> Result<(Mesh, [Pod; 2], Client)> {
        let path = self.setup.file("settings.yaml", settings)?;
        let run = self.setup.run().arg("--settings", path);
        let mesh = self.setup.start_with(run).await?;
        let tunnel = mesh.peer("agents", "bot")?.connect(&self.service.authority(HTTP)).await?;
        Ok((mesh, self.pods, Client::http1(tunnel).await?))
    }
}

#[tokio::test]
async fn one_kept_connection_is_spread_over_hbone_and_plain_endpoints() -> Result<()> {
    const REQUESTS: usize = 40;
    let pair = Pair::new([true, false]).await?;
    let (hbone, plain) =
        (says(&pair.pods[0], HTTP, "hbone").await?, says(&pair.pods[1], HTTP, "plain").await?);
    let (mesh, pods, client) = pair.start("").await?;
    for _ in 0..REQUESTS {
        assert_eq!(get(&client, "/").await?.status, 200);
    }
    for app in [&hbone, &plain] {
        let share = app.seen().len();
        assert!((REQUESTS / 8..=REQUESTS * 7 / 8).contains(&share), "{share} of {REQUESTS}");
        assert_eq!(app.connections(), 1, "requests one after the other need one connection");
    }
    let connects = pods[0].ztunnel.as_ref().context("in the mesh")?.seen();
    assert_eq!(connects.len(), 1, "one tunnel stream carries the one connection");
    for pod in &pods {
        let address = pod.port(HTTP).to_string();
        let line =
            mesh.portcullis.logged("the endpoint", |line| line["upstream_host"] == address.as_str()).await?;
        assert_eq!(line["destination_workload"], pod.name.as_str(), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn parallel_requests_go_to_the_less_busy_endpoint() -> Result<()> {
    let pair = Pair::new([true, true]).await?;
    let (busy, idle) =
        (Application::start(pair.pods[0].port(HTTP)).await?, says(&pair.pods[1], HTTP, "idle").await?);
    let (mesh, _pods, _client) = pair.start("").await?;
    let authority = "10.96.0.1:8080";
    let bot = mesh.peer("agents", "bot")?;
    // Requests go here or there until one is held at the endpoint that does not answer.
    let mut held = JoinSet::new();
    let _stuck = loop {
        let client = Client::http1(bot.connect(authority).await?).await?;
        held.spawn(async move { get(&client, "/held").await });
        tokio::select! {
            tcp = busy.accepted() => break tcp?,
            done = held.join_next() => drop(done.context("one request")???),
        }
    };
    let before = idle.seen().len();
    let client = Client::http1(bot.connect(authority).await?).await?;
    for _ in 0..20 {
        assert_eq!(get(&client, "/").await?.status, 200);
    }
    assert_eq!(idle.seen().len(), before + 20, "none went to the endpoint that has a request running");
    Ok(())
}

#[tokio::test]
async fn http2_with_prior_knowledge_carries_parallel_requests_to_an_http1_endpoint() -> Result<()> {
    let single = Single::new(true).await?;
    let app =
        Upstream::start(single.pod.port(HTTP), |seen| upstream::text(StatusCode::OK, seen.uri.to_string()))
            .await?;
    let running = single.start().await?;
    let client = Client::http2(running.tunnel(HTTP).await?).await?;
    let asked = (0..20)
        .map(|n| client.send(Request::get(format!("http://app/{n}")).body(empty()).expect("a request")));
    for (n, reply) in try_join_all(asked).await?.iter().enumerate() {
        assert_eq!((reply.status.as_u16(), reply.text()), (200, format!("/{n}")));
    }
    assert!(app.seen().iter().all(|seen| seen.headers["host"] == "app"));
    Ok(())
}

#[tokio::test]
async fn curl_is_carried_by_http1_and_by_http2() -> Result<()> {
    let single = Single::new(true).await?;
    let _app =
        Upstream::start(single.pod.port(HTTP), |seen| upstream::text(StatusCode::OK, seen.body.clone()))
            .await?;
    let running = single.start().await?;
    let port = running.bot()?.forward(&running.service.authority(HTTP)).await?;
    let folder = tempfile::tempdir()?;
    let (sent, back) = (folder.path().join("sent"), folder.path().join("back"));
    std::fs::write(&sent, noise(3 << 20))?;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let data = format!("@{}", sent.display());
        let out = back.display().to_string();
        let url = port.url("/echo");
        let told = "%{http_code} %{http_version}";
        let args = [version, "-sS", "--max-time", "20", "--data-binary", &data, "-o", &out, "-w", told, &url];
        let printed = process::run(Path::new("curl"), args).await?;
        assert!(printed.concat().starts_with("200 "), "{version}: {printed:?}");
        assert_eq!(std::fs::read(&sent)?, std::fs::read(&back)?, "{version}: the body came back changed");
    }
    Ok(())
}

/// Bytes without a pattern that a mixed-up order could hide in.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

#[tokio::test]
async fn large_bodies_pass_unchanged_both_ways() -> Result<()> {
    const LENGTH: usize = 16 << 20;
    let single = Single::new(true).await?;
    let app =
        Upstream::start(single.pod.port(HTTP), |seen| upstream::text(StatusCode::OK, seen.body.clone()))
            .await?;
    let running = single.start().await?;
    let body = Bytes::from(noise(LENGTH));
    let request = Request::put("/large").header("host", "app").body(full(body.clone()))?;
    let reply = client(&running).await?.send(request).await?;
    assert!(app.seen()[0].body == body, "the request's body was changed");
    assert!(reply.body == body, "the answer's body was changed");
    let line = running.mesh.portcullis.logged("the request", |line| line["path"] == "/large").await?;
    let counted = json!([LENGTH, LENGTH]);
    assert_eq!(json!([line["bytes_received"], line["bytes_sent"]]), counted, "{line}");
    Ok(())
}

/// Each event is waited for before the next is sent, so a hop that gathers would hang here; and it comes at once.
#[tokio::test]
async fn events_come_at_once() -> Result<()> {
    const EVENTS: usize = 20;
    let single = Single::new(true).await?;
    let (sender, response) = upstream::open_events();
    let response = std::sync::Mutex::new(Some(response));
    let once = move |_: &_| response.lock().expect("one user").take().expect("one request");
    let _app = Upstream::start(single.pod.port(HTTP), once).await?;
    let running = single.start().await?;
    let client = client(&running).await?;
    let mut events = Events::of(client.open(Request::get("/").header("host", "app").body(empty())?).await?);
    let mut took = Vec::new();
    for n in 0..EVENTS {
        let sent = Instant::now();
        sender.send(Frame::data(Bytes::from(format!("data: {n}\n\n")))).await?;
        assert_eq!(events.next().await?.context("an event")?.data, n.to_string());
        took.push(sent.elapsed());
    }
    took.sort();
    assert!(took[EVENTS / 2] < Duration::from_millis(50), "the median event took {:?}", took[EVENTS / 2]);
    drop(sender);
    assert_eq!(events.next().await?, None, "a clean end stays one");
    Ok(())
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_answer_frees_the_upstream_at_once() -> Result<()> {
    let single = Single::new(true).await?;
    let (sender, response) = upstream::open_events();
    let response = std::sync::Mutex::new(Some(response));
    let once = move |_: &_| response.lock().expect("one user").take().expect("one request");
    let _app = Upstream::start(single.pod.port(HTTP), once).await?;
    let running = single.start().await?;
    let client = client(&running).await?;
    let response = client.open(Request::get("/").header("host", "app").body(empty())?).await?;
    let left = Instant::now();
    drop((response, client));
    wait::within("the upstream to be let go", sender.closed()).await?;
    assert!(left.elapsed() < Duration::from_secs(2), "took {:?}", left.elapsed());
    let line = running.mesh.portcullis.logged("the request", |line| line["kind"] == "request").await?;
    assert_eq!(line["response_flags"], "DC", "{line}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_continue_before_it_sends() -> Result<()> {
    let single = Single::new(true).await?;
    let app = says(&single.pod, HTTP, "thanks").await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let head = b"POST /c HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    tunnel.write_all(head).await?;
    hears(&mut tunnel, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    let reply = raw(&mut tunnel, &[b"body"]).await?;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "thanks"));
    assert_eq!(app.seen()[0].body, "body");
    Ok(())
}

#[tokio::test]
async fn a_client_that_asks_first_and_is_denied_is_told_so_before_it_sends() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("none", "app", "ALLOW", "- to: [{operation: {paths: [/other]}}]")?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let head = b"POST /c HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(raw(&mut tunnel, &[head]).await?.status(), 403);
    Ok(())
}

#[tokio::test]
async fn trailers_pass() -> Result<()> {
    let mut setup = Setup::new()?;
    let pod = setup.pod("app", true).await?;
    let service = setup.service("app", &[Port::new("web", HTTP).speaking("kubernetes.io/h2c")])?;
    let trailed = |_: &upstream::Seen| {
        let (sender, body) = streamed();
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "abc".parse().expect("a value"));
        let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
        frames.into_iter().for_each(|frame| sender.try_send(frame).expect("room for two"));
        http::Response::new(body)
    };
    let _app = Upstream::start(pod.port(HTTP), trailed).await?;
    let mesh = setup.start().await?;
    let client = Client::http2(mesh.peer("agents", "bot")?.connect(&service.authority(HTTP)).await?).await?;
    let reply = client.send(Request::get("http://app/").header("te", "trailers").body(empty())?).await?;
    assert_eq!((reply.text().as_str(), &reply.trailers["checksum"]), ("body", &"abc".parse()?));
    Ok(())
}

#[tokio::test]
async fn headers_of_one_hop_end_there_and_the_others_pass() -> Result<()> {
    let single = Single::new(true).await?;
    let answer = |_: &upstream::Seen| {
        let mut answer = upstream::text(StatusCode::OK, "hi");
        answer.headers_mut().insert("x-kept", "yes".parse().expect("a value"));
        answer.headers_mut().insert("keep-alive", "timeout=5".parse().expect("a value"));
        answer
    };
    let app = Upstream::start(single.pod.port(HTTP), answer).await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let request = b"GET /a?b=c HTTP/1.1\r\nHost: shop.example:81\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
        Keep-Alive: 3\r\nProxy-Connection: x\r\nX-Forwarded-For: 10.9.9.9\r\nX-Request-Id: mine\r\nX-Kept: 1\r\n\r\n";
    let reply = raw(&mut tunnel, &[request]).await?;
    assert!(reply.head.contains("x-kept: yes") && !reply.head.contains("keep-alive:"), "{}", reply.head);
    let seen = &app.seen()[0];
    assert_eq!(seen.uri, "/a?b=c");
    assert_eq!(seen.headers["x-forwarded-proto"], "http");
    for (name, value) in [
        ("host", "shop.example:81"),
        ("x-forwarded-for", "10.9.9.9"),
        ("x-request-id", "mine"),
        ("x-kept", "1"),
    ] {
        assert_eq!(seen.headers[name], value, "{name}");
    }
    for name in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.headers.get(name), None, "{name}");
    }
    raw(&mut tunnel, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
    let given =
        app.seen()[1].headers.get("x-request-id").cloned().context("an id is made where there is none")?;
    let line = running.mesh.portcullis.logged("the request", |line| line["path"] == "/").await?;
    assert_eq!(line["x_request_id"], given.to_str()?, "{line}");
    Ok(())
}

#[tokio::test]
async fn http_1_0_and_pipelined_requests_are_answered_in_order() -> Result<()> {
    let single = Single::new(true).await?;
    let _app =
        Upstream::start(single.pod.port(HTTP), |seen| upstream::text(StatusCode::OK, seen.uri.to_string()))
            .await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    let reply = raw(&mut tunnel, &[b"GET /old HTTP/1.0\r\nHost: app\r\n\r\n"]).await?;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "/old"));
    let mut tunnel = running.tunnel(HTTP).await?;
    tunnel
        .write_all(
            b"GET /1 HTTP/1.1\r\nHost: app\r\n\r\nGET /2 HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n",
        )
        .await?;
    let mut both = String::new();
    wait::within("both answers", tunnel.read_to_string(&mut both)).await??;
    let (one, two) = (both.find("\r\n\r\n/1").context("one")?, both.find("\r\n\r\n/2").context("two")?);
    assert!(one < two, "{both}");
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_dialled_is_replaced_also_for_a_post() -> Result<()> {
    let pair = Pair::new([true, true]).await?;
    let app = says(&pair.pods[1], HTTP, "alive").await?;
    let (_mesh, pods, client) = pair.start("").await?;
    let dead = pods[0].ztunnel.as_ref().context("in the mesh")?;
    let mut sent = 0;
    while dead.seen().is_empty() {
        assert!(sent < 100, "the dead endpoint is never chosen");
        let post = Request::post("/p").header("host", "app").body(full("once"))?;
        assert_eq!(client.send(post).await?.text(), "alive");
        sent += 1;
    }
    let bodies: Vec<_> = app.seen().iter().map(|seen| seen.body.clone()).collect();
    assert_eq!(bodies, vec![Bytes::from("once"); sent], "each came once and whole");
    Ok(())
}

#[tokio::test]
async fn a_failing_endpoint_is_left_alone_and_comes_back() -> Result<()> {
    let pair = Pair::new([true, true]).await?;
    let _alive = says(&pair.pods[1], HTTP, "alive").await?;
    let (_mesh, pods, client) = pair.start("ejection_failures: 3\nejection_time: 2000\n").await?;
    let dead = pods[0].ztunnel.as_ref().context("in the mesh")?;
    let mut sent = 0;
    while dead.seen().len() < 3 {
        assert!(sent < 200, "the dead endpoint is not chosen: {sent}");
        assert_eq!(get(&client, "/").await?.text(), "alive");
        sent += 1;
    }
    let ejected = Instant::now();
    for _ in 0..30 {
        assert_eq!(get(&client, "/").await?.text(), "alive");
    }
    if ejected.elapsed() < Duration::from_millis(1500) {
        assert_eq!(dead.seen().len(), 3, "an endpoint that failed three times in a row is left alone");
    }
    let _recovered = says(&pods[0], HTTP, "recovered").await?;
    wait::until_async("the endpoint is tried again", async || {
        Ok((get(&client, "/").await?.text() == "recovered").then_some(()))
    })
    .await?;
    assert!(ejected.elapsed() >= Duration::from_millis(1800), "only after {:?}", ejected.elapsed());
    Ok(())
}

/// Reads whole request heads, counts them and breaks the connection without an answer.
struct Breaking {
    heads: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Breaking {
    async fn start(pod: &Pod) -> Result<Self> {
        let app = Application::start(pod.port(HTTP)).await?;
        let heads = Arc::new(AtomicUsize::new(0));
        let counter = heads.clone();
        let task = tokio::spawn(async move {
            while let Ok(tcp) = app.accepted().await {
                let _ = break_after_head(tcp, &counter).await;
            }
        });
        Ok(Self { heads, task: task.abort_handle() })
    }

    fn heads(&self) -> usize {
        self.heads.load(Ordering::SeqCst)
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn break_after_head(mut tcp: TcpStream, heads: &AtomicUsize) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await?);
    }
    heads.fetch_add(1, Ordering::SeqCst);
    abort(tcp)
}

#[tokio::test]
async fn a_post_that_may_have_been_read_is_never_sent_again() -> Result<()> {
    let pair = Pair::new([true, false]).await?;
    let apps = [Breaking::start(&pair.pods[0]).await?, Breaking::start(&pair.pods[1]).await?];
    let (mesh, _pods, client) = pair.start("ejection_failures: 1000\n").await?;
    for n in 1..=10 {
        let post = Request::post("/p").header("host", "app").body(full("once"))?;
        assert_eq!(client.send(post).await?.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(apps[0].heads() + apps[1].heads(), n, "a POST reached an application twice");
    }
    let line = mesh.portcullis.logged("a POST", |line| line["method"] == "POST").await?;
    assert_eq!(line["response_flags"], "UC", "{line}");
    assert_eq!(get(&client, "/").await?.status, StatusCode::SERVICE_UNAVAILABLE);
    let tries = apps[0].heads() + apps[1].heads() - 10;
    assert!((2..=3).contains(&tries), "a GET without a body is safe to repeat, and was tried {tries} times");
    Ok(())
}

#[tokio::test]
async fn beyond_the_request_limit_of_an_endpoint_the_answer_is_503_overloaded() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let raw_app = Application::start(single.pod.port(RAW)).await?;
    let running = single.start_with_settings("endpoint_requests: 1\n").await?;
    let first = client(&running).await?;
    let mut held = Box::pin(get(&first, "/first"));
    let tcp = tokio::select! {
        tcp = app.accepted() => tcp?,
        answered = &mut held => panic!("nobody answered, but {answered:?}"),
    };
    assert_eq!(get(&client(&running).await?, "/second").await?.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = running.mesh.portcullis.logged("the second", |line| line["path"] == "/second").await?;
    assert_eq!(line["response_flags"], "UO", "{line}");
    answer(tcp, "done").await?;
    assert_eq!(held.await?.text(), "done");
    let (tunnel, tcp) = tokio::join!(running.tunnel(RAW), raw_app.accepted());
    let (_tunnel, _tcp) = (tunnel?, tcp?);
    let refused = portcullis_tests::ztunnel::Refused::status_of(running.tunnel(RAW).await);
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE, "streams are counted like requests");
    Ok(())
}

#[tokio::test]
async fn beyond_the_connection_limit_of_an_endpoint_the_answer_is_503_overloaded() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let running = single.start_with_settings("endpoint_connections: 1\n").await?;
    let first = client(&running).await?;
    let mut held = Box::pin(get(&first, "/first"));
    let tcp = tokio::select! {
        tcp = app.accepted() => tcp?,
        answered = &mut held => panic!("nobody answered, but {answered:?}"),
    };
    assert_eq!(get(&client(&running).await?, "/second").await?.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = running.mesh.portcullis.logged("the second", |line| line["path"] == "/second").await?;
    assert_eq!(line["response_flags"], "UO", "{line}");
    answer(tcp, "done").await?;
    assert_eq!(held.await?.text(), "done");
    Ok(())
}

async fn answer(mut tcp: TcpStream, text: &str) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await?);
    }
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
    tcp.write_all(head.as_bytes()).await?;
    Ok(tcp.write_all(text.as_bytes()).await?)
}

#[tokio::test]
async fn a_service_without_endpoints_is_503_and_says_so_in_the_log() -> Result<()> {
    let mut setup = Setup::new()?;
    let service = setup.service("app", &[Port::new("web", HTTP).speaking("http")])?;
    let mesh = setup.start().await?;
    let client = Client::http1(mesh.peer("agents", "bot")?.connect(&service.authority(HTTP)).await?).await?;
    let reply = get(&client, "/").await?;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (503, "no healthy upstream"));
    let line = mesh.portcullis.logged("the request", |line| line["kind"] == "request").await?;
    assert_eq!(line["response_flags"], "UH", "{line}");
    Ok(())
}

#[tokio::test]
async fn methods_with_their_own_framing_are_answered_right() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Upstream::start(single.pod.port(HTTP), |seen| match seen.uri.path() {
        "/none" => upstream::text(StatusCode::NO_CONTENT, ""),
        _ => upstream::text(StatusCode::OK, "body"),
    })
    .await?;
    let running = single.start().await?;
    let client = client(&running).await?;
    let head = client.send(Request::head("/x").header("host", "app").body(empty())?).await?;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.headers["content-length"], "4");
    assert_eq!(get(&client, "/none").await?.status, StatusCode::NO_CONTENT);
    let options = Request::builder().method(Method::OPTIONS).uri("/o").header("host", "app").body(empty())?;
    assert_eq!(client.send(options).await?.text(), "body");
    assert_eq!(app.connections(), 1, "no answer left the connection in doubt");
    Ok(())
}

/// A refused stream was not processed, so that even a POST may be sent again.
#[tokio::test]
async fn goaway_of_an_endpoint_costs_no_request() -> Result<()> {
    let single = Single::new(true).await?;
    let app = says(&single.pod, HTTP, "hi").await?;
    let running = single.start().await?;
    let client = client(&running).await?;
    let ztunnel = running.pod.ztunnel.as_ref().context("in the mesh")?;
    for n in 0..10 {
        if n % 3 == 0 {
            ztunnel.goaway();
        }
        let post = Request::post("/p").header("host", "app").body(full("once"))?;
        assert_eq!(client.send(post).await?.status, 200, "request {n}");
    }
    assert_eq!(app.seen().len(), 10);
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_never_finished_is_not_held_back() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let running = single.start().await?;
    let client = client(&running).await?;
    let (sender, body) = streamed();
    let request = Request::post("/stream").header("host", "app").body(body)?;
    let both = async {
        let mut tcp = app.accepted().await?;
        sender.send(Frame::data(Bytes::from_static(b"first"))).await?;
        let mut seen = Vec::new();
        while !seen.ends_with(b"first\r\n") {
            seen.push(wait::within("the first part", tcp.read_u8()).await??);
        }
        // The answer begins before the request has ended.
        tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await?;
        anyhow::Ok(tcp)
    };
    let (response, tcp) = tokio::join!(client.open(request), both);
    let (mut body, mut tcp) = (response?.into_body(), tcp?);
    let frame = wait::within("the first part", body.frame()).await?.context("a frame")??;
    assert_eq!(frame.into_data().unwrap_or_default(), "one");
    sender.send(Frame::data(Bytes::from_static(b"second"))).await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"second\r\n") {
        seen.push(wait::within("the second part", tcp.read_u8()).await??);
    }
    Ok(())
}

/// Names of the log's fields are a contract with operators.
#[tokio::test]
async fn a_request_is_one_line_of_the_access_log() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("readers", "app", "ALLOW", "- from: [{source: {serviceAccounts: [agents/bot]}}]")?;
    let _app = says(&single.pod, HTTP, "hello").await?;
    let running = single.start().await?;
    let client = client(&running).await?;
    let request = Request::post("/path?q=1").header("host", "app.tools").header("user-agent", "tester/1");
    client.send(request.body(full("body"))?).await?;
    get(&client, "/second").await?;
    let line = running.mesh.portcullis.logged("the request", |line| line["method"] == "POST").await?;
    let expected = json!({
        "kind": "request",
        "source_principal": "spiffe://cluster.local/ns/agents/sa/bot",
        "source_namespace": "agents",
        "destination_service": "app.tools.svc.cluster.local",
        "destination_port": HTTP,
        "destination_principal": "spiffe://cluster.local/ns/tools/sa/app",
        "destination_workload": running.pod.name,
        "upstream_host": running.pod.port(HTTP).to_string(),
        "method": "POST",
        "path": "/path?q=1",
        "authority": "app.tools",
        "protocol": "HTTP/1.1",
        "user_agent": "tester/1",
        "response_code": 200,
        "response_flags": "-",
        "bytes_received": 4,
        "bytes_sent": 5,
        "decision": "allow",
        "policy_rule": "ns[tools]-policy[readers]-rule[0]",
        "route_name": "default",
        "generation": 1,
    });
    assert_has(&line, &expected);
    for field in ["start_time", "source_address", "duration_ms", "x_request_id"] {
        assert!(line.get(field).is_some(), "{field} in {line}");
    }
    running.mesh.portcullis.logged("the second", |line| line["path"] == "/second").await?;
    assert_eq!(running.mesh.portcullis.access_log().json().len(), 2, "one line each, and the tunnel is none");
    Ok(())
}

/// Addresses are reused: a name is told only where the certificate says the same.
#[tokio::test]
async fn the_source_workload_is_told_where_address_and_certificate_agree() -> Result<()> {
    let mut single = Single::new(true).await?;
    let caller = single.setup.pod("caller", false).await?;
    let _app = says(&single.pod, HTTP, "hello").await?;
    let running = single.start().await?;
    for (namespace, account, path) in [("tools", "caller", "/agree"), ("agents", "bot", "/differ")] {
        let peer = running.mesh.peer(namespace, account)?.from_address(caller.address);
        let client = Client::http1(peer.connect(&running.service.authority(HTTP)).await?).await?;
        get(&client, path).await?;
    }
    let agree = running.mesh.portcullis.logged("agree", |line| line["path"] == "/agree").await?;
    assert_eq!(agree["source_workload"], caller.name.as_str(), "{agree}");
    let differ = running.mesh.portcullis.logged("differ", |line| line["path"] == "/differ").await?;
    assert_eq!(differ.get("source_workload"), None, "{differ}");
    assert_eq!(differ["source_principal"], "spiffe://cluster.local/ns/agents/sa/bot", "{differ}");
    Ok(())
}

#[tokio::test]
async fn an_opaque_stream_is_one_line_of_the_access_log() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("readers", "app", "ALLOW", "- from: [{source: {namespaces: [agents]}}]")?;
    let _echo = upstream::Echo::start(single.pod.port(RAW), b"hello").await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(RAW).await?;
    tunnel.write_all(b"bye").await?;
    tunnel.shutdown().await?;
    let mut heard = Vec::new();
    wait::within("the end", tunnel.read_to_end(&mut heard)).await??;
    let line = running.mesh.portcullis.logged("the stream", |line| line["kind"] == "stream").await?;
    let expected = json!({
        "source_principal": "spiffe://cluster.local/ns/agents/sa/bot",
        "destination_service": "app.tools.svc.cluster.local",
        "destination_port": RAW,
        "destination_principal": "spiffe://cluster.local/ns/tools/sa/app",
        "upstream_host": running.pod.port(RAW).to_string(),
        "response_code": 200,
        "response_flags": "-",
        "bytes_received": 3,
        "bytes_sent": 8,
        "decision": "allow",
        "policy_rule": "ns[tools]-policy[readers]-rule[0]",
    });
    assert_has(&line, &expected);
    Ok(())
}

#[track_caller]
fn assert_has(line: &Value, expected: &Value) {
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(line.get(field), Some(value), "{field} in {line:#}");
    }
}
