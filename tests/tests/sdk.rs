//! The official SDKs work through the waypoint: lists without what is denied, calls, a denied call that leaves the
//! session alive, notifications, resumed streams, parallel calls, and a question of the server that the client answers.
//!
//! Every client script takes the same steps and tells them in the same words (`tests/sdk`). It runs without a
//! waypoint first, so that a step that could not fail would be found.

#![cfg(test)]

use anyhow::Result;
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::stand::{Direct, Stand};
use serde_json::{Value, json};

/// A client script.
#[derive(Clone, Copy)]
struct Client {
    runtime: Runtime,
    script: &'static str,
    mode: Option<&'static str>,
}

const PYTHON_1: Client = Client { runtime: Runtime::Python1, script: "mcp1_client.py", mode: None };
const PYTHON_2: Client = Client { runtime: Runtime::Python2, script: "mcp2_client.py", mode: Some("legacy") };
const PYTHON_2_AUTO: Client = Client { mode: Some("auto"), ..PYTHON_2 };
const TYPESCRIPT_1: Client = Client { runtime: Runtime::Node, script: "sdk1_client.mjs", mode: None };
const TYPESCRIPT_2: Client =
    Client { runtime: Runtime::Node, script: "sdk2_client.mjs", mode: Some("legacy") };
const TYPESCRIPT_2_AUTO: Client = Client { mode: Some("auto"), ..TYPESCRIPT_2 };

/// A server script.
#[derive(Clone, Copy)]
struct Server {
    runtime: Runtime,
    script: &'static str,
}

const TYPESCRIPT_SERVER: Server = Server { runtime: Runtime::Conformance, script: "server.mjs" };
/// Answers every call with an event stream, and speaks the older revisions only.
const PYTHON_SERVER: Server = Server { runtime: Runtime::Python1, script: "mcp1_server.py" };

/// What the clients may call. `test_image_content` is not among it.
const ALLOWED: [&str; 7] = [
    "test_elicitation",
    "test_input_required_result_elicitation",
    "test_reconnection",
    "test_simple_text",
    "test_tool_with_logging",
    "test_tool_with_progress",
    "test_trigger_tool_change",
];

const TEXT: &str = "This is a simple text response for testing.";

async fn report(client: Client, url: &str) -> Result<Value> {
    let args: Vec<_> = [Some(url), client.mode].into_iter().flatten().collect();
    client.runtime.report(client.script, &args).await
}

/// Runs the script both ways and compares: the same, but for the tools that the policy leaves out.
async fn compare(client: Client, server: Server, revision: &str) -> Result<()> {
    let direct = Direct::start(server.runtime, server.script).await?;
    let mut expected = report(client, &direct.port.url("/mcp")).await?;
    assert_eq!(expected["revision"], revision, "{expected}");
    assert_eq!(expected["denied"], json!({"text": "<image>"}), "without a policy the call is carried");
    assert_eq!(expected["allowed"], json!({"text": TEXT}), "{expected}");

    let names = ALLOWED.join(", ");
    let rules = format!(
        "- from: [{{source: {{serviceAccounts: [agents/bot]}}}}]\n  \
           to: [{{operation: {{paths: [/mcp]}}}}]\n  \
           when: [{{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [{names}]}}]"
    );
    let stand = Stand::start(server.runtime, server.script, "http", &rules).await?;
    let port = stand.port_of("agents", "bot").await?;
    let through = report(client, &port.url("/mcp")).await?;

    expected["denied"] = through["denied"].clone();
    expected["tools"]
        .as_array_mut()
        .expect("a list")
        .retain(|tool| ALLOWED.iter().any(|allowed| tool == allowed));
    assert_eq!(through, expected);
    assert_denied(&through["denied"]);
    assert_log(&stand).await
}

/// The refusal of a hidden tool (hide mode): as if it did not exist.
fn assert_denied(denied: &Value) {
    assert_eq!(denied["code"], -32602, "{denied}");
    let message = denied["message"].as_str().unwrap_or_default();
    assert!(message.contains("Unknown tool: test_image_content"), "{denied}");
}

async fn assert_log(stand: &Stand) -> Result<()> {
    let denied = |line: &Value| line["mcp_name"] == "test_image_content";
    let line = stand.mesh.portcullis.logged("the denied call", denied).await?;
    assert_eq!(line["decision"], "deny", "{line}");
    assert_eq!(line["mcp_method"], "tools/call", "{line}");
    assert_eq!(line["source_principal"], "spiffe://cluster.local/ns/agents/sa/bot", "{line}");
    Ok(())
}

#[tokio::test]
async fn python_sdk_1() -> Result<()> {
    compare(PYTHON_1, TYPESCRIPT_SERVER, "2025-11-25").await
}

#[tokio::test]
async fn python_sdk_1_with_a_server_that_streams() -> Result<()> {
    compare(PYTHON_1, PYTHON_SERVER, "2025-11-25").await
}

#[tokio::test]
async fn python_sdk_2_with_a_session() -> Result<()> {
    compare(PYTHON_2, TYPESCRIPT_SERVER, "2025-11-25").await
}

#[tokio::test]
async fn python_sdk_2_without_sessions() -> Result<()> {
    compare(PYTHON_2_AUTO, TYPESCRIPT_SERVER, "2026-07-28").await
}

#[tokio::test]
async fn python_sdk_2_falls_back_to_a_session() -> Result<()> {
    compare(PYTHON_2_AUTO, PYTHON_SERVER, "2025-11-25").await
}

#[tokio::test]
async fn typescript_sdk_1() -> Result<()> {
    compare(TYPESCRIPT_1, TYPESCRIPT_SERVER, "2025-11-25").await
}

#[tokio::test]
async fn typescript_sdk_1_with_a_server_that_streams() -> Result<()> {
    compare(TYPESCRIPT_1, PYTHON_SERVER, "2025-11-25").await
}

#[tokio::test]
async fn typescript_sdk_2_with_a_session() -> Result<()> {
    compare(TYPESCRIPT_2, TYPESCRIPT_SERVER, "2025-11-25").await
}

#[tokio::test]
async fn typescript_sdk_2_without_sessions() -> Result<()> {
    compare(TYPESCRIPT_2_AUTO, TYPESCRIPT_SERVER, "2026-07-28").await
}

#[tokio::test]
async fn typescript_sdk_2_falls_back_to_a_session() -> Result<()> {
    compare(TYPESCRIPT_2_AUTO, PYTHON_SERVER, "2025-11-25").await
}
