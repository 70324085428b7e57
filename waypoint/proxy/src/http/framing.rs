//! A request that says twice how long it is (RFC 9112 §6.1: `Content-Length` beside `Transfer-Encoding`) is refused, not repaired.
//!
//! hyper takes the chunked coding and drops the length without a word, so the bytes are watched on their way to it. They are only
//! watched: what is sent on is framed anew, and a request that hides its framing from this watcher hides it from hyper as well.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::detect::Rewound;

/// What is seen of a connection from outside of hyper.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// A head with two lengths was sent.
    ambiguous: AtomicBool,
    /// The last byte that was read ended a message.
    between: AtomicBool,
    /// Something was to be written and is not known to have gone.
    unwritten: AtomicBool,
    /// Something came since it was last asked.
    active: AtomicBool,
    /// Requests whose answers have not gone.
    running: AtomicUsize,
}

impl Seen {
    /// Whether the connection sent an ambiguous head. Once it did, nothing more is taken from it.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.ambiguous.load(Ordering::Relaxed)
    }

    /// Whether nothing came since this was last asked, and nothing is left of what came before: no part of a request, no answer
    /// that has not gone, no byte that was not written.
    pub(crate) fn rests(&self) -> bool {
        !self.active.swap(false, Ordering::Relaxed)
            && self.between.load(Ordering::Relaxed)
            && !self.unwritten.load(Ordering::Relaxed)
            && self.running.load(Ordering::Relaxed) == 0
    }

    /// Whether the running request is the only one, was read to its last byte, and nothing of another answer is unwritten.
    pub(crate) fn is_between_answers(&self) -> bool {
        self.between.load(Ordering::Relaxed)
            && !self.unwritten.load(Ordering::Relaxed)
            && self.running.load(Ordering::Relaxed) == 1
            && !self.is_ambiguous()
    }
}

/// One request that counts as running until this is dropped.
pub(crate) struct Running(Arc<Seen>);

impl Running {
    pub(crate) fn begin(seen: &Arc<Seen>) -> Self {
        seen.running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seen))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose HTTP/1 heads are watched.
pub(crate) struct Framed<IO> {
    io: Rewound<IO>,
    watcher: Watcher,
    /// So many of the next bytes were watched before.
    watched: usize,
    seen: Arc<Seen>,
}

impl<IO> Framed<IO> {
    pub(crate) fn new(io: Rewound<IO>) -> Self {
        Self { io, watcher: Watcher::default(), watched: 0, seen: Arc::default() }
    }

    pub(crate) fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// Gives bytes back that were the last to be read.
    pub(crate) fn rewind(&mut self, read: Bytes) {
        self.watched += read.len();
        self.io.rewind(read);
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Framed<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        let again = this.watched.min(read.len());
        this.watched -= again;
        if this.watcher.watch(read.get(again..).unwrap_or_default()) {
            this.seen.ambiguous.store(true, Ordering::Relaxed);
        }
        this.seen.between.store(this.watcher.is_between(), Ordering::Relaxed);
        this.seen.active.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Framed<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.seen.unwritten.store(true, Ordering::Relaxed);
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.seen.unwritten.store(true, Ordering::Relaxed);
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// hyper flushes only when it holds nothing more to be written.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.seen.unwritten.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Longest header name that matters: `transfer-encoding`.
const NAME: usize = 17;

/// Follows heads and bodies byte by byte; holds nothing but where it is.
struct Watcher {
    at: At,
    name: [u8; NAME],
    /// Length of the current line's name; over [`NAME`]: too long to matter.
    name_len: usize,
    /// Whether the line has left its name behind.
    in_value: bool,
    line_len: usize,
    length: Option<u64>,
    chunked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The first line of a connection: HTTP/2's preface has no heads to watch.
    First,
    Head,
    Body(u64),
    ChunkSize(u64, bool),
    ChunkData(u64),
    Trailers,
    /// HTTP/2.
    Through,
}

impl Default for Watcher {
    fn default() -> Self {
        Self {
            at: At::First,
            name: [0; NAME],
            name_len: 0,
            in_value: false,
            line_len: 0,
            length: None,
            chunked: false,
        }
    }
}

impl Watcher {
    /// Whether a head among these bytes has both lengths.
    fn watch(&mut self, mut bytes: &[u8]) -> bool {
        let mut both = false;
        while let Some((byte, rest)) = bytes.split_first() {
            let skipped = match self.at {
                At::Through => bytes.len(),
                At::Body(left) | At::ChunkData(left) => {
                    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
                }
                At::First | At::Head | At::Trailers if self.is_past_interest() => {
                    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
                }
                At::First | At::Head | At::ChunkSize(..) | At::Trailers => 0,
            };
            if skipped > 0 {
                self.skip(skipped as u64);
                bytes = bytes.get(skipped..).unwrap_or_default();
            } else {
                both |= self.step(*byte);
                bytes = rest;
            }
        }
        both
    }

    /// Whether nothing matters of the current line but its end: its name is none that counts, or it is no length's value.
    fn is_past_interest(&self) -> bool {
        self.name_len > NAME || (self.in_value && !self.is(b"content-length"))
    }

    /// Whether a message has ended and nothing of the next has come.
    fn is_between(&self) -> bool {
        self.at == At::First && self.line_len == 0 && self.name_len == 0
    }

    fn skip(&mut self, bytes: u64) {
        self.at = match self.at {
            At::Body(left) if left == bytes => At::First,
            At::Body(left) => At::Body(left - bytes),
            At::ChunkData(left) if left == bytes => At::ChunkSize(0, false),
            At::ChunkData(left) => At::ChunkData(left - bytes),
            other => other,
        };
    }

    fn step(&mut self, byte: u8) -> bool {
        match self.at {
            At::ChunkSize(size, done) => self.chunk_size(byte, size, done),
            At::First | At::Head | At::Trailers if byte == b'\n' => return self.end_of_line(),
            At::First | At::Head | At::Trailers => self.in_line(byte),
            At::Body(_) | At::ChunkData(_) | At::Through => {}
        }
        false
    }

    /// `size[;extension]CRLF`. The CRLF after a chunk's data is an empty line here and changes nothing.
    fn chunk_size(&mut self, byte: u8, size: u64, done: bool) {
        self.at = match (byte, char::from(byte).to_digit(16)) {
            (b'\n', _) if self.line_len == 0 => At::ChunkSize(0, false),
            (b'\n', _) if size == 0 => At::Trailers,
            (b'\n', _) => At::ChunkData(size.saturating_add(2)),
            (b'\r', _) => At::ChunkSize(size, true),
            (_, Some(digit)) if !done => {
                At::ChunkSize(size.saturating_mul(16).saturating_add(digit.into()), false)
            }
            _extension => At::ChunkSize(size, true),
        };
        self.line_len = if byte == b'\n' { 0 } else { self.line_len + usize::from(byte != b'\r') };
    }

    fn in_line(&mut self, byte: u8) {
        self.line_len += usize::from(byte != b'\r');
        if self.in_value {
            self.value(byte);
        } else if byte == b':' {
            self.in_value = true;
            self.named();
        } else {
            if let Some(slot) = self.name.get_mut(self.name_len) {
                *slot = byte.to_ascii_lowercase();
            }
            self.name_len += 1;
        }
    }

    fn is(&self, name: &[u8]) -> bool {
        self.name_len == name.len() && self.name.starts_with(name)
    }

    fn named(&mut self) {
        if self.at == At::Head && self.is(b"content-length") {
            self.length = Some(0);
        }
        if self.at == At::Head && self.is(b"transfer-encoding") {
            self.chunked = true;
        }
    }

    fn value(&mut self, byte: u8) {
        if let (true, Some(length)) = (self.is(b"content-length"), self.length)
            && byte.is_ascii_digit()
        {
            self.length = Some(length.saturating_mul(10).saturating_add((byte - b'0').into()));
        }
    }

    fn end_of_line(&mut self) -> bool {
        let (empty, preface) =
            (self.line_len == 0, self.at == At::First && self.name.starts_with(b"pri * http/2.0"));
        (self.name_len, self.in_value, self.line_len, self.name) = (0, false, 0, [0; NAME]);
        match self.at {
            At::First if preface => self.at = At::Through,
            // Empty lines before a request line are skipped (RFC 9112 §2.2).
            At::First => self.at = if empty { At::First } else { At::Head },
            At::Trailers if empty => self.next_message(),
            At::Head if empty => return self.end_of_head(),
            _more => {}
        }
        false
    }

    fn end_of_head(&mut self) -> bool {
        let (length, chunked) = (self.length.take(), std::mem::take(&mut self.chunked));
        match (length, chunked) {
            (_, true) => self.at = At::ChunkSize(0, false),
            (Some(0) | None, false) => self.next_message(),
            (Some(length), false) => self.at = At::Body(length),
        }
        length.is_some() && chunked
    }

    /// A later request line cannot be HTTP/2's preface, but reading it as a header line does no harm: it holds no name that matters.
    fn next_message(&mut self) {
        self.at = At::First;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROWS: [(&str, bool); 9] = [
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            true,
        ),
        ("POST / HTTP/1.1\r\ntransfer-ENCODING: chunked\r\ncontent-length: 3\r\n\r\n", true),
        ("POST / HTTP/1.1\nTransfer-Encoding: chunked\nContent-Length: 3\n\n", true),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 46\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n14\r\ncontent-length: 12\r\n\r\n\r\n0\r\ncontent-length: 3\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            false,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nab\r\n0\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            true,
        ),
        (
            "GET / HTTP/1.1\r\nX-Content-Length: 1\r\nX: content-length\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
        ),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n", false),
    ];

    #[test]
    fn a_head_with_both_lengths_is_seen_and_a_body_is_not_a_head() {
        for (bytes, want) in ROWS {
            assert_eq!(Watcher::default().watch(bytes.as_bytes()), want, "{bytes}");
        }
    }

    #[test]
    fn a_connection_is_between_messages_only_where_one_has_ended() {
        let messages = [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n",
            "GET / HTTP/1.1\n\n",
        ];
        let mut watcher = Watcher::default();
        for message in messages {
            let (last, rest) = message.as_bytes().split_last().unwrap();
            for (at, byte) in rest.iter().enumerate() {
                watcher.watch(&[*byte]);
                assert!(!watcher.is_between(), "{message:?} at {at}");
            }
            watcher.watch(&[*last]);
            assert!(watcher.is_between(), "{message:?}");
        }
    }

    #[test]
    fn a_connection_rests_when_nothing_came_and_nothing_is_left() {
        let seen = Arc::new(Seen::default());
        assert!(!seen.rests(), "nothing was asked yet");
        let changed = |flag: &AtomicBool, to| flag.store(to, Ordering::Relaxed);
        changed(&seen.between, true);
        assert!(seen.rests());
        changed(&seen.active, true);
        assert!(!seen.rests() && seen.rests(), "once more, and nothing came in between");
        let running = Running::begin(&seen);
        assert!(!seen.rests());
        drop(running);
        changed(&seen.unwritten, true);
        assert!(!seen.rests());
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_reads_the_same(row in 0..ROWS.len(), cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let (bytes, want) = ROWS[row];
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut watcher = Watcher::default();
            let both = cuts.windows(2).fold(false, |both, cut| watcher.watch(&bytes.as_bytes()[cut[0]..cut[1]]) | both);
            prop_assert_eq!(both, want);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            Watcher::default().watch(&bytes);
        }
    }
}
