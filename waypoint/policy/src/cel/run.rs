//! One question to an expression.

use std::borrow::Cow;

use agent_protocols::{FactKey, Facts, Given, Truth};
use http::HeaderName;

use super::cost::{Cost, MEMBER, STEP};
use super::names::SourceField;
use super::number;
use super::tree::{Math, Node};
use super::value::{Open, Value};
use crate::attributes::{Head, namespaces, service_accounts};

/// A question: what is known, and how much work is left.
pub(super) struct Run<'a> {
    head: &'a Head<'a>,
    facts: &'a dyn Facts,
    pub(super) cost: Cost,
    /// Whether anything was asked for that is not known yet.
    pub(super) met_unknown: bool,
    /// Elements of the macros around this place, the outermost first.
    pub(super) locals: Vec<Value<'a>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(head: &'a Head<'a>, facts: &'a dyn Facts) -> Self {
        Self { head, facts, cost: Cost::new(), met_unknown: false, locals: Vec::new() }
    }

    /// The value of a part.
    pub(super) fn value(&mut self, node: &'a Node) -> Result<Value<'a>, Open> {
        self.spend(STEP)?;
        match node {
            Node::Null => Ok(Value::Null),
            Node::Bool(holds) => Ok(Value::Bool(*holds)),
            Node::Int(whole) => Ok(Value::Int(*whole)),
            Node::Double(double) => Ok(Value::Double(*double)),
            Node::Text(text) => Ok(Value::Text(Cow::Borrowed(text))),
            Node::List(parts) => {
                let values: Result<Vec<_>, _> = parts.iter().map(|part| self.value(part)).collect();
                Ok(Value::List(values?.into()))
            }
            Node::Fact(key) => self.fact(key),
            Node::FactIs(key, names) => self.fact_is(key, names).map(Value::Bool),
            Node::Args => self.arguments(),
            Node::Claims => self.claims(),
            Node::Source(field) => self.source(*field).ok_or(Open::Error),
            Node::Header(name) => self.header(name)?.ok_or(Open::Error),
            Node::Local(number) => self.local(*number),
            Node::Select(of, name) => {
                let of = self.value(of)?;
                self.member(&of, name)?.ok_or(Open::Error)
            }
            Node::Has(of) => self.has(of).map(Value::Bool),
            Node::Index(of, at) => self.index(of, at),
            Node::Not(of) => Ok(Value::Bool(!self.truth(of)?)),
            Node::Negate(of) => match self.value(of)? {
                Value::Int(whole) => whole.checked_neg().map(Value::Int).ok_or(Open::Error),
                Value::Double(double) => Value::of_double(-double),
                _ => Err(Open::Error),
            },
            Node::All(parts) => self.settle(parts, false),
            Node::Any(parts) => self.settle(parts, true),
            Node::If(parts) => {
                let [condition, yes, no] = &**parts;
                if self.truth(condition)? { self.value(yes) } else { self.value(no) }
            }
            Node::Compare(how, parts) => {
                self.two(parts).and_then(|(a, b)| self.compare(*how, &a, &b)).map(Value::Bool)
            }
            Node::In(parts) => self.two(parts).and_then(|(a, b)| self.is_in(&a, &b)).map(Value::Bool),
            Node::Math(how, parts) => self.two(parts).and_then(|(a, b)| self.math(*how, a, b)),
            Node::Call(function, parts) => self.call(*function, parts),
            Node::Matches(of, pattern) => {
                let of = self.value(of)?;
                let text = of.text()?;
                self.spend(pattern.cost.saturating_mul(text.len() as u64))?;
                Ok(Value::Bool(pattern.compiled.is_match(text)))
            }
            Node::Each(each, parts) => {
                let [over, asked] = &**parts;
                self.each(*each, over, asked)
            }
        }
    }

    pub(super) fn truth(&mut self, node: &'a Node) -> Result<bool, Open> {
        self.value(node)?.truth()
    }

    /// An error once the work is used up.
    pub(super) fn spend(&mut self, units: u64) -> Result<(), Open> {
        if self.cost.spend(units) { Ok(()) } else { Err(Open::Error) }
    }

    /// `&&` and `||`: a part that decides does so beside errors and what is not known; then what is not known stays open.
    fn settle(&mut self, parts: &'a [Node], decisive: bool) -> Result<Value<'a>, Open> {
        let mut answer = Ok(Value::Bool(!decisive));
        for part in parts {
            match self.truth(part) {
                Ok(holds) if holds == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(open) => answer = Err(worse(answer, open)),
            }
        }
        answer
    }

    /// Both values. An error decides, whatever the other is; so both are looked at.
    fn two(&mut self, parts: &'a [Node; 2]) -> Result<(Value<'a>, Value<'a>), Open> {
        let [left, right] = parts;
        match (self.value(left), self.value(right)) {
            (Ok(left), Ok(right)) => Ok((left, right)),
            (Err(Open::Error), _) | (_, Err(Open::Error)) => Err(Open::Error),
            (Err(Open::Unknown), _) | (_, Err(Open::Unknown)) => Err(Open::Unknown),
        }
    }

    fn unknown(&mut self) -> Open {
        self.met_unknown = true;
        Open::Unknown
    }

    fn fact(&mut self, key: &FactKey) -> Result<Value<'a>, Open> {
        let mut name = String::new();
        let told = self.facts.ask(key, &mut |text| {
            text.clone_into(&mut name);
            true
        });
        if told == Truth::NotYet {
            return Err(self.unknown());
        }
        Ok(Value::Text(Cow::Owned(name)))
    }

    fn fact_is(&mut self, key: &FactKey, names: &[Box<str>]) -> Result<bool, Open> {
        match self.facts.ask(key, &mut |text| names.iter().any(|name| **name == *text)) {
            Truth::Yes => Ok(true),
            Truth::No => Ok(false),
            Truth::NotYet => Err(self.unknown()),
        }
    }

    fn arguments(&mut self) -> Result<Value<'a>, Open> {
        match self.facts.arguments() {
            Given::NotYet => Err(self.unknown()),
            Given::Nothing => Ok(Value::Nothing),
            Given::Object(object) => Ok(Value::Object(object)),
        }
    }

    fn claims(&mut self) -> Result<Value<'a>, Open> {
        let Some(http) = self.head.attributes.http else { return Err(self.unknown()) };
        http.claims.map_or(Ok(Value::Nothing), Value::of_claim)
    }

    /// What is not there, or is there twice.
    fn source(&self, field: SourceField) -> Option<Value<'a>> {
        let source = self.head.attributes.source;
        if field == SourceField::Ip {
            return Some(Value::Text(Cow::Owned(source.ip.to_canonical().to_string())));
        }
        let peer = source.identity?;
        Some(Value::Text(match field {
            SourceField::Principal => Cow::Borrowed(peer.principal()),
            SourceField::TrustDomain => Cow::Borrowed(peer.trust_domain()),
            SourceField::Namespace => Cow::Borrowed(only(namespaces(peer))?),
            SourceField::ServiceAccount => {
                let (namespace, name) = only(service_accounts(peer))?;
                Cow::Owned(format!("{namespace}/{name}"))
            }
            SourceField::Ip => return None,
        }))
    }

    /// A header that stands there twice is an error: servers differ in which line they take. So is one that is no UTF-8.
    fn header(&mut self, name: &HeaderName) -> Result<Option<Value<'a>>, Open> {
        let Some(http) = self.head.attributes.http else { return Err(self.unknown()) };
        let mut lines = http.headers.get_all(name).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Ok(None),
            (Some(line), None) => {
                let text = std::str::from_utf8(line.as_bytes()).map_err(|_| Open::Error)?;
                Ok(Some(Value::Text(Cow::Borrowed(text))))
            }
            (Some(_), Some(_)) => Err(Open::Error),
        }
    }

    fn local(&mut self, number: usize) -> Result<Value<'a>, Open> {
        let value = self.locals.get(number).cloned().ok_or(Open::Error)?;
        self.spend(Cost::of_text(value.weight()))?;
        Ok(value)
    }

    fn has(&mut self, of: &'a Node) -> Result<bool, Open> {
        Ok(match of {
            Node::Select(of, name) => {
                let of = self.value(of)?;
                self.member(&of, name)?.is_some()
            }
            Node::Header(name) => self.header(name)?.is_some(),
            Node::Source(field) => self.source(*field).is_some(),
            _ => return Err(Open::Error),
        })
    }

    /// A member of a map. Beside one that another reader might take for it there is no telling which is meant.
    pub(super) fn member(&mut self, of: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, Open> {
        match of {
            Value::Nothing => Ok(None),
            Value::Claims(members) => members.get(name).map(Value::of_claim).transpose(),
            Value::Object(object) => {
                let looked = object.look_up(name);
                self.spend(MEMBER.saturating_mul(looked.walked as u64))?;
                if looked.has_twin {
                    return Err(Open::Error);
                }
                looked.found.map(|value| self.of_message(value)).transpose()
            }
            _ => Err(Open::Error),
        }
    }

    /// A value of the message, whose text is read once.
    pub(super) fn of_message(
        &mut self,
        value: agent_protocols::json::Value<'a, 'a>,
    ) -> Result<Value<'a>, Open> {
        let value = Value::of_message(value)?;
        self.spend(Cost::of_text(value.weight()))?;
        Ok(value)
    }

    fn index(&mut self, of: &'a Node, at: &'a Node) -> Result<Value<'a>, Open> {
        let (of, at) = match (self.value(of), self.value(at)) {
            (Ok(of), Ok(at)) => (of, at),
            (Err(Open::Error), _) | (_, Err(Open::Error)) => return Err(Open::Error),
            (Err(Open::Unknown), _) | (_, Err(Open::Unknown)) => return Err(Open::Unknown),
        };
        if of.is_map() {
            return self.member(&of, at.text()?)?.ok_or(Open::Error);
        }
        let at = match at {
            Value::Int(at) => at,
            Value::Double(at) => number::whole(at).ok_or(Open::Error)?,
            _ => return Err(Open::Error),
        };
        let at = usize::try_from(at).map_err(|_| Open::Error)?;
        match of {
            Value::List(values) => values.get(at).cloned().ok_or(Open::Error),
            Value::Entries(entries) => Value::of_claim(entries.get(at).ok_or(Open::Error)?),
            Value::Array(array) => {
                // Each element before it is stepped over.
                self.spend(MEMBER.saturating_mul(at as u64))?;
                let element = array.elements().nth(at).ok_or(Open::Error)?;
                self.of_message(element)
            }
            _ => Err(Open::Error),
        }
    }

    /// Whole numbers with whole numbers, doubles with doubles; what leaves the range is an error.
    fn math(&mut self, how: Math, left: Value<'a>, right: Value<'a>) -> Result<Value<'a>, Open> {
        match (left, right) {
            (Value::Int(a), Value::Int(b)) => {
                let result = match how {
                    Math::Add => a.checked_add(b),
                    Math::Subtract => a.checked_sub(b),
                    Math::Multiply => a.checked_mul(b),
                    Math::Divide => a.checked_div(b),
                    Math::Remainder => a.checked_rem(b),
                };
                result.map(Value::Int).ok_or(Open::Error)
            }
            (Value::Double(a), Value::Double(b)) => Value::of_double(match how {
                Math::Add => a + b,
                Math::Subtract => a - b,
                Math::Multiply => a * b,
                Math::Divide => a / b,
                Math::Remainder => return Err(Open::Error),
            }),
            (Value::Text(a), Value::Text(b)) if how == Math::Add => {
                self.spend(Cost::of_text(a.len() + b.len()))?;
                Ok(Value::Text(a + b))
            }
            _ => Err(Open::Error),
        }
    }
}

/// What is not known is worse than an error: it may still decide.
pub(super) fn worse(answer: Result<Value<'_>, Open>, open: Open) -> Open {
    if answer.is_err_and(|before| before == Open::Unknown) { Open::Unknown } else { open }
}

/// The only one.
fn only<T>(mut all: impl Iterator<Item = T>) -> Option<T> {
    all.next().filter(|_| all.next().is_none())
}
