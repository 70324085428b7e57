//! What a waypoint tells of its traffic, after Istio's TestL7Telemetry and TestCustomizeMetrics, and in a format of the
//! mesh's own.

use crate::stage::{Ask, Caller, GRPC, HTTP, Service, Stage, TCP, WAYPOINT, manifest};
use anyhow::{Context, Result};
use portcullis_tests::http::{Client, post_json};
use portcullis_tests::istio::{IstiodSettings, Lab, PodSpec, Waypoint, WaypointSettings};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use serde_json::json;
use std::collections::BTreeMap;

type Labels = BTreeMap<String, String>;

/// Labels of the series called `name`. Their values hold no comma and no quote.
async fn series(waypoint: &Waypoint, name: &str) -> Result<Vec<Labels>> {
    let metrics = waypoint.metrics().await?.0;
    let labels = |line: &str| {
        let (labels, _count) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once('}')?;
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        Some(pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect())
    };
    Ok(metrics.lines().filter_map(labels).collect())
}

/// The series called `name` of what went to `service` from a pod that was known, as soon as there is one.
async fn counted(waypoint: &Waypoint, name: &str, service: &str) -> Result<Vec<Labels>> {
    let of_service = |labels: &Labels| {
        labels["destination_service_name"] == service && labels["source_workload"] != "unknown"
    };
    wait::until_async(&format!("{name} of {service}"), async || {
        let mut found = series(waypoint, name).await?;
        found.retain(of_service);
        Ok((!found.is_empty()).then_some(found))
    })
    .await
}

/// A stage with two services, and a client of a version.
async fn stage(name: &str, settings: &WaypointSettings) -> Result<(Stage, [Service; 2], Caller)> {
    let stage = Stage::with(name, &manifest()?, settings).await?;
    let services = [stage.service("server", &["v1"]).await?, stage.service("other", &["v1"]).await?];
    let spec = PodSpec::new("captured-v1").service_account("captured");
    let pod = stage.namespace.pod(&spec.label("app", "captured").label("version", "v1")).await?;
    let client = Caller::new(pod, &stage.waypoint).await?;
    for service in &services {
        client.until_status(&service.at(HTTP), &Ask::get("/"), 200).await?;
    }
    // Requests are told apart from those before the waypoint had heard of the client's pod.
    wait::until_async("the client is known by its address", async || {
        client.status(&services[0].at(HTTP), &Ask::get("/")).await?;
        let known = |labels: &Labels| labels["source_workload"] == "captured-v1";
        Ok(series(&stage.waypoint, "istio_requests_total").await?.iter().any(known).then_some(()))
    })
    .await?;
    Ok((stage, services, client))
}

/// What Istio's own query asks for (`buildQuery` of its `baseline_test.go`), and all other labels.
fn expected(namespace: &str) -> Labels {
    let host = format!("server.{namespace}.svc.cluster.local");
    let principal = |account: &str| format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    let pairs = [
        ("reporter", "waypoint".to_owned()),
        ("request_protocol", "http".to_owned()),
        ("response_code", "200".to_owned()),
        ("response_flags", "-".to_owned()),
        ("connection_security_policy", "mutual_tls".to_owned()),
        ("destination_canonical_service", "server".to_owned()),
        ("destination_canonical_revision", "v1".to_owned()),
        ("destination_service", host),
        ("destination_principal", principal("server")),
        ("destination_service_name", "server".to_owned()),
        ("destination_workload", "server-v1".to_owned()),
        ("destination_workload_namespace", namespace.to_owned()),
        ("destination_service_namespace", namespace.to_owned()),
        ("destination_app", "server".to_owned()),
        ("destination_version", "v1".to_owned()),
        ("destination_cluster", "Kubernetes".to_owned()),
        ("source_canonical_service", "captured".to_owned()),
        ("source_canonical_revision", "v1".to_owned()),
        ("source_principal", principal("captured")),
        ("source_workload", "captured-v1".to_owned()),
        ("source_workload_namespace", namespace.to_owned()),
        ("source_app", "captured".to_owned()),
        ("source_version", "v1".to_owned()),
        ("source_cluster", "Kubernetes".to_owned()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Puts labels in, and takes out those that have no value.
fn with(mut labels: Labels, changes: &[(&str, Option<&str>)]) -> Labels {
    for (name, value) in changes {
        match value {
            Some(value) => drop(labels.insert((*name).to_owned(), (*value).to_owned())),
            None => drop(labels.remove(*name)),
        }
    }
    labels
}

#[tokio::test]
async fn metrics_have_exactly_istios_labels() -> Result<()> {
    let (stage, [server, _], client) = stage("labels", &WaypointSettings::default()).await?;
    let http = expected(&stage.namespace.name);
    assert_eq!(
        counted(&stage.waypoint, "istio_requests_total", "server").await?,
        std::slice::from_ref(&http)
    );
    let duration = counted(&stage.waypoint, "istio_request_duration_milliseconds_count", "server").await?;
    assert_eq!(duration, std::slice::from_ref(&http));

    let (tunnel, count) = (stage.waypoint.hbone(), "--count=5");
    client.pod.echo_client(tunnel, &format!("grpc://{}", server.at(GRPC)), &[count]).await?;
    client.pod.echo_client(tunnel, &format!("tcp://{}", server.at(TCP)), &[count]).await?;
    let grpc = with(http.clone(), &[("request_protocol", Some("grpc")), ("grpc_response_status", Some("0"))]);
    wait::until_async("the calls of gRPC are counted", async || {
        let found = counted(&stage.waypoint, "istio_requests_total", "server").await?;
        Ok(found.contains(&grpc).then_some(()))
    })
    .await?;
    // How Istio's client leaves a stream, and so its flag, is a matter of time.
    let tcp =
        with(http, &[("request_protocol", Some("tcp")), ("response_code", None), ("response_flags", None)]);
    for name in ["istio_tcp_connections_opened_total", "istio_tcp_received_bytes_total"] {
        for mut labels in counted(&stage.waypoint, name, "server").await? {
            let flag = labels.remove("response_flags").context("a flag")?;
            assert_eq!((labels, ["-", "DC"].contains(&flag.as_str())), (tcp.clone(), true), "{name} {flag}");
        }
    }
    Ok(())
}

const CUSTOMIZED: &str = "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: customized}
spec:
  targetRefs: [{kind: Service, group: core, name: server}]
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT}
      tagOverrides:
        custom_dimension: {value: \"'test'\"}
        source_principal: {operation: REMOVE}
";

#[tokio::test]
async fn labels_of_one_service_and_metric_are_customized() -> Result<()> {
    let (stage, [server, other], client) = stage("customized", &WaypointSettings::default()).await?;
    stage.namespace.apply(CUSTOMIZED).await?;
    let standard = expected(&stage.namespace.name);
    let changes = [("custom_dimension", Some("test")), ("source_principal", None)];
    let customized = with(standard.clone(), &changes);
    wait::until_async("a request has the customized labels", async || {
        client.status(&server.at(HTTP), &Ask::get("/")).await?;
        let found = series(&stage.waypoint, "istio_requests_total").await?;
        Ok(found.contains(&customized).then_some(()))
    })
    .await?;
    assert_eq!(client.status(&other.at(HTTP), &Ask::get("/")).await?, 200);
    let duration = counted(&stage.waypoint, "istio_request_duration_milliseconds_count", "server").await?;
    assert_eq!(duration, [standard], "the other metrics stay");
    for labels in counted(&stage.waypoint, "istio_requests_total", "other").await? {
        let customized = (labels.contains_key("custom_dimension"), labels.contains_key("source_principal"));
        assert_eq!(customized, (false, true), "{labels:?}");
    }
    Ok(())
}

/// Settings of a mesh that says in its own format who was refused which tool.
const MESH: &str = "trustDomain: cluster.local
defaultConfig: {discoveryAddress: \"istiod.istio-system.svc:15012\"}
accessLogFile: /dev/stdout
accessLogFormat: \"who=%DOWNSTREAM_PEER_URI_SAN% status=%RESPONSE_CODE% tool=%DYNAMIC_METADATA(envoy.filters.http.mcp:tool)% \
decision=%DYNAMIC_METADATA(envoy.filters.http.mcp:decision)% rule=%DYNAMIC_METADATA(envoy.filters.http.mcp:rule)%\\n\"
";

const TOOLS: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRefs: [{group: \"\", kind: Service, name: tools}]
  rules: [{when: [{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [search]}]}]
";

#[tokio::test]
async fn an_access_log_format_of_the_mesh_names_the_refused_tool() -> Result<()> {
    let istiod = Lab::get()?.istiod(IstiodSettings::default().mesh_config(MESH)).await?;
    let settings = WaypointSettings::default().istiod(istiod.address());
    let stage = Stage::with("logged", &manifest()?, &settings).await?;
    let service = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: tools, labels: {{istio.io/use-waypoint: {WAYPOINT}}}}}
spec:
  selector: {{app: tools}}
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
"
    );
    stage.namespace.apply(&service).await?;
    stage.namespace.apply(TOOLS).await?;
    let pod = stage.namespace.pod(&PodSpec::new("tools")).await?;
    let _ztunnel = pod.serve_hbone().await?;
    let listener = pod.network.listen(pod.port(8080))?;
    let _server = Upstream::on(listener, |seen| upstream::result(seen, &json!({"content": []})))?;
    stage.namespace.endpoints("tools", &[&pod]).await?;
    let authority = format!("{}:80", stage.namespace.service_address("tools").await?);
    let client = stage.client("client").await?;
    let call = async |tool: &str| {
        let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
        let http = Client::http1(client.ztunnel.connect(&authority).await?).await?;
        http.send(post_json("/mcp", "tools", &asked)?).await?.json()
    };
    let refused = wait::until_async("the tool is refused", async || {
        Ok(call("delete").await.ok().filter(|answer| answer.get("error").is_some()))
    });
    refused.await?;
    assert!(call("search").await?.get("result").is_some());

    let lines = stage.waypoint.process.stdout.clone();
    let rule = format!("ns[{}]-policy[readers]-rule[0]", stage.namespace.name);
    let who = client.pod.id();
    for wanted in [
        format!("who={who} status=200 tool=delete decision=deny rule=-"),
        format!("who={who} status=200 tool=search decision=allow rule={rule}"),
    ] {
        lines.find(&wanted, |line| (*line == wanted).then_some(())).await.context("the access log")?;
    }
    Ok(())
}
