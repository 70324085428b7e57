//! Decoding that says what it did not understand.

use bytes::Bytes;
use prost::{Message, Name};

use crate::finding::Finding;
use crate::inspect::{Nested, inspect};
use crate::wire::Malformed;
use crate::{Any, table};

/// A message, and what of it must not be passed over.
#[derive(Clone, Debug)]
#[must_use = "findings decide whether the message may be used"]
pub struct Decoded<M> {
    /// What was understood.
    pub message: M,
    /// What was not, or is to be refused; empty for a message that may be used as it is.
    pub findings: Vec<Finding>,
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not an encoding of the message.
    #[error("{name} does not decode")]
    Malformed {
        /// The message's full name.
        name: &'static str,
        /// What prost says.
        #[source]
        source: prost::DecodeError,
    },
    /// Bytes that prost takes and the walk does not: the same error for the caller, kept apart for the reader.
    #[error("{name} does not decode")]
    Wire {
        /// The message's full name.
        name: &'static str,
        /// What the walk says.
        #[source]
        source: Malformed,
    },
    /// The `Any` holds another type.
    #[error("expected {expected}, found {found:?}")]
    Type {
        /// The full name asked for.
        expected: String,
        /// The type URL that is there.
        found: String,
    },
    /// A message without a row in the table; not reachable for messages of this crate.
    #[error("{0} is not in the table")]
    NotOurs(String),
}

/// Decodes a message. Findings inside an `Any` are left to [`unpack`], so that each is charged to its own place.
pub fn decode<M: Message + Name + Default>(bytes: Bytes) -> Result<Decoded<M>, DecodeError> {
    let row = table::message(&M::full_name()).ok_or_else(|| DecodeError::NotOurs(M::full_name()))?;
    let findings =
        inspect(row, &bytes, Nested::Leave).map_err(|source| DecodeError::Wire { name: row.name, source })?;
    let message = M::decode(bytes).map_err(|source| DecodeError::Malformed { name: row.name, source })?;
    Ok(Decoded { message, findings })
}

/// Decodes the message inside an `Any`, which must be of this type.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<Decoded<M>, DecodeError> {
    if any.type_name() != M::full_name() {
        return Err(DecodeError::Type { expected: M::full_name(), found: any.type_url.clone() });
    }
    decode(any.value.clone())
}
