//! Random policies, requests and facts over a small vocabulary, so that they meet often.

use std::collections::BTreeMap;

use agent_protocols::Kind;
use http::{HeaderMap, HeaderValue};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use waypoint_model::{Action, Expr, PathPattern, Policy, PolicyKey, Rule, StringMatch, Test};

use crate::support::{Http, Request};
use crate::told::{Fact, Told};

const NAMES: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 4] = ["tool", "method", "args.owner", "tool.read_only"];
const NETS: [&str; 5] = ["10.0.0.0/8", "10.0.0.1/32", "10.0.1.0/24", "fd00::/16", "::/0"];

fn matching() -> impl Strategy<Value = StringMatch> {
    select(vec!["a", "b", "ab", "a*", "*b", "*", "c"]).prop_map(StringMatch::parse)
}

fn leaf() -> impl Strategy<Value = Test> {
    let principal = || {
        select(vec!["td/ns/a/sa/a", "td/ns/a/sa/b", "td/ns/b/sa/a", "td/*", "*/sa/a", "*", "other/ns/a/sa/a"])
            .prop_map(|text| Test::Principal(StringMatch::parse(text)))
    };
    let account = (select(&NAMES[..]), select(&NAMES[..])).prop_map(|(namespace, name)| {
        Test::ServiceAccount { namespace: namespace.into(), name: name.into() }
    });
    let net = || select(&NETS[..]).prop_map(|net| net.parse().unwrap());
    let fact = (select(&KEYS[..]), matching()).prop_map(|(key, value)| Test::Fact {
        filter: "http.mcp".into(),
        key: key.into(),
        value,
    });
    let tool = select(&NAMES[..]).prop_map(|name| Test::Fact {
        filter: "http.mcp".into(),
        key: "tool".into(),
        value: StringMatch::Exact(name.into()),
    });
    let path = select(vec!["/a", "/a*", "*/b", "*", "/{*}/b", "/{**}/a"]);
    prop_oneof![
        4 => principal(),
        2 => account,
        1 => matching().prop_map(Test::Namespace),
        1 => select(vec!["td", "other", "*"]).prop_map(|td| Test::TrustDomain(StringMatch::parse(td))),
        1 => net().prop_map(Test::SourceIp),
        1 => net().prop_map(Test::RemoteIp),
        1 => net().prop_map(Test::DestinationIp),
        1 => (80u16..82).prop_map(Test::DestinationPort),
        1 => matching().prop_map(Test::Sni),
        1 => select(vec!["A.B", "a*", "*", "*.b"]).prop_map(|host| Test::Host(StringMatch::parse(host))),
        1 => select(vec!["GET", "POST", "P*"]).prop_map(|method| Test::Method(StringMatch::parse(method))),
        1 => path.prop_map(|path| Test::Path(PathPattern::parse(path).unwrap())),
        2 => (select(vec!["x-a", "x-b"]), matching()).prop_map(|(name, value)| Test::Header { name: name.into(), value }),
        8 => fact,
        2 => tool,
        1 => select(vec!["a/b", "a/*", "*/b", "*", "a"])
            .prop_map(|text| Test::RequestPrincipal(StringMatch::parse(text))),
        1 => matching().prop_map(Test::Audience),
        1 => matching().prop_map(Test::Presenter),
        2 => (select(vec![vec!["c"], vec!["o", "c"], vec!["sub"]]), matching()).prop_map(|(path, value)| {
            Test::Claim { path: path.into_iter().map(str::to_owned).collect(), value }
        }),
    ]
}

/// Any tree, up to 8 leaves.
fn tree() -> impl Strategy<Value = Expr> {
    leaf().prop_map(Expr::Test).prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Expr::All),
            vec(inner.clone(), 0..3).prop_map(Expr::Any),
            inner.prop_map(|part| Expr::Not(Box::new(part))),
        ]
    })
}

/// The shape of an AuthorizationPolicy: `from`, `to` and `when`.
fn manifest() -> impl Strategy<Value = Expr> {
    let values = vec(leaf().prop_map(Expr::Test), 1..3).prop_map(Expr::Any);
    let field = (values, any::<bool>())
        .prop_map(|(values, negated)| if negated { Expr::Not(Box::new(values)) } else { values })
        .boxed();
    let entries = vec(vec(field.clone(), 0..3).prop_map(Expr::All), 1..3).prop_map(Expr::Any);
    (entries, vec(field, 0..2)).prop_map(|(entries, when)| Expr::All(vec![entries, Expr::All(when)]))
}

fn policy() -> impl Strategy<Value = Policy> {
    let action = prop_oneof![1 => Just(Action::Audit), 2 => Just(Action::Deny), 4 => Just(Action::Allow)];
    let rule = prop_oneof![tree(), manifest()];
    (action, prop::bool::weighted(0.25), vec(rule, 0..5)).prop_map(|(action, dry_run, rules)| {
        let rules = rules.into_iter().enumerate().map(|(index, when)| Rule { index, when }).collect();
        Policy { key: PolicyKey::new("ns", ""), action, dry_run, rules, unusable: None }
    })
}

pub(crate) fn policies() -> impl Strategy<Value = Vec<Policy>> {
    vec(policy(), 0..5).prop_map(|mut policies| {
        for (at, policy) in policies.iter_mut().enumerate() {
            policy.key = PolicyKey::new("ns", &at.to_string());
        }
        policies
    })
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let id = select(vec!["td/ns/a/sa/a", "td/ns/a/sa/b", "td/ns/b/sa/a", "other/ns/a/sa/a", "td/ns/ab/sa/c"]);
    let ip =
        || select(vec!["10.0.0.1", "10.0.1.7", "192.0.2.1", "fd00::1"]).prop_map(|ip| ip.parse().unwrap());
    let name = || select(vec!["a", "b", "ab", ""]).prop_map(str::to_owned);
    let http = (
        select(vec!["GET", "POST"]),
        select(vec!["/a", "/a/b", "/b", "/ab/a"]),
        select(vec!["a.b", "A.b", "x", ""]),
        vec(select(vec!["a", "b", "ab", ""]), 0..3),
        option::weighted(0.8, claims()),
    );
    let http = http.prop_map(|(method, path, authority, lines, claims)| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-a", HeaderValue::from_static(line));
        }
        Http { method: method.into(), path: path.into(), authority: authority.into(), headers, claims }
    });
    let stream = (option::weighted(0.9, id), ip(), ip(), option::of(ip()), 80u16..82, option::of(name()));
    (stream, http).prop_map(|((id, ip, remote_ip, destination_ip, port, sni), http)| Request {
        identity: id.map(|id| format!("spiffe://{id}").parse().unwrap()),
        ip,
        remote_ip,
        destination_ip,
        port,
        sni,
        http: Some(http),
    })
}

/// The payload of a token. Names and values meet those that rules ask for.
fn claims() -> impl Strategy<Value = Value> {
    let text = || select(vec!["a", "b", "ab", ""]).prop_map(Value::from);
    let value = || {
        prop_oneof![
            3 => text(),
            2 => vec(prop_oneof![3 => text(), 1 => Just(json!(1))], 0..3).prop_map(Value::from),
            1 => select(vec![json!(1), json!(true), json!(null), json!({"a": "a"})]),
        ]
    };
    let inner = btree_map(Just("c".to_owned()), value(), 0..2);
    let outer =
        btree_map(select(vec!["iss", "sub", "aud", "azp", "c"]).prop_map(str::to_owned), value(), 0..5);
    (outer, option::of(inner)).prop_map(|(outer, inner)| {
        let inner = inner.map(|inner| ("o".to_owned(), inner.into_iter().collect()));
        outer.into_iter().chain(inner).collect()
    })
}

fn fact() -> impl Strategy<Value = Fact> {
    let values = vec(select(vec!["a", "b", "ab", "", "d"]).prop_map(str::to_owned), 0..3);
    prop_oneof![1 => Just(Fact::NotYet), 4 => values.prop_map(Fact::Values)]
}

pub(crate) fn told() -> impl Strategy<Value = Told> {
    let kind = select(vec![Kind::Call, Kind::List, Kind::Lifecycle, Kind::Response, Kind::Plain]);
    let facts = btree_map(select(&KEYS[..]).prop_map(str::to_owned), fact(), 0..5);
    (kind, facts).prop_map(|(kind, facts)| Told { kind, facts })
}

/// What may become of facts that are still open.
pub(crate) fn completion() -> impl Strategy<Value = BTreeMap<String, Fact>> {
    vec(fact(), KEYS.len()).prop_map(|facts| KEYS.map(str::to_owned).into_iter().zip(facts).collect())
}
