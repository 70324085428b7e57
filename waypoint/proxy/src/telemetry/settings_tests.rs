//! Settings of a port: formats, filters and labels, through the same door as the data plane's.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value as Json, json};
use waypoint_model::{AccessLog, LabelValue, LogFormat as Written, MetricOverride, TelemetrySettings};

use super::tests::{Sink, request, rule, stream};
use super::*;

const MS: Duration = Duration::from_millis(3);

fn settings(access_log: Vec<AccessLog>) -> TelemetrySettings {
    TelemetrySettings { access_log, standard_metrics: true, ..TelemetrySettings::default() }
}

fn text(format: &str) -> AccessLog {
    AccessLog { format: Written::Text(format.to_owned()), filter: None }
}

/// The plan, and what is said of it.
fn compile(settings: &TelemetrySettings) -> (Arc<Plan>, Vec<String>) {
    let mut said = Vec::new();
    let plan = Plan::compile(settings, &mut |sentence| said.push(sentence));
    (Arc::new(plan), said)
}

/// The first logger's line of a request.
fn line(format: Written, record: &RequestRecord) -> String {
    let (plan, said) = compile(&settings(vec![AccessLog { format, filter: None }]));
    assert_eq!(said, Vec::<String>::new());
    let line = plan.loggers()[0].line(&Facts::of_request(record, MS)).unwrap();
    String::from_utf8(line).unwrap()
}

fn with_headers(plan: &Plan, request_headers: &[(&'static str, &str)]) -> RequestRecord {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    let headers: HeaderMap = request_headers.iter().map(pair).collect();
    let mut record = request();
    plan.wants().keep(Side::Request, &headers, &mut record.headers);
    let answered = HeaderMap::from_iter([(
        HeaderName::from_static("x-envoy-upstream-service-time"),
        HeaderValue::from_static("2"),
    )]);
    plan.wants().keep(Side::Response, &answered, &mut record.headers);
    record
}

#[test]
fn istios_text_format_is_written_with_every_operator() {
    let (plan, said) = compile(&settings(vec![text(settings::ISTIO)]));
    assert_eq!(said, Vec::<String>::new());
    let record = with_headers(&plan, &[("x-forwarded-for", "192.0.2.1"), ("x-other", "never asked for")]);
    let written = plan.loggers()[0].line(&Facts::of_request(&record, MS)).unwrap();
    assert_eq!(
        String::from_utf8(written).unwrap(),
        "[2026-01-01T00:00:00.123Z] \"POST /mcp?x=1 HTTP/1.1\" 200 - via_upstream - \"-\" 11 22 3 2 \"192.0.2.1\" \
         \"sdk/1\" \"r-1\" \"github.tools\" \"10.0.0.9:15008\" inbound-vip|80|http|github.tools.svc.cluster.local - \
         10.96.0.3:80 10.0.0.7:40000 - default\n"
    );
}

#[test]
fn istios_text_format_of_a_stream_has_dashes_for_what_only_requests_have() {
    let (plan, _) = compile(&settings(vec![text(settings::ISTIO)]));
    let record = StreamRecord { server_name: Some("db.example".into()), flags: "UC", ..stream() };
    let written = plan.loggers()[0].line(&Facts::of_stream(&record, MS)).unwrap();
    assert_eq!(
        String::from_utf8(written).unwrap(),
        "[1970-01-01T00:00:00.000Z] \"- - -\" 200 UC - - \"-\" 5 7 3 - \"-\" \"-\" \"-\" \"-\" \"10.0.0.9:15008\" \
         inbound-vip|5432|tcp|github.tools.svc.cluster.local - 10.96.0.3:5432 10.0.0.7:40000 db.example -\n"
    );
}

#[test]
fn operators_stand_for_what_envoys_do() {
    let record = RequestRecord { grpc: true, grpc_status: Some(7), ..request() };
    for (format, want) in [
        ("%REQ(:METHOD)%", "POST"),
        ("%REQ(:path):4%", "/mcp"),
        ("%REQ(X-NONE?:AUTHORITY)%", "github.tools"),
        ("%REQ(X-NONE?X-NEITHER)%", "-"),
        ("%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH):3%", "/mc"),
        ("%RESPONSE_CODE%%%", "200%"),
        ("%GRPC_STATUS% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%", "PermissionDenied 7 7"),
        ("%START_TIME(%Y-%m (%s))%", "2026-01 (1767225600)"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/agents/sa/bot"),
        ("%UPSTREAM_PEER_URI_SAN%", "spiffe://cluster.local/ns/tools/sa/github"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%:%DOWNSTREAM_LOCAL_PORT%", "10.0.0.7:80"),
        ("%CEL(request.method + '-' + string(response.code))%", "POST-200"),
        ("%CEL(request.headers['x-none'])%", "-"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:method)%", "tools/call"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:tool):3%", "sea"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:prompt)%", "-"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:resource)%", "-"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:kind)%", "call"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:protocol_version)%", "2025-06-18"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:decision)%", "allow"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:rule)%", "ns[tools]-policy[readers]-rule[0]"),
    ] {
        assert_eq!(line(Written::Text(format.to_owned()), &record), format!("{want}\n"), "{format}");
    }
}

#[test]
fn a_request_that_is_no_mcp_has_no_facts_of_one() {
    let record = RequestRecord { mcp: None, decision: Decision::NotDecided, ..request() };
    for (key, want) in
        [("method", "-"), ("tool", "-"), ("kind", "-"), ("decision", "not_decided"), ("rule", "-")]
    {
        let format = format!("%DYNAMIC_METADATA(envoy.filters.http.mcp:{key})%");
        assert_eq!(line(Written::Text(format), &record), format!("{want}\n"), "{key}");
    }
    let (plan, _) = compile(&settings(vec![text("%DYNAMIC_METADATA(envoy.filters.http.mcp:decision)%")]));
    assert_eq!(plan.loggers()[0].line(&Facts::of_stream(&stream(), MS)).unwrap(), b"-\n");
}

#[test]
fn json_keeps_the_types_of_operators_that_stand_alone() {
    let format = json!({
        "z": "%RESPONSE_CODE%", "a": {"ms": "%DURATION%", "list": ["%BYTES_SENT%", true, 4.5, null]},
        "none": "%REQ(X-NONE)%", "mixed": "%RESPONSE_CODE% of %REQ(X-NONE)%", "flags": "%RESPONSE_FLAGS%",
        "agent": "%REQ(USER-AGENT)%",
    });
    let record = RequestRecord { user_agent: Some("a\"\n".to_owned()), ..request() };
    assert_eq!(
        line(Written::Json(format), &record),
        concat!(
            r#"{"a":{"list":[22,true,4.5,null],"ms":3},"agent":"a\"\n","flags":"-","mixed":"200 of -","none":null,"z":200}"#,
            "\n"
        )
    );
}

#[test]
fn no_client_text_ends_a_line_of_ones_own_format() {
    let evil = "a\" 200\r\n[forged]\u{2028}\\".to_owned();
    let record = RequestRecord { user_agent: Some(evil.clone()), path: "/x".repeat(5_000), ..request() };
    let written = line(Written::Text("\"%REQ(USER-AGENT)%\" %REQ(:PATH)%".to_owned()), &record);
    assert_eq!(written.matches('\n').count(), 1);
    assert!(written.starts_with(r#""a\" 200\u{d}\u{a}[forged]\u{2028}\\" /x"#), "{written}");
    assert!(written.len() < 2_200, "a long value is cut: {}", written.len());
}

#[test]
fn what_is_no_operator_is_a_dash_and_is_said() {
    for (format, want, named) in [
        ("%NO_SUCH% x", "- x\n", "NO_SUCH"),
        ("%RESPONSE_CODE(x)%", "-\n", "RESPONSE_CODE"),
        ("%START_TIME(%q)%", "-\n", "START_TIME"),
        ("%CEL(filter_state.x)%", "-\n", "CEL"),
        ("%FILTER_STATE(upstream_peer:PLAIN:name)%", "-\n", "FILTER_STATE"),
        ("%DYNAMIC_METADATA(envoy.filters.http.mcp:args.owner)%", "-\n", "DYNAMIC_METADATA"),
        ("%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:sub)%", "-\n", "DYNAMIC_METADATA"),
        ("a %REQ(open", "a -\n", "REQ(open"),
        ("a %", "a -\n", "operator  is"),
    ] {
        let (plan, said) = compile(&settings(vec![text(format)]));
        let written = plan.loggers()[0].line(&Facts::of_request(&request(), MS)).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), want, "{format}");
        assert!(said.len() == 1 && said[0].contains(named), "{format}: {said:?}");
    }
}

fn wants(filter: &str, record: &RequestRecord) -> bool {
    let log = AccessLog { format: Written::Default, filter: Some(filter.to_owned()) };
    let (plan, said) = compile(&settings(vec![log]));
    assert_eq!(said, Vec::<String>::new(), "{filter}");
    let mut record = RequestRecord { headers: Captured::default(), ..clone(record) };
    let headers = HeaderMap::from_iter([(HeaderName::from_static("x-a"), HeaderValue::from_static("one"))]);
    plan.wants().keep(Side::Request, &headers, &mut record.headers);
    plan.loggers()[0].wants(&Facts::of_request(&record, Duration::from_millis(1_500)))
}

fn clone(record: &RequestRecord) -> RequestRecord {
    RequestRecord { status: record.status, flags: record.flags, grpc_status: record.grpc_status, ..request() }
}

#[test]
fn each_of_several_flags_is_found() {
    let record = RequestRecord { flags: "DI,FI", ..request() };
    for (filter, want) in [
        ("response_flag('DI')", true),
        ("response_flag('FI')", true),
        ("response_flag('UF')", false),
        ("response.flags == 1536", true),
    ] {
        assert_eq!(wants(filter, &record), want, "{filter}");
    }
}

#[test]
fn filters_hold_as_in_cel() {
    let failed = RequestRecord { status: 503, flags: "UH", ..request() };
    for (filter, ok, fails) in [
        ("response.code >= 400", false, true),
        ("response.code < 400 || response.code == 503", true, true),
        ("!(response.code == 200)", false, true),
        ("response_flag('UH')", false, true),
        ("response_flag('NR') || response_flag('UH')", false, true),
        ("response.flags != 0", false, true),
        ("response.code in [500, 503]", false, true),
        ("response.flags != 0", false, true),
        ("response.flags == 2", false, true),
        ("request.method == 'POST' && request.path.startsWith(\"/mcp\")", true, true),
        ("request.url_path == '/mcp' && request.query == 'x=1'", true, true),
        ("request.url_path.matches('^/m.p$')", true, true),
        ("request.headers['x-a'] == 'one'", true, true),
        ("request.headers['X-A'].endsWith('ne')", true, true),
        ("'x-a' in request.headers && !('x-b' in request.headers)", true, true),
        ("has(request.headers.x) || has(response.grpc_status)", false, false),
        // An error beside what decides is no error, on either side; else the filter does not hold.
        ("request.headers['x-b'] == 'one' || response.code == 503", false, true),
        ("response.code == 503 || request.headers['x-b'] == 'one'", false, true),
        ("!(request.headers['x-b'] == 'one')", false, false),
        ("connection.mtls", true, true),
        ("connection.uri_san_peer_certificate.contains('/ns/agents/')", true, true),
        ("source.address.startsWith('10.0.0.7:') && destination.port == 80", true, true),
        ("request.duration > duration('1s') && request.duration < duration('1m')", true, true),
        ("response.code == 200 ? true : request.host.size() > 100", true, false),
        ("response.code >= 400 && response.code != 404", false, true),
    ] {
        assert_eq!((wants(filter, &request()), wants(filter, &failed)), (ok, fails), "{filter}");
    }
}

#[test]
fn a_filter_that_cannot_be_compiled_logs_everything_and_is_said() {
    let deep = "(".repeat(100) + "true" + &")".repeat(100);
    for (filter, named) in [
        ("response.kode >= 400", "response.kode"),
        ("response.code >= '400'", "types"),
        ("response.code", "true or false"),
        ("response.code >= 400 extra", "expected"),
        ("response.code = 400", "expected"),
        ("frobnicate(response.code)", "frobnicate"),
        ("request.path.matches('(')", "regular expression"),
        ("request.path.matches(request.host)", "matches"),
        ("request.path == 'open", "end of a string"),
        ("99999999999999999999 == response.code", "whole number"),
        ("", "a value"),
        (&deep, "deeper"),
    ] {
        let log = AccessLog { format: Written::Default, filter: Some(filter.to_owned()) };
        let (plan, said) = compile(&settings(vec![log]));
        assert!(plan.loggers()[0].wants(&Facts::of_request(&request(), MS)), "{filter}");
        assert!(said.len() == 1 && said[0].contains(named), "{filter}: {said:?}");
    }
}

#[test]
fn loggers_write_what_each_wants_in_its_own_format() {
    let failures =
        AccessLog { filter: Some("response.code >= 400".to_owned()), ..text("failed %RESPONSE_CODE%") };
    let own = AccessLog { format: Written::Default, filter: None };
    let plans = [
        (settings(vec![failures.clone(), own]), "both", 3),
        (settings(vec![failures]), "failures", 1),
        (settings(Vec::new()), "none", 0),
    ];
    for (settings, name, lines) in plans {
        let sink = Sink::default();
        let telemetry = Telemetry::new(LogFormat::Json, Box::new(sink.clone()), &Limits::default());
        let (plan, _) = compile(&settings);
        telemetry.finish_request(request(), Some(&plan));
        telemetry.finish_request(RequestRecord { status: 500, ..request() }, Some(&plan));
        assert!(telemetry.flush(Duration::from_secs(5)));
        let text = sink.text();
        assert_eq!(text.lines().count(), lines, "{name}: {text}");
        assert_eq!(text.contains("failed 500\n"), lines > 0, "{name}: {text}");
        assert_eq!(text.contains(r#""kind":"request""#), lines == 3, "{name}: {text}");
    }
}

#[test]
fn an_operator_who_switched_the_log_off_gets_no_lines() {
    let sink = Sink::default();
    let telemetry = Telemetry::new(LogFormat::Off, Box::new(sink.clone()), &Limits::default());
    telemetry.finish_request(request(), Some(&compile(&settings(vec![text("x")])).0));
    assert!(telemetry.flush(Duration::from_secs(5)));
    assert_eq!(sink.text(), "");
}

fn metrics(changes: Vec<MetricOverride>, records: Vec<RequestRecord>) -> String {
    let telemetry = Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &Limits::default());
    let (plan, said) = compile(&TelemetrySettings { metrics: changes, ..settings(Vec::new()) });
    assert_eq!(said, Vec::<String>::new());
    for mut record in records {
        let asked = HeaderMap::from_iter([(
            HeaderName::from_static("x-tenant"),
            HeaderValue::from_str(&record.authority).unwrap(),
        )]);
        plan.wants().keep(Side::Request, &asked, &mut record.headers);
        telemetry.finish_request(record, Some(&plan));
    }
    telemetry.render()
}

fn change(metric: Option<&str>, set: &[(&str, LabelValue)], remove: &[&str]) -> MetricOverride {
    MetricOverride {
        metric: metric.map(str::to_owned),
        disabled: false,
        set: set.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        remove: remove.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn series<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect()
}

/// Istio's `TestCustomizeMetrics`.
#[test]
fn a_label_is_added_to_one_metric_and_another_is_removed() {
    let test = LabelValue::Text("test".to_owned());
    let changes = vec![change(Some("requests_total"), &[("custom_dimension", test)], &["source_principal"])];
    let mut from_another = request();
    from_another.source.principal =
        Some(spiffe_id::SpiffeId::istio("cluster.local", "agents", "other").unwrap());
    let text = metrics(changes, vec![request(), from_another]);
    let requests = series(&text, "istio_requests_total");
    assert_eq!(requests.len(), 1, "two principals are one series without their label: {text}");
    assert!(requests[0].contains(r#",custom_dimension="test"} 2"#), "{requests:?}");
    assert!(!requests[0].contains("source_principal"), "{requests:?}");
    assert!(requests[0].contains(r#"source_workload="bot""#), "{requests:?}");
    let durations = series(&text, "istio_request_duration_milliseconds_count");
    assert_eq!(durations.len(), 2);
    assert!(
        durations.iter().all(|line| line.contains("source_principal") && !line.contains("custom_dimension"))
    );
}

#[test]
fn label_values_come_from_attributes() {
    let attribute = |text: &str| LabelValue::Attribute(text.to_owned());
    for (value, want) in [
        (attribute("request.host"), "github.tools"),
        (attribute("request.method"), "POST"),
        (attribute("request.headers['x-tenant']"), "github.tools"),
        (attribute("request.headers['x-none']"), "unknown"),
        (attribute("string(destination.port)"), "80"),
        (attribute("response.code"), "200"),
        (attribute("'lit' + 'eral'"), "literal"),
        (attribute("request.path.startsWith('/mcp') ? 'mcp' : 'other'"), "mcp"),
    ] {
        let text = metrics(vec![change(None, &[("mine", value.clone())], &[])], vec![request()]);
        for name in ["istio_requests_total", "istio_request_bytes_count", "istio_response_bytes_sum"] {
            let found = series(&text, name);
            assert!(
                found.len() == 1 && found[0].contains(&format!("mine=\"{want}\"")),
                "{value:?} in {found:?}"
            );
        }
    }
}

#[test]
fn a_label_whose_values_clients_make_up_stops_at_its_bound() {
    let host = LabelValue::Attribute("request.host".to_owned());
    let records = (0..150).map(|n| RequestRecord { authority: format!("h{n}"), mcp: None, ..request() });
    let long = RequestRecord { authority: "x".repeat(300), mcp: None, ..request() };
    let changes = vec![change(Some("requests_total"), &[("host", host)], &[])];
    let text = metrics(changes, records.chain([long]).collect());
    let requests = series(&text, "istio_requests_total");
    assert_eq!(requests.len(), 101);
    let other = requests.iter().find(|line| line.contains(r#"host="other""#)).unwrap();
    assert!(other.ends_with("} 51"), "{other}");
}

#[test]
fn a_change_that_changes_nothing_makes_no_second_series() {
    let telemetry = Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &Limits::default());
    let same = change(None, &[("reporter", LabelValue::Text("waypoint".to_owned()))], &["no_such_label"]);
    let (plan, _) = compile(&TelemetrySettings { metrics: vec![same], ..settings(Vec::new()) });
    telemetry.finish_request(request(), None);
    telemetry.finish_request(request(), Some(&plan));
    let text = telemetry.render();
    assert_eq!(series(&text, "istio_requests_total").len(), 1, "{text}");
}

#[test]
fn metrics_that_are_disabled_are_not_kept() {
    let disabled = |metric: Option<&str>| MetricOverride { disabled: true, ..change(metric, &[], &[]) };
    let names = [
        "istio_requests_total",
        "istio_request_duration_milliseconds_count",
        "istio_request_bytes_count",
        "istio_response_bytes_count",
        "istio_tcp_connections_opened_total",
        "istio_tcp_connections_closed_total",
        "istio_tcp_sent_bytes_total",
        "istio_tcp_received_bytes_total",
    ];
    let without: [(&str, TelemetrySettings, &[&str]); 4] = [
        ("istio.stats is not there", TelemetrySettings::default(), &names),
        ("all", TelemetrySettings { metrics: vec![disabled(None)], ..settings(Vec::new()) }, &names),
        (
            "some",
            TelemetrySettings {
                metrics: vec![disabled(Some("request_bytes")), disabled(Some("tcp_sent_bytes_total"))],
                ..settings(Vec::new())
            },
            &["istio_request_bytes_count", "istio_tcp_sent_bytes_total"],
        ),
        ("none", settings(Vec::new()), &[]),
    ];
    for (case, settings, missing) in without {
        let telemetry = Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &Limits::default());
        let (plan, said) = compile(&settings);
        assert_eq!(said, Vec::<String>::new());
        telemetry.finish_request(request(), Some(&plan));
        telemetry.stream_opened(&stream(), Some(&plan));
        telemetry.finish_stream(stream(), Some(&plan));
        let text = telemetry.render();
        for name in names {
            assert_eq!(series(&text, name).is_empty(), missing.contains(&name), "{case}: {name} in {text}");
        }
        assert!(text.contains("portcullis_policy_decisions_total{"), "ours are kept: {text}");
    }
}

#[test]
fn labels_of_streams_change_too() {
    let telemetry = Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &Limits::default());
    let sni = LabelValue::Attribute("connection.requested_server_name".to_owned());
    let changes = vec![change(None, &[("sni", sni)], &["source_principal"])];
    let (plan, _) = compile(&TelemetrySettings { metrics: changes, ..settings(Vec::new()) });
    let named = || StreamRecord { server_name: Some("db.example".into()), ..stream() };
    telemetry.stream_opened(&named(), Some(&plan));
    telemetry.finish_stream(named(), Some(&plan));
    let text = telemetry.render();
    for name in ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"] {
        let found = series(&text, name);
        assert!(found.len() == 1 && found[0].contains(r#"sni="db.example""#), "{found:?}");
        assert!(!found[0].contains("source_principal"), "{found:?}");
    }
}

#[test]
fn what_cannot_be_a_label_or_a_metric_is_said() {
    let text = LabelValue::Text("x".to_owned());
    let unknown = LabelValue::Attribute("upstream_peer.labels['app'].value".to_owned());
    for (told, named) in [
        (change(Some("requests_total"), &[("a-b", text.clone())], &[]), "a-b"),
        (change(Some("requests_total"), &[("le", text.clone())], &[]), "le"),
        (change(Some("requests_total"), &[("app", unknown)], &[]), "upstream_peer.labels"),
        (change(Some("my_metric"), &[("app", text)], &[]), "my_metric"),
    ] {
        let (_, said) = compile(&TelemetrySettings { metrics: vec![told.clone()], ..settings(Vec::new()) });
        assert!(said.len() == 1 && said[0].contains(named), "{told:?}: {said:?}");
    }
}

/// Istio's `TestL7Telemetry` (`buildQuery`): each of these labels with exactly this value.
#[test]
fn a_request_has_the_labels_that_istios_own_test_asks_for() {
    let text = metrics(Vec::new(), vec![request()]);
    let line = series(&text, "istio_requests_total")[0];
    for (label, want) in [
        ("reporter", "waypoint"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
        ("destination_canonical_service", "github"),
        ("destination_canonical_revision", "latest"),
        ("destination_service", "github.tools.svc.cluster.local"),
        ("destination_principal", "spiffe://cluster.local/ns/tools/sa/github"),
        ("destination_service_name", "github"),
        ("destination_workload", "github"),
        ("destination_workload_namespace", "tools"),
        ("destination_service_namespace", "tools"),
        ("source_canonical_service", "bot"),
        ("source_canonical_revision", "latest"),
        ("source_principal", "spiffe://cluster.local/ns/agents/sa/bot"),
        ("source_workload", "bot"),
        ("source_workload_namespace", "agents"),
    ] {
        let pair = format!("{label}=\"{want}\"");
        assert!(
            line.contains(&format!("{{{pair},")) || line.contains(&format!(",{pair}")),
            "{pair} in {line}"
        );
    }
}

#[test]
fn a_peer_without_an_identity_is_not_called_secured() {
    let mut record = request();
    record.source.principal = None;
    let text = metrics(Vec::new(), vec![record]);
    let line = series(&text, "istio_requests_total")[0];
    assert!(line.contains(r#"connection_security_policy="none""#), "{line}");
}

#[test]
fn dry_run_policies_are_counted_and_logged_apart_from_what_is_enforced() {
    let telemetry = Telemetry::new(LogFormat::Off, Box::new(std::io::sink()), &Limits::default());
    let rows = [
        (DryRun { denied: true, rule: Some(rule(2)) }, "deny[ns[tools]-policy[readers]-rule[2]]"),
        (DryRun { denied: true, rule: None }, "deny[none]"),
        (DryRun { denied: false, rule: Some(rule(0)) }, "allow[ns[tools]-policy[readers]-rule[0]]"),
    ];
    for (dry_run, logged) in rows {
        let record = RequestRecord { dry_run: Some(dry_run), ..request() };
        let line: Json = serde_json::from_slice(&super::line::request_json(&record, MS)).unwrap();
        assert_eq!((&line["dry_run_decision"], &line["decision"]), (&json!(logged), &json!("allow")));
        telemetry.finish_request(record, None);
    }
    telemetry.finish_request(request(), None);
    let text = telemetry.render();
    let host = r#"destination_service="github.tools.svc.cluster.local""#;
    for (result, policy, rule) in
        [("denied", "tools/readers", "2"), ("denied", "-", "-"), ("allowed", "tools/readers", "0")]
    {
        let want = format!(
            "portcullis_dry_run_decisions_total{{{host},authz_dry_run_result=\"{result}\",policy=\"{policy}\",rule=\"{rule}\"}} 1\n"
        );
        assert!(text.contains(&want), "{want} in {text}");
    }
    assert_eq!(text.matches("\nportcullis_dry_run_decisions_total{").count(), 3);
}

#[test]
fn plans_are_compiled_once_while_a_snapshot_uses_them() {
    let (one, same) =
        (Arc::new(settings(vec![text("%NO_SUCH%")])), Arc::new(settings(vec![text("%NO_SUCH%")])));
    let mut plans = Plans::default();
    let plan = |plans: &mut Plans, of: &[&Arc<TelemetrySettings>]| {
        let mut building = plans.building();
        let made: Vec<Arc<Plan>> = of.iter().map(|settings| building.plan(settings)).collect();
        building.finish();
        made
    };
    let first = plan(&mut plans, &[&one, &one, &same]);
    assert!(Arc::ptr_eq(&first[0], &first[1]) && Arc::ptr_eq(&first[0], &first[2]));
    assert!(Arc::ptr_eq(&first[0], &plan(&mut plans, &[&same])[0]));
    let other = Arc::new(settings(Vec::new()));
    assert!(!Arc::ptr_eq(&first[0], &plan(&mut plans, &[&other])[0]));
    assert!(!Arc::ptr_eq(&first[0], &plan(&mut plans, &[&one])[0]), "what no snapshot used is forgotten");
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_the_compilers(text in "[a-z.'\"\\\\()%:?!&|<>=+,0-9é\\[\\] A-Z_-]{0,60}") {
        let log = AccessLog { format: Written::Text(text.clone()), filter: Some(text.clone()) };
        let told = change(None, &[("x", LabelValue::Attribute(text))], &[]);
        let (plan, _) = compile(&TelemetrySettings { metrics: vec![told], ..settings(vec![log]) });
        let record = request();
        let facts = Facts::of_request(&record, MS);
        let line = plan.loggers()[0].line(&facts).unwrap();
        proptest::prop_assert!(line.ends_with(b"\n"));
        let _either = plan.loggers()[0].wants(&facts);
    }
}
