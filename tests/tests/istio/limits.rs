//! Limits by an EnvoyFilter, through a stock istiod.

use crate::stage::{Ask, HTTP, Stage, WAYPOINT};
use anyhow::Result;
use http::Method;

/// One request in a minute for each `x-user` of one chain, and four at once.
fn limits(chain: &str) -> String {
    let places = format!(
        "applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener:
        filterChain:
          name: \"{chain}\"
          filter: {{name: envoy.filters.network.http_connection_manager, subFilter: {{name: envoy.filters.http.router}}}}"
    );
    let described =
        "rate_limits: [{actions: [{request_headers: {header_name: x-user, descriptor_key: user}}]}]";
    let every = "{default_value: {numerator: 100, denominator: HUNDRED}}";
    format!(
        "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: limits}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {WAYPOINT}}}]
  configPatches:
  - {places}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: users
          filter_enabled: {every}
          filter_enforced: {every}
          descriptors: [{{entries: [{{key: user}}], token_bucket: {{max_tokens: 1, tokens_per_fill: 1, fill_interval: 60s}}}}]
          {described}
  - {places}
    patch:
      operation: INSERT_BEFORE
      value:
        name: portcullis.concurrency
        typed_config:
          \"@type\": type.googleapis.com/xds.type.v3.TypedStruct
          type_url: type.googleapis.com/portcullis.limits.v1.ConcurrencyLimit
          value:
            stat_prefix: at-once
            descriptors: [{{entries: [{{key: user}}], max_concurrent: 4}}]
            {described}
"
    )
}

#[tokio::test]
async fn limits_of_an_envoy_filter_hold_on_their_chain_alone() -> Result<()> {
    let stage = Stage::new("limits").await?;
    let server = stage.service("server", &["v1"]).await?;
    let other = stage.service("other", &["v1"]).await?;
    let client = stage.client("client").await?;
    let user = |name: &str| Ask::get("/").header("x-user", name);
    for service in [&server, &other] {
        client.until_status(&service.at(HTTP), &user("first"), 200).await?;
    }
    let chain = format!("inbound-vip|{HTTP}|http|server.{}.svc.cluster.local", stage.namespace.name);
    stage.namespace.apply(&limits(&chain)).await?;
    let limited = client.until_status(&server.at(HTTP), &user("first"), 429).await?;
    assert!(limited.headers.contains_key("retry-after"), "{limited:?}");
    assert_eq!(client.status(&server.at(HTTP), &user("second")).await?, 200);
    assert_eq!(client.status(&server.at(HTTP), &user("second")).await?, 429);
    assert_eq!(client.status(&other.at(HTTP), &user("first")).await?, 200);
    assert_eq!(client.status(&server.at(HTTP), &Ask::get("/")).await?, 200, "nothing describes it");
    let dump = stage.waypoint.admin(Method::GET, "/config_dump").await?.text();
    assert!(dump.contains("at-once") && dump.contains("Concurrent"), "istiod passes ours on as it stands");
    let labels = [("limit", "users"), ("outcome", "limited")];
    assert!(stage.waypoint.metrics().await?.sum("portcullis_rate_limited_total", &labels) >= 2.0);
    Ok(())
}
