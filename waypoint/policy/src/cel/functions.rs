//! Functions of values.

use std::borrow::Cow;

use super::cost::{Cost, MEMBER};
use super::names::Function;
use super::number;
use super::run::Run;
use super::tree::Node;
use super::value::{Open, Value};

impl<'a> Run<'a> {
    pub(super) fn call(&mut self, function: Function, parts: &'a [Node]) -> Result<Value<'a>, Open> {
        let values: Vec<_> = parts.iter().map(|part| self.value(part)).collect();
        if values.contains_error() {
            return Err(Open::Error);
        }
        let values = values.into_iter().collect::<Result<Vec<_>, _>>()?;
        match (function, values.as_slice()) {
            (Function::Size, [of]) => self.size(of),
            (Function::Contains, [of, with]) => self.texts(of, with, |of, with| of.contains(with)),
            (Function::StartsWith, [of, with]) => self.texts(of, with, |of, with| of.starts_with(with)),
            (Function::EndsWith, [of, with]) => self.texts(of, with, |of, with| of.ends_with(with)),
            (Function::Int, [of]) => int(of),
            (Function::Double, [of]) => double(of),
            (Function::String, [of]) => string(of),
            _ => Err(Open::Error),
        }
    }

    /// Characters of a text, elements of a list, members of a map.
    fn size(&mut self, of: &Value<'a>) -> Result<Value<'a>, Open> {
        let count = match of {
            Value::Text(text) => {
                self.spend(Cost::of_text(text.len()))?;
                text.chars().count()
            }
            Value::List(values) => values.len(),
            Value::Entries(entries) => entries.len(),
            Value::Claims(members) => members.len(),
            Value::Nothing => 0,
            Value::Array(array) => array.elements().count(),
            Value::Object(object) => object.members().count(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) => return Err(Open::Error),
        };
        if let Value::Array(_) | Value::Object(_) = of {
            self.spend(MEMBER.saturating_mul(count as u64))?;
        }
        Value::of_count(count)
    }

    fn texts(
        &mut self,
        of: &Value<'a>,
        with: &Value<'a>,
        holds: impl Fn(&str, &str) -> bool,
    ) -> Result<Value<'a>, Open> {
        let (of, with) = (of.text()?, with.text()?);
        self.spend(Cost::of_text(of.len() + with.len()))?;
        Ok(Value::Bool(holds(of, with)))
    }
}

trait Outcomes {
    fn contains_error(&self) -> bool;
}

impl Outcomes for Vec<Result<Value<'_>, Open>> {
    fn contains_error(&self) -> bool {
        self.iter().any(|value| matches!(value, Err(Open::Error)))
    }
}

/// Longest text that is read as a number, in bytes.
const LONGEST: usize = 64;

fn int<'a>(of: &Value<'a>) -> Result<Value<'a>, Open> {
    match of {
        Value::Int(whole) => Some(*whole),
        Value::Double(double) => number::cut(*double),
        Value::Text(text) if text.len() <= LONGEST => text.parse().ok(),
        _ => None,
    }
    .map(Value::Int)
    .ok_or(Open::Error)
}

fn double<'a>(of: &Value<'a>) -> Result<Value<'a>, Open> {
    match of {
        #[expect(clippy::cast_precision_loss, reason = "CEL's double() rounds")]
        Value::Int(whole) => Ok(Value::Double(*whole as f64)),
        Value::Double(double) => Ok(Value::Double(*double)),
        Value::Text(text) if text.len() <= LONGEST => {
            text.parse().map_err(|_| Open::Error).and_then(Value::of_double)
        }
        _ => Err(Open::Error),
    }
}

fn string<'a>(of: &Value<'a>) -> Result<Value<'a>, Open> {
    Ok(Value::Text(match of {
        Value::Text(text) => text.clone(),
        Value::Bool(holds) => Cow::Borrowed(if *holds { "true" } else { "false" }),
        Value::Int(whole) => Cow::Owned(whole.to_string()),
        Value::Double(double) => Cow::Owned(double.to_string()),
        _ => return Err(Open::Error),
    }))
}
