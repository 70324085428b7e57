//! The rules of one action, and the index that finds the few of them that could match.

use std::collections::HashMap;

use agent_protocols::{FactKey, Facts, Truth};

use crate::attributes::{Head, service_accounts};
use crate::decision::RuleName;
use crate::matcher::{Clause, Matcher};

/// One compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: RuleName,
    pub(crate) when: Clause,
}

/// Rules in declared order. A rule that can only match one of a few principals, ServiceAccounts or tools stands under these;
/// a request asks the rules under its own and those that stand nowhere, still in declared order.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    by_principal: HashMap<Box<[u8]>, Vec<usize>>,
    by_account: HashMap<Box<str>, HashMap<Box<str>, Vec<usize>>>,
    by_tool: HashMap<Box<[u8]>, Vec<usize>>,
    /// Every rule that is in `by_tool`: asked while the tool is not known.
    by_any_tool: Vec<usize>,
    unanchored: Vec<usize>,
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

/// A value that one attribute must have before a rule can match.
#[derive(Clone, Copy)]
enum Anchor<'c> {
    Principal(&'c [u8]),
    Account(&'c str, &'c str),
    Tool(&'c [u8]),
}

impl Rules {
    pub(crate) fn new(rules: Vec<Rule>) -> Self {
        let mut indexed = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            indexed.index(at, &rule.when);
        }
        indexed.rules = rules;
        indexed
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
        // Most sets have no DENY and no AUDIT rules at all.
        let mut lists =
            if self.unanchored.is_empty() { Vec::new() } else { vec![self.unanchored.as_slice()] };
        if let Some(peer) = head.attributes.source.identity {
            if !self.by_principal.is_empty() {
                lists.extend(self.by_principal.get(peer.principal().as_bytes()).map(Vec::as_slice));
            }
            if !self.by_account.is_empty() {
                let listed =
                    |(ns, sa): (&str, &str)| self.by_account.get(ns).and_then(|accounts| accounts.get(sa));
                lists.extend(service_accounts(peer).filter_map(listed).map(Vec::as_slice));
            }
        }
        if !self.by_any_tool.is_empty() {
            self.find_by_tool(facts, wanted, &mut lists);
        }
        std::iter::from_fn(move || next_of(&mut lists)).filter_map(|at| self.rules.get(at))
    }

    /// While the tool is not known, a rule that stands under tools may be open and cannot hold: if it did, it would hold for
    /// every tool, and for those that it does not stand under it answers `No`.
    fn find_by_tool<'r>(&'r self, facts: &dyn Facts, wanted: Wanted, lists: &mut Vec<&'r [usize]>) {
        let told = facts.ask(&FactKey::Tool, &mut |tool| {
            lists.extend(self.by_tool.get(tool.as_bytes()).map(Vec::as_slice));
            false // so that every value is shown
        });
        if told == Truth::NotYet {
            lists.extend((wanted != Wanted::Holds).then_some(self.by_any_tool.as_slice()));
        }
    }

    fn index(&mut self, at: usize, when: &Clause) {
        let Some(anchors) = anchors(when) else {
            self.unanchored.push(at);
            return;
        };
        if anchors.iter().any(Anchor::is_tool) {
            self.by_any_tool.push(at);
        }
        for anchor in anchors {
            let list = match anchor {
                Anchor::Principal(text) => self.by_principal.entry(text.into()).or_default(),
                Anchor::Account(ns, sa) => {
                    self.by_account.entry(ns.into()).or_default().entry(sa.into()).or_default()
                }
                Anchor::Tool(name) => self.by_tool.entry(name.into()).or_default(),
            };
            if list.last() != Some(&at) {
                list.push(at);
            }
        }
    }
}

impl Anchor<'_> {
    fn is_tool(&self) -> bool {
        matches!(self, Self::Tool(_))
    }
}

/// The least index at the front of any list; taken from all of them.
fn next_of(lists: &mut [&[usize]]) -> Option<usize> {
    let least = lists.iter().filter_map(|list| list.first().copied()).min()?;
    for list in lists {
        if let Some((first, rest)) = list.split_first()
            && *first == least
        {
            *list = rest;
        }
    }
    Some(least)
}

/// Values of which a request must have one, or the clause answers `No`; `None` where no such list exists.
fn anchors(clause: &Clause) -> Option<Vec<Anchor<'_>>> {
    match clause {
        // Who asks is known from the head on, which tool is not; then the shorter list.
        Clause::All(parts) => parts
            .iter()
            .filter_map(anchors)
            .min_by_key(|anchors| (anchors.iter().any(Anchor::is_tool), anchors.len())),
        Clause::Any(parts) => {
            let lists: Option<Vec<_>> = parts.iter().map(anchors).collect();
            lists.map(|lists| lists.concat())
        }
        Clause::Match(Matcher::Principal(values)) => {
            Some(values.exact_only()?.into_iter().map(Anchor::Principal).collect())
        }
        Clause::Match(Matcher::ServiceAccount(accounts)) => {
            Some(accounts.iter().map(|(ns, sa)| Anchor::Account(ns, sa)).collect())
        }
        Clause::Match(Matcher::Fact(FactKey::Tool, values)) => {
            Some(values.exact_only()?.into_iter().map(Anchor::Tool).collect())
        }
        Clause::Match(Matcher::Condition(asked)) => {
            Some(asked.tools()?.iter().map(|name| Anchor::Tool(name.as_bytes())).collect())
        }
        Clause::Match(_) | Clause::Not(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use agent_protocols::{Kind, Unread};
    use spiffe_id::SpiffeId;
    use waypoint_model::{Action, Expr, PolicyKey, StringMatch, Test};

    use super::*;
    use crate::attributes::{Attributes, Destination, Source};

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
        let id = SpiffeId::parse("spiffe://td/ns/a/sa/bot-7").unwrap();
        let ip = "10.0.0.1".parse().unwrap();
        let attributes = Attributes {
            source: Source { identity: Some(&id), ip, remote_ip: ip },
            destination: Destination { ip: None, port: 80, sni: None },
            http: None,
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
}
