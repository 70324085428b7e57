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

/// Where it stands is not kept here but handed from step to step: a number in a register costs nothing, one in memory is
/// what each step waits for.
struct Reader<'b, 'l> {
    text: &'b str,
    bytes: &'b [u8],
    bounds: &'l Bounds,
    nodes: Vec<Node>,
    /// The innermost container that has not ended; before the first and after the last, [`Open::NOTHING`].
    open: Open,
    /// Those around it.
    around: Vec<Open>,
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
    /// Around the whole text.
    const NOTHING: Self = Self::new(0, Shape::Null);

    const fn new(place: usize, shape: Shape) -> Self {
        Self { place, shape, keys: 0, escaped_key: false, marks: 0, met: false }
    }

    #[inline]
    fn note(&mut self, key: &[u8], escaped: bool) {
        let mark = mark(key);
        self.keys += 1;
        self.escaped_key |= escaped;
        self.met |= self.marks & mark != 0;
        self.marks |= mark;
    }
}

/// Where a key stands among [`Open::marks`].
#[inline]
fn mark(key: &[u8]) -> u64 {
    let end = |byte: Option<&u8>| byte.map_or(0, |byte| u32::from(*byte));
    let (first, last) = (end(key.first()), end(key.last()));
    1 << ((first.wrapping_mul(7) ^ last.wrapping_mul(29) ^ key.len() as u32) & 63)
}

/// Where a value ended, or where the first inner value of one that opened begins.
enum Progress {
    Complete(usize),
    Inside(usize),
}

impl<'b, 'l> Reader<'b, 'l> {
    fn new(text: &'b str, bounds: &'l Bounds) -> Self {
        // A node per 8 bytes is more than most messages have; a hostile one grows the table.
        let nodes = Vec::with_capacity(text.len().min(1 << 16) / 8 + 4);
        let (bytes, around) = (text.as_bytes(), Vec::with_capacity(8));
        Self { text, bytes, bounds, nodes, open: Open::NOTHING, around, members: 0, keys: Vec::new() }
    }

    fn text(&mut self) -> Result<(), JsonError> {
        let mut at = self.space(0);
        loop {
            at = match self.value(at)? {
                Progress::Inside(inner) => inner,
                Progress::Complete(end) => match self.proceed(end)? {
                    Progress::Inside(next) => next,
                    Progress::Complete(end) if end == self.bytes.len() => return Ok(()),
                    Progress::Complete(_) => return Err(JsonError::Trailing),
                },
            }
        }
    }

    /// Reads one scalar, an empty container, or the opening of one.
    #[inline(always)]
    fn value(&mut self, at: usize) -> Result<Progress, JsonError> {
        let end = match self.bytes.get(at) {
            Some(b'"') => self.string(at)?.0,
            Some(b'{') => return self.container(at, Shape::Object, b'}'),
            Some(b'[') => return self.container(at, Shape::Array, b']'),
            Some(b'-' | b'0'..=b'9') => self.number(at)?,
            Some(b't') => self.literal(at, b"true", Shape::Bool)?,
            Some(b'f') => self.literal(at, b"false", Shape::Bool)?,
            Some(b'n') => self.literal(at, b"null", Shape::Null)?,
            _ => return Err(JsonError::Syntax),
        };
        Ok(Progress::Complete(end))
    }

    /// After a complete value: ends the containers that end here and moves to the next value, or to the end of the text.
    #[inline(always)]
    fn proceed(&mut self, mut at: usize) -> Result<Progress, JsonError> {
        loop {
            at = self.space(at);
            match (self.bytes.get(at), self.open.shape) {
                (Some(b','), shape @ (Shape::Object | Shape::Array)) => {
                    return self.inner(at + 1, shape).map(Progress::Inside);
                }
                (Some(b'}'), Shape::Object) | (Some(b']'), Shape::Array) => at = self.close(at)?,
                (_, Shape::Object | Shape::Array) => return Err(JsonError::Syntax),
                _whole => return Ok(Progress::Complete(at)),
            }
        }
    }

    #[inline(always)]
    fn container(&mut self, at: usize, shape: Shape, end: u8) -> Result<Progress, JsonError> {
        if self.around.len() >= self.bounds.depth {
            return Err(JsonError::Depth);
        }
        let outer = std::mem::replace(&mut self.open, Open::new(self.nodes.len(), shape));
        self.around.push(outer);
        self.push(shape, false, at, at);
        let inner = self.space(at + 1);
        if self.bytes.get(inner) == Some(&end) {
            return self.close(inner).map(Progress::Complete);
        }
        self.inner(inner, shape).map(Progress::Inside)
    }

    /// Moves to an inner value: counts it and, in an object, reads its key.
    #[inline(always)]
    fn inner(&mut self, at: usize, shape: Shape) -> Result<usize, JsonError> {
        self.members += 1;
        if self.members > self.bounds.members {
            return Err(JsonError::Members);
        }
        let at = self.space(at);
        if shape == Shape::Object { self.key(at) } else { Ok(at) }
    }

    /// Reads a key and its colon, up to the value.
    #[inline(always)]
    fn key(&mut self, at: usize) -> Result<usize, JsonError> {
        if self.bytes.get(at) != Some(&b'"') {
            return Err(JsonError::Syntax);
        }
        let (end, escaped) = self.string(at)?;
        let content = self.bytes.get(at + 1..end - 1).unwrap_or_default();
        if content.len() > self.bounds.key {
            return Err(JsonError::KeyLength);
        }
        if escaped && unescape(self.slice(at + 1, end - 1)).contains('\0') {
            return Err(JsonError::NulInKey);
        }
        self.open.note(content, escaped);
        let colon = self.space(end);
        if self.bytes.get(colon) != Some(&b':') {
            return Err(JsonError::Syntax);
        }
        Ok(self.space(colon + 1))
    }

    #[inline(always)]
    fn close(&mut self, at: usize) -> Result<usize, JsonError> {
        let Some(outer) = self.around.pop() else { return Err(JsonError::Syntax) };
        let open = std::mem::replace(&mut self.open, outer);
        let (end, next) = (at + 1, self.nodes.len() as u32);
        if let Some(node) = self.nodes.get_mut(open.place) {
            node.end = end as u32;
            node.next = next;
        }
        // Most objects are told by the marks of their keys; two spellings of one key have marks of their own.
        let suspicious = open.keys > 1 && (open.met || open.escaped_key);
        if suspicious && self.has_duplicate(&open) { Err(JsonError::DuplicateKey) } else { Ok(end) }
    }

    /// Reads the string whose quote is at `at`; gives its end, and whether it has escapes.
    #[inline(always)]
    fn string(&mut self, at: usize) -> Result<(usize, bool), JsonError> {
        let (mut end, mut escaped) = (at + 1, false);
        end += plain_run(self.bytes.get(end..).unwrap_or_default());
        if self.bytes.get(end) != Some(&b'"') {
            (end, escaped) = (escaped_end(self.bytes, end)?, true);
        }
        self.push(Shape::String, escaped, at, end + 1);
        Ok((end + 1, escaped))
    }

    #[inline(always)]
    fn number(&mut self, start: usize) -> Result<usize, JsonError> {
        let mut at = start + usize::from(self.is(start, b"-"));
        at = if self.is(at, b"0") { at + 1 } else { self.digits(at)? };
        if self.is(at, b".") {
            at = self.digits(at + 1)?;
        }
        if self.is(at, b"eE") {
            at += 1;
            at = self.digits(at + usize::from(self.is(at, b"+-")))?;
        }
        self.push(Shape::Number, false, start, at);
        Ok(at)
    }

    /// Where the digits from `at` on end; one at least.
    #[inline(always)]
    fn digits(&self, at: usize) -> Result<usize, JsonError> {
        let mut end = at;
        while self.bytes.get(end).is_some_and(u8::is_ascii_digit) {
            end += 1;
        }
        if end == at { Err(JsonError::Syntax) } else { Ok(end) }
    }

    #[inline(always)]
    fn literal(&mut self, at: usize, word: &[u8], shape: Shape) -> Result<usize, JsonError> {
        let end = at + word.len();
        if self.bytes.get(at..end) != Some(word) {
            return Err(JsonError::Syntax);
        }
        self.push(shape, false, at, end);
        Ok(end)
    }

    /// Whether one of these bytes is at `at`.
    #[inline(always)]
    fn is(&self, at: usize, bytes: &[u8]) -> bool {
        self.bytes.get(at).is_some_and(|byte| bytes.contains(byte))
    }

    /// Where the white space from `at` on ends.
    #[inline(always)]
    fn space(&self, mut at: usize) -> usize {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(at) {
            at += 1;
        }
        at
    }

    /// Notes a value. Spans fit: the length of the text was checked.
    #[inline(always)]
    fn push(&mut self, shape: Shape, escaped: bool, start: usize, end: usize) {
        let next = self.nodes.len() as u32 + 1;
        self.nodes.push(Node { shape, escaped, start: start as u32, end: end as u32, next });
    }

    fn slice(&self, start: usize, end: usize) -> &'b str {
        self.text.get(start..end).unwrap_or("")
    }

    /// Whether two keys of an object are the same text. Small objects are compared pair by pair, which allocates nothing; large
    /// ones are sorted, so 100,000 members cost no more than their sorting.
    #[cold]
    fn has_duplicate(&mut self, open: &Open) -> bool {
        const SMALL: usize = 16;
        match (open.keys, open.escaped_key) {
            (..=SMALL, false) => self.has_duplicate_pair::<SMALL>(open.place),
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

/// Where a string ends that has an escape at `at`: its closing quote.
fn escaped_end(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    loop {
        at = escape(bytes, at)?;
        at += plain_run(bytes.get(at..).unwrap_or_default());
        if bytes.get(at) == Some(&b'"') {
            return Ok(at);
        }
    }
}

/// Where the escape at `at` ends.
#[inline(always)]
fn escape(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    match bytes.get(at..) {
        Some([b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..]) => Ok(at + 2),
        Some([b'\\', b'u', ..]) => unicode_escape(bytes, at),
        _ => Err(JsonError::Syntax),
    }
}

fn unicode_escape(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let next = at + 6;
    match hex4(bytes, at + 2).ok_or(JsonError::Syntax)? {
        0xD800..=0xDBFF if bytes.get(next..next + 2) == Some(br"\u") => match hex4(bytes, next + 2) {
            Some(0xDC00..=0xDFFF) => Ok(next + 6),
            _ => Err(JsonError::LoneSurrogate),
        },
        0xD800..=0xDFFF => Err(JsonError::LoneSurrogate),
        _ => Ok(next),
    }
}
