//! Routes at a waypoint, after Istio's TestServerRouting, TestTrafficSplit and TestWaypointWithInvalidBackend.

use crate::stage::{Ask, Caller, GRPC, HTTP, HTTP2, Service, Stage, got, told};
use anyhow::Result;
use portcullis_tests::http::Reply;
use std::collections::BTreeSet;

const SUBSETS: &str = "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: subsets}
spec:
  host: server
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

/// A VirtualService of `server` with these rules.
fn virtual_service(http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: route}}
spec: {{hosts: [server], http: [{http}]}}
"
    )
}

async fn stage(name: &str) -> Result<(Stage, Service, Caller)> {
    let stage = Stage::new(name).await?;
    let server = stage.service("server", &["v1", "v2"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    Ok((stage, server, client))
}

/// The versions that answer 10 calls.
async fn versions(client: &Caller, authority: &str, ask: &Ask) -> Result<BTreeSet<String>> {
    let mut versions = BTreeSet::new();
    for _ in 0..10 {
        let answer = client.ask(authority, ask).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        versions.extend(told(&answer, "ServiceVersion"));
    }
    Ok(versions)
}

fn only(version: &str) -> BTreeSet<String> {
    BTreeSet::from([version.to_owned()])
}

#[tokio::test]
async fn a_virtual_service_sets_headers_and_chooses_a_subset() -> Result<()> {
    let (stage, server, client) = stage("routing").await?;
    let header = "{headers: {request: {add: {istio-custom-header: user-defined-value}}}, \
                  route: [{destination: {host: server}}]}";
    stage.namespace.apply(&virtual_service(header)).await?;
    let set = |reply: &Reply| got(reply, "istio-custom-header").as_deref() == Some("user-defined-value");
    client.until(&server.at(HTTP), &Ask::get("/"), set).await?;
    assert!(set(&client.until(&server.at(HTTP2), &Ask::get("/"), |reply| reply.status == 200).await?));

    let subset = "{route: [{destination: {host: server, subset: v1}}]}";
    stage.namespace.apply(&format!("{SUBSETS}---\n{}", virtual_service(subset))).await?;
    client.until(&server.at(HTTP), &Ask::get("/"), |reply| reply.status == 200 && !set(reply)).await?;
    assert_eq!(versions(&client, &server.at(HTTP), &Ask::get("/")).await?, only("v1"));
    for (scheme, port, args) in
        [("http", HTTP2, &["--http2", "--count=10"][..]), ("grpc", GRPC, &["--count=10"])]
    {
        let url = format!("{scheme}://{}", server.at(port));
        for answer in client.pod.echo_client(stage.waypoint.hbone(), &url, args).await? {
            assert_eq!(answer.field("ServiceVersion"), Some("v1"), "{url}: {answer:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn traffic_is_split_by_header_and_by_weight() -> Result<()> {
    let (stage, server, client) = stage("split").await?;
    let by_header = "{match: [{headers: {user: {exact: istio-custom-user}}}], \
                      route: [{destination: {host: server, subset: v2}}]}, \
                     {route: [{destination: {host: server, subset: v1}}], headers: {response: {set: {split: header}}}}";
    stage.namespace.apply(&format!("{SUBSETS}---\n{}", virtual_service(by_header))).await?;
    let split_by = |by: &'static str| {
        move |reply: &Reply| {
            reply.status == 200 && reply.headers.get("split").is_some_and(|value| value == by)
        }
    };
    client.until(&server.at(HTTP), &Ask::get("/"), split_by("header")).await?;
    let custom = Ask::get("/").header("user", "istio-custom-user");
    assert_eq!(versions(&client, &server.at(HTTP), &Ask::get("/")).await?, only("v1"));
    assert_eq!(versions(&client, &server.at(HTTP), &custom).await?, only("v2"));

    let weighted = |v1: u8, v2: u8, by: &str| {
        virtual_service(&format!(
            "{{headers: {{response: {{set: {{split: {by}}}}}}}, route: [\
             {{destination: {{host: server, subset: v1}}, weight: {v1}}}, \
             {{destination: {{host: server, subset: v2}}, weight: {v2}}}]}}"
        ))
    };
    stage.namespace.apply(&weighted(0, 100, "all")).await?;
    client.until(&server.at(HTTP), &Ask::get("/"), split_by("all")).await?;
    assert_eq!(versions(&client, &server.at(HTTP), &Ask::get("/")).await?, only("v2"));
    stage.namespace.apply(&weighted(50, 50, "half")).await?;
    client.until(&server.at(HTTP), &Ask::get("/"), split_by("half")).await?;
    let mut reached = BTreeSet::new();
    // Both within 60 calls, but for one time in 2^59.
    for _ in 0..6 {
        reached.extend(versions(&client, &server.at(HTTP), &Ask::get("/")).await?);
    }
    assert_eq!(reached, BTreeSet::from(["v1", "v2"].map(str::to_owned)));
    Ok(())
}

#[tokio::test]
async fn a_route_to_a_backend_that_is_missing_answers_500() -> Result<()> {
    let (stage, server, client) = stage("missing").await?;
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: add-header}}
spec:
  parentRefs: [{{name: server, kind: Service, group: \"\", port: {HTTP}}}]
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {{add: [{{name: greeting, value: hello world!}}]}}
    backendRefs: [{{name: invalid, port: 80}}]
"
    );
    stage.namespace.apply(&route).await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 500).await?;
    assert_eq!(client.status(&server.at(HTTP2), &Ask::get("/")).await?, 200, "the route is of another port");
    Ok(())
}
