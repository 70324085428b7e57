//! Walks the bytes of a message along the table and finds what must not be passed over.
//!
//! It reads the wire and not the decoded message, because decoding forgets: prost drops unknown fields, and gives an
//! unknown value of an enumeration as the enumeration's first one, which for RBAC is ALLOW.

use crate::finding::{Finding, Step, What};
use crate::table::{self, Field, Kind, Message, Treatment, Wire};
use crate::wire::{Fields, Malformed, Raw, varint};
use crate::{Any, type_name};

/// prost's own limit.
const MAX_DEPTH: usize = 100;

/// What to do with the message inside an `Any`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nested {
    /// Left to whoever unpacks it.
    Leave,
    /// Inspected too.
    Enter,
}

/// Finds, in a message that is encoded in `bytes`, unknown fields, unknown values and what `proto/` says to refuse; in
/// the order of the wire. What is ignored or refused as a whole is not looked into.
pub fn inspect(message: &'static Message, bytes: &[u8], nested: Nested) -> Result<Vec<Finding>, Malformed> {
    let mut walk = Walk { root: message.name, path: Vec::new(), nested, findings: Vec::new(), depth: 0 };
    walk.whole(message, bytes)?;
    Ok(walk.findings)
}

struct Walk {
    root: &'static str,
    path: Vec<Step>,
    nested: Nested,
    findings: Vec<Finding>,
    depth: usize,
}

impl Walk {
    fn find(&mut self, what: What) {
        self.findings.push(Finding { root: self.root, path: self.path.clone(), what });
    }

    fn whole(&mut self, message: &'static Message, bytes: &[u8]) -> Result<(), Malformed> {
        match message.treatment {
            Treatment::Used => self.message(message, bytes),
            Treatment::Ignored(_) => Ok(()),
            Treatment::Refused(why) => {
                self.find(What::Refused { why });
                Ok(())
            }
        }
    }

    fn message(&mut self, message: &'static Message, bytes: &[u8]) -> Result<(), Malformed> {
        if self.depth == MAX_DEPTH {
            return Err(Malformed::TooDeep(MAX_DEPTH));
        }
        self.depth += 1;
        let mut seen = vec![0usize; message.fields.len()];
        for field in Fields::new(bytes) {
            let (number, raw) = field?;
            let known = message.fields.binary_search_by_key(&number, |field| field.number).ok();
            match known.and_then(|at| message.fields.get(at).zip(seen.get_mut(at))) {
                Some((field, count)) => {
                    let index = *count;
                    *count += 1;
                    self.field(field, index, raw)?;
                }
                None => self.find(What::UnknownField { number }),
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn field(&mut self, field: &'static Field, index: usize, raw: Raw<'_>) -> Result<(), Malformed> {
        let height = self.path.len();
        self.path.push(Step::Field(field.name));
        match field.treatment {
            Treatment::Used => {
                if field.repeated && !matches!(field.kind, Kind::Map { .. }) {
                    self.path.push(Step::Index(index));
                }
                self.value(field.number, field.kind, field.repeated, raw)?;
            }
            Treatment::Ignored(_) => {}
            Treatment::Refused(why) => self.find(What::Refused { why }),
        }
        self.path.truncate(height);
        Ok(())
    }

    fn value(&mut self, number: u32, kind: Kind, repeated: bool, raw: Raw<'_>) -> Result<(), Malformed> {
        match (kind, raw) {
            (Kind::Message(at), Raw::Bytes(bytes)) => match table::messages().get(at) {
                Some(message) => self.whole(message, bytes),
                None => Err(Malformed::OtherType(number)),
            },
            (Kind::Any, Raw::Bytes(bytes)) => self.any(bytes),
            (Kind::Map { text_key, value }, Raw::Bytes(bytes)) => self.entry(number, text_key, *value, bytes),
            (Kind::Enum(at), Raw::Varint(value)) => {
                self.enumerated(at, value);
                Ok(())
            }
            (Kind::Enum(at), Raw::Bytes(mut packed)) if repeated => {
                while !packed.is_empty() {
                    let value = varint(&mut packed)?;
                    self.enumerated(at, value);
                }
                Ok(())
            }
            (Kind::Opaque, Raw::Bytes(_)) => Ok(()),
            (Kind::Scalar(wire), raw) if raw.wire() == wire || (repeated && raw.wire() == Wire::Bytes) => {
                Ok(())
            }
            _ => Err(Malformed::OtherType(number)),
        }
    }

    fn enumerated(&mut self, at: usize, value: u64) {
        // Negative values stand on the wire as ten bytes, larger ones are cut as every implementation does.
        let number = value as i32;
        let known = table::enums().get(at).and_then(|e| e.values.iter().find(|value| value.number == number));
        match known.map(|value| value.treatment) {
            Some(Treatment::Refused(why)) => self.find(What::Refused { why }),
            Some(_) => {}
            None => self.find(What::UnknownValue { number }),
        }
    }

    fn entry(&mut self, number: u32, text_key: bool, kind: Kind, bytes: &[u8]) -> Result<(), Malformed> {
        let (mut key, mut value) = (String::new(), None);
        for field in Fields::new(bytes) {
            match field? {
                (1, Raw::Bytes(text)) if text_key => key = String::from_utf8_lossy(text).into_owned(),
                (1, Raw::Varint(number)) if !text_key => key = number.to_string(),
                (1, _) => return Err(Malformed::OtherType(number)),
                (2, raw) => value = Some(raw),
                (number, _) => self.find(What::UnknownField { number }),
            }
        }
        self.path.push(Step::Key(key));
        value.map_or(Ok(()), |raw| self.value(number, kind, false, raw))
    }

    fn any(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let (mut url, mut value) = (String::new(), &[][..]);
        for field in Fields::new(bytes) {
            match field? {
                (1, Raw::Bytes(text)) => url = String::from_utf8_lossy(text).into_owned(),
                (2, Raw::Bytes(bytes)) => value = bytes,
                (1 | 2, _) => return Err(Malformed::OtherType(1)),
                (number, _) => self.find(What::UnknownField { number }),
            }
        }
        if self.nested == Nested::Leave || is_well_known(&url) {
            return Ok(());
        }
        match table::message(type_name(&url)) {
            Some(message) => {
                self.path.push(Step::Type(message.name));
                self.whole(message, value)
            }
            None => {
                self.find(What::UnknownType { type_url: url });
                Ok(())
            }
        }
    }
}

/// Protobuf's own types (StringValue, Struct): known, and never to grow a field.
fn is_well_known(url: &str) -> bool {
    let name = type_name(url);
    name.strip_prefix("google.protobuf.").is_some_and(|rest| {
        ["StringValue", "Struct", "BoolValue", "Duration", "Empty", "UInt32Value"].contains(&rest)
    })
}

impl Any {
    /// The row of the type in here, with what is done with it; none for a type that is not in `proto/`.
    pub fn row(&self) -> Option<&'static Message> {
        table::message(self.type_name())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::{Message as _, Name, encoding::encode_varint};

    use super::*;
    use crate::decode;
    use crate::envoy::config::cluster::v3::Cluster;
    use crate::envoy::config::route::v3::RouteConfiguration;
    use crate::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication;
    use crate::envoy::extensions::filters::http::rbac::v3::Rbac;
    use crate::xds::r#type::matcher::v3::Matcher;

    /// Choices for building a message; when they run out every choice is 0, so building ends.
    struct Choices(std::vec::IntoIter<u8>);

    impl Choices {
        fn next(&mut self) -> u8 {
            self.0.next().unwrap_or_default()
        }
    }

    /// An encoding of `message` with fields that prost takes; `strange` of them are in no table.
    fn build(message: &Message, choices: &mut Choices, depth: usize, strange: &mut usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..choices.next() % 4 {
            let at = usize::from(choices.next());
            if at % 8 == 7 {
                *strange += 1;
                put(&mut out, 1001, &Kind::Scalar(Wire::Varint), vec![1]);
            } else if let Some(field) = message.fields.get(at % message.fields.len().max(1)) {
                let mut inner = 0;
                let value = value(field.kind, choices, depth, &mut inner);
                if field.treatment == Treatment::Used {
                    *strange += inner;
                }
                put(&mut out, field.number, &field.kind, value);
            }
        }
        out
    }

    fn value(kind: Kind, choices: &mut Choices, depth: usize, strange: &mut usize) -> Vec<u8> {
        match kind {
            Kind::Scalar(Wire::Varint) => vec![choices.next() % 2],
            Kind::Scalar(Wire::Fixed64) => vec![0; 8],
            Kind::Scalar(Wire::Fixed32) => vec![0; 4],
            Kind::Scalar(Wire::Bytes) => vec![b'a'; usize::from(choices.next() % 3)],
            Kind::Enum(at) => {
                let values = values_of(at);
                let number =
                    values.get(usize::from(choices.next()) % values.len()).map_or(0, |value| value.number);
                let mut bytes = Vec::new();
                encode_varint(number as u64, &mut bytes);
                bytes
            }
            Kind::Message(at) if depth > 0 => build(&table::messages()[at], choices, depth - 1, strange),
            Kind::Map { text_key: true, value: kind } => {
                let mut entry = Vec::new();
                put(&mut entry, 1, &Kind::Scalar(Wire::Bytes), vec![choices.next() % 128]);
                put(&mut entry, 2, kind, value(*kind, choices, depth, strange));
                entry
            }
            Kind::Message(_) | Kind::Any | Kind::Opaque | Kind::Map { .. } => Vec::new(),
        }
    }

    fn values_of(at: usize) -> &'static [table::Value] {
        table::enums()[at].values
    }

    fn put(out: &mut Vec<u8>, number: u32, kind: &Kind, value: Vec<u8>) {
        let (wire, length) = match kind {
            Kind::Scalar(Wire::Varint) | Kind::Enum(_) => (0, None),
            Kind::Scalar(Wire::Fixed64) => (1, None),
            Kind::Scalar(Wire::Fixed32) => (5, None),
            _ => (2, Some(value.len() as u64)),
        };
        encode_varint(u64::from(number << 3 | wire), out);
        length.into_iter().for_each(|length| encode_varint(length, out));
        out.extend(value);
    }

    fn unknown(findings: &[Finding]) -> usize {
        findings.iter().filter(|finding| matches!(finding.what, What::UnknownField { .. })).count()
    }

    fn holds<M: prost::Message + Name + Default>(choices: Vec<u8>) -> Result<(), TestCaseError> {
        let row = table::message(&M::full_name()).unwrap();
        let mut strange = 0;
        let bytes = build(row, &mut Choices(choices.into_iter()), 8, &mut strange);
        let decoded = decode::<M>(bytes.into()).unwrap();
        prop_assert_eq!(unknown(&decoded.findings), strange);
        let again = decode::<M>(decoded.message.encode_to_vec().into()).unwrap();
        prop_assert_eq!(unknown(&again.findings), 0);
        prop_assert_eq!(again.message.encode_to_vec(), decoded.message.encode_to_vec());
        Ok(())
    }

    proptest! {
        #[test]
        fn as_many_unknown_fields_are_found_as_there_are_and_none_in_what_prost_writes(
            choices in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            holds::<Rbac>(choices.clone())?;
            holds::<RouteConfiguration>(choices.clone())?;
            holds::<Cluster>(choices.clone())?;
            holds::<JwtAuthentication>(choices.clone())?;
            holds::<Matcher>(choices)?;
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let walked = inspect(table::message("envoy.config.rbac.v3.RBAC").unwrap(), &bytes, Nested::Enter);
            let decoded = crate::envoy::config::rbac::v3::Rbac::decode(bytes.as_slice());
            // The walk may be stricter than prost, in groups, but what it takes as a whole prost may still refuse (UTF-8).
            prop_assert!(walked.is_ok() || decoded.is_err() || has_group(&bytes));
        }
    }

    fn has_group(bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| matches!(byte & 7, 3 | 4))
    }
}
