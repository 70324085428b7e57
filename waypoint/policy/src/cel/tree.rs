//! What an expression is once it is read.

use agent_protocols::FactKey;
use http::HeaderName;

use super::names::{Function, Macro, SourceField};

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Box<str>),
    List(Vec<Self>),
    /// `tool` or `method`: the empty text where the message has none.
    Fact(FactKey),
    /// `tool == "a"`, `tool in ["a", "b"]`: asked without a copy of the name. No value is empty.
    FactIs(FactKey, Vec<Box<str>>),
    Args,
    Claims,
    Source(SourceField),
    Header(HeaderName),
    /// A variable of a macro, by the number of those around it.
    Local(usize),
    Select(Box<Self>, Box<str>),
    Has(Box<Self>),
    Index(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Negate(Box<Self>),
    /// `&&`. What needs less of the message to be read stands first, which `&&` and `||` do not mind.
    All(Vec<Self>),
    /// `||`
    Any(Vec<Self>),
    If(Box<[Self; 3]>),
    Compare(Compare, Box<[Self; 2]>),
    In(Box<[Self; 2]>),
    Math(Math, Box<[Self; 2]>),
    Call(Function, Vec<Self>),
    Matches(Box<Self>, Pattern),
    /// What to do, over what, and what is asked of each.
    Each(Macro, Box<[Self; 2]>),
}

/// A compiled regular expression that may stand anywhere in a text.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) compiled: regex::Regex,
    /// What each byte of a text may cost.
    pub(super) cost: u64,
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

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Math {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// What an expression needs, from what is known first to what is known last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reads {
    /// The head of the request.
    Head,
    /// The name of what is called.
    Name,
    /// The arguments of the call.
    Arguments,
}

/// The type of a value, where it is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
    List,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "a truth value",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List => "a list",
        }
    }
}

impl Node {
    /// `&&` of parts.
    pub(super) fn all(parts: Vec<Self>) -> Self {
        let inner = |part| if let Self::All(inner) = part { inner } else { vec![part] };
        join(parts.into_iter().flat_map(inner).collect(), Self::All)
    }

    /// `||` of parts.
    pub(super) fn any(parts: Vec<Self>) -> Self {
        let inner = |part| if let Self::Any(inner) = part { inner } else { vec![part] };
        join(parts.into_iter().flat_map(inner).collect(), Self::Any)
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Bool(_)
            | Self::FactIs(..)
            | Self::Has(_)
            | Self::Not(_)
            | Self::All(_)
            | Self::Any(_)
            | Self::Compare(..)
            | Self::In(_)
            | Self::Matches(..)
            | Self::Each(Macro::All | Macro::Exists | Macro::ExistsOne, _)
            | Self::Call(Function::Contains | Function::StartsWith | Function::EndsWith, _) => Kind::Bool,
            Self::Int(_)
            | Self::Double(_)
            | Self::Negate(_)
            | Self::Call(Function::Size | Function::Int | Function::Double, _)
            | Self::Math(Math::Subtract | Math::Multiply | Math::Divide | Math::Remainder, _) => Kind::Number,
            Self::Text(_)
            | Self::Fact(_)
            | Self::Source(_)
            | Self::Header(_)
            | Self::Call(Function::String, _) => Kind::Text,
            Self::List(_) | Self::Each(Macro::Filter | Macro::Map, _) => Kind::List,
            Self::Math(Math::Add, parts) => {
                let [left, right] = &**parts;
                return left.kind().or_else(|| right.kind());
            }
            Self::If(parts) => {
                let [_, yes, no] = &**parts;
                return yes.kind().filter(|kind| no.kind() == Some(*kind));
            }
            Self::Null | Self::Args | Self::Claims | Self::Local(_) | Self::Select(..) | Self::Index(..) => {
                return None;
            }
        })
    }

    /// What it needs.
    pub(super) fn reads(&self) -> Reads {
        let own = match self {
            Self::Args => Reads::Arguments,
            Self::Fact(_) | Self::FactIs(..) => Reads::Name,
            _ => Reads::Head,
        };
        self.parts().map(Self::reads).fold(own, Reads::max)
    }

    /// Levels of nesting.
    pub(super) fn depth(&self) -> usize {
        self.parts().map(Self::depth).max().unwrap_or(0) + 1
    }

    /// Names of which `tool` must be one, or the whole is false.
    pub(super) fn tools(&self) -> Option<Vec<Box<str>>> {
        match self {
            Self::FactIs(FactKey::Tool, names) => Some(names.clone()),
            // A part that is false decides, beside an error too.
            Self::All(parts) => parts.iter().filter_map(Self::tools).min_by_key(Vec::len),
            Self::Any(parts) => {
                parts.iter().map(Self::tools).collect::<Option<Vec<_>>>().map(|lists| lists.concat())
            }
            _ => None,
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Self> {
        let (one, many): (Option<&Self>, &[Self]) = match self {
            Self::Select(of, _) | Self::Has(of) | Self::Not(of) | Self::Negate(of) | Self::Matches(of, _) => {
                (Some(of), &[])
            }
            Self::Index(of, at) => (Some(of), std::slice::from_ref(&**at)),
            Self::List(parts) | Self::All(parts) | Self::Any(parts) | Self::Call(_, parts) => (None, parts),
            Self::If(parts) => (None, &**parts),
            Self::Compare(_, parts) | Self::In(parts) | Self::Math(_, parts) | Self::Each(_, parts) => {
                (None, &**parts)
            }
            Self::Null
            | Self::Bool(_)
            | Self::Int(_)
            | Self::Double(_)
            | Self::Text(_)
            | Self::Fact(_)
            | Self::FactIs(..)
            | Self::Args
            | Self::Claims
            | Self::Source(_)
            | Self::Header(_)
            | Self::Local(_) => (None, &[]),
        };
        one.into_iter().chain(many)
    }
}

/// The only part, or all of them in the order in which they become known.
fn join(mut parts: Vec<Node>, many: impl Fn(Vec<Node>) -> Node) -> Node {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            parts.extend(last);
            parts.sort_by_key(Node::reads);
            many(parts)
        }
    }
}
