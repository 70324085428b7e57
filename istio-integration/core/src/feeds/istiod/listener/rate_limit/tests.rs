use std::time::Duration;

use istio_protos::from_json;
use serde_json::{Value, json};
use waypoint_model::{
    Absent, ClusterKey, DescribedBy, DescribedQuota, DescriptionPart, LimitRefusal, LimitService, LimitShare,
    Quota, TokenBucket,
};

use super::*;

const PREFIX: &str = "type.googleapis.com/";

fn read(kind: &str, mut config: Value, more: &Value) -> Result<Limit, String> {
    let (members, more) = (config.as_object_mut().unwrap(), more.as_object().unwrap());
    members.extend(more.clone());
    members.insert("@type".to_owned(), format!("{PREFIX}{kind}").into());
    let any = from_json(&config).map_err(|error| error.to_string())?;
    translate(kind, &any).map_err(|refused| refused.to_string())
}

fn local(more: &Value) -> Result<Limit, String> {
    let on = json!({"default_value": {"numerator": 100}});
    let config = json!({
        "stat_prefix": "calls",
        "filter_enabled": on,
        "filter_enforced": on,
        "token_bucket": {"max_tokens": 10, "tokens_per_fill": 5, "fill_interval": "1s"},
    });
    read(local::TYPE, config, more)
}

fn global(more: &Value) -> Result<Limit, String> {
    let cluster = json!({"cluster_name": "outbound|8081||limits.a.svc.cluster.local"});
    let config = json!({
        "domain": "agents",
        "rate_limit_service": {"grpc_service": {"envoy_grpc": cluster}, "transport_api_version": "V3"},
        "rate_limits": [{"actions": [{"remote_address": {}}]}],
    });
    read(global::TYPE, config, more)
}

fn concurrency(value: Value) -> Result<Limit, String> {
    let config = json!({
        "@type": format!("{PREFIX}xds.type.v3.TypedStruct"),
        "type_url": format!("{PREFIX}{}", concurrency::TYPE),
        "value": value,
    });
    let any = from_json(&config).map_err(|error| error.to_string())?;
    translate(concurrency::TYPE, &any).map_err(|refused| refused.to_string())
}

fn bucket(most: u32, fill: u32, seconds: u64) -> Quota {
    Quota::Rate(TokenBucket { most, fill, interval: Duration::from_secs(seconds) })
}

#[test]
fn a_local_limit_is_translated_with_all_it_says() {
    let more = json!({
        "status": {"code": "ServiceUnavailable"},
        "rate_limited_as_resource_exhausted": true,
        "always_consume_default_token_bucket": false,
        "response_headers_to_add": [
            {"append_action": "OVERWRITE_IF_EXISTS_OR_ADD", "header": {"key": "X-Limited", "value": "100%%"}},
            {"append": false, "header": {"key": "x-by", "value": "us"}},
        ],
        "descriptors": [{
            "entries": [{"key": "who"}, {"key": "tool", "value": "search"}],
            "token_bucket": {"max_tokens": 2, "fill_interval": "60s"},
            "shadow_mode": true,
        }],
        "rate_limits": [{"actions": [
            {"extension": {"name": "who", "typed_config": {
                "@type": format!("{PREFIX}envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"),
                "descriptor_key": "who", "text": "connection.uri_san_peer_certificate",
            }}},
            {"metadata": {"descriptor_key": "tool", "default_value": "none",
                "metadata_key": {"key": "envoy.filters.http.mcp", "path": [{"key": "tool"}]}}},
            {"request_headers": {"header_name": "X-Team", "descriptor_key": "team", "skip_if_absent": true}},
            {"generic_key": {"descriptor_value": "x"}},
        ]}],
    });
    let Ok(Limit::Local(limit)) = local(&more) else { panic!("{:?}", local(&more)) };
    assert_eq!(
        (&*limit.name, limit.general, limit.general_counts_all),
        ("calls", Some(bucket(10, 5, 1)), false)
    );
    assert_eq!(limit.share, LimitShare::ALL);
    let headers =
        [("x-limited", "100%"), ("x-by", "us")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(limit.refusal, LimitRefusal { status: 503, exhausted: true, headers: headers.to_vec() });
    let entries = vec![("who".to_owned(), None), ("tool".to_owned(), Some("search".to_owned()))];
    assert_eq!(limit.quotas, [DescribedQuota { entries, quota: bucket(2, 1, 60), shadow: true }]);
    let part = |key: &str, value, absent| DescriptionPart { key: key.to_owned(), value, absent };
    let tool = DescribedBy::Fact { filter: "http.mcp".to_owned(), key: "tool".to_owned() };
    let parts = vec![
        part("who", DescribedBy::Principal, Absent::NotDescribed),
        part("tool", tool, Absent::Text("none".to_owned())),
        part("team", DescribedBy::Header("x-team".to_owned()), Absent::LeftOut),
        part("generic_key", DescribedBy::Text("x".to_owned()), Absent::NotDescribed),
    ];
    assert_eq!(limit.descriptions, [parts]);
}

#[test]
fn a_local_limit_is_off_and_not_enforced_unless_it_says_so() {
    let share = |numerator: u32| json!({"runtime_key": "k", "default_value": {"numerator": numerator}});
    assert_eq!(local(&json!({"filter_enabled": share(0)})), Ok(Limit::Off));
    let told = local(&json!({"filter_enabled": share(50), "filter_enforced": share(0)}));
    let Ok(Limit::Local(limit)) = told else { panic!("{told:?}") };
    assert_eq!(limit.share, LimitShare { counted: 500_000, enforced: 0 });
}

#[test]
fn a_global_limit_is_translated() {
    let more = json!({"timeout": "0.250s", "failure_mode_deny": true, "rate_limited_status": {"code": "TooManyRequests"}});
    let Ok(Limit::Global(limit)) = global(&more) else { panic!("{:?}", global(&more)) };
    let cluster = LimitService::Cluster(ClusterKey("outbound|8081||limits.a.svc.cluster.local".into()));
    assert_eq!((&limit.service, &*limit.domain), (&cluster, "agents"));
    assert_eq!((limit.timeout, limit.deny_on_failure), (Duration::from_millis(250), true));
    assert_eq!((limit.share, limit.refusal.status), (LimitShare::ALL, 429));
    let Ok(Limit::Global(plain)) = global(&json!({})) else { panic!() };
    assert_eq!((plain.timeout, plain.deny_on_failure), (Duration::from_millis(20), false));
}

#[test]
fn a_concurrency_limit_is_translated() {
    let limit = concurrency(json!({
        "stat_prefix": "at-once",
        "descriptors": [{"entries": [{"key": "remote_address"}], "max_concurrent": 3}],
        "rate_limits": [{"actions": [{"remote_address": {}}]}],
    }));
    let Ok(Limit::Local(limit)) = limit else { panic!("{limit:?}") };
    assert_eq!(limit.quotas.first().map(|quota| quota.quota), Some(Quota::Concurrent(3)));
}

#[test]
fn what_is_not_understood_is_refused_by_its_place() {
    let action = |action: Value| json!({"rate_limits": [{"actions": [action]}]});
    let metadata = |key: &str, path: Value| {
        action(json!({"metadata": {"descriptor_key": "k", "metadata_key": {"key": key, "path": path}}}))
    };
    let text = |text: &str| {
        action(json!({"extension": {"name": "x", "typed_config": {
            "@type": format!("{PREFIX}envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"), "descriptor_key": "k", "text": text,
        }}}))
    };
    let rows = [
        (json!({"token_bucket": {"max_tokens": 1}}), "token_bucket.fill_interval"),
        (json!({"token_bucket": {"max_tokens": 0, "fill_interval": "1s"}}), "token_bucket.max_tokens"),
        (
            json!({"token_bucket": {"max_tokens": 1, "tokens_per_fill": 0, "fill_interval": "1s"}}),
            "tokens_per_fill",
        ),
        (json!({"token_bucket": null}), "limits nothing"),
        (json!({"stage": 2}), "stage"),
        (json!({"local_cluster_rate_limit": {}}), "local_cluster_rate_limit"),
        (json!({"descriptors": [{"entries": [{"key": "k"}]}]}), "descriptors[0].token_bucket"),
        (
            json!({"response_headers_to_add": [{"header": {"key": "a", "value": "%PROTOCOL%"}}]}),
            "response_headers_to_add",
        ),
        (action(json!({"source_cluster": {}})), "source_cluster"),
        (action(json!({"header_value_match": {}})), "header_value_match"),
        (
            action(json!({"request_headers": {"header_name": "x"}})),
            "rate_limits[0].actions[0].descriptor_key",
        ),
        (metadata("envoy.filters.http.jwt_authn", json!([{"key": "sub"}])), "metadata_key"),
        (metadata("envoy.filters.http.mcp", json!([{"key": "args"}, {"key": "x"}])), "metadata_key.path"),
        (text("request.headers['x']"), "connection.uri_san_peer_certificate"),
        (json!({"rate_limits": [{"actions": []}]}), "rate_limits[0].actions"),
        (json!({"no_such_field": 1}), "no_such_field"),
    ];
    for (more, want) in rows {
        let refused = local(&more).unwrap_err();
        assert!(refused.contains(want), "{more}: {refused}");
    }
    for (more, want) in [
        (json!({"domain": ""}), "domain"),
        (json!({"rate_limits": []}), "rate_limits"),
        (json!({"rate_limit_service": {}}), "rate_limit_service.grpc_service"),
        (
            json!({"failure_mode_deny_percent": {"default_value": {"numerator": 1}}}),
            "failure_mode_deny_percent",
        ),
    ] {
        let refused = global(&more).unwrap_err();
        assert!(refused.contains(want), "{more}: {refused}");
    }
    for (value, want) in [
        (json!({}), "descriptors"),
        (json!({"descriptors": [{"entries": [{"key": "k"}]}]}), "descriptors[0].max_concurrent"),
        (json!({"limit": 1}), "limit"),
    ] {
        let refused = concurrency(value.clone()).unwrap_err();
        assert!(refused.contains(want), "{value}: {refused}");
    }
}
