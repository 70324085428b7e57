//! The rules of one action, in declared order.

use agent_protocols::{Facts, Truth};

use crate::attributes::Head;
use crate::decision::RuleName;
use crate::index::Index;
use crate::matcher::Clause;

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: RuleName,
    pub(crate) when: Clause,
}

/// Rules in declared order, and where to look for those that could match.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    index: Index,
}

/// Which answers are looked for. `No` never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// `Yes`.
    Holds,
    /// `Yes` or `NotYet`.
    CouldHold,
    /// `NotYet`.
    IsOpen,
}

impl Wanted {
    fn accepts(self, answer: Truth) -> bool {
        match self {
            Self::Holds => answer == Truth::Yes,
            Self::CouldHold => answer != Truth::No,
            Self::IsOpen => answer == Truth::NotYet,
        }
    }
}

impl Rules {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        let mut index = Index::default();
        rules.iter().enumerate().for_each(|(at, rule)| index.insert(at, &rule.when));
        Self { rules, index }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule, in declared order, whose answer is `wanted`.
    pub(crate) fn first(&self, head: &Head<'_>, facts: &dyn Facts, wanted: Wanted) -> Option<&RuleName> {
        let mut candidates = self.candidates(head, facts, wanted);
        candidates.find(|rule| wanted.accepts(rule.when.truth(head, facts))).map(|rule| &rule.name)
    }

    /// All rules that hold, in declared order.
    pub(crate) fn holding(&self, head: &Head<'_>, facts: &dyn Facts) -> Vec<RuleName> {
        let holds = |rule: &&Rule| rule.when.truth(head, facts) == Truth::Yes;
        self.candidates(head, facts, Wanted::Holds).filter(holds).map(|rule| rule.name.clone()).collect()
    }

    /// Rules whose answer could be `wanted`, in declared order, each once.
    fn candidates(&self, head: &Head<'_>, facts: &dyn Facts, wanted: Wanted) -> impl Iterator<Item = &Rule> {
        self.index.find(head, facts, wanted).filter_map(|at| self.rules.get(at))
    }
}

#[cfg(test)]
mod tests {
    use agent_protocols::{FactKey, Kind, Unread};
    use http::HeaderMap;
    use spiffe_id::SpiffeId;
    use waypoint_model::{Action, Expr, PathPattern, PolicyKey, StringMatch, Test};

    use super::*;
    use crate::attributes::{Attributes, Destination, HttpAttributes, Source};

    fn rules(count: usize, when: impl Fn(usize) -> Expr) -> Rules {
        let policy = PolicyKey::new("ns", "many");
        let clause = |rule| crate::compile::rule(&when(rule), Action::Allow, false).unwrap().unwrap();
        Rules::new(
            (0..count)
                .map(|rule| Rule { name: RuleName { policy: policy.clone(), rule }, when: clause(rule) })
                .collect(),
        )
    }

    fn principal(rule: usize) -> Expr {
        Expr::Test(Test::Principal(StringMatch::Exact(format!("td/ns/a/sa/bot-{rule}"))))
    }

    fn account(rule: usize) -> Expr {
        Expr::Test(Test::ServiceAccount { namespace: "a".into(), name: format!("bot-{rule}") })
    }

    fn port() -> Expr {
        Expr::Test(Test::DestinationPort(80))
    }

    fn tool(name: &str) -> Expr {
        let (filter, key) = ("http.mcp".to_owned(), "tool".to_owned());
        Expr::Test(Test::Fact { filter, key, value: StringMatch::Exact(name.to_owned()) })
    }

    /// Calls one tool.
    struct Calls(String);

    impl Facts for Calls {
        fn kind(&self) -> Kind {
            Kind::Call
        }

        fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
            crate::truth::of(*key == FactKey::Tool && test(&self.0))
        }
    }

    /// Indices of the rules that are asked for peer `bot-7`.
    fn asked(rules: &Rules, facts: &dyn Facts) -> Vec<usize> {
        asked_for(rules, facts, Wanted::CouldHold)
    }

    fn asked_for(rules: &Rules, facts: &dyn Facts, wanted: Wanted) -> Vec<usize> {
        asked_with(rules, None, facts, wanted)
    }

    /// Indices of the rules that are asked for a GET of `/7` with these headers.
    fn asked_http(rules: &Rules, headers: &[(&'static str, &'static str)]) -> Vec<usize> {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let (method, path, authority) = ("GET", "/7", "Seven.example");
        let http = HttpAttributes { method, path, authority, headers: &headers, claims: None };
        asked_with(rules, Some(http), &Unread, Wanted::CouldHold)
    }

    fn asked_with(
        rules: &Rules,
        http: Option<HttpAttributes<'_>>,
        facts: &dyn Facts,
        wanted: Wanted,
    ) -> Vec<usize> {
        let id = SpiffeId::parse("spiffe://td/ns/a/sa/bot-7").unwrap();
        let ip = "10.0.0.1".parse().unwrap();
        let attributes = Attributes {
            source: Source { identity: Some(&id), ip, remote_ip: ip },
            destination: Destination { ip: None, port: 80, sni: None },
            http,
        };
        rules.candidates(&Head::new(&attributes), facts, wanted).map(|rule| rule.name.rule).collect()
    }

    #[test]
    fn of_many_rules_only_those_that_could_match_are_asked() {
        let manifest = |from: Expr, when: Expr| {
            Expr::All(vec![
                Expr::Any(vec![Expr::All(vec![Expr::Any(vec![from])])]),
                Expr::Any(vec![Expr::All(vec![Expr::Any(vec![port()])])]),
                Expr::All(vec![Expr::Any(vec![when])]),
            ])
        };
        let by_principal = rules(1_000, |n| manifest(principal(n), port()));
        assert_eq!(asked(&by_principal, &Unread), [7]);
        let by_account = rules(1_000, |n| manifest(account(n), port()));
        assert_eq!(asked(&by_account, &Unread), [7]);
        let by_either = rules(1_000, |n| Expr::Any(vec![account(n), principal(n + 1)]));
        assert_eq!(asked(&by_either, &Unread), [6, 7]);
        let unlisted = rules(10, |n| Expr::Any(vec![principal(n), port()]));
        assert_eq!(asked(&unlisted, &Unread).len(), 10, "one that may match anyone is always asked");
        let nobody = rules(10, |_| Expr::Any(vec![]));
        assert_eq!(asked(&nobody, &Unread), [0usize; 0]);
    }

    #[test]
    fn rules_on_tools_are_all_asked_until_the_tool_is_known() {
        let by_tool = rules(1_000, |n| Expr::All(vec![port(), tool(&n.to_string())]));
        assert_eq!(asked(&by_tool, &Unread).len(), 1_000);
        assert_eq!(asked_for(&by_tool, &Unread, Wanted::Holds), [0usize; 0], "none can hold for every tool");
        assert_eq!(asked(&by_tool, &Calls("3".to_owned())), [3]);
        let both = rules(1_000, |n| Expr::All(vec![tool(&(n % 10).to_string()), principal(n)]));
        assert_eq!(asked(&both, &Unread), [7], "the principal is known before the tool");
        let either = rules(1_000, |n| Expr::Any(vec![tool(&n.to_string()), principal(n)]));
        assert_eq!(asked(&either, &Calls("3".to_owned())), [3, 7]);
        assert_eq!(asked_for(&either, &Unread, Wanted::Holds), [7], "its principal may let it");
    }

    #[test]
    fn rules_on_headers_paths_and_hosts_are_found_by_value() {
        let header = |n: usize| {
            Expr::Test(Test::Header { name: "x-team".into(), value: StringMatch::Exact(n.to_string()) })
        };
        let by_header = rules(1_000, |n| Expr::All(vec![port(), header(n)]));
        assert_eq!(asked_http(&by_header, &[]), [0usize; 0]);
        assert_eq!(asked_http(&by_header, &[("x-team", "7")]), [7]);
        assert_eq!(asked_http(&by_header, &[("x-team", "9"), ("x-team", "7")]), [7, 9], "each line counts");
        assert_eq!(asked(&by_header, &Unread).len(), 1_000, "no head, nothing known");
        assert_eq!(asked_for(&by_header, &Unread, Wanted::Holds), [0usize; 0]);
        let pair = |n: usize| {
            Expr::Test(Test::Header {
                name: "x-team".into(),
                value: StringMatch::Exact(format!("{n},{}", n + 1)),
            })
        };
        let lines = [("x-team", "7"), ("x-team", "8")];
        assert_eq!(asked_http(&rules(1_000, pair), &lines), [7], "and the lines as one value");

        let path = |n: usize| PathPattern::Text(StringMatch::Exact(format!("/{n}")));
        assert_eq!(asked_http(&rules(1_000, |n| Expr::Test(Test::Path(path(n)))), &[]), [7]);
        let host = |n: usize| {
            Test::Host(StringMatch::Exact(if n == 3 { "SEVEN.example".into() } else { n.to_string() }))
        };
        assert_eq!(asked_http(&rules(1_000, |n| Expr::Test(host(n))), &[]), [3], "hosts have no case");
        let namespace = |n: usize| {
            Expr::Test(Test::Namespace(StringMatch::Exact(if n == 5 { "a".into() } else { n.to_string() })))
        };
        assert_eq!(asked_http(&rules(1_000, namespace), &[]), [5]);
        let either = rules(1_000, |n| Expr::Any(vec![header(n), Expr::Test(Test::Path(path(n)))]));
        assert_eq!(asked_http(&either, &[("x-team", "2")]), [2, 7]);
        let both = rules(1_000, |n| Expr::All(vec![tool("x"), header(n % 500), account(n)]));
        assert_eq!(asked_http(&both, &[("x-team", "7")]), [7], "an account tells callers apart better");
    }
}
