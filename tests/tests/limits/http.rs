//! Bounds of heads, of the log and of the metrics.

use anyhow::Result;
use http::{Request, StatusCode};
use portcullis_tests::http::{Client, empty, raw};
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Refused;

pub(crate) async fn a_head_that_is_too_large_is_431() -> Result<Running> {
    let single = Single::new(true).await?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start_with_settings("header_list: 8192\n").await?;
    let large = "y".repeat(12_000);
    let head = format!("GET / HTTP/1.1\r\nHost: app\r\nX-Large: {large}\r\n\r\n");
    assert_eq!(raw(&mut running.tunnel(HTTP).await?, &[head.as_bytes()]).await?.status(), 431, "HTTP/1.1");
    let client = Client::http2(running.tunnel(HTTP).await?).await?;
    let request = Request::get("http://app/").header("x-large", &large).body(empty())?;
    assert_eq!(client.send(request).await?.status.as_u16(), 431, "HTTP/2");
    let connection = running.bot()?.dial().await?;
    let mut headers = http::HeaderMap::new();
    headers.insert("x-large", large.parse()?);
    let refused = connection.connect_with(&running.service.authority(HTTP), headers).await;
    assert_eq!(Refused::status_of(refused).as_u16(), 431, "CONNECT");
    running.mesh.portcullis.metric_reaches(super::HITS, &[("limit", "header_list")], 3.0).await?;
    app.saw_nothing();
    Ok(running)
}

/// One request in a minute for each `x-user`.
const ONE_A_USER: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: limits, namespace: tools}
spec:
  targetRefs: [{kind: Service, name: app}]
  configPatches:
  - applyTo: HTTP_FILTER
    patch:
      operation: INSERT_FIRST
      value:
        name: limit
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: users
          filter_enabled: {default_value: {numerator: 100}}
          filter_enforced: {default_value: {numerator: 100}}
          rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]}]
          descriptors: [{entries: [{key: user}], token_bucket: {max_tokens: 1, fill_interval: 60s}}]
"#;

pub(crate) async fn callers_beyond_the_bound_share_a_quota() -> Result<Running> {
    let single = Single::new(true).await?;
    single.setup.manifests.write("limits", &[ONE_A_USER.to_owned()])?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start_with_settings("rate_buckets: 16\n").await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let ask = async |user: &str| {
        let request = Request::get("/").header("host", "app").header("x-user", user).body(empty())?;
        anyhow::Ok(client.send(request).await?.status)
    };
    assert_eq!(ask("0").await?, StatusCode::OK);
    let mut passed = 1;
    for user in 1..100 {
        passed += usize::from(ask(&user.to_string()).await? == StatusCode::OK);
    }
    assert!(passed <= 17, "{passed} of 100 passed: 16 quotas, and one that the others share");
    assert_eq!(ask("0").await?, StatusCode::TOO_MANY_REQUESTS, "no quota in use was given up");
    Ok(running)
}

pub(crate) async fn lines_that_nobody_takes_are_dropped() -> Result<Running> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start_with_settings("log_queue: 1\n").await?;
    let client = Client::http2(running.tunnel(HTTP).await?).await?;
    // Requests are answered whether or not their lines are written.
    wait::until_async("a line was dropped", async || {
        let get = || client.send(Request::get("http://app/").body(empty()).expect("a request"));
        for reply in futures_util::future::try_join_all((0..50).map(|_| get())).await? {
            assert_eq!(reply.status, StatusCode::OK);
        }
        let metrics = running.mesh.portcullis.metrics().await?;
        Ok((metrics.sum("portcullis_log_lines_dropped_total", &[]) > 0.0).then_some(()))
    })
    .await?;
    Ok(running)
}

pub(crate) async fn spans_that_nobody_takes_are_dropped() -> Result<Running> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    // A collector that takes connections and never answers.
    let collector = tokio::net::TcpListener::bind(single.setup.addresses.socket(4317)).await?;
    let settings = single.setup.file("settings.yaml", "span_queue: 1\n")?;
    let endpoint = format!("http://{}", collector.local_addr()?);
    let run = single.setup.run().arg("--settings", settings).arg("--otlp-endpoint", endpoint);
    let running = single.start_with(run).await?;
    let client = Client::http2(running.tunnel(HTTP).await?).await?;
    wait::until_async("a span was dropped", async || {
        let get = || client.send(Request::get("http://app/").body(empty()).expect("a request"));
        for reply in futures_util::future::try_join_all((0..50).map(|_| get())).await? {
            assert_eq!(reply.status, StatusCode::OK);
        }
        let metrics = running.mesh.portcullis.metrics().await?;
        Ok((metrics.sum(super::HITS, &[("limit", "span_queue")]) > 0.0).then_some(()))
    })
    .await?;
    Ok(running)
}

pub(crate) async fn one_more_label_set_is_other() -> Result<Running> {
    let single = Single::new(true).await?;
    let script = |seen: &upstream::Seen| {
        let status = seen.uri.path().trim_start_matches('/').parse().unwrap_or(200);
        upstream::text(StatusCode::from_u16(status).unwrap_or_default(), "hi")
    };
    let _app = Upstream::start(single.pod.port(HTTP), script).await?;
    let running = single.start_with_settings("label_sets: 2\n").await?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    for status in 200..206 {
        client.send(Request::get(format!("/{status}")).header("host", "app").body(empty())?).await?;
    }
    let portcullis = &running.mesh.portcullis;
    portcullis.metric_reaches("istio_requests_total", &[], 6.0).await?;
    let known = |scrape: &portcullis_tests::portcullis::Metrics, code: &str| {
        scrape.sum("istio_requests_total", &[("response_code", code)])
    };
    let scrape = portcullis.metrics().await?;
    assert_eq!(
        (known(&scrape, "200"), known(&scrape, "205")),
        (1.0, 0.0),
        "the first have their own, the last is other"
    );
    Ok(running)
}
