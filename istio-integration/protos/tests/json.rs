//! JSON has the shape that Go's protojson gives and `istioctl` reads.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use istio_protos::envoy::config::core::v3::data_source::Specifier;
use istio_protos::envoy::config::core::v3::{Address, address, socket_address};
use istio_protos::envoy::config::core::v3::{DataSource, Metadata, SocketAddress};
use istio_protos::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use istio_protos::envoy::config::route::v3::{RetryPolicy, RouteAction};
use istio_protos::envoy::extensions::filters::http::fault::v3::HttpFault;
use istio_protos::envoy::extensions::filters::http::jwt_authn::v3::JwtProvider;
use istio_protos::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use istio_protos::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use istio_protos::{Any, to_json};
use prost::Message as _;
use serde_json::json;

fn listener() -> Listener {
    let proxy = TcpProxy {
        stat_prefix: "a".to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster("inbound-vip|80|tcp|a".to_owned())),
        idle_timeout: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        ..TcpProxy::default()
    };
    let foreign =
        Any { type_url: "type.googleapis.com/acme.Filter".to_owned(), value: (&[1u8, 2, 3][..]).into() };
    let filter = |name: &str, any| Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(any)),
    };
    Listener {
        name: "main_internal".to_owned(),
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: "0.0.0.0".to_owned(),
                port_specifier: Some(socket_address::PortSpecifier::PortValue(15008)),
            })),
        }),
        use_original_dst: Some(false),
        traffic_direction: 1,
        filter_chains: vec![FilterChain {
            name: "c".to_owned(),
            filters: vec![
                filter("envoy.filters.network.tcp_proxy", Any::pack(&proxy)),
                filter("acme", foreign),
            ],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

#[test]
fn secret_keys_of_tokens_are_not_shown() {
    let provider = |specifier| JwtProvider {
        issuer: "i".to_owned(),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
            specifier: Some(specifier),
        })),
        ..JwtProvider::default()
    };
    let set = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"},{"kty":"OKP","x":"cHVibGlj"}]}"#;
    let shown = |specifier| {
        let any = Any::pack(&provider(specifier));
        to_json(&any.type_url, &any.value).to_string()
    };
    let text = shown(Specifier::InlineString(set.to_owned()));
    assert!(!text.contains("c2VjcmV0") && text.contains("cHVibGlj"), "{text}");
    for specifier in [
        Specifier::InlineString("{\"k\":\"c2VjcmV0".to_owned()),
        Specifier::InlineBytes(set.as_bytes().to_vec().into()),
    ] {
        let text = shown(specifier);
        assert!(
            text.contains("(not shown)") && !text.contains("c2VjcmV0") && !text.contains("ZXlz"),
            "{text}"
        );
    }
}

#[test]
fn a_listener_is_written_as_protojson_writes_it_and_foreign_types_as_base64() {
    let url = "type.googleapis.com/envoy.config.listener.v3.Listener";
    assert_eq!(
        to_json(url, &listener().encode_to_vec()),
        json!({
            "@type": url,
            "name": "main_internal",
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15008}},
            "filter_chains": [{
                "name": "c",
                "filters": [
                    {
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                            "stat_prefix": "a",
                            "cluster": "inbound-vip|80|tcp|a",
                            "idle_timeout": "1.500s",
                        },
                    },
                    {"name": "acme", "typed_config": {"@type": "type.googleapis.com/acme.Filter", "value": "AQID"}},
                ],
            }],
            "use_original_dst": false,
            "traffic_direction": "INBOUND",
        })
    );
}

#[test]
fn wrappers_structs_and_absent_defaults_have_their_own_forms() {
    let action = RouteAction {
        retry_policy: Some(RetryPolicy { num_retries: Some(0), ..RetryPolicy::default() }),
        ..RouteAction::default()
    };
    let json = to_json("x/envoy.config.route.v3.RouteAction", &action.encode_to_vec());
    assert_eq!(
        json,
        json!({"@type": "x/envoy.config.route.v3.RouteAction", "retry_policy": {"num_retries": 0}})
    );

    let text = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let fields = BTreeMap::from([("workload".to_owned(), text("cart;shop"))]);
    let metadata =
        Metadata { filter_metadata: [("istio".to_owned(), prost_types::Struct { fields })].into() };
    let json = to_json("x/envoy.config.core.v3.Metadata", &metadata.encode_to_vec());
    assert_eq!(
        json,
        json!({"@type": "x/envoy.config.core.v3.Metadata", "filter_metadata": {"istio": {"workload": "cart;shop"}}})
    );

    let text =
        to_json("type.googleapis.com/google.protobuf.StringValue", &"chain".to_owned().encode_to_vec());
    assert_eq!(text, json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "chain"}));
    assert_eq!(
        to_json("x/envoy.extensions.filters.http.fault.v3.HTTPFault", &HttpFault::default().encode_to_vec()),
        json!({"@type": "x/envoy.extensions.filters.http.fault.v3.HTTPFault"})
    );
}

#[test]
fn a_type_that_is_refused_as_a_whole_keeps_its_bytes_if_it_holds_something_unknown() {
    let url = "x/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
    assert_eq!(to_json(url, &[0x08, 1]), json!({"@type": url, "emit_filter_state": true}));
    assert_eq!(to_json(url, &[0x08, 1, 0xf8, 0x07, 1]), json!({"@type": url, "value": "CAH4BwE="}));
}

#[test]
fn bytes_that_are_no_message_are_kept_as_they_are() {
    let url = "x/envoy.config.listener.v3.Listener";
    assert_eq!(to_json(url, &[0x0a, 0x05]), json!({"@type": url, "value": "CgU="}));
}
