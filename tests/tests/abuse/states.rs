//! `requestState` (2026-07-28) is of who was given it, for the request that it was given for.

use crate::stage::{PORT, Scene, Stage};
use anyhow::{Context, Result};
use http::{Request, Response};
use portcullis_tests::http::{Body, Client, Reply, full};
use portcullis_tests::portcullis::Portcullis;
use portcullis_tests::upstream::{self, Seen};
use portcullis_tests::ztunnel::Outbound;
use serde_json::{Value, json};

/// What the server keeps in its client's hands.
const STATE: &str = "servers-own \"state\" \u{e9}\n";

/// Asks for something first, and runs what hands its state back; in JSON, or in an event stream where the tool is `get_x`.
fn server(seen: &Seen) -> Response<Body> {
    let asked = seen.json();
    let result = match asked["params"]["requestState"].as_str() {
        None => json!({"resultType": "input_required", "inputRequests": {}, "requestState": STATE}),
        Some(STATE) => json!({"resultType": "complete", "content": [], "ran": asked["params"]["name"]}),
        Some(other) => json!({"resultType": "complete", "isError": true, "content": [], "foreign": other}),
    };
    if asked["params"]["name"] != "get_x" {
        return upstream::result(seen, &result);
    }
    let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result});
    upstream::events(&[&format!("event: message\ndata: {answer}\n\n")])
}

struct Caller {
    client: Client,
    _outbound: Outbound,
}

impl Caller {
    async fn of(outbound: Outbound, stage: &Stage) -> Result<Self> {
        let stream = outbound.connect(&stage.service.authority(PORT)).await?;
        Ok(Self { client: Client::http2(stream).await?, _outbound: outbound })
    }

    async fn call(&self, tool: &str, state: Option<&Value>) -> Result<Reply> {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut params = json!({"_meta": meta, "name": tool, "arguments": {}});
        if let Some(state) = state {
            params["requestState"] = state.clone();
            params["inputResponses"] = json!({});
        }
        let body = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params});
        let request = Request::post("http://app/mcp")
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", tool);
        self.client.send(request.body(full(body.to_string()))?).await
    }

    /// The state that the server gives for a first attempt.
    async fn begin(&self, tool: &str) -> Result<Value> {
        let result = answer(&self.call(tool, None).await?)?["result"].clone();
        assert_eq!(result["resultType"], "input_required", "{result}");
        assert!(!result.to_string().contains("servers-own"), "{result}");
        Ok(result["requestState"].clone())
    }

    async fn runs(&self, tool: &str, state: &Value) -> Result<()> {
        let answer = answer(&self.call(tool, Some(state)).await?)?;
        assert_eq!(answer["result"]["ran"], tool, "{answer}");
        Ok(())
    }

    async fn is_refused(&self, tool: &str, state: &Value) -> Result<()> {
        let reply = self.call(tool, Some(state)).await?;
        let want = r#"{"jsonrpc":"2.0","id":5,"error":{"code":-32602,"message":"Invalid requestState"}}"#;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, want), "{state}");
        Ok(())
    }
}

/// The message of an answer in either form.
fn answer(reply: &Reply) -> Result<Value> {
    let text = reply.text();
    let data = text.lines().find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(data.unwrap_or(&text)).with_context(|| text.clone())
}

#[tokio::test]
async fn a_state_comes_back_from_its_owner_with_its_request_only() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let owner = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
    let thief = Caller::of(stage.mesh.peer("agents", "twin")?, &stage).await?;
    for (tool, other) in [("alpha", "get_x"), ("get_x", "alpha")] {
        let state = owner.begin(tool).await?;
        owner.runs(tool, &state).await?;
        let before = stage.upstream.seen().len();
        thief.is_refused(tool, &state).await?;
        owner.is_refused(other, &state).await?;
        owner.is_refused(tool, &json!(STATE)).await?;
        owner.is_refused(tool, &json!("")).await?;
        let text = state.as_str().context("a text")?;
        owner.is_refused(tool, &json!(&text[1..])).await?;
        assert_eq!(stage.upstream.seen().len(), before, "a foreign state reached the server");
        owner.runs(tool, &state).await?;
        let theirs = thief.begin(tool).await?;
        thief.runs(tool, &theirs).await?;
    }
    let reply = owner.call("alpha", Some(&json!(7))).await?;
    assert_eq!((reply.status.as_u16(), &reply.json()?["error"]["code"]), (400, &json!(-32602)));
    Ok(())
}

#[tokio::test]
async fn a_state_comes_back_at_any_replica() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    std::fs::write(&old, [1; 32])?;
    std::fs::write(&new, [2; 32])?;
    let scene = Scene::new(server).await?;
    let run = scene.setup.run();
    let stage = scene.start_with(run.clone().arg("--session-key", &old)).await?;
    let here = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
    let state = here.begin("alpha").await?;
    for (keys, opens) in [(vec![&old], true), (vec![&new, &old], true), (vec![&new], false), (vec![], false)]
    {
        let run = keys.iter().fold(run.clone(), |run, key| run.arg("--session-key", key));
        let replica = Portcullis::start(&run).await?;
        let ca = &stage.mesh.setup.ca;
        let svid = ca.svid(&ca.id("agents", "bot"))?;
        let outbound = Outbound::new(ca, &svid, replica.address("hbone")?, &stage.mesh.waypoint_id())?;
        let there = Caller::of(outbound, &stage).await?;
        match opens {
            true => there.runs("alpha", &state).await?,
            false => there.is_refused("alpha", &state).await?,
        }
    }
    Ok(())
}

/// An answer that is too large to be looked at passes whole; a state in it was not sealed, and does not come back.
#[tokio::test]
async fn a_large_answer_passes_as_it_is() -> Result<()> {
    let text = "x".repeat(5 << 20);
    let content = json!([{"type": "text", "text": text}]);
    let large = move |seen: &Seen| -> Response<Body> {
        let asked = seen.json();
        let result = json!({"resultType": "complete", "content": content, "requestState": "raw"});
        if asked["params"]["name"] != "get_x" {
            return upstream::result(seen, &result);
        }
        let answer = json!({"jsonrpc": "2.0", "id": asked["id"], "result": result});
        upstream::events(&[&format!(": ka\n\ndata: {answer}\n\n"), "data: {\"after\":1}\n\n"])
    };
    let stage = Scene::new(large).await?.start(&[]).await?;
    let bot = Caller::of(stage.mesh.peer("agents", "bot")?, &stage).await?;
    for tool in ["alpha", "get_x"] {
        let reply = bot.call(tool, None).await?;
        let result = answer(&reply)?["result"].clone();
        assert_eq!(result["content"][0]["text"].as_str().map(str::len), Some(text.len()), "{tool}");
        assert_eq!(reply.text().ends_with("data: {\"after\":1}\n\n"), tool == "get_x");
        bot.is_refused(tool, &result["requestState"]).await?;
    }
    Ok(())
}
