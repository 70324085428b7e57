//! Conditions: expressions of the Common Expression Language, asked with three values.
//!
//! `experimental.envoy.filters.http.mcp[cel: args.amount <= 100]` with value `true`. An expression is read once, when its
//! policy is compiled; what is not understood is an error there, by name. It is then asked as every other test is: while
//! the body is not read, what depends on it is open ([`Answer::Open`]). What has no value (a member that is missing,
//! types that do not fit, more work than [`MAX_COST`](cost::MAX_COST)) is [`Answer::Error`], which the rule counts against the
//! request.
//!
//! The reader and the evaluator are our own: docs/decisions/0011-conditions-are-read-here.md says why.
//!
//! | file | holds |
//! |---|---|
//! | `token.rs` | text → tokens |
//! | `parser.rs`, `term.rs`, `names.rs` | tokens → tree; which names and functions there are |
//! | `tree.rs` | the tree, and what can be told of it before it is asked |
//! | `fault.rs` | why an expression cannot be used, and where |
//! | `regex.rs` | regular expressions in the syntax of RE2 |
//! | `value.rs`, `number.rs` | values, borrowed from the message where they can be |
//! | `run.rs`, `ask.rs`, `functions.rs`, `each.rs` | asking |
//! | `cost.rs` | how much work one question may be |

mod ask;
mod cost;
mod each;
mod fault;
mod functions;
mod names;
mod number;
mod parser;
mod regex;
mod run;
mod term;
mod token;
mod tree;
mod value;

#[cfg(test)]
mod tests;

use agent_protocols::{FactKey, Facts, Truth};

use self::run::Run;
use self::tree::Node;
use self::value::{Open, Value};
use crate::attributes::Head;

pub(crate) use fault::Fault;

/// What the key of a condition begins with.
const PREFIX: &str = "cel:";

/// A compiled condition.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    /// As written; two conditions of one text are one.
    text: Box<str>,
    root: Node,
    /// See [`Self::tools`].
    tools: Option<Vec<Box<str>>>,
}

/// What a condition says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is true or false, whatever is still to be read.
    Told(bool),
    /// Something that is not read yet decides.
    Open,
    /// It is neither, whatever is still to be read.
    Error,
}

impl Condition {
    /// The expression, if a key of filter `http.mcp` is a condition: `cel: args.amount <= 100`.
    pub(crate) fn expression<'k>(filter: &str, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(PREFIX).filter(|_| filter == "http.mcp").map(str::trim)
    }

    /// Compiles an expression.
    ///
    /// # Errors
    /// [`Fault`]: what is wrong, where, and what to write instead.
    pub(crate) fn compile(text: &str) -> Result<Self, Fault> {
        let root = parser::parse(text)?;
        Ok(Self { text: text.into(), tools: root.tools(), root })
    }

    /// As written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Tools of which a message must call one, or the condition is false.
    pub(crate) fn tools(&self) -> Option<&[Box<str>]> {
        self.tools.as_deref()
    }

    /// Whether an argument decides.
    pub(crate) fn reads_arguments(&self) -> bool {
        self.root.reads() == tree::Reads::Arguments
    }

    /// Asks it. An answer other than [`Answer::Open`] stays whatever becomes known; only the work for what was not known may
    /// yet turn out to be too much, and the answer then an error.
    pub(crate) fn ask(&self, head: &Head<'_>, facts: &dyn Facts) -> Answer {
        if self.is_about_another_tool(facts) {
            return Answer::Told(false);
        }
        let mut run = Run::new(head, facts);
        let told = run.value(&self.root);
        // What was not known may have cost more, or less, than what it will turn out to be.
        if run.cost.is_exhausted() {
            return if run.met_unknown { Answer::Open } else { Answer::Error };
        }
        match told {
            Ok(Value::Bool(told)) => Answer::Told(told),
            Err(Open::Unknown) => Answer::Open,
            Ok(_) | Err(Open::Error) => Answer::Error,
        }
    }

    /// Before all else, so that it makes no difference whether rules are looked up by their tools or asked in turn.
    fn is_about_another_tool(&self, facts: &dyn Facts) -> bool {
        let Some(tools) = self.tools() else { return false };
        facts.ask(&FactKey::Tool, &mut |tool| tools.iter().any(|name| **name == *tool)) == Truth::No
    }
}

/// Whether a rule can ask for `experimental.envoy.filters.<filter>[<key>]`: a fact that a protocol reader tells, or a
/// condition.
///
/// # Errors
/// What is not known, or what is wrong with the expression, where, and what to write instead.
pub fn check_fact(filter: &str, key: &str) -> Result<(), String> {
    match Condition::expression(filter, key) {
        Some(text) => Condition::compile(text).map(drop).map_err(|fault| fault.to_string()),
        None => FactKey::parse(filter, key).map(drop).map_err(|unknown| unknown.to_string()),
    }
}
