//! gRPC with a real library on both ends: trailers, streams, and denials that it understands.

#![cfg(test)]

use anyhow::Result;
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::stand::Stand;
use serde_json::{Value, json};

const RULES: &str = "- from: [{source: {serviceAccounts: [agents/bot]}}]
  to: [{operation: {methods: [POST], notPaths: [/echo.Echo/Secret]}}]";

async fn calls(app_protocol: &str) -> Result<()> {
    let stand = Stand::start(Runtime::Python1, "grpc_server.py", app_protocol, RULES).await?;
    let port = stand.port_of("agents", "bot").await?;
    let report = Runtime::Python1.report("grpc_client.py", &[&port.address.to_string()]).await?;
    assert_eq!(
        (&report["unary"]["answer"], &report["unary"]["status"]),
        (&json!("hi"), &json!("OK")),
        "{report}"
    );
    assert!(report["unary"]["trailers"]["calls"].is_string(), "{report}");
    let secret = &report["secret"];
    assert_eq!(secret["status"], "PERMISSION_DENIED", "{report}");
    assert_eq!(secret["details"], "RBAC: access denied", "{report}");
    assert_eq!(report["fail"]["status"], "FAILED_PRECONDITION", "{report}");
    assert_eq!(report["fail"]["details"], "told to fail", "{report}");
    assert_eq!(report["large"], 1_000_000, "{report}");
    assert_eq!(report["both"]["echoed"], json!(["one", "two", "three"]), "{report}");
    assert_eq!(report["both"]["end"], true, "{report}");
    assert!(report["both"]["trailers"]["calls"].is_string(), "{report}");
    assert_told(&stand).await
}

async fn assert_told(stand: &Stand) -> Result<()> {
    let portcullis = &stand.mesh.portcullis;
    let path = |path: &'static str| move |line: &Value| line["path"] == path;
    let denied = portcullis.logged("the denied call", path("/echo.Echo/Secret")).await?;
    assert_eq!((&denied["decision"], &denied["grpc_status"]), (&json!("deny"), &json!(7)), "{denied}");
    let failed = portcullis.logged("the failed call", path("/echo.Echo/Fail")).await?;
    assert_eq!((&failed["decision"], &failed["grpc_status"]), (&json!("allow"), &json!(9)), "{failed}");
    let labels = [("request_protocol", "grpc"), ("grpc_response_status", "7"), ("reporter", "waypoint")];
    portcullis.metric_reaches("istio_requests_total", &labels, 1.0).await?;
    Ok(())
}

#[tokio::test]
async fn unary_and_streams_pass_with_trailers_and_a_denied_call_is_status_7() -> Result<()> {
    calls("grpc").await
}

#[tokio::test]
async fn a_port_that_is_declared_as_h2c_carries_grpc_too() -> Result<()> {
    calls("kubernetes.io/h2c").await
}
