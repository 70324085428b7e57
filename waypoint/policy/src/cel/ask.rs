//! Comparing values.

use std::cmp::Ordering;

use super::cost::{Cost, STEP};
use super::number;
use super::run::Run;
use super::tree::Compare;
use super::value::{Open, Value};

impl<'a> Run<'a> {
    /// Values of two types are not equal and have no order; numbers are compared by what they are worth.
    pub(super) fn compare(&mut self, how: Compare, a: &Value<'a>, b: &Value<'a>) -> Result<bool, Open> {
        if let Compare::Equal | Compare::NotEqual = how {
            return Ok(self.equal(a, b)? == (how == Compare::Equal));
        }
        let order = self.order(a, b)?;
        Ok(match how {
            Compare::Less => order.is_lt(),
            Compare::LessOrEqual => order.is_le(),
            Compare::More => order.is_gt(),
            Compare::MoreOrEqual | Compare::Equal | Compare::NotEqual => order.is_ge(),
        })
    }

    fn order(&mut self, a: &Value<'a>, b: &Value<'a>) -> Result<Ordering, Open> {
        match (a, b) {
            (Value::Text(a), Value::Text(b)) => {
                self.spend(Cost::of_text(a.len().min(b.len())))?;
                Ok(a.cmp(b))
            }
            (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
            _ => numbers(a, b).ok_or(Open::Error),
        }
    }

    /// Maps are not compared: which of two members that differ in case a server reads cannot be told.
    pub(super) fn equal(&mut self, a: &Value<'a>, b: &Value<'a>) -> Result<bool, Open> {
        match (a, b) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Text(_), Value::Text(_)) | (Value::Bool(_), Value::Bool(_)) => {
                self.order(a, b).map(Ordering::is_eq)
            }
            (a, b) if a.is_list() && b.is_list() => self.equal_lists(a, b),
            (a, b) if a.is_map() && b.is_map() => Err(Open::Error),
            _ => Ok(numbers(a, b).is_some_and(Ordering::is_eq)),
        }
    }

    fn equal_lists(&mut self, a: &Value<'a>, b: &Value<'a>) -> Result<bool, Open> {
        let (a, b) = (self.elements(a)?, self.elements(b)?);
        if a.len() != b.len() {
            return Ok(false);
        }
        let mut equal = true;
        for (a, b) in a.iter().zip(&b) {
            self.spend(STEP)?;
            equal &= self.equal(a, b)?;
        }
        Ok(equal)
    }

    /// Whether a list has the element, or a map the key.
    pub(super) fn is_in(&mut self, of: &Value<'a>, within: &Value<'a>) -> Result<bool, Open> {
        if within.is_map() {
            return Ok(self.member(within, of.text()?)?.is_some());
        }
        let mut answer = Ok(false);
        for element in self.elements(within)? {
            self.spend(STEP)?;
            match self.equal(of, &element) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(open) => answer = Err(open),
            }
        }
        answer
    }
}

fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Double(b)) => Some(number::order(*a, *b)),
        (Value::Double(a), Value::Int(b)) => Some(number::order(*b, *a).reverse()),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        _ => None,
    }
}
