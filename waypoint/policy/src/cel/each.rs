//! Macros: the same question to each element of a list, or each key of a map.

use std::borrow::Cow;

use super::cost::{Cost, MEMBER, STEP};
use super::names::Macro;
use super::run::{Run, worse};
use super::tree::Node;
use super::value::{Open, Value};

impl<'a> Run<'a> {
    pub(super) fn each(&mut self, each: Macro, over: &'a Node, asked: &'a Node) -> Result<Value<'a>, Open> {
        let over = self.value(over)?;
        let elements = if over.is_map() { self.keys(&over)? } else { self.elements(&over)? };
        match each {
            Macro::All => self.quantified(elements, asked, false),
            Macro::Exists => self.quantified(elements, asked, true),
            Macro::ExistsOne => {
                let kept = self.kept(elements, asked)?;
                Ok(Value::Bool(kept.len() == 1))
            }
            Macro::Filter => Ok(Value::List(self.kept(elements, asked)?.into())),
            Macro::Map => {
                let answers = elements.into_iter().map(|element| self.of_one(element, asked)).collect();
                Ok(Value::List(all_of(answers)?.into()))
            }
        }
    }

    /// The answer for one element.
    fn of_one(&mut self, element: Value<'a>, asked: &'a Node) -> Result<Value<'a>, Open> {
        self.locals.push(element);
        let answer = self.value(asked);
        self.locals.pop();
        answer
    }

    /// As `&&` and `||`: one element may decide.
    fn quantified(
        &mut self,
        elements: Vec<Value<'a>>,
        asked: &'a Node,
        decisive: bool,
    ) -> Result<Value<'a>, Open> {
        let mut answer = Ok(Value::Bool(!decisive));
        for element in elements {
            match self.of_one(element, asked).and_then(|value| value.truth()) {
                Ok(holds) if holds == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(open) => answer = Err(worse(answer, open)),
            }
        }
        answer
    }

    fn kept(&mut self, elements: Vec<Value<'a>>, asked: &'a Node) -> Result<Vec<Value<'a>>, Open> {
        let mut answers = Vec::with_capacity(elements.len());
        for element in elements {
            self.spend(Cost::of_text(element.weight()))?;
            let holds = self.of_one(element.clone(), asked).and_then(|value| value.truth());
            answers.push(holds.map(|holds| holds.then_some(element)));
        }
        Ok(all_of(answers)?.into_iter().flatten().collect())
    }

    /// The elements of a list. They are paid for before they are laid out, so that memory is bounded as work is.
    pub(super) fn elements(&mut self, of: &Value<'a>) -> Result<Vec<Value<'a>>, Open> {
        match of {
            Value::List(values) => {
                self.spend(STEP.saturating_mul(values.len() as u64))?;
                let weight = values.iter().map(Value::weight).sum();
                self.spend(Cost::of_text(weight))?;
                Ok(values.to_vec())
            }
            Value::Entries(entries) => {
                self.spend(STEP.saturating_mul(entries.len() as u64))?;
                entries.iter().map(Value::of_claim).collect()
            }
            Value::Array(array) => {
                let mut elements = Vec::new();
                for element in array.elements() {
                    self.spend(STEP)?;
                    elements.push(self.of_message(element)?);
                }
                Ok(elements)
            }
            _ => Err(Open::Error),
        }
    }

    fn keys(&mut self, of: &Value<'a>) -> Result<Vec<Value<'a>>, Open> {
        let mut keys = Vec::new();
        match of {
            Value::Claims(members) => {
                self.spend(STEP.saturating_mul(members.len() as u64))?;
                keys.extend(members.keys().map(|key| Value::Text(Cow::Borrowed(key))));
            }
            Value::Object(object) => {
                for (key, _) in object.members() {
                    self.spend(STEP + MEMBER + Cost::of_text(key.len()))?;
                    keys.push(Value::Text(key));
                }
            }
            _ => {}
        }
        Ok(keys)
    }
}

/// All values; an error of one is an error of all, whatever the others turn out to be.
fn all_of<T>(answers: Vec<Result<T, Open>>) -> Result<Vec<T>, Open> {
    if answers.iter().any(|answer| matches!(answer, Err(Open::Error))) {
        return Err(Open::Error);
    }
    answers.into_iter().collect()
}
