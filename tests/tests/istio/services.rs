//! Services behind a waypoint, after Istio's TestServices, TestPodIP, TestServerSideLB, TestWaypointChanges,
//! TestRemoveAddWaypoint and TestCrossNamespaceWaypoint.

use crate::stage::{
    AUTO_GRPC, AUTO_HTTP, AUTO_HTTPS, AUTO_SERVER_FIRST, AUTO_TCP, Ask, Caller, GRPC, HTTP, HTTP2, HTTPS,
    SERVER_FIRST, Service, Stage, TCP, WAYPOINT, got, manifest,
};
use anyhow::{Context, Result};
use portcullis_tests::istio::{Answer, Lab, PodSpec, WaypointSettings, echo};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{HBONE_PORT, Refused};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Mutex;

/// An answer that a header tells to have come through a waypoint: it gives every request an id.
const ID: &str = "x-request-id";

#[tokio::test]
async fn every_port_of_a_service_works_and_http_is_seen_as_http() -> Result<()> {
    let stage = Stage::new("services").await?;
    let server = stage.service("server", &["v1"]).await?;
    let plain = stage.service("plain", &[]).await?;
    let pod = stage.namespace.pod(&PodSpec::new("plain").without_mesh()).await?;
    let unmeshed = pod.echo("plain").await?;
    stage.namespace.endpoints("plain", &[&pod]).await?;
    let client = stage.client("client").await?;
    let rows: [(&str, u16, &[&str], bool); 12] = [
        ("http", HTTP, &[], true),
        ("http", HTTP2, &["--http2"], true),
        ("http", HTTP, &["--method=POST", "--msg=body"], true),
        ("grpc", GRPC, &[], true),
        ("tcp", TCP, &[], false),
        ("tcp", SERVER_FIRST, &["--server-first"], false),
        ("https", HTTPS, &["--insecure-skip-verify"], false),
        ("http", AUTO_HTTP, &[], true),
        ("grpc", AUTO_GRPC, &[], true),
        ("tcp", AUTO_TCP, &[], false),
        ("tcp", AUTO_SERVER_FIRST, &["--server-first"], false),
        ("https", AUTO_HTTPS, &["--insecure-skip-verify"], false),
    ];
    for (service, version) in [(&server, "v1"), (&plain, "plain")] {
        client.until_status(&service.at(HTTP), &Ask::get("/"), 200).await?;
        for (scheme, port, args, http) in rows {
            let url = format!("{scheme}://{}", service.at(port));
            let args: Vec<_> = args.iter().copied().chain(["--count=5"]).collect();
            let answers = client.pod.echo_client(stage.waypoint.hbone(), &url, &args).await?;
            assert_eq!(answers.len(), 5, "{url}");
            for answer in answers {
                assert_eq!(answer.field("StatusCode"), Some("200"), "{url}: {answer:?}");
                assert_eq!(answer.field("ServiceVersion"), Some(version), "{url}: {answer:?}");
                assert_eq!(answer.request_header(ID).is_some(), http, "{url}: {answer:?}");
            }
        }
    }
    let seen = server.servers.first().context("a server")?.ztunnel.seen();
    assert!(seen.iter().all(|connect| connect.peer == stage.waypoint.id()), "{seen:?}");
    assert_eq!(unmeshed.ztunnel.seen().len(), 0, "a pod outside of the mesh is reached without HBONE");
    Ok(())
}

#[tokio::test]
async fn pods_by_address_through_a_waypoint_for_workloads() -> Result<()> {
    let manifest = manifest()?.replace("waypoint-for: service", "waypoint-for: workload");
    let stage = Stage::with("pods", &manifest, &WaypointSettings::default()).await?;
    let unbound = Service::new(&stage.namespace, "server", "", &["v1"]).await?;
    let spec = PodSpec::new("bound").label("app", "server").label("istio.io/use-waypoint", WAYPOINT);
    let bound = stage.namespace.pod(&spec).await?;
    let server = bound.echo("bound").await?;
    let client = stage.client("client").await?;
    let http = bound.port(echo::HTTP).to_string();
    client.until_status(&http, &Ask::get("/"), 200).await?;
    let rows: [(&str, u16, &[&str], bool); 5] = [
        ("http", echo::HTTP, &[], true),
        ("http", echo::HTTP, &["--http2"], true),
        ("grpc", echo::GRPC, &[], true),
        ("tcp", echo::TCP, &[], false),
        ("tcp", echo::SERVER_FIRST, &["--server-first"], false),
    ];
    for (scheme, port, args, http) in rows {
        let url = format!("{scheme}://{}", bound.port(port));
        for answer in client.pod.echo_client(stage.waypoint.hbone(), &url, args).await? {
            assert_eq!(answer.field("ServiceVersion"), Some("bound"), "{url}: {answer:?}");
            assert_eq!(answer.request_header(ID).is_some(), http, "{url}: {answer:?}");
        }
    }
    assert!(server.ztunnel.seen().iter().all(|connect| connect.peer == stage.waypoint.id()));
    let pod = unbound.pods.first().context("a pod")?.port(echo::HTTP).to_string();
    for authority in [pod, unbound.at(HTTP)] {
        assert_eq!(Refused::status_of(client.ztunnel.connect(&authority).await), 400, "{authority}");
    }
    let deny = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: portcullis}]
  action: DENY
  rules: [{to: [{operation: {paths: [/deny]}}]}]
";
    stage.namespace.apply(deny).await?;
    client.expect(&http, &[("denied", Ask::get("/deny"), 403), ("allowed", Ask::get("/"), 200)]).await
}

#[tokio::test]
async fn requests_of_one_connection_are_spread_and_so_are_opaque_streams() -> Result<()> {
    let stage = Stage::new("spread").await?;
    let versions = ["v1", "v2", "v3"];
    let server = stage.service("server", &versions).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    for (scheme, port, args) in
        [("http", HTTP2, &["--http2", "--count=30"][..]), ("grpc", GRPC, &["--count=30"])]
    {
        let url = format!("{scheme}://{}", server.at(port));
        let answers = client.pod.echo_client(stage.waypoint.hbone(), &url, args).await?;
        assert_eq!(versions_of(&answers), BTreeSet::from(versions), "{url}");
    }
    // A stream as a whole has one server; a new one may have another.
    let url = format!("tcp://{}", server.at(TCP));
    let args = ["--count=30", "--new-connection-per-request"];
    let answers = client.pod.echo_client(stage.waypoint.hbone(), &url, &args).await?;
    assert!(versions_of(&answers).len() > 1, "{answers:?}");
    Ok(())
}

fn versions_of(answers: &[Answer]) -> BTreeSet<&str> {
    answers.iter().filter_map(|answer| answer.field("ServiceVersion")).collect()
}

#[tokio::test]
async fn a_changed_deployment_takes_over_under_traffic() -> Result<()> {
    let mut stage = Stage::new("changes").await?;
    let namespace = stage.namespace.clone();
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    let authority = server.at(HTTP);
    client.until_status(&authority, &Ask::get("/"), 200).await?;

    let current = Arc::new(Mutex::new(client.clone()));
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let traffic = tokio::spawn({
        let (current, authority) = (current.clone(), authority.clone());
        async move {
            let mut carried = 0;
            while stopped.try_recv().is_err() {
                let caller = current.lock().await.clone();
                let status = caller.status(&authority, &Ask::get("/")).await?;
                anyhow::ensure!(status == 200, "{status} after {carried}");
                carried += 1;
            }
            anyhow::Ok(carried)
        }
    });
    let changed =
        manifest()?.replace("        spec:\n", "        spec:\n          terminationGracePeriodSeconds: 3\n");
    anyhow::ensure!(changed != manifest()?, "the manifest has another shape");
    namespace.apply(&changed).await?;
    let deployment = format!("/apis/apps/v1/namespaces/{}/deployments/{WAYPOINT}", namespace.name);
    let lab = Lab::get()?;
    let grace = "/spec/template/spec/terminationGracePeriodSeconds";
    let has_it = |found: &serde_json::Value| (found.pointer(grace) == Some(&json!(3))).then_some(());
    // An overlay is read again when the Gateway changes.
    let gateway =
        format!("/apis/gateway.networking.k8s.io/v1/namespaces/{}/gateways/{WAYPOINT}", namespace.name);
    lab.api.patch(&gateway, &json!({"metadata": {"annotations": {"changed": "yes"}}})).await?;
    lab.api.until(&deployment, "istiod has rendered the change", has_it).await?;
    let next = namespace.waypoint(WAYPOINT).await?;
    assert_eq!(next.object["spec"]["terminationGracePeriodSeconds"], 3);
    let moved = Caller::new(client.pod.clone(), &next).await?;
    moved.until_status(&authority, &Ask::get("/"), 200).await?;
    *current.lock().await = moved;
    // The call that was under way ends on the old one, which drains.
    assert!(stage.waypoint.stop().await?.success());
    stop.send(()).ok().context("the traffic goes on")?;
    let carried = wait::within("the end of the traffic", traffic).await???;
    assert!(carried > 1, "{carried} calls");
    Ok(())
}

#[tokio::test]
async fn a_service_gets_a_waypoint_and_loses_it_again() -> Result<()> {
    let stage = Stage::new("readded").await?;
    let namespace = &stage.namespace;
    let server = Service::new(namespace, "server", "", &["v1"]).await?;
    let client = stage.client("client").await?;
    let authority = server.at(HTTP);
    let pod = server.pods.first().context("a pod")?;
    let direct = Caller {
        pod: client.pod.clone(),
        ztunnel: client.pod.ztunnel(pod.port(HBONE_PORT), &pod.id()).await?,
    };
    let l4 = async || {
        let answer = direct.ask(&pod.port(echo::HTTP).to_string(), &Ask::get("/")).await?;
        assert_eq!((answer.status.as_u16(), got(&answer, ID)), (200, None));
        anyhow::Ok(())
    };
    let service = format!("/api/v1/namespaces/{}/services/server", namespace.name);
    let bind = async |waypoint: Option<&str>| {
        let labels = json!({"metadata": {"labels": {"istio.io/use-waypoint": waypoint}}});
        Lab::get()?.api.patch(&service, &labels).await
    };
    for _ in 0..2 {
        l4().await?;
        assert!(client.ask(&authority, &Ask::get("/")).await.is_err(), "not served yet");
        bind(Some(WAYPOINT)).await?;
        let answer = client.until_status(&authority, &Ask::get("/"), 200).await?;
        assert!(got(&answer, ID).is_some(), "{}", answer.text());
        bind(None).await?;
        wait::until_async("the waypoint no longer serves it", async || {
            Ok(client.ask(&authority, &Ask::get("/")).await.is_err().then_some(()))
        })
        .await?;
    }
    l4().await
}

#[tokio::test]
async fn a_waypoint_serves_services_of_another_namespace() -> Result<()> {
    let open =
        manifest()?.replace("protocol: HBONE}", "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}");
    let stage = Stage::with("crossns", &open, &WaypointSettings::default()).await?;
    let apps = Lab::get()?.namespace("apps").await?;
    let labels = format!(
        "istio.io/use-waypoint: {WAYPOINT}, istio.io/use-waypoint-namespace: {}",
        stage.namespace.name
    );
    let server = Service::new(&apps, "server", &labels, &["v1"]).await?;
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route}
spec:
  parentRefs: [{name: server, kind: Service, group: \"\"}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: server, port: 80}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {add: [{name: X-Custom-Traversed-Waypoint, value: crossns-waypoint}]}
";
    apps.apply(route).await?;
    apps.wait("service/server", "condition=istio.io/WaypointBound").await?;
    let client = Caller::new(apps.pod(&PodSpec::new("client")).await?, &stage.waypoint).await?;
    let traversed = |reply: &portcullis_tests::http::Reply| {
        reply.headers.get("x-custom-traversed-waypoint").is_some_and(|value| value == "crossns-waypoint")
    };
    let answer = client.until(&server.at(HTTP), &Ask::get("/"), traversed).await?;
    assert_eq!(answer.status, 200);
    Ok(())
}
