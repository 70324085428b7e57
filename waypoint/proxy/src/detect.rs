//! What an undeclared port carries, told by its first bytes (Istio's protocol selection).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};

/// HTTP/2 with prior knowledge (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Methods whose name and the space after it suffice; any other one must show a whole HTTP/1 request line.
const METHODS: [&[u8]; 9] =
    [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE ", b"CONNECT "];

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// HTTP/1.x or HTTP/2.
    Http,
    /// Anything else, and silence.
    Opaque,
}

/// What was found and what was read for it; and the setting whose bound ended the search, if one did.
type Detected = (io::Result<(Found, Bytes)>, Option<&'static str>);

/// Reads until the protocol is clear, `limit` bytes are there or `wait` is over; gives back what was read.
pub(crate) async fn detect<IO: AsyncRead + Unpin>(io: &mut IO, limit: usize, wait: Duration) -> Detected {
    let mut seen = BytesMut::with_capacity(limit);
    let deadline = Instant::now() + wait;
    loop {
        if let Some(found) = tell(&seen) {
            return (Ok((found, seen.freeze())), None);
        }
        let room = limit.saturating_sub(seen.len());
        if room == 0 {
            return (Ok((Found::Opaque, seen.freeze())), Some("sniffed"));
        }
        let mut limited = (&mut *io).take(room as u64);
        match timeout_at(deadline, limited.read_buf(&mut seen)).await {
            Ok(Ok(0)) => return (Ok((Found::Opaque, seen.freeze())), None),
            Err(_elapsed) => return (Ok((Found::Opaque, seen.freeze())), Some("sniff_timeout")),
            Ok(Ok(_more)) => {}
            Ok(Err(error)) => return (Err(error), None),
        }
    }
}

/// `None`: more bytes are needed.
fn tell(seen: &[u8]) -> Option<Found> {
    // Empty lines before a request line are skipped (RFC 9112 §2.2), by servers too.
    let seen = seen.get(seen.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()..)?;
    let could_be = |whole: &[u8]| {
        if seen.len() < whole.len() { whole.starts_with(seen) } else { seen.starts_with(whole) }
    };
    if seen.starts_with(PREFACE) || METHODS.iter().any(|method| seen.starts_with(method)) {
        return Some(Found::Http);
    }
    if could_be(PREFACE) || METHODS.iter().any(|method| could_be(method)) {
        return None;
    }
    match seen.iter().position(|byte| *byte == b'\n') {
        Some(end) => Some(if is_request_line(seen.get(..end)?) { Found::Http } else { Found::Opaque }),
        None if seen.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\r') => None,
        None => Some(Found::Opaque),
    }
}

/// `token SP target SP HTTP/1.x`.
fn is_request_line(line: &[u8]) -> bool {
    let mut words = line.strip_suffix(b"\r").unwrap_or(line).split(|byte| *byte == b' ');
    let (method, target, version, rest) = (words.next(), words.next(), words.next(), words.next());
    let token = |word: &[u8]| {
        !word.is_empty()
            && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(byte))
    };
    method.is_some_and(token)
        && target.is_some_and(|target| !target.is_empty())
        && version.is_some_and(|version| version == b"HTTP/1.1" || version == b"HTTP/1.0")
        && rest.is_none()
}

/// Which HTTP a stream speaks that is known to speak HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    /// With prior knowledge.
    Http2,
}

/// Reads until it is clear whether HTTP/2's preface comes; gives back what was read.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] for a stream that ends before.
pub(crate) async fn spoken<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<(Spoken, Bytes)> {
    let mut seen = BytesMut::with_capacity(PREFACE.len());
    loop {
        if seen.starts_with(PREFACE) {
            return Ok((Spoken::Http2, seen.freeze()));
        }
        if !PREFACE.starts_with(&seen) {
            return Ok((Spoken::Http1, seen.freeze()));
        }
        let mut limited = (&mut *io).take((PREFACE.len() - seen.len()) as u64);
        if limited.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Longest ClientHello that is looked for, in bytes: one TLS record (RFC 8446 §5.1) and its header.
const CLIENT_HELLO: usize = (16 << 10) + 5;

/// TLS record type *handshake*.
const HANDSHAKE: u8 = 0x16;

/// Reads on from `first` until a TLS ClientHello is whole; gives its server name and everything that was read.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] for a stream that says nothing, or does not finish its ClientHello, within `wait`: what a rule
/// asks of it would never be known; [`io::ErrorKind::InvalidData`] for a ClientHello that is not one to us, since it may be one
/// to the server. A stream that does not begin as TLS has no name.
pub(crate) async fn server_name<IO: AsyncRead + Unpin>(
    io: &mut IO,
    first: Bytes,
    wait: Duration,
) -> io::Result<(Option<String>, Bytes)> {
    let mut seen = BytesMut::from(first);
    let deadline = Instant::now() + wait;
    loop {
        match hello(&seen) {
            Hello::Whole(name) => return Ok((name, seen.freeze())),
            Hello::More if seen.len() >= CLIENT_HELLO => return Err(io::ErrorKind::InvalidData.into()),
            Hello::Unreadable => return Err(io::ErrorKind::InvalidData.into()),
            Hello::More => {}
        }
        let mut limited = (&mut *io).take((CLIENT_HELLO - seen.len()) as u64);
        match timeout_at(deadline, limited.read_buf(&mut seen)).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => drop(more?),
            Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

enum Hello {
    More,
    Whole(Option<String>),
    /// Begins as TLS, and goes on as something that rustls does not take.
    Unreadable,
}

fn hello(seen: &[u8]) -> Hello {
    match seen.first() {
        None => return Hello::More,
        Some(&HANDSHAKE) => {}
        Some(_not_tls) => return Hello::Whole(None),
    }
    let (mut acceptor, mut rest) = (rustls::server::Acceptor::default(), seen);
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Hello::Unreadable;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Hello::Whole(accepted.client_hello().server_name().map(str::to_owned));
            }
            Ok(None) => {}
            Err(_not_ours) => return Hello::Unreadable,
        }
    }
    Hello::More
}

/// A stream whose first bytes were looked at and are read again.
pub(crate) struct Rewound<IO> {
    first: Bytes,
    /// What the stream said when it was read behind the first bytes.
    failed: Option<io::Error>,
    io: IO,
}

impl<IO> Rewound<IO> {
    pub(crate) fn new(first: Bytes, io: IO) -> Self {
        Self { first, failed: None, io }
    }

    /// Gives bytes back that were the last to be read.
    pub(crate) fn rewind(&mut self, read: Bytes) {
        self.first =
            if self.first.is_empty() { read } else { [read, self.first.split_off(0)].concat().into() };
    }
}

/// The first bytes and what follows them come in one read: hyper would double its buffer for the second.
impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.is_empty() {
            return match this.failed.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Pin::new(&mut this.io).poll_read(cx, buf),
            };
        }
        let taken = this.first.len().min(buf.remaining());
        buf.put_slice(&this.first.split_to(taken));
        if !this.first.is_empty() {
            return Poll::Ready(Ok(()));
        }
        this.first = Bytes::new();
        if buf.remaining() > 0
            && this.failed.is_none()
            && let Poll::Ready(Err(error)) = Pin::new(&mut this.io).poll_read(cx, buf)
        {
            this.failed = Some(error);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell() {
        let rows: &[(&[u8], Option<Found>)] = &[
            (b"", None),
            (b"GE", None),
            (b"GET /", Some(Found::Http)),
            (b"PRI * HT", None),
            (PREFACE, Some(Found::Http)),
            (b"PROPFIND /a HTTP/1.1\r\n", Some(Found::Http)),
            (b"PROPFIND /a", None),
            (b"EHLO mail.example\r\n", Some(Found::Opaque)),
            (b"\x16\x03\x01", Some(Found::Opaque)),
            (b"\x00\x00", Some(Found::Opaque)),
            (b"get / HTTP/1.1\r\n", Some(Found::Http)),
            (b"\r\n", None),
            (b"\r\n\r\nPOST /mcp HTTP/1.1\r\n", Some(Found::Http)),
        ];
        for (bytes, want) in rows {
            assert_eq!(tell(bytes), *want, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_name_is_read_from_a_hello_in_pieces_and_waited_for() {
        let config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let name = "db.example".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        let (head, tail) = bytes.split_at(100);

        let (mut near, mut far) = tokio::io::duplex(1 << 15);
        tokio::io::AsyncWriteExt::write_all(&mut near, tail).await.unwrap();
        let wait = Duration::from_secs(10);
        let read = server_name(&mut far, Bytes::copy_from_slice(head), wait).await.unwrap();
        assert_eq!(read, (Some("db.example".to_owned()), Bytes::from(bytes.clone())));

        let half = server_name(&mut far, Bytes::copy_from_slice(head), wait).await;
        assert_eq!(half.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let silent = server_name(&mut far, Bytes::new(), wait).await;
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // No signature_algorithms: legal in TLS 1.2, and nothing that rustls reads a name from.
        let mut odd = b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03".to_vec();
        odd.extend([7; 32]);
        odd.extend(b"\x00\x00\x04\x00\x2f\x00\x35\x01\x00");
        let unreadable = server_name(&mut far, Bytes::from(odd), wait).await;
        assert_eq!(unreadable.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let other = server_name(&mut far, Bytes::from_static(b"SSH-2.0"), wait).await.unwrap();
        assert_eq!(other, (None, Bytes::from_static(b"SSH-2.0")));
    }

    #[tokio::test]
    async fn the_preface_tells_the_versions_apart_in_any_pieces() {
        for (bytes, want) in
            [(PREFACE, Spoken::Http2), (b"PRI / HTTP/1.1\r\n\r\n", Spoken::Http1), (b"G", Spoken::Http1)]
        {
            let (mut near, mut far) = tokio::io::duplex(1);
            let write = tokio::io::AsyncWriteExt::write_all(&mut near, bytes);
            let read = async {
                let (spoken, first) = spoken(&mut far).await.unwrap();
                drop(far);
                (spoken, first)
            };
            let (_cut, (spoken, first)) = tokio::join!(write, read);
            assert_eq!(spoken, want);
            assert!(!first.is_empty() && bytes.starts_with(&first));
        }
        let (near, mut far) = tokio::io::duplex(1);
        drop(near);
        assert_eq!(spoken(&mut far).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_opaque_and_nothing_read_is_lost() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let silent = detect(&mut far, 1024, Duration::from_millis(100)).await.0.unwrap();
        assert_eq!(silent, (Found::Opaque, Bytes::new()));
        tokio::io::AsyncWriteExt::write_all(&mut near, b"PROP").await.unwrap();
        let cut = detect(&mut far, 1024, Duration::from_millis(100)).await.0.unwrap();
        assert_eq!(cut, (Found::Opaque, Bytes::from_static(b"PROP")));
        let mut rewound = Rewound::new(cut.1, far);
        drop(near);
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"PROP");
    }

    #[tokio::test]
    async fn what_was_read_and_what_follows_come_at_once_and_an_error_after_them() {
        struct Breaks(Vec<&'static [u8]>);
        impl AsyncRead for Breaks {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.0.pop() {
                    Some(bytes) => buf.put_slice(bytes),
                    None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                }
                Poll::Ready(Ok(()))
            }
        }
        let mut rewound = Rewound::new(Bytes::from_static(b"hel"), Breaks(vec![b"lo"]));
        let mut part = [0; 16];
        assert_eq!(rewound.read(&mut part).await.unwrap(), 5);
        assert_eq!(&part[..5], b"hello");
        rewound.rewind(Bytes::from_static(b"o"));
        assert_eq!(rewound.read(&mut part).await.unwrap(), 1);
        assert_eq!(rewound.read(&mut part).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
