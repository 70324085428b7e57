//! A waypoint as the way out of the mesh, and routes of Services for streams, after Istio's TestWaypointAsEgressGateway,
//! TestWaypointDNS, TestServiceEntryDNSWithAutoAssign, TestWaypointWithSidecarBackend, TestTCPRoute and TestTLSRoute.

use crate::stage::{Ask, Caller, HTTP, Service, Stage, TCP, WAYPOINT, got, manifest, told};
use anyhow::{Context, Result};
use portcullis_tests::http::Reply;
use portcullis_tests::istio::{Lab, PodSpec, WaypointSettings, echo};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::HBONE_PORT;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A header that tells that a waypoint read the request: it gives every one an id.
const ID: &str = "x-request-id";

/// The address that istiod gave a ServiceEntry.
async fn address(namespace: &str, name: &str) -> Result<String> {
    let path = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/serviceentries/{name}");
    let address = |entry: &serde_json::Value| {
        let mut all =
            entry.pointer("/status/addresses")?.as_array()?.iter().filter_map(|at| at["value"].as_str());
        all.find(|address| !address.contains(':')).map(str::to_owned)
    };
    Lab::get()?.api.until(&path, "istiod gives it an address", address).await
}

#[tokio::test]
async fn a_waypoint_of_another_namespace_is_the_way_to_an_external_host() -> Result<()> {
    let lab = Lab::get()?;
    let apps = lab.namespace("apps").await?;
    let selector =
        format!("from: Selector, selector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}", apps.name);
    let open = format!("protocol: HBONE, allowedRoutes: {{namespaces: {{{selector}}}}}}}");
    let external = apps.pod(&PodSpec::new("external").without_mesh()).await?;
    let _echo = external.echo("external").await?;
    let settings = WaypointSettings::default().host("external.example.net", external.address);
    let egress = Stage::with("egress", &manifest()?.replace("protocol: HBONE}", &open), &settings).await?;
    // The host is resolved by the waypoint; a port of HTTP leads to one that speaks TLS.
    let entry = format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: external
  labels: {{istio.io/use-waypoint: {WAYPOINT}, istio.io/use-waypoint-namespace: {}}}
spec:
  hosts: [fake-egress.example.com]
  ports:
  - {{number: 80, name: http, protocol: HTTP, targetPort: {}}}
  - {{number: 8443, name: http-for-tls, protocol: HTTP, targetPort: {}}}
  location: MESH_EXTERNAL
  resolution: DNS
  endpoints: [{{address: external.example.net}}]
",
        egress.namespace.name,
        echo::HTTP,
        echo::HTTPS
    );
    apps.apply(&entry).await?;
    let vip = address(&apps.name, "external").await?;
    let client = Caller::new(apps.pod(&PodSpec::new("client")).await?, &egress.waypoint).await?;
    let ask = Ask::get("/");
    let (plain, tls) = (format!("{vip}:80"), format!("{vip}:8443"));
    let answer = client.until_status(&plain, &ask, 200).await?;
    assert_eq!(told(&answer, "ServiceVersion").as_deref(), Some("external"));
    assert!(got(&answer, ID).is_some(), "read on its way: {}", answer.text());
    assert_ne!(client.status(&tls, &ask).await?, 200, "without TLS");

    let origination = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: tls-origination}
spec:
  host: fake-egress.example.com
  trafficPolicy: {portLevelSettings: [{port: {number: 8443}, tls: {mode: SIMPLE, insecureSkipVerify: true}}]}
";
    apps.apply(origination).await?;
    let answer = client.until_status(&tls, &ask, 200).await?;
    assert_eq!(told(&answer, "ServiceVersion").as_deref(), Some("external"));
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route-port}
spec:
  parentRefs: [{kind: ServiceEntry, group: networking.istio.io, name: external, port: 80}]
  rules:
  - backendRefs: [{kind: Hostname, group: networking.istio.io, name: fake-egress.example.com, port: 8443}]
";
    apps.apply(route).await?;
    let by_tls = |reply: &Reply| reply.status == 200 && told(reply, "ServicePort").as_deref() == Some("8443");
    client.until(&plain, &ask, by_tls).await?;

    let only_get = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-get}
spec:
  targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: external}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
";
    apps.apply(only_get).await?;
    client.expect(&plain, &[("POST", Ask::post("/"), 403), ("GET", ask, 200)]).await?;
    apps.delete("serviceentry/external").await?;
    wait::until_async("it is gone", async || Ok(client.ztunnel.connect(&plain).await.is_err().then_some(())))
        .await
}

#[tokio::test]
async fn a_backend_with_a_sidecar_that_speaks_hbone_is_reached_by_a_tunnel() -> Result<()> {
    let stage = Stage::new("sidecar").await?;
    // As the ambient profile injects sidecars: they take HBONE, and ztunnel has no part in it.
    let spec = PodSpec::new("sidecar").without_mesh().label("networking.istio.io/tunnel", "http");
    let pod = stage.namespace.pod(&spec.label("security.istio.io/tlsMode", "istio")).await?;
    let hbone = pod.serve_hbone().await?;
    let _application = Upstream::on(pod.network.listen(pod.port(8080))?, |seen| {
        let greeting = seen.headers.get("greeting").map(|value| value.as_bytes().to_vec());
        upstream::text(http::StatusCode::OK, greeting.unwrap_or_default())
    })?;
    let service = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: sidecar, labels: {{istio.io/use-waypoint: {WAYPOINT}}}}}
spec: {{selector: {{app: sidecar}}, ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: add-header}}
spec:
  parentRefs: [{{name: sidecar, kind: Service, group: \"\", port: 80}}]
  rules:
  - filters:
    - {{type: RequestHeaderModifier, requestHeaderModifier: {{add: [{{name: greeting, value: hello world!}}]}}}}
    backendRefs: [{{name: sidecar, port: 80}}]
"
    );
    stage.namespace.apply(&service).await?;
    stage.namespace.endpoints("sidecar", &[&pod]).await?;
    let at = format!("{}:80", stage.namespace.service_address("sidecar").await?);
    let client = stage.client("client").await?;
    let greeted = |reply: &Reply| reply.status == 200 && reply.text() == "hello world!";
    client.until(&at, &Ask::get("/"), greeted).await?;
    let seen = hbone.saw(1).await?;
    assert!(seen.iter().all(|connect| connect.peer == stage.waypoint.id()), "{seen:?}");
    assert_eq!(hbone.address.port(), HBONE_PORT);
    Ok(())
}

#[tokio::test]
async fn a_route_to_a_service_without_a_waypoint_is_carried_and_one_to_a_plain_sidecar_is_refused_by_name()
-> Result<()> {
    let stage = Stage::new("elsewhere").await?;
    let server = stage.service("server", &["v1"]).await?;
    let canary = Service::new(&stage.namespace, "canary", "", &["v2"]).await?;
    let client = stage.client("client").await?;
    let (at, ask) = (server.at(HTTP), Ask::get("/"));
    client.until_status(&at, &ask, 200).await?;
    let to = |host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: route}}
spec: {{hosts: [server], http: [{{route: [{{destination: {{host: {host}, port: {{number: {HTTP}}}}}}}]}}]}}
"
        )
    };
    stage.namespace.apply(&to("canary")).await?;
    client.until(&at, &ask, |reply| told(reply, "ServiceVersion").as_deref() == Some("v2")).await?;
    let seen = canary.servers.first().context("a server")?.ztunnel.seen();
    assert!(seen.iter().all(|connect| connect.peer == stage.waypoint.id()), "{seen:?}");

    let spec = PodSpec::new("old").without_mesh().label("security.istio.io/tlsMode", "istio");
    let pod = stage.namespace.pod(&spec).await?;
    let application =
        Upstream::on(pod.network.listen(pod.port(8080))?, |_| upstream::text(http::StatusCode::OK, "plain"))?;
    let service = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: old}}, spec: {{selector: {{app: old}}, \
         ports: [{{name: http, port: {HTTP}, targetPort: 8080, appProtocol: http}}]}}}}"
    );
    stage.namespace.apply(&service).await?;
    stage.namespace.endpoints("old", &[&pod]).await?;
    stage.namespace.apply(&to("old")).await?;
    let why = "mutual_TLS_to_sidecars_without_HBONE_is_not_supported";
    wait::until_async("it is refused by name", async || {
        let refused = client.status(&at, &ask).await? == 503;
        let named = stage.waypoint.process.stdout.all().iter().any(|line| line.contains(why));
        Ok((refused && named).then_some(()))
    })
    .await?;
    application.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn streams_are_split_between_the_backends_of_a_route_for_them() -> Result<()> {
    for kind in ["TCPRoute", "TLSRoute"] {
        let stage = Stage::new("streams").await?;
        let server = stage.service("server", &["v1"]).await?;
        let mut all = Vec::new();
        for name in ["heavy", "light"] {
            all.push(Service::new(&stage.namespace, name, "", &[name]).await?);
        }
        let client = stage.client("client").await?;
        client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
        // istiod takes a TLSRoute for the Service's own host name only, and then for whatever stream comes.
        let hostnames = match kind {
            "TLSRoute" => format!("\n  hostnames: [server.{}.svc.cluster.local]", stage.namespace.name),
            _ => String::new(),
        };
        let route = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: route}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: server, port: {TCP}}}]{hostnames}
  rules:
  - backendRefs: [{{name: heavy, port: {TCP}, weight: 3}}, {{name: light, port: {TCP}, weight: 1}}]
"
        );
        stage.namespace.apply(&route).await?;
        let at = server.at(TCP);
        wait::until_async("streams go by the route", async || {
            Ok((version(&client, &at).await.ok().as_deref() == Some("heavy")).then_some(()))
        })
        .await
        .with_context(|| kind.to_owned())?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..60 {
            *counts.entry(version(&client, &at).await?).or_default() += 1;
        }
        let of = |name: &str| counts.get(name).copied().unwrap_or_default();
        // 45 of 60 are due to the heavy one; fewer than 31 come once in 30,000 times.
        assert!(of("heavy") > of("light") && of("light") > 0 && of("v1") == 0, "{kind}: {counts:?}");
    }
    Ok(())
}

/// Which version of Istio's echo server answers a stream.
async fn version(client: &Caller, at: &str) -> Result<String> {
    let mut stream = client.ztunnel.connect(at).await?;
    stream.write_all(b"hello\n").await?;
    stream.shutdown().await?;
    let mut text = String::new();
    wait::within("an answer", stream.read_to_string(&mut text)).await??;
    let version = text.lines().find_map(|line| line.strip_prefix("ServiceVersion="));
    version.map(str::to_owned).with_context(|| text.clone())
}
