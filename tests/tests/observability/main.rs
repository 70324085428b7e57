//! What operators look at: a real Prometheus scrapes the shipped binary under traffic, and every query of Istio's
//! dashboards, of Kiali, of our dashboard and of our alerts is asked of it.

#![cfg(test)]

mod prometheus;
mod traffic;

use anyhow::{Context, Result, ensure};
use portcullis_tests::wait;
use prometheus::{Prometheus, deployed, promtool};
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeSet;
use traffic::Traffic;

/// What Istio's service and workload dashboards ask, by their panels.
const ISTIO: [&str; 9] = [
    r#"sum(rate(istio_requests_total{reporter="waypoint",destination_service=~"github.*"}[10s]))"#,
    r#"sum(rate(istio_requests_total{reporter="waypoint",destination_service=~"github.*",response_code!~"5.*"}[10s])) / sum(rate(istio_requests_total{reporter="waypoint",destination_service=~"github.*"}[10s]))"#,
    r#"sum(rate(istio_requests_total{connection_security_policy="mutual_tls",reporter=~"waypoint",destination_workload=~"github.*",destination_workload_namespace="tools",response_code="500"}[10s])) by (source_workload_namespace, response_code)"#,
    r#"histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{reporter="waypoint",destination_service=~"github.*"}[10s])) by (le))"#,
    r#"histogram_quantile(0.90, sum(rate(istio_request_bytes_bucket{reporter="waypoint"}[10s])) by (destination_workload, destination_workload_namespace, le))"#,
    r#"histogram_quantile(0.50, sum(rate(istio_response_bytes_bucket{reporter="waypoint"}[10s])) by (destination_workload, destination_workload_namespace, le))"#,
    r#"sum(rate(istio_tcp_received_bytes_total{reporter="waypoint",destination_service=~"raw.*"}[10s]))"#,
    r#"sum(rate(istio_tcp_sent_bytes_total{reporter="waypoint",connection_security_policy="mutual_tls"}[10s])) by (destination_workload)"#,
    r#"sum(rate(istio_tcp_connections_opened_total{reporter="waypoint"}[10s])) + sum(rate(istio_tcp_connections_closed_total{reporter="waypoint"}[10s]))"#,
];

/// By what Kiali groups the edges of its graph: none of them may be missing from a series.
const KIALI: &str = "source_cluster, source_workload_namespace, source_workload, source_canonical_service, \
    source_canonical_revision, destination_cluster, destination_service_namespace, destination_service, \
    destination_service_name, destination_workload_namespace, destination_workload, destination_canonical_service, \
    destination_canonical_revision, request_protocol, response_flags";

/// Metrics that a healthy waypoint without a control plane never counts.
const NOT_HERE: [&str; 5] = [
    "portcullis_xds_connected",
    "portcullis_limit_hits_total",
    "portcullis_dry_run_decisions_total",
    "portcullis_log_lines_dropped_total",
    "portcullis_upstream_ejected",
];

/// Runs whole rounds of traffic until all queries found something: when it returns, no call is under way.
async fn found(traffic: &Traffic, prometheus: &Prometheus, queries: &[String]) -> Result<()> {
    let done = Cell::new(false);
    let rounds = async {
        while !done.get() {
            traffic.round().await?;
        }
        anyhow::Ok(())
    };
    let all = async {
        for query in queries {
            prometheus.finds(query).await?;
        }
        done.set(true);
        anyhow::Ok(())
    };
    tokio::try_join!(rounds, all)?;
    Ok(())
}

#[tokio::test]
async fn the_queries_of_istio_and_kiali_find_what_they_ask_for() -> Result<()> {
    let traffic = Traffic::start().await?;
    let prometheus = Prometheus::scraping(traffic.mesh.portcullis.address("metrics")?).await?;
    let mut queries: Vec<String> = ISTIO.map(str::to_owned).into();
    for (metric, more) in [
        ("istio_requests_total", ", response_code, grpc_response_status"),
        ("istio_tcp_sent_bytes_total", ""),
        ("istio_tcp_received_bytes_total", ""),
        ("istio_request_messages_total", ""),
        ("istio_response_messages_total", ""),
    ] {
        queries.push(format!(r#"sum(rate({metric}{{reporter="waypoint"}}[10s])) by ({KIALI}{more}) > 0"#));
    }
    found(&traffic, &prometheus, &queries).await?;

    for label in KIALI.split(',').map(str::trim) {
        let without = format!(r#"{{__name__=~"istio_.*", {label}=""}}"#);
        assert_eq!(prometheus.query(&without).await?, Vec::<Value>::new(), "series without {label}");
    }
    let calls = r#"istio_request_messages_total{request_protocol="grpc",grpc_response_status="0"} / ignoring (__name__) istio_requests_total"#;
    // A scrape reads one family after the other, with calls ending in between; after the last call it is exact.
    wait::until_async("two messages of each call", async || {
        let calls = prometheus.query(calls).await?;
        let exact = calls.iter().all(|call| call["value"][1] == "2");
        Ok((exact && !calls.is_empty()).then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_only_for_what_there_is() -> Result<()> {
    let dashboard: Value = serde_json::from_slice(&std::fs::read(deployed("dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<String> = targets
        .map(|target| Ok(filled_in(target["expr"].as_str().with_context(|| target.to_string())?)))
        .collect::<Result<_>>()?;
    ensure!(queries.len() > 25, "{} queries", queries.len());

    let traffic = Traffic::start().await?;
    let prometheus = Prometheus::scraping(traffic.mesh.portcullis.address("metrics")?).await?;
    let (quiet, lively): (Vec<_>, Vec<_>) =
        queries.into_iter().partition(|query| NOT_HERE.iter().any(|name| query.contains(name)));
    found(&traffic, &prometheus, &lively).await?;
    for query in &quiet {
        prometheus.query(query).await?;
    }

    let rules = prometheus.rules().await?;
    ensure!(rules.len() >= 9, "{rules:?}");
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let asked = quiet.iter().chain(&lively).map(String::as_str);
    let asked: BTreeSet<String> =
        asked.chain(rules.iter().filter_map(|rule| rule["query"].as_str())).flat_map(metrics).collect();
    let described = traffic.mesh.portcullis.metrics().await?.0;
    let described: BTreeSet<&str> =
        described.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documented = std::fs::read_to_string(deployed("../../docs/operations.md"))?;
    for name in asked {
        if NOT_HERE.contains(&name.as_str()) {
            assert!(documented.contains(&format!("`{name}`")), "{name} is no metric that the docs know");
            continue;
        }
        let family = name.trim_end_matches("_total").trim_end_matches("_bucket");
        assert!(described.contains(family), "{name} is no metric of this binary: {described:?}");
    }
    Ok(())
}

#[tokio::test]
async fn each_alert_fires_when_it_should_and_only_then() -> Result<()> {
    promtool(&["check", "rules"], &deployed("alerts.yaml")).await?;
    let told = promtool(&["test", "rules"], &deployed("alerts-test.yaml")).await?;
    assert!(told.iter().any(|line| line.contains("SUCCESS")), "{told:?}");
    Ok(())
}

/// A dashboard's query with its variables at their widest.
fn filled_in(query: &str) -> String {
    query.replace("$__rate_interval", "10s").replace("$source_namespace", ".*").replace("$service", ".*")
}

/// Names of our and of Istio's metrics in a query.
fn metrics(query: &str) -> Vec<String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("istio_") || word.starts_with("portcullis_"))
        .map(str::to_owned)
        .collect()
}
