//! Limits over all replicas: a service of the published protocol counts them.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use hyper::body::Frame;
use portcullis_tests::http::{Body, streamed};
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::Pod;
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Seen, Upstream};
use prost::Message as _;
use serde_json::json;

use super::*;

/// Port of the service that counts.
const LIMITS: u16 = 8081;

/// `envoy.service.ratelimit.v3.RateLimitRequest`, by the numbers of `rls.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<Descriptor>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// `RateLimitResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    /// 1: OK, 2: OVER_LIMIT.
    #[prost(int32, tag = "1")]
    overall_code: i32,
    #[prost(message, repeated, tag = "2")]
    statuses: Vec<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, optional, tag = "4")]
    duration_until_reset: Option<Seconds>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct Seconds {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// One message of a gRPC body (*Length-Prefixed-Message*).
fn asked(seen: &Seen) -> Request {
    Request::decode(seen.body.slice(5..)).expect("a RateLimitRequest")
}

fn answered(answer: &Answer) -> Response<Body> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(answer.encoded_len()).expect("small"));
    answer.encode(&mut framed).expect("room");
    let (sender, body) = streamed();
    let trailers =
        HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    sender.try_send(Frame::data(Bytes::from(framed))).expect("room");
    sender.try_send(Frame::trailers(trailers)).expect("room");
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// Two calls pass, then each is over for seven seconds.
fn two() -> impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static {
    let count = AtomicUsize::new(0);
    move |_| {
        let code = if count.fetch_add(1, Ordering::Relaxed) < 2 { 1 } else { 2 };
        let duration_until_reset = Some(Seconds { seconds: 7 });
        answered(&Answer { overall_code: code, statuses: vec![Status { code, duration_until_reset }] })
    }
}

/// A filter that asks for callers and tools.
fn global(more: &str) -> String {
    format!(
        r#"
          "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
          domain: agents
          {more}
          rate_limit_service:
            transport_api_version: V3
            grpc_service: {{envoy_grpc: {{cluster_name: outbound|{LIMITS}||limits.tools.svc.cluster.local}}}}
{CALLER_AND_TOOL}"#
    )
}

struct Scene {
    running: Running,
    app: Upstream,
    limits: Pod,
}

/// An MCP server under [`RULES`], and the Service that counts, in the mesh.
async fn scene(config: &str) -> Result<Scene> {
    let mut single = Single::new(true).await?;
    let limits = single.setup.pod("limits", true).await?;
    single.setup.service("limits", &[Port::new("grpc", LIMITS).speaking("grpc")])?;
    single.setup.policy("rules", "app", "ALLOW", RULES)?;
    single.setup.manifests.write("limits", &[filter("{kind: Service, name: app}", config)])?;
    let app =
        Upstream::start(single.pod.port(HTTP), |seen| upstream::result(seen, &json!({"ran": true}))).await?;
    Ok(Scene { running: single.start().await?, app, limits })
}

#[tokio::test]
async fn a_service_is_asked_who_calls_what_and_its_refusal_is_worded_for_mcp() -> Result<()> {
    let scene = scene(&global("timeout: 10s")).await?;
    let service = Upstream::start(scene.limits.port(LIMITS), two()).await?;
    let bot = client(&scene.running, "bot").await?;
    assert!(runs(&bot, "alpha").await? && runs(&bot, "beta").await?);
    scene.app.forget();
    let reply = calls(&bot, "alpha").await?;
    let error = json!({
        "code": -32602,
        "message": "Rate limit exceeded: retry in 7000 ms",
        "data": {"retryAfterMs": 7000},
    });
    assert_eq!(reply.json()?, json!({"jsonrpc": "2.0", "id": 7, "error": error}));
    assert_eq!(header(&reply, "retry-after"), Some("7"));
    scene.app.saw_nothing();
    let seen = service.saw(3).await?;
    assert_eq!(seen[0].uri.path(), "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit");
    let entry = |key: &str, value: &str| Entry { key: key.to_owned(), value: value.to_owned() };
    let principal = "spiffe://cluster.local/ns/agents/sa/bot";
    let entries = vec![entry("principal", principal), entry("tool", "beta")];
    assert_eq!(
        asked(&seen[1]),
        Request { domain: "agents".to_owned(), descriptors: vec![Descriptor { entries }] }
    );
    let portcullis = &scene.running.mesh.portcullis;
    let line = portcullis.logged("the refusal", |line| line["response_flags"] == "RL").await?;
    assert_eq!(line["response_code_details"], "request_rate_limited{agents}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_described_or_not_permitted_is_not_asked_for() -> Result<()> {
    let scene = scene(&global("timeout: 10s")).await?;
    let service = Upstream::start(scene.limits.port(LIMITS), two()).await?;
    let bot = client(&scene.running, "bot").await?;
    let ping = json!({"jsonrpc": "2.0", "id": 8, "method": "ping"});
    assert!(bot.send(post_json("/mcp", "app", &ping)?).await?.json()?["result"].is_object());
    assert!(!runs(&bot, "gamma").await?);
    service.saw_nothing();
    assert!(runs(&bot, "alpha").await?);
    assert_eq!(service.saw(1).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_service_that_does_not_answer_stops_calls_only_where_the_filter_says_so() -> Result<()> {
    for (deny, passes) in [(false, true), (true, false)] {
        let scene = scene(&global(&format!("failure_mode_deny: {deny}"))).await?;
        let bot = client(&scene.running, "bot").await?;
        assert_eq!(runs(&bot, "alpha").await?, passes, "failure_mode_deny: {deny}");
        let labels = [("limit", "agents"), ("outcome", "unanswered")];
        scene.running.mesh.portcullis.metric_reaches("portcullis_rate_limited_total", &labels, 1.0).await?;
    }
    Ok(())
}
