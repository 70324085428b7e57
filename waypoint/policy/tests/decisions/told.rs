//! Facts written by hand, and tests of them.

use std::collections::BTreeMap;

use agent_protocols::{FactKey, Facts, Kind, Truth};
use waypoint_model::{Expr, StringMatch, Test};

use crate::support::test;

/// A fact of filter `http.mcp`.
pub(crate) fn mcp(key: &str, value: &str) -> Expr {
    fact("http.mcp", key, value)
}

pub(crate) fn fact(filter: &str, key: &str, value: &str) -> Expr {
    test(Test::Fact { filter: filter.into(), key: key.into(), value: StringMatch::parse(value) })
}

/// Facts by key; a key that is not here is absent.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) kind: Kind,
    pub(crate) facts: BTreeMap<String, Fact>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    /// Something not read so far would tell.
    NotYet,
    /// Not known but for its beginning.
    From(String),
    /// Any of these values may satisfy a test.
    Values(Vec<String>),
}

impl Told {
    pub(crate) fn of(kind: Kind, facts: &[(&str, &str)]) -> Self {
        let facts = facts.iter().map(|(key, value)| ((*key).into(), Fact::Values(vec![(*value).into()])));
        Self { kind, facts: facts.collect() }
    }

    /// A `tools/call` of a tool with arguments.
    pub(crate) fn call(tool: &str, arguments: &[(&str, &str)]) -> Self {
        let mut told = Self::of(Kind::Call, arguments);
        told.facts.insert("tool".into(), Fact::Values(vec![tool.into()]));
        told.facts.insert("method".into(), Fact::Values(vec!["tools/call".into()]));
        told
    }

    pub(crate) fn open(mut self, key: &str) -> Self {
        self.facts.insert(key.into(), Fact::NotYet);
        self
    }

    pub(crate) fn values(mut self, key: &str, values: &[&str]) -> Self {
        self.facts.insert(key.into(), Fact::Values(values.iter().map(|value| (*value).into()).collect()));
        self
    }
}

impl Facts for Told {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        let told = self.facts.iter().find(|(name, _)| FactKey::parse("http.mcp", name).as_ref() == Ok(key));
        match told {
            None => Truth::No,
            Some((_, Fact::NotYet | Fact::From(_))) => Truth::NotYet,
            Some((_, Fact::Values(values))) if values.iter().any(|value| test(value)) => Truth::Yes,
            Some(_) => Truth::No,
        }
    }
    fn known_prefix(&self, key: &FactKey) -> Option<&str> {
        self.facts.iter().find_map(|(name, fact)| match fact {
            Fact::From(beginning) if FactKey::parse("http.mcp", name).as_ref() == Ok(key) => {
                Some(beginning.as_str())
            }
            _ => None,
        })
    }
}
