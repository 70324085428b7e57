//! Limits that the waypoint counts itself.

use anyhow::{Context as _, Result};
use http::{Request, StatusCode};
use portcullis_tests::http::{Body, empty, post_json};
use portcullis_tests::portcullis::Portcullis;
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Seen, Upstream};
use portcullis_tests::wait;
use serde_json::{Value, json};

use super::*;

const EVERY: &str = "{default_value: {numerator: 100}}";

/// Ten calls of each tool for each caller, and one more after a minute.
fn ten_a_minute() -> String {
    format!(
        r#"
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: calls
          filter_enabled: {EVERY}
          filter_enforced: {EVERY}
          response_headers_to_add: [{{append: false, header: {{key: x-limited-by, value: calls}}}}]
          descriptors:
          - entries: [{{key: principal}}, {{key: tool}}]
            token_bucket: {{max_tokens: 10, tokens_per_fill: 1, fill_interval: 60s}}
{CALLER_AND_TOOL}"#
    )
}

/// An MCP server behind the Service, under [`RULES`] and one filter.
async fn limited(
    config: &str,
    flags: &[(&str, &str)],
    script: fn(&Seen) -> http::Response<Body>,
) -> Result<(Running, Upstream)> {
    let single = Single::new(true).await?;
    single.setup.policy("rules", "app", "ALLOW", RULES)?;
    single.setup.manifests.write("limits", &[filter(GATEWAY, config)])?;
    let app = Upstream::start(single.pod.port(HTTP), script).await?;
    let run = flags.iter().fold(single.setup.run(), |run, (flag, value)| run.arg(flag, value));
    Ok((single.start_with(run).await?, app))
}

fn ran(seen: &Seen) -> http::Response<Body> {
    match seen.json() {
        Value::Array(messages) => {
            let answers =
                messages.iter().map(|message| json!({"jsonrpc": "2.0", "id": message["id"], "result": {}}));
            upstream::json(&answers.collect())
        }
        _ => upstream::result(seen, &json!({"ran": true})),
    }
}

#[tokio::test]
async fn the_eleventh_call_of_a_tool_is_told_when_to_come_again_and_nobody_else_is_concerned() -> Result<()> {
    let (running, app) = limited(&ten_a_minute(), &[], ran).await?;
    let bot = client(&running, "bot").await?;
    for _ in 0..10 {
        assert_eq!(calls(&bot, "alpha").await?.json()?["result"], json!({"ran": true}));
    }
    app.forget();
    let reply = calls(&bot, "alpha").await?;
    assert_eq!(reply.status, StatusCode::OK);
    let answer = reply.json()?;
    let wait = answer["error"]["data"]["retryAfterMs"].as_u64().context("retryAfterMs")?;
    assert!((50_000..=60_000).contains(&wait), "{wait}");
    let message = format!("Rate limit exceeded: retry in {wait} ms");
    let error = json!({"code": -32602, "message": message, "data": {"retryAfterMs": wait}});
    assert_eq!(answer, json!({"jsonrpc": "2.0", "id": 7, "error": error}));
    assert_eq!(header(&reply, "retry-after"), Some(wait.div_ceil(1_000).to_string().as_str()));
    assert_eq!(header(&reply, "x-limited-by"), Some("calls"));
    app.saw_nothing();
    // The same caller's other tool, another caller's same tool, and what is no call.
    assert_eq!(calls(&bot, "beta").await?.json()?["result"], json!({"ran": true}));
    assert_eq!(
        calls(&client(&running, "twin").await?, "alpha").await?.json()?["result"],
        json!({"ran": true})
    );
    let list = json!({"jsonrpc": "2.0", "id": 8, "method": "ping"});
    assert!(bot.send(post_json("/mcp", "app", &list)?).await?.json()?["result"].is_object());
    let portcullis = &running.mesh.portcullis;
    let line = portcullis.logged("the refusal", |line| line["response_flags"] == "RL").await?;
    assert_eq!(line["response_code_details"], "local_rate_limited{calls}");
    let labels = [("limit", "calls"), ("outcome", "limited")];
    portcullis.metric_reaches("portcullis_rate_limited_total", &labels, 1.0).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_denied_costs_nothing() -> Result<()> {
    let (running, app) =
        limited(&ten_a_minute().replace("max_tokens: 10", "max_tokens: 1"), &[], ran).await?;
    let bot = client(&running, "bot").await?;
    for _ in 0..5 {
        let answer = calls(&bot, "gamma").await?.json()?;
        assert_eq!(answer["error"]["message"], "Unknown tool: gamma");
    }
    app.saw_nothing();
    assert_eq!(calls(&bot, "alpha").await?.json()?["result"], json!({"ran": true}));
    Ok(())
}

#[tokio::test]
async fn a_batch_goes_whole_or_not_at_all_and_gets_its_tokens_back() -> Result<()> {
    let (running, app) =
        limited(&ten_a_minute().replace("max_tokens: 10", "max_tokens: 2"), &[], ran).await?;
    let bot = client(&running, "bot").await?;
    let batch = json!([call(1, "alpha"), call(2, "beta"), call(3, "alpha"), call(4, "alpha")]);
    let answer = bot.send(post_json("/mcp", "app", &batch)?).await?.json()?;
    let codes: Vec<_> =
        answer.as_array().context("a batch")?.iter().map(|one| one["error"]["code"].clone()).collect();
    assert_eq!(codes, [json!(-32600), json!(-32600), json!(-32600), json!(-32602)]);
    app.saw_nothing();
    let batch = json!([call(1, "alpha"), call(2, "alpha"), call(3, "beta"), call(4, "beta")]);
    let answer = bot.send(post_json("/mcp", "app", &batch)?).await?.json()?;
    assert_eq!(answer.as_array().context("a batch")?.len(), 4);
    assert!(answer.as_array().context("a batch")?.iter().all(|one| one["result"].is_object()), "{answer}");
    Ok(())
}

#[tokio::test]
async fn each_deny_mode_has_its_words() -> Result<()> {
    let one = ten_a_minute().replace("max_tokens: 10", "max_tokens: 1");
    for (mode, status) in [("explicit", 200), ("model-visible", 200), ("status", 429)] {
        let (running, app) = limited(&one, &[("--deny-mode", mode)], ran).await?;
        let bot = client(&running, "bot").await?;
        calls(&bot, "alpha").await?;
        app.forget();
        let reply = calls(&bot, "alpha").await?;
        assert_eq!(reply.status.as_u16(), status, "{mode}");
        assert!(header(&reply, "retry-after").is_some());
        match mode {
            "explicit" => assert_eq!(reply.json()?["error"]["code"], -31429),
            "model-visible" => {
                let result = &reply.json()?["result"];
                assert_eq!(result["isError"], true);
                assert!(
                    result["_meta"]["retryAfterMs"].as_u64().is_some_and(|wait| wait > 50_000),
                    "{result}"
                );
            }
            _ => assert_eq!(reply.text(), "rate limited"),
        }
        app.saw_nothing();
    }
    Ok(())
}

/// Two at once for each caller.
fn two_at_once() -> String {
    format!(
        r#"
          "@type": type.googleapis.com/xds.type.v3.TypedStruct
          type_url: type.googleapis.com/portcullis.limits.v1.ConcurrencyLimit
          value:
            stat_prefix: at-once
            descriptors: [{{entries: [{{key: principal}}, {{key: tool}}], max_concurrent: 2}}]
{}"#,
        CALLER_AND_TOOL.replace("\n  ", "\n    ")
    )
}

fn waits(_seen: &Seen) -> http::Response<Body> {
    let (events, response) = upstream::open_events();
    // Open until its client leaves.
    tokio::spawn(async move { events.closed().await });
    response
}

#[tokio::test]
async fn so_many_calls_run_at_once_and_one_that_ends_makes_room() -> Result<()> {
    let (running, app) = limited(&two_at_once(), &[], waits).await?;
    let mut open = Vec::new();
    for _ in 0..2 {
        let bot = client(&running, "bot").await?;
        let response = bot.open(post_json("/mcp", "app", &call(1, "alpha"))?).await?;
        open.push((bot, response));
    }
    app.forget();
    let third = client(&running, "bot").await?;
    let reply = calls(&third, "alpha").await?;
    assert_eq!(reply.json()?["error"]["data"]["retryAfterMs"], 1_000);
    app.saw_nothing();
    let twin = client(&running, "twin").await?;
    assert_eq!(twin.open(post_json("/mcp", "app", &call(1, "alpha"))?).await?.status(), StatusCode::OK);
    open.pop();
    wait::until_async("there is room for another", async || {
        let bot = client(&running, "bot").await?;
        let response = bot.open(post_json("/mcp", "app", &call(1, "alpha"))?).await?;
        let runs = response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream");
        Ok(runs.then_some(()))
    })
    .await
}

/// One request in a minute, whoever asks for what.
const ONE: &str = r#"
          "@type": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          stat_prefix: all
          status: {code: ServiceUnavailable}
          rate_limited_as_resource_exhausted: true
          filter_enabled: {runtime_key: enabled, default_value: {numerator: 100, denominator: HUNDRED}}
          filter_enforced: {runtime_key: enforced, default_value: {numerator: 100, denominator: HUNDRED}}
          token_bucket: {max_tokens: 1, tokens_per_fill: 1, fill_interval: 60s}
"#;

fn get() -> Result<Request<Body>> {
    Ok(Request::get("/").header("host", "app").body(empty())?)
}

async fn plain(config: &str) -> Result<(Running, Upstream)> {
    let single = Single::new(true).await?;
    single.setup.manifests.write("limits", &[filter("{kind: Service, name: app}", config)])?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "ran")).await?;
    Ok((single.start().await?, app))
}

#[tokio::test]
async fn plain_http_gets_the_status_and_grpc_its_own() -> Result<()> {
    let (running, app) = plain(ONE).await?;
    let bot = client(&running, "bot").await?;
    assert_eq!(bot.send(get()?).await?.status, StatusCode::OK);
    app.forget();
    let reply = bot.send(get()?).await?;
    assert_eq!((reply.status, reply.text().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "rate limited"));
    let mut grpc = get()?;
    *grpc.method_mut() = http::Method::POST;
    grpc.headers_mut().insert("content-type", "application/grpc".parse()?);
    let reply = bot.send(grpc).await?;
    assert_eq!((reply.status, header(&reply, "grpc-status")), (StatusCode::OK, Some("8")));
    app.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn a_notification_that_is_limited_gets_a_status_since_it_has_no_answer() -> Result<()> {
    let (running, app) = limited(&format!("{ONE}{CALLER_AND_TOOL}"), &[], ran).await?;
    let bot = client(&running, "bot").await?;
    assert!(runs(&bot, "alpha").await?);
    app.forget();
    let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let reply = bot.send(post_json("/mcp", "app", &note)?).await?;
    assert_eq!((reply.status, header(&reply, "retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("60")));
    app.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn an_agents_operation_is_limited_by_its_one_name() -> Result<()> {
    let fact = "metadata: {descriptor_key: operation, metadata_key: {key: envoy.filters.http.a2a, path: [{key: method}]}}";
    let limits = ONE.replace(
        "token_bucket:",
        "descriptors: [{entries: [{key: operation, value: SendMessage}], token_bucket:",
    );
    let limits = format!("{}}}]\n          rate_limits: [{{actions: [{{{fact}}}]}}]\n", limits.trim_end());
    let (running, app) = plain(&limits).await?;
    let bot = client(&running, "bot").await?;
    let ask = async |method: &str| {
        let message = json!({"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"message": message}});
        anyhow::Ok(bot.send(post_json("/", "app", &body)?).await?)
    };
    ask("message/send").await?;
    app.saw(1).await?;
    app.forget();
    let reply = ask("message/send").await?;
    assert_eq!((reply.status, header(&reply, "retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("60")));
    app.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn a_limit_that_is_not_enforced_is_only_told_of() -> Result<()> {
    let told = ONE.replace(
        "filter_enforced: {runtime_key: enforced, default_value: {numerator: 100",
        "filter_enforced: {runtime_key: enforced, default_value: {numerator: 0",
    );
    let (running, _app) = plain(&told).await?;
    let bot = client(&running, "bot").await?;
    for _ in 0..3 {
        assert_eq!(bot.send(get()?).await?.status, StatusCode::OK);
    }
    let labels = [("limit", "all"), ("outcome", "would_limit")];
    running.mesh.portcullis.metric_reaches("portcullis_rate_limited_total", &labels, 2.0).await?;
    Ok(())
}

#[tokio::test]
async fn a_change_of_configuration_does_not_fill_buckets() -> Result<()> {
    let (running, app) = plain(ONE).await?;
    let bot = client(&running, "bot").await?;
    assert_eq!(bot.send(get()?).await?.status, StatusCode::OK);
    running.mesh.change_policy("other", "app", "ALLOW", "\n- {}\n").await?;
    app.forget();
    assert_eq!(bot.send(get()?).await?.status, StatusCode::SERVICE_UNAVAILABLE);
    app.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn a_limit_that_cannot_be_read_refuses_everything_and_says_why() -> Result<()> {
    for (was, is, why) in [
        ("fill_interval: 60s", "fill_interval: 0s", "token_bucket.fill_interval: less than a millisecond"),
        ("max_tokens: 1", "most_tokens: 1", "most_tokens"),
        ("stat_prefix: all", "stage: 1", "stage"),
        (
            "stat_prefix: all",
            "local_rate_limit_per_downstream_connection: true",
            "local_rate_limit_per_downstream_connection",
        ),
    ] {
        let (running, app) = plain(&ONE.replace(was, is)).await?;
        let reply = client(&running, "bot").await?.send(get()?).await?;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{is}");
        app.saw_nothing();
        let portcullis: &Portcullis = &running.mesh.portcullis;
        let told = |line: &String| (line.contains("EnvoyFilter") && line.contains(why)).then_some(());
        portcullis.events().find("the finding", told).await?;
    }
    Ok(())
}
