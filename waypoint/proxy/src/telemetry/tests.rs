//! What an operator sees: golden lines and golden metrics.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use spiffe_id::SpiffeId;
use waypoint_model::{
    Expr, Locality, Map, MeshConfig, Policy, PolicyKey, Protocol, Rule, Service, ServiceKey, ServicePort,
    StringMatch, Test, TunnelKind, Workload, WorkloadUid,
};
use waypoint_policy::RuleName;

use super::*;

#[derive(Clone, Default)]
pub(super) struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Blocks each write until told to go on.
struct Stuck(Sender<()>, Receiver<()>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.0.send(());
        let _ = self.1.recv();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn service() -> Arc<Service> {
    Arc::new(Service {
        key: ServiceKey::new("tools", "github.tools.svc.cluster.local"),
        name: "github".to_owned(),
        fronted: true,
        aliases: Vec::new(),
        vips: Vec::new(),
        ports: Map::new(),
        endpoints: Vec::new(),
        policies: vec![PolicyKey::new("tools", "readers")],
        routes: Vec::new(),
        jwt: Vec::new(),
    })
}

fn workload(namespace: &str, name: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid(format!("Kubernetes//Pod/{namespace}/{name}-0").into()),
        name: format!("{name}-0").into(),
        namespace: namespace.into(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
        identity: Some(SpiffeId::istio("cluster.local", namespace, name).unwrap()),
        tunnel: TunnelKind::Hbone,
        locality: Locality::default(),
        workload_name: name.into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        app: Some(name.into()),
        version: None,
        cluster: "Kubernetes".into(),
    })
}

pub(super) fn rule(index: usize) -> RuleName {
    RuleName { policy: PolicyKey::new("tools", "readers"), rule: index }
}

fn source() -> SourceRecord {
    SourceRecord {
        principal: Some(SpiffeId::istio("cluster.local", "agents", "bot").unwrap()),
        address: "10.0.0.7:40000".parse().unwrap(),
        workload: Some(workload("agents", "bot")),
    }
}

pub(super) fn request() -> RequestRecord {
    RequestRecord {
        started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123),
        clock: Instant::now(),
        source: source(),
        service: Some(service()),
        port: 80,
        method: http::Method::POST,
        path: "/mcp?x=1".to_owned(),
        authority: "github.tools".to_owned(),
        protocol: "HTTP/1.1",
        user_agent: Some("sdk/1".to_owned()),
        request_id: Some("r-1".to_owned()),
        decision: Decision::Allowed(Some(rule(0))),
        dry_run: None,
        audited: vec![rule(3)],
        upstream: Some((workload("tools", "github"), "10.0.0.9:15008".parse().unwrap())),
        upstream_local: None,
        transport_failure: None,
        service_time: None,
        routed_to: RoutedTo::Service,
        route: Some("default".into()),
        a2a: None,
        mcp: Some(McpRecord {
            method: Some("tools/call".to_owned()),
            name: Some("search".to_owned()),
            revision: Some("2025-06-18".to_owned()),
            kind: Some("call"),
            messages: 1,
            body_read: true,
            ..McpRecord::default()
        }),
        status: 200,
        grpc_status: None,
        flags: "-",
        detail: "via_upstream".to_owned(),
        bytes_received: 11,
        bytes_sent: 22,
        generation: 4,
        grpc: false,
        grpc_messages: (0, 0),
        local: Some("10.96.0.3:80".parse().unwrap()),
        headers: Captured::default(),
        traced: None,
        trace: None,
    }
}

pub(super) fn stream() -> StreamRecord {
    StreamRecord {
        started: SystemTime::UNIX_EPOCH,
        clock: Instant::now(),
        source: source(),
        service: Some(service()),
        port: 5432,
        local: Some("10.96.0.3:5432".parse().unwrap()),
        server_name: None,
        authority: "10.96.0.3:5432".to_owned(),
        decision: Decision::Allowed(None),
        upstream: Some((workload("tools", "github"), "10.0.0.9:15008".parse().unwrap())),
        upstream_local: None,
        transport_failure: None,
        status: 200,
        flags: "-",
        detail: String::new(),
        bytes_received: 5,
        bytes_sent: 7,
        reported: (0, 0),
        generation: 1,
        dry_run: None,
        audited: Vec::new(),
    }
}

/// Without settings of a port.
impl Telemetry {
    fn request(&self, record: RequestRecord) {
        self.finish_request(record, None);
    }

    fn stream_ended(&self, record: StreamRecord) {
        self.finish_stream(record, None);
    }
}

fn quiet() -> Telemetry {
    Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &Limits::default())
}

const MS: Duration = Duration::from_micros(1_500);

#[test]
fn a_request_is_one_json_line_with_the_contracts_fields() {
    let line = String::from_utf8(line::request_json(&request(), MS)).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"start_time":"2026-01-01T00:00:00.123Z","kind":"request","#,
            r#""source_principal":"spiffe://cluster.local/ns/agents/sa/bot","source_address":"10.0.0.7:40000","#,
            r#""source_workload":"bot","source_namespace":"agents","#,
            r#""destination_service":"github.tools.svc.cluster.local","destination_port":80,"#,
            r#""destination_principal":"spiffe://cluster.local/ns/tools/sa/github","destination_workload":"github","#,
            r#""upstream_host":"10.0.0.9:15008","method":"POST","path":"/mcp?x=1","authority":"github.tools","#,
            r#""protocol":"HTTP/1.1","user_agent":"sdk/1","x_request_id":"r-1","response_code":200,"#,
            r#""response_flags":"-","response_code_details":"via_upstream","bytes_received":11,"bytes_sent":22,"#,
            r#""duration_ms":1.5,"route_name":"default","mcp_method":"tools/call","mcp_name":"search","#,
            r#""mcp_revision":"2025-06-18","mcp_kind":"call","decision":"allow","#,
            r#""policy_rule":"ns[tools]-policy[readers]-rule[0]","#,
            r#""audit_rules":["ns[tools]-policy[readers]-rule[3]"],"generation":4}"#,
            "\n"
        )
    );
}

#[test]
fn a_request_is_one_line_of_istios_text_format() {
    let record = RequestRecord {
        upstream_local: Some(LocalEnd::Tunnel),
        service_time: Some(Duration::from_micros(2_900)),
        ..request()
    };
    assert_eq!(
        text(&Facts::of_request(&record, Duration::from_millis(3))),
        "[2026-01-01T00:00:00.123Z] \"POST /mcp?x=1 HTTP/1.1\" 200 - via_upstream - \"-\" 11 22 3 2 \"-\" \"sdk/1\" \
         \"r-1\" \"github.tools\" \"10.0.0.9:15008\" inbound-vip|80|http|github.tools.svc.cluster.local \
         envoy://internal_client_address/ 10.96.0.3:80 10.0.0.7:40000 - default\n"
    );
}

#[test]
fn an_endpoint_that_was_not_reached_says_why_in_one_word() {
    let source = std::io::Error::other("no route to it");
    let record = RequestRecord {
        flags: "UF",
        detail: "connect to 10.0.0.9:80: no route".to_owned(),
        transport_failure: Some(Arc::new(source)),
        upstream_local: Some(LocalEnd::Socket("10.0.0.2:4711".parse().unwrap())),
        ..request()
    };
    let line = text(&Facts::of_request(&record, Duration::ZERO));
    assert!(line.contains(" 200 UF connect_to_10.0.0.9:80:_no_route - \"no_route_to_it\" 11 "), "{line}");
    assert!(line.contains(" 10.0.0.2:4711 10.96.0.3:80 "), "{line}");
}

/// The line of the process' own text format.
fn text(facts: &Facts<'_>) -> String {
    String::from_utf8(Own::istio().line(facts).unwrap()).unwrap()
}

#[test]
fn a_refused_stream_says_why() {
    let record = StreamRecord {
        decision: Decision::Denied {
            detail: "rbac_access_denied_matched_policy[none]".to_owned(),
            rule: None,
        },
        upstream: None,
        status: 401,
        ..stream()
    };
    assert_eq!(
        text(&Facts::of_stream(&record, MS)),
        "[1970-01-01T00:00:00.000Z] \"- - -\" 401 - - rbac_access_denied_matched_policy[none] \"-\" 5 7 1 - \"-\" \"-\" \
         \"-\" \"-\" \"-\" inbound-vip|5432|tcp|github.tools.svc.cluster.local - 10.96.0.3:5432 10.0.0.7:40000 - -\n"
    );
    let json: serde_json::Value = serde_json::from_slice(&line::stream_json(&record, MS)).unwrap();
    assert_eq!(json["kind"], "stream");
    assert_eq!(json["decision"], "deny");
    assert_eq!(json["response_code_details"], "rbac_access_denied_matched_policy[none]");
    assert!(json.get("method").is_none() && json.get("policy_rule").is_none());
}

#[test]
fn no_client_text_ends_a_line_or_a_field() {
    let evil = "a\" 200 -\r\n{\"kind\":\"forged\"}\u{1b}[2J\u{2028}\u{202e}\\";
    let record = RequestRecord {
        path: evil.to_owned(),
        authority: evil.to_owned(),
        user_agent: Some(evil.to_owned()),
        request_id: Some(evil.to_owned()),
        mcp: Some(McpRecord {
            method: Some(evil.to_owned()),
            name: Some(evil.to_owned()),
            ..McpRecord::default()
        }),
        ..request()
    };
    let json = String::from_utf8(line::request_json(&record, MS)).unwrap();
    for text in [json, text(&Facts::of_request(&record, MS))] {
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.ends_with('\n') && !text.contains(['\r', '\u{1b}']), "{text:?}");
    }
    let json: serde_json::Value = serde_json::from_slice(&line::request_json(&record, MS)).unwrap();
    assert_eq!(json["mcp_name"], evil);
    let text = text(&Facts::of_request(&record, MS));
    assert!(text.contains("\"POST a\\\" 200 -\\u{d}\\u{a}"), "{text}");
}

#[test]
fn a_long_value_is_cut_and_says_so() {
    let record = RequestRecord { path: "/é".repeat(5_000), ..request() };
    let json: serde_json::Value = serde_json::from_slice(&line::request_json(&record, MS)).unwrap();
    let path = json["path"].as_str().unwrap();
    assert!(path.ends_with('…') && path.len() < 2_100, "{}", path.len());
}

#[test]
fn lines_reach_the_sink_in_order_and_flush_waits_for_them() {
    let sink = Sink::default();
    let telemetry = Telemetry::new(LogFormat::Json, Box::new(sink.clone()), &Limits::default());
    for generation in 0..100 {
        telemetry.request(RequestRecord { generation, ..request() });
    }
    telemetry.stream_ended(stream());
    assert!(telemetry.flush(Duration::from_secs(5)));
    let text = sink.text();
    let generations: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["generation"].as_u64().unwrap())
        .collect();
    assert_eq!(generations, (0..100).chain([1]).collect::<Vec<_>>());
}

#[test]
fn a_stuck_reader_costs_lines_and_never_time() {
    let (entered, writing) = channel();
    let (release, go) = channel();
    let limits = Limits { log_queue: 2, ..Limits::default() };
    let telemetry = Telemetry::new(LogFormat::Json, Box::new(Stuck(entered, go)), &limits);
    telemetry.request(request());
    writing.recv().unwrap();
    for _ in 0..5 {
        telemetry.request(request());
    }
    assert!(telemetry.render().contains("portcullis_log_lines_dropped_total 3\n"));
    assert!(!telemetry.flush(Duration::from_millis(20)), "the reader still hangs");
    drop(release);
    assert!(telemetry.flush(Duration::from_secs(5)));
}

#[test]
fn requests_count_under_istios_names_and_labels() {
    let telemetry = quiet();
    telemetry.request(request());
    telemetry.request(request());
    let text = telemetry.render();
    let expected = concat!(
        r#"istio_requests_total{reporter="waypoint",source_workload="bot",source_workload_namespace="agents","#,
        r#"source_canonical_service="bot",source_canonical_revision="latest","#,
        r#"source_principal="spiffe://cluster.local/ns/agents/sa/bot",source_app="bot",source_version="unknown","#,
        r#"source_cluster="Kubernetes",destination_workload="github",destination_workload_namespace="tools","#,
        r#"destination_canonical_service="github",destination_canonical_revision="latest","#,
        r#"destination_principal="spiffe://cluster.local/ns/tools/sa/github",destination_app="github","#,
        r#"destination_version="unknown",destination_cluster="Kubernetes","#,
        r#"destination_service="github.tools.svc.cluster.local",destination_service_name="github","#,
        r#"destination_service_namespace="tools",request_protocol="http",response_code="200",response_flags="-","#,
        r#"connection_security_policy="mutual_tls"} 2"#,
        "\n"
    );
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("# TYPE istio_request_duration_milliseconds histogram\n"), "{text}");
    assert!(text.contains(r#"_bucket{le="0.5",reporter="waypoint","#), "{text}");
    let slowest = text.lines().find(|line| line.contains(r#"le="3600000.0""#)).unwrap();
    assert!(slowest.ends_with(" 2"), "{slowest}");
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_is_not_known_reads_unknown_and_grpc_carries_its_status() {
    let telemetry = quiet();
    let mut source = source();
    source.workload = None;
    telemetry.request(RequestRecord {
        source,
        service: None,
        upstream: None,
        grpc: true,
        grpc_status: Some(7),
        flags: "UH",
        status: 503,
        mcp: None,
        ..request()
    });
    let text = telemetry.render();
    for label in [
        r#"source_workload="unknown",source_workload_namespace="agents""#,
        r#"destination_principal="unknown""#,
        r#"destination_service="unknown",destination_service_name="unknown""#,
        r#"request_protocol="grpc",response_code="503",grpc_response_status="7",response_flags="UH""#,
    ] {
        assert!(text.contains(label), "{label} in {text}");
    }
}

#[test]
fn two_pods_of_one_deployment_share_a_series() {
    let telemetry = quiet();
    telemetry.request(request());
    let mut other = Arc::unwrap_or_clone(workload("tools", "github"));
    other.name = "github-1".into();
    other.uid = WorkloadUid("Kubernetes//Pod/tools/github-1".into());
    let address = "10.0.0.10:15008".parse().unwrap();
    telemetry.request(RequestRecord { upstream: Some((Arc::new(other), address)), ..request() });
    assert_eq!(telemetry.render().matches("\nistio_requests_total{").count(), 1);
}

#[test]
fn a_label_set_that_is_idle_is_shown_once_more_and_forgotten() {
    let limits = Limits { label_idle: Duration::ZERO, ..Limits::default() };
    let telemetry = Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &limits);
    telemetry.request(request());
    assert!(telemetry.render().contains("\nistio_requests_total{"));
    let text = telemetry.render();
    for gone in
        ["istio_requests_total{", "portcullis_policy_decisions_total{", "portcullis_mcp_operations_total{"]
    {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
}

#[test]
fn grpc_messages_are_counted_for_grpc_only() {
    let telemetry = quiet();
    telemetry.request(RequestRecord { grpc_messages: (9, 9), ..request() });
    assert!(!telemetry.render().contains("_messages_total{"));
    telemetry.request(RequestRecord { grpc: true, grpc_messages: (1, 3), mcp: None, ..request() });
    let text = telemetry.render();
    for (name, count) in [("istio_request_messages_total{", " 1"), ("istio_response_messages_total{", " 3")] {
        assert!(text.lines().any(|line| line.starts_with(name) && line.ends_with(count)), "{name} in {text}");
    }
}

#[test]
fn a_long_stream_is_counted_while_it_lasts_and_once() {
    let telemetry = quiet();
    let total = |name: &str| -> f64 {
        let text = telemetry.render();
        let of_name = text.lines().filter(|line| line.starts_with(name));
        of_name.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let mut record = StreamRecord { bytes_sent: 10, bytes_received: 4, ..stream() };
    telemetry.stream_progress(&mut record, None);
    assert_eq!((total("istio_tcp_sent_bytes_total{"), total("istio_tcp_received_bytes_total{")), (10.0, 4.0));
    record.bytes_sent = 25;
    telemetry.stream_progress(&mut record, None);
    record.bytes_received = 5;
    telemetry.finish_stream(record, None);
    assert_eq!((total("istio_tcp_sent_bytes_total{"), total("istio_tcp_received_bytes_total{")), (25.0, 5.0));
}

#[test]
fn label_sets_stop_at_their_bound() {
    let limits = Limits { label_sets: 2, ..Limits::default() };
    let telemetry = Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &limits);
    for status in 200..210 {
        telemetry.request(RequestRecord { status, mcp: None, ..request() });
    }
    let text = telemetry.render();
    assert_eq!(text.matches("\nistio_requests_total{").count(), 3, "{text}");
    assert!(text.contains(r#"response_flags="other",connection_security_policy="mutual_tls"} 8"#), "{text}");
    assert!(text.contains(r#"portcullis_limit_hits_total{limit="label_sets"} 8"#), "{text}");
}

#[test]
fn a_tools_name_counts_only_if_the_server_or_a_policy_knows_it() {
    let telemetry = quiet();
    let count = |name: &str| {
        let text = telemetry.render();
        let label = format!("method=\"tools/call\",name=\"{name}\",decision=\"allow\",outcome=\"ok\"}} ");
        text.split_once(&label).map(|(_, rest)| rest.lines().next().unwrap().to_owned())
    };
    telemetry.request(request());
    assert_eq!(count("other").as_deref(), Some("1"));
    telemetry.listed(&service(), &["search".to_owned()]);
    telemetry.request(request());
    assert_eq!(count("search").as_deref(), Some("1"));

    let mut service = service().as_ref().clone();
    let mut port = ServicePort::new(None, Protocol::Http);
    port.chain.policies = vec![PolicyKey::new("tools", "of-a-port")];
    service.ports.insert(80, port);
    let mesh = MeshConfig {
        services: [(service.key.clone(), Arc::new(service))].into(),
        policies: [spelling("readers", "drop"), spelling("of-a-port", "read")].into(),
        ..MeshConfig::default()
    };
    telemetry.named_by_policies(&mesh);
    for name in ["drop", "read"] {
        let mut record = request();
        record.mcp.as_mut().unwrap().name = Some(name.to_owned());
        telemetry.request(record);
        assert_eq!(count(name).as_deref(), Some("1"), "{name}");
    }
}

/// A policy that names a tool.
fn spelling(policy: &str, tool: &str) -> (PolicyKey, Arc<Policy>) {
    let named = Test::Fact {
        filter: "http.mcp".to_owned(),
        key: "tool".to_owned(),
        value: StringMatch::Exact(tool.to_owned()),
    };
    let policy = Policy {
        key: PolicyKey::new("tools", policy),
        action: waypoint_model::Action::Allow,
        dry_run: false,
        rules: vec![Rule { index: 0, when: Expr::All(vec![Expr::Test(named)]) }],
        unusable: None,
    };
    (policy.key.clone(), Arc::new(policy))
}

#[test]
fn decisions_name_policy_and_rule() {
    let telemetry = quiet();
    telemetry.request(request());
    let denied =
        Decision::Denied { detail: "rbac_access_denied_matched_policy[none]".to_owned(), rule: None };
    telemetry.request(RequestRecord { decision: denied, status: 200, ..request() });
    telemetry.request(RequestRecord { decision: Decision::NotDecided, status: 400, ..request() });
    let text = telemetry.render();
    let host = r#"destination_service="github.tools.svc.cluster.local""#;
    for series in [
        format!(
            "portcullis_policy_decisions_total{{{host},decision=\"allow\",policy=\"tools/readers\",rule=\"0\"}} 1\n"
        ),
        format!("portcullis_policy_decisions_total{{{host},decision=\"deny\",policy=\"-\",rule=\"-\"}} 1\n"),
    ] {
        assert!(text.contains(&series), "{series} in {text}");
    }
    assert!(!text.contains(r#"portcullis_policy_decisions_total{destination_service="unknown""#));
    for outcome in ["ok", "refused", "failed"] {
        assert!(text.contains(&format!("outcome=\"{outcome}\"}} 1\n")), "{outcome} in {text}");
    }
}

#[test]
fn streams_count_their_bytes_and_refused_ones_were_never_open() {
    let telemetry = quiet();
    let carried = stream();
    telemetry.stream_opened(&carried, None);
    telemetry.stream_ended(carried);
    telemetry.stream_ended(StreamRecord { status: 401, ..stream() });
    let text = telemetry.render();
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    assert_eq!(value("istio_tcp_connections_opened_total").as_deref(), Some("1"));
    assert_eq!(value("istio_tcp_connections_closed_total").as_deref(), Some("1"));
    assert_eq!(value("istio_tcp_received_bytes_total").as_deref(), Some("5"));
    assert_eq!(value("istio_tcp_sent_bytes_total").as_deref(), Some("7"));
    assert!(text.contains(r#"request_protocol="tcp",response_flags="-","#), "{text}");
}

#[test]
fn gauges_follow_their_guards_and_every_metric_has_help() {
    let telemetry = quiet();
    let (tunnel, stream) = (telemetry.tunnel(), telemetry.stream());
    telemetry.config_applied(7, 2);
    telemetry.certificate(SystemTime::UNIX_EPOCH + Duration::from_secs(99));
    telemetry.sessions(3);
    telemetry.upstream_connections(4);
    telemetry.upstream_ejected(1);
    telemetry.handshake_failed("expired");
    telemetry.refused("no_route");
    telemetry.limit_hit("connections");
    let text = telemetry.render();
    for line in [
        "portcullis_tunnels 1",
        "portcullis_streams 1",
        "portcullis_config_generation 7",
        "portcullis_config_errors 2",
        "portcullis_certificate_not_after_seconds 99",
        "portcullis_mcp_sessions 3",
        "portcullis_upstream_connections 4",
        "portcullis_upstream_ejected 1",
        r#"portcullis_handshake_failures_total{reason="expired"} 1"#,
        r#"portcullis_refusals_total{reason="no_route"} 1"#,
        r#"portcullis_limit_hits_total{limit="connections"} 1"#,
    ] {
        assert!(text.lines().any(|got| got == line), "{line} in {text}");
    }
    drop((tunnel, stream));
    assert!(telemetry.render().contains("portcullis_tunnels 0\n"));
    let (types, helps) = (text.matches("# TYPE ").count(), text.matches("# HELP ").count());
    assert_eq!(types, helps);
}
