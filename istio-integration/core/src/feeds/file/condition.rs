//! `when` of an AuthorizationPolicy: a key and the values it may or may not have.

use serde::Deserialize;
use waypoint_model::{Expr, StringMatch, Test};

use super::authorization_rule::{
    Context, ReadValue, any_value, destination_ip, destination_port, namespace, principal, remote_ip,
    request_principals, service_account, source_ip, trust_domain,
};
use super::finding::Remarks;
use super::request_principal::claim_path;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WrittenCondition {
    key: String,
    values: Option<Vec<String>>,
    not_values: Option<Vec<String>>,
}

/// What a key asks about.
enum Key<'a> {
    /// An attribute with its own reading of values.
    Attribute(ReadValue),
    /// A request header, in lower case.
    Header(String),
    /// A claim of the request's token, by names from the payload inwards.
    Claim(Vec<String>),
    /// A protocol's fact: filter and key.
    Fact(&'a str, &'a str),
}

/// The prefix by which Istio passes a filter's facts through unread.
const FACTS: &str = "experimental.envoy.filters.";

/// Filters whose facts this waypoint's readers tell.
const FILTERS: [&str; 2] = ["http.mcp", "http.a2a"];

/// What the key of an expression begins with; its value is `true` or `false`.
const CONDITION: &str = "cel:";

/// Translates one condition; `path` is where it stands. After an error the tree means nothing.
pub(super) fn translate(
    written: &WrittenCondition,
    path: &str,
    context: &Context<'_>,
    remarks: &mut Remarks,
) -> Expr {
    let key = match key(&written.key, context) {
        Ok(key) => key,
        Err(why) => {
            remarks.error(format!("{path}.key"), format!("`{}` {why}", written.key));
            return Expr::All(Vec::new());
        }
    };
    if written.values.is_none() && written.not_values.is_none() {
        remarks.error(path, "says nothing: list values or notValues");
    }
    let mut any = |values: &[String], name: &str| {
        any_value(
            values,
            &format!("{path}.{name}"),
            context,
            |text, context| key.test(text, context),
            remarks,
        )
    };
    let is = written.values.as_ref().map(|values| any(values, "values"));
    let is_not = written.not_values.as_ref().map(|values| Expr::Not(Box::new(any(values, "notValues"))));
    Expr::All(is.into_iter().chain(is_not).collect())
}

impl Key<'_> {
    fn test(&self, text: &str, context: &Context<'_>) -> Result<Vec<Expr>, String> {
        let one = match self {
            Key::Attribute(read) => return read(text, context),
            Key::Header(name) => Test::Header { name: name.clone(), value: header_value(text) },
            Key::Claim(path) => Test::Claim { path: path.clone(), value: StringMatch::parse(text) },
            Key::Fact(_, key) if key.starts_with(CONDITION) && text != "true" && text != "false" => {
                return Err(format!("`{text}` is no answer of a condition: write \"true\" or \"false\""));
            }
            Key::Fact(filter, key) => Test::Fact {
                filter: (*filter).to_owned(),
                key: (*key).to_owned(),
                value: StringMatch::parse(element(text)),
            },
        };
        Ok(vec![Expr::Test(one)])
    }
}

/// Of a header `*` asks whether it is there, were it empty (Envoy's `present_match`); elsewhere `*` is no empty text.
fn header_value(text: &str) -> StringMatch {
    match text {
        "*" => StringMatch::Prefix(String::new()),
        other => StringMatch::parse(other),
    }
}

/// `[v]` asks Envoy whether a list holds `v`; here a list matches by its elements anyway.
fn element(text: &str) -> &str {
    text.strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .filter(|text| !text.is_empty())
        .unwrap_or(text)
}

fn key<'a>(text: &'a str, context: &Context<'_>) -> Result<Key<'a>, String> {
    let attribute: ReadValue = match text {
        "source.ip" => source_ip,
        "remote.ip" => remote_ip,
        "source.namespace" => namespace,
        "source.principal" => principal,
        "source.serviceAccount" => service_account,
        "source.trustDomain" => trust_domain,
        "destination.ip" => destination_ip,
        "destination.port" => destination_port,
        "connection.sni" => |text, _| Ok(vec![Expr::Test(Test::Sni(StringMatch::parse(text)))]),
        "request.auth.principal" => request_principals,
        "request.auth.audiences" => |text, _| Ok(vec![Expr::Test(Test::Audience(StringMatch::parse(text)))]),
        "request.auth.presenter" => |text, _| Ok(vec![Expr::Test(Test::Presenter(StringMatch::parse(text)))]),
        _ => return bracketed(text, context),
    };
    Ok(Key::Attribute(attribute))
}

fn bracketed<'a>(text: &'a str, context: &Context<'_>) -> Result<Key<'a>, String> {
    if let Some(brackets) = text.strip_prefix("request.auth.claims") {
        return claim_path(brackets).map(Key::Claim);
    }
    // Up to the last bracket, as istiod reads it: an argument's path or a CEL condition may hold brackets itself.
    let parts = text.split_once('[').and_then(|(name, rest)| Some((name, rest.strip_suffix(']')?)));
    match parts {
        Some(("request.headers", name)) => header(name),
        Some((name, fact)) => match name.strip_prefix(FACTS) {
            Some(filter) => check_fact(filter, fact, context),
            None => Err("is not a key that this waypoint knows".to_owned()),
        },
        None => Err("is not a key that this waypoint knows".to_owned()),
    }
}

fn header<'a>(name: &str) -> Result<Key<'a>, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err("names no header".to_owned());
    }
    Ok(Key::Header(name.to_ascii_lowercase()))
}

fn check_fact<'a>(filter: &'a str, fact: &'a str, context: &Context<'_>) -> Result<Key<'a>, String> {
    if fact.is_empty() {
        return Err("names no fact between its brackets".to_owned());
    }
    match context.options.fact_check {
        Some(check) => check(filter, fact)?,
        None if FILTERS.contains(&filter) => {}
        None => {
            return Err(format!(
                "asks filter {filter}, which this waypoint has not: {}",
                FILTERS.join(" and ")
            ));
        }
    }
    Ok(Key::Fact(filter, fact))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::fields;
    use crate::feeds::file::{Options, Severity};

    fn read(condition: &str, options: &Options) -> (Expr, Remarks) {
        let mut remarks = Remarks::default();
        let written: WrittenCondition = serde_saphyr::from_str(condition).unwrap();
        let context = Context { namespace: "tools", options };
        (translate(&written, "w", &context, &mut remarks), remarks)
    }

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.to_owned())
    }

    #[test]
    fn every_key_has_its_test() {
        let fact =
            |filter: &str, key: &str, value| Test::Fact { filter: filter.into(), key: key.into(), value };
        let rows = [
            ("request.headers[X-Team]", "a", Test::Header { name: "x-team".into(), value: exact("a") }),
            (
                "request.headers[X-Team]",
                "'*'",
                Test::Header { name: "x-team".into(), value: StringMatch::Prefix(String::new()) },
            ),
            ("source.ip", "10.0.0.0/8", Test::SourceIp("10.0.0.0/8".parse().unwrap())),
            ("remote.ip", "10.0.0.1", Test::RemoteIp("10.0.0.1/32".parse().unwrap())),
            ("source.namespace", "a", Test::Namespace(exact("a"))),
            ("source.principal", "x/ns/a/sa/b", Test::Principal(exact("x/ns/a/sa/b"))),
            (
                "source.serviceAccount",
                "b",
                Test::ServiceAccount { namespace: "tools".into(), name: "b".into() },
            ),
            ("source.trustDomain", "x", Test::TrustDomain(exact("x"))),
            ("destination.ip", "10.0.0.1", Test::DestinationIp("10.0.0.1/32".parse().unwrap())),
            ("destination.port", "'80'", Test::DestinationPort(80)),
            ("connection.sni", "a.example", Test::Sni(exact("a.example"))),
            ("request.auth.audiences", "a", Test::Audience(exact("a"))),
            ("request.auth.presenter", "a*", Test::Presenter(StringMatch::Prefix("a".into()))),
            (
                "request.auth.claims[realm][roles]",
                "admin",
                Test::Claim { path: vec!["realm".into(), "roles".into()], value: exact("admin") },
            ),
            (
                "experimental.envoy.filters.http.mcp[tool]",
                "search_*",
                fact("http.mcp", "tool", StringMatch::Prefix("search_".into())),
            ),
            (
                "experimental.envoy.filters.http.mcp[args.repo.name]",
                "x",
                fact("http.mcp", "args.repo.name", exact("x")),
            ),
            (
                "experimental.envoy.filters.http.a2a[method]",
                "'[SendMessage]'",
                fact("http.a2a", "method", exact("SendMessage")),
            ),
            (
                "experimental.envoy.filters.http.mcp[cel: a[0] == 1]",
                "'true'",
                fact("http.mcp", "cel: a[0] == 1", exact("true")),
            ),
        ];
        for (key, value, test) in rows {
            let any = || Expr::Any(vec![Expr::Test(test.clone())]);
            let (got, remarks) = read(&format!("{{key: '{key}', values: [{value}]}}"), &Options::default());
            assert_eq!((got, remarks), (Expr::All(vec![any()]), Remarks::default()), "{key}");
            let (got, remarks) =
                read(&format!("{{key: '{key}', notValues: [{value}]}}"), &Options::default());
            assert_eq!(
                (got, remarks),
                (Expr::All(vec![Expr::Not(Box::new(any()))]), Remarks::default()),
                "{key}"
            );
        }
    }

    #[test]
    fn keys_and_values_that_cannot_be_judged_are_errors() {
        let rows = [
            ("{key: request.auth.claims, values: [a]}", "w.key"),
            ("{key: 'request.auth.claims[]', values: [a]}", "w.key"),
            ("{key: 'request.auth.claimsx[a]', values: [a]}", "w.key"),
            ("{key: 'request.auth.subject', values: [a]}", "w.key"),
            ("{key: request.headers, values: [a]}", "w.key"),
            ("{key: 'request.headers[]', values: [a]}", "w.key"),
            ("{key: 'request.headers[a b]', values: [a]}", "w.key"),
            ("{key: source.user, values: [a]}", "w.key"),
            ("{key: '', values: [a]}", "w.key"),
            ("{key: 'experimental.envoy.filters.http.lua[x]', values: [a]}", "w.key"),
            ("{key: 'experimental.envoy.filters.http.mcp[]', values: [a]}", "w.key"),
            ("{key: 'experimental.envoy.filters.http.mcp[tool', values: [a]}", "w.key"),
            ("{key: 'experimental.envoy.filters.http.mcp[cel: a]', values: ['yes']}", "w.values[0]"),
            (
                "{key: 'experimental.envoy.filters.http.mcp[cel: a]', notValues: ['true', '*']}",
                "w.notValues[1]",
            ),
            ("{key: source.namespace}", "w"),
            ("{key: source.namespace, values: []}", "w.values"),
            ("{key: source.ip, notValues: [x]}", "w.notValues[0]"),
        ];
        for (condition, field) in rows {
            let (_, remarks) = read(condition, &Options::default());
            assert_eq!(fields(&remarks), [(Severity::Error, field.to_owned())], "{condition}");
        }
    }

    #[test]
    fn facts_are_checked_by_whoever_knows_the_protocols() {
        let fact_check: super::super::FactCheck = |filter, key| {
            if (filter, key) == ("http.mcp", "tool") { Ok(()) } else { Err(format!("has no fact {key}")) }
        };
        let options = Options { fact_check: Some(fact_check), ..Options::default() };
        let (_, remarks) = read("{key: 'experimental.envoy.filters.http.mcp[tool]', values: [a]}", &options);
        assert_eq!(remarks, Remarks::default());
        let (_, remarks) = read("{key: 'experimental.envoy.filters.http.mcp[toool]', values: [a]}", &options);
        let error = remarks.iter().next().unwrap();
        assert_eq!(error.message, "`experimental.envoy.filters.http.mcp[toool]` has no fact toool");
    }
}
