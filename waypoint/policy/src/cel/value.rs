//! Values, borrowed from the message where they can be.

use std::borrow::Cow;
use std::rc::Rc;

use agent_protocols::json::{self, Shape};
use serde_json::Map;

use super::number;

/// A value of an expression.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Finite.
    Double(f64),
    Text(Cow<'a, str>),
    List(Rc<[Self]>),
    /// An array of the message.
    Array(json::Value<'a, 'a>),
    /// An object of the message.
    Object(json::Value<'a, 'a>),
    /// A list of the token.
    Entries(&'a [serde_json::Value]),
    /// An object of the token.
    Claims(&'a Map<String, serde_json::Value>),
    /// Arguments of a message that has none, claims of a request without a token.
    Nothing,
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// It is not known yet.
    Unknown,
    /// There is none.
    Error,
}

/// Longest number that is read as it stands: every reader takes a whole number of so many characters for the same.
const SHORT: usize = 15;

impl<'a> Value<'a> {
    /// A value of the message. Numbers are what all readers take them for: whole ones of 64 bits or doubles, or an error
    /// (outside the range of a double, or with digits that a double drops).
    pub(super) fn of_message(value: json::Value<'a, 'a>) -> Result<Self, Open> {
        Ok(match value.shape() {
            Shape::Null => Self::Null,
            Shape::Bool => Self::Bool(value.raw() == "true"),
            Shape::String => Self::Text(value.as_str().ok_or(Open::Error)?),
            Shape::Array => Self::Array(value),
            Shape::Object => Self::Object(value),
            Shape::Number => return Self::of_number(value),
        })
    }

    fn of_number(value: json::Value<'a, 'a>) -> Result<Self, Open> {
        let written = value.raw();
        if let Some(whole) =
            Some(written).filter(|text| text.len() <= SHORT).and_then(|text| text.parse().ok())
        {
            return Ok(Self::Int(whole));
        }
        let decimal = value.as_decimal().ok_or(Open::Error)?;
        match decimal.parse() {
            Ok(whole) => Ok(Self::Int(whole)),
            Err(_) => decimal.parse().map_err(|_| Open::Error).and_then(Self::of_double),
        }
    }

    /// A value of the token.
    pub(super) fn of_claim(value: &'a serde_json::Value) -> Result<Self, Open> {
        Ok(match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(holds) => Self::Bool(*holds),
            serde_json::Value::String(text) => Self::Text(Cow::Borrowed(text)),
            serde_json::Value::Array(entries) => Self::Entries(entries),
            serde_json::Value::Object(members) => Self::Claims(members),
            serde_json::Value::Number(number) => match (number.as_i64(), number.is_f64(), number.as_f64()) {
                (Some(whole), ..) => Self::Int(whole),
                (None, true, Some(double)) => {
                    let double = Self::of_double(double)?;
                    if let Self::Double(inner) = double {
                        number::whole(inner).map_or(double, Self::Int)
                    } else {
                        double
                    }
                }
                _ => return Err(Open::Error),
            },
        })
    }

    /// A double; an error if it is none that counts.
    pub(super) fn of_double(double: f64) -> Result<Self, Open> {
        if double.is_finite() { Ok(Self::Double(double)) } else { Err(Open::Error) }
    }

    pub(super) fn of_count(count: usize) -> Result<Self, Open> {
        i64::try_from(count).map(Self::Int).map_err(|_| Open::Error)
    }

    pub(super) fn truth(&self) -> Result<bool, Open> {
        if let Self::Bool(holds) = self { Ok(*holds) } else { Err(Open::Error) }
    }

    pub(super) fn text(&self) -> Result<&str, Open> {
        if let Self::Text(text) = self { Ok(text) } else { Err(Open::Error) }
    }

    /// What a copy costs.
    pub(super) fn weight(&self) -> usize {
        if let Self::Text(Cow::Owned(text)) = self { text.len() } else { 0 }
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self, Self::Object(_) | Self::Claims(_) | Self::Nothing)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::List(_) | Self::Array(_) | Self::Entries(_))
    }
}
