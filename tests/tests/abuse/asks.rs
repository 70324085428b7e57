//! What a server asks of its clients: where policy forbids it, the client does not tell that it could, never sees the request,
//! and the server is answered in its place.

use crate::stage::{Peer, RULES, Scene, Stage};
use anyhow::{Context, Result, ensure};
use http::{HeaderValue, Method, Request, Response, header};
use portcullis_tests::http::{Body, Client, Reply, empty, full};
use portcullis_tests::upstream::{self, Seen};
use serde_json::{Value, json};

const NEW: &str = "2026-07-28";
const SESSION: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
/// What the server is to answer, in the request's own words.
const SAYS: &str = "x-says";

/// `bot` may be asked for nothing but to fill in a form, or to visit one host. `reader` is kept from sampling by the rule that
/// lets it call; `twin` may be asked for everything.
const DENY: &str = r#"
- from: [{source: {serviceAccounts: [agents/bot]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[server_request]", values: [sampling, roots]}]
- from: [{source: {serviceAccounts: [agents/bot]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[server_request.host]", values: ["*"], notValues: [pay.example]}]
"#;
const READER: &str = r#"
- from: [{source: {serviceAccounts: [agents/kept]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when:
  - {key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha]}
  - {key: "experimental.envoy.filters.http.mcp[server_request]", notValues: [sampling]}
"#;

/// Answers with what the request's header says: events, where it begins like one.
fn server(seen: &Seen) -> Response<Body> {
    let says = seen.headers.get(SAYS).and_then(|says| says.to_str().ok()).unwrap_or_default();
    let says = says.replace("\\n", "\n");
    let mut response = match (says.as_str(), seen.json()["method"].as_str()) {
        ("", None) => return upstream::accepted(),
        ("", Some(_)) => upstream::result(seen, &json!({"ran": true})),
        (says, _) if says.starts_with('{') || says.starts_with('[') => {
            let mut response = upstream::text(http::StatusCode::OK, says.to_owned());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        (says, _) => upstream::events(&[says]),
    };
    if seen.json()["method"] == "initialize" {
        response.headers_mut().insert("mcp-session-id", HeaderValue::from_static(SESSION));
    }
    response
}

async fn stage() -> Result<Stage> {
    let scene = Scene::under(&format!("{RULES}{READER}"), server).await?;
    scene.setup.policy("asks", "app", "DENY", DENY)?;
    scene.start(&[]).await
}

struct Caller {
    client: Client,
    session: Option<String>,
    _tunnel: Peer,
}

impl Caller {
    async fn of(stage: &Stage, name: &str) -> Result<Self> {
        let peer = stage.peer(name)?;
        let client = Client::http1(peer.stream().await?).await?;
        Ok(Self { client, session: None, _tunnel: peer })
    }

    async fn send(&self, method: Method, headers: &[(&str, &str)], body: &str) -> Result<Reply> {
        let request = Request::builder().method(method.clone()).uri("/mcp").header("host", "app");
        let request = request.header("accept", "application/json, text/event-stream");
        let session = self.session.iter().map(|id| ("mcp-session-id", id.as_str()));
        let request = session
            .chain(headers.iter().copied())
            .fold(request, |request, (name, value)| request.header(name, value));
        let request = match method {
            Method::POST => request.header("content-type", "application/json").body(full(body.to_owned()))?,
            _ => request.body(empty())?,
        };
        self.client.send(request).await
    }

    /// Opens a session, so that streams can be resumed.
    async fn initialize(mut self) -> Result<Self> {
        let reply = self.send(Method::POST, &[], &initialize("{}")).await?;
        let id = reply.headers.get("mcp-session-id").with_context(|| format!("no session: {reply:?}"))?;
        self.session = Some(id.to_str()?.to_owned());
        Ok(self)
    }

    /// What comes of an answer to a call of the allowed tool.
    async fn call(&self, says: &str) -> Result<String> {
        let says = says.replace('\n', "\\n");
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha"}}"#;
        Ok(self.send(Method::POST, &[(SAYS, &says)], body).await?.text())
    }

    /// What comes of a modern call.
    async fn modern(&self, says: &str) -> Result<String> {
        let headers = [
            (SAYS, says),
            ("mcp-protocol-version", NEW),
            ("mcp-method", "tools/call"),
            ("mcp-name", "alpha"),
        ];
        Ok(self.send(Method::POST, &headers, &modern("{}")).await?.text())
    }
}

fn initialize(capabilities: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":0, "method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{capabilities},"clientInfo":{{"name":"x","version":"1.0"}}}}}}"#
    )
}

fn modern(capabilities: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{NEW}","io.modelcontextprotocol/clientCapabilities":{capabilities}}},"name":"alpha"}}}}"#
    )
}

fn event(message: &str) -> String {
    format!("data: {message}\n\n")
}

fn ask(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

const RESULT: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[]}}"#;
const PROGRESS: &str =
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;

#[tokio::test]
async fn a_client_does_not_tell_of_what_its_server_may_not_use() -> Result<()> {
    let stage = stage().await?;
    let all = r#"{"roots":{"listChanged":true},"sampling":{}, "elicitation":{"form":{},"url":{}},"experimental":{"a":1.0}}"#;
    let for_bot = r#"{"elicitation":{"form":{},"url":{}},"experimental":{"a":1.0}}"#;
    let for_kept =
        r#"{"roots":{"listChanged":true},"elicitation":{"form":{},"url":{}},"experimental":{"a":1.0}}"#;
    for (name, told) in [("bot", for_bot), ("kept", for_kept), ("twin", all)] {
        let caller = Caller::of(&stage, name).await?;
        let headers = [("mcp-protocol-version", NEW), ("mcp-method", "tools/call"), ("mcp-name", "alpha")];
        for (headers, sent, want) in
            [(&[][..], initialize(all), initialize(told)), (&headers[..], modern(all), modern(told))]
        {
            stage.upstream.forget();
            let reply = caller.send(Method::POST, headers, &sent).await?;
            ensure!(reply.text().contains("\"ran\":true"), "{name}: {reply:?}");
            let seen = stage.upstream.seen();
            assert_eq!(String::from_utf8_lossy(&seen[0].body), want, "{name}");
            assert_eq!(seen[0].headers["content-length"], want.len().to_string(), "{name}");
        }
    }
    Ok(())
}

/// The answers that reached the server, by their ids.
async fn answers(stage: &Stage, count: usize) -> Result<Vec<Seen>> {
    let is_answer = |seen: &Seen| seen.json().get("error").is_some();
    let seen = portcullis_tests::wait::until("the server is answered", || {
        Some(stage.upstream.seen()).filter(|seen| seen.iter().filter(|seen| is_answer(seen)).count() >= count)
    });
    Ok(seen.await?.into_iter().filter(is_answer).collect())
}

#[tokio::test]
async fn a_server_that_asks_all_the_same_is_answered_for_its_client() -> Result<()> {
    let stage = stage().await?;
    let (bot, twin) = (
        Caller::of(&stage, "bot").await?.initialize().await?,
        Caller::of(&stage, "twin").await?.initialize().await?,
    );
    let sampling = ask("\"s\\u0031\"", "sampling/createMessage", r#"{"messages":[],"maxTokens":1}"#);
    let roots = ask("7", "roots/list", "{}");
    let stream = [
        event(PROGRESS),
        format!("id: 4\n{}", event(&sampling)),
        ": ka\n\n".to_owned(),
        event(&roots),
        event(RESULT),
    ]
    .concat();
    let left = [event(PROGRESS), ": ka\n\n".to_owned(), event(RESULT)].concat();
    let get = async |caller: &Caller, headers: &[(&str, &str)]| -> Result<String> {
        let says = stream.replace('\n', "\\n");
        Ok(caller.send(Method::GET, &[headers, &[(SAYS, &says)]].concat(), "").await?.text())
    };
    for way in ["POST", "GET", "resumed"] {
        stage.upstream.forget();
        let (of_bot, of_twin) = match way {
            "POST" => (bot.call(&stream).await?, twin.call(&stream).await?),
            "GET" => (get(&bot, &[]).await?, get(&twin, &[]).await?),
            _ => (get(&bot, &[("last-event-id", "3")]).await?, get(&twin, &[("last-event-id", "3")]).await?),
        };
        assert_eq!((of_bot, of_twin), (left.clone(), stream.clone()), "{way}");
        let mut told: Vec<String> = Vec::new();
        for answer in answers(&stage, 2).await? {
            told.push(String::from_utf8_lossy(&answer.body).into_owned());
            assert_eq!(answer.method, Method::POST, "{way}");
            assert_eq!(answer.uri.path(), "/mcp", "{way}");
            assert_eq!(answer.headers["mcp-session-id"], SESSION, "{way}");
            assert!(!answer.headers.contains_key("last-event-id"), "{way}");
            assert_eq!(answer.headers["content-type"], "application/json", "{way}");
        }
        told.sort();
        let error = |id: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"Method not found"}}}}"#)
        };
        assert_eq!(told, [error("\"s\\u0031\""), error("7")], "{way}");
    }
    stage
        .mesh
        .portcullis
        .metric_reaches("portcullis_refusals_total", &[("reason", "server_request")], 6.0)
        .await?;
    Ok(())
}

#[tokio::test]
async fn an_array_loses_what_its_client_may_not_be_asked() -> Result<()> {
    let stage = stage().await?;
    let bot = Caller::of(&stage, "bot").await?.initialize().await?;
    let (sampling, roots) = (ask("1", "sampling/createMessage", "{}"), ask("2", "roots/list", "{}"));
    let rows = [
        ("first", format!("[{sampling}, {RESULT} ]"), format!("[{RESULT} ]")),
        ("last", format!("[ {RESULT},{sampling},{roots}]"), format!("[ {RESULT}]")),
        ("between", format!("[{PROGRESS},{roots},{RESULT}]"), format!("[{PROGRESS},{RESULT}]")),
    ];
    for (name, sent, left) in &rows {
        assert_eq!(&bot.call(sent).await?, left, "{name}");
        assert_eq!(bot.call(&event(sent)).await?, event(left), "{name}, as an event");
    }
    let nothing = format!("[{sampling},{roots}]");
    assert_eq!(bot.call(&event(&nothing)).await?, "", "nothing is left of the event");
    let withheld = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Internal error"}}"#;
    assert_eq!(bot.call(&nothing).await?, withheld);
    assert_eq!(bot.call(&sampling).await?, withheld);
    Ok(())
}

#[tokio::test]
async fn a_user_is_sent_to_no_other_host() -> Result<()> {
    let stage = stage().await?;
    let (bot, twin) = (Caller::of(&stage, "bot").await?, Caller::of(&stage, "twin").await?);
    for (params, passes) in [
        (r#"{"message":"x","requestedSchema":{}}"#, true),
        (r#"{"mode":"form","message":"https://evil.example/"}"#, true),
        (r#"{"mode":"url","url":"https://pay.example/x?y=https://evil.example"}"#, true),
        (r#"{"mode":"url","url":"https://evil.example/"}"#, false),
        (r#"{"mode":"url","url":"https://pay.example.evil.example/"}"#, false),
        (r#"{"mode":"url","url":"https://pay.example@evil.example/"}"#, false),
        (r#"{"mode":"url","url":"https://evil.example\\@pay.example/"}"#, false),
        (r#"{"mode":"url","url":"HTTPS://evil.example/"}"#, false),
        (r#"{"url":"https://evil.example/"}"#, false),
        (r#"{"mode":"url"}"#, false),
        (r#"{"mode":"url","url":"https://pay.example/","URL":"https://evil.example/"}"#, false),
    ] {
        let stream = event(&ask("1", "elicitation/create", params)) + &event(RESULT);
        let left = if passes { stream.clone() } else { event(RESULT) };
        assert_eq!(bot.call(&stream).await?, left, "{params}");
        assert_eq!(twin.call(&stream).await?, stream, "{params}");
    }
    Ok(())
}

#[tokio::test]
async fn an_answer_that_asks_its_client_for_input_is_an_error_instead() -> Result<()> {
    let stage = stage().await?;
    let (bot, twin) = (Caller::of(&stage, "bot").await?, Caller::of(&stage, "twin").await?);
    let refused =
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32021,"message":"Missing required client capability"}}"#;
    let needs = |requests: &Value| {
        json!({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required", "inputRequests": requests}})
            .to_string()
    };
    let visit = |host: &str| json!({"method": "elicitation/create", "params": {"mode": "url", "url": format!("https://{host}/")}});
    for (requests, passes) in [
        (json!({"a": visit("pay.example")}), true),
        (json!({"a": {"method": "elicitation/create", "params": {"message": "x"}}}), true),
        (json!({"a": visit("pay.example"), "b": visit("evil.example")}), false),
        (json!({"a": {"method": "sampling/createMessage", "params": {}}}), false),
        (json!({"a": {"method": "roots/list"}}), false),
        (json!({"a": {"method": "x/y"}}), false),
        (json!({"a": {"Method": "roots/list", "method": "elicitation/create"}}), false),
    ] {
        let answer = needs(&requests);
        let left = if passes { answer.as_str() } else { refused };
        assert_eq!(bot.modern(&answer).await?, left);
        assert_eq!(bot.modern(&event(&answer).replace('\n', "\\n")).await?, event(left));
        assert_eq!(twin.modern(&answer).await?, answer);
    }
    // What is looked through is sealed all the same.
    let mut answer: Value = serde_json::from_str(&needs(&json!({"a": visit("pay.example")})))?;
    answer["result"]["requestState"] = "the server's".into();
    let mut told: Value = serde_json::from_str(&bot.modern(&answer.to_string()).await?)?;
    let state = told["result"]["requestState"].take();
    assert!(state.is_string() && state != "the server's", "{state}");
    answer["result"]["requestState"] = Value::Null;
    assert_eq!(told, answer);
    Ok(())
}

#[tokio::test]
async fn a_stream_of_the_servers_own_tells_only_what_its_client_may_know() -> Result<()> {
    let stage = stage().await?;
    let note = |method: &str, params: &str| {
        event(&format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#))
    };
    let (bot, reader) = (Caller::of(&stage, "bot").await?, Caller::of(&stage, "reader").await?);
    let get = async |caller: &Caller, stream: &str| -> Result<String> {
        let says = stream.replace('\n', "\\n");
        Ok(caller.send(Method::GET, &[(SAYS, &says)], "").await?.text())
    };
    for method in [
        "notifications/message",
        "notifications/progress",
        "notifications/cancelled",
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/elicitation/complete",
        "notifications/subscriptions/acknowledged",
    ] {
        let told = note(method, "{}");
        assert_eq!(get(&bot, &told).await?, told, "{method}");
    }
    let ping = event(&ask("3", "ping", "{}"));
    assert_eq!(get(&bot, &ping).await?, ping);
    let updated = |uri: &str| note("notifications/resources/updated", &format!(r#"{{"uri":"{uri}"}}"#));
    let (public, secret) = (updated("file:///public/x"), updated("file:///secret/x"));
    assert_eq!(get(&bot, &public).await?, public);
    assert_eq!(get(&bot, &format!("{secret}{public}")).await?, public);
    assert_eq!(get(&reader, &format!("{secret}{public}{ping}")).await?, ping, "it may read nothing");
    for unknown in ["notifications/unheard", "x/y", "Ping"] {
        assert_eq!(get(&bot, &format!("{}{ping}", note(unknown, "{}"))).await?, ping, "{unknown}");
    }
    Ok(())
}
