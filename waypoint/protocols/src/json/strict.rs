//! The reader that refuses ambiguity: one pass, no recursion, nothing copied.
//!
//! What it accepts, every JSON parser that was measured reads alike, so the bytes can be forwarded as they came.

use super::document::{Document, Node, Shape};
use super::text::{hex4, plain_run, unescape};
use crate::reply::Malformed;
use ::http::StatusCode;
use std::borrow::Cow;

/// Bounds of one text.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nesting of objects and arrays.
    pub depth: usize,
    /// Object members and array elements, all levels together.
    pub members: usize,
    /// A key as written, in bytes without its quotes.
    pub key: usize,
}

/// Why a text is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Longer than 4 GiB, which spans of 32 bits cannot address.
    #[error("text too long")]
    TooLong,
    /// Begins with U+FEFF (RFC 8259 §8.1).
    #[error("byte order mark")]
    ByteOrderMark,
    /// Not UTF-8: overlong forms, UTF-16, UTF-32.
    #[error("not UTF-8")]
    NotUtf8,
    /// Not JSON: `NaN`, comments, trailing commas.
    #[error("not JSON")]
    Syntax,
    /// Something follows the first value.
    #[error("trailing bytes")]
    Trailing,
    /// An escaped surrogate without its other half.
    #[error("lone surrogate")]
    LoneSurrogate,
    /// Deeper than [`Bounds::depth`].
    #[error("nested too deep")]
    Depth,
    /// More than [`Bounds::members`].
    #[error("too many members")]
    Members,
    /// A key longer than [`Bounds::key`].
    #[error("key too long")]
    KeyLength,
    /// Two members of one object under one key, after unescaping.
    #[error("duplicate key")]
    DuplicateKey,
    /// U+0000 in a key, which ends it for some readers.
    #[error("U+0000 in a key")]
    NulInKey,
}

impl JsonError {
    /// What is wrong, as a bounded label.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLong => "body_too_large",
            Self::ByteOrderMark => "byte_order_mark",
            Self::NotUtf8 => "not_utf8",
            Self::Syntax => "not_json",
            Self::Trailing => "trailing_bytes",
            Self::LoneSurrogate => "lone_surrogate",
            Self::Depth => "too_deep",
            Self::Members => "too_many_members",
            Self::KeyLength => "key_too_long",
            Self::DuplicateKey => "duplicate_key",
            Self::NulInKey => "nul_in_key",
        }
    }
}

impl From<JsonError> for Malformed {
    fn from(error: JsonError) -> Self {
        let name = error.name();
        match error {
            JsonError::TooLong => Self::new(name, StatusCode::PAYLOAD_TOO_LARGE, -32600),
            JsonError::ByteOrderMark
            | JsonError::NotUtf8
            | JsonError::Syntax
            | JsonError::Trailing
            | JsonError::LoneSurrogate => Self::parse(name),
            JsonError::Depth
            | JsonError::Members
            | JsonError::KeyLength
            | JsonError::DuplicateKey
            | JsonError::NulInKey => Self::invalid(name),
        }
    }
}

/// See [`Document::read`].
pub(super) fn read<'b>(body: &'b [u8], bounds: &Bounds) -> Result<Document<'b>, JsonError> {
    if u32::try_from(body.len()).is_err() {
        return Err(JsonError::TooLong);
    }
    if body.starts_with(b"\xEF\xBB\xBF") {
        return Err(JsonError::ByteOrderMark);
    }
    let text = std::str::from_utf8(body).map_err(|_| JsonError::NotUtf8)?;
    let mut reader = Reader::new(text, bounds);
    reader.text()?;
    Ok(Document::new(text, reader.nodes))
}

struct Reader<'b, 'l> {
    text: &'b str,
    bytes: &'b [u8],
    bounds: &'l Bounds,
    at: usize,
    nodes: Vec<Node>,
    open: Vec<Open>,
    members: usize,
    /// Keys of one large object while it is checked; kept for its memory.
    keys: Vec<Cow<'b, str>>,
}

/// A container that has not ended.
struct Open {
    place: usize,
    shape: Shape,
    keys: usize,
    escaped_key: bool,
}

/// Whether a value is complete, or has opened and its first inner value comes next.
#[derive(PartialEq, Eq)]
enum Progress {
    Complete,
    Inside,
}

impl<'b, 'l> Reader<'b, 'l> {
    fn new(text: &'b str, bounds: &'l Bounds) -> Self {
        // A node per 16 bytes is more than most messages have; a hostile one grows the table.
        let nodes = Vec::with_capacity(text.len().min(1 << 16) / 16 + 4);
        let open = Vec::with_capacity(8);
        Self { text, bytes: text.as_bytes(), bounds, at: 0, nodes, open, members: 0, keys: Vec::new() }
    }

    fn text(&mut self) -> Result<(), JsonError> {
        self.skip_space();
        while self.value()? == Progress::Inside || self.proceed()? {}
        if self.at == self.bytes.len() { Ok(()) } else { Err(JsonError::Trailing) }
    }

    /// Reads one scalar, an empty container, or the opening of one.
    fn value(&mut self) -> Result<Progress, JsonError> {
        match self.peek() {
            Some(b'{') => return self.container(Shape::Object, b'}'),
            Some(b'[') => return self.container(Shape::Array, b']'),
            Some(b'"') => {
                self.string()?;
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal("true", Shape::Bool)?,
            Some(b'f') => self.literal("false", Shape::Bool)?,
            Some(b'n') => self.literal("null", Shape::Null)?,
            _ => return Err(JsonError::Syntax),
        }
        Ok(Progress::Complete)
    }

    /// After a complete value: ends the containers that end here and moves to the next value. `false`: all is read.
    fn proceed(&mut self) -> Result<bool, JsonError> {
        loop {
            self.skip_space();
            let Some(open) = self.open.last() else { return Ok(false) };
            match (self.peek(), open.shape) {
                (Some(b','), shape) => {
                    self.at += 1;
                    self.skip_space();
                    self.begin_inner(shape)?;
                    return Ok(true);
                }
                (Some(b'}'), Shape::Object) | (Some(b']'), Shape::Array) => self.close()?,
                _ => return Err(JsonError::Syntax),
            }
        }
    }

    fn container(&mut self, shape: Shape, end: u8) -> Result<Progress, JsonError> {
        if self.open.len() >= self.bounds.depth {
            return Err(JsonError::Depth);
        }
        self.open.push(Open { place: self.nodes.len(), shape, keys: 0, escaped_key: false });
        self.push(shape, false, self.at, self.at);
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(end) {
            self.close()?;
            return Ok(Progress::Complete);
        }
        self.begin_inner(shape)?;
        Ok(Progress::Inside)
    }

    /// Before an inner value: counts it and, in an object, reads its key.
    fn begin_inner(&mut self, shape: Shape) -> Result<(), JsonError> {
        self.members += 1;
        if self.members > self.bounds.members {
            return Err(JsonError::Members);
        }
        if shape == Shape::Object { self.key() } else { Ok(()) }
    }

    fn key(&mut self) -> Result<(), JsonError> {
        if self.peek() != Some(b'"') {
            return Err(JsonError::Syntax);
        }
        let from = self.at + 1;
        let escaped = self.string()?;
        let content = self.slice(from, self.at - 1);
        if content.len() > self.bounds.key {
            return Err(JsonError::KeyLength);
        }
        if escaped && unescape(content).contains('\0') {
            return Err(JsonError::NulInKey);
        }
        if let Some(open) = self.open.last_mut() {
            open.keys += 1;
            open.escaped_key |= escaped;
        }
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(JsonError::Syntax);
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn close(&mut self) -> Result<(), JsonError> {
        let Some(open) = self.open.pop() else { return Err(JsonError::Syntax) };
        self.at += 1;
        let next = self.nodes.len() as u32;
        if let Some(node) = self.nodes.get_mut(open.place) {
            node.end = self.at as u32;
            node.next = next;
        }
        if self.has_duplicate(&open) { Err(JsonError::DuplicateKey) } else { Ok(()) }
    }

    /// Reads a string; tells whether it has escapes.
    fn string(&mut self) -> Result<bool, JsonError> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_run(self.bytes.get(self.at..).unwrap_or(&[]));
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(JsonError::Syntax),
            }
            escaped = true;
        }
        self.at += 1;
        self.push(Shape::String, escaped, start, self.at);
        Ok(escaped)
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => self.unicode_escape()?,
            _ => return Err(JsonError::Syntax),
        }
        Ok(())
    }

    fn unicode_escape(&mut self) -> Result<(), JsonError> {
        let unit = hex4(self.bytes, self.at + 2).ok_or(JsonError::Syntax)?;
        self.at += 6;
        match unit {
            0xD800..=0xDBFF if self.bytes.get(self.at..self.at + 2) == Some(br"\u") => {
                match hex4(self.bytes, self.at + 2) {
                    Some(0xDC00..=0xDFFF) => self.at += 6,
                    _ => return Err(JsonError::LoneSurrogate),
                }
            }
            0xD800..=0xDFFF => return Err(JsonError::LoneSurrogate),
            _ => {}
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.accept(b"-");
        if !self.accept(b"0") {
            self.digits()?;
        }
        if self.accept(b".") {
            self.digits()?;
        }
        if self.accept(b"eE") {
            self.accept(b"+-");
            self.digits()?;
        }
        self.push(Shape::Number, false, start, self.at);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(JsonError::Syntax) } else { Ok(()) }
    }

    fn literal(&mut self, word: &str, shape: Shape) -> Result<(), JsonError> {
        let end = self.at + word.len();
        if self.bytes.get(self.at..end) != Some(word.as_bytes()) {
            return Err(JsonError::Syntax);
        }
        self.push(shape, false, self.at, end);
        self.at = end;
        Ok(())
    }

    fn accept(&mut self, any: &[u8]) -> bool {
        let found = self.peek().is_some_and(|b| any.contains(&b));
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Notes a value. Spans fit: the length of the text was checked.
    fn push(&mut self, shape: Shape, escaped: bool, start: usize, end: usize) {
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { shape, escaped, start: start as u32, end: end as u32, next });
    }

    fn slice(&self, start: usize, end: usize) -> &'b str {
        self.text.get(start..end).unwrap_or("")
    }

    /// Whether two keys of an object are the same text. Small objects are compared pair by pair, which allocates
    /// nothing; large ones are sorted, so 100,000 members cost no more than their sorting.
    fn has_duplicate(&mut self, open: &Open) -> bool {
        const SMALL: usize = 16;
        match (open.keys, open.escaped_key) {
            (0 | 1, _) => false,
            (2..=SMALL, false) => self.has_duplicate_pair::<SMALL>(open.place),
            _ => self.has_duplicate_sorted(open.place),
        }
    }

    fn has_duplicate_pair<const N: usize>(&self, object: usize) -> bool {
        let mut seen = [""; N];
        for (count, key) in self.key_nodes(object).enumerate() {
            let key = self.slice(key.start as usize, key.end as usize);
            if seen.iter().take(count).any(|earlier| *earlier == key) {
                return true;
            }
            if let Some(slot) = seen.get_mut(count) {
                *slot = key;
            }
        }
        false
    }

    fn has_duplicate_sorted(&mut self, object: usize) -> bool {
        let mut keys = std::mem::take(&mut self.keys);
        keys.clear();
        keys.extend(self.key_nodes(object).map(|key| {
            let content = self.slice(key.start as usize + 1, key.end as usize - 1);
            if key.escaped { Cow::Owned(unescape(content)) } else { Cow::Borrowed(content) }
        }));
        keys.sort_unstable();
        let duplicate = keys.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
        self.keys = keys;
        duplicate
    }

    /// Keys of a closed object: every other node on its level.
    fn key_nodes(&self, object: usize) -> impl Iterator<Item = Node> {
        let end = self.nodes.get(object).map_or(0, |node| node.next as usize);
        let mut at = object + 1;
        std::iter::from_fn(move || {
            let key = *self.nodes.get(at).filter(|_| at < end)?;
            at = self.nodes.get(at + 1)?.next as usize;
            Some(key)
        })
    }
}
