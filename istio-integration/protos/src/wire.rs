//! Protobuf's wire format, read field by field without knowing the message.

use crate::table::Wire;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// A varint of more than 64 bits.
    #[error("a varint is longer than ten bytes")]
    Varint,
    /// Field number 0, or one above 2^29-1.
    #[error("a field has no valid number")]
    Number,
    /// A group (deprecated, in none of our messages) or a wire type that does not exist.
    #[error("wire type {0} is not in use")]
    WireType(u8),
    /// Messages in messages beyond any sense.
    #[error("messages are nested deeper than {0}")]
    TooDeep(usize),
    /// A known field has another wire type than its type demands.
    #[error("field {0} has the wire type of another type")]
    OtherType(u32),
}

/// The value of a field as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Raw<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32,
}

impl Raw<'_> {
    pub(crate) fn wire(self) -> Wire {
        match self {
            Self::Varint(_) => Wire::Varint,
            Self::Fixed64 => Wire::Fixed64,
            Self::Bytes(_) => Wire::Bytes,
            Self::Fixed32 => Wire::Fixed32,
        }
    }
}

/// Fields of a message in the order of the wire. Ends after the first error.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn field(&mut self) -> Result<(u32, Raw<'a>), Malformed> {
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3).map_err(|_| Malformed::Number)?;
        if number == 0 || number >= 1 << 29 {
            return Err(Malformed::Number);
        }
        let raw = match (tag & 7) as u8 {
            0 => Raw::Varint(varint(&mut self.rest)?),
            1 => self.take(8).map(|_| Raw::Fixed64)?,
            2 => {
                let length = usize::try_from(varint(&mut self.rest)?).map_err(|_| Malformed::Truncated)?;
                Raw::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Raw::Fixed32)?,
            other => return Err(Malformed::WireType(other)),
        };
        Ok((number, raw))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Takes one varint off the front.
pub(crate) fn varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for shift in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or(Malformed::Truncated)?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 9 && bits > 1 {
            return Err(Malformed::Varint);
        }
        value |= bits << (7 * shift);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Varint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(u32, Raw<'_>)>, Malformed> {
        Fields::new(bytes).collect()
    }

    #[test]
    fn fields_come_in_the_order_of_the_wire() {
        assert_eq!(read(b""), Ok(vec![]));
        assert_eq!(read(&[0x08, 0x96, 0x01]), Ok(vec![(1, Raw::Varint(150))]));
        assert_eq!(
            read(&[0x12, 0x01, b'a', 0x1d, 0, 0, 0, 0]),
            Ok(vec![(2, Raw::Bytes(b"a")), (3, Raw::Fixed32)])
        );
        assert_eq!(read(&[0x09, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(vec![(1, Raw::Fixed64)]));
    }

    #[test]
    fn faults_have_names() {
        let rows: &[(&str, &[u8], Malformed)] = &[
            ("tag alone", &[0x08], Malformed::Truncated),
            ("length beyond the end", &[0x12, 0x02, b'a'], Malformed::Truncated),
            ("length beyond memory", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", Malformed::Truncated),
            ("number 0", &[0x00, 0x00], Malformed::Number),
            ("group", &[0x0b], Malformed::WireType(3)),
            ("wire type 7", &[0x0f], Malformed::WireType(7)),
            ("eleven bytes", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", Malformed::Varint),
            ("65 bits", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", Malformed::Varint),
        ];
        for (name, bytes, fault) in rows {
            assert_eq!(read(bytes), Err(*fault), "{name}");
        }
    }
}
