//! Random AuthorizationPolicies over a small vocabulary, so that requests of [`super::requests`] meet them often.
//!
//! A principal with `spiffe://` is not among them: it matches nothing in Istio, and the feed of manifests refuses it by name.
//!
//! `{a}` and `{b}` stand for the namespaces of clients, `{tools}` for the waypoint's, `{ip}` for one client's address and
//! `{vip}` for the Service's: they are known only in the lab.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// A field and the values that it may list.
type Field = (&'static str, &'static [&'static str]);

const PRINCIPALS: &[&str] = &[
    "cluster.local/ns/{a}/sa/bot",
    "cluster.local/ns/{b}/sa/bot",
    "cluster.local/ns/{a}/*",
    "*/sa/bot",
    "*/sa/cat",
    "*",
    "other/ns/{a}/sa/bot",
];
const NAMESPACES: &[&str] = &["{a}", "{b}", "agents*", "*", "nobody"];
const ACCOUNTS: &[&str] = &["{a}/bot", "{a}/cat", "{b}/bot", "bot", "nobody/bot"];
const ADDRESSES: &[&str] = &["{ip}", "10.244.0.0/16", "{ip}/31", "192.0.2.0/24"];
const REQUEST_PRINCIPALS: &[&str] = &["issuer/alice", "issuer/*", "*", "*/bob", "other/alice"];
const TRUST_DOMAINS: &[&str] = &["cluster.local", "cluster.*", "other"];
const HOSTS: &[&str] =
    &["app.example", "*.example", "APP.example", "app.*", "*", "app.example:*", "app.example:80"];
const PORTS: &[&str] = &["80", "8080"];
const METHODS: &[&str] = &["GET", "POST", "*", "P*", "DELETE", "get"];
const PATHS: &[&str] =
    &["/a", "/a/*", "/a*", "*/b", "*", "/api/{*}/x", "/api/{**}", "/{*}", "/{**}/x", "/A", "/a/b", "/mcp"];

/// A source names a ServiceAccount, or a principal or namespace: Istio refuses both in one.
const SOURCES: [&[Field]; 2] = [
    &[
        ("principals", PRINCIPALS),
        ("notPrincipals", PRINCIPALS),
        ("namespaces", NAMESPACES),
        ("notNamespaces", NAMESPACES),
        ("ipBlocks", ADDRESSES),
        ("notIpBlocks", ADDRESSES),
        ("requestPrincipals", REQUEST_PRINCIPALS),
        ("notRequestPrincipals", REQUEST_PRINCIPALS),
        ("trustDomains", TRUST_DOMAINS),
        ("notTrustDomains", TRUST_DOMAINS),
    ],
    &[
        ("serviceAccounts", ACCOUNTS),
        ("notServiceAccounts", ACCOUNTS),
        ("ipBlocks", ADDRESSES),
        ("requestPrincipals", REQUEST_PRINCIPALS),
    ],
];

const OPERATIONS: &[Field] = &[
    ("hosts", HOSTS),
    ("notHosts", HOSTS),
    ("ports", PORTS),
    ("notPorts", PORTS),
    ("methods", METHODS),
    ("notMethods", METHODS),
    ("paths", PATHS),
    ("notPaths", PATHS),
];

const CONDITIONS: &[Field] = &[
    ("request.headers[x-a]", &["a", "a*", "*b", "*", "A"]),
    ("request.headers[X-B]", &["b", "*"]),
    ("source.ip", ADDRESSES),
    ("source.namespace", NAMESPACES),
    ("source.principal", PRINCIPALS),
    ("destination.ip", &["{vip}", "10.96.0.0/16", "192.0.2.1"]),
    ("destination.port", PORTS),
    ("request.auth.principal", REQUEST_PRINCIPALS),
    ("request.auth.audiences", &["tools", "to*", "*", "other"]),
    ("request.auth.presenter", &["desk", "*"]),
    ("request.auth.claims[groups]", &["eng", "e*", "*", "ops"]),
    ("request.auth.claims[realm][roles]", &["admin", "*"]),
    ("request.auth.claims[email]", &["*@acme.example", "alice@*"]),
];

/// Keys of facts about an MCP message; [`super::requests::Call::facts`] tells their values.
pub(crate) const FACTS: [&str; 5] = ["method", "tool", "args.owner", "args.repo.name", "args.count"];

const FACT_CONDITIONS: &[Field] = &[
    ("experimental.envoy.filters.http.mcp[method]", &["tools/call", "tools/*", "tools/list"]),
    ("experimental.envoy.filters.http.mcp[tool]", &["search_code", "search_*", "*_issue", "*", "drop"]),
    ("experimental.envoy.filters.http.mcp[args.owner]", &["acme", "ac*", "*", "evil"]),
    ("experimental.envoy.filters.http.mcp[args.repo.name]", &["website", "*site", "*"]),
    ("experimental.envoy.filters.http.mcp[args.count]", &["7", "1*", "*"]),
];

/// What a Service's policies may ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Requests of any kind.
    Http,
    /// Calls of tools as well.
    Mcp,
}

/// One AuthorizationPolicy without names and targets.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) dry_run: bool,
    pub(crate) action: &'static str,
    pub(crate) rules: Vec<Value>,
}

/// The policies of one target.
pub(crate) fn policies(about: About, most: usize) -> BoxedStrategy<Vec<Policy>> {
    vec(policy(about), 0..=most).boxed()
}

fn policy(about: About) -> impl Strategy<Value = Policy> {
    let action = prop_oneof![5 => Just("ALLOW"), 3 => Just("DENY"), 1 => Just("AUDIT")];
    let rules = prop_oneof![1 => Just(Vec::new()), 9 => vec(rule(about), 1..=3)];
    (action, prop::bool::weighted(0.1), rules).prop_map(|(action, dry_run, rules)| Policy {
        dry_run,
        action,
        rules,
    })
}

fn rule(about: About) -> impl Strategy<Value = Value> {
    let source = prop_oneof![2 => fields(SOURCES[0]), 1 => fields(SOURCES[1])];
    let from = option::weighted(0.5, vec(source.prop_map(|source| json!({"source": source})), 1..=2));
    let operation = fields(OPERATIONS).prop_map(|operation| json!({"operation": operation}));
    let to = option::weighted(0.5, vec(operation, 1..=2));
    let conditions = match about {
        About::Http => condition(CONDITIONS).boxed(),
        About::Mcp => prop_oneof![1 => condition(CONDITIONS), 4 => condition(FACT_CONDITIONS)].boxed(),
    };
    (from, to, vec(conditions, 0..=2)).prop_map(|(from, to, when)| {
        let mut rule = Map::new();
        rule.extend(from.map(|from| ("from".to_owned(), Value::from(from))));
        rule.extend(to.map(|to| ("to".to_owned(), Value::from(to))));
        rule.extend((!when.is_empty()).then(|| ("when".to_owned(), Value::from(when))));
        rule.into()
    })
}

/// One or two fields with their values.
fn fields(all: &'static [Field]) -> impl Strategy<Value = Value> {
    let values = select(all).prop_flat_map(|(name, values)| (Just(name), some(values)));
    vec(values, 1..=2).prop_map(|fields| {
        fields
            .into_iter()
            .map(|(name, values)| (name.to_owned(), Value::from(values)))
            .collect::<Map<_, _>>()
            .into()
    })
}

fn condition(all: &'static [Field]) -> impl Strategy<Value = Value> {
    let list = |values| btree_map(select(&["values", "notValues"][..]), some(values), 1..=2);
    select(all).prop_flat_map(move |(key, values)| (Just(key), list(values))).prop_map(|(key, lists)| {
        let mut condition = Map::from_iter([("key".to_owned(), key.into())]);
        condition.extend(lists.into_iter().map(|(name, values)| (name.to_owned(), Value::from(values))));
        condition.into()
    })
}

fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(values, 1..=values.len().min(2))
}
