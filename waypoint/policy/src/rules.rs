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

    /// The first rule, in declared order, whose answer is `wanted`, which `No` never is.
    pub(crate) fn first(
        &self,
        head: &Head<'_>,
        facts: &dyn Facts,
        mut wanted: impl FnMut(Truth) -> bool,
    ) -> Option<&RuleName> {
        self.candidates(head, facts).find(|rule| wanted(rule.when.truth(head, facts))).map(|rule| &rule.name)
    }

    /// All rules that hold, in declared order.
    pub(crate) fn holding(&self, head: &Head<'_>, facts: &dyn Facts) -> Vec<RuleName> {
        let holds = |rule: &&Rule| rule.when.truth(head, facts) == Truth::Yes;
        self.candidates(head, facts).filter(holds).map(|rule| rule.name.clone()).collect()
    }

    /// Rules that could match, in declared order, each once. What is left out answers `No`.
    fn candidates<'r>(&'r self, head: &Head<'_>, facts: &dyn Facts) -> impl Iterator<Item = &'r Rule> {
        let mut lists = vec![self.unanchored.as_slice()];
        if let Some(peer) = head.attributes.source.identity {
            lists.extend(self.by_principal.get(peer.principal().as_bytes()).map(Vec::as_slice));
            if !self.by_account.is_empty() {
                let listed =
                    |(ns, sa): (&str, &str)| self.by_account.get(ns).and_then(|accounts| accounts.get(sa));
                lists.extend(service_accounts(peer).filter_map(listed).map(Vec::as_slice));
            }
        }
        if !self.by_any_tool.is_empty() {
            self.find_by_tool(facts, &mut lists);
        }
        std::iter::from_fn(move || next_of(&mut lists)).filter_map(|at| self.rules.get(at))
    }

    fn find_by_tool<'r>(&'r self, facts: &dyn Facts, lists: &mut Vec<&'r [usize]>) {
        let known = lists.len();
        let told = facts.ask(&FactKey::Tool, &mut |tool| {
            lists.extend(self.by_tool.get(tool.as_bytes()).map(Vec::as_slice));
            false // so that every value is shown
        });
        if told == Truth::NotYet {
            lists.truncate(known);
            lists.push(&self.by_any_tool);
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
        Clause::Match(_) | Clause::Not(_) => None,
    }
}
