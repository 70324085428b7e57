//! Server-sent events, cut out of a stream of bytes (WHATWG HTML §9.2.5; MCP transports).

/// Cuts a stream into comments, events and what belongs to neither, keeping every byte. How the stream was chunked
/// makes no difference.
#[derive(Debug)]
pub(crate) struct Cutter {
    /// Bytes not handed out: the lines of one event at most, and what follows in the last chunk.
    buffer: Vec<u8>,
    /// Where the current piece begins, its current line, and what was looked at.
    piece: usize,
    line: usize,
    scanned: usize,
    /// The last line ended in CR; an LF that follows belongs to it.
    after_cr: bool,
    /// Nothing of the stream was handed out: a byte order mark may stand here.
    at_start: bool,
    limit: usize,
}

/// One piece of a stream, as received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A comment between events, an empty line without an event, or the LF of a CRLF that was cut in two.
    Passing(&'a [u8]),
    /// The lines of one event with the empty line that ends it.
    Event(&'a [u8]),
}

/// An event is longer than the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Cutter {
    /// `limit`: bytes of one event.
    pub(crate) fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), piece: 0, line: 0, scanned: 0, after_cr: false, at_start: true, limit }
    }

    /// Adds what was received. Then [`Cutter::next`] until it gives `None`.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.buffer.drain(..self.piece);
        self.line -= self.piece;
        self.scanned -= self.piece;
        self.piece = 0;
        self.buffer.extend_from_slice(chunk);
    }

    /// The next complete piece.
    pub(crate) fn next(&mut self) -> Result<Option<Piece<'_>>, TooLong> {
        if self.after_cr && self.scanned < self.buffer.len() {
            self.after_cr = false;
            if self.buffer.get(self.scanned) == Some(&b'\n') {
                self.scanned += 1;
                self.line = self.scanned;
                // Inside an event the LF stays with its line.
                if self.piece + 1 == self.scanned {
                    return Ok(Some(Piece::Passing(self.take())));
                }
            }
        }
        self.next_lines()
    }

    fn next_lines(&mut self) -> Result<Option<Piece<'_>>, TooLong> {
        while let Some((content_end, end)) = self.line_end() {
            let line = self.buffer.get(self.line..content_end).unwrap_or(&[]);
            let is_empty = line.is_empty();
            let between = self.line == self.piece;
            let is_comment = line.first() == Some(&b':');
            self.line = end;
            self.scanned = end;
            if self.scanned - self.piece > self.limit {
                return Err(TooLong);
            }
            if between && (is_empty || is_comment) {
                return Ok(Some(Piece::Passing(self.take())));
            }
            if is_empty {
                return Ok(Some(Piece::Event(self.take())));
            }
        }
        if self.buffer.len() - self.piece > self.limit { Err(TooLong) } else { Ok(None) }
    }

    /// Where the current line ends: before and after its terminator. An LF that may still follow a CR is left out, and
    /// remembered.
    fn line_end(&mut self) -> Option<(usize, usize)> {
        self.skip_byte_order_mark()?;
        let rest = self.buffer.get(self.scanned..)?;
        let Some(length) = rest.iter().position(|&b| b == b'\n' || b == b'\r') else {
            self.scanned = self.buffer.len();
            return None;
        };
        let at = self.scanned + length;
        let terminator = match (self.buffer.get(at), self.buffer.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => 2,
            (Some(b'\r'), None) => {
                self.after_cr = true;
                1
            }
            _ => 1,
        };
        Some((at, at + terminator))
    }

    /// Drops the mark that some servers begin a stream with: it is fatal to some clients and nothing to the others.
    /// `None`: what was received so far may be the beginning of one.
    fn skip_byte_order_mark(&mut self) -> Option<()> {
        if !self.at_start {
            return Some(());
        }
        if self.buffer.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(&self.buffer) {
            return None;
        }
        self.at_start = false;
        if self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.buffer.drain(..BYTE_ORDER_MARK.len());
        }
        Some(())
    }

    /// What was received and not handed out, when nothing more is to be cut.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.piece);
        *self = Self::new(self.limit);
        rest
    }

    fn take(&mut self) -> &[u8] {
        let piece = self.buffer.get(self.piece..self.scanned).unwrap_or(&[]);
        self.piece = self.scanned;
        piece
    }
}

/// The lines of an event, each with its terminator.
pub(crate) fn lines(event: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let mut rest = event;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let content = rest.iter().position(|&b| b == b'\n' || b == b'\r').unwrap_or(rest.len());
        let end = match rest.get(content..) {
            Some([b'\r', b'\n', ..]) => content + 2,
            Some([_, ..]) => content + 1,
            _ => content,
        };
        let (line, after) = rest.split_at(end);
        rest = after;
        Some(Line { raw: line, content })
    })
}

/// One line of an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    /// With its terminator.
    pub(crate) raw: &'a [u8],
    content: usize,
}

impl<'a> Line<'a> {
    /// Name and value of a field: one space after the colon is not part of the value; without a colon the line is a
    /// name. A comment has the empty name.
    pub(crate) fn field(self) -> (&'a [u8], &'a [u8]) {
        let content = self.raw.get(..self.content).unwrap_or(self.raw);
        let Some(colon) = content.iter().position(|&b| b == b':') else { return (content, b"") };
        let (name, value) = content.split_at(colon);
        let value = value.get(1..).unwrap_or(b"");
        (name, value.strip_prefix(b" ").unwrap_or(value))
    }

    pub(crate) fn terminator(self) -> &'a [u8] {
        self.raw.get(self.content..).unwrap_or(b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(chunks: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let mut cutter = Cutter::new(1 << 16);
        let mut pieces = Vec::new();
        for chunk in chunks {
            cutter.push(chunk);
            while let Some(piece) = cutter.next().unwrap() {
                pieces.push(match piece {
                    Piece::Passing(bytes) => (false, bytes.to_vec()),
                    Piece::Event(bytes) => (true, bytes.to_vec()),
                });
            }
        }
        pieces
    }

    #[test]
    fn events_end_at_an_empty_line_of_any_terminator() {
        for (stream, pieces) in [
            (&b"data: a\n\ndata: b\n\n"[..], &[(true, &b"data: a\n\n"[..]), (true, b"data: b\n\n")][..]),
            (b"data: a\r\n\r\nx", &[(true, b"data: a\r\n\r\n")]),
            (b"data: a\r\rdata: b\r\r", &[(true, b"data: a\r\r"), (true, b"data: b\r\r")]),
            (b"data: a\r\n\n", &[(true, b"data: a\r\n\n")]),
            (b": ka\n\n: ka\r\n", &[(false, b": ka\n"), (false, b"\n"), (false, b": ka\r\n")]),
            (b"data: a\n: inside\ndata: b\n\n", &[(true, b"data: a\n: inside\ndata: b\n\n")]),
            (b"\xEF\xBB\xBFdata: a\n\n", &[(true, b"data: a\n\n")]),
            (b"data: unterminated\n", &[]),
        ] {
            let expected: Vec<_> = pieces.iter().map(|(event, bytes)| (*event, bytes.to_vec())).collect();
            assert_eq!(cut(&[stream]), expected, "{stream:?}");
        }
    }

    #[test]
    fn a_comment_passes_before_the_next_byte_arrives() {
        let mut cutter = Cutter::new(100);
        cutter.push(b": keepalive\n");
        assert_eq!(cutter.next(), Ok(Some(Piece::Passing(b": keepalive\n"))));
        assert_eq!(cutter.next(), Ok(None));
    }

    #[test]
    fn an_event_longer_than_the_bound_ends_the_stream_however_it_comes() {
        let stream = [&b"data: "[..], &[b'x'; 100], b"\n\n"].concat();
        for size in [1, 7, 50, 200] {
            let mut cutter = Cutter::new(100);
            let failed = stream.chunks(size).any(|chunk| {
                cutter.push(chunk);
                cutter.next() == Err(TooLong)
            });
            assert!(failed, "chunks of {size}");
        }
    }

    #[test]
    fn a_field_is_split_at_its_first_colon() {
        for (line, name, value) in [
            (&b"data: a: b\n"[..], &b"data"[..], &b"a: b"[..]),
            (b"data:a\r\n", b"data", b"a"),
            (b"data:  a\n", b"data", b" a"),
            (b"data\n", b"data", b""),
            (b": comment\n", b"", b"comment"),
        ] {
            let line = lines(line).next().unwrap();
            assert_eq!(line.field(), (name, value));
        }
    }

    proptest! {
        #[test]
        fn every_byte_but_a_leading_mark_and_the_unterminated_rest_is_kept(
            stream in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b':'), Just(b'd'), any::<u8>()], 0..200),
        ) {
            let kept = cut(&[&stream]).into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>();
            let content = stream.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&stream);
            prop_assert!(content.starts_with(&kept));
        }

        #[test]
        fn any_split_cuts_the_same_events(
            stream in "(data|id|event|:)?[ :a\r\n]{0,40}(\r\n\r\n|\n\n|\r\r)?data: x\r\n\r\n[\r\n:a]{0,20}",
            cuts in proptest::collection::vec(0usize..100, 0..8),
        ) {
            let stream = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            let joined = |pieces: Vec<(bool, Vec<u8>)>| pieces.into_iter().flat_map(|(_, b)| b).collect::<Vec<_>>();
            let events = |pieces: &[(bool, Vec<u8>)]| pieces.iter().filter(|(event, _)| *event)
                .map(|(_, b)| String::from_utf8_lossy(b).trim_end().to_owned()).collect::<Vec<_>>();
            let (whole, split) = (cut(&[stream]), cut(&chunks));
            prop_assert_eq!(events(&whole), events(&split));
            prop_assert_eq!(joined(whole), joined(split));
        }
    }
}
