//! Random AuthorizationPolicies over a small vocabulary, so that requests of [`super::requests`] meet them often.
//!
//! A principal with `spiffe://` is not among them: it matches nothing in Istio, and the feed of manifests refuses it by name.
//!
//! `{a}` and `{b}` stand for the namespaces of clients, `{ip}` for one client's address and `{vip}` for the Service's: they are
//! known only in the lab. Clients are those of [`super::callers`].

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
    "old/ns/{a}/sa/bot",
    "*d/ns/{a}/sa/bot",
    "old/*",
    "cluster.local/agent/*",
    "*/planner",
    "cluster.local/ns/{a}/sa/bot/*",
    "ns/{a}/sa/bot",
    "cluster.local/ns/{a}",
];
const NAMESPACES: &[&str] = &["{a}", "{b}", "agents*", "*", "nobody", "ns", "a*"];
const ACCOUNTS: &[&str] = &["{a}/bot", "{a}/cat", "{b}/bot", "bot", "nobody/bot", "ns/sa"];
const ADDRESSES: &[&str] = &["{ip}", "10.244.0.0/16", "{ip}/31", "192.0.2.0/24"];
const REQUEST_PRINCIPALS: &[&str] = &["issuer/alice", "issuer/*", "*", "*/bob", "other/alice"];
const TRUST_DOMAINS: &[&str] = &["cluster.local", "cluster.*", "other", "old", "*d", "ns", "*"];
const SERVER_NAMES: &[&str] = &["app.example", "*.example", "app.*", "*", "APP.example", "*example", "x*"];
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

/// A source that every connection has.
const OPAQUE_SOURCE: &[Field] = &[
    ("principals", PRINCIPALS),
    ("notPrincipals", PRINCIPALS),
    ("namespaces", NAMESPACES),
    ("notNamespaces", NAMESPACES),
    ("ipBlocks", ADDRESSES),
    ("trustDomains", TRUST_DOMAINS),
    ("notTrustDomains", TRUST_DOMAINS),
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
    ("connection.sni", SERVER_NAMES),
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

/// What can be asked of opaque bytes.
const OPAQUE_CONDITIONS: &[Field] = &[
    ("connection.sni", SERVER_NAMES),
    ("source.namespace", NAMESPACES),
    ("source.principal", PRINCIPALS),
    ("source.ip", ADDRESSES),
    ("destination.port", PORTS),
];

const OPAQUE_OPERATIONS: &[Field] = &[("ports", PORTS), ("notPorts", PORTS)];

const FACT_CONDITIONS: &[Field] = &[
    (
        "experimental.envoy.filters.http.mcp[method]",
        &["tools/call", "tools/*", "tools/list", "*/list", "prompts/get", "initialize", "p*"],
    ),
    ("experimental.envoy.filters.http.mcp[kind]", &["call", "list", "lifecycle", "l*", "*"]),
    ("experimental.envoy.filters.http.mcp[prompt]", &["triage", "*", "re*"]),
    ("experimental.envoy.filters.http.mcp[resource]", &["file:///public/a", "file:///*", "*"]),
    ("experimental.envoy.filters.http.mcp[protocol_version]", &["2025-06-18", "2025-*", "2026-07-28"]),
    ("experimental.envoy.filters.http.mcp[tool]", &["search_code", "search_*", "*_issue", "*", "drop"]),
    ("experimental.envoy.filters.http.mcp[args.owner]", &["acme", "ac*", "*", "evil"]),
    ("experimental.envoy.filters.http.mcp[args.repo.name]", &["website", "*site", "*"]),
    ("experimental.envoy.filters.http.mcp[args.count]", &["7", "1*", "*"]),
];

/// Those that are asked most: a list shows what they leave.
const TOOL_CONDITIONS: &[Field] = &[
    ("experimental.envoy.filters.http.mcp[tool]", &["search_code", "search_*", "get_issue"]),
    ("experimental.envoy.filters.http.mcp[args.owner]", &["acme", "ac*"]),
];

/// What a Service's policies may ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Requests of any kind.
    Http,
    /// MCP messages as well.
    Mcp,
    /// Connections of opaque bytes. Rules may ask about HTTP nevertheless, as Istio's do on its chains for TCP.
    Opaque,
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
    // Rules of MCP and of connections hold less often: fewer of them leave enough that is permitted.
    let most = if about == About::Http { most } else { most.min(2) };
    vec(policy(about), 0..=most).boxed()
}

fn policy(about: About) -> impl Strategy<Value = Policy> {
    let deny = if about == About::Mcp { 1 } else { 3 };
    let action = prop_oneof![5 => Just("ALLOW"), deny => Just("DENY"), 1 => Just("AUDIT")];
    let most = if about == About::Mcp { 2 } else { 3 };
    let rules = prop_oneof![1 => Just(Vec::new()), 9 => vec(rule(about), 1..=most)];
    (action, prop::bool::weighted(0.1), rules).prop_map(|(action, dry_run, rules)| Policy {
        dry_run,
        action,
        rules,
    })
}

fn rule(about: About) -> impl Strategy<Value = Value> {
    let source = match about {
        About::Http | About::Mcp => prop_oneof![2 => fields(SOURCES[0]), 1 => fields(SOURCES[1])].boxed(),
        About::Opaque => prop_oneof![1 => fields(SOURCES[0]), 2 => fields(OPAQUE_SOURCE)].boxed(),
    };
    // Of MCP, rules that speak of little else, so that their facts decide.
    let often = if about == About::Mcp { 0.2 } else { 0.5 };
    let from = option::weighted(often, vec(source.prop_map(|source| json!({"source": source})), 1..=2));
    let operations = match about {
        About::Http | About::Mcp => fields(OPERATIONS).boxed(),
        About::Opaque => prop_oneof![1 => fields(OPERATIONS), 2 => fields(OPAQUE_OPERATIONS)].boxed(),
    };
    let operation = operations.prop_map(|operation| json!({"operation": operation}));
    let to = option::weighted(often, vec(operation, 1..=2));
    let conditions = match about {
        About::Http => condition(CONDITIONS).boxed(),
        About::Mcp => prop_oneof![
            1 => condition(CONDITIONS),
            3 => condition(FACT_CONDITIONS),
            3 => positive(TOOL_CONDITIONS),
        ]
        .boxed(),
        About::Opaque => prop_oneof![1 => condition(CONDITIONS), 2 => condition(OPAQUE_CONDITIONS)].boxed(),
    };
    let fewest = usize::from(about == About::Mcp);
    (from, to, vec(conditions, fewest..=2)).prop_map(|(from, to, when)| {
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

fn positive(all: &'static [Field]) -> impl Strategy<Value = Value> {
    let values = select(all).prop_flat_map(|(key, values)| (Just(key), some(values)));
    values.prop_map(|(key, values)| json!({"key": key, "values": values}))
}

fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(values, 1..=values.len().min(2))
}
