//! A waypoint is started from what istiod renders for a Gateway, and from nothing else.

use anyhow::{Context, Result};
use portcullis_tests::istio::{Lab, Namespace, Waypoint, WaypointSettings};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt as _;

/// A Gateway of Istio's own class, whose image is ours by an overlay.
fn gateway(image: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: overlay}}
data:
  deployment: |
    spec: {{template: {{spec: {{containers: [{{name: istio-proxy, image: \"{image}\"}}]}}}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: wp
  labels: {{istio.io/waypoint-for: service}}
spec:
  gatewayClassName: istio-waypoint
  infrastructure: {{parametersRef: {{group: \"\", kind: ConfigMap, name: overlay}}}}
  listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]
"
    )
}

async fn reporting(lab: &Lab) -> Result<(Namespace, Waypoint, Value)> {
    let namespace = lab.namespace("deployed").await?;
    namespace.apply(&gateway("registry.example/lab-report:1")).await?;
    let waypoint = namespace.waypoint("wp").await?;
    let told = waypoint.process.stdout.find_json("the report", |line| line.get("args").is_some()).await?;
    Ok((namespace, waypoint, told))
}

#[tokio::test]
async fn the_process_gets_what_istiod_rendered_and_nothing_else() -> Result<()> {
    let lab = Lab::get()?;
    let (namespace, waypoint, told) = reporting(&lab).await?;
    let ns = &namespace.name;
    let args = [
        "/usr/local/bin/lab",
        "report",
        "proxy",
        "waypoint",
        "--domain",
        &format!("{ns}.svc.cluster.local"),
        "--serviceCluster",
        &format!("wp.{ns}"),
        "--proxyLogLevel",
        "warning",
        "--proxyComponentLogLevel",
        "misc:error",
        "--log_output_level",
        "default:info",
    ];
    assert_eq!(told["args"], json!(args));
    let environment = told["environment"].as_object().context("an environment")?;
    let expected = [
        ("CA_ADDR", "istiod.istio-system.svc:15012"),
        ("HOST_IP", "10.244.0.1"),
        ("INSTANCE_IP", &waypoint.pod.address.to_string()),
        ("ISTIO_CPU_LIMIT", "2"),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        ("ISTIO_META_NODE_NAME", "node1"),
        ("ISTIO_META_SERVICE_ACCOUNT", "wp"),
        ("POD_NAME", &waypoint.pod.name),
        ("POD_NAMESPACE", ns),
        ("TRUST_DOMAIN", "cluster.local"),
    ];
    for (name, value) in expected {
        assert_eq!(environment[name], *value, "{name}");
    }
    let rendered = waypoint.object["spec"]["containers"][0]["env"].as_array().context("env")?.len();
    assert_eq!(environment.len(), rendered + 2, "PATH and HOSTNAME are the runtime's: {environment:?}");
    Ok(())
}

#[tokio::test]
async fn the_container_is_as_closed_as_its_pod_says() -> Result<()> {
    let lab = Lab::get()?;
    let (_namespace, waypoint, told) = reporting(&lab).await?;
    assert_eq!(
        (&told["user"], &told["group"], &told["groups"]),
        (&json!(1337), &json!(1337), &json!("1337"))
    );
    assert_eq!(
        (&told["capabilities"], &told["no_new_privileges"]),
        (&json!("0000000000000000"), &json!("1"))
    );
    assert_eq!(
        told["writable"],
        json!({"/": false, "/etc/istio/proxy": true, "/var/run/secrets/tokens": false})
    );
    assert_eq!(told["roots"].as_str().map(str::trim), Some(lab.roots().await?.trim()));
    let labels = told["labels"].as_str().context("labels")?;
    assert!(labels.contains("gateway.networking.k8s.io/gateway-name=\"wp\"\n"), "{labels}");
    let identity = lab.certificate(told["token"].as_str().context("a token")?).await?;
    assert_eq!(identity.svid.id, waypoint.id());
    Ok(())
}

#[tokio::test]
async fn a_waypoint_whose_pod_is_ready_is_programmed() -> Result<()> {
    let lab = Lab::get()?;
    let (namespace, mut waypoint, _) = reporting(&lab).await?;
    namespace.wait("gateway/wp", "condition=Programmed").await?;
    let bound = "apiVersion: v1
kind: Service
metadata: {name: server, labels: {istio.io/use-waypoint: wp}}
spec: {selector: {app: server}, ports: [{name: http, port: 80}]}
";
    namespace.apply(bound).await?;
    namespace.wait("service/server", "condition=istio.io/WaypointBound").await?;
    let ended = waypoint.stop().await?;
    assert_eq!(ended.signal(), Some(15), "{ended:?}");
    let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices", namespace.name);
    assert_eq!(lab.api.get(&slices).await?["items"], json!([]));
    waypoint = namespace.waypoint("wp").await?;
    waypoint.kill().await?;
    waypoint.restart().await?;
    assert!(waypoint.is_ready().await);
    Ok(())
}

#[tokio::test]
async fn a_token_in_a_volume_is_replaced_by_one_swap() -> Result<()> {
    let lab = Lab::get()?;
    let (_namespace, waypoint, told) = reporting(&lab).await?;
    let token = waypoint.volume("istio-token").join("istio-token");
    assert_eq!(std::fs::read_to_string(&token)?, told["token"].as_str().unwrap_or_default());
    let before = std::fs::read_link(waypoint.volume("istio-token").join("..data"))?;
    waypoint.refresh_volumes().await?;
    assert_ne!(std::fs::read_link(waypoint.volume("istio-token").join("..data"))?, before);
    assert_eq!(lab.certificate(&std::fs::read_to_string(&token)?).await?.svid.id, waypoint.id());
    Ok(())
}

#[tokio::test]
async fn an_image_that_is_not_ours_is_not_run() -> Result<()> {
    let namespace = Lab::get()?.namespace("deployed").await?;
    namespace.apply(&gateway("istio/proxyv2:1.31")).await?;
    let refused = namespace.waypoint_unready("wp", &WaypointSettings::default()).await;
    let refused = refused.err().context("a refusal")?.to_string();
    assert!(refused.contains("no image istio/proxyv2:1.31"), "{refused}");
    Ok(())
}
