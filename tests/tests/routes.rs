//! HTTPRoute, as a user would apply it: matches, weights, redirects, rewrites, header filters, timeouts, and what is missing.

#![cfg(test)]

use anyhow::Result;
use http::{Request, StatusCode};
use portcullis_tests::application::Application;
use portcullis_tests::http::{Client, Reply, empty, full};
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::{Mesh, Pod, Setup};
use portcullis_tests::single::HTTP;
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// A route on the Service `app`; `rules` is the YAML list under `rules:`, starting at column 0.
fn route(rules: &str) -> String {
    let indented: Vec<_> = rules.lines().map(|line| format!("  {line}")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r, namespace: tools}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: app}}]
  rules:
{}
",
        indented.join("\n")
    )
}

/// The Services `app` and `canary`, each of which answers with its name, method and target.
struct Routed {
    mesh: Mesh,
    client: Client,
    app: Upstream,
    canary: Upstream,
    _pods: [Pod; 2],
}

impl Routed {
    async fn start(rules: &str) -> Result<Self> {
        let mut setup = Setup::new()?;
        let (app_pod, app) = named(&mut setup, "app").await?;
        let (canary_pod, canary) = named(&mut setup, "canary").await?;
        setup.manifests.write("route", &[route(rules)])?;
        let mesh = setup.start().await?;
        let tunnel = mesh.peer("agents", "bot")?.connect("10.96.0.1:8080").await?;
        Ok(Self { mesh, client: Client::http1(tunnel).await?, app, canary, _pods: [app_pod, canary_pod] })
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        let request = Request::get(path).header("host", "app.example");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.client.send(request.body(empty())?).await
    }
}

async fn named(setup: &mut Setup, name: &'static str) -> Result<(Pod, Upstream)> {
    let pod = setup.pod(name, true).await?;
    setup.service(name, &[Port::new("web", HTTP).speaking("http")])?;
    let upstream = Upstream::start(pod.port(HTTP), move |seen| {
        let host = seen.headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
        let mut answer = upstream::text(StatusCode::OK, format!("{name} {} {host}", seen.uri));
        answer.headers_mut().insert("x-from", http::HeaderValue::from_static(name));
        answer.headers_mut().insert("x-internal", http::HeaderValue::from_static("1"));
        answer
    })
    .await?;
    Ok((pod, upstream))
}

#[tokio::test]
async fn a_header_leads_to_another_service_and_the_rest_stays() -> Result<()> {
    let routed = Routed::start(
        "- name: canary
  matches: [{headers: [{name: X-Canary, value: 'yes'}], path: {type: PathPrefix, value: /api}}]
  backendRefs: [{name: canary, port: 8080}]
- backendRefs: [{name: app, port: 8080}]",
    )
    .await?;
    let rows = [
        ("/api/x", [("x-canary", "yes")].as_slice(), "canary /api/x app.example"),
        ("/api/x", &[("x-canary", "no")], "app /api/x app.example"),
        ("/apix", &[("x-canary", "yes")], "app /apix app.example"),
        ("/api", &[], "app /api app.example"),
    ];
    for (path, headers, text) in rows {
        assert_eq!(routed.get(path, headers).await?.text(), text);
    }
    let line = routed.mesh.portcullis.logged("the canary", |line| line["path"] == "/api/x").await?;
    assert!(line["route_name"].as_str().is_some_and(|name| name.contains("canary")), "{line}");
    assert_eq!(line["destination_service"], "app.tools.svc.cluster.local", "who was asked; {line}");
    Ok(())
}

#[tokio::test]
async fn weights_split_the_traffic() -> Result<()> {
    const REQUESTS: usize = 100;
    let routed = Routed::start(
        "- backendRefs: [{name: app, port: 8080, weight: 1}, {name: canary, port: 8080, weight: 3}]",
    )
    .await?;
    for _ in 0..REQUESTS {
        assert_eq!(routed.get("/", &[]).await?.status, 200);
    }
    let share = routed.canary.seen().len();
    // 75 of 100 expected; six standard deviations either way.
    assert!((49..REQUESTS).contains(&share), "{share} of {REQUESTS} went to the heavier backend");
    assert_eq!(routed.app.seen().len(), REQUESTS - share);
    Ok(())
}

#[tokio::test]
async fn a_weight_of_zero_is_never_chosen() -> Result<()> {
    let routed = Routed::start(
        "- backendRefs: [{name: app, port: 8080, weight: 1}, {name: canary, port: 8080, weight: 0}]",
    )
    .await?;
    for _ in 0..20 {
        routed.get("/", &[]).await?;
    }
    routed.canary.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn a_redirect_is_answered_here() -> Result<()> {
    let routed = Routed::start(
        "- matches: [{path: {type: PathPrefix, value: /old}}]
  filters:
  - type: RequestRedirect
    requestRedirect: {scheme: https, hostname: new.example, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
- backendRefs: [{name: app, port: 8080}]",
    )
    .await?;
    let reply = routed.get("/old/a?b=c", &[]).await?;
    assert_eq!(reply.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(reply.headers["location"], "https://new.example:8443/new/a?b=c");
    routed.app.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn host_and_path_are_rewritten_and_headers_changed() -> Result<()> {
    let routed = Routed::start(
        "- matches: [{path: {type: PathPrefix, value: /v1}}]
  filters:
  - type: URLRewrite
    urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: x-set, value: new}], add: [{name: x-add, value: two}], remove: [x-gone]}
  - type: ResponseHeaderModifier
    responseHeaderModifier: {set: [{name: x-from, value: hidden}], remove: [x-internal]}
  backendRefs:
  - {name: app, port: 8080, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: app}]}}]}",
    )
    .await?;
    let headers = [("x-set", "old"), ("x-add", "one"), ("x-gone", "1"), ("x-backend", "client")];
    let reply = routed.get("/v1/a?b=c", &headers).await?;
    assert_eq!(reply.text(), "app /a?b=c inner.example");
    let seen = &routed.app.seen()[0].headers;
    assert_eq!((&seen["x-set"], &seen["x-backend"]), (&"new".parse()?, &"app".parse()?));
    let added: Vec<_> = seen.get_all("x-add").iter().collect();
    assert!(added == ["one", "two"] || added == ["one,two"], "{added:?}");
    assert_eq!(seen.get("x-gone"), None);
    assert_eq!((&reply.headers["x-from"], reply.headers.get("x-internal")), (&"hidden".parse()?, None));
    assert_eq!(routed.get("/v2", &[]).await?.status, StatusCode::NOT_FOUND, "routes exist and none takes it");
    Ok(())
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_504() -> Result<()> {
    let mut setup = Setup::new()?;
    let pod = setup.pod("app", true).await?;
    setup.service("app", &[Port::new("web", HTTP).speaking("http")])?;
    setup
        .manifests
        .write("route", &[route("- backendRefs: [{name: app, port: 8080}]\n  timeouts: {request: 300ms}")])?;
    let app = Application::start(pod.port(HTTP)).await?;
    let mesh = setup.start().await?;
    let client = Client::http1(mesh.peer("agents", "bot")?.connect("10.96.0.1:8080").await?).await?;
    let start = Instant::now();
    let request = Request::get("/slow").header("host", "app").body(empty())?;
    let (reply, tcp) = tokio::join!(client.send(request), app.accepted());
    let (reply, _tcp) = (reply?, tcp?);
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    let line = mesh.portcullis.logged("the request", |line| line["path"] == "/slow").await?;
    assert_eq!(line["response_flags"], "UT", "{line}");
    Ok(())
}

#[tokio::test]
async fn a_backend_that_does_not_exist_is_500_and_told() -> Result<()> {
    let routed = Routed::start(
        "- matches: [{path: {type: Exact, value: /gone}}]
  backendRefs: [{name: nowhere, port: 8080}]
- backendRefs: [{name: app, port: 8080}]",
    )
    .await?;
    let reply = routed.get("/gone", &[]).await?;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!reply.text().contains("nowhere"), "a client learns no names: {}", reply.text());
    assert_eq!(routed.get("/there", &[]).await?.status, 200);
    let line = routed.mesh.portcullis.logged("the request", |line| line["path"] == "/gone").await?;
    assert_eq!(line["response_flags"], "NC", "{line}");
    let told = |line: &String| line.contains("nowhere").then_some(());
    routed.mesh.portcullis.events().find("the missing backend is told", told).await
}

#[tokio::test]
async fn a_changed_route_holds_for_the_next_request_of_an_open_connection() -> Result<()> {
    let routed = Routed::start("- backendRefs: [{name: app, port: 8080}]").await?;
    assert!(routed.get("/", &[]).await?.text().starts_with("app"));
    routed.mesh.setup.manifests.write("route", &[route("- backendRefs: [{name: canary, port: 8080}]")])?;
    wait::until_async("the route has changed", async || {
        Ok(routed.get("/", &[]).await?.text().starts_with("canary").then_some(()))
    })
    .await?;
    routed.mesh.setup.manifests.remove("route")?;
    wait::until_async("the route is gone", async || {
        Ok(routed.get("/", &[]).await?.text().starts_with("app").then_some(()))
    })
    .await
}

/// A filter that is left out would send requests where the route did not mean them to go.
#[tokio::test]
async fn a_filter_that_is_not_supported_makes_its_route_refuse() -> Result<()> {
    let routed = Routed::start(
        "- filters: [{type: ExtensionRef, extensionRef: {group: a.example, kind: Own, name: x}}]
  backendRefs: [{name: app, port: 8080}]",
    )
    .await?;
    assert_eq!(routed.get("/", &[]).await?.status, StatusCode::INTERNAL_SERVER_ERROR);
    routed.app.saw_nothing();
    let (_, dump) = routed.mesh.portcullis.ask("admin", http::Method::GET, "/config_dump").await?;
    let dump: serde_json::Value = serde_json::from_str(&dump)?;
    let findings = dump["findings"].as_array().cloned().unwrap_or_default();
    let told = findings
        .iter()
        .any(|finding| finding["severity"] == "error" && finding["kind"] == json!("HTTPRoute"));
    assert!(told, "{findings:#?}");
    Ok(())
}

#[tokio::test]
async fn regular_expressions_select_by_path_header_and_parameter() -> Result<()> {
    let routed = Routed::start(
        "- matches:
  - path: {type: RegularExpression, value: '/v[0-9]+/items'}
    headers: [{type: RegularExpression, name: x-tenant, value: 'a.*'}]
    queryParams: [{type: RegularExpression, name: kind, value: 'x|z'}]
  backendRefs: [{name: canary, port: 8080}]
- matches: [{path: {type: RegularExpression, value: '.*'}}]
  backendRefs: [{name: app, port: 8080}]",
    )
    .await?;
    let rows = [
        ("/v12/items?kind=z", "acme", "canary"),
        ("/v12/items?kind=w", "acme", "app"),
        ("/v12/items/1?kind=z", "acme", "app"),
        ("/v12/items?kind=z", "beta", "app"),
    ];
    for (path, tenant, want) in rows {
        let text = routed.get(path, &[("x-tenant", tenant)]).await?.text();
        assert!(text.starts_with(want), "{path} {tenant}: {text}");
    }
    Ok(())
}

/// A Service whose server answers 503 so often, and then 200.
async fn unwell(times: usize, rules: &str) -> Result<(Mesh, Client, Upstream, Pod)> {
    let mut setup = Setup::new()?;
    let pod = setup.pod("app", true).await?;
    setup.service("app", &[Port::new("web", HTTP).speaking("http")])?;
    setup.manifests.write("route", &[route(rules)])?;
    let number = std::sync::atomic::AtomicUsize::new(0);
    let app = Upstream::start(pod.port(HTTP), move |_| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let status = if number < times { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        upstream::text(status, "answer".to_owned())
    })
    .await?;
    let mesh = setup.start().await?;
    let client = Client::http1(mesh.peer("agents", "bot")?.connect("10.96.0.1:8080").await?).await?;
    Ok((mesh, client, app, pod))
}

#[tokio::test]
async fn a_status_that_the_route_names_is_tried_again() -> Result<()> {
    let retry =
        "- backendRefs: [{name: app, port: 8080}]\n  retry: {codes: [503], attempts: 2, backoff: 1ms}";
    let (_mesh, client, app, _pod) = unwell(2, retry).await?;
    let request = Request::post("/").header("host", "app").header("x-envoy-max-retries", "0");
    assert_eq!(client.send(request.body(full("order"))?).await?.status, StatusCode::OK);
    let seen = app.seen();
    assert_eq!(seen.iter().map(|seen| &*seen.body).collect::<Vec<_>>(), [b"order"; 3]);
    assert!(seen.iter().all(|seen| !seen.headers.contains_key("x-envoy-max-retries")));
    Ok(())
}

/// The tool may have run: a 503 says nothing of it.
#[tokio::test]
async fn an_agents_call_is_sent_once_whatever_the_route_says() -> Result<()> {
    let retry =
        "- backendRefs: [{name: app, port: 8080}]\n  retry: {codes: [503], attempts: 2, backoff: 1ms}";
    let (_mesh, client, app, _pod) = unwell(2, retry).await?;
    let request = Request::post("/mcp").header("host", "app");
    let request = request.header("accept", "application/json, text/event-stream").body(empty())?;
    assert_eq!(client.send(request).await?.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.seen().len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_mirror_sees_a_copy_and_an_agents_call_is_never_mirrored() -> Result<()> {
    let routed = Routed::start(
        "- filters: [{type: RequestMirror, requestMirror: {backendRef: {name: canary, port: 8080}}}]
  backendRefs: [{name: app, port: 8080}]",
    )
    .await?;
    assert!(routed.get("/a?b", &[]).await?.text().starts_with("app /a?b"));
    let copy = wait::until("the copy arrives", || routed.canary.seen().first().cloned()).await?;
    assert_eq!(
        (copy.uri.to_string().as_str(), &copy.headers["host"]),
        ("/a?b", &"app.example-shadow".parse()?)
    );
    let refused = routed.get("/mcp", &[("mcp-protocol-version", "2025-06-18")]).await?;
    assert_eq!(refused.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!((routed.app.seen().len(), routed.canary.seen().len()), (1, 1));
    let line = routed.mesh.portcullis.logged("the call", |line| line["path"] == "/mcp").await?;
    assert!(line.to_string().contains("twice"), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_preflight_is_answered_here_and_other_answers_are_shared() -> Result<()> {
    let routed = Routed::start(
        "- filters: [{type: CORS, cors: {allowOrigins: ['https://a.example'], allowMethods: [GET, PUT], maxAge: 60}}]
  backendRefs: [{name: app, port: 8080}]",
    )
    .await?;
    let preflight = |origin: &'static str| {
        let request = Request::options("/x").header("host", "app.example").header("origin", origin);
        request.header("access-control-request-method", "PUT").body(empty())
    };
    let allowed = routed.client.send(preflight("https://a.example")?).await?;
    assert_eq!(allowed.status, StatusCode::OK);
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://a.example");
    assert_eq!(allowed.headers["access-control-allow-methods"], "GET,PUT");
    assert_eq!(allowed.headers["access-control-max-age"], "60");
    let other = routed.client.send(preflight("https://b.example")?).await?;
    assert_eq!((other.status, other.headers.get("access-control-allow-origin")), (StatusCode::OK, None));
    routed.app.saw_nothing();
    let shared = routed.get("/x", &[("origin", "https://a.example")]).await?;
    assert_eq!(shared.headers["access-control-allow-origin"], "https://a.example");
    Ok(())
}
