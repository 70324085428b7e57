//! Rate and concurrency limits, as an EnvoyFilter in the folder says: who is limited, what a client is told, and who is not
//! concerned.

#![cfg(test)]

mod global;
mod local;

use anyhow::Result;
use http::StatusCode;
use portcullis_tests::http::{Client, Reply, post_json};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::single::{HTTP, Running};
use serde_json::{Value, json};

/// `agents/bot` and `agents/twin` may call two tools.
const RULES: &str = r#"
- from: [{source: {serviceAccounts: [agents/bot, agents/twin]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha, beta]}]
"#;

/// How requests are described: who calls which tool.
const CALLER_AND_TOOL: &str = r#"
          rate_limits:
          - actions:
            - extension:
                name: principal
                typed_config:
                  "@type": type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor
                  descriptor_key: principal
                  text: connection.uri_san_peer_certificate
            - metadata:
                descriptor_key: tool
                metadata_key: {key: envoy.filters.http.mcp, path: [{key: tool}]}
"#;

const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}";

/// An EnvoyFilter that puts one filter before the services of `target`.
fn filter(target: &str, config: &str) -> String {
    format!(
        r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: limits, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{target}]
  configPatches:
  - applyTo: HTTP_FILTER
    match: {{context: SIDECAR_INBOUND}}
    patch:
      operation: INSERT_FIRST
      value:
        name: limit
        typed_config:{config}
"#
    )
}

async fn client(running: &Running, name: &str) -> Result<Client> {
    let outbound = running.mesh.peer("agents", name)?;
    Client::http1(outbound.connect(&running.service.authority(HTTP)).await?).await
}

fn call(id: u32, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool}})
}

async fn calls(client: &Client, tool: &str) -> Result<Reply> {
    client.send(post_json("/mcp", "app", &call(7, tool))?).await
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the call ran.
async fn runs(client: &Client, tool: &str) -> Result<bool> {
    let reply = calls(client, tool).await?;
    assert_eq!(reply.status, StatusCode::OK);
    Ok(reply.json()?["result"].is_object())
}
