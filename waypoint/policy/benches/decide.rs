//! What one decision costs with 10, 1,000 and 10,000 rules: `cargo bench -p waypoint-policy`.
//!
//! Rules have the shape of AuthorizationPolicy rules: one ServiceAccount each, or none, and a few tools. The peer that asks
//! is matched by the last rule, or by none. Conditions are expressions over the arguments of the call.

use std::hint::black_box;
use std::sync::Arc;

use agent_protocols::json::{Bounds, Document};
use agent_protocols::{FactKey, Facts, Given, Kind, Truth};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use spiffe_id::SpiffeId;
use waypoint_model::{Action, Expr, PathPattern, Policy, PolicyKey, Rule, StringMatch, Test};
use waypoint_policy::{Attributes, Destination, HttpAttributes, PolicySet, Source};

/// A call of one tool, with arguments.
struct Calls<'a>(&'a str, &'a Document<'a>);

impl Facts for Calls<'_> {
    fn kind(&self) -> Kind {
        Kind::Call
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match key {
            FactKey::Tool if test(self.0) => Truth::Yes,
            _ => Truth::No,
        }
    }

    fn arguments(&self) -> Given<'_> {
        Given::Object(self.1.root())
    }
}

fn account(name: String) -> Expr {
    Expr::Any(vec![Expr::All(vec![Expr::Any(vec![Expr::Test(Test::ServiceAccount {
        namespace: "agents".to_owned(),
        name,
    })])])])
}

fn at_endpoint() -> Expr {
    let path = Test::Path(PathPattern::Text(StringMatch::Exact("/mcp".to_owned())));
    Expr::Any(vec![Expr::All(vec![Expr::Any(vec![Expr::Test(path)])])])
}

fn tools(values: &[&str]) -> Expr {
    let test = |value: &&str| {
        let (filter, key) = ("http.mcp".to_owned(), "tool".to_owned());
        Expr::Test(Test::Fact { filter, key, value: StringMatch::parse(value) })
    };
    Expr::Any(values.iter().map(test).collect())
}

fn condition(text: String) -> Expr {
    let (filter, key) = ("http.mcp".to_owned(), format!("cel: {text}"));
    Expr::Test(Test::Fact { filter, key, value: StringMatch::Exact("true".to_owned()) })
}

fn set(count: usize, when: impl Fn(usize) -> Expr) -> PolicySet {
    let rules = (0..count).map(|index| Rule { index, when: when(index) }).collect();
    let key = PolicyKey::new("tools", "bench");
    let policy = Policy { key, action: Action::Allow, dry_run: false, rules, unusable: None };
    PolicySet::compile(&[Arc::new(policy)], &[], false, 1)
}

fn decide(c: &mut Criterion) {
    type Shape = (&'static str, fn(usize) -> Expr);
    let shapes: [Shape; 5] = [
        ("one account each", |n| {
            Expr::All(vec![account(format!("bot-{n}")), at_endpoint(), tools(&["search_*", "get_issue"])])
        }),
        ("one tool each", |n| Expr::All(vec![at_endpoint(), tools(&[&format!("tool-{n}")])])),
        ("one condition on a tool each", |n| {
            let text =
                format!("tool == \"tool-{n}\" && args.amount <= 100 && args.to.endsWith(\"@acme.com\")");
            Expr::All(vec![at_endpoint(), condition(text)])
        }),
        ("one condition each", |n| {
            // The last one holds.
            Expr::All(vec![at_endpoint(), condition(format!("args.amount >= 100 - 1 && args.number == {n}"))])
        }),
        ("no index helps", |n| Expr::All(vec![at_endpoint(), tools(&[&format!("tool-{n}-*")])])),
    ];
    let headers = HeaderMap::new();
    let ip = std::net::IpAddr::from([10, 0, 0, 1]);
    for (shape, when) in shapes {
        let mut group = c.benchmark_group(shape);
        for count in [10, 1_000, 10_000] {
            let set = set(count, when);
            let last = count - 1;
            let Ok(id) = SpiffeId::istio("cluster.local", "agents", &format!("bot-{last}")) else { return };
            let arguments = format!(r#"{{"amount": 99, "to": "ann@acme.com", "number": {last}}}"#);
            let bounds = Bounds { depth: 8, members: 8, key: 8 };
            let Ok(arguments) = Document::read(arguments.as_bytes(), &bounds) else { return };
            let tool =
                if shape == "one account each" { "get_issue".to_owned() } else { format!("tool-{last}") };
            let attributes = Attributes {
                source: Source { identity: Some(&id), ip, remote_ip: ip },
                destination: Destination { ip: None, port: 80, sni: None },
                http: Some(HttpAttributes {
                    method: "POST",
                    path: "/mcp",
                    authority: "github.tools",
                    headers: &headers,
                    claims: None,
                }),
            };
            group.bench_with_input(BenchmarkId::new("head", count), &set, |b, set| {
                b.iter(|| black_box(set.decide_head(black_box(&attributes))));
            });
            group.bench_with_input(BenchmarkId::new("call", count), &set, |b, set| {
                b.iter(|| black_box(set.decide(black_box(&attributes), &Calls(&tool, &arguments))));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, decide);
criterion_main!(benches);
