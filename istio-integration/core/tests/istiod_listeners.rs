//! The listeners that istiod sends for the manifests in `dumps/`, translated.
//!
//! What they become stands in `golden/`, one JSON document a line. After a change that is meant, read the difference:
//! `GOLDEN=write cargo test -p istio-integration --test istiod_listeners && git diff`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use istio_integration::feeds::istiod::{Listeners, Translated};
use istio_protos::Decoded;
use istio_protos::envoy::config::listener::v3::filter::ConfigType;
use istio_protos::envoy::config::listener::v3::{FilterChain, Listener, ListenerFilter};
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_filter,
};
use istio_protos::table::{self, Treatment};
use prost::Message as _;
use serde_json::json;
use waypoint_model::Protocol;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(tests().join("dumps/Listener").join(format!("{name}.bin"))).unwrap()
}

fn listener(name: &str) -> Decoded<Listener> {
    istio_protos::decode(bytes(name).into()).unwrap()
}

fn main_internal() -> Translated {
    Listeners::default().translate(&listener("main_internal"))
}

fn compare(name: &str, lines: impl IntoIterator<Item = impl ToString>) {
    let have: String = lines.into_iter().map(|line| line.to_string() + "\n").collect();
    let path = tests().join("golden").join(name);
    if std::env::var_os("GOLDEN").is_some() {
        std::fs::write(&path, &have).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    for (number, (have, want)) in have.lines().zip(want.lines()).enumerate() {
        assert_eq!(have, want, "{name}:{}", number + 1);
    }
    assert_eq!(have.lines().count(), want.lines().count(), "{name}");
}

#[test]
fn ports_are_fronted_as_istiod_wants_them() {
    let translated = main_internal();
    assert_eq!(translated.unusable, None);
    let ports = translated.ports.iter().map(|port| {
        let mut chain = serde_json::to_value(&port.chain).unwrap();
        let telemetry = chain.as_object_mut().unwrap().remove("telemetry").unwrap();
        let marks = [
            telemetry["standard_metrics"] == json!(true),
            telemetry["client_identity_header"] == json!(true),
        ];
        json!({
            "service": format!("{}:{}", port.hostname, port.port),
            "protocol": port.protocol,
            "vips": port.vips,
            "chain": chain,
            "standard metrics, client identity": marks,
        })
    });
    compare("ports.jsonl", ports);
    let pods = translated.pods.as_ref().unwrap();
    assert_eq!((pods.addresses.len(), pods.chain.unusable.as_deref()), (7, None));
}

#[test]
fn policies_routes_and_telemetry_are_what_the_manifests_say() {
    let translated = main_internal();
    compare(
        "policies.jsonl",
        translated.policies.iter().map(|policy| serde_json::to_value(&**policy).unwrap()),
    );
    let rules = translated.routes.iter().flat_map(|route| {
        route
            .rules
            .iter()
            .map(|rule| json!({ "route": route.key, "hostnames": route.hostnames, "rule": rule }))
    });
    compare("routes.jsonl", rules);
    let chains = translated.ports.iter().map(|port| &port.chain);
    let telemetry: BTreeSet<String> =
        chains.map(|chain| serde_json::to_string(&chain.telemetry).unwrap()).collect();
    compare("telemetry.jsonl", telemetry);
    let told: BTreeSet<String> =
        translated.refused.iter().chain(&translated.notes).map(ToString::to_string).collect();
    compare("told.txt", told);
}

#[test]
fn plumbing_and_the_tunnel_add_nothing_and_refuse_nothing() {
    for name in
        ["connect_terminate", "connect_originate", "inner_connect_originate", "outer_connect_originate"]
    {
        let told =
            (name == "connect_terminate").then(|| vec!["cluster.local".to_owned(), "old.example".to_owned()]);
        let want = Translated { trust_domains: told, ..Translated::default() };
        assert_eq!(Listeners::default().translate(&listener(name)), want, "{name}");
    }
    let mut unknown = listener("connect_originate");
    unknown.message.name = "forward_inner_connect".to_owned();
    let refused = Listeners::default().translate(&unknown).refused;
    assert_eq!(refused.len(), 1);
    assert_eq!(refused.first().unwrap().path, "forward_inner_connect");
}

#[test]
fn what_did_not_change_is_the_same_arc() {
    let mut listeners = Listeners::default();
    let first = listeners.translate(&listener("main_internal"));
    let mut changed = listener("main_internal");
    let chains = &mut changed.message.filter_chains;
    let dropped = chains.iter().position(|chain| chain.name.contains("vm.example.com")).unwrap();
    chains.remove(dropped);
    chains.reverse();
    let second = listeners.translate(&changed);
    for policy in &second.policies {
        assert!(first.policies.iter().any(|before| Arc::ptr_eq(before, policy)), "{}", policy.key);
    }
    for route in &second.routes {
        assert!(first.routes.iter().any(|before| Arc::ptr_eq(before, route)), "{}", route.key);
    }
    let jwt = |translated: &Translated| {
        let port = translated.ports.iter().find(|port| !port.chain.jwt.is_empty()).unwrap();
        Arc::clone(port.chain.jwt.first().unwrap())
    };
    assert!(Arc::ptr_eq(&jwt(&first), &jwt(&second)));
    let gone = second.ports.iter().find(|port| &*port.hostname == "vm.example.com").unwrap();
    assert!(gone.chain.unusable.as_deref().is_some_and(|why| why.contains("is missing")));
}

/// The chain of a service's port, to be changed.
fn chain_mut<'a>(listener: &'a mut Decoded<Listener>, name: &str) -> &'a mut FilterChain {
    listener.message.filter_chains.iter_mut().find(|chain| chain.name == name).unwrap()
}

#[test]
fn an_unknown_filter_closes_its_chain_by_name_and_no_other() {
    let mut changed = listener("main_internal");
    let chain = chain_mut(&mut changed, "inbound-vip|88|tcp|cart.shop.svc.cluster.local");
    let mut unknown = chain.filters.first().unwrap().clone();
    unknown.name = "x.y".to_owned();
    chain.filters.insert(0, unknown);
    let (before, after) = (main_internal(), Listeners::default().translate(&changed));
    for (before, after) in before.ports.iter().zip(&after.ports) {
        if (&*after.hostname, after.port) == ("cart.shop.svc.cluster.local", 88) {
            let why = after.chain.unusable.as_deref().unwrap();
            assert!(
                why.starts_with("filter x.y of type envoy.") && why.ends_with("is not supported"),
                "{why}"
            );
        } else {
            assert_eq!(before, after);
        }
    }
}

#[test]
fn what_is_unknown_outside_of_the_chains_keeps_the_ways_to_them_and_the_chains_are_of_the_new_version() {
    let mut changed = listener("main_internal");
    changed
        .message
        .listener_filters
        .push(ListenerFilter { name: "x.y".to_owned(), ..ListenerFilter::default() });
    chain_mut(&mut changed, "inbound-vip|88|tcp|cart.shop.svc.cluster.local").filters.clear();
    changed.message.filter_chain_matcher = None;

    let mut listeners = Listeners::default();
    let before = listeners.translate(&listener("main_internal"));
    let after = listeners.translate(&changed);
    assert!(after.refused.iter().any(|refused| refused.to_string().contains("x.y")), "{:?}", after.refused);
    assert_eq!((after.unusable, after.ports.len()), (None, before.ports.len()));
    for (before, after) in before.ports.iter().zip(&after.ports) {
        assert_eq!((&before.hostname, before.port, &before.vips), (&after.hostname, after.port, &after.vips));
        let is_changed = (&*after.hostname, after.port) == ("cart.shop.svc.cluster.local", 88);
        assert_eq!(before.chain == after.chain, !is_changed, "{}:{}", after.hostname, after.port);
    }

    let alone = Listeners::default().translate(&changed);
    assert!(
        alone.unusable.is_some_and(|why| why.contains("x.y")),
        "without a listener before, nothing is served"
    );
}

/// An RBAC filter whose first entry got a field that nobody knows.
fn with_unknown_field(chain: &mut FilterChain) {
    let filter = chain.filters.iter_mut().find(|filter| filter.name == "envoy.filters.network.rbac").unwrap();
    let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else { panic!("no config") };
    let mut rbac =
        istio_protos::envoy::extensions::filters::network::rbac::v3::Rbac::decode(any.value.clone()).unwrap();
    let rules = rbac.rules.take().unwrap();
    // policies { key: …, value: { permissions: [], field 99: 1 } }, written by hand since prost cannot
    let (id, _) = rules.policies.first_key_value().unwrap();
    let mut entry = vec![0x0a, u8::try_from(id.len()).unwrap()];
    entry.extend_from_slice(id.as_bytes());
    entry.extend_from_slice(&[0x12, 3, 0x98, 0x06, 1]);
    let mut wire = vec![0x08];
    wire.push(u8::try_from(rules.action).unwrap());
    wire.extend_from_slice(&[0x12, u8::try_from(entry.len()).unwrap()]);
    wire.extend_from_slice(&entry);
    let mut filter_wire = vec![0x0a, u8::try_from(wire.len()).unwrap()];
    filter_wire.extend_from_slice(&wire);
    any.value = filter_wire.into();
}

#[test]
fn a_policy_with_an_unknown_field_stays_as_it_was_and_is_refused_by_its_path() {
    let name = "inbound-vip|88|tcp|cart.shop.svc.cluster.local";
    let mut changed = listener("main_internal");
    with_unknown_field(chain_mut(&mut changed, name));

    let mut listeners = Listeners::default();
    let before = listeners.translate(&listener("main_internal"));
    let after = listeners.translate(&changed);
    let refused: Vec<String> = after.refused.iter().map(ToString::to_string).collect();
    assert!(
        refused.iter().any(|text| text.contains(name)
            && text.contains("rules.policies[")
            && text.contains("field 99 unknown")),
        "{refused:?}"
    );
    assert_eq!(after.policies, before.policies, "the last good version stays");

    let alone = Listeners::default().translate(&changed);
    let unusable: Vec<_> = alone.policies.iter().filter(|policy| policy.unusable.is_some()).collect();
    assert_eq!(unusable.len(), 1, "and without one nothing is permitted");
}

/// Types of all filters of a chain, network and HTTP ones; of one that is sent by itself, none.
fn filter_types(chain: &FilterChain) -> Vec<(String, Option<String>)> {
    let mut types = Vec::new();
    for filter in &chain.filters {
        let Some(ConfigType::TypedConfig(any)) = &filter.config_type else {
            types.push((filter.name.clone(), None));
            continue;
        };
        types.push((filter.name.clone(), Some(any.type_name().to_owned())));
        if let Ok(manager) = istio_protos::unpack::<HttpConnectionManager>(any) {
            types.extend(manager.message.http_filters.iter().map(|filter| match &filter.config_type {
                Some(http_filter::ConfigType::TypedConfig(any)) => {
                    (filter.name.clone(), Some(any.type_name().to_owned()))
                }
                _ => (filter.name.clone(), None),
            }));
        }
    }
    types
}

#[test]
fn every_filter_is_translated_or_listed_and_the_list_says_what_we_do() {
    let translated = main_internal();
    let mut seen = BTreeSet::new();
    for chain in &listener("main_internal").message.filter_chains {
        let refused: Vec<String> = filter_types(chain)
            .into_iter()
            .filter(|(name, type_name)| {
                let row = type_name.as_deref().and_then(table::message);
                seen.insert(format!("{name} {}", type_name.as_deref().unwrap_or("-")));
                row.is_none_or(|row| matches!(row.treatment, Treatment::Refused(_)))
            })
            .map(|(name, _)| name)
            .collect();
        let cluster = chain.name.split('|').collect::<Vec<_>>();
        let [_, port, _, host] = cluster.as_slice() else { continue };
        let fronted =
            translated.ports.iter().find(|at| at.port.to_string() == *port && *at.hostname == **host);
        let why = fronted.unwrap().chain.unusable.clone().unwrap_or_default();
        if fronted.unwrap().protocol == Protocol::Undeclared {
            assert_eq!((why.as_str(), refused.len()), ("", 0), "{}", chain.name);
        } else if let Some(first) = refused.first() {
            assert!(
                why.contains(first.as_str()) || why.contains("config_discovery"),
                "{}: {why}",
                chain.name
            );
        } else {
            assert!(!why.starts_with("filter "), "{}: {why}", chain.name);
        }
    }
    compare("filters.txt", seen);
}
