//! The wire format of protocol buffers (protobuf.dev, *Encoding*), read strictly: one reading of a message, or none.
//!
//! Readers take the last of a scalar field that stands twice and merge messages, so what names something may stand once.

use crate::reply::Malformed;

/// Fields of one message, all levels apart. Beyond it: refused.
const MAX_FIELDS: usize = 100_000;

/// One field of a message, as far as its wire type tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'b> {
    pub(super) number: u32,
    pub(super) value: Wire<'b>,
    /// The bytes from where to where in its message, tag included.
    pub(super) span: (usize, usize),
}

/// A value on the wire. Groups are none: no reader of proto3 needs them, and some skip them wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire<'b> {
    /// Wire type 0.
    Varint(u64),
    /// Wire types 1 and 5.
    Fixed,
    /// Wire type 2: a string, bytes, a message, or packed scalars.
    Bytes(&'b [u8]),
}

/// A message whose fields were all read.
#[derive(Clone, Debug)]
pub(super) struct Message<'b> {
    fields: Vec<Field<'b>>,
}

impl<'b> Message<'b> {
    /// Reads a whole message.
    ///
    /// # Errors
    /// A field that ends beyond the message, a number out of range, a group or a varint that is longer than it has to be.
    pub(super) fn read(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let (mut cursor, mut fields) = (Cursor { bytes, at: 0 }, Vec::new());
        while cursor.at < bytes.len() {
            if fields.len() >= MAX_FIELDS {
                return Err(bad("too_many_fields"));
            }
            fields.push(cursor.field()?);
        }
        Ok(Self { fields })
    }

    /// Every field, in its order.
    pub(super) fn fields(&self) -> &[Field<'b>] {
        &self.fields
    }

    /// Every value of a field that is text or a message.
    pub(super) fn all(&self, number: u32) -> impl Iterator<Item = Result<&'b [u8], Malformed>> {
        self.fields.iter().filter(move |field| field.number == number).map(|field| match field.value {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Varint(_) | Wire::Fixed => Err(bad("wire_type")),
        })
    }

    /// The only value of a field.
    ///
    /// # Errors
    /// One that stands twice, or of another wire type.
    pub(super) fn only(&self, number: u32) -> Result<Option<&'b [u8]>, Malformed> {
        let mut found = self.all(number);
        let first = found.next().transpose()?;
        if found.next().is_some() {
            return Err(bad("duplicate_field"));
        }
        Ok(first)
    }

    /// The only text of a field; an empty one is none (proto3).
    pub(super) fn text(&self, number: u32) -> Result<Option<String>, Malformed> {
        let Some(bytes) = self.only(number)? else { return Ok(None) };
        let text = text(bytes)?;
        Ok((!text.is_empty()).then_some(text))
    }

    /// The only message of a field.
    pub(super) fn message(&self, number: u32) -> Result<Option<Self>, Malformed> {
        self.only(number)?.map(Self::read).transpose()
    }
}

/// Text is UTF-8 (proto3).
pub(super) fn text(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_invalid| bad("invalid_utf8"))
}

fn bad(name: &'static str) -> Malformed {
    Malformed::parse(name)
}

struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn field(&mut self) -> Result<Field<'b>, Malformed> {
        let start = self.at;
        let tag = u32::try_from(self.varint()?).map_err(|_large| bad("field_number"))?;
        let number = tag >> 3;
        if number == 0 {
            return Err(bad("field_number"));
        }
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_eight| Wire::Fixed)?,
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_large| bad("truncated_field"))?;
                Wire::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_four| Wire::Fixed)?,
            _ => return Err(bad("wire_type")),
        };
        Ok(Field { number, value, span: (start, self.at) })
    }

    /// At most ten bytes, and the last is not zero: readers differ in what they make of a longer one.
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for place in 0..10_u32 {
            let byte = *self.bytes.get(self.at).ok_or_else(|| bad("truncated_field"))?;
            self.at += 1;
            let (bits, overlong) = (u64::from(byte & 0x7f), place > 0 && byte == 0);
            if overlong || (place == 9 && byte > 1) {
                return Err(bad("varint"));
            }
            value |= bits << (place * 7);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(bad("varint"))
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or_else(|| bad("truncated_field"))?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| bad("truncated_field"))?;
        self.at = end;
        Ok(taken)
    }
}

/// Writes a field of text or a message, for tests and for lists that were filtered.
#[cfg(test)]
pub(super) fn put(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number << 3 | 2));
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_has_one_reading_or_none() {
        for (what, bytes, want) in [
            ("empty", &[][..], Ok(0)),
            ("text", &[0x0a, 1, b'x'], Ok(1)),
            ("varint", &[0x08, 0x96, 0x01], Ok(1)),
            ("largest varint", &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], Ok(1)),
            ("too large varint", &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2], Err("varint")),
            ("eleven bytes", &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], Err("varint")),
            ("overlong varint", &[0x08, 0x80, 0x00], Err("varint")),
            ("overlong tag", &[0x8a, 0x00, 1, b'x'], Err("varint")),
            ("overlong length", &[0x0a, 0x81, 0x00, b'x'], Err("varint")),
            ("field zero", &[0x02, 0], Err("field_number")),
            ("large number", &[0xfa, 0xff, 0xff, 0xff, 0x7f, 0], Err("field_number")),
            ("group", &[0x0b, 0x0c], Err("wire_type")),
            ("end of a group", &[0x0c], Err("wire_type")),
            ("wire type 6", &[0x0e], Err("wire_type")),
            ("wire type 7", &[0x0f], Err("wire_type")),
            ("truncated text", &[0x0a, 2, b'x'], Err("truncated_field")),
            ("truncated varint", &[0x08, 0x96], Err("truncated_field")),
            ("no value", &[0x0a], Err("truncated_field")),
            ("truncated fixed", &[0x09, 0, 0, 0], Err("truncated_field")),
            ("huge length", &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], Err("truncated_field")),
        ] {
            let got = Message::read(bytes).map(|message| message.fields().len()).map_err(|error| error.name);
            assert_eq!(got, want, "{what}");
        }
    }

    #[test]
    fn what_names_something_stands_once() {
        let twice = [0x0a, 1, b'x', 0x0a, 1, b'y'];
        let message = Message::read(&twice).unwrap();
        assert_eq!(message.text(1).unwrap_err().name, "duplicate_field");
        assert_eq!(message.all(1).count(), 2);
        let number = Message::read(&[0x08, 1]).unwrap();
        assert_eq!(number.text(1).unwrap_err().name, "wire_type");
        let latin = Message::read(&[0x0a, 1, 0xff]).unwrap();
        assert_eq!(latin.text(1).unwrap_err().name, "invalid_utf8");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Ok(message) = Message::read(&bytes) {
                // The fields are the bytes, in order and without a gap.
                let mut at = 0;
                for field in message.fields() {
                    prop_assert_eq!(field.span.0, at);
                    at = field.span.1;
                }
                prop_assert_eq!(at, bytes.len());
            }
        }

        #[test]
        fn what_is_written_is_read_back(fields in prop::collection::vec((1_u32..1000, any::<Vec<u8>>()), 0..20)) {
            let mut bytes = Vec::new();
            for (number, value) in &fields {
                put(&mut bytes, *number, value);
            }
            let message = Message::read(&bytes).unwrap();
            let read: Vec<_> = message.fields().iter().map(|field| (field.number, field.value)).collect();
            let want: Vec<_> = fields.iter().map(|(number, value)| (*number, Wire::Bytes(value))).collect();
            prop_assert_eq!(read, want);
        }

        #[test]
        fn a_message_that_is_cut_is_refused_or_shorter(value: Vec<u8>, cut in 0_usize..64) {
            let mut bytes = Vec::new();
            put(&mut bytes, 1, &value);
            let cut = cut.min(bytes.len());
            let read = Message::read(&bytes[..cut]);
            prop_assert_eq!(read.is_ok(), cut == 0 || cut == bytes.len());
        }
    }
}
