//! The ports beside the traffic: readiness, metrics that Prometheus reads, and the admin port.

#![cfg(test)]

use anyhow::{Context as _, Result};
use http::{Method, Request};
use portcullis_tests::application::hears;
use portcullis_tests::http::{Client, empty, raw};
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// A mesh through which one allowed and one denied request and one stream went.
async fn used() -> Result<Running> {
    let single = Single::new(true).await?;
    single.setup.policy("readers", "app", "ALLOW", "- from: [{source: {serviceAccounts: [agents/bot]}}]")?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hello").await?;
    let running = single.start().await?;
    for (account, status) in [("bot", 200), ("other", 403)] {
        let tunnel = running.mesh.peer("agents", account)?.connect(&running.service.authority(HTTP)).await?;
        let request = Request::get("/").header("host", "app").body(empty())?;
        assert_eq!(Client::http1(tunnel).await?.send(request).await?.status, status);
    }
    let mut tunnel = running.tunnel(RAW).await?;
    hears(&mut tunnel, b"hello").await?;
    tunnel.write_all(b"abc").await?;
    hears(&mut tunnel, b"abc").await?;
    tunnel.shutdown().await?;
    running.mesh.portcullis.metric_reaches("istio_tcp_connections_closed_total", &[], 1.0).await?;
    Ok(running)
}

/// The samples called `name` in what Prometheus' own parser understood.
fn samples(families: &Value, name: &str) -> Vec<Value> {
    let all = families.as_object().into_iter().flat_map(|families| families.values());
    let samples = all.flat_map(|family| family["samples"].as_array().cloned().unwrap_or_default());
    samples.filter(|sample| sample["name"] == name).collect()
}

#[track_caller]
fn only(families: &Value, name: &str, with: (&str, &str)) -> Value {
    let found: Vec<_> =
        samples(families, name).into_iter().filter(|sample| sample["labels"][with.0] == with.1).collect();
    assert_eq!(found.len(), 1, "{name} with {with:?}: {found:#?}");
    found.into_iter().next().unwrap_or_default()
}

#[tokio::test]
async fn prometheus_reads_the_metrics_and_finds_istios_names() -> Result<()> {
    let running = used().await?;
    let url = format!("http://{}/stats/prometheus", running.mesh.portcullis.address("metrics")?);
    let report = Runtime::Python1.report("read_metrics.py", &[&url]).await?;
    assert!(
        report["content_type"].as_str().is_some_and(|kind| kind.starts_with("application/openmetrics-text"))
    );
    let families = &report["families"];
    let allowed = only(families, "istio_requests_total", ("response_code", "200"));
    assert_eq!(allowed["value"], 1.0);
    let labels = json!({
        "reporter": "waypoint",
        "source_principal": "spiffe://cluster.local/ns/agents/sa/bot",
        "source_workload": "unknown",
        "source_workload_namespace": allowed["labels"]["source_workload_namespace"],
        "destination_principal": "spiffe://cluster.local/ns/tools/sa/app",
        "destination_workload": running.pod.name,
        "destination_workload_namespace": "tools",
        "destination_service": "app.tools.svc.cluster.local",
        "destination_service_name": "app",
        "destination_service_namespace": "tools",
        "request_protocol": "http",
        "response_code": "200",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
    });
    for (label, value) in labels.as_object().context("labels")? {
        assert_eq!(allowed["labels"].get(label), Some(value), "{label} in {allowed:#}");
    }
    assert_eq!(only(families, "istio_requests_total", ("response_code", "403"))["value"], 1.0);
    let counted = [
        ("istio_request_duration_milliseconds_count", "response_code", "200", 1.0),
        ("istio_tcp_connections_opened_total", "reporter", "waypoint", 1.0),
        ("istio_tcp_connections_closed_total", "reporter", "waypoint", 1.0),
        ("istio_tcp_received_bytes_total", "reporter", "waypoint", 3.0),
        ("istio_tcp_sent_bytes_total", "reporter", "waypoint", 8.0),
        ("portcullis_policy_decisions_total", "decision", "deny", 1.0),
    ];
    for (name, label, value, count) in counted {
        assert_eq!(only(families, name, (label, value))["value"], count, "{name}");
    }
    for name in [
        "portcullis_config_generation",
        "portcullis_config_errors",
        "portcullis_tunnels",
        "portcullis_streams",
        "portcullis_upstream_connections",
        "portcullis_upstream_ejected",
        "portcullis_mcp_sessions",
    ] {
        assert_eq!(samples(families, name).len(), 1, "{name}");
    }
    let expires = samples(families, "portcullis_certificate_not_after_seconds");
    assert!(expires.iter().any(|sample| sample["value"].as_f64() > Some(1_700_000_000.0)), "{expires:?}");
    Ok(())
}

#[tokio::test]
async fn it_is_ready_on_every_port_that_says_so() -> Result<()> {
    let running = Running::start().await?;
    for port in ["ready", "metrics", "admin"] {
        let answer = running.mesh.portcullis.ask(port, Method::GET, "/healthz/ready").await?;
        assert_eq!(answer, (200, "ready\n".to_owned()), "{port}");
    }
    for (port, path) in [
        ("ready", "/config_dump"),
        ("metrics", "/config_dump"),
        ("ready", "/quitquitquit"),
        ("ready", "/stats/prometheus"),
    ] {
        assert_eq!(
            running.mesh.portcullis.ask(port, Method::GET, path).await?.0,
            404,
            "{path} is not for {port}"
        );
    }
    let asked = running.mesh.portcullis.ask("metrics", Method::GET, "/quitquitquit").await?;
    assert_eq!(asked.0, 405, "a GET stops nobody");
    Ok(())
}

#[tokio::test]
async fn the_dump_shows_everything_but_secrets() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("readers", "app", "ALLOW", "- from: [{source: {serviceAccounts: [agents/bot]}}]")?;
    let key = single.setup.file("session.key", "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I=\n")?;
    let private = std::fs::read_to_string(&single.setup.svid.key)?;
    let run = single.setup.run().arg("--session-key", key);
    let mesh = single.setup.start_with(run).await?;
    let (status, text) = mesh.portcullis.ask("admin", Method::GET, "/config_dump").await?;
    assert_eq!(status, 200);
    let dump: Value = serde_json::from_str(&text)?;
    assert_eq!((&dump["generation"], &dump["phase"]), (&json!(1), &json!("serving")));
    assert_eq!(dump["certificate"]["id"], mesh.waypoint_id());
    assert!(dump["certificate"]["not_after"].is_string(), "{}", dump["certificate"]);
    assert_eq!(dump["settings"]["limits"]["streams_per_connection"], 200);
    for name in ["app.tools.svc.cluster.local", "readers", "spiffe://cluster.local/ns/tools/sa/app"] {
        assert!(dump["mesh"].to_string().contains(name), "{name}");
    }
    assert!(!text.contains("PRIVATE KEY") && !text.contains("c2VjcmV0"), "no secret may be shown");
    for line in private.lines().filter(|line| !line.starts_with('-')) {
        assert!(!text.contains(line), "a line of the private key");
    }
    Ok(())
}

#[tokio::test]
async fn the_log_level_is_changed_while_it_runs() -> Result<()> {
    let running = Running::start().await?;
    let portcullis = &running.mesh.portcullis;
    assert_eq!(portcullis.ask("admin", Method::GET, "/logging").await?, (200, "info\n".to_owned()));
    assert_eq!(portcullis.ask("admin", Method::POST, "/logging").await?, (200, "info\n".to_owned()));
    assert_eq!(portcullis.ask("admin", Method::POST, "/logging?http=debug").await?.0, 400);
    assert_eq!(portcullis.ask("admin", Method::POST, "/logging?level=waypoint_proxy=nonsense").await?.0, 400);
    assert_eq!(
        portcullis.ask("admin", Method::GET, "/logging").await?.1,
        "info\n",
        "a bad filter changes nothing"
    );
    assert_eq!(portcullis.ask("admin", Method::POST, "/logging?level=error").await?.0, 200);
    let refused = |authority: &'static str| async { running.bot()?.connect(authority).await.map(drop) };
    assert!(refused("10.96.9.1:1").await.is_err());
    assert_eq!(portcullis.ask("admin", Method::POST, "/logging?level=debug").await?.0, 200);
    assert!(refused("10.96.9.2:1").await.is_err());
    portcullis.events().find("the second refusal", |line| line.contains("10.96.9.2").then_some(())).await?;
    let told = portcullis.events().all();
    assert!(!told.iter().any(|line| line.contains("10.96.9.1:1")), "level error tells no refusal: {told:?}");
    Ok(())
}

/// A page from elsewhere that a browser loads may reach loopback under a name of its own.
#[tokio::test]
async fn the_admin_port_answers_to_local_names_only() -> Result<()> {
    let running = Running::start().await?;
    for (host, status) in
        [("127.0.0.1", 200), ("localhost:15000", 200), ("[::1]:15000", 200), ("evil.example", 403)]
    {
        let mut tcp = TcpStream::connect(running.mesh.portcullis.address("admin")?).await?;
        let request = format!("GET /logging HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(raw(&mut tcp, &[request.as_bytes()]).await?.status(), status, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn the_access_log_can_be_text_or_off() -> Result<()> {
    for form in ["text", "off"] {
        let single = Single::new(true).await?;
        let _app =
            Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
        let run = single.setup.run().arg("--access-log", form);
        let mut mesh = single.setup.start_with(run).await?;
        let tunnel = mesh.peer("agents", "bot")?.connect(&single.service.authority(HTTP)).await?;
        let request =
            Request::get("/text").header("host", "app").header("user-agent", "a \"b\"\\").body(empty())?;
        Client::http1(tunnel).await?.send(request).await?;
        mesh.portcullis.ask("admin", Method::POST, "/quitquitquit").await?;
        mesh.portcullis.signal("TERM").await?;
        mesh.portcullis.ended().await?;
        let lines = mesh.portcullis.access_log().all();
        match form {
            "off" => assert!(lines.is_empty(), "{lines:?}"),
            _ => {
                assert_eq!(lines.len(), 1, "{lines:?}");
                assert!(lines[0].contains("\"GET /text HTTP/1.1\" 200 - via_upstream"), "{lines:?}");
                assert!(lines[0].contains(r#""a \"b\"\\""#), "a client cannot end a field: {lines:?}");
            }
        }
    }
    Ok(())
}
