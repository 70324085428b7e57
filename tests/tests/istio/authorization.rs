//! Authorization at a waypoint, after Istio's TestAuthorizationServiceAttached, TestAuthorizationGateway,
//! TestAuthorizationWaypointDefaultDeny, TestAuthorizationL7 and TestL7JWT.

use crate::stage::{Ask, Caller, GRPC, HTTP, HTTP2, HTTPS, Stage, TCP, manifest};
use anyhow::{Context, Result};
use portcullis_tests::http::Client;
use portcullis_tests::istio::{IstiodSettings, Lab, PodSpec, WaypointSettings};
use portcullis_tests::tokens::{self, Issuer};
use portcullis_tests::wait;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

/// An AuthorizationPolicy of this name with this spec.
fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

const GATEWAY: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: portcullis}]";
const SERVER: &str = "targetRefs: [{group: \"\", kind: Service, name: server}]";

#[tokio::test]
async fn a_policy_on_a_service_counts_for_that_service_alone() -> Result<()> {
    let stage = Stage::new("attached").await?;
    let server = stage.service("server", &["v1"]).await?;
    let other = stage.service("other", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let kept = Client::http1(client.ztunnel.connect(&server.at(HTTP)).await?).await?;
    assert_eq!(kept.send(Ask::get("/").request()?).await?.status, 200);
    let mut stream = client.ztunnel.connect(&server.at(TCP)).await?;
    let somebody = "{rules: [{from: [{source: {principals: [cluster.local/ns/something/sa/else]}}]}]}";
    let principal = policy("policy-waypoint", &format!("{{{SERVER}, {}", &somebody[1..]));
    stage.namespace.apply(&principal).await?;
    let denied = client.until_status(&server.at(HTTP), &Ask::get("/"), 403).await?;
    assert_eq!(denied.text(), "RBAC: access denied");
    assert_eq!(kept.send(Ask::get("/").request()?).await?.status, 403, "on a connection from before");
    let cut = wait::within("the cut of a stream from before", stream.read(&mut [0; 8])).await?;
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(client.status(&other.at(HTTP), &Ask::get("/")).await?, 200);

    let header = "rules: [{when: [{key: \"request.headers[x-foo]\", values: [x-bar]}]}]";
    stage.namespace.apply(&policy("header", &format!("{{{SERVER}, action: ALLOW, {header}}}"))).await?;
    let rows = [
        ("the header", Ask::get("/").header("x-foo", "x-bar"), 200),
        ("another value", Ask::get("/").header("x-foo", "wrong-value"), 403),
        ("no header", Ask::get("/"), 403),
    ];
    client.expect(&server.at(HTTP), &rows).await?;
    assert_eq!(client.status(&other.at(HTTP), &Ask::get("/")).await?, 200);
    // Opaque streams have no headers, so no rule can hold there.
    wait::until_async("the port for TCP refuses", async || {
        Ok(client.ztunnel.connect(&server.at(TCP)).await.is_err().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_policy_on_the_gateway_tells_an_ingress_and_ports() -> Result<()> {
    let stage = Stage::new("gatewayed").await?;
    let server = stage.service("server", &["v1"]).await?;
    let other = stage.service("other", &["v1"]).await?;
    let edge = Lab::get()?.namespace("edge").await?;
    let ingress = Caller::new(edge.pod(&PodSpec::new("ingress")).await?, &stage.waypoint).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let from = |account: &str, port: u16| {
        format!(
            "{{from: [{{source: {{principals: [{account}]}}}}], to: [{{operation: {{ports: [\"{port}\"]}}}}]}}"
        )
    };
    let rules = [
        from(ingress.pod.id().trim_start_matches("spiffe://"), HTTP),
        from(&format!("cluster.local/ns/{}/sa/someone-else", stage.namespace.name), HTTP2),
    ];
    stage.namespace.apply(&policy("ports", &format!("{{{GATEWAY}, rules: [{}]}}", rules.join(", ")))).await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 403).await?;
    for service in [&server, &other] {
        ingress.expect(&service.at(HTTP), &[("its port", Ask::get("/allowed"), 200)]).await?;
        ingress.expect(&service.at(HTTP2), &[("another port", Ask::get("/deny"), 403)]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn default_deny_of_workloads_is_not_the_waypoints_and_that_of_its_class_is() -> Result<()> {
    let lab = Lab::get()?;
    // Its root namespace is the test's own: a policy there counts for this istiod alone.
    let root = lab.namespace("root").await?;
    let istiod = lab.istiod(IstiodSettings::default().mesh_config(&mesh(&root.name))).await?;
    let settings = WaypointSettings::default().istiod(istiod.address());
    let stage = Stage::with("defaults", &manifest()?, &settings).await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let ztunnel = &server.servers.first().context("a server")?.ztunnel;

    // What follows is for ztunnel, which then sees the waypoint's identity; the waypoint carries the call to it.
    root.apply(&policy("allow-nothing", "{}")).await?;
    let from_waypoint = format!(
        "{{action: ALLOW, rules: [{{from: [{{source: {{principals: [\"{}\"]}}}}]}}]}}",
        stage.waypoint.id().trim_start_matches("spiffe://")
    );
    stage.namespace.apply(&policy("allow-from-waypoint", &from_waypoint)).await?;
    // One that does count says that istiod has pushed all three.
    let marked = format!("{{{SERVER}, action: DENY, rules: [{{to: [{{operation: {{paths: [/mark]}}}}]}}]}}");
    stage.namespace.apply(&policy("mark", &marked)).await?;
    client
        .expect(&server.at(HTTP), &[("mark", Ask::get("/mark"), 403), ("else", Ask::get("/"), 200)])
        .await?;
    assert!(ztunnel.seen().iter().all(|connect| connect.peer == stage.waypoint.id()));

    let class =
        "{targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]}";
    root.apply(&policy("allow-nothing-waypoint", class)).await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 403).await?;
    root.delete("authorizationpolicy/allow-nothing-waypoint").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    Ok(())
}

/// Settings of a mesh with this root namespace.
fn mesh(root: &str) -> String {
    format!(
        "rootNamespace: {root}\ntrustDomain: cluster.local\ndefaultConfig: {{discoveryAddress: \"istiod.istio-system.svc:15012\"}}\n"
    )
}

#[tokio::test]
async fn rules_of_http_on_the_gateway() -> Result<()> {
    let stage = Stage::new("rules").await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let here = format!("cluster.local/ns/{}/sa", stage.namespace.name);
    let allow = format!(
        "
  {GATEWAY}
  rules:
  - to: [{{operation: {{paths: [/allowed], methods: [GET]}}}}]
  - from: [{{source: {{principals: [{here}/client]}}}}]
    to: [{{operation: {{paths: [/allowed-identity], methods: [GET]}}}}]
  - from: [{{source: {{principals: [{here}/someone-else]}}}}]
    to: [{{operation: {{paths: [/denied-identity], methods: [GET]}}}}]
  - to: [{{operation: {{methods: [GET], paths: [/allowed-wildcard*]}}}}]
  - to: [{{operation: {{methods: [GET], paths: [/headers]}}}}]
    when: [{{key: \"request.headers[x-test-header]\", values: [match], notValues: [do-not-match]}}]
  - to: [{{operation: {{methods: [POST]}}}}]"
    );
    let deny =
        format!("{{{GATEWAY}, action: DENY, rules: [{{to: [{{operation: {{paths: [/explicit-deny]}}}}]}}]}}");
    stage.namespace.apply(&policy("deny-policy-waypoint", &deny)).await?;
    stage.namespace.apply(&policy("policy-waypoint", &allow)).await?;
    let test_header = |value| Ask::get("/headers").header("x-test-header", value);
    let rows = [
        ("simple deny", Ask::get("/deny"), 403),
        ("simple allow", Ask::get("/allowed"), 200),
        ("identity deny", Ask::get("/denied-identity"), 403),
        ("identity allow", Ask::get("/allowed-identity"), 200),
        ("explicit deny", Ask::post("/explicit-deny"), 403),
        ("another path of that method", Ask::post("/anything"), 200),
        ("wildcard allow", Ask::get("/allowed-wildcardtest"), 200),
        ("headers allow", test_header("match"), 200),
        ("headers deny", test_header("do-not-match"), 403),
        ("no header", Ask::get("/headers"), 403),
        ("a path that normalizes to a denied one", Ask::post("/x/../explicit-deny"), 403),
    ];
    client.expect(&server.at(HTTP), &rows).await?;
    let other = stage.client("other").await?;
    let rows = [
        ("the identity of another", Ask::get("/allowed-identity"), 403),
        ("whoever it is", Ask::get("/allowed"), 200),
    ];
    other.expect(&server.at(HTTP), &rows).await?;
    // gRPC is POST.
    let grpc = format!("grpc://{}", server.at(GRPC));
    let answers = client.pod.echo_client(stage.waypoint.hbone(), &grpc, &["--count=2"]).await?;
    assert!(answers.iter().all(|answer| answer.field("StatusCode") == Some("200")), "{answers:?}");
    let closed =
        format!("{{{GATEWAY}, action: DENY, rules: [{{to: [{{operation: {{methods: [POST]}}}}]}}]}}");
    stage.namespace.apply(&policy("deny-policy-waypoint", &closed)).await?;
    client.until_status(&server.at(HTTP), &Ask::post("/anything"), 403).await?;
    let refused = client.pod.echo_client(stage.waypoint.hbone(), &grpc, &["--count=1"]).await;
    let refused = refused.err().context("a refusal")?.to_string();
    assert!(refused.contains("PermissionDenied") && refused.contains("RBAC: access denied"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn tokens_of_issuers() -> Result<()> {
    let stage = Stage::new("tokens").await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let issuers = [1, 2, 3].map(|number| Issuer::new(&format!("test-issuer-{number}@istio.io")));
    let [one, two, three] = issuers;
    let (one, two, three) = (one?, two?, three?);
    let rule = |issuer: &Issuer| format!("{{issuer: '{}', jwks: '{}'}}", issuer.name, issuer.jwks());
    let authentication = |name: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    };
    let known = format!("{{{GATEWAY}, jwtRules: [{}, {}]}}", rule(&one), rule(&two));
    let selector = "selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: portcullis}}";
    let ignored = format!("{{{selector}, jwtRules: [{}]}}", rule(&three));
    stage.namespace.apply(&authentication("known", &known)).await?;
    stage.namespace.apply(&authentication("ignored", &ignored)).await?;
    let rules = "rules: [{from: [{source: {requestPrincipals: [test-issuer-1@istio.io/sub-1]}}, \
                 {source: {requestPrincipals: [test-issuer-3@istio.io/sub-1]}}]}, {to: [{operation: {paths: [/healthz]}}]}]";
    stage.namespace.apply(&policy("authz", &format!("{{{GATEWAY}, {rules}}}"))).await?;

    let later = tokens::now()? + 3600;
    let bearing = |token: String| Ask::get("/").header("authorization", &format!("Bearer {token}"));
    let sub = |issuer: &Issuer, sub: &str, exp| issuer.token(&json!({"sub": sub, "exp": exp}));
    let forger = Issuer::new(&one.name)?;
    let rows = [
        ("deny without token", Ask::get("/"), 403),
        ("allow with sub-1 token", bearing(sub(&one, "sub-1", later)?), 200),
        (
            "deny with sub-3 token due to ignored RequestAuthentication",
            bearing(sub(&three, "sub-1", later)?),
            401,
        ),
        ("deny with sub-2 token", bearing(sub(&two, "sub-2", later)?), 403),
        ("deny with expired token", bearing(sub(&one, "sub-1", 1_000_000_000)?), 401),
        ("deny with another's signature", bearing(sub(&forger, "sub-1", later)?), 401),
        ("allow healthz", Ask::get("/healthz"), 200),
    ];
    client.expect(&server.at(HTTP), &rows).await?;
    let answer = client.ask(&server.at(HTTP), &rows[4].1).await?;
    assert_eq!(answer.text(), "Jwt is expired");
    let challenge = answer.headers.get("www-authenticate").context("a challenge")?;
    assert!(challenge.to_str()?.contains("error=\"invalid_token\""), "{challenge:?}");
    Ok(())
}

#[tokio::test]
async fn server_names_of_streams_that_stay_closed_to_us() -> Result<()> {
    let stage = Stage::new("names").await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let url = format!("https://{}", server.at(HTTPS));
    let answered = async |name: &str| {
        let named = format!("--server-name={name}");
        let args = ["--insecure-skip-verify", &named, "--count=1"];
        let args = if name.is_empty() { [args[0], args[0], args[2]] } else { args };
        client.pod.echo_client(stage.waypoint.hbone(), &url, &args).await.is_ok()
    };
    let names = "when: [{key: connection.sni, values: [a.example, \"*.b.example\"]}]";
    // Without a name none of those is told: an ALLOW rule does not hold, and neither does one of DENY.
    let rows = [("a.example", true), ("x.b.example", true), ("c.example", false), ("", false)];
    for (action, allows) in [("ALLOW", true), ("DENY", false)] {
        stage
            .namespace
            .apply(&policy("names", &format!("{{{SERVER}, action: {action}, rules: [{{{names}}}]}}")))
            .await?;
        wait::until_async(action, async || Ok((answered("c.example").await != allows).then_some(()))).await?;
        for (name, listed) in rows {
            assert_eq!(answered(name).await, listed == allows, "{action} {name:?}");
        }
    }
    Ok(())
}
