//! Rules on arguments, decided by the running binary and by `check` alike.

use crate::stage::{PORT, Scene, server};
use anyhow::{Context, Result, ensure};
use http::Request;
use portcullis_tests::http::{Client, full};
use portcullis_tests::portcullis::binary;
use portcullis_tests::process::Process;
use serde_json::Value;
use std::path::Path;
use tokio::process::Command;

const RULES: &str = r#"
- from: [{source: {serviceAccounts: [agents/bot]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when:
  - {key: "experimental.envoy.filters.http.mcp[tool]", values: [edit]}
  - {key: "experimental.envoy.filters.http.mcp[args.owner]", values: [acme, "own-*"]}
- to: [{operation: {paths: ["/mcp"]}}]
  when:
  - {key: "experimental.envoy.filters.http.mcp[tool]", values: [nested]}
  - {key: "experimental.envoy.filters.http.mcp[args.repo.name]", values: [x]}
- to: [{operation: {paths: ["/mcp"]}}]
  when:
  - {key: "experimental.envoy.filters.http.mcp[tool]", values: [tagged]}
  - {key: "experimental.envoy.filters.http.mcp[args.tags]", values: [blue]}
- to: [{operation: {paths: ["/mcp"]}}]
  when:
  - {key: "experimental.envoy.filters.http.mcp[tool]", values: [counted]}
  - {key: "experimental.envoy.filters.http.mcp[args.n]", values: ["3", "1.5", "true"]}
- to: [{operation: {paths: ["/mcp"]}}]
  when:
  - {key: "experimental.envoy.filters.http.mcp[tool]", values: [careful]}
  - {key: "experimental.envoy.filters.http.mcp[args.mode]", notValues: [danger]}
- to: [{operation: {paths: ["/mcp"]}}]
  when:
  - {key: "experimental.envoy.filters.http.mcp[tool]", values: [given]}
  - {key: "experimental.envoy.filters.http.mcp[args.owner]", values: ["*"]}
"#;

/// Tool, arguments, and which rule allows the call, if one does.
const CASES: [(&str, &str, Option<usize>); 48] = [
    ("edit", r#"{"owner":"acme"}"#, Some(0)),
    ("edit", r#"{"owner":"own-1","more":1}"#, Some(0)),
    ("edit", r#"{"\u006fwner":"\u0061cme"}"#, Some(0)),
    ("edit", r#"{"owner":"evil"}"#, None),
    ("edit", r#"{"owner":"ACME"}"#, None),
    ("edit", r#"{"owner":"acme "}"#, None),
    ("edit", r#"{"owner":"xown-1"}"#, None),
    ("edit", r#"{"owner":""}"#, None),
    ("edit", r#"{"owner":null}"#, None),
    ("edit", r#"{"owner":{"owner":"acme"}}"#, None),
    ("edit", r#"{"owner":{"acme":1}}"#, None),
    ("edit", r#"{"Owner":"acme"}"#, None),
    ("edit", r#"{"owner":"acme","Owner":"evil"}"#, None),
    ("edit", r#"{"owner ":"acme"}"#, None),
    ("edit", r#"{"x":{"owner":"acme"}}"#, None),
    ("edit", "{}", None),
    ("nested", r#"{"repo":{"name":"x"}}"#, Some(1)),
    ("nested", r#"{"repo":{"name":"y"}}"#, None),
    ("nested", r#"{"repo":"x"}"#, None),
    ("nested", r#"{"repo.name":"x"}"#, None),
    ("nested", r#"{"name":"x"}"#, None),
    ("nested", r#"{"repo":[{"name":"x"}]}"#, None),
    ("nested", r#"{"repo":{"name":"x"},"Repo":{"name":"y"}}"#, None),
    ("tagged", r#"{"tags":["red","blue"]}"#, Some(2)),
    ("tagged", r#"{"tags":"blue"}"#, Some(2)),
    ("tagged", r#"{"tags":["red"]}"#, None),
    ("tagged", r#"{"tags":[]}"#, None),
    ("tagged", r#"{"tags":[["blue"]]}"#, None),
    ("tagged", r#"{"tags":[{"blue":1}]}"#, None),
    ("counted", r#"{"n":3}"#, Some(3)),
    ("counted", r#"{"n":3.0}"#, Some(3)),
    ("counted", r#"{"n":3e0}"#, Some(3)),
    ("counted", r#"{"n":"3"}"#, Some(3)),
    ("counted", r#"{"n":15e-1}"#, Some(3)),
    ("counted", r#"{"n":true}"#, Some(3)),
    ("counted", r#"{"n":3.0000001}"#, None),
    ("counted", r#"{"n":3.00000000000000000000001}"#, None),
    ("counted", r#"{"n":-3}"#, None),
    ("counted", r#"{"n":1e400}"#, None),
    ("counted", r#"{"n":false}"#, None),
    ("careful", r#"{"mode":"safe"}"#, Some(4)),
    ("careful", "{}", Some(4)),
    ("careful", r#"{"mode":"danger"}"#, None),
    ("careful", r#"{"mode":["safe","danger"]}"#, None),
    ("careful", r#"{"mode":"safe","MODE":"danger"}"#, None),
    ("given", r#"{"owner":"x"}"#, Some(5)),
    ("given", r#"{"owner":null}"#, None),
    ("other", r#"{"owner":"acme"}"#, None),
];

#[tokio::test]
async fn arguments_are_judged_as_check_says() -> Result<()> {
    let stage = Scene::under(RULES, server).await?.start(&[]).await?;
    let peer = stage.peer("bot")?;
    let client = Client::http1(peer.stream().await?).await?;
    let mut faults = Vec::new();
    for (number, (tool, arguments, rule)) in CASES.into_iter().enumerate() {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
        );
        let request = Request::post("/mcp").header("host", "app").header("content-type", "application/json");
        let request = request.header("x-request-id", format!("case-{number}"));
        let reply = client.send(request.body(full(body.clone()))?).await?;
        let line = stage
            .mesh
            .portcullis
            .logged(tool, |line| line["x_request_id"] == format!("case-{number}"))
            .await?;
        let want = rule.map(|rule| format!("ns[tools]-policy[rules]-rule[{rule}]"));
        let ran = stage.upstream.seen().iter().any(|seen| seen.body == body);
        if ran != want.is_some()
            || reply.json()?.get("result").is_some() != ran
            || line["policy_rule"].as_str() != want.as_deref()
        {
            faults.push(format!("{tool} {arguments}: wanted {want:?}, ran: {ran}, {reply:?}, {line}"));
        }
    }
    let folder = stage.mesh.setup.manifests.folder();
    for (tool, arguments, rule) in CASES {
        let (code, told) = check(folder, &stage.mesh.setup.ca.id("agents", "bot"), tool, arguments).await?;
        let want = rule.map(|rule| format!("ns[tools]-policy[rules]-rule[{rule}]"));
        if code != i32::from(want.is_none()) || told["policy_rule"].as_str() != want.as_deref() {
            faults.push(format!("check {tool} {arguments}: wanted {want:?}, got {code} {told}"));
        }
    }
    ensure!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

/// Asks `portcullis check`; returns its exit code and its report.
async fn check(manifests: &Path, from: &str, tool: &str, arguments: &str) -> Result<(i32, Value)> {
    let mut command = Command::new(binary()?);
    command.arg("check").arg("--manifests").arg(manifests).args(["--gateway", "tools/waypoint"]);
    command.args(["--from", from, "--to", &format!("app.tools:{PORT}"), "--path", "/mcp"]);
    command.args(["--tool", tool, "--args", arguments, "--output", "json"]);
    let mut process = Process::start("check", command)?;
    let code = process.ended().await?.code().context("ended by a signal")?;
    let printed = process.stdout.all().join("\n");
    let report =
        serde_json::from_str(&printed).with_context(|| format!("{printed:?} {:?}", process.stderr.all()))?;
    Ok((code, report))
}
