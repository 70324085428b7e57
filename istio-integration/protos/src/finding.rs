//! What an inspection finds, and where.

use std::fmt;

/// One step into a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Into this field.
    Field(&'static str),
    /// To this element of the repeated field before.
    Index(usize),
    /// To the value of this key of the map before.
    Key(String),
    /// Into the message of this type inside the `Any` before.
    Type(&'static str),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A field that is not in `proto/`.
    UnknownField {
        /// Its number.
        number: u32,
    },
    /// A value that its enumeration does not have. prost would read it as the first value of the enumeration.
    UnknownValue {
        /// The number of the value.
        number: i32,
    },
    /// An `Any` of a type that is not in `proto/`.
    UnknownType {
        /// Its type URL.
        type_url: String,
    },
    /// A field, a value or a type that `proto/` says to refuse.
    Refused {
        /// Why.
        why: &'static str,
    },
}

/// Something in a message that must not be passed over.
///
/// Where it stands decides what follows: in a security filter the whole resource is refused (NACK), elsewhere the
/// chain, route or cluster it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The full name of the message that was inspected.
    pub root: &'static str,
    /// The way from there to the message that holds it. For a refused field, an unknown value and an unknown type
    /// the field itself is the last step.
    pub path: Vec<Step>,
    /// What it is.
    pub what: What,
}

impl Finding {
    /// Whether this stands in element `index` of the repeated field `field` of the inspected message: a way to charge
    /// a finding in a listener to its filter chain, or one in a list of routes to its route.
    pub fn is_in(&self, field: &str, index: usize) -> bool {
        matches!(self.path.as_slice(), [Step::Field(name), Step::Index(at), ..] if *name == field && *at == index)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.root)?;
        for step in &self.path {
            match step {
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(at) => write!(f, "[{at}]")?,
                Step::Key(key) => write!(f, "[{key:?}]")?,
                Step::Type(name) => write!(f, "({name})")?,
            }
        }
        match &self.what {
            What::UnknownField { number } => write!(f, ": field {number} unknown"),
            What::UnknownValue { number } => write!(f, ": value {number} unknown"),
            What::UnknownType { type_url } => write!(f, ": type {type_url:?} unknown"),
            What::Refused { why } => write!(f, ": refused, {why}"),
        }
    }
}
