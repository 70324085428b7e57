//! The official SDK on both ends: each binding in each version, one policy, another's task.

use anyhow::Result;
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::stand::{Direct, Stand};
use serde_json::{Value, json};

/// Everything but `CancelTask`.
const RULES: &str = "- from: [{source: {namespaces: [agents]}}]
  when:
  - key: \"experimental.envoy.filters.http.a2a[method]\"
    values: [SendMessage, SendStreamingMessage, GetTask, ListTasks]";

async fn report(address: &str, binding: &str, version: &str, foreign: Option<&str>) -> Result<Value> {
    let args: Vec<_> = [address, binding, version].into_iter().chain(foreign).collect();
    Runtime::PythonA2a.report("a2a_client.py", &args).await
}

/// What the steps tell where nothing is denied; the task's id differs.
fn whole(version: &str) -> Value {
    let open = |artifacts| json!({"state": "TASK_STATE_INPUT_REQUIRED", "artifacts": artifacts});
    // 0.3 has no client for lists.
    let listed = if version == "1.0" { json!({"count": 1}) } else { json!({"error": "NotImplementedError"}) };
    json!({
        "sent": open(1),
        "streamed": 2,
        "got": open(2),
        "listed": listed,
        "canceled": {"state": "TASK_STATE_CANCELED", "artifacts": 2},
    })
}

async fn through(script: &str, app_protocol: &str, bindings: &[&str]) -> Result<()> {
    let direct = Direct::start(Runtime::PythonA2a, script).await?;
    let mut told = report(&direct.port.address.to_string(), bindings[0], "1.0", None).await?;
    told.as_object_mut().expect("an object").remove("task");
    assert_eq!(told, whole("1.0"), "without a waypoint the task is cancelled");

    let stand = Stand::start(Runtime::PythonA2a, script, app_protocol, RULES).await?;
    let (bot, other) = (stand.port_of("agents", "bot").await?, stand.port_of("agents", "other").await?);
    for (made, (binding, version)) in
        bindings.iter().flat_map(|binding| [(binding, "1.0"), (binding, "0.3")]).enumerate()
    {
        let mut told = report(&bot.address.to_string(), binding, version, None).await?;
        let steps = told.as_object_mut().expect("an object");
        let task = steps.remove("task").unwrap_or_default();
        let canceled = steps.insert("canceled".into(), Value::Null).unwrap_or_default();
        assert!(canceled["error"].is_string(), "{binding} {version}: {canceled}");
        let mut expected = whole(version);
        expected["canceled"] = Value::Null;
        if version == "1.0" {
            expected["listed"]["count"] = json!(made + 1);
        }
        assert_eq!(told, expected, "{binding} {version}");
        if version == "1.0" {
            let foreign = report(&other.address.to_string(), binding, version, task.as_str()).await?;
            // Over gRPC the SDK tells errors apart by details, which a status of ours has none of.
            let name = if *binding == "GRPC" { "A2AClientError" } else { "TaskNotFoundError" };
            let error = json!({ "error": name });
            assert_eq!(foreign, json!({"foreign": error, "listed": {"count": 0}}), "{binding}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_sdk_speaks_json_rpc_and_rest_through_the_waypoint() -> Result<()> {
    through("a2a_server.py", "http", &["JSONRPC", "HTTP+JSON"]).await
}

#[tokio::test]
async fn the_sdk_speaks_grpc_through_the_waypoint() -> Result<()> {
    through("a2a_grpc_server.py", "grpc", &["GRPC"]).await
}
