//! Policies as istiod compiles them mean here what they mean in Envoy: generated filters, judged by the policy engine after
//! translation and by a slow reference that reads the messages themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::HeaderMap;
use istio_integration::feeds::istiod::Listeners;
use istio_protos::envoy::config::core::v3::{CidrRange, TypedExtensionConfig};
use istio_protos::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use istio_protos::envoy::config::rbac::v3::permission::{Rule, Set as Rules};
use istio_protos::envoy::config::rbac::v3::principal::{Identifier, Set as Ids};
use istio_protos::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac};
use istio_protos::envoy::config::route::v3::HeaderMatcher;
use istio_protos::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use istio_protos::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager, http_filter,
};
use istio_protos::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use istio_protos::envoy::r#type::matcher::v3 as matcher;
use istio_protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use istio_protos::{Any, Decoded};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use spiffe_id::SpiffeId;
use waypoint_model::Pattern;
use waypoint_policy::{Attributes, Destination, HttpAttributes, PolicySet, Source};

/// A request, owned.
#[derive(Clone, Debug)]
struct Request {
    id: SpiffeId,
    ip: IpAddr,
    destination: (IpAddr, u16),
    sni: Option<&'static str>,
    method: &'static str,
    authority: &'static str,
    path: &'static str,
    header: Option<&'static str>,
    claims: Option<Value>,
}

// ---- Envoy's side: what its documentation says of each message ----

fn text(m: &matcher::StringMatcher, value: &str) -> bool {
    let fold = |text: &str| if m.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let value_folded = fold(value);
    match m.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(want) => value_folded == fold(want),
        MatchPattern::Prefix(want) => value_folded.starts_with(&fold(want)),
        MatchPattern::Suffix(want) => value_folded.ends_with(&fold(want)),
        MatchPattern::SafeRegex(regex) => full_match(&regex.regex, value),
        MatchPattern::Custom(_) => panic!("not generated"),
    }
}

fn full_match(regex: &str, value: &str) -> bool {
    Pattern::parse(regex).unwrap().matches(value.as_bytes())
}

fn header(m: &HeaderMatcher, request: &Request) -> bool {
    let value = match m.name.as_str() {
        ":authority" => Some(request.authority),
        ":method" => Some(request.method),
        _ => request.header,
    };
    match m.header_match_specifier.as_ref().unwrap() {
        HeaderMatchSpecifier::PresentMatch(present) => (value.is_some() == *present) != m.invert_match,
        HeaderMatchSpecifier::StringMatch(want) => match value {
            None if !m.treat_missing_header_as_empty => false,
            value => text(want, value.unwrap_or_default()) != m.invert_match,
        },
    }
}

fn inside(range: &CidrRange, ip: IpAddr) -> bool {
    let net: ipnet::IpNet =
        format!("{}/{}", range.address_prefix, range.prefix_len.unwrap_or(0)).parse().unwrap();
    net.trunc().contains(&ip)
}

fn value(m: &matcher::ValueMatcher, found: Option<&Value>) -> bool {
    use matcher::{list_matcher, value_matcher::MatchPattern as V};
    match m.match_pattern.as_ref().unwrap() {
        V::StringMatch(want) => found.and_then(Value::as_str).is_some_and(|found| text(want, found)),
        V::OrMatch(any) => any.value_matchers.iter().any(|part| value(part, found)),
        V::ListMatch(list) => {
            let Some(list_matcher::MatchPattern::OneOf(entry)) = &list.match_pattern else { panic!() };
            found
                .and_then(Value::as_array)
                .is_some_and(|list| list.iter().any(|found| value(entry, Some(found))))
        }
    }
}

fn metadata(m: &matcher::MetadataMatcher, request: &Request) -> bool {
    assert_eq!(m.filter, "envoy.filters.http.jwt_authn");
    let keys = m.path.iter().map(|step| match step.segment.as_ref().unwrap() {
        matcher::metadata_matcher::path_segment::Segment::Key(key) => key.as_str(),
    });
    let found = keys.skip(1).fold(request.claims.as_ref(), |at, key| at?.as_object()?.get(key));
    value(m.value.as_ref().unwrap(), found) != m.invert
}

/// `*` is `[pchar]+`, `**` is `[pchar/]*` (RFC 3986); Envoy 1.40 was seen to count `*` among them.
fn template(text: &str, path: &str) -> bool {
    const PLAIN: &str = "a-zA-Z0-9\\-._~%!$&'()*+,;:@=";
    let segments = text.split('/').map(|segment| match segment {
        "*" => format!("[{PLAIN}]+"),
        "**" => format!("[{PLAIN}/]*"),
        literal => literal.replace('.', "\\."),
    });
    full_match(&segments.collect::<Vec<_>>().join("/"), path)
}

fn permitted(p: &Permission, request: &Request) -> bool {
    match p.rule.as_ref().unwrap() {
        Rule::AndRules(set) => set.rules.iter().all(|part| permitted(part, request)),
        Rule::OrRules(set) => set.rules.iter().any(|part| permitted(part, request)),
        Rule::NotRule(part) => !permitted(part, request),
        Rule::Any(any) => *any,
        Rule::Header(m) => header(m, request),
        Rule::UrlPath(m) => {
            let Some(matcher::path_matcher::Rule::Path(want)) = &m.rule else { panic!() };
            text(want, request.path)
        }
        Rule::UriTemplate(extension) => {
            let config: UriTemplateMatchConfig =
                istio_protos::unpack(extension.typed_config.as_ref().unwrap()).unwrap().message;
            template(&config.path_template, request.path)
        }
        Rule::DestinationIp(range) => inside(range, request.destination.0),
        Rule::DestinationPort(port) => *port == u32::from(request.destination.1),
        Rule::RequestedServerName(m) => text(m, request.sni.unwrap_or_default()),
        Rule::Metadata(m) => metadata(m, request),
        Rule::Matcher(_) => panic!("not generated"),
    }
}

fn is_principal(p: &Principal, request: &Request) -> bool {
    match p.identifier.as_ref().unwrap() {
        Identifier::AndIds(set) => set.ids.iter().all(|part| is_principal(part, request)),
        Identifier::OrIds(set) => set.ids.iter().any(|part| is_principal(part, request)),
        Identifier::NotId(part) => !is_principal(part, request),
        Identifier::Any(any) => *any,
        Identifier::Header(m) => header(m, request),
        Identifier::DirectRemoteIp(range) | Identifier::RemoteIp(range) => inside(range, request.ip),
        Identifier::Metadata(m) => metadata(m, request),
        Identifier::FilterState(m) => {
            let Some(matcher::filter_state_matcher::Matcher::StringMatch(want)) = &m.matcher else {
                panic!()
            };
            text(want, request.id.as_str())
        }
        Identifier::Authenticated(_) | Identifier::Custom(_) => panic!("not generated"),
    }
}

fn envoy_permits(rbac: &Rbac, request: &Request) -> bool {
    let matched = rbac.policies.values().any(|policy| {
        policy.permissions.iter().any(|part| permitted(part, request))
            && policy.principals.iter().any(|part| is_principal(part, request))
    });
    matched == (rbac.action == 0)
}

// ---- our side: the whole way from a listener to a verdict ----

fn listener(rbac: Rbac) -> Decoded<Listener> {
    let filter = |name: &str, any| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any)),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        normalize_path: Some(false),
        http_filters: vec![filter(
            "envoy.filters.http.rbac",
            Any::pack(&HttpRbac { rules: Some(rbac), ..HttpRbac::default() }),
        )],
        route_specifier: Some(http_connection_manager::RouteSpecifier::RouteConfig(
            istio_protos::envoy::config::route::v3::RouteConfiguration {
                virtual_hosts: vec![istio_protos::envoy::config::route::v3::VirtualHost::default()],
                ..Default::default()
            },
        )),
        ..HttpConnectionManager::default()
    };
    let message = Listener {
        name: "main_internal".to_owned(),
        filter_chains: vec![FilterChain {
            name: "direct-http".to_owned(),
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(Any::pack(&manager))),
            }],
            ..FilterChain::default()
        }],
        filter_chain_matcher: Some(Default::default()),
        ..Listener::default()
    };
    Decoded { message, findings: Vec::new() }
}

fn we_permit(rbac: Rbac, request: &Request) -> bool {
    let translated = Listeners::default().translate(&listener(rbac));
    for policy in &translated.policies {
        assert_eq!(policy.unusable, None);
    }
    let set = PolicySet::compile(&translated.policies, &[], false, 1);
    assert_eq!(set.unavailable().len(), 0);
    let mut headers = HeaderMap::new();
    if let Some(value) = request.header {
        headers.insert("x-a", value.parse().unwrap());
    }
    let attributes = Attributes {
        source: Source { identity: Some(&request.id), ip: request.ip, remote_ip: request.ip },
        destination: Destination {
            ip: Some(request.destination.0),
            port: request.destination.1,
            sni: request.sni,
        },
        http: Some(HttpAttributes {
            method: request.method,
            path: request.path,
            authority: request.authority,
            headers: &headers,
            claims: request.claims.as_ref(),
        }),
    };
    set.decide_stream(&attributes).is_ok()
}

// ---- what is generated ----

const SEGMENTS: [&str; 7] = ["ns", "sa", "a", "b", "a.b", "ab", "nsa"];

fn quoted(text: &str) -> String {
    text.replace('.', "\\.")
}

fn pattern(pattern: MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
}

fn safe_regex(regex: String) -> matcher::StringMatcher {
    pattern(MatchPattern::SafeRegex(matcher::RegexMatcher { regex }))
}

fn id_text() -> impl Strategy<Value = String> {
    let path = proptest::collection::vec(select(&SEGMENTS[..]), 0..6);
    (select(vec!["td", "ns", "sa", "a.b"]), path).prop_map(|(domain, path)| {
        ["spiffe:/", domain].iter().chain(&path).copied().collect::<Vec<_>>().join("/")
    })
}

/// Every shape that istiod writes for an identity, and cuts of identities as prefixes and suffixes.
fn peer() -> impl Strategy<Value = matcher::StringMatcher> {
    let segment = || select(&SEGMENTS[..]).prop_map(quoted);
    let glob = prop_oneof![
        segment(),
        segment().prop_map(|s| s + ".*"),
        segment().prop_map(|s| format!(".*{s}")),
        (segment(), segment()).prop_map(|(a, b)| format!("{a}.*{b}")),
        Just(".*".to_owned()),
    ];
    let domain = (select(vec!["", "t", "a\\."]), select(vec!["", "d", "b"]));
    prop_oneof![
        id_text().prop_map(|id| pattern(MatchPattern::Exact(id))),
        (id_text(), 0..30usize)
            .prop_map(|(id, cut)| pattern(MatchPattern::Prefix(id.chars().take(cut + 1).collect()))),
        (id_text(), 0..30usize).prop_map(|(id, cut)| {
            pattern(MatchPattern::Suffix(id.chars().skip(cut.min(id.len() - 1)).collect()))
        }),
        Just(safe_regex(".+".to_owned())),
        glob.prop_map(|glob| safe_regex(format!(".*/ns/{glob}/.*"))),
        (segment(), segment())
            .prop_map(|(ns, sa)| safe_regex(format!("spiffe://.+/ns/{ns}/(.+/|)sa/{sa}(/.+)?"))),
        (segment(), segment()).prop_map(|(a, b)| safe_regex(format!("spiffe://.*{a}/{b}"))),
        domain.prop_map(|(a, b)| safe_regex(format!("spiffe://{a}[^/]*{b}/.*"))),
    ]
}

const TEXTS: [&str; 6] = ["", "a", "b", "ab", "A", "a.b"];

fn string(texts: &'static [&'static str]) -> impl Strategy<Value = matcher::StringMatcher> {
    let of = move || select(texts).prop_map(str::to_owned);
    let not_empty = move || of().prop_filter("Envoy refuses empty ones", |text| !text.is_empty());
    prop_oneof![
        of().prop_map(|text| pattern(MatchPattern::Exact(text))),
        not_empty().prop_map(|text| pattern(MatchPattern::Prefix(text))),
        not_empty().prop_map(|text| pattern(MatchPattern::Suffix(text))),
        Just(safe_regex(".+".to_owned())),
    ]
}

fn header_test() -> impl Strategy<Value = HeaderMatcher> {
    let value = prop_oneof![
        (string(&TEXTS), any::<bool>()).prop_map(|(mut text, ignore_case)| {
            text.ignore_case = ignore_case && !matches!(text.match_pattern, Some(MatchPattern::SafeRegex(_)));
            HeaderMatchSpecifier::StringMatch(text)
        }),
        any::<bool>().prop_map(HeaderMatchSpecifier::PresentMatch),
    ];
    (select(vec![":authority", ":method", "x-a"]), value, any::<bool>(), any::<bool>()).prop_map(
        |(name, value, invert_match, treat_missing_header_as_empty)| HeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(value),
            invert_match,
            treat_missing_header_as_empty,
        },
    )
}

fn key(key: &str) -> matcher::metadata_matcher::PathSegment {
    let segment = matcher::metadata_matcher::path_segment::Segment::Key(key.to_owned());
    matcher::metadata_matcher::PathSegment { segment: Some(segment) }
}

fn of_text(text: matcher::StringMatcher) -> matcher::ValueMatcher {
    let pattern = matcher::value_matcher::MatchPattern::StringMatch(text);
    matcher::ValueMatcher { match_pattern: Some(pattern) }
}

fn or(parts: Vec<matcher::ValueMatcher>) -> matcher::ValueMatcher {
    let pattern = matcher::value_matcher::MatchPattern::OrMatch(matcher::OrMatcher { value_matchers: parts });
    matcher::ValueMatcher { match_pattern: Some(pattern) }
}

fn claim() -> impl Strategy<Value = matcher::MetadataMatcher> {
    let of = |path: &[&str], value| matcher::MetadataMatcher {
        filter: "envoy.filters.http.jwt_authn".to_owned(),
        path: ["payload"].iter().chain(path).map(|step| key(step)).collect(),
        value: Some(value),
        invert: false,
    };
    let extended = |values: Vec<matcher::StringMatcher>| {
        let mut values: Vec<_> = values.into_iter().map(of_text).collect();
        let value = if values.len() == 1 { values.remove(0) } else { or(values) };
        let list = matcher::ListMatcher {
            match_pattern: Some(matcher::list_matcher::MatchPattern::OneOf(Box::new(value.clone()))),
        };
        let list = matcher::value_matcher::MatchPattern::ListMatch(Box::new(list));
        or(vec![matcher::ValueMatcher { match_pattern: Some(list) }, value])
    };
    prop_oneof![
        (select(vec!["iss", "sub"]), string(&TEXTS)).prop_map(move |(name, text)| of(&[name], of_text(text))),
        (
            select(vec![&["aud"][..], &["azp"], &["groups"], &["o", "p"]]),
            proptest::collection::vec(string(&TEXTS), 1..3)
        )
            .prop_map(move |(path, values)| of(path, extended(values))),
    ]
}

fn range() -> impl Strategy<Value = CidrRange> {
    let ranges =
        vec![("10.0.0.1", Some(32)), ("10.0.0.0", Some(8)), ("10.1.2.3", Some(16)), ("2001:db8::", Some(32))];
    select(ranges)
        .prop_map(|(address, prefix_len)| CidrRange { address_prefix: address.to_owned(), prefix_len })
}

const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b/a=1/c", "/a*/b", "/c", "//c"];

fn permission() -> impl Strategy<Value = Permission> {
    let url = string(&PATHS).prop_map(|text| {
        Rule::UrlPath(matcher::PathMatcher { rule: Some(matcher::path_matcher::Rule::Path(text)) })
    });
    let templates =
        select(vec!["/*", "/a/*", "/a/**", "/**/c", "/*/*/c", "/**", "/*/b/**"]).prop_map(|text| {
            let config = Any::pack(&UriTemplateMatchConfig { path_template: text.to_owned() });
            Rule::UriTemplate(TypedExtensionConfig {
                name: "uri-template".to_owned(),
                typed_config: Some(config),
            })
        });
    let leaf = prop_oneof![
        Just(Rule::Any(true)),
        header_test().prop_map(Rule::Header),
        url,
        templates,
        range().prop_map(Rule::DestinationIp),
        select(vec![80, 81]).prop_map(Rule::DestinationPort),
        string(&["a", "a.b", "b"]).prop_map(Rule::RequestedServerName),
    ];
    let leaf = leaf.prop_map(|rule| Permission { rule: Some(rule) });
    leaf.prop_recursive(3, 12, 3, |inner| {
        let several = || proptest::collection::vec(inner.clone(), 1..4);
        let rule = prop_oneof![
            several().prop_map(|rules| Rule::AndRules(Rules { rules })),
            several().prop_map(|rules| Rule::OrRules(Rules { rules })),
            inner.clone().prop_map(|part| Rule::NotRule(Box::new(part))),
        ];
        rule.prop_map(|rule| Permission { rule: Some(rule) })
    })
}

fn principal() -> impl Strategy<Value = Principal> {
    let state = peer().prop_map(|text| {
        Identifier::FilterState(matcher::FilterStateMatcher {
            key: "io.istio.peer_principal".to_owned(),
            matcher: Some(matcher::filter_state_matcher::Matcher::StringMatch(text)),
        })
    });
    let leaf = prop_oneof![
        4 => state,
        1 => Just(Identifier::Any(true)),
        1 => header_test().prop_map(Identifier::Header),
        1 => range().prop_map(Identifier::DirectRemoteIp),
        1 => range().prop_map(Identifier::RemoteIp),
        2 => claim().prop_map(Identifier::Metadata),
    ];
    let leaf = leaf.prop_map(|identifier| Principal { identifier: Some(identifier) });
    leaf.prop_recursive(3, 12, 3, |inner| {
        let several = || proptest::collection::vec(inner.clone(), 1..4);
        let identifier = prop_oneof![
            several().prop_map(|ids| Identifier::AndIds(Ids { ids })),
            several().prop_map(|ids| Identifier::OrIds(Ids { ids })),
            inner.clone().prop_map(|part| Identifier::NotId(Box::new(part))),
        ];
        identifier.prop_map(|identifier| Principal { identifier: Some(identifier) })
    })
}

fn rbac() -> impl Strategy<Value = Rbac> {
    let policy =
        (proptest::collection::vec(permission(), 1..3), proptest::collection::vec(principal(), 1..3))
            .prop_map(|(permissions, principals)| Policy { permissions, principals });
    (0..2i32, proptest::collection::vec(policy, 0..3)).prop_map(|(action, policies)| {
        let named = |(at, policy)| (format!("ns[n]-policy[p{}]-rule[{at}]", at % 2), policy);
        Rbac { action, policies: policies.into_iter().enumerate().map(named).collect::<BTreeMap<_, _>>() }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let ips = || {
        select(vec!["10.0.0.1", "10.1.9.9", "192.0.2.1", "2001:db8::1"]).prop_map(|ip| ip.parse().unwrap())
    };
    let claims = prop_oneof![
        Just(None),
        (select(&TEXTS[..]), select(&TEXTS[..]), select(&TEXTS[..])).prop_map(|(a, b, c)| Some(
            json!({ "iss": a, "sub": b, "aud": [b, c], "azp": c, "groups": [a, 1, c], "o": { "p": b } })
        )),
        Just(Some(json!({ "iss": "a", "sub": "b", "groups": {}, "aud": 7, "o": ["p"] }))),
    ];
    (
        id_text(),
        ips(),
        (ips(), select(vec![80u16, 81])),
        select(vec![None, Some("a"), Some("a.b")]),
        (select(vec!["GET", "a", "AB"]), select(vec!["a", "A.b", "b", "ab"])),
        select(&PATHS[..]),
        proptest::option::of(select(&TEXTS[..])),
        claims,
    )
        .prop_map(|(id, ip, destination, sni, (method, authority), path, header, claims)| Request {
            id: SpiffeId::parse(&id).unwrap(),
            ip,
            destination,
            sni,
            method,
            authority,
            path,
            header,
            claims,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_compiled_policy_judges_as_envoy_does(rbac in rbac(), requests in proptest::collection::vec(request(), 6)) {
        for request in requests {
            prop_assert_eq!(we_permit(rbac.clone(), &request), envoy_permits(&rbac, &request), "{:?}", request);
        }
    }

    #[test]
    fn an_identity_is_found_by_the_same_tests(text in peer(), id in id_text()) {
        let state = matcher::FilterStateMatcher {
            key: "io.istio.peer_principal".to_owned(),
            matcher: Some(matcher::filter_state_matcher::Matcher::StringMatch(text)),
        };
        let policy = Policy {
            permissions: vec![Permission { rule: Some(Rule::Any(true)) }],
            principals: vec![Principal { identifier: Some(Identifier::FilterState(state)) }],
        };
        let policies = [("ns[n]-policy[p]-rule[0]".to_owned(), policy)].into_iter().collect();
        let rbac = Rbac { action: 0, policies };
        let request = Request {
            id: SpiffeId::parse(&id).unwrap(),
            ip: "10.0.0.1".parse().unwrap(),
            destination: ("10.0.0.1".parse().unwrap(), 80),
            sni: None,
            method: "GET",
            authority: "a",
            path: "/",
            header: None,
            claims: None,
        };
        prop_assert_eq!(we_permit(rbac.clone(), &request), envoy_permits(&rbac, &request));
    }
}
