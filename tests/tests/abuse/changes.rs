//! A policy that changes holds for what is open already: the next request, and the streams that still flow.

use crate::stage::{PORT, RULES, Scene, Stage, call};
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Frame;
use portcullis_tests::http::{Body, Client, Events, empty, full};
use portcullis_tests::upstream::{self, Seen};
use portcullis_tests::wait;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;

/// How long a stream may outlive the configuration that denies it.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The writing ends of the streams that the server has open, by the name that their client gave them.
type Open = Arc<Mutex<HashMap<String, Sender<Frame<Bytes>>>>>;

/// A waypoint before a server that answers with open event streams where the request has a name for one.
async fn streaming() -> Result<(Stage, Open)> {
    let open = Open::default();
    let kept = open.clone();
    let script = move |seen: &Seen| -> Response<Body> {
        let Some(name) = seen.headers.get("x-stream").and_then(|name| name.to_str().ok()) else {
            return crate::stage::server(seen);
        };
        let (sender, response) = upstream::open_events();
        kept.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), sender);
        response
    };
    Ok((Scene::new(script).await?.start(&[]).await?, open))
}

/// The server writes one event on a stream.
async fn write(open: &Open, name: &str) -> Result<()> {
    let sender =
        open.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().context("no such stream")?;
    Ok(sender.send(Frame::data(Bytes::from_static(b"data: {}\n\n"))).await?)
}

/// Reads the next event that the server wrote.
async fn read(events: &mut Events) -> Result<()> {
    while events.next().await?.context("the stream ended")?.data.contains("list_changed") {}
    Ok(())
}

/// Opens a stream by this request and reads its first event.
async fn opened(client: &Client, open: &Open, name: &str, method: Method, body: Body) -> Result<Events> {
    let request = Request::builder().method(method.clone()).uri("http://app/mcp").header("x-stream", name);
    let request = request.header("accept", "application/json, text/event-stream");
    let request =
        if method == Method::POST { request.header("content-type", "application/json") } else { request };
    let mut events = Events::of(client.open(request.body(body)?).await?);
    write(open, name).await?;
    read(&mut events).await?;
    Ok(events)
}

/// The text of the rules with another set of tools.
fn tools(names: &str) -> String {
    RULES.replace("[alpha, get_x, \"é\"]", names)
}

#[tokio::test]
async fn the_next_request_of_an_open_connection_is_judged_by_the_new_policy() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let client = Client::http1(peer.stream().await?).await?;
    let ask = async |tool: &str| -> Result<bool> {
        let request = Request::post("/mcp").header("host", "app").header("content-type", "application/json");
        let reply = client.send(request.body(full(call("1", tool)))?).await?.json()?;
        Ok(reply.get("result").is_some())
    };
    assert!(ask("alpha").await? && !ask("beta").await?);
    stage.mesh.change_policy("rules", "app", "ALLOW", &tools("[beta]")).await?;
    assert!(!ask("alpha").await? && ask("beta").await?);
    stage.mesh.change_policy("rules", "app", "ALLOW", RULES).await?;
    assert!(ask("alpha").await? && !ask("beta").await?);
    stage
        .mesh
        .change_policy(
            "also",
            "app",
            "DENY",
            "- when: [{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [alpha]}]",
        )
        .await?;
    assert!(!ask("alpha").await?);
    Ok(())
}

#[tokio::test]
async fn streams_that_are_no_longer_allowed_break_and_others_flow_on() -> Result<()> {
    let (stage, open) = streaming().await?;
    let (bot, reader) = (stage.peer("bot")?, stage.peer("reader")?);
    // HTTP/2, so that one connection carries the streams that break and those that flow on.
    let of_bot = Client::http2(bot.stream().await?).await?;
    let of_reader = Client::http2(reader.stream().await?).await?;
    let mut calling = opened(&of_bot, &open, "call", Method::POST, full(call("1", "alpha"))).await?;
    let mut other_call = opened(&of_bot, &open, "other", Method::POST, full(call("2", "get_x"))).await?;
    let mut listening = opened(&of_bot, &open, "stream", Method::GET, empty()).await?;
    let mut of_another = opened(&of_reader, &open, "reader", Method::GET, empty()).await?;

    stage.mesh.change_policy("rules", "app", "ALLOW", &tools("[get_x]")).await?;
    breaks(&mut calling).await.context("the call of a tool that is denied now")?;
    for (name, events) in
        [("other", &mut other_call), ("stream", &mut listening), ("reader", &mut of_another)]
    {
        write(&open, name).await?;
        read(events).await.context(name)?;
    }

    let only_reader = "- from: [{source: {serviceAccounts: [agents/reader]}}]\n  when: [{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [beta]}]";
    stage.mesh.change_policy("rules", "app", "ALLOW", only_reader).await?;
    breaks(&mut listening).await.context("the stream of a peer without access")?;
    breaks(&mut other_call).await.context("the call of a peer without access")?;
    write(&open, "reader").await?;
    read(&mut of_another).await?;
    let gone =
        open.lock().unwrap_or_else(PoisonError::into_inner).get("stream").cloned().context("opened")?;
    wait::within("the server to learn of it", gone.closed()).await
}

/// The next event tells, at once, that this list has changed.
async fn tells_of(events: &mut Events, list: &str, params: Option<Value>) -> Result<()> {
    let (waiting, event) = (Instant::now(), events.next().await?.context("the stream ended")?);
    let mut want = json!({"jsonrpc": "2.0", "method": format!("notifications/{list}/list_changed")});
    if let Some(params) = params {
        want["params"] = params;
    }
    assert_eq!(serde_json::from_str::<Value>(&event.data)?, want);
    anyhow::ensure!(waiting.elapsed() < AT_ONCE, "it took {:?}", waiting.elapsed());
    Ok(())
}

/// A stream that stays allowed tells its client to list again. Policies of others are nothing to it.
#[tokio::test]
async fn a_servers_own_stream_tells_that_lists_have_changed() -> Result<()> {
    let (stage, open) = streaming().await?;
    let client = Client::http2(stage.peer("bot")?.stream().await?).await?;
    let mut listening = opened(&client, &open, "stream", Method::GET, empty()).await?;
    let mut calling = opened(&client, &open, "call", Method::POST, full(call("1", "alpha"))).await?;
    for names in ["[alpha, get_x]", "[alpha]"] {
        stage.mesh.change_policy("rules", "app", "ALLOW", &tools(names)).await?;
        for list in ["tools", "prompts", "resources"] {
            tells_of(&mut listening, list, None).await?;
        }
    }
    stage.mesh.change_policy("elsewhere", "nobodys", "ALLOW", RULES).await?;
    for (name, events) in [("stream", &mut listening), ("call", &mut calling)] {
        write(&open, name).await?;
        let event = events.next().await?.context("the stream ended")?;
        assert_eq!(event.data, "{}", "{name} is told what its server says, and nothing else");
    }
    Ok(())
}

/// A subscription (2026-07-28) tells what its server has promised, under the subscription's name.
#[tokio::test]
async fn a_subscription_tells_what_was_acknowledged() -> Result<()> {
    let (stage, open) = streaming().await?;
    let client = Client::http2(stage.peer("bot")?.stream().await?).await?;
    let filter = json!({"toolsListChanged": true, "promptsListChanged": true});
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"_meta": meta, "notifications": filter});
    let body = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params});
    let request = Request::post("http://app/mcp")
        .header("x-stream", "listen")
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "subscriptions/listen");
    let mut events = Events::of(client.open(request.body(full(body.to_string()))?).await?);
    let named = json!({"_meta": {"io.modelcontextprotocol/subscriptionId": "l"}});
    let mut acknowledged = named.clone();
    acknowledged["notifications"] = json!({"toolsListChanged": true});
    let method = "notifications/subscriptions/acknowledged";
    let said = json!({"jsonrpc": "2.0", "method": method, "params": acknowledged});
    let sender =
        open.lock().unwrap_or_else(PoisonError::into_inner).get("listen").cloned().context("no stream")?;
    sender.send(Frame::data(format!("data: {said}\n\n").into())).await?;
    assert_eq!(serde_json::from_str::<Value>(&events.next().await?.context("ended")?.data)?, said);
    for names in ["[alpha, get_x]", "[alpha]"] {
        stage.mesh.change_policy("rules", "app", "ALLOW", &tools(names)).await?;
        tells_of(&mut events, "tools", Some(named.clone())).await?;
    }
    Ok(())
}

/// HTTP/1.1 can say that an answer broke off only by ending the connection in mid-body.
#[tokio::test]
async fn a_stream_on_http1_breaks_too() -> Result<()> {
    let (stage, open) = streaming().await?;
    let peer = stage.peer("bot")?;
    let client = Client::http1(peer.stream().await?).await?;
    let request = Request::get("/mcp")
        .header("host", "app")
        .header("x-stream", "one")
        .header("accept", "text/event-stream");
    let mut events = Events::of(client.open(request.body(empty())?).await?);
    write(&open, "one").await?;
    read(&mut events).await?;
    stage.mesh.change_policy("rules", "app", "ALLOW", "- from: [{source: {namespaces: [nobodys]}}]").await?;
    breaks(&mut events).await
}

/// The stream breaks within a second of the new configuration. A clean end would tell the client that all was said.
async fn breaks(events: &mut Events) -> Result<()> {
    let applied = Instant::now();
    let ended = loop {
        match events.next().await {
            Ok(Some(event)) if event.data.contains("list_changed") => {}
            ended => break ended,
        }
    };
    let took = applied.elapsed();
    anyhow::ensure!(ended.is_err(), "a clean end or another event: {ended:?}");
    anyhow::ensure!(took < AT_ONCE, "it took {took:?}");
    Ok(())
}

/// An edit that can't be read changes nothing but the log and the count of faults.
#[tokio::test]
async fn an_invalid_edit_keeps_the_last_good_state_and_is_named() -> Result<()> {
    let policy = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: rules, namespace: tools}}\nspec:\n{spec}"
        )
    };
    let target = "  targetRefs: [{group: \"\", kind: Service, name: app}]\n";
    let open_to_all = "  action: ALLOW\n  rules: [{}]\n";
    for (what, documents, document, field) in [
        (
            "an unknown field",
            vec![policy(&format!("{target}{open_to_all}  exceptFor: [x]\n"))],
            1,
            "spec.exceptFor",
        ),
        (
            "an unknown action",
            vec![policy(&format!("{target}  action: PERMIT\n  rules: [{{}}]\n"))],
            1,
            "spec.action",
        ),
        (
            "a wrong type, in the second document",
            vec![
                "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: x, namespace: tools}\n".to_owned(),
                policy(&format!("{target}  action: ALLOW\n  rules: {{}}\n")),
            ],
            2,
            "spec.rules",
        ),
        (
            "an unknown key in a condition",
            vec![policy(&format!(
                "{target}  action: ALLOW\n  rules: [{{when: [{{key: request.nothing, values: [x]}}]}}]\n"
            ))],
            1,
            "spec.rules[0].when[0].key",
        ),
    ] {
        let stage = Stage::start().await?;
        let peer = stage.peer("bot")?;
        let client = Client::http1(peer.stream().await?).await?;
        stage.mesh.setup.manifests.write("policy-rules", &documents)?;
        let named = format!("policy-rules.yaml:{document} AuthorizationPolicy tools/rules {field}:");
        let said = |line: &String| (line.contains("ERROR") && line.contains(&named)).then_some(());
        stage.mesh.portcullis.events().find(&named, said).await?;
        stage.mesh.portcullis.metric_reaches("portcullis_config_errors", &[], 1.0).await?;
        for (tool, allowed) in [("alpha", true), ("beta", false)] {
            let request =
                Request::post("/mcp").header("host", "app").header("content-type", "application/json");
            let reply = client.send(request.body(full(call("1", tool)))?).await?.json()?;
            assert_eq!(reply.get("result").is_some(), allowed, "{what}: {tool}");
        }
    }
    Ok(())
}

/// Also a file that is no YAML at all: what it held last stays.
#[tokio::test]
async fn a_file_that_is_no_yaml_keeps_what_it_held() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    stage.mesh.setup.manifests.write("policy-rules", &["spec: [{\n".to_owned()])?;
    stage
        .mesh
        .portcullis
        .events()
        .find("the fault", |line| line.contains("policy-rules.yaml:1: ").then_some(()))
        .await?;
    let client = Client::http1(peer.outbound.connect(&stage.service.authority(PORT)).await?).await?;
    for (tool, allowed) in [("alpha", true), ("beta", false)] {
        let request = Request::post("/mcp").header("host", "app").header("content-type", "application/json");
        let reply = client.send(request.body(full(call("1", tool)))?).await?.json()?;
        assert_eq!(reply.get("result").is_some(), allowed, "{tool}");
    }
    Ok(())
}
