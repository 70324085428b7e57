//! Traces as Istio's Telemetry asks for them: the provider of the mesh's settings, tags, and the way to the collector.

use crate::stage::{Ask, HTTP, Stage, WAYPOINT, manifest};
use anyhow::Result;
use portcullis_tests::istio::{IstiodSettings, Lab, PodSpec, WaypointSettings};
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::wait;
use serde_json::json;

const COLLECTOR: &str = "apiVersion: v1
kind: Service
metadata: {name: otel}
spec:
  selector: {app: otel}
  ports: [{name: grpc, port: 4317}, {name: http, port: 4318}]
";

/// Settings of a mesh with a provider of spans by gRPC, and one by HTTP.
fn mesh(namespace: &str) -> String {
    format!(
        "trustDomain: cluster.local
defaultConfig: {{discoveryAddress: \"istiod.istio-system.svc:15012\"}}
extensionProviders:
- name: by-grpc
  opentelemetry: {{service: otel.{namespace}.svc.cluster.local, port: 4317}}
- name: by-http
  opentelemetry:
    service: otel.{namespace}.svc.cluster.local
    port: 4318
    http: {{path: /v1/traces, timeout: 5s, headers: [{{name: x-tenant, value: tools}}]}}
"
    )
}

fn telemetry(provider: &str) -> String {
    format!(
        "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: traces}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {WAYPOINT}}}]
  tracing:
  - providers: [{{name: {provider}}}]
    randomSamplingPercentage: 100
    customTags:
      team: {{literal: {{value: a}}}}
      asked: {{header: {{name: x-asked, defaultValue: nobody}}}}
"
    )
}

#[tokio::test]
async fn spans_go_to_the_collector_that_the_mesh_names_with_istios_tags() -> Result<()> {
    let lab = Lab::get()?;
    let observability = lab.namespace("obs").await?;
    observability.apply(COLLECTOR).await?;
    let pod = observability.pod(&PodSpec::new("otel")).await?;
    let _ztunnel = pod.serve_hbone().await?;
    let collector =
        Runtime::Python1.serve_in(Some(&pod.network), "otlp_collector.py", pod.port(4317)).await?;
    observability.endpoints("otel", &[&pod]).await?;

    let istiod = lab.istiod(IstiodSettings::default().mesh_config(&mesh(&observability.name))).await?;
    let settings = WaypointSettings::default().istiod(istiod.address());
    let stage = Stage::with("traced", &manifest()?, &settings).await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    let (namespace, trace) = (&stage.namespace.name, "4bf92f3577b34da6a3ce929d0e0e4736");
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    for (provider, protocol) in [("by-grpc", "grpc"), ("by-http", "http")] {
        stage.namespace.apply(&telemetry(provider)).await?;
        let ask = Ask::get("/").header("traceparent", &parent).header("x-asked", "us");
        let span = wait::until_async(&format!("a span came {provider}"), async || {
            client.until_status(&server.at(HTTP), &ask, 200).await?;
            let spans = collector.stdout.json();
            Ok(spans.into_iter().find(|line| line["headers"]["protocol"] == protocol))
        })
        .await?;
        assert_eq!((&span["trace"], &span["parent"]), (&json!(trace), &json!("00f067aa0ba902b7")), "{span}");
        assert_eq!(span["resource"]["service.name"], format!("{WAYPOINT}.{namespace}"), "{span}");
        let told = json!({
            "team": "a", "asked": "us", "istio.mesh_id": "cluster.local", "istio.namespace": namespace,
            "istio.cluster_id": "Kubernetes", "istio.canonical_service": WAYPOINT,
            "istio.canonical_revision": "latest", "istio.destination_workload": "server-v1",
            "istio.destination_canonical_service": "server",
            "istio.source_principal": client.pod.id(), "http.request.method": "GET", "component": "proxy",
            "upstream_cluster": format!("inbound-vip|80|http|server.{namespace}.svc.cluster.local"),
        });
        for (name, value) in told.as_object().into_iter().flatten() {
            assert_eq!(&span["attributes"][name], value, "{name} of {span}");
        }
        if protocol == "http" {
            assert_eq!(span["headers"]["x-tenant"], "tools", "{span}");
        }
    }
    Ok(())
}
