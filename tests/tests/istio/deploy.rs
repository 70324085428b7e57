//! Every file of `deploy/` is applied to a real mesh and does what it says. `waypoint.yaml` is in `waypoint.rs`.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use http::Method;
use portcullis_tests::istio::{Lab, Namespace, PodSpec};
use portcullis_tests::wait;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The image of this version, which every file names.
const IMAGE: &str = concat!("ghcr.io/portcullis-dev/portcullis:", env!("CARGO_PKG_VERSION"));

/// Instead of ours where a test is about istiod alone: it is ready without a configuration.
const STAND_IN: &str = "registry.example/lab-report:1";

/// What gives the chart the stand-in.
const STAND_IN_VALUES: &str = "image.repository=registry.example/lab-report,image.tag=1";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn read(file: &str) -> Result<String> {
    std::fs::read_to_string(path(file)).with_context(|| file.to_owned())
}

/// What the file's user changes: the namespace in which the waypoint stands.
fn in_namespace(manifest: &str, namespace: &Namespace) -> String {
    manifest.replace("/ns/tools/", &format!("/ns/{}/", namespace.name))
}

/// The entry of this kind that istiod tells every ztunnel, once `wanted` finds something in it.
async fn told<T>(
    lab: &Lab,
    kind: &str,
    namespace: &Namespace,
    name: &str,
    wanted: impl Fn(&Value) -> Option<T>,
) -> Result<T> {
    wait::until_async(&format!("istiod tells of {kind} {name}"), async || {
        let all = lab.told_to_ztunnels().await?;
        let entries = all[kind].as_array().context("a list")?;
        let is_it = |entry: &&Value| entry["namespace"] == namespace.name.as_str() && entry["name"] == name;
        Ok(entries.iter().find(is_it).and_then(&wanted))
    })
    .await
}

/// The host name of a Service.
fn hostname(service: &str, namespace: &Namespace) -> String {
    format!("{service}.{}.svc.cluster.local", namespace.name)
}

#[test]
fn every_file_has_a_test_and_names_the_image_of_this_version() -> Result<()> {
    let mut files = Vec::new();
    for entry in path("istio").read_dir()? {
        files.push(entry?.file_name().into_string().ok().context("a name")?);
    }
    files.sort();
    assert_eq!(files, ["canary.yaml", "class-defaults.yaml", "only-from-waypoint.yaml", "waypoint.yaml"]);
    for file in ["istio/waypoint.yaml", "istio/class-defaults.yaml"] {
        assert!(read(file)?.contains(&format!("image: {IMAGE}\n")), "{file}");
    }
    Ok(())
}

#[tokio::test]
async fn class_defaults_put_our_image_into_a_gateway_that_says_nothing() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("defaults").await?;
    // For the whole mesh, and so for other tests too: all of their Gateways name an overlay, which comes after it.
    lab.apply(&read("istio/class-defaults.yaml")?).await?;
    let plain = image_of_a_plain_gateway(&lab, &namespace).await;
    let defaults = path("istio/class-defaults.yaml").display().to_string();
    lab.kubectl(&["delete", "-f", &defaults, "--wait=false"]).await?;
    plain
}

async fn image_of_a_plain_gateway(lab: &Lab, namespace: &Namespace) -> Result<()> {
    let gateway = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: plain, labels: {istio.io/waypoint-for: service}}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";
    namespace.apply(gateway).await?;
    let deployment = format!("/apis/apps/v1/namespaces/{}/deployments/plain", namespace.name);
    let ours = |found: &Value| {
        let container = &found["spec"]["template"]["spec"]["containers"][0];
        (container["name"] == "istio-proxy" && container["image"] == IMAGE).then_some(())
    };
    lab.api.until(&deployment, "istiod deploys our image", ours).await
}

#[tokio::test]
async fn the_companion_policy_reaches_the_workloads_ztunnel() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("companion").await?;
    let server = namespace.pod(&PodSpec::new("github-mcp")).await?;
    let bystander = namespace.pod(&PodSpec::new("other")).await?;
    namespace.apply(&in_namespace(&read("istio/only-from-waypoint.yaml")?, &namespace)).await?;
    namespace.wait("authorizationpolicy/only-from-waypoint", "condition=ZtunnelAccepted").await?;

    let policy = |entry: &Value| Some(entry.clone());
    let policy = told(&lab, "policies", &namespace, "only-from-waypoint", policy).await?;
    let principal = format!("cluster.local/ns/{}/sa/portcullis", namespace.name);
    assert!(policy["action"].is_null() || policy["action"] == "ALLOW", "{policy}");
    assert!(policy.to_string().contains(&format!("\"exact\":\"{principal}\"")), "{policy}");
    let bound = json!([format!("{}/only-from-waypoint", namespace.name)]);
    let policies = |entry: &Value| (entry["authorizationPolicies"] == bound).then_some(());
    told(&lab, "workloads", &namespace, &server.name, policies).await?;
    let others = |entry: &Value| Some(entry["authorizationPolicies"].clone());
    let others = told(&lab, "workloads", &namespace, &bystander.name, others).await?;
    assert!(others.is_null() || others == json!([]), "{others}");
    Ok(())
}

#[tokio::test]
async fn five_of_a_hundred_connections_are_the_canarys() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("canary").await?;
    let ours = read("istio/waypoint.yaml")?.replace(IMAGE, STAND_IN);
    namespace.apply(&ours).await?;
    namespace.apply(&ours.replace("name: portcullis\n", "name: waypoint\n")).await?;
    let _new = namespace.waypoint("portcullis").await?;
    let _old = namespace.waypoint("waypoint").await?;
    namespace.apply(&read("istio/canary.yaml")?).await?;
    namespace.wait("service/github-mcp", "condition=istio.io/WaypointBound").await?;
    let split = |entry: &Value| entry["weightedWaypoints"].as_array().cloned();
    let split = told(&lab, "services", &namespace, "github-mcp", split).await?;
    let share = |one: &Value| (one["destination"]["hostname"]["hostname"].clone(), one["weight"].clone());
    let (old, new) = (hostname("waypoint", &namespace), hostname("portcullis", &namespace));
    let shares: Vec<_> = split.iter().map(share).collect();
    assert_eq!(shares, [(json!(old), json!(95)), (json!(new), json!(5))]);
    Ok(())
}

/// What `helm install portcullis` with these values would apply.
async fn chart(lab: &Lab, namespace: &Namespace, values: &str) -> Result<String> {
    let chart = path("helm/portcullis-waypoint").display().to_string();
    lab.helm(&["template", "portcullis", &chart, "--namespace", &namespace.name, "--set", values]).await
}

async fn install(lab: &Lab, namespace: &Namespace, values: &str) -> Result<()> {
    let manifests = chart(lab, namespace, values).await?;
    lab.kubectl_with(&["apply", "-n", &namespace.name, "-f", "-"], &manifests).await?;
    Ok(())
}

#[tokio::test]
async fn the_chart_is_well_formed_and_names_the_image_of_this_version() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("chart").await?;
    let folder = path("helm/portcullis-waypoint").display().to_string();
    let linted = lab.helm(&["lint", "--strict", &folder]).await?;
    assert!(linted.contains("1 chart(s) linted, 0 chart(s) failed"), "{linted}");
    let rendered = chart(&lab, &namespace, "replicas=3").await?;
    assert!(
        rendered.contains(&format!("image: \"{IMAGE}\"")) && rendered.contains("replicas: 3"),
        "{rendered}"
    );
    Ok(())
}

#[tokio::test]
async fn a_gateway_with_an_address_is_left_to_its_chart() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("chart").await?;
    install(&lab, &namespace, STAND_IN_VALUES).await?;
    let _waypoint = namespace.waypoint("portcullis").await?;
    namespace.wait("gateway/portcullis", "condition=Programmed").await?;
    let gateway =
        format!("/apis/gateway.networking.k8s.io/v1/namespaces/{}/gateways/portcullis", namespace.name);
    let host = hostname("portcullis", &namespace);
    let vip = namespace.service_address("portcullis").await?;
    let status = lab.api.get(&gateway).await?["status"].clone();
    let addresses = json!([{"type": "IPAddress", "value": vip}, {"type": "Hostname", "value": host}]);
    assert_eq!(status["addresses"], addresses, "{status}");

    let server = "apiVersion: v1
kind: Service
metadata: {name: server, labels: {istio.io/use-waypoint: portcullis}}
spec: {selector: {app: server}, ports: [{name: http, port: 80}]}
";
    namespace.apply(server).await?;
    namespace.wait("service/server", "condition=istio.io/WaypointBound").await?;
    let waypoint = |entry: &Value| entry.get("waypoint").cloned();
    let waypoint = told(&lab, "services", &namespace, "server", waypoint).await?;
    assert_eq!(waypoint["hostname"]["hostname"], host, "{waypoint}");
    is_all_of_helm(&lab, &namespace, "/apis/apps/v1", "deployments").await?;
    is_all_of_helm(&lab, &namespace, "/api/v1", "serviceaccounts").await
}

/// istiod made none of these: the chart's own is the only one beside those of Kubernetes and of the test.
async fn is_all_of_helm(lab: &Lab, namespace: &Namespace, group: &str, kind: &str) -> Result<()> {
    let list = lab.api.get(&format!("{group}/namespaces/{}/{kind}", namespace.name)).await?;
    let mut ours = 0;
    for object in list["items"].as_array().context("a list")? {
        let labels = &object["metadata"]["labels"];
        ensure!(labels["gateway.istio.io/managed"].is_null(), "istiod made {object}");
        ours += usize::from(labels["app.kubernetes.io/managed-by"] == "Helm");
        let refers = labels["gateway.networking.k8s.io/gateway-name"] == "portcullis";
        ensure!(!refers || labels["app.kubernetes.io/managed-by"] == "Helm", "not of the chart: {object}");
    }
    ensure!(ours == 1, "{ours} {kind} of the chart");
    Ok(())
}

/// Beyond so many updates that do not serve yet nothing more is read, and everything is read in the end.
#[tokio::test]
async fn a_queue_of_one_update_holds_istiod_up() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("queue").await?;
    install(&lab, &namespace, "settings.xds_queue=1").await?;
    let waypoint = namespace.waypoint("portcullis").await?;
    let scrape = waypoint.metrics().await?;
    let waited = scrape.sum("portcullis_limit_hits_total", &[("limit", "xds_queue")]);
    // An update that is not served yet fills a queue of one. How many come before the scrape is istiod's affair: it may answer
    // for several types at once. The waypoint is ready, so the first configuration came whole all the same.
    ensure!(waited >= 1.0, "istiod waited {waited} times");
    Ok(())
}

#[tokio::test]
async fn a_pod_of_the_chart_is_a_waypoint_with_what_its_values_say() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("chart").await?;
    let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "sessions", "namespace": namespace.name},
        "stringData": {"new": key, "old": key},
    });
    lab.api.apply(&secret).await?;
    let values = "sessionKeys.secret=sessions,sessionKeys.names={new,old},settings.drain_linger=1234,denyMode=explicit";
    install(&lab, &namespace, values).await?;
    let waypoint = namespace.waypoint("portcullis").await?;
    let client = namespace.pod(&PodSpec::new("client")).await?;
    client.ztunnel(waypoint.hbone(), &namespace.id("portcullis")).await?.dial().await?;
    let settings = waypoint.admin(Method::GET, "/config_dump").await?.json()?["settings"].clone();
    let found = [&settings["session_keys"], &settings["limits"]["drain_linger"], &settings["deny_mode"]];
    assert_eq!(found, [&json!(2), &json!(1234), &json!("Explicit")], "{settings}");
    Ok(())
}
