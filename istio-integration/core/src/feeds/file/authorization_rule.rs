//! Rules of an AuthorizationPolicy into a tree: all of (any `from`), (any `to`), (all `when`); within a source or an
//! operation all fields, within a field any value, and for a `not…` field none of its values.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use waypoint_model::{Expr, PathPattern, StringMatch, Test};

use super::condition::{self, WrittenCondition};
use super::finding::Remarks;
use super::options::Options;
use super::request_principal::request_principal;
use super::trust_domain::{expand_domain, expand_principal};

/// What the meaning of a value depends on beside itself.
pub(super) struct Context<'a> {
    /// Namespace of the policy, which a ServiceAccount without one is in.
    pub(super) namespace: &'a str,
    pub(super) options: &'a Options,
}

#[derive(Deserialize)]
pub(super) struct WrittenRule {
    from: Option<Vec<From>>,
    to: Option<Vec<To>>,
    when: Option<Vec<WrittenCondition>>,
}

#[derive(Deserialize)]
struct From {
    source: Source,
}

#[derive(Deserialize)]
struct To {
    operation: Operation,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Source {
    principals: Option<Vec<String>>,
    not_principals: Option<Vec<String>>,
    request_principals: Option<Vec<String>>,
    not_request_principals: Option<Vec<String>>,
    namespaces: Option<Vec<String>>,
    not_namespaces: Option<Vec<String>>,
    service_accounts: Option<Vec<String>>,
    not_service_accounts: Option<Vec<String>>,
    trust_domains: Option<Vec<String>>,
    not_trust_domains: Option<Vec<String>>,
    ip_blocks: Option<Vec<String>>,
    not_ip_blocks: Option<Vec<String>>,
    remote_ip_blocks: Option<Vec<String>>,
    not_remote_ip_blocks: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Operation {
    hosts: Option<Vec<String>>,
    not_hosts: Option<Vec<String>>,
    ports: Option<Vec<String>>,
    not_ports: Option<Vec<String>>,
    methods: Option<Vec<String>>,
    not_methods: Option<Vec<String>>,
    paths: Option<Vec<String>>,
    not_paths: Option<Vec<String>>,
}

/// Reads one value of a field: the expressions of which any must hold, or what is wrong with it.
pub(super) type ReadValue = fn(&str, &Context<'_>) -> Result<Vec<Expr>, String>;

/// Translates one rule; `path` is where it stands. After an error the tree means nothing.
pub(super) fn translate(
    rule: &WrittenRule,
    path: &str,
    context: &Context<'_>,
    remarks: &mut Remarks,
) -> Expr {
    let mut parts = Vec::new();
    if let Some(from) = &rule.from {
        let path = format!("{path}.from");
        let any = from
            .iter()
            .enumerate()
            .map(|(index, from)| source(&from.source, &format!("{path}[{index}].source"), context, remarks));
        let any: Vec<Expr> = any.collect();
        parts.push(not_empty(any, &path, remarks));
    }
    if let Some(to) = &rule.to {
        let path = format!("{path}.to");
        let any = to.iter().enumerate().map(|(index, to)| {
            operation(&to.operation, &format!("{path}[{index}].operation"), context, remarks)
        });
        let any: Vec<Expr> = any.collect();
        parts.push(not_empty(any, &path, remarks));
    }
    for (index, written) in rule.when.iter().flatten().enumerate() {
        parts.push(condition::translate(written, &format!("{path}.when[{index}]"), context, remarks));
    }
    Expr::All(parts)
}

fn not_empty(any: Vec<Expr>, path: &str, remarks: &mut Remarks) -> Expr {
    if any.is_empty() {
        remarks.error(path, "is empty: remove it to match anything, or list what it matches");
    }
    Expr::Any(any)
}

fn source(source: &Source, path: &str, context: &Context<'_>, remarks: &mut Remarks) -> Expr {
    for (account, other, twin) in [
        ("serviceAccounts", "principals", (&source.service_accounts, &source.principals)),
        ("serviceAccounts", "namespaces", (&source.service_accounts, &source.namespaces)),
        ("notServiceAccounts", "notPrincipals", (&source.not_service_accounts, &source.not_principals)),
        ("notServiceAccounts", "notNamespaces", (&source.not_service_accounts, &source.not_namespaces)),
    ] {
        if twin.0.is_some() && twin.1.is_some() {
            remarks.error(
                format!("{path}.{account}"),
                format!("cannot stand beside {other}: remove one of them"),
            );
        }
    }
    let fields: [(&str, &Option<Vec<String>>, ReadValue); 14] = [
        ("requestPrincipals", &source.request_principals, request_principals),
        ("notRequestPrincipals", &source.not_request_principals, request_principals),
        ("principals", &source.principals, principal),
        ("notPrincipals", &source.not_principals, principal),
        ("namespaces", &source.namespaces, namespace),
        ("notNamespaces", &source.not_namespaces, namespace),
        ("serviceAccounts", &source.service_accounts, service_account),
        ("notServiceAccounts", &source.not_service_accounts, service_account),
        ("trustDomains", &source.trust_domains, trust_domain),
        ("notTrustDomains", &source.not_trust_domains, trust_domain),
        ("ipBlocks", &source.ip_blocks, source_ip),
        ("notIpBlocks", &source.not_ip_blocks, source_ip),
        ("remoteIpBlocks", &source.remote_ip_blocks, remote_ip),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks, remote_ip),
    ];
    all_fields(&fields, path, context, remarks)
}

fn operation(operation: &Operation, path: &str, context: &Context<'_>, remarks: &mut Remarks) -> Expr {
    let fields: [(&str, &Option<Vec<String>>, ReadValue); 8] = [
        ("hosts", &operation.hosts, |text, _| Ok(vec![Expr::Test(Test::Host(StringMatch::parse(text)))])),
        ("notHosts", &operation.not_hosts, |text, _| {
            Ok(vec![Expr::Test(Test::Host(StringMatch::parse(text)))])
        }),
        ("ports", &operation.ports, destination_port),
        ("notPorts", &operation.not_ports, destination_port),
        ("methods", &operation.methods, |text, _| {
            Ok(vec![Expr::Test(Test::Method(StringMatch::parse(text)))])
        }),
        ("notMethods", &operation.not_methods, |text, _| {
            Ok(vec![Expr::Test(Test::Method(StringMatch::parse(text)))])
        }),
        ("paths", &operation.paths, path_pattern),
        ("notPaths", &operation.not_paths, path_pattern),
    ];
    all_fields(&fields, path, context, remarks)
}

fn all_fields(
    fields: &[(&str, &Option<Vec<String>>, ReadValue)],
    path: &str,
    context: &Context<'_>,
    remarks: &mut Remarks,
) -> Expr {
    let mut parts = Vec::new();
    for (name, values, read) in fields {
        let Some(values) = values else { continue };
        let any = any_value(values, &format!("{path}.{name}"), context, *read, remarks);
        parts.push(if name.starts_with("not") { Expr::Not(Box::new(any)) } else { any });
    }
    if parts.is_empty() {
        remarks.error(path, "says nothing: name at least one field");
    }
    Expr::All(parts)
}

/// Any of a field's values. An empty list is an error: it would match nothing, and its `not…` twin everything.
pub(super) fn any_value(
    values: &[String],
    path: &str,
    context: &Context<'_>,
    read: impl Fn(&str, &Context<'_>) -> Result<Vec<Expr>, String>,
    remarks: &mut Remarks,
) -> Expr {
    if values.is_empty() {
        remarks.error(path, "is empty: list a value or remove it");
    }
    let mut any = Vec::new();
    for (index, value) in values.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if value.is_empty() {
            remarks.error(path, "is an empty text");
            continue;
        }
        match read(value, context) {
            Ok(read) => {
                warn_of_literal_star(value, &read, &path, remarks);
                any.extend(read);
            }
            Err(why) => remarks.error(path, why),
        }
    }
    Expr::Any(any)
}

/// Istio knows `*` at one end only; elsewhere it is a character, and such a DENY rule would hardly ever match.
fn warn_of_literal_star(value: &str, read: &[Expr], path: &str, remarks: &mut Remarks) {
    if matches!(read, [Expr::Test(Test::Path(PathPattern::Template(_))), ..]) {
        return;
    }
    let body = value.strip_suffix('*').or_else(|| value.strip_prefix('*')).unwrap_or(value);
    if body.contains('*') {
        remarks.warning(
            path,
            format!("`{value}`: only one `*` at one end is a wildcard, another is a plain character"),
        );
    }
}

pub(super) fn principal(text: &str, context: &Context<'_>) -> Result<Vec<Expr>, String> {
    if text.contains("://") {
        return Err(format!("`{text}`: write the principal without its scheme, td/ns/x/sa/y"));
    }
    let expanded = expand_principal(text, context.options).into_iter();
    Ok(expanded.map(|one| Expr::Test(Test::Principal(StringMatch::parse(&one)))).collect())
}

pub(super) fn request_principals(text: &str, _: &Context<'_>) -> Result<Vec<Expr>, String> {
    Ok(vec![request_principal(text)])
}

pub(super) fn namespace(text: &str, _: &Context<'_>) -> Result<Vec<Expr>, String> {
    if text.contains('/') {
        return Err(format!("`{text}` is no namespace"));
    }
    Ok(vec![Expr::Test(Test::Namespace(StringMatch::parse(text)))])
}

pub(super) fn service_account(text: &str, context: &Context<'_>) -> Result<Vec<Expr>, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((context.namespace, text));
    if text.contains('*') {
        return Err(format!("`{text}`: a ServiceAccount takes no wildcard; write namespaces or principals"));
    }
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(format!("`{text}` is no ServiceAccount: write name or namespace/name"));
    }
    Ok(vec![Expr::Test(Test::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })])
}

pub(super) fn trust_domain(text: &str, context: &Context<'_>) -> Result<Vec<Expr>, String> {
    if text.contains('/') {
        return Err(format!("`{text}` is no trust domain"));
    }
    let expanded = expand_domain(text, context.options).into_iter();
    Ok(expanded.map(|one| Expr::Test(Test::TrustDomain(StringMatch::parse(&one)))).collect())
}

pub(super) fn source_ip(text: &str, _: &Context<'_>) -> Result<Vec<Expr>, String> {
    ip_block(text).map(|net| vec![Expr::Test(Test::SourceIp(net))])
}

pub(super) fn remote_ip(text: &str, _: &Context<'_>) -> Result<Vec<Expr>, String> {
    ip_block(text).map(|net| vec![Expr::Test(Test::RemoteIp(net))])
}

pub(super) fn destination_ip(text: &str, _: &Context<'_>) -> Result<Vec<Expr>, String> {
    ip_block(text).map(|net| vec![Expr::Test(Test::DestinationIp(net))])
}

fn ip_block(text: &str) -> Result<IpNet, String> {
    let net =
        if text.contains('/') { text.parse().ok() } else { text.parse::<IpAddr>().ok().map(IpNet::from) };
    net.ok_or_else(|| format!("`{text}` is neither an IP address nor a CIDR block"))
}

pub(super) fn destination_port(text: &str, _: &Context<'_>) -> Result<Vec<Expr>, String> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 && !text.starts_with('+') => Ok(vec![Expr::Test(Test::DestinationPort(port))]),
        _ => Err(format!("`{text}` is no port (1 to 65535)")),
    }
}

fn path_pattern(text: &str, _: &Context<'_>) -> Result<Vec<Expr>, String> {
    if !text.starts_with(['/', '*']) {
        return Err(format!("`{text}` matches no path: a path starts with `/`"));
    }
    let pattern = PathPattern::parse(text).map_err(|error| format!("`{text}`: {error}"))?;
    Ok(vec![Expr::Test(Test::Path(pattern))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::fields;
    use crate::feeds::file::{Options, Severity};

    fn read(rule: &str) -> (Expr, Remarks) {
        let mut remarks = Remarks::default();
        let written: WrittenRule = serde_saphyr::from_str(rule).unwrap();
        let options = Options { trust_domain_aliases: vec!["old".to_owned()], ..Options::default() };
        let context = Context { namespace: "tools", options: &options };
        (translate(&written, "r", &context, &mut remarks), remarks)
    }

    fn any(tests: impl IntoIterator<Item = Test>) -> Expr {
        Expr::Any(tests.into_iter().map(Expr::Test).collect())
    }

    fn not(expr: Expr) -> Expr {
        Expr::Not(Box::new(expr))
    }

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.to_owned())
    }

    #[test]
    fn a_rule_is_all_of_any_from_any_to_and_each_when() {
        let (got, remarks) = read(
            "{from: [{source: {namespaces: [a, b], notNamespaces: [c]}}, {source: {namespaces: [d]}}], \
             to: [{operation: {methods: [GET], ports: ['80']}}], \
             when: [{key: source.namespace, values: [e]}, {key: source.namespace, notValues: [f]}]}",
        );
        assert_eq!(remarks, Remarks::default());
        let namespace = |name: &str| Test::Namespace(exact(name));
        let sources = Expr::Any(vec![
            Expr::All(vec![any([namespace("a"), namespace("b")]), not(any([namespace("c")]))]),
            Expr::All(vec![any([namespace("d")])]),
        ]);
        let operations = Expr::Any(vec![Expr::All(vec![
            any([Test::DestinationPort(80)]),
            any([Test::Method(exact("GET"))]),
        ])]);
        let when = [Expr::All(vec![any([namespace("e")])]), Expr::All(vec![not(any([namespace("f")]))])];
        let want = [sources, operations].into_iter().chain(when).collect();
        assert_eq!(got, Expr::All(want));
    }

    #[test]
    fn an_empty_rule_matches_everything() {
        assert_eq!(read("{}"), (Expr::All(vec![]), Remarks::default()));
    }

    #[test]
    fn every_field_has_its_test_and_a_not_twin() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let rows = [
            ("principals", "'*'", vec![Test::Principal(StringMatch::Present)]),
            (
                "principals",
                "x/ns/a/sa/*",
                vec![Test::Principal(StringMatch::Prefix("x/ns/a/sa/".to_owned()))],
            ),
            (
                "principals",
                "cluster.local/ns/a/sa/b",
                vec![
                    Test::Principal(exact("cluster.local/ns/a/sa/b")),
                    Test::Principal(exact("old/ns/a/sa/b")),
                ],
            ),
            ("namespaces", "team-*", vec![Test::Namespace(StringMatch::Prefix("team-".to_owned()))]),
            (
                "serviceAccounts",
                "b",
                vec![Test::ServiceAccount { namespace: "tools".into(), name: "b".into() }],
            ),
            (
                "serviceAccounts",
                "a/b",
                vec![Test::ServiceAccount { namespace: "a".into(), name: "b".into() }],
            ),
            (
                "trustDomains",
                "old",
                vec![Test::TrustDomain(exact("cluster.local")), Test::TrustDomain(exact("old"))],
            ),
            ("ipBlocks", "10.0.0.1", vec![Test::SourceIp(net("10.0.0.1/32"))]),
            ("ipBlocks", "'fd00::/8'", vec![Test::SourceIp(net("fd00::/8"))]),
            ("remoteIpBlocks", "10.0.0.0/8", vec![Test::RemoteIp(net("10.0.0.0/8"))]),
            ("hosts", "'*.example'", vec![Test::Host(StringMatch::Suffix(".example".to_owned()))]),
            ("ports", "'8080'", vec![Test::DestinationPort(8080)]),
            ("methods", "POST", vec![Test::Method(exact("POST"))]),
            ("paths", "/mcp", vec![Test::Path(PathPattern::Text(exact("/mcp")))]),
            ("paths", "'/a/{*}'", vec![Test::Path(PathPattern::parse("/a/{*}").unwrap())]),
        ];
        for (field, value, tests) in rows {
            let (list, part) = match field {
                "hosts" | "ports" | "methods" | "paths" => ("to", "operation"),
                _ => ("from", "source"),
            };
            let mut chars = field.chars();
            let twin = format!("not{}{}", chars.next().unwrap().to_ascii_uppercase(), chars.as_str());
            for (name, want) in [(field, any(tests.clone())), (twin.as_str(), not(any(tests.clone())))] {
                let (got, remarks) = read(&format!("{{{list}: [{{{part}: {{{name}: [{value}]}}}}]}}"));
                assert_eq!(remarks, Remarks::default(), "{name} {value}");
                assert_eq!(got, Expr::All(vec![Expr::Any(vec![Expr::All(vec![want])])]), "{name} {value}");
            }
        }
    }

    #[test]
    fn request_principals_are_issuer_and_subject() {
        let either = || Expr::Any(vec![request_principal("a/b"), request_principal("c/*")]);
        for (field, want) in [("requestPrincipals", either()), ("notRequestPrincipals", not(either()))] {
            let (got, remarks) = read(&format!("{{from: [{{source: {{{field}: [a/b, c/*]}}}}]}}"));
            assert_eq!(remarks, Remarks::default());
            assert_eq!(got, Expr::All(vec![Expr::Any(vec![Expr::All(vec![want])])]));
        }
    }

    #[test]
    fn invalid_values_are_errors_by_their_path() {
        let rows = [
            ("{from: []}", "r.from"),
            ("{to: []}", "r.to"),
            ("{from: [{source: {}}]}", "r.from[0].source"),
            ("{to: [{operation: {}}]}", "r.to[0].operation"),
            ("{from: [{source: {principals: []}}]}", "r.from[0].source.principals"),
            ("{from: [{source: {notPrincipals: ['']}}]}", "r.from[0].source.notPrincipals[0]"),
            ("{from: [{source: {principals: ['spiffe://a/ns/b/sa/c']}}]}", "r.from[0].source.principals[0]"),
            ("{from: [{source: {requestPrincipals: []}}]}", "r.from[0].source.requestPrincipals"),
            ("{from: [{source: {notRequestPrincipals: ['']}}]}", "r.from[0].source.notRequestPrincipals[0]"),
            ("{from: [{source: {serviceAccounts: ['a/*']}}]}", "r.from[0].source.serviceAccounts[0]"),
            ("{from: [{source: {serviceAccounts: ['a/b/c']}}]}", "r.from[0].source.serviceAccounts[0]"),
            (
                "{from: [{source: {serviceAccounts: [b], namespaces: [a]}}]}",
                "r.from[0].source.serviceAccounts",
            ),
            (
                "{from: [{source: {serviceAccounts: [b], principals: [a]}}]}",
                "r.from[0].source.serviceAccounts",
            ),
            ("{from: [{source: {ipBlocks: ['10.0.0.0/33']}}]}", "r.from[0].source.ipBlocks[0]"),
            ("{from: [{source: {remoteIpBlocks: [host]}}]}", "r.from[0].source.remoteIpBlocks[0]"),
            ("{from: [{source: {namespaces: ['a/b']}}]}", "r.from[0].source.namespaces[0]"),
            ("{to: [{operation: {ports: ['0']}}]}", "r.to[0].operation.ports[0]"),
            ("{to: [{operation: {ports: ['http']}}]}", "r.to[0].operation.ports[0]"),
            ("{to: [{operation: {paths: ['mcp']}}]}", "r.to[0].operation.paths[0]"),
            ("{to: [{operation: {notPaths: ['/{**}/{*}']}}]}", "r.to[0].operation.notPaths[0]"),
        ];
        for (rule, field) in rows {
            let (_, remarks) = read(rule);
            let got = fields(&remarks);
            assert!(got.contains(&(Severity::Error, field.to_owned())), "{rule}: {got:?}");
        }
    }

    #[test]
    fn a_star_in_the_middle_is_warned_of() {
        let (_, remarks) =
            read("{to: [{operation: {paths: ['/a*/b', '/a*', '*b', '/{*}'], hosts: ['*a*']}}]}");
        let want = ["r.to[0].operation.hosts[0]", "r.to[0].operation.paths[0]"];
        assert_eq!(fields(&remarks), want.map(|field| (Severity::Warning, field.to_owned())));
    }
}
