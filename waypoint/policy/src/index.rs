//! Finds, of many rules, the few that could match a request.

use std::collections::HashMap;

use agent_protocols::{FactKey, Facts, Truth};
use http::HeaderName;

use crate::attributes::{Head, namespaces, service_accounts};
use crate::matcher::{Clause, Field, Matcher, any_value};
use crate::rules::Wanted;
use crate::strings::Strings;

/// A rule that can only match where one attribute has one of a few values stands under these; the others stand nowhere.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_account: HashMap<Box<str>, HashMap<Box<str>, Vec<usize>>>,
    columns: HashMap<Attribute, Column>,
    unanchored: Vec<usize>,
}

/// Rules that stand under values of one attribute.
#[derive(Debug, Default)]
struct Column {
    by_value: HashMap<Box<[u8]>, Vec<usize>>,
    /// Every rule of the column: asked while the attribute is not known.
    all: Vec<usize>,
}

/// What is compared with texts. In the order in which a rule that tests several of them is put under one: what tells
/// requests apart best first, and what is known from the head on before what is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Attribute {
    Principal,
    Path,
    Header(Name),
    Host,
    Tool,
    Namespace,
}

/// A header's name, ordered as its text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name(HeaderName);

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A value that one attribute must have before a rule can match.
enum Anchor<'c> {
    Account(&'c str, &'c str),
    Text(Attribute, &'c [u8]),
}

impl Index {
    /// Takes in the rule at a place; places must come in ascending order.
    pub(crate) fn insert(&mut self, at: usize, when: &Clause) {
        let Some(anchors) = anchors(when) else {
            self.unanchored.push(at);
            return;
        };
        for anchor in anchors {
            match anchor {
                Anchor::Account(ns, sa) => {
                    push(self.by_account.entry(ns.into()).or_default().entry(sa.into()).or_default(), at);
                }
                Anchor::Text(attribute, value) => {
                    let column = self.columns.entry(attribute).or_default();
                    push(column.by_value.entry(value.into()).or_default(), at);
                    push(&mut column.all, at);
                }
            }
        }
    }

    /// Places of the rules whose answer could be `wanted`, ascending, each once.
    pub(crate) fn find(
        &self,
        head: &Head<'_>,
        facts: &dyn Facts,
        wanted: Wanted,
    ) -> impl Iterator<Item = usize> {
        // Most sets have no DENY and no AUDIT rules at all.
        let mut lists =
            if self.unanchored.is_empty() { Vec::new() } else { vec![self.unanchored.as_slice()] };
        if let Some(peer) = head.attributes.source.identity
            && !self.by_account.is_empty()
        {
            let listed =
                |(ns, sa): (&str, &str)| self.by_account.get(ns).and_then(|accounts| accounts.get(sa));
            lists.extend(service_accounts(peer).filter_map(listed).map(Vec::as_slice));
        }
        for (attribute, column) in &self.columns {
            column.find(attribute, head, facts, wanted, &mut lists);
        }
        std::iter::from_fn(move || next_of(&mut lists))
    }
}

impl Column {
    /// While the attribute is not known, a rule that stands here may be open and cannot hold: if it did, it would hold for
    /// every value, and for those that it does not stand under it answers `No`.
    fn find<'r>(
        &'r self,
        attribute: &Attribute,
        head: &Head<'_>,
        facts: &dyn Facts,
        wanted: Wanted,
        lists: &mut Vec<&'r [usize]>,
    ) {
        let known = attribute.each_value(head, facts, &mut |value| {
            lists.extend(self.by_value.get(value).map(Vec::as_slice));
        });
        if !known && wanted != Wanted::Holds {
            lists.push(&self.all);
        }
    }
}

impl Attribute {
    /// Shows the values that a request has, all those that [`Matcher`] would compare; `false` where they are not known yet.
    fn each_value(&self, head: &Head<'_>, facts: &dyn Facts, see: &mut dyn FnMut(&[u8])) -> bool {
        let (peer, http) = (head.attributes.source.identity, head.attributes.http.as_ref());
        match self {
            Self::Principal => peer.into_iter().for_each(|id| see(id.principal().as_bytes())),
            Self::Namespace => {
                peer.into_iter().flat_map(namespaces).for_each(|name| see(name.as_bytes()));
            }
            Self::Tool => {
                let told = facts.ask(&FactKey::Tool, &mut |tool| {
                    see(tool.as_bytes());
                    false // so that every value is shown
                });
                return told != Truth::NotYet;
            }
            Self::Host | Self::Path | Self::Header(_) => {
                let Some(http) = http else { return false };
                match self {
                    Self::Host => see(head.host.as_bytes()),
                    Self::Header(Name(name)) => {
                        any_value(http.headers, name, |value| {
                            see(value);
                            false
                        });
                    }
                    _ => see(http.path.as_bytes()),
                }
            }
        }
        true
    }
}

/// A rule comes once into a list, although it may have several anchors that lead there.
fn push(list: &mut Vec<usize>, at: usize) {
    if list.last() != Some(&at) {
        list.push(at);
    }
}

/// The least place at the front of any list; taken from all of them.
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
        Clause::All(parts) => parts.iter().filter_map(anchors).min_by(|a, b| breadth(a).cmp(&breadth(b))),
        Clause::Any(parts) => {
            let lists: Option<Vec<_>> = parts.iter().map(anchors).collect();
            lists.map(|lists| lists.into_iter().flatten().collect())
        }
        Clause::Match(matcher) => match matcher {
            Matcher::ServiceAccount(accounts) => {
                Some(accounts.iter().map(|(ns, sa)| Anchor::Account(ns, sa)).collect())
            }
            Matcher::Principal(values) => texts(&Attribute::Principal, values),
            Matcher::Namespace(values) => texts(&Attribute::Namespace, values),
            Matcher::Host(values) => texts(&Attribute::Host, values),
            Matcher::Path(values, templates) if templates.is_empty() => texts(&Attribute::Path, values),
            Matcher::Header(Field::Header(name), values) => {
                texts(&Attribute::Header(Name(name.clone())), values)
            }
            Matcher::Fact(FactKey::Tool, values) => texts(&Attribute::Tool, values),
            Matcher::Condition(asked) => {
                let names = asked.tools()?.iter();
                Some(names.map(|name| Anchor::Text(Attribute::Tool, name.as_bytes())).collect())
            }
            _ => None,
        },
        Clause::Not(_) => None,
    }
}

fn texts<'c>(attribute: &Attribute, values: &'c Strings) -> Option<Vec<Anchor<'c>>> {
    let values = values.exact_only()?.into_iter();
    Some(values.map(|value| Anchor::Text(attribute.clone(), value)).collect())
}

/// How many requests they may let by: less is better.
fn breadth<'a>(anchors: &'a [Anchor<'_>]) -> (Option<&'a Attribute>, usize) {
    (anchors.iter().map(Anchor::attribute).max().flatten(), anchors.len())
}

impl Anchor<'_> {
    /// `None`, the least, for a ServiceAccount.
    fn attribute(&self) -> Option<&Attribute> {
        match self {
            Self::Account(..) => None,
            Self::Text(attribute, _) => Some(attribute),
        }
    }
}
