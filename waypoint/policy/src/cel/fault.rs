//! Why an expression cannot be used, and where.

use super::names;

/// Longest expression, in bytes.
pub(super) const MAX_LENGTH: usize = 4 << 10;
/// Deepest nesting. It bounds the stack, when an expression is read and when it is asked.
pub(super) const MAX_DEPTH: usize = 32;
/// Longest regular expression, in bytes.
pub(super) const MAX_PATTERN: usize = 512;
/// Most memory of a compiled regular expression, in bytes.
pub(super) const MAX_PATTERN_SIZE: usize = 64 << 10;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at column {column} of the expression{}: {what}", before(.rest))]
pub(crate) struct Fault {
    /// Characters from the beginning of the expression; the first is 1.
    pub(super) column: usize,
    /// What stands there, shortened.
    pub(super) rest: String,
    pub(super) what: What,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum What {
    #[error("an expression has at most {MAX_LENGTH} bytes")]
    TooLong,
    #[error("an expression has at most {MAX_DEPTH} levels")]
    TooDeep,
    #[error("{0} is expected")]
    Expected(&'static str),
    #[error("a text without its end")]
    OpenText,
    #[error("not an escape that CEL knows")]
    Escape,
    #[error("a number outside of its range")]
    Number,
    #[error("{what} not supported here; {instead}")]
    Unsupported { what: &'static str, instead: &'static str },
    #[error("unknown variable `{name}`; there are {}", names::VARIABLES)]
    Variable { name: String },
    #[error("unknown function `{name}`; there are {}", names::FUNCTIONS)]
    Function { name: String },
    #[error("`{root}` has no field `{name}`; there are {fields}")]
    Field { root: &'static str, name: String, fields: &'static str },
    #[error("`{root}` is no value of its own; ask for one of its fields: {fields}")]
    NoValue { root: &'static str, fields: &'static str },
    #[error("`{name}` takes {takes}")]
    Arguments { name: String, takes: &'static str },
    #[error("`{0}` is already the name of something else")]
    Taken(String),
    #[error("names of headers are in lower case and are written out, as in request.headers[\"x-team\"]")]
    Header,
    #[error("not a regular expression: {0}")]
    Pattern(String),
    #[error("{left} and {right} are never equal and have no order")]
    NeverEqual { left: &'static str, right: &'static str },
    #[error("{0} is neither true nor false")]
    NoTruth(&'static str),
}

/// What stands at the fault.
fn before(rest: &str) -> String {
    if rest.is_empty() { ", its end".to_owned() } else { format!(", before `{rest}`") }
}

impl Fault {
    /// A fault at a byte of the text.
    pub(super) fn at(text: &str, byte: usize, what: What) -> Self {
        /// Characters that show the place.
        const SHOWN: usize = 24;
        let (gone, rest) = text.split_at_checked(byte).unwrap_or((text, ""));
        Self { column: gone.chars().count() + 1, rest: rest.chars().take(SHOWN).collect(), what }
    }
}
