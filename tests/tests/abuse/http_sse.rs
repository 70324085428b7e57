//! HTTP+SSE, the transport of 2024-11-05: two endpoints, a session in the query, and answers on the stream only.

use crate::stage::{PORT, Scene, Stage};
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Frame;
use portcullis_tests::http::{Body, Client, Events, Reply, empty, full};
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::upstream::{self, Seen};
use portcullis_tests::ztunnel::Outbound;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::Sender;

/// Both endpoints, for two workloads with the same rights.
const RULES: &str = r#"
- from: [{source: {serviceAccounts: [agents/bot, agents/twin]}}]
  to: [{operation: {paths: ["/sse", "/messages"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha]}]
"#;

/// Streams by the server's own session ids.
type Streams = Arc<Mutex<HashMap<String, Sender<Frame<Bytes>>>>>;

/// A server of that transport; `endpoint` makes the URI of a session.
fn server(endpoint: impl Fn(&str) -> String + Send + Sync + 'static) -> impl Fn(&Seen) -> Response<Body> {
    let streams = Streams::default();
    move |seen: &Seen| {
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.method == Method::GET {
            let (sender, response) = upstream::open_events();
            let id = format!("servers-own-{}", streams.len());
            let said = format!("event: endpoint\ndata: {}\n\n", endpoint(&id));
            let _full = sender.try_send(Frame::data(said.into()));
            streams.insert(id, sender);
            return response;
        }
        let session = seen.uri.query().and_then(|query| query.split_once("ssion")?.1.split_once('='));
        match session.and_then(|(_, id)| streams.get(id.split('&').next()?)) {
            None => upstream::text(StatusCode::NOT_FOUND, "no such session"),
            Some(stream) => {
                if let Some(answer) = answer(&seen.json()) {
                    let _full =
                        stream.try_send(Frame::data(format!("event: message\ndata: {answer}\n\n").into()));
                }
                upstream::text(StatusCode::ACCEPTED, "Accepted")
            }
        }
    }
}

fn answer(message: &Value) -> Option<Value> {
    let id = message.get("id").filter(|_| message.get("method").is_some())?;
    let result = match message["method"].as_str() {
        Some("tools/list") => json!({"tools": [{"name": "alpha"}, {"name": "beta"}]}),
        Some("ping") => json!({}),
        method => json!({"ran": method}),
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

/// A client of that transport, with its tunnel.
struct Caller {
    client: Client,
    _outbound: Outbound,
}

impl Caller {
    async fn of(outbound: Outbound, stage: &Stage) -> Result<Self> {
        let stream = outbound.connect(&stage.service.authority(PORT)).await?;
        Ok(Self { client: Client::http2(stream).await?, _outbound: outbound })
    }

    /// Opens the stream, and returns the URI that it names first.
    async fn open(&self) -> Result<(Events, String)> {
        let request = Request::get("http://app/sse").header("accept", "text/event-stream");
        let mut events = Events::of(self.client.open(request.body(empty())?).await?);
        let first = events.next().await?.context("an endpoint")?;
        assert_eq!(first.name, "endpoint");
        Ok((events, first.data))
    }

    async fn post(&self, uri: &str, body: &Value) -> Result<Reply> {
        let request = Request::post(format!("http://app{uri}")).header("content-type", "application/json");
        self.client.send(request.body(full(body.to_string()))?).await
    }
}

fn call(id: &Value, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool}})
}

async fn next(events: &mut Events) -> Result<Value> {
    Ok(serde_json::from_str(&events.next().await?.context("an answer")?.data)?)
}

/// Lists are filtered, calls run, a refused call is told on the stream, and the session goes on.
async fn goes_on(poster: &Caller, events: &mut Events, uri: &str) -> Result<()> {
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(poster.post(uri, &list).await?.status, StatusCode::ACCEPTED);
    let tools = json!({"tools": [{"name": "alpha"}]});
    assert_eq!(next(events).await?, json!({"jsonrpc": "2.0", "id": 1, "result": tools}));
    for id in [json!(2), json!("2"), json!("\u{e9}\"\n")] {
        let reply = poster.post(uri, &call(&id, "beta")).await?;
        assert_eq!(reply.status, StatusCode::ACCEPTED);
        let error = json!({"code": -32602, "message": "Unknown tool: beta"});
        assert_eq!(next(events).await?, json!({"jsonrpc": "2.0", "id": id, "error": error}));
    }
    assert_eq!(poster.post(uri, &call(&json!(3), "alpha")).await?.status, StatusCode::ACCEPTED);
    let ran = json!({"ran": "tools/call"});
    assert_eq!(next(events).await?, json!({"jsonrpc": "2.0", "id": 3, "result": ran}));
    Ok(())
}

fn ran_beta(stage: &Stage) -> bool {
    stage.upstream.seen().iter().any(|seen| String::from_utf8_lossy(&seen.body).contains("beta"))
}

#[tokio::test]
async fn a_refusal_is_told_on_the_sessions_own_stream() -> Result<()> {
    let endpoints: [fn(&str) -> String; 4] = [
        |id| format!("/messages?sessionId={id}"),
        |id| format!("/messages?x=y&session_id={id}&z"),
        |id| format!("messages?session_id={id}"),
        |id| format!("http://app/messages?sessionId={id}"),
    ];
    for endpoint in endpoints {
        let stage = Scene::under(RULES, server(endpoint)).await?.start(&[]).await?;
        let bot = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
        let (mut events, uri) = bot.open().await?;
        assert!(!uri.contains("servers-own"), "{uri}");
        let uri = uri.strip_prefix("http://app").unwrap_or(&uri);
        goes_on(&bot, &mut events, &format!("/{}", uri.trim_start_matches('/'))).await?;
        assert!(!ran_beta(&stage), "a refused call reached the server");
        let refused = |line: &Value| line["decision"] == "deny" && line["mcp_name"] == "beta";
        let line = stage.mesh.portcullis.logged("the refusal", refused).await?;
        assert_eq!(
            (&line["response_code"], &line["response_code_details"]),
            (&json!(202), &json!("refused_on_stream")),
            "{line}"
        );
    }
    Ok(())
}

/// A session in a query belongs to who opened its stream, like any other.
#[tokio::test]
async fn a_stolen_or_forged_session_of_a_query_does_not_exist() -> Result<()> {
    let stage =
        Scene::under(RULES, server(|id| format!("/messages?sessionId={id}"))).await?.start(&[]).await?;
    let owner = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
    let thief = Caller::of(stage.mesh.peer("agents", "twin")?, &stage).await?;
    let (mut events, uri) = owner.open().await?;
    let before = stage.upstream.seen().len();
    let mut forged = uri.clone();
    forged.pop();
    let not_found = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;
    for (caller, uri) in [
        (&thief, uri.as_str()),
        (&owner, "/messages?sessionId=servers-own-0"),
        (&owner, &forged),
        (&owner, "/messages?%73ession_id=servers-own-0"),
        (&owner, "/messages?sessionId="),
    ] {
        for tool in ["alpha", "beta"] {
            let reply = caller.post(uri, &call(&json!(1), tool)).await?;
            assert_eq!((reply.status.as_u16(), reply.text().as_str()), (404, not_found), "{uri}");
        }
    }
    assert_eq!(stage.upstream.seen().len(), before, "no forgery reached the server");
    goes_on(&owner, &mut events, &uri).await
}

/// The refusal comes to the stream that another replica holds, and a restarted one serves the session on.
#[tokio::test]
async fn replicas_share_sessions_and_refusals() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let scene = Scene::under(RULES, server(|id| format!("/messages?sessionId={id}"))).await?;
    let run = keyed(scene.setup.run(), folder.path(), &[1])?;
    let stage = scene.start_with(run.clone()).await?;
    let other = Portcullis::start(&keyed(run, folder.path(), &[2, 1])?).await?;
    let here = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
    let (mut events, uri) = here.open().await?;
    let there = Caller::of(at(&stage, &other, "bot")?, &stage).await?;
    goes_on(&here, &mut events, &uri).await?;
    // The other replica seals with a newer key that this one does not know: it still opens what the old one sealed, and what
    // it seals itself waits until all know the new key.
    assert_eq!(there.post(&uri, &call(&json!(1), "alpha")).await?.status, StatusCode::ACCEPTED);
    assert_eq!(next(&mut events).await?["result"], json!({"ran": "tools/call"}));
    let (mut events, uri) = there.open().await?;
    goes_on(&there, &mut events, &uri).await?;
    drop(other);

    let other = Portcullis::start(&keyed(stage.mesh.setup.run(), folder.path(), &[1])?).await?;
    let there = Caller::of(at(&stage, &other, "bot")?, &stage).await?;
    let (mut events, uri) = here.open().await?;
    goes_on(&there, &mut events, &uri).await?;
    assert!(!ran_beta(&stage), "a refused call reached the server");
    Ok(())
}

fn keyed(run: Run, folder: &Path, keys: &[u8]) -> Result<Run> {
    let file = |byte: &u8| -> Result<PathBuf> {
        let path = folder.join(format!("key-{byte}"));
        std::fs::write(&path, [*byte; 32])?;
        Ok(path)
    };
    keys.iter().try_fold(run, |run, key| Ok(run.arg("--session-key", file(key)?)))
}

/// The same workload's way to another replica.
fn at(stage: &Stage, replica: &Portcullis, name: &str) -> Result<Outbound> {
    let ca = &stage.mesh.setup.ca;
    let svid = ca.svid(&ca.id("agents", name))?;
    Outbound::new(ca, &svid, replica.address("hbone")?, &stage.mesh.waypoint_id())
}

/// A URI that leads past the waypoint, or names no session that could be bound, is not shown: the stream breaks.
#[tokio::test]
async fn an_endpoint_that_leads_elsewhere_ends_its_stream() -> Result<()> {
    let endpoints: [fn(&str) -> String; 4] = [
        |id| format!("http://elsewhere/messages?sessionId={id}"),
        |id| format!("//elsewhere/messages?sessionId={id}"),
        |id| format!("/messages/{id}"),
        |id| format!("/messages?sid={id}"),
    ];
    for endpoint in endpoints {
        let stage = Scene::under(RULES, server(endpoint)).await?.start(&[]).await?;
        let bot = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
        assert!(bot.open().await.is_err(), "{}", endpoint("x"));
    }
    Ok(())
}

/// Who may do nothing learns no more than that, and notifications that are denied are nothing to tell of.
#[tokio::test]
async fn who_may_do_nothing_is_told_so_at_once() -> Result<()> {
    let stage =
        Scene::under(RULES, server(|id| format!("/messages?sessionId={id}"))).await?.start(&[]).await?;
    let nobody = Caller::of(stage.mesh.peer("agents", "nobody")?, &stage).await?;
    let request = Request::get("http://app/sse").header("accept", "text/event-stream");
    assert_eq!(nobody.client.send(request.body(empty())?).await?.status, StatusCode::FORBIDDEN);
    let reply = nobody.post("/messages?sessionId=x", &call(&json!(1), "alpha")).await?;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    stage.upstream.saw_nothing();
    let bot = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
    let (mut events, uri) = bot.open().await?;
    let notification = json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "beta"}});
    assert_eq!(bot.post(&uri, &notification).await?.status, StatusCode::ACCEPTED);
    goes_on(&bot, &mut events, &uri).await?;
    assert!(!ran_beta(&stage), "a refused notification reached the server");
    Ok(())
}
