//! The gRPC and WebSocket scripts prove themselves on each other, without a waypoint between.

#![cfg(test)]

use anyhow::Result;
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::stand::Direct;
use serde_json::json;

#[tokio::test]
async fn grpc_scripts_understand_each_other() -> Result<()> {
    let server = Direct::start(Runtime::Python1, "grpc_server.py").await?;
    let report = Runtime::Python1.report("grpc_client.py", &[&server.port.address.to_string()]).await?;
    assert_eq!(report["unary"]["answer"], "hi", "{report}");
    assert_eq!(report["secret"]["answer"], "hi", "{report}");
    assert_eq!(report["fail"]["status"], "FAILED_PRECONDITION", "{report}");
    assert_eq!(report["large"], 1_000_000, "{report}");
    assert_eq!(report["both"]["echoed"], json!(["one", "two", "three"]), "{report}");
    assert!(report["both"]["trailers"]["calls"].is_string(), "{report}");
    Ok(())
}

#[tokio::test]
async fn websocket_scripts_understand_each_other() -> Result<()> {
    let server = Direct::start(Runtime::Python1, "websocket_server.py").await?;
    let url = server.port.url("/").replace("http:", "ws:");
    let report = Runtime::Python1.report("websocket_client.py", &[&url]).await?;
    let want = json!({"greeting": "hello", "text": "text", "large": 1_000_000, "pong": true, "close": 4001});
    assert_eq!(report, want);
    Ok(())
}
