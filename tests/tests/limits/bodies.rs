//! Bounds of what is read: bodies that are judged, lists that are filtered, bodies that are kept.

use anyhow::Result;
use http::StatusCode;
use portcullis_tests::http::{Client, full, post_json, raw};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Seen, Upstream};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

/// `agents/bot` may call one tool, so every body is judged and every list filtered.
const RULES: &str = r#"
- to: [{operation: {paths: ["/mcp"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha]}]
"#;

/// An MCP server behind the Service, under [`RULES`].
async fn judged(
    settings: &str,
    script: impl Fn(&Seen) -> http::Response<portcullis_tests::http::Body> + Send + Sync + 'static,
) -> Result<(Running, Upstream)> {
    let single = Single::new(true).await?;
    single.setup.policy("rules", "app", "ALLOW", RULES)?;
    let app = Upstream::start(single.pod.port(HTTP), script).await?;
    Ok((single.start_with_settings(settings).await?, app))
}

fn ok(seen: &Seen) -> http::Response<portcullis_tests::http::Body> {
    upstream::result(seen, &json!({"ran": true}))
}

/// The head of a call and its body's first byte.
fn begun(length: usize) -> String {
    format!(
        "POST /mcp HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nContent-Length: {length}\r\n\r\n{{"
    )
}

fn call(padding: usize) -> serde_json::Value {
    let arguments = json!({"text": "x".repeat(padding)});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "alpha", "arguments": arguments}})
}

pub(crate) async fn a_body_that_is_too_large_to_judge_is_413() -> Result<Running> {
    let (running, app) = judged("inspected_body: 1024\n", ok).await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    assert_eq!(client.send(post_json("/mcp", "app", &call(100))?).await?.status, StatusCode::OK);
    app.forget();
    let reply = client.send(post_json("/mcp", "app", &call(2000))?).await?;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    app.saw_nothing();
    Ok(running)
}

pub(crate) async fn more_bodies_than_may_be_held_are_503() -> Result<Running> {
    let settings = "inspected_body: 1048576\ninspected_total: 1048576\n";
    let (running, app) = judged(settings, ok).await?;
    let mut holds = running.tunnel(HTTP).await?;
    holds.write_all(begun(1 << 20).as_bytes()).await?;
    running.mesh.portcullis.metric_reaches("portcullis_inspected_bytes", &[], 1_048_576.0).await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let reply = client.send(post_json("/mcp", "app", &call(100))?).await?;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    app.saw_nothing();
    Ok(running)
}

pub(crate) async fn a_body_that_does_not_come_is_408() -> Result<Running> {
    let (running, app) = judged("inspection_timeout: 200\n", ok).await?;
    let reply = raw(&mut running.tunnel(HTTP).await?, &[begun(100).as_bytes()]).await?;
    assert_eq!(reply.status(), 408);
    app.saw_nothing();
    Ok(running)
}

/// Tools that together are more than 1024 bytes.
fn tools() -> serde_json::Value {
    let tools: Vec<_> = (0..50).map(|n| json!({"name": format!("secret-{n}"), "inputSchema": {}})).collect();
    json!({"tools": tools})
}

fn list() -> serde_json::Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
}

pub(crate) async fn a_list_that_is_too_large_is_withheld() -> Result<Running> {
    let script = |seen: &Seen| upstream::result(seen, &tools());
    let (running, _app) = judged("screened_list: 1024\n", script).await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let reply = client.send(post_json("/mcp", "app", &list())?).await?;
    assert!(reply.text().contains("error") && !reply.text().contains("secret"), "{reply:?}");
    Ok(running)
}

pub(crate) async fn an_event_that_is_too_large_is_withheld() -> Result<Running> {
    let script = |_: &Seen| {
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": tools()});
        upstream::events(&[&format!("data: {answer}\n\n")])
    };
    let (running, _app) = judged("sse_event: 1024\nscreened_list: 1024\n", script).await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let broken = client.send(post_json("/mcp", "app", &list())?).await;
    assert!(broken.is_err(), "a stream that breaks off, never a clean end: {broken:?}");
    Ok(running)
}

pub(crate) async fn a_body_that_is_too_large_to_keep_is_not_sent_again() -> Result<Running> {
    let single = Single::new(true).await?;
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{namespace: {NAMESPACE}, name: again}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: app}}]\n  rules:\n  \
         - backendRefs: [{{name: app, port: {HTTP}}}]\n    retry: {{codes: [503], attempts: 2, backoff: 1ms}}\n"
    );
    single.setup.manifests.write("route", &[route])?;
    let app =
        Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::SERVICE_UNAVAILABLE, "no"))
            .await?;
    let running = single.start_with_settings("retry_replay: 1024\nejection_failures: 100\n").await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    for (bytes, times) in [(512, 3), (4096, 1)] {
        app.forget();
        let request = http::Request::post("/").header("host", "app").body(full(vec![b'x'; bytes]))?;
        assert_eq!(client.send(request).await?.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(app.seen().len(), times, "{bytes} bytes");
    }
    Ok(running)
}

/// The first body runs at the bound, the second is refused beyond it.
async fn bounded(settings: &str, bodies: [String; 2]) -> Result<Running> {
    let (running, app) = judged(settings, |_| upstream::text(StatusCode::OK, "{}")).await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    for (body, status, seen) in [(&bodies[0], 200, 1), (&bodies[1], 400, 0)] {
        app.forget();
        let head = begun(body.len());
        let head = head.strip_suffix('{').unwrap_or(&head);
        let reply = raw(&mut tunnel, &[head.as_bytes(), body.as_bytes()]).await?;
        assert_eq!((reply.status(), app.seen().len()), (status, seen), "{body}: {reply:?}");
    }
    Ok(running)
}

/// A call with these arguments, as text.
fn text(name: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#
    )
}

pub(crate) async fn a_body_that_is_too_deep_is_400() -> Result<Running> {
    let bodies = [r#"{"a":[[]]}"#, r#"{"a":[[[]]]}"#].map(|arguments| text("alpha", arguments));
    bounded("json_depth: 5\n", bodies).await
}

pub(crate) async fn a_body_of_too_many_members_is_400() -> Result<Running> {
    // Six members stand before the elements, with that of the array itself seven.
    let of = |count: usize| text("alpha", &format!(r#"{{"a":[{}]}}"#, vec!["1"; count].join(",")));
    bounded("json_members: 20\n", [of(13), of(14)]).await
}

pub(crate) async fn a_key_that_is_too_long_is_400() -> Result<Running> {
    let of = |length: usize| text("alpha", &format!(r#"{{"{}":1}}"#, "k".repeat(length)));
    bounded("json_key: 64\n", [of(64), of(65)]).await
}

pub(crate) async fn a_batch_that_is_too_long_is_400() -> Result<Running> {
    let of = |count: usize| {
        let pings = (0..count).map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#));
        format!("[{}]", pings.collect::<Vec<_>>().join(","))
    };
    bounded("batch_messages: 3\n", [of(3), of(4)]).await
}

pub(crate) async fn a_name_that_is_too_long_is_400() -> Result<Running> {
    bounded("name_length: 5\n", [text("alpha", "{}"), text("alphas", "{}")]).await
}

pub(crate) async fn too_many_parameters_are_431() -> Result<Running> {
    let (running, app) = judged("parameter_headers: 2\n", ok).await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    for (count, status) in [(2, StatusCode::OK), (3, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)] {
        app.forget();
        let mut request = post_json("/mcp", "app", &call(1))?;
        for n in 0..count {
            let name = http::HeaderName::try_from(format!("mcp-param-{n}"))?;
            request.headers_mut().insert(name, http::HeaderValue::from_static("x"));
        }
        assert_eq!(client.send(request).await?.status, status);
        assert_eq!(app.seen().len(), usize::from(status == StatusCode::OK));
    }
    Ok(running)
}

pub(crate) async fn one_more_stream_of_an_identity_is_429() -> Result<Running> {
    let kept = std::sync::Mutex::new(Vec::new());
    let script = move |_: &Seen| {
        let (sender, stream) = upstream::open_events();
        kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(sender);
        stream
    };
    let (running, _app) = judged("peer_event_streams: 1\n", script).await?;
    let get = || http::Request::get("/mcp").header("host", "app").header("accept", "text/event-stream");
    let first = Client::http1(running.tunnel(HTTP).await?).await?;
    let held = first.open(get().body(portcullis_tests::http::empty())?).await?;
    let second = Client::http1(running.tunnel(HTTP).await?).await?;
    let reply = second.send(get().body(portcullis_tests::http::empty())?).await?;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    drop((held, first));
    portcullis_tests::wait::until_async("its place is free again", async || {
        let again = Client::http1(running.tunnel(HTTP).await?).await?;
        let answer = again.open(get().body(portcullis_tests::http::empty())?).await?;
        Ok((answer.status() == StatusCode::OK).then_some(()))
    })
    .await?;
    Ok(running)
}

pub(crate) async fn a_list_of_too_many_entries_is_withheld() -> Result<Running> {
    let script = |seen: &Seen| upstream::result(seen, &tools());
    let (running, _app) = judged("list_entries: 49\n", script).await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let reply = client.send(post_json("/mcp", "app", &list())?).await?;
    assert!(reply.text().contains("error") && !reply.text().contains("secret"), "{reply:?}");
    Ok(running)
}
