//! What is done with each message, field and value: the trailing comments of `proto/`, as a table.

/// What the translators do with something that istiod sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It becomes part of the model.
    Used,
    /// It is left out, and this is why that cannot weaken anything.
    Ignored(&'static str),
    /// Where it is set, what it belongs to is refused, and this is why.
    Refused(&'static str),
}

/// A message of `proto/`.
#[derive(Debug)]
pub struct Message {
    /// Its full name, as in a type URL.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub doc: &'static str,
    /// What is done where a filter or extension is of this type.
    pub treatment: Treatment,
    /// Its fields, by number.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name, in snake case.
    pub name: &'static str,
    /// What is done with it.
    pub treatment: Treatment,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
}

/// An enumeration.
#[derive(Debug)]
pub struct Enum {
    /// Its full name.
    pub name: &'static str,
    /// Its values.
    pub values: &'static [Value],
}

/// A value of an enumeration.
#[derive(Debug)]
pub struct Value {
    /// Its number on the wire.
    pub number: i32,
    /// Its name.
    pub name: &'static str,
    /// What is done with it.
    pub treatment: Treatment,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Scalar(Wire),
    /// Index into [`ENUMS`].
    Enum(usize),
    /// Index into [`MESSAGES`].
    Message(usize),
    Any,
    /// A well-known type (Duration, wrappers, Struct), whose fields never change.
    Opaque,
    Map {
        text_key: bool,
        value: &'static Self,
    },
}

/// Wire types of protobuf that are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Fixed32,
}

include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// All messages, by name.
pub fn messages() -> &'static [Message] {
    MESSAGES
}

/// All enumerations, by name.
pub fn enums() -> &'static [Enum] {
    ENUMS
}

/// The message of this full name.
pub fn message(name: &str) -> Option<&'static Message> {
    let index = MESSAGES.binary_search_by(|message| message.name.cmp(name)).ok()?;
    MESSAGES.get(index)
}
