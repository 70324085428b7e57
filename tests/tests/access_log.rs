//! The access log of the running binary, when nobody reads it.

#![cfg(test)]

use anyhow::Result;
use http::Request;
use portcullis_tests::http::{Client, empty, post_json};
use portcullis_tests::mesh::Mesh;
use portcullis_tests::portcullis::Portcullis;
use portcullis_tests::single::{HTTP, Single};
use portcullis_tests::upstream::{self, Upstream};
use serde_json::json;

#[tokio::test]
async fn a_pipe_that_nobody_reads_costs_lines_and_no_request() -> Result<()> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "ok")).await?;
    let settings = single.setup.file("settings.yaml", "log_queue: 16\n")?;
    let portcullis = Portcullis::start_unread(&single.setup.run().arg("--settings", settings)).await?;
    let mut mesh = Mesh { portcullis, setup: single.setup };
    let tunnel = mesh.peer("agents", "bot")?.connect(&single.service.authority(HTTP)).await?;
    let client = Client::http1(tunnel).await?;
    let mut sent = 0.0;
    let lost = async || {
        let metrics = mesh.portcullis.metrics().await?;
        Ok::<_, anyhow::Error>(metrics.sum("portcullis_log_lines_dropped_total", &[]))
    };
    while lost().await? < 100.0 {
        for _ in 0..50 {
            let request = Request::get("/").header("host", "app").body(empty())?;
            assert_eq!(client.send(request).await?.status, 200);
        }
        sent += 50.0;
        assert!(sent < 5_000.0, "nothing is lost after {sent} requests");
    }
    assert!(lost().await? <= sent, "each line is lost once");
    drop(client);
    // The end of the process does not wait for the reader either.
    assert!(mesh.portcullis.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn arguments_are_told_by_name_and_rule_only() -> Result<()> {
    let single = Single::new(true).await?;
    let tools = "- when: [{key: 'experimental.envoy.filters.http.mcp[tool]', values: [search]}]";
    single.setup.policy("p", "app", "ALLOW", tools)?;
    let port = single.pod.port(HTTP);
    let _app = Upstream::start(port, |seen| upstream::result(seen, &json!({"content": []}))).await?;
    let run = single.setup.run().arg("--log-arguments", "owner,query:3,token:mask,missing");
    let mesh = single.setup.start_with(run).await?;
    let arguments = json!({"owner": "acme", "query": "sesame", "token": "hunter2", "other": "quiet"});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "search", "arguments": arguments}});
    let tunnel = mesh.peer("agents", "bot")?.connect(&single.service.authority(HTTP)).await?;
    Client::http1(tunnel).await?.send(post_json("/mcp", "app", &call)?).await?;
    let line = mesh.portcullis.logged("the call", |line| line["mcp_name"] == "search").await?;
    let told = json!({"owner": "acme", "query": "ses…", "token": "***"});
    assert_eq!(line["mcp_arguments"], told, "{line}");
    let all = mesh.portcullis.access_log().all().concat();
    assert!(!all.contains("hunter2") && !all.contains("sesame") && !all.contains("quiet"), "{all}");
    Ok(())
}
