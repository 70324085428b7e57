//! What the access log says of calls, and what it never says.

use crate::stage::{Scene, Stage};
use anyhow::Result;
use http::Request;
use portcullis_tests::http::{Client, full};
use portcullis_tests::upstream;
use serde_json::{Value, json};

const SECRET: &str = "hunter2-5f1c";

async fn logged(stage: &Stage, client: &Client, id: &str, body: &Value) -> Result<Value> {
    let request = Request::post("/mcp").header("host", "app").header("content-type", "application/json");
    let request = request.header("x-request-id", id);
    client.send(request.body(full(body.to_string()))?).await?;
    stage.mesh.portcullis.logged(id, |line| line["x_request_id"] == id).await
}

#[tokio::test]
async fn a_call_is_logged_with_who_what_and_why_and_without_its_arguments() -> Result<()> {
    let script = |seen: &upstream::Seen| {
        upstream::result(seen, &json!({"tools": [{"name": "alpha"}, {"name": "beta"}, {"name": "x"}]}))
    };
    let stage = Scene::new(script).await?.start(&[]).await?;
    let peer = stage.peer("bot")?;
    let client = Client::http1(peer.stream().await?).await?;
    let message =
        |method: &str, params: Value| json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let call = |tool: &str| {
        message("tools/call", json!({"name": tool, "arguments": {"password": SECRET, SECRET: 1}}))
    };
    let allowed = "ns[tools]-policy[rules]-rule[0]";
    let rows = [
        (
            "allowed",
            call("alpha"),
            json!({"mcp_method": "tools/call", "mcp_name": "alpha", "mcp_kind": "call", "decision": "allow", "policy_rule": allowed, "response_code": 200}),
        ),
        (
            "denied",
            call("beta"),
            json!({"mcp_method": "tools/call", "mcp_name": "beta", "mcp_kind": "call", "decision": "deny", "policy_rule": null, "response_code": 200, "upstream_host": null}),
        ),
        (
            "a list",
            message("tools/list", json!({"_meta": {"x": SECRET}})),
            json!({"mcp_method": "tools/list", "mcp_kind": "list", "decision": "allow", "list_hidden": 2}),
        ),
        (
            "a resource",
            message("resources/read", json!({"uri": "file:///secret/x"})),
            json!({"mcp_method": "resources/read", "mcp_name": "file:///secret/x", "decision": "deny"}),
        ),
        (
            "an unknown method",
            message("x/y", json!({"z": SECRET})),
            json!({"mcp_method": "x/y", "decision": "deny"}),
        ),
        (
            "malformed",
            json!({"jsonrpc": "2.0", "id": 1, "method": "ping", SECRET: SECRET}),
            json!({"decision": "not_decided", "response_code": 400}),
        ),
    ];
    for (name, body, want) in rows {
        let line = logged(&stage, &client, name, &body).await?;
        for (key, value) in want.as_object().into_iter().flatten() {
            assert_eq!(line.get(key).unwrap_or(&Value::Null), value, "{name}: {key} in {line}");
        }
        for (key, value) in [
            ("source_principal", "spiffe://cluster.local/ns/agents/sa/bot"),
            ("destination_service", "app.tools.svc.cluster.local"),
            ("method", "POST"),
            ("path", "/mcp"),
        ] {
            assert_eq!(line[key], value, "{name}: {line}");
        }
        assert!(line["generation"].as_u64().is_some_and(|generation| generation > 0), "{name}: {line}");
    }
    let said = [stage.mesh.portcullis.access_log().all(), stage.mesh.portcullis.events().all()].concat();
    assert!(said.iter().all(|line| !line.contains(SECRET)), "an argument was logged: {said:#?}");
    let metrics = stage.mesh.portcullis.metrics().await?;
    assert!(!metrics.0.contains(SECRET), "an argument became a label");
    let operations = |name: &str, decision: &str| {
        metrics.sum(
            "portcullis_mcp_operations_total",
            &[("method", "tools/call"), ("name", name), ("decision", decision)],
        )
    };
    assert!((operations("alpha", "allow") - 1.0).abs() < f64::EPSILON, "{}", metrics.0);
    // A name that no server has listed could be anything a client makes up; `beta` was listed after its call.
    let denied =
        metrics.sum("portcullis_mcp_operations_total", &[("method", "tools/call"), ("decision", "deny")]);
    assert!((denied - 1.0).abs() < f64::EPSILON, "{}", metrics.0);
    Ok(())
}
