//! The part of the Common Expression Language that access log filters and metric tags are written in: attributes of a
//! request, literals, comparisons, `&&`, `||`, `!`, `? :`, `+`, `in`, `has()` and the tests of strings.
//!
//! It is compiled once. What it does not know is an error there, by name, so a caller can choose what is safe.

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderName;
use regex::Regex;

use super::super::captured::Side;
use super::facts::{Attribute, Facts, Value};

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) enum Expression {
    Bool(bool),
    Number(i64),
    Text(String),
    Time(Duration),
    Attribute(Attribute),
    Header(Side, HeaderName),
    Has(Box<Self>),
    /// Whether a request ended with this response flag.
    Flag(String),
    Not(Box<Self>),
    All(Box<Self>, Box<Self>),
    Any(Box<Self>, Box<Self>),
    Compare(Compare, Box<Self>, Box<Self>),
    In(Box<Self>, Vec<Self>),
    Test(Test, Box<Self>, Box<Self>),
    Matches(Box<Self>, Regex),
    Size(Box<Self>),
    Show(Box<Self>),
    Add(Box<Self>, Box<Self>),
    If(Box<(Self, Self, Self)>),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// What is asked of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    StartsWith,
    EndsWith,
    Contains,
}

/// The type of a value, as far as it is known before there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
    Time,
}

impl Expression {
    /// Its value; `None` where CEL has an error: an attribute or a header that is not there, or types that do not fit.
    pub(super) fn value<'a>(&'a self, facts: &Facts<'a>) -> Option<Value<'a>> {
        Some(match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(value) => Value::Number(*value),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Time(time) => Value::Time(*time),
            Self::Attribute(attribute) => facts.get(*attribute)?,
            Self::Header(side, name) => facts.header(*side, name)?,
            Self::Has(of) => Value::Bool(of.value(facts).is_some()),
            Self::Flag(flag) => Value::Bool(facts.flags().any(|one| one == flag)),
            Self::Not(of) => Value::Bool(!of.truth(facts)?),
            Self::All(a, b) => Value::Bool(decided(false, a.truth(facts), || b.truth(facts))?),
            Self::Any(a, b) => Value::Bool(decided(true, a.truth(facts), || b.truth(facts))?),
            Self::Compare(how, a, b) => Value::Bool(compare(*how, &a.value(facts)?, &b.value(facts)?)?),
            Self::In(of, list) => {
                let of = of.value(facts)?;
                Value::Bool(list.iter().any(|one| one.value(facts).is_some_and(|one| one == of)))
            }
            Self::Test(test, of, with) => Value::Bool(holds(*test, &of.string(facts)?, &with.string(facts)?)),
            Self::Matches(of, regex) => Value::Bool(regex.is_match(&of.string(facts)?)),
            Self::Size(of) => {
                let length = of.string(facts)?.chars().count();
                Value::Number(i64::try_from(length).unwrap_or(i64::MAX))
            }
            Self::Show(of) => Value::Text(Cow::Owned(of.value(facts)?.text().into_owned())),
            Self::Add(a, b) => add(a.value(facts)?, b.value(facts)?)?,
            Self::If(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.truth(facts)? { yes.value(facts)? } else { no.value(facts)? }
            }
        })
    }

    /// Whether it holds; `None` where it has no truth.
    pub(super) fn truth(&self, facts: &Facts<'_>) -> Option<bool> {
        match self.value(facts)? {
            Value::Bool(value) => Some(value),
            Value::Number(_) | Value::Text(_) | Value::Time(_) => None,
        }
    }

    fn string<'a>(&'a self, facts: &Facts<'a>) -> Option<Cow<'a, str>> {
        match self.value(facts)? {
            Value::Text(text) => Some(text),
            Value::Bool(_) | Value::Number(_) | Value::Time(_) => None,
        }
    }

    /// Its type, where that is known beforehand.
    pub(super) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Bool(_)
            | Self::Has(_)
            | Self::Flag(_)
            | Self::Not(_)
            | Self::All(..)
            | Self::Any(..)
            | Self::Compare(..)
            | Self::In(..)
            | Self::Test(..)
            | Self::Matches(..)
            | Self::Attribute(Attribute::Mtls) => Some(Kind::Bool),
            Self::Attribute(
                Attribute::BytesReceived
                | Attribute::BytesSent
                | Attribute::Code
                | Attribute::FlagBits
                | Attribute::GrpcNumber
                | Attribute::Milliseconds
                | Attribute::SourcePort
                | Attribute::LocalPort
                | Attribute::UpstreamPort
                | Attribute::UpstreamLocalPort,
            )
            | Self::Number(_)
            | Self::Size(_) => Some(Kind::Number),
            Self::Time(_) | Self::Attribute(Attribute::Took) => Some(Kind::Time),
            Self::Text(_) | Self::Header(..) | Self::Show(_) | Self::Attribute(_) => Some(Kind::Text),
            Self::Add(a, b) => a.kind().or_else(|| b.kind()),
            Self::If(parts) => parts.1.kind().filter(|kind| parts.2.kind() == Some(*kind)),
        }
    }

    /// Whether it may have more values than a few.
    pub(super) fn has_many_values(&self) -> bool {
        match self {
            Self::Text(_) | Self::Number(_) | Self::Bool(_) | Self::Time(_) => false,
            Self::Has(_)
            | Self::Flag(_)
            | Self::Not(_)
            | Self::All(..)
            | Self::Any(..)
            | Self::Compare(..)
            | Self::In(..)
            | Self::Test(..)
            | Self::Matches(..)
            | Self::Attribute(Attribute::Mtls | Attribute::LocalPort | Attribute::Protocol) => false,
            Self::If(parts) => parts.1.has_many_values() || parts.2.has_many_values(),
            Self::Attribute(_) | Self::Header(..) | Self::Show(_) | Self::Size(_) | Self::Add(..) => true,
        }
    }

    /// Calls `see` with each header that it names.
    pub(super) fn headers(&self, see: &mut dyn FnMut(Side, &HeaderName)) {
        match self {
            Self::Header(side, name) => see(*side, name),
            Self::Has(of) | Self::Not(of) | Self::Size(of) | Self::Show(of) | Self::Matches(of, _) => {
                of.headers(see);
            }
            Self::All(a, b)
            | Self::Any(a, b)
            | Self::Compare(_, a, b)
            | Self::Test(_, a, b)
            | Self::Add(a, b) => {
                a.headers(see);
                b.headers(see);
            }
            Self::In(of, list) => {
                of.headers(see);
                list.iter().for_each(|one| one.headers(see));
            }
            Self::If(parts) => {
                for part in [&parts.0, &parts.1, &parts.2] {
                    part.headers(see);
                }
            }
            Self::Bool(_)
            | Self::Number(_)
            | Self::Text(_)
            | Self::Time(_)
            | Self::Attribute(_)
            | Self::Flag(_) => {}
        }
    }
}

/// CEL's `&&` and `||`: either side alone may decide, also beside an error on the other.
fn decided(by: bool, a: Option<bool>, b: impl FnOnce() -> Option<bool>) -> Option<bool> {
    if a == Some(by) {
        return Some(by);
    }
    match b() {
        Some(b) if b == by => Some(by),
        b => a.and(b),
    }
}

fn compare(how: Compare, a: &Value<'_>, b: &Value<'_>) -> Option<bool> {
    let order = match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Time(a), Value::Time(b)) => a.cmp(b),
        _other_types => return None,
    };
    Some(match how {
        Compare::Equal => order.is_eq(),
        Compare::NotEqual => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::LessOrEqual => order.is_le(),
        Compare::More => order.is_gt(),
        Compare::MoreOrEqual => order.is_ge(),
    })
}

fn holds(test: Test, text: &str, with: &str) -> bool {
    match test {
        Test::StartsWith => text.starts_with(with),
        Test::EndsWith => text.ends_with(with),
        Test::Contains => text.contains(with),
    }
}

fn add<'a>(a: Value<'a>, b: Value<'a>) -> Option<Value<'a>> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.checked_add(b).map(Value::Number),
        (Value::Text(a), Value::Text(b)) => Some(Value::Text(a + b)),
        _other_types => None,
    }
}
