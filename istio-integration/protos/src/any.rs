//! `google.protobuf.Any` whose value is a slice of the response that brought it.

use bytes::Bytes;

/// The prefix of every type URL that istiod sends.
pub const TYPE_PREFIX: &str = "type.googleapis.com/";

/// A message of any type, encoded. Unlike `prost_types::Any` its value is not copied at each level.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Any {
    /// Which type: `type.googleapis.com/` and the full name.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl Any {
    /// Packs a message.
    pub fn pack<M: prost::Message + prost::Name>(message: &M) -> Self {
        Self { type_url: format!("{TYPE_PREFIX}{}", M::full_name()), value: message.encode_to_vec().into() }
    }

    /// The full name of the type: what follows the last slash of the URL.
    pub fn type_name(&self) -> &str {
        type_name(&self.type_url)
    }
}

/// The full name in a type URL: what follows the last slash.
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}
