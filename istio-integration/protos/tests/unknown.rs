//! What is not in `proto/` is found wherever it stands, and named.
#![allow(clippy::unwrap_used, reason = "tests")]

use istio_protos::envoy::config::core::v3::HeaderValueOption;
use istio_protos::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use istio_protos::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use istio_protos::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac, permission, principal};
use istio_protos::envoy::config::route::v3::RouteConfiguration;
use istio_protos::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use istio_protos::{Any, DecodeError, Finding, Nested, decode, inspect, table, unpack};
use prost::{Message, Name};

/// A field of a number that none of our messages has, as a varint.
const STRANGE: [u8; 3] = [0xc8, 0x3e, 1];

fn strange(message: &impl Message) -> Vec<u8> {
    [message.encode_to_vec().as_slice(), &STRANGE].concat()
}

/// `number` of wire type 2, around `value`.
fn nest(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    prost::encoding::encode_varint(value.len() as u64, &mut field);
    field.extend_from_slice(value);
    field
}

fn texts(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

fn found<M: Message + Name + Default>(bytes: Vec<u8>) -> Vec<String> {
    texts(&decode::<M>(bytes.into()).unwrap().findings)
}

fn through<M: Name>(bytes: &[u8]) -> Vec<String> {
    texts(&inspect(table::message(&M::full_name()).unwrap(), bytes, Nested::Enter).unwrap())
}

#[test]
fn a_message_written_by_hand_is_read_and_clean() {
    // RBAC { action: DENY, policies: {"p": {permissions: [{any: true}], principals: [{any: true}]}} }
    let bytes = b"\x08\x01\x12\x0d\x0a\x01p\x12\x08\x0a\x02\x18\x01\x12\x02\x18\x01".to_vec();
    let decoded = decode::<Rbac>(bytes.into()).unwrap();
    let any = Policy {
        permissions: vec![Permission { rule: Some(permission::Rule::Any(true)) }],
        principals: vec![Principal { identifier: Some(principal::Identifier::Any(true)) }],
    };
    assert_eq!(decoded.message, Rbac { action: 1, policies: [("p".to_owned(), any)].into() });
    assert_eq!(decoded.findings, []);
}

#[test]
fn an_unknown_field_is_named_by_its_path_at_any_depth() {
    assert_eq!(found::<Rbac>(STRANGE.to_vec()), ["envoy.config.rbac.v3.RBAC: field 1001 unknown"]);
    // In a permission of a set, of a policy, of the map.
    let permission = nest(1, &[nest(1, b"\x18\x01"), nest(1, &STRANGE)].concat());
    let policy = nest(1, &permission);
    let entry = [nest(1, b"ns[a]-policy[b]-rule[0]"), nest(2, &policy)].concat();
    assert_eq!(
        found::<Rbac>(nest(2, &entry)),
        [
            r#"envoy.config.rbac.v3.RBAC.policies["ns[a]-policy[b]-rule[0]"].permissions[0].and_rules.rules[1]: field 1001 unknown"#
        ]
    );
    // The value before the key.
    let entry = [nest(2, &nest(1, &STRANGE)), nest(1, b"k")].concat();
    assert_eq!(
        found::<Rbac>(nest(2, &entry)),
        [r#"envoy.config.rbac.v3.RBAC.policies["k"].permissions[0]: field 1001 unknown"#]
    );
}

#[test]
fn every_message_of_the_table_gives_its_unknown_field_away() {
    for message in table::messages() {
        let findings = inspect(message, &STRANGE, Nested::Leave).unwrap();
        let expected = match message.treatment {
            table::Treatment::Used => vec![format!("{}: field 1001 unknown", message.name)],
            table::Treatment::Ignored(_) => vec![],
            table::Treatment::Refused(why) => vec![format!("{}: refused, {why}", message.name)],
        };
        assert_eq!(texts(&findings), expected);
    }
}

fn listener_with(filter_config: Any) -> Listener {
    let filter = hcm::HttpFilter {
        name: "f".to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(filter_config)),
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager { http_filters: vec![filter], ..Default::default() };
    let filter = Filter {
        name: "hcm".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(Any::pack(&manager))),
    };
    let chain = FilterChain { filters: vec![filter], ..Default::default() };
    Listener { filter_chains: vec![FilterChain::default(), chain], ..Default::default() }
}

#[test]
fn any_is_entered_only_where_asked_for() {
    let rbac = Any { value: strange(&HttpRbac::default()).into(), ..Any::pack(&HttpRbac::default()) };
    let bytes = listener_with(rbac).encode_to_vec();
    assert_eq!(found::<Listener>(bytes.clone()), [""; 0]);
    assert_eq!(
        through::<Listener>(&bytes),
        ["envoy.config.listener.v3.Listener.filter_chains[1].filters[0].typed_config\
          (envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager).http_filters[0].typed_config\
          (envoy.extensions.filters.http.rbac.v3.RBAC): field 1001 unknown"]
    );
}

#[test]
fn an_unknown_type_and_a_refused_one_are_named() {
    let foreign = Any { type_url: "type.googleapis.com/acme.Filter".to_owned(), ..Any::default() };
    let finding = through::<Listener>(&listener_with(foreign).encode_to_vec());
    assert!(
        finding[0]
            .ends_with(r#".http_filters[0].typed_config: type "type.googleapis.com/acme.Filter" unknown"#)
    );
    assert_eq!(finding.len(), 1);

    let lua = Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua".to_owned(),
        ..Any::default()
    };
    let finding = through::<Listener>(&listener_with(lua).encode_to_vec());
    assert!(
        finding[0]
            .ends_with("(envoy.extensions.filters.http.lua.v3.Lua): refused, extensions are not run here")
    );
}

#[test]
fn a_field_that_is_to_be_refused_is_named_with_the_reason_where_it_is_set() {
    let disabled = hcm::HttpFilter { disabled: true, ..Default::default() };
    assert_eq!(
        found::<hcm::HttpFilter>(disabled.encode_to_vec()),
        ["envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.disabled: \
          refused, a filter that is off until a route turns it on"]
    );
}

#[test]
fn a_value_that_is_to_be_refused_is_named_with_the_reason() {
    let option =
        HeaderValueOption { append_action: HeaderAppendAction::AddIfAbsent.into(), ..Default::default() };
    assert_eq!(
        found::<HeaderValueOption>(option.encode_to_vec()),
        ["envoy.config.core.v3.HeaderValueOption.append_action: refused, istiod appends or overwrites"]
    );
}

#[test]
fn what_is_ignored_is_not_looked_into() {
    // Listener.address, with a field that Address does not have.
    assert_eq!(found::<Listener>(nest(2, &STRANGE)), [""; 0]);
}

#[test]
fn an_unknown_action_is_found_though_prost_reads_it_as_allow() {
    let decoded = decode::<Rbac>(vec![0x08, 0x09].into()).unwrap();
    assert_eq!(decoded.message.action(), istio_protos::envoy::config::rbac::v3::rbac::Action::Allow);
    assert_eq!(texts(&decoded.findings), ["envoy.config.rbac.v3.RBAC.action: value 9 unknown"]);
    let negative = decode::<Rbac>(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01".to_vec().into()).unwrap();
    assert_eq!(texts(&negative.findings), ["envoy.config.rbac.v3.RBAC.action: value -1 unknown"]);
}

#[test]
fn malformed_bytes_and_other_types_are_refused() {
    let rows: &[(&str, &[u8])] = &[
        ("cut short", b"\x12\x0d\x0a"),
        ("a string where a number is due", b"\x0a\x01a"),
        ("a number where a message is due", b"\x10\x01"),
        ("no UTF-8 in a map's key", b"\x12\x03\x0a\x01\xff"),
        ("group", b"\x0b"),
    ];
    for (name, bytes) in rows {
        assert!(decode::<Rbac>(bytes.to_vec().into()).is_err(), "{name}");
    }
    let error = unpack::<HttpRbac>(&Any::pack(&RouteConfiguration::default())).unwrap_err();
    assert!(matches!(error, DecodeError::Type { .. }));
}

#[test]
fn nesting_has_a_bound() {
    let bytes = (0..200).fold(b"\x18\x01".to_vec(), |inner, _| nest(8, &inner));
    assert!(decode::<Permission>(bytes.into()).is_err());
    let bytes = (0..40).fold(b"\x18\x01".to_vec(), |inner, _| nest(8, &inner));
    assert!(decode::<Permission>(bytes.into()).is_ok());
}

#[test]
fn a_finding_is_charged_to_the_element_it_stands_in() {
    let chains = [nest(3, b""), nest(3, &STRANGE)].concat();
    let decoded = decode::<Listener>(chains.into()).unwrap();
    let at = |index| decoded.findings.iter().filter(|finding| finding.is_in("filter_chains", index)).count();
    assert_eq!((at(0), at(1)), (0, 1));
}
