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
    /// A bit for each key so far, by its length and ends, and whether two met: where none did, no two keys are the same.
    marks: u64,
    met: bool,
}

impl Open {
    fn new(place: usize, shape: Shape) -> Self {
        Self { place, shape, keys: 0, escaped_key: false, marks: 0, met: false }
    }
}

/// Where a key stands among [`Open::marks`].
fn mark(key: &str) -> u64 {
    let end = |byte: Option<&u8>| byte.map_or(0, |byte| u32::from(*byte));
    let (first, last) = (end(key.as_bytes().first()), end(key.as_bytes().last()));
    1 << ((first.wrapping_mul(7) ^ last.wrapping_mul(29) ^ key.len() as u32) & 63)
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
        self.open.push(Open::new(self.nodes.len(), shape));
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
            let mark = mark(content);
            open.keys += 1;
            open.escaped_key |= escaped;
            open.met |= open.marks & mark != 0;
            open.marks |= mark;
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
        let (mut at, mut escaped) = (start + 1, false);
        loop {
            at += plain_run(self.bytes.get(at..).unwrap_or_default());
            match self.bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => at = self.escape(at)?,
                _ => return Err(JsonError::Syntax),
            }
            escaped = true;
        }
        self.at = at + 1;
        self.push(Shape::String, escaped, start, self.at);
        Ok(escaped)
    }

    /// Where the escape at `at` ends.
    #[inline]
    fn escape(&self, at: usize) -> Result<usize, JsonError> {
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => self.unicode_escape(at),
            _ => Err(JsonError::Syntax),
        }
    }

    fn unicode_escape(&self, at: usize) -> Result<usize, JsonError> {
        let next = at + 6;
        match hex4(self.bytes, at + 2).ok_or(JsonError::Syntax)? {
            0xD800..=0xDBFF if self.bytes.get(next..next + 2) == Some(br"\u") => {
                match hex4(self.bytes, next + 2) {
                    Some(0xDC00..=0xDFFF) => Ok(next + 6),
                    _ => Err(JsonError::LoneSurrogate),
                }
            }
            0xD800..=0xDFFF => Err(JsonError::LoneSurrogate),
            _ => Ok(next),
        }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.accept(|byte| byte == b'-');
        if !self.accept(|byte| byte == b'0') {
            self.digits()?;
        }
        if self.accept(|byte| byte == b'.') {
            self.digits()?;
        }
        if self.accept(|byte| matches!(byte, b'e' | b'E')) {
            self.accept(|byte| matches!(byte, b'+' | b'-'));
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

    #[inline]
    fn accept(&mut self, wanted: impl Fn(u8) -> bool) -> bool {
        let found = self.peek().is_some_and(wanted);
        self.at += usize::from(found);
        found
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
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

    /// Whether two keys of an object are the same text. Most objects are told by the marks of their keys. Small ones are
    /// compared pair by pair, which allocates nothing; large ones are sorted, so 100,000 members cost no more than their sorting.
    fn has_duplicate(&mut self, open: &Open) -> bool {
        const SMALL: usize = 16;
        match (open.keys, open.escaped_key) {
            (0 | 1, _) => false,
            // Two spellings of one key have marks of their own.
            (_, false) if !open.met => false,
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
