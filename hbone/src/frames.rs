//! Heads of HTTP/2 frames, read while the bytes pass (RFC 9113 §4.1). Payloads are skipped, not looked at.

/// A frame's type, as far as anybody here asks.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
}

/// END_STREAM of DATA and HEADERS.
const END_STREAM: u8 = 1;

/// Bytes of a frame's head.
const HEAD: usize = 9;

/// Most bytes of a payload that are looked at.
const LOOK: usize = 32;

/// Bytes of a client's preface (RFC 9113 §3.4).
const PREFACE: u64 = 24;

/// One frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes of its payload.
    pub(crate) length: u32,
    /// See [`kind`].
    pub(crate) kind: u8,
    flags: u8,
    /// Its stream; 0 is the connection.
    pub(crate) stream: u32,
    /// Error code of a RST_STREAM, increment of a WINDOW_UPDATE; else 0.
    pub(crate) word: u32,
    /// The beginning of what a GOAWAY gives as its reason in bytes; else zeros.
    pub(crate) debug: [u8; LOOK - 8],
}

impl Head {
    /// Whether its sender says nothing more on this stream.
    pub(crate) fn ends_stream(&self) -> bool {
        matches!(self.kind, kind::DATA | kind::HEADERS) && self.flags & END_STREAM != 0
    }
}

/// Follows one direction of a connection.
pub(crate) struct Scanner {
    partial: [u8; HEAD + LOOK],
    filled: usize,
    /// Bytes to pass over before the next head.
    skip: u64,
}

impl Scanner {
    /// Of bytes that begin with a frame.
    pub(crate) fn new() -> Self {
        Self { partial: [0; HEAD + LOOK], filled: 0, skip: 0 }
    }

    /// Of what a client sends: its preface comes first.
    pub(crate) fn of_client() -> Self {
        Self { skip: PREFACE, ..Self::new() }
    }

    /// Calls `seen` with each head that these bytes complete.
    pub(crate) fn scan(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Head)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            bytes = self.fill(bytes);
            if let Some(head) = self.complete() {
                let read = (self.filled - HEAD) as u64;
                self.filled = 0;
                self.skip = u64::from(head.length).saturating_sub(read);
                seen(head);
            }
        }
    }

    /// Takes what is still wanted of a head; gives back the rest.
    fn fill<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.wanted() - self.filled;
        let (taken, rest) = bytes.split_at(room.min(bytes.len()));
        if let Some(place) = self.partial.get_mut(self.filled..self.filled + taken.len()) {
            place.copy_from_slice(taken);
        }
        self.filled += taken.len();
        rest
    }

    fn wanted(&self) -> usize {
        let [a, b, c, kind, ..] = self.partial;
        let look = match kind {
            _unknown if self.filled < HEAD => 0,
            kind::RST_STREAM | kind::WINDOW_UPDATE => 4,
            kind::GOAWAY => LOOK,
            _other => 0,
        };
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        HEAD + look.min(length)
    }

    fn complete(&self) -> Option<Head> {
        if self.filled < self.wanted() {
            return None;
        }
        let [a, b, c, kind, flags, s0, s1, s2, s3, w0, w1, w2, w3, _, _, _, _, ref told @ ..] = self.partial;
        let mut debug = [0; LOOK - 8];
        if kind == kind::GOAWAY {
            let read = self.filled.saturating_sub(HEAD + 8);
            debug.iter_mut().zip(told).take(read).for_each(|(debug, told)| *debug = *told);
        }
        let is_word = self.filled == HEAD + 4;
        Some(Head {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff,
            word: if is_word { u32::from_be_bytes([w0, w1, w2, w3]) } else { 0 },
            debug,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Kind, length, stream, word, and whether it ends its stream.
    type Told = (u8, u32, u32, u32, bool);

    fn sample() -> (Vec<u8>, Vec<Told>) {
        let frames = [
            frame(kind::HEADERS, 4, 1, b"abc"),
            frame(kind::DATA, 1, 1, &[0; 300]),
            frame(kind::RST_STREAM, 0, 3, &8_u32.to_be_bytes()),
            frame(kind::WINDOW_UPDATE, 0, 0, &70_000_u32.to_be_bytes()),
            frame(6, 0, 0, &[7; 8]),
            frame(kind::DATA, 0, 5, b""),
            frame(kind::RST_STREAM, 0, 7, b"ab"),
        ];
        let heads = vec![
            (1, 3, 1, 0, false),
            (0, 300, 1, 0, true),
            (3, 4, 3, 8, false),
            (8, 4, 0, 70_000, false),
            (6, 8, 0, 0, false),
            (0, 0, 5, 0, false),
            (3, 2, 7, 0, false),
        ];
        (frames.concat(), heads)
    }

    fn read<'a>(scanner: &mut Scanner, parts: impl Iterator<Item = &'a [u8]>) -> Vec<Told> {
        let mut heads = Vec::new();
        for part in parts {
            scanner.scan(part, |head| {
                heads.push((head.kind, head.length, head.stream, head.word, head.ends_stream()));
            });
        }
        heads
    }

    #[test]
    fn what_a_goaway_says_is_read() {
        for (said, length) in
            [(&b"too_many_resets"[..], 15), (b"a reason that is longer than that", 24), (b"", 0)]
        {
            let bytes = frame(kind::GOAWAY, 0, 0, &[&[0; 8], said].concat());
            let mut heard = Vec::new();
            let next = frame(kind::DATA, 0, 1, b"");
            let mut scanner = Scanner::new();
            scanner.scan(&[bytes, next].concat(), |head| heard.push(head));
            assert_eq!(heard.len(), 2);
            assert!(heard[0].debug.starts_with(&said[..length]) && heard[1].debug == [0; 24]);
        }
    }

    #[test]
    fn heads_are_read_and_payloads_passed_over() {
        let (bytes, heads) = sample();
        assert_eq!(read(&mut Scanner::new(), std::iter::once(&bytes[..])), heads);
        let whole = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &bytes[..]].concat();
        assert_eq!(read(&mut Scanner::of_client(), std::iter::once(&whole[..])), heads);
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_reads_the_same(size in 1_usize..40) {
            let (bytes, heads) = sample();
            prop_assert_eq!(read(&mut Scanner::new(), bytes.chunks(size)), heads);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1_usize..20) {
            read(&mut Scanner::new(), bytes.chunks(size));
        }
    }
}
