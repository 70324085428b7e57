//! A JSON text that was read: a flat table of spans over the bytes as they came.

use super::decimal::canonical;
use super::strict::{self, Bounds, JsonError};
use super::text::{folds_to, unescape};
use std::borrow::Cow;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object.
    Object,
    /// An array.
    Array,
    /// A string.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
}

/// One value, or the key of a member, which stands right before its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) shape: Shape,
    /// A string with a backslash in it.
    pub(super) escaped: bool,
    /// First byte of the value, and the byte after its last.
    pub(super) start: u32,
    pub(super) end: u32,
    /// The node after everything inside this one.
    pub(super) next: u32,
}

/// One JSON text, read strictly. Borrows the bytes.
#[derive(Debug)]
pub struct Document<'b> {
    text: &'b str,
    nodes: Vec<Node>,
}

impl<'b> Document<'b> {
    /// Reads `body` as exactly one JSON text (RFC 8259), in one pass and without recursion.
    ///
    /// Time is O(n log n) at worst and memory O(`bounds.members`), whatever the text.
    ///
    /// # Errors
    /// [`JsonError`] for what two readers could take differently: see its variants.
    pub fn read(body: &'b [u8], bounds: &Bounds) -> Result<Self, JsonError> {
        strict::read(body, bounds)
    }

    pub(super) fn new(text: &'b str, nodes: Vec<Node>) -> Self {
        Self { text, nodes }
    }

    /// The value that the text is.
    pub fn root(&self) -> Value<'_, 'b> {
        self.at(0)
    }

    /// The value at a place that [`Value::place`] told of this document.
    pub(crate) fn at(&self, place: usize) -> Value<'_, 'b> {
        Value { document: self, place }
    }

    fn node(&self, place: usize) -> Option<&Node> {
        self.nodes.get(place)
    }

    fn slice(&self, start: usize, end: usize) -> &'b str {
        self.text.get(start..end).unwrap_or("")
    }
}

/// A value in a [`Document`].
#[derive(Clone, Copy, Debug)]
pub struct Value<'d, 'b> {
    document: &'d Document<'b>,
    place: usize,
}

impl<'d, 'b> Value<'d, 'b> {
    /// What the value is.
    pub fn shape(self) -> Shape {
        self.document.node(self.place).map_or(Shape::Null, |node| node.shape)
    }

    /// The bytes from where to where, in the text.
    pub fn span(self) -> (usize, usize) {
        self.document.node(self.place).map_or((0, 0), |node| (node.start as usize, node.end as usize))
    }

    /// The value as it is written.
    pub fn raw(self) -> &'b str {
        let (start, end) = self.span();
        self.document.slice(start, end)
    }

    /// The text of a string, unescaped; `None` for anything else.
    pub fn as_str(self) -> Option<Cow<'b, str>> {
        let node = self.document.node(self.place).filter(|node| node.shape == Shape::String)?;
        let content = self.document.slice(node.start as usize + 1, (node.end as usize).saturating_sub(1));
        Some(if node.escaped { Cow::Owned(unescape(content)) } else { Cow::Borrowed(content) })
    }

    /// Members of an object in their order; none for anything else.
    pub fn members(self) -> Members<'d, 'b> {
        Members(self.inside(Shape::Object))
    }

    /// Elements of an array in their order; none for anything else.
    pub fn elements(self) -> Elements<'d, 'b> {
        Elements(self.inside(Shape::Array))
    }

    /// The member of an object under exactly `key`.
    pub fn get(self, key: &str) -> Option<Self> {
        self.members().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// As [`Self::get`], and whether readers could differ in which member that is.
    pub fn look_up(self, key: &str) -> LookedUp<'d, 'b> {
        let mut looked = LookedUp { found: None, has_twin: false, walked: 0 };
        for (name, value) in self.members() {
            looked.walked += 1;
            if name == key {
                looked.found = Some(value);
            } else {
                looked.has_twin |= folds_to(&name, key);
            }
        }
        looked
    }

    /// The shortest plain decimal of a number (`1.0`, `1e0` and `10e-1` are all `1`).
    ///
    /// `None` for anything else, and where readers disagree on the value: outside the range of a double, with digits that
    /// a double drops, or of more than 64 bytes.
    pub fn as_decimal(self) -> Option<String> {
        if self.is(Shape::Number) { canonical(self.raw()) } else { None }
    }

    pub(crate) fn is(self, shape: Shape) -> bool {
        self.shape() == shape
    }

    pub(crate) fn place(self) -> usize {
        self.place
    }

    fn inside(self, shape: Shape) -> Walk<'d, 'b> {
        let end = match self.document.node(self.place) {
            Some(node) if node.shape == shape => node.next as usize,
            _ => 0,
        };
        Walk { document: self.document, at: self.place + 1, end }
    }
}

/// What [`Value::look_up`] found.
#[derive(Clone, Copy, Debug)]
pub struct LookedUp<'d, 'b> {
    /// The member under exactly the key.
    pub found: Option<Value<'d, 'b>>,
    /// Whether there is another that a reader which ignores case would take for it.
    pub has_twin: bool,
    /// How many members were looked at.
    pub walked: usize,
}

/// The siblings inside one container.
#[derive(Clone, Debug)]
struct Walk<'d, 'b> {
    document: &'d Document<'b>,
    at: usize,
    end: usize,
}

impl<'d, 'b> Iterator for Walk<'d, 'b> {
    type Item = Value<'d, 'b>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let value = Value { document: self.document, place: self.at };
        self.at = self.document.node(self.at)?.next as usize;
        Some(value)
    }
}

/// Members of an object; see [`Value::members`].
#[derive(Clone, Debug)]
pub struct Members<'d, 'b>(Walk<'d, 'b>);

impl<'d, 'b> Iterator for Members<'d, 'b> {
    type Item = (Cow<'b, str>, Value<'d, 'b>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?.as_str()?;
        Some((key, self.0.next()?))
    }
}

/// Elements of an array; see [`Value::elements`].
#[derive(Clone, Debug)]
pub struct Elements<'d, 'b>(Walk<'d, 'b>);

impl<'d, 'b> Iterator for Elements<'d, 'b> {
    type Item = Value<'d, 'b>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
