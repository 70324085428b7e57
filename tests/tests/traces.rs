//! Traces: whose they are, what their spans say, and that nothing waits for them. Spans are taken by a receiver that is
//! made of OpenTelemetry's published messages.

#![cfg(test)]

use anyhow::{Context as _, Result};
use http::{HeaderMap, Request};
use portcullis_tests::http::{Client, empty, post_json};
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::{Mesh, Pod, Service, Setup};
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::portcullis::Run;
use portcullis_tests::process::Process;
use portcullis_tests::upstream::{self, Upstream};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::net::TcpListener;

const PORT: u16 = 8080;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const MAY_SEARCH: &str = "- from: [{source: {serviceAccounts: [agents/bot]}}]
  when: [{key: 'experimental.envoy.filters.http.mcp[tool]', values: [search]}]";

/// A mesh with the services `github`, whose policy is about tools, and `planner`, which has none; with a collector.
struct Stage {
    mesh: Mesh,
    github: Service,
    planner: Service,
    tool: Upstream,
    agent: Upstream,
    collector: Process,
    _pods: [Pod; 2],
}

impl Stage {
    /// `over`: the collector's protocol. `change`: more flags.
    async fn start(over: &str, change: impl FnOnce(&Setup, Run) -> Result<Run>) -> Result<Self> {
        let mut setup = Setup::new()?;
        let (github_pod, planner_pod) = (setup.pod("github", true).await?, setup.pod("planner", true).await?);
        let ports = [Port::new("web", PORT).speaking("http")];
        let (github, planner) = (setup.service("github", &ports)?, setup.service("planner", &ports)?);
        setup.policy("tools", "github", "ALLOW", MAY_SEARCH)?;
        let tool = Upstream::start(github_pod.port(PORT), |seen| {
            let mut answer = upstream::result(seen, &json!({"content": []}));
            if seen.json()["method"] == "initialize" {
                answer.headers_mut().insert("mcp-session-id", "s-1".parse().expect("a header"));
            }
            answer
        });
        let agent =
            Upstream::start(planner_pod.port(PORT), |_seen| upstream::text(http::StatusCode::OK, "ok"));
        let (tool, agent) = (tool.await?, agent.await?);
        let address = setup.addresses.socket(4317);
        let collector = Runtime::Python1.serve("otlp_collector.py", address).await?;
        let endpoint = match over {
            "grpc" => address,
            _http => SocketAddr::new(address.ip(), address.port() + 1),
        };
        let run =
            setup.run().arg("--otlp-endpoint", format!("http://{endpoint}")).arg("--otlp-protocol", over);
        let run = change(&setup, run)?;
        let mesh = setup.start_with(run).await?;
        let _pods = [github_pod, planner_pod];
        Ok(Self { mesh, github, planner, tool, agent, collector, _pods })
    }

    /// A call of an MCP server; returns its answer.
    async fn call(&self, head: &[(&str, &str)], message: &Value) -> Result<(Value, HeaderMap)> {
        let tunnel = self.mesh.peer("agents", "bot")?.connect(&self.github.authority(PORT)).await?;
        let mut request = post_json("/mcp", "github", message)?;
        for (name, value) in head {
            request.headers_mut().append(http::HeaderName::try_from(*name)?, value.parse()?);
        }
        let reply = Client::http1(tunnel).await?.send(request).await?;
        Ok((serde_json::from_str(&reply.text()).unwrap_or_default(), reply.headers))
    }

    /// A request of another service; returns what of its head arrived there.
    async fn get(&self, account: &str, path: &str, head: &[(&str, &str)]) -> Result<HeaderMap> {
        let tunnel = self.mesh.peer("tools", account)?.connect(&self.planner.authority(PORT)).await?;
        let mut request =
            Request::get(path).header("host", "planner").header("user-agent", "test/1").body(empty())?;
        for (name, value) in head {
            request.headers_mut().append(http::HeaderName::try_from(*name)?, value.parse()?);
        }
        let reply = Client::http1(tunnel).await?.send(request).await?;
        assert_eq!(reply.status, 200);
        let seen = self.agent.seen().into_iter().find(|seen| seen.uri.path() == path);
        Ok(seen.context("it did not arrive")?.headers)
    }

    /// The span that `wanted` accepts.
    async fn span(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.collector.stdout.find_json(what, wanted).await
    }
}

fn plain(_: &Setup, run: Run) -> Result<Run> {
    Ok(run)
}

fn tool_call(id: u64, tool: &str, meta: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": tool, "arguments": {"secret": "hunter2"}, "_meta": meta}})
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn path_is(path: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["attributes"]["url.path"] == path
}

/// Trace and span of a `traceparent`.
fn ids(parent: &str) -> (&str, &str) {
    let mut parts = parent.split('-').skip(1);
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

#[tokio::test]
async fn an_agents_call_and_the_call_that_the_tool_makes_are_one_trace() -> Result<()> {
    let stage = Stage::start("grpc", plain).await?;
    let meta = json!({"traceparent": format!("00-{TRACE}-{SPAN}-01"), "tracestate": "vendor=1"});
    stage.call(&[], &tool_call(7, "search", &meta)).await?;
    let told = stage.tool.seen().pop().context("the call arrived")?;
    let parent = text(&told.headers, "traceparent").context("the tool is told of the trace")?.to_owned();
    assert_eq!((ids(&parent).0, text(&told.headers, "tracestate")), (TRACE, Some("vendor=1")));
    // The tool works on in the context that it was told, as OpenTelemetry's libraries do, and asks another agent.
    stage.get("github", "/plan", &[("traceparent", &parent), ("tracestate", "vendor=1")]).await?;

    let first = stage.span("the call", |line| line["name"] == "tools/call search").await?;
    assert_eq!((&first["trace"], &first["parent"]), (&json!(TRACE), &json!(SPAN)), "{first}");
    assert_eq!(
        (&first["span"], &first["kind"]),
        (&json!(ids(&parent).1), &json!("SPAN_KIND_SERVER")),
        "{first}"
    );
    assert_eq!(
        (&first["state"], &first["status"]),
        (&json!("vendor=1"), &json!("STATUS_CODE_UNSET")),
        "{first}"
    );
    let second = stage.span("the tool's own call", path_is("/plan")).await?;
    assert_eq!((&second["trace"], &second["parent"]), (&json!(TRACE), &first["span"]), "{second}");
    assert_eq!(second["name"], "GET", "{second}");
    stage.mesh.portcullis.metric_reaches("portcullis_spans_exported_total", &[], 2.0).await?;
    let line = stage.mesh.portcullis.logged("the call", |line| line["mcp_name"] == "search").await?;
    assert_eq!(line["trace_id"], TRACE, "{line}");
    Ok(())
}

#[tokio::test]
async fn a_span_says_what_the_conventions_of_mcp_ask_for_and_no_argument() -> Result<()> {
    let stage = Stage::start("grpc", plain).await?;
    let initialize = json!({"jsonrpc": "2.0", "id": "i-1", "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
    let (_, headers) = stage.call(&[], &initialize).await?;
    let session = text(&headers, "mcp-session-id").context("a session")?.to_owned();
    let head = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-06-18")];
    // The head names the caller's span of the HTTP request, the message that of the call.
    let here = ("traceparent", format!("00-{TRACE}-{SPAN}-01"));
    let meta = json!({"traceparent": format!("00-{TRACE}-{}-01", "a".repeat(16))});
    stage.call(&[head[0], head[1], (here.0, &here.1)], &tool_call(7, "search", &meta)).await?;
    stage.call(&head, &tool_call(9, "drop", &json!({}))).await?;

    let span = stage.span("the call", |line| line["name"] == "tools/call search").await?;
    let expected = json!({
        "mcp.method.name": "tools/call", "gen_ai.tool.name": "search", "gen_ai.operation.name": "execute_tool",
        "mcp.protocol.version": "2025-06-18", "mcp.session.id": session, "jsonrpc.request.id": "7",
        "http.request.method": "POST", "url.path": "/mcp", "url.scheme": "http", "http.response.status_code": 200,
        "network.protocol.name": "http", "network.protocol.version": "1.1", "network.transport": "tcp",
        "server.address": "github", "server.port": 8080, "component": "proxy", "response_flags": "-",
        "istio.source_principal": "spiffe://cluster.local/ns/agents/sa/bot",
        "istio.destination_principal": "spiffe://cluster.local/ns/tools/sa/github",
        "istio.destination_service": "github.tools.svc.cluster.local",
        "istio.destination_workload": "github-1", "istio.destination_namespace": "tools",
        "upstream_cluster": "inbound-vip|8080|http|github.tools.svc.cluster.local",
        "portcullis.decision": "allow", "portcullis.policy_rule": "ns[tools]-policy[tools]-rule[0]",
    });
    for (name, value) in expected.as_object().context("an object")? {
        assert_eq!(&span["attributes"][name], value, "{name} of {span}");
    }
    assert_eq!(
        (&span["parent"], &span["links"]),
        (&json!(SPAN), &json!([[TRACE, "a".repeat(16)]])),
        "{span}"
    );
    assert_eq!(span["resource"]["service.name"], "portcullis", "{span}");

    let denied = stage.span("the denied call", |line| line["name"] == "tools/call drop").await?;
    let attributes = &denied["attributes"];
    assert_eq!(
        (&attributes["portcullis.decision"], &attributes["error.type"]),
        (&json!("deny"), &json!("policy_denied"))
    );
    assert_eq!(denied["status"], "STATUS_CODE_ERROR", "{denied}");
    let opened = stage.span("the handshake", |line| line["name"] == "initialize").await?;
    assert_eq!(opened["attributes"]["mcp.session.id"], session.as_str(), "{opened}");
    assert_eq!(opened["attributes"]["jsonrpc.request.id"], "i-1", "{opened}");
    assert!(!stage.collector.stdout.all().concat().contains("hunter2"), "an argument is told");
    Ok(())
}

#[tokio::test]
async fn every_form_of_a_context_is_understood_and_answered_in_kind() -> Result<()> {
    let stage = Stage::start("http", plain).await?;
    let (w3c, single) = (format!("00-{TRACE}-{SPAN}-01"), format!("{TRACE}-{SPAN}-1"));
    let told = stage.get("github", "/w3c", &[("traceparent", &w3c)]).await?;
    assert_eq!((text(&told, "b3"), text(&told, "x-b3-traceid")), (None, None));
    let told = stage.get("github", "/b3", &[("b3", &single)]).await?;
    let parent = text(&told, "traceparent").context("W3C's form is always there")?;
    assert_eq!(text(&told, "b3"), Some(&*format!("{TRACE}-{}-1", ids(parent).1)));
    let multi =
        [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1"), ("x-b3-parentspanid", SPAN)];
    let told = stage.get("github", "/multi", &multi).await?;
    let parent = text(&told, "traceparent").context("W3C's form is always there")?;
    let several = ["x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-parentspanid"];
    assert_eq!(several.map(|name| text(&told, name)), [Some(TRACE), Some(ids(parent).1), Some("1"), None]);
    for path in ["/w3c", "/b3", "/multi"] {
        let span = stage.span(path, path_is(path)).await?;
        assert_eq!((&span["trace"], &span["parent"]), (&json!(TRACE), &json!(SPAN)), "{span}");
        assert_eq!(span["headers"]["protocol"], "http", "{span}");
    }
    Ok(())
}

#[tokio::test]
async fn who_is_recorded_is_decided_where_a_trace_begins() -> Result<()> {
    let share =
        |_: &Setup, run: Run| Ok(run.arg("--trace-sampling", "0").arg("--trace-propagation", "b3multi"));
    let stage = Stage::start("grpc", share).await?;
    let mine = stage.get("github", "/root", &[]).await?;
    let parent = text(&mine, "traceparent").context("the upstream is told that it is not recorded")?;
    assert!(parent.ends_with("-00"), "{parent}");
    assert_eq!((text(&mine, "x-b3-sampled"), text(&mine, "x-b3-traceid")), (Some("0"), Some(ids(parent).0)));
    let unrecorded = format!("00-{TRACE}-{SPAN}-00");
    let passed = stage.get("github", "/not", &[("traceparent", &unrecorded)]).await?;
    assert_eq!(
        text(&passed, "traceparent"),
        Some(&*unrecorded),
        "who does not record does not put itself in between"
    );
    stage.get("github", "/recorded", &[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]).await?;
    stage.span("the recorded one", path_is("/recorded")).await?;
    let told: Vec<Value> =
        stage.collector.stdout.json().into_iter().filter(|line| line["span"].is_string()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn without_a_collector_headers_pass_as_they_came() -> Result<()> {
    let mut setup = Setup::new()?;
    let pod = setup.pod("planner", true).await?;
    let service = setup.service("planner", &[Port::new("web", PORT).speaking("http")])?;
    let agent = Upstream::start(pod.port(PORT), |_seen| upstream::text(http::StatusCode::OK, "ok")).await?;
    let mesh = setup.start().await?;
    let tunnel = mesh.peer("agents", "bot")?.connect(&service.authority(PORT)).await?;
    let said =
        [("traceparent", format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "a=1".into()), ("b3", "0".into())];
    let request = said
        .iter()
        .fold(Request::get("/").header("host", "planner"), |r, (name, value)| r.header(*name, value));
    assert_eq!(Client::http1(tunnel).await?.send(request.body(empty())?).await?.status, 200);
    let seen = agent.seen().pop().context("it arrived")?;
    for (name, value) in &said {
        assert_eq!(text(&seen.headers, name), Some(value.as_str()));
    }
    Ok(())
}

#[tokio::test]
async fn the_last_spans_are_exported_before_the_process_ends() -> Result<()> {
    let mut stage = Stage::start("grpc", plain).await?;
    stage.get("github", "/last", &[]).await?;
    assert!(stage.mesh.portcullis.stop().await?.success());
    stage.span("the last one", path_is("/last")).await?;
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_away_is_told_once_and_its_spans_are_counted() -> Result<()> {
    let flags = |setup: &Setup, run: Run| {
        let nobody = setup.addresses.socket(4317);
        Ok(run.instead("--otlp-endpoint", format!("http://{nobody}")))
    };
    let stage = Stage::start("grpc", flags).await?;
    let failed = [("reason", "export_failed")];
    for least in [1.0, 2.0] {
        stage.get("github", "/lost", &[]).await?;
        stage.mesh.portcullis.metric_reaches("portcullis_spans_dropped_total", &failed, least).await?;
    }
    let told = stage.mesh.portcullis.events().all();
    assert_eq!(told.iter().filter(|line| line.contains("spans cannot be exported")).count(), 1, "{told:?}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_is_overloaded_gets_its_spans_a_moment_later() -> Result<()> {
    for over in ["grpc", "http"] {
        let stage = Stage::start(over, plain).await?;
        stage.get("github", "/overloaded", &[]).await?;
        stage.span("it was taken in the end", path_is("/overloaded")).await?;
        let refusals = stage.collector.stdout.all();
        assert_eq!(
            refusals.iter().filter(|line| line.contains("refused")).count(),
            2,
            "{over}: {refusals:?}"
        );
        let portcullis = &stage.mesh.portcullis;
        portcullis.metric_reaches("portcullis_spans_exported_total", &[], 1.0).await?;
        let lost = portcullis.metrics().await?.sum("portcullis_spans_dropped_total", &[]);
        assert!(lost.abs() < f64::EPSILON, "{over}: {lost} lost");
    }
    Ok(())
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_spans_and_no_request() -> Result<()> {
    // Connections wait in its backlog for ever.
    let blocked = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", blocked.local_addr()?);
    let flags = |setup: &Setup, run: Run| {
        let settings = setup.file("settings.yaml", "span_queue: 4\n")?;
        Ok(run.instead("--otlp-endpoint", endpoint).arg("--settings", settings))
    };
    let stage = Stage::start("grpc", flags).await?;
    let tunnel = stage.mesh.peer("tools", "github")?.connect(&stage.planner.authority(PORT)).await?;
    let client = Client::http1(tunnel).await?;
    let lost = async || {
        let metrics = stage.mesh.portcullis.metrics().await?;
        Ok::<_, anyhow::Error>(metrics.sum("portcullis_spans_dropped_total", &[("reason", "queue_full")]))
    };
    // 512 are taken for the export that hangs, four wait; what comes then is lost, and counted.
    let mut sent = 0;
    while lost().await? < 10.0 {
        for _ in 0..50 {
            let request = Request::get("/many").header("host", "planner").body(empty())?;
            assert_eq!(client.send(request).await?.status, 200);
        }
        sent += 50;
        assert!(sent < 5_000, "nothing is lost after {sent} requests");
    }
    // Nor does the end of the process wait for it.
    let mut stage = stage;
    assert!(stage.mesh.portcullis.stop().await?.success());
    Ok(())
}
