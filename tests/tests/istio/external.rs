//! Endpoints that need more than a tunnel, and that are no pods, after Istio's TestDestinationRule, TestServiceEntry* and
//! TestWaypointXFCCClientIdentity; and both waypoints of a canary.

use crate::stage::{Ask, Caller, HTTP, HTTPS, Service, Stage, TCP, WAYPOINT, got, manifest, told};
use anyhow::{Context, Result, ensure};
use portcullis_tests::http::Reply;
use portcullis_tests::istio::{Lab, PodSpec, WaypointSettings, echo};
use portcullis_tests::wait;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A header that tells that a waypoint read the request: it gives every one an id.
const ID: &str = "x-request-id";

/// A DestinationRule of `host` with this traffic policy.
fn rule(host: &str, policy: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule}}
spec: {{host: {host}, trafficPolicy: {policy}}}
"
    )
}

async fn stage(name: &str) -> Result<(Stage, Service, Caller)> {
    let stage = Stage::new(name).await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    Ok((stage, server, client))
}

/// A port of the echo server that speaks HTTPS, and whose Service says HTTP.
const READ_HTTPS: u16 = 443;

#[tokio::test]
async fn a_destination_rule_makes_the_waypoint_speak_tls_to_the_server() -> Result<()> {
    let (stage, server, client) = stage("origination").await?;
    let web = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, labels: {{istio.io/use-waypoint: {WAYPOINT}}}}}
spec: {{selector: {{app: server}}, ports: [{{name: http, port: {READ_HTTPS}, targetPort: 8443, appProtocol: http}}]}}
"
    );
    stage.namespace.apply(&web).await?;
    stage.namespace.endpoints("web", &server.pods.iter().collect::<Vec<_>>()).await?;
    let web = format!("{}:{READ_HTTPS}", stage.namespace.service_address("web").await?);
    let ask = Ask::get("/");
    // Go's server answers plain HTTP on its port for TLS, and says so.
    client.until_status(&web, &ask, 400).await?;

    let unchecked = "{mode: SIMPLE, insecureSkipVerify: true}";
    stage.namespace.apply(&rule("web", &format!("{{tls: {unchecked}}}"))).await?;
    let answer = client.until_status(&web, &ask, 200).await?;
    assert!(got(&answer, ID).is_some(), "read on its way: {}", answer.text());
    // The server's certificate is of the mesh, which no public root has issued.
    stage.namespace.apply(&rule("web", "{tls: {mode: SIMPLE}}")).await?;
    client.until_status(&web, &ask, 503).await?;
    let port = format!("{{portLevelSettings: [{{port: {{number: {READ_HTTPS}}}, tls: {unchecked}}}]}}");
    stage.namespace.apply(&rule("web", &port)).await?;
    client.until_status(&web, &ask, 200).await?;

    // As in Istio's test: the Service says HTTPS, and the client sends HTTP.
    let ports =
        [("all", format!("{{tls: {unchecked}}}")), ("https", port.replace("443", &HTTPS.to_string()))];
    for (what, policy) in ports {
        stage.namespace.apply(&rule("server", &policy)).await?;
        client.until_status(&server.at(HTTPS), &ask, 200).await.context(what)?;
    }
    // The rule is of another port.
    client.until_status(&server.at(HTTP), &ask, 200).await?;
    Ok(())
}

#[tokio::test]
async fn a_destination_rule_chooses_http2_and_mutual_tls_of_the_mesh_is_the_tunnel() -> Result<()> {
    let (stage, server, client) = stage("protocols").await?;
    let proto = |version: &'static str| {
        move |reply: &Reply| reply.status == 200 && told(reply, "Proto").as_deref() == Some(version)
    };
    let (at, ask) = (server.at(HTTP), Ask::get("/"));
    client.until(&at, &ask, proto("HTTP/1.1")).await?;
    let upgrade = "{connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}";
    stage.namespace.apply(&rule("server", upgrade)).await?;
    client.until(&at, &ask, proto("HTTP/2.0")).await?;
    stage.namespace.apply(&rule("server", "{tls: {mode: ISTIO_MUTUAL}}")).await?;
    client.until(&at, &ask, proto("HTTP/1.1")).await?;
    let seen = server.servers.first().context("a server")?.ztunnel.seen();
    assert!(seen.iter().all(|connect| connect.peer == stage.waypoint.id()), "{seen:?}");

    let subset = format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: route}}
spec: {{hosts: [server], http: [{{route: [{{destination: {{host: server, subset: v1}}}}]}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule}}
spec: {{host: server, subsets: [{{name: v1, labels: {{version: v1}}, trafficPolicy: {upgrade}}}]}}
"
    );
    stage.namespace.apply(&subset).await?;
    client.until(&at, &ask, proto("HTTP/2.0")).await?;
    Ok(())
}

#[tokio::test]
async fn a_destination_rule_that_asks_for_the_proxy_protocol_is_refused_by_name() -> Result<()> {
    let (stage, server, client) = stage("proxied").await?;
    let _next = stage.service("next", &["v1"]).await?;
    stage.namespace.apply(&rule("next", "{proxyProtocol: {version: V1}}")).await?;
    let refused =
        |line: &String| line.contains("ProxyProtocolUpstreamTransport is not supported").then_some(());
    stage.waypoint.process.stderr.clone().find("why it is refused", refused).await?;
    assert_eq!(client.status(&server.at(HTTP), &Ask::get("/")).await?, 200, "of another service");
    Ok(())
}

/// A ServiceEntry of port 80 behind the waypoint, with the rest of its spec.
fn entry(name: &str, location: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, labels: {{istio.io/use-waypoint: {WAYPOINT}}}}}
spec:
  hosts: [{name}.example.com]
  location: {location}
  {spec}
"
    )
}

/// Whoever answers for a ServiceEntry, at the address that istiod gave it.
async fn entered(stage: &Stage, client: &Caller, name: &str) -> Result<Reply> {
    let path =
        format!("/apis/networking.istio.io/v1/namespaces/{}/serviceentries/{name}", stage.namespace.name);
    let address = |entry: &serde_json::Value| {
        let addresses = entry.pointer("/status/addresses")?.as_array()?;
        let mut addresses = addresses.iter().filter_map(|address| address.get("value")?.as_str());
        addresses.find(|address| !address.contains(':')).map(str::to_owned)
    };
    let vip = Lab::get()?.api.until(&path, "istiod gives it an address", address).await?;
    client.until_status(&format!("{vip}:80"), &Ask::get("/"), 200).await
}

#[tokio::test]
async fn service_entries_with_inlined_and_selected_workloads_are_served() -> Result<()> {
    let stage = Stage::new("entries").await?;
    let client = stage.client("client").await?;
    let mut servers = Vec::new();
    for name in ["inlined", "selected", "uncaptured"] {
        let pod = stage.namespace.pod(&PodSpec::new(name).without_mesh()).await?;
        servers.push((pod.echo(name).await?, pod));
    }
    let address = |at: usize| servers.get(at).map(|(_, pod)| pod.address).context("a server");
    let workload = format!(
        "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: selected}}
spec: {{address: {}, ports: {{http: 8080}}, labels: {{app: chosen}}}}
",
        address(1)?
    );
    stage.namespace.apply(&workload).await?;
    let by_label = |app: &str, ports: &str, resolution: &str| {
        format!(
            "resolution: {resolution}\n  workloadSelector: {{labels: {{app: {app}}}}}\n  ports: [{{number: 80, name: http, protocol: HTTP{ports}}}]"
        )
    };
    let inlined = format!(
        "resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints: [{{address: {}, ports: {{http: 8080}}}}]",
        address(0)?
    );
    let rows = [
        ("inlined-in", "MESH_INTERNAL", inlined.clone(), "inlined"),
        ("inlined-out", "MESH_EXTERNAL", inlined, "inlined"),
        ("selected-in", "MESH_INTERNAL", by_label("chosen", "", "STATIC"), "selected"),
        ("selected-out", "MESH_EXTERNAL", by_label("chosen", "", "STATIC"), "selected"),
        ("selected-dns", "MESH_EXTERNAL", by_label("chosen", "", "DNS"), "selected"),
        ("pod-in", "MESH_INTERNAL", by_label("uncaptured", ", targetPort: 8080", "STATIC"), "uncaptured"),
        ("pod-out", "MESH_EXTERNAL", by_label("uncaptured", ", targetPort: 8080", "STATIC"), "uncaptured"),
    ];
    for (name, location, spec, _) in &rows {
        stage.namespace.apply(&entry(name, location, spec)).await?;
    }
    for (name, _, _, version) in &rows {
        let answer = entered(&stage, &client, name).await.with_context(|| (*name).to_owned())?;
        assert_eq!(told(&answer, "ServiceVersion").as_deref(), Some(*version), "{name}: {}", answer.text());
        assert!(got(&answer, ID).is_some(), "{name}: {}", answer.text());
    }
    Ok(())
}

#[tokio::test]
async fn the_clients_identity_is_told_only_where_the_gateway_says_so() -> Result<()> {
    const XFCC: &str = "x-forwarded-client-cert";
    let forged = Ask::get("/")
        .header(XFCC, "By=spiffe://cluster.local/ns/x/sa/y;URI=spiffe://cluster.local/ns/x/sa/z");
    let (_plain, server, client) = stage("silent").await?;
    let answer = client.ask(&server.at(HTTP), &forged).await?;
    assert_eq!((answer.status.as_u16(), got(&answer, XFCC)), (200, None), "taken off, and none put on");

    let labels = "  labels:\n    istio.io/waypoint-for";
    let annotation = "  annotations: {ambient.istio.io/xfcc-include-client-identity: \"true\"}\n";
    let annotated = manifest()?.replace(labels, &format!("{annotation}{labels}"));
    ensure!(annotated != manifest()?, "the manifest has another shape");
    let stage = Stage::with("telling", &annotated, &WaypointSettings::default()).await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    let expected = format!("By={};URI={}", stage.waypoint.id(), client.pod.id());
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    for ask in [Ask::get("/"), forged] {
        let answer = client.ask(&server.at(HTTP), &ask).await?;
        assert_eq!(got(&answer, XFCC).as_deref(), Some(expected.as_str()), "{ask:?}");
    }
    Ok(())
}

#[tokio::test]
async fn both_waypoints_of_a_canary_serve_the_service_and_its_policy() -> Result<()> {
    let stage = Stage::new("shifted").await?;
    let canary = manifest()?.replace("name: portcullis\n", "name: canary\n");
    stage.namespace.apply(&canary).await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let service = format!("/api/v1/namespaces/{}/services/server", stage.namespace.name);
    let split = |weight: &str| {
        serde_json::json!({"metadata": {
            "labels": {"istio.io/use-waypoint-canary": "canary"},
            "annotations": {"istio.io/use-waypoint-canary-weight": weight},
        }})
    };
    // Whose pod is not there: the first one serves on.
    let lab = Lab::get()?;
    lab.api.patch(&service, &split("50")).await?;
    assert_eq!(client.status(&server.at(HTTP), &Ask::get("/")).await?, 200);

    let second = stage.namespace.waypoint("canary").await?;
    let through_second = Caller::new(client.pod.clone(), &second).await?;
    through_second.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let deny = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny}
spec:
  targetRefs: [{group: \"\", kind: Service, name: server}]
  action: DENY
  rules: [{to: [{operation: {paths: [/deny]}}]}]
";
    stage.namespace.apply(deny).await?;
    let rows = [("denied", Ask::get("/deny"), 403), ("allowed", Ask::get("/"), 200)];
    for through in [&client, &through_second] {
        through.expect(&server.at(HTTP), &rows).await?;
    }
    lab.api
        .patch(&service, &serde_json::json!({"metadata": {"labels": {"istio.io/use-waypoint-canary": null}}}))
        .await?;
    assert_eq!(client.status(&server.at(HTTP), &Ask::get("/")).await?, 200);
    wait::until_async("the canary no longer serves it", async || {
        Ok(through_second.ask(&server.at(HTTP), &Ask::get("/")).await.is_err().then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_service_entry_without_resolution_is_reached_at_its_own_address() -> Result<()> {
    let stage = Stage::new("unresolved").await?;
    let client = stage.client("client").await?;
    let pod = stage.namespace.pod(&PodSpec::new("outside").without_mesh()).await?;
    let _echo = pod.echo("outside").await?;
    let spec = format!(
        "addresses: [{}]\n  resolution: NONE\n  ports: [{{number: {}, name: http, protocol: HTTP}}]",
        pod.address,
        echo::HTTP
    );
    stage.namespace.apply(&entry("outside", "MESH_EXTERNAL", &spec)).await?;
    let at = format!("{}:{}", pod.address, echo::HTTP);
    let answer = client.until_status(&at, &Ask::get("/"), 200).await?;
    assert_eq!(told(&answer, "ServiceVersion").as_deref(), Some("outside"));
    assert!(got(&answer, ID).is_some(), "read on its way");
    // The address of a neighbour was not told: nobody is carried there.
    let neighbour = stage.namespace.pod(&PodSpec::new("neighbour").without_mesh()).await?;
    let _neighbour = neighbour.echo("v1").await?;
    let refused = client.ask(&format!("{}:{}", neighbour.address, echo::HTTP), &Ask::get("/")).await;
    assert!(refused.is_err(), "{refused:?}");
    Ok(())
}

#[tokio::test]
async fn a_stream_that_rests_longer_than_a_destination_rule_lets_it_is_closed() -> Result<()> {
    let (stage, server, client) = stage("idle").await?;
    let stream = async || -> Result<bool> {
        let mut stream = client.ztunnel.connect(&server.at(TCP)).await?;
        stream.write_all(b"hello\n").await?;
        let mut said = Vec::new();
        // Istio's echo server answers a line and waits for more.
        let read = tokio::time::timeout(Duration::from_secs(3), stream.read_to_end(&mut said)).await;
        Ok(read.is_ok())
    };
    assert!(!stream().await?, "without a rule it stays open");
    let rule = rule("server", "{connectionPool: {tcp: {idleTimeout: 1s}}}");
    stage.namespace.apply(&rule).await?;
    wait::until_async("a stream is closed", async || Ok(stream().await?.then_some(()))).await
}
