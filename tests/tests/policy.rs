//! Policies while everything runs: changes, dry runs, audits, conditions, and what is not built.

#![cfg(test)]

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request};
use hyper::body::Frame;
use portcullis_tests::application::hears;
use portcullis_tests::http::{Client, Events, empty, full};
use portcullis_tests::manifests;
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::portcullis::binary;
use portcullis_tests::process::Process;
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Seen, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Refused, TunnelStream};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::Instant;

const BOT: &str = "- from: [{source: {serviceAccounts: [agents/bot]}}]";
const BOTH: &str = "- from: [{source: {serviceAccounts: [agents/bot, agents/other]}}]";
const OTHER: &str = "- from: [{source: {serviceAccounts: [agents/other]}}]";

async fn assert_alive(tunnel: &mut TunnelStream) -> Result<()> {
    tunnel.write_all(b"alive?").await?;
    hears(tunnel, b"alive?").await
}

async fn get(running: &Running, account: &str, path: &str) -> Result<u16> {
    let tunnel = running.mesh.peer("agents", account)?.connect(&running.service.authority(HTTP)).await?;
    let request = Request::get(path).header("host", "app").body(empty())?;
    Ok(Client::http1(tunnel).await?.send(request).await?.status.as_u16())
}

#[tokio::test]
async fn a_change_closes_streams_that_are_no_longer_allowed_and_no_others() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    single.setup.policy("p", "app", "ALLOW", BOTH)?;
    let running = single.start().await?;
    let authority = running.service.authority(RAW);
    let mut cut = running.tunnel(RAW).await?;
    let mut kept = running.mesh.peer("agents", "other")?.connect(&authority).await?;
    assert_alive(&mut cut).await?;
    assert_alive(&mut kept).await?;
    running.mesh.change_policy("p", "app", "ALLOW", &format!("{BOTH}\n{BOT}")).await?;
    assert_alive(&mut cut).await?;
    running.mesh.change_policy("p", "app", "ALLOW", OTHER).await?;
    let changed = Instant::now();
    let read = wait::within("the cut", cut.read(&mut [0; 8])).await?;
    assert!(read.is_err(), "a cut is no clean end: {read:?}");
    assert!(changed.elapsed() < Duration::from_secs(1), "took {:?}", changed.elapsed());
    assert_alive(&mut kept).await?;
    assert_eq!(Refused::status_of(running.tunnel(RAW).await).as_u16(), 401);
    let closed = |line: &Value| line["response_code_details"] == "closed_by_policy_change";
    let line = running.mesh.portcullis.logged("the cut stream", closed).await?;
    assert_eq!(line["source_principal"], "spiffe://cluster.local/ns/agents/sa/bot", "{line}");
    Ok(())
}

#[tokio::test]
async fn a_new_deny_policy_and_a_service_that_is_gone_close_streams_too() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start().await?;
    let mut denied = running.tunnel(RAW).await?;
    assert_alive(&mut denied).await?;
    running.mesh.change_policy("d", "app", "DENY", BOT).await?;
    assert!(wait::within("the cut", denied.read(&mut [0; 8])).await?.is_err());
    running.mesh.setup.manifests.remove("policy-d")?;
    let bot = running.bot()?;
    let authority = running.service.authority(RAW);
    let mut homeless =
        wait::until_async("allowed again", async || Ok(bot.connect(&authority).await.ok())).await?;
    assert_alive(&mut homeless).await?;
    running.mesh.setup.manifests.remove("service-app")?;
    assert!(wait::within("the cut", homeless.read(&mut [0; 8])).await?.is_err());
    assert_eq!(Refused::status_of(running.tunnel(RAW).await).as_u16(), 400);
    Ok(())
}

#[tokio::test]
async fn a_change_holds_for_the_next_request_and_closes_event_streams() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("p", "app", "ALLOW", BOTH)?;
    let (sender, response) = upstream::open_events();
    let response = std::sync::Mutex::new(Some(response));
    let script = move |seen: &upstream::Seen| match seen.uri.path() {
        "/events" => response.lock().expect("one user").take().expect("one request"),
        _ => upstream::text(http::StatusCode::OK, "hi"),
    };
    let _app = Upstream::start(single.pod.port(HTTP), script).await?;
    let running = single.start().await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let ask = async |path: &str| client.send(Request::get(path).header("host", "app").body(empty())?).await;
    assert_eq!(ask("/").await?.status, 200);
    let streaming = Client::http1(running.tunnel(HTTP).await?).await?;
    let request = Request::get("/events").header("host", "app").body(empty())?;
    let mut events = Events::of(streaming.open(request).await?);
    sender.send(Frame::data(Bytes::from_static(b"data: 1\n\n"))).await?;
    assert_eq!(events.next().await?.context("an event")?.data, "1");
    running.mesh.change_policy("p", "app", "ALLOW", OTHER).await?;
    let changed = Instant::now();
    assert!(events.next().await.is_err(), "a cut stream of events is no finished one");
    assert!(changed.elapsed() < Duration::from_secs(1), "took {:?}", changed.elapsed());
    assert_eq!(ask("/").await?.status, 403, "on the connection that was open before");
    Ok(())
}

#[tokio::test]
async fn who_decided_is_in_the_log_and_not_in_the_answer() -> Result<()> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    single.setup.policy(
        "allow",
        "app",
        "ALLOW",
        &format!("- to: [{{operation: {{paths: [/nobody]}}}}]\n{BOTH}"),
    )?;
    single.setup.policy("deny", "app", "DENY", "- to: [{operation: {paths: [/secret]}}]")?;
    let running = single.start().await?;
    let rows = [
        ("bot", "/open", 200, "allow", Some("ns[tools]-policy[allow]-rule[1]")),
        ("bot", "/secret", 403, "deny", Some("ns[tools]-policy[deny]-rule[0]")),
        ("stranger", "/stranger", 403, "deny", None),
    ];
    for (account, path, status, decision, rule) in rows {
        assert_eq!(get(&running, account, path).await?, status, "{path}");
        let line = running.mesh.portcullis.logged(path, |line| line["path"] == path).await?;
        assert_eq!(line["decision"], decision, "{line}");
        assert_eq!(line.get("policy_rule").and_then(Value::as_str), rule, "{line}");
        let details = line["response_code_details"].as_str().unwrap_or_default();
        let expected = match (decision, rule) {
            ("deny", Some(rule)) => format!("rbac_access_denied_matched_policy[{rule}]"),
            ("deny", None) => "rbac_access_denied_matched_policy[none]".to_owned(),
            _ => "via_upstream".to_owned(),
        };
        assert_eq!(details, expected, "{line}");
    }
    let counted = [("decision", "deny"), ("destination_service", "app.tools.svc.cluster.local")];
    running.mesh.portcullis.metric_reaches("portcullis_policy_decisions_total", &counted, 2.0).await?;
    Ok(())
}

/// A policy with `istio.io/dry-run`.
fn dry_run(action: &str, rules: &str) -> String {
    manifests::policy(NAMESPACE, "try", "app", action, rules)
        .replace("metadata:\n", "metadata:\n  annotations: {istio.io/dry-run: 'true'}\n")
}

#[tokio::test]
async fn a_dry_run_is_logged_and_not_enforced() -> Result<()> {
    for (action, told) in
        [("DENY", "deny[ns[tools]-policy[try]-rule[0]]"), ("ALLOW", "allow[ns[tools]-policy[try]-rule[0]]")]
    {
        let single = Single::new(true).await?;
        single.setup.manifests.write("try", &[dry_run(action, BOT)])?;
        let _app =
            Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
        let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
        let running = single.start().await?;
        assert_eq!(get(&running, "bot", "/").await?, 200, "{action}");
        assert_eq!(get(&running, "stranger", "/stranger").await?, 200, "{action} is enforced on nobody");
        let mut tunnel = running.tunnel(RAW).await?;
        hears(&mut tunnel, b"hello").await?;
        drop(tunnel);
        for kind in ["request", "stream"] {
            let bots = |line: &Value| line["kind"] == kind && line["dry_run_decision"] == told;
            let line = running.mesh.portcullis.logged(kind, bots).await?;
            assert_eq!(line["decision"], "allow", "{line}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_audit_is_seen_in_the_log_and_decides_nothing() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("watch", "app", "AUDIT", BOT)?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    assert_eq!(get(&running, "bot", "/bot").await?, 200);
    assert_eq!(get(&running, "other", "/other").await?, 200);
    let line = running.mesh.portcullis.logged("audited", |line| line["path"] == "/bot").await?;
    assert!(line.to_string().contains("ns[tools]-policy[watch]-rule[0]"), "{line}");
    let line = running.mesh.portcullis.logged("not audited", |line| line["path"] == "/other").await?;
    assert!(!line.to_string().contains("policy[watch]"), "{line}");
    Ok(())
}

/// Until external authorization is built, what asks for it is refused: to leave the policy out would open its target.
#[tokio::test]
async fn custom_is_an_error_and_its_target_denies() -> Result<()> {
    let single = Single::new(true).await?;
    let custom = manifests::policy(NAMESPACE, "ext", "app", "CUSTOM", BOT)
        .replace("  action: CUSTOM\n", "  action: CUSTOM\n  provider: {name: authz}\n");
    single.setup.manifests.write("ext", &[custom])?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start().await?;
    assert_eq!(get(&running, "bot", "/").await?, 403);
    assert_eq!(get(&running, "stranger", "/").await?, 403);
    assert_eq!(Refused::status_of(running.tunnel(RAW).await).as_u16(), 401);
    app.saw_nothing();
    let (_, dump) = running.mesh.portcullis.ask("admin", Method::GET, "/config_dump").await?;
    let dump: Value = serde_json::from_str(&dump)?;
    let findings = dump["findings"].as_array().cloned().unwrap_or_default();
    let custom = findings.iter().find(|finding| finding["name"] == "tools/ext").context("a finding")?;
    assert_eq!((&custom["severity"], &custom["field"]), (&"error".into(), &"spec.action".into()), "{custom}");
    assert!(custom["message"].as_str().is_some_and(|text| text.contains("CUSTOM")), "{custom}");
    Ok(())
}

/// Calls of `pay`, and whether they are carried, where an amount up to 100 is allowed.
const PAYMENTS: [(&str, bool); 10] = [
    (r#"{"amount": 100, "to": "ann@acme.com"}"#, true),
    (r#"{"amount": 1e2, "to": "ann@acme.com"}"#, true),
    (r#"{"amount": 101, "to": "ann@acme.com"}"#, false),
    (r#"{"amount": 100.01, "to": "ann@acme.com"}"#, false),
    (r#"{"amount": 1e3, "to": "ann@acme.com"}"#, false),
    (r#"{"amount": "50", "to": "ann@acme.com"}"#, false),
    (r#"{"to": "ann@acme.com"}"#, false),
    (r#"{"amount": 50, "Amount": 500, "to": "ann@acme.com"}"#, false),
    (r#"{"amount": 50, "to": "ann@evil.com"}"#, false),
    ("{}", false),
];

/// The JSON-RPC answer to a call, whose number the upstream's records have too.
async fn call(running: &Running, number: usize, tool: &str, arguments: &str) -> Result<Value> {
    let params = format!(r#"{{"name": "{tool}", "arguments": {arguments}}}"#);
    let body = format!(r#"{{"jsonrpc": "2.0", "id": {number}, "method": "tools/call", "params": {params}}}"#);
    let request = Request::post("/mcp").header("host", "app").header("content-type", "application/json");
    Client::http1(running.tunnel(HTTP).await?).await?.send(request.body(full(body))?).await?.json()
}

fn when(condition: &str, value: &str) -> String {
    let key = format!("experimental.envoy.filters.http.mcp[cel: {condition}]");
    format!("- to: [{{operation: {{paths: [/mcp]}}}}]\n  when: [{{key: {key:?}, values: [\"{value}\"]}}]")
}

#[tokio::test]
async fn a_condition_decides_on_arguments_and_an_error_never_permits() -> Result<()> {
    let single = Single::new(true).await?;
    let answer = |seen: &Seen| {
        upstream::json(&json!({"jsonrpc": "2.0", "id": seen.json()["id"], "result": {"content": []}}))
    };
    let app = Upstream::start(single.pod.port(HTTP), answer).await?;
    let payment = "tool == 'pay' && args.amount <= 100 && args.to.endsWith('@acme.com')";
    let open = "- to: [{operation: {paths: [/mcp]}}]\n  when: [{key: 'experimental.envoy.filters.http.mcp[tool]', values: [refund]}]";
    single.setup.policy("small", "app", "ALLOW", &format!("{}\n{open}", when(payment, "true")))?;
    let large = "tool == 'refund' && args.amount > 100";
    single.setup.policy("large", "app", "DENY", &when(large, "true"))?;
    let running = single.start().await?;
    for (number, (arguments, carried)) in PAYMENTS.into_iter().enumerate() {
        let answer = call(&running, number, "pay", arguments).await?;
        assert_eq!(answer.get("result").is_some(), carried, "{arguments}: {answer}");
        assert_eq!(app.seen().iter().any(|seen| seen.json()["id"] == number), carried, "{arguments}");
    }
    // The DENY holds where it is true, and where it has no answer.
    let refunds = [
        (r#"{"amount": 100}"#, true),
        (r#"{"amount": 101}"#, false),
        (r#"{"amount": "100"}"#, false),
        ("{}", false),
    ];
    for (number, (arguments, carried)) in (PAYMENTS.len()..).zip(refunds) {
        let answer = call(&running, number, "refund", arguments).await?;
        assert_eq!(answer.get("result").is_some(), carried, "{arguments}: {answer}");
        assert_eq!(app.seen().iter().any(|seen| seen.json()["id"] == number), carried, "{arguments}");
    }
    let details = "rbac_access_denied_matched_policy[ns[tools]-policy[large]-rule[0]]";
    running.mesh.portcullis.logged("the DENY", |line| line["response_code_details"] == details).await?;
    Ok(())
}

#[tokio::test]
async fn a_condition_that_is_not_understood_is_named_and_its_target_denies() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    single.setup.policy("small", "app", "ALLOW", &when("tool == 'pay' && arg.amount <= 100", "true"))?;
    let mut check = Command::new(binary()?);
    check.arg("check").arg("--manifests").arg(single.setup.manifests.folder());
    check.args(["--gateway", "tools/waypoint", "--output", "json", "--path", "/mcp", "--tool", "pay"]);
    check.args(["--from", "spiffe://cluster.local/ns/agents/sa/bot", "--to", &format!("app.tools:{HTTP}")]);
    let mut check = Process::start("check", check)?;
    check.ended().await?;
    let report: Value = serde_json::from_str(&check.stdout.all().join("\n"))?;
    let findings = report["findings"].as_array().context("findings")?;
    let found = findings.iter().find(|finding| finding["name"] == "tools/small").context("a finding")?;
    assert_eq!((&found["severity"], &found["field"]), (&"error".into(), &"spec.rules[0].when[0].key".into()));
    let message = found["message"].as_str().unwrap_or_default();
    for part in [
        "at column 18 of the expression, before `arg.amount",
        "unknown variable `arg`",
        "there are args, tool",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let running = single.start().await?;
    let answer = call(&running, 1, "pay", r#"{"amount": 1}"#).await;
    assert!(!answer.is_ok_and(|answer| answer.get("result").is_some()));
    app.saw_nothing();
    Ok(())
}
