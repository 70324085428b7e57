//! HTTP/2 frame by frame over TLS, to see what libraries hide and to send what they would not.

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait;

/// Frame types (RFC 9113 §6).
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// PRIORITY.
    pub const PRIORITY: u8 = 2;
    /// RST_STREAM.
    pub const RST_STREAM: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW_UPDATE: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// ACK of SETTINGS and PING.
const ACK: u8 = 1;
/// END_HEADERS of HEADERS.
const END_HEADERS: u8 = 4;

/// Payload of one frame that every peer takes (RFC 9113 §4.2).
const LARGEST: usize = 16_384;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// See [`kind`].
    pub kind: u8,
    /// Flags.
    pub flags: u8,
    /// Stream, 0 for the connection.
    pub stream: u32,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Without flags.
    #[must_use]
    pub fn new(kind: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags: 0, stream, payload: payload.into() }
    }

    /// The word that RST_STREAM and WINDOW_UPDATE carry.
    #[must_use]
    pub fn word(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.payload.get(..4)?.try_into().ok()?))
    }

    /// A setting that SETTINGS tells of.
    #[must_use]
    pub fn setting(&self, id: u16) -> Option<u32> {
        let told = self.payload.chunks_exact(6).find(|setting| setting.starts_with(&id.to_be_bytes()))?;
        Some(u32::from_be_bytes(told.get(2..)?.try_into().ok()?))
    }

    /// Last stream id and error code of a GOAWAY.
    #[must_use]
    pub fn goaway(&self) -> Option<(u32, u32)> {
        let word = |at: usize| Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?));
        (self.kind == kind::GOAWAY).then(|| Some((word(0)?, word(4)?))).flatten()
    }
}

/// A connection whose every frame the test sees. It answers nothing by itself.
pub struct Frames {
    tls: TlsStream<TcpStream>,
}

impl Frames {
    /// Dials, and sends the preface and empty SETTINGS.
    pub async fn dial(config: ClientConfig, address: SocketAddr) -> Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::new(config));
        let tls = connector.connect(ServerName::IpAddress(address.ip().into()), tcp).await?;
        let mut this = Self { tls };
        this.tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        this.send(&Frame { kind: kind::SETTINGS, flags: 0, stream: 0, payload: Vec::new() }).await?;
        Ok(this)
    }

    /// Writes the same frame again and again in few writes, until it was written so often or the peer takes no more.
    pub async fn flood(&mut self, frame: &Frame, times: usize) -> Result<()> {
        let bytes = bytes_of(frame)?.repeat(100);
        for _ in 0..times.div_ceil(100) {
            if self.tls.write_all(&bytes).await.is_err() {
                break; // What it said before it closed is read by the caller.
            }
        }
        let _ = self.tls.flush().await;
        Ok(())
    }

    /// Writes one frame as it is.
    pub async fn send(&mut self, frame: &Frame) -> Result<()> {
        self.tls.write_all(&bytes_of(frame)?).await?;
        Ok(self.tls.flush().await?)
    }

    /// Opens a CONNECT stream. The fields are literals without indexing (RFC 7541 §6.2.2), so no state is needed.
    pub async fn connect(&mut self, stream: u32, authority: &str) -> Result<()> {
        ensure!(authority.len() < 127, "a longer length would need more than one byte");
        let mut block = vec![0x02, 7];
        block.extend(b"CONNECT");
        block.extend([0x01, u8::try_from(authority.len())?]);
        block.extend(authority.as_bytes());
        self.send(&Frame { kind: kind::HEADERS, flags: END_HEADERS, stream, payload: block }).await
    }

    /// Opens a CONNECT stream with one more header of so many bytes, in as many frames as it takes.
    pub async fn connect_with(&mut self, stream: u32, authority: &str, header: usize) -> Result<()> {
        let mut block = vec![0x02, 7];
        block.extend(b"CONNECT");
        block.extend([0x01, u8::try_from(authority.len())?]);
        block.extend(authority.as_bytes());
        block.extend([0x00, 1, b'x', 127]);
        let mut rest = header.saturating_sub(127);
        while rest >= 128 {
            block.push(u8::try_from(rest % 128)? | 0x80);
            rest /= 128;
        }
        block.push(u8::try_from(rest)?);
        block.resize(block.len() + header.max(127), b'y');
        let mut parts = block.chunks(LARGEST).peekable();
        let mut kind = kind::HEADERS;
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
            self.send(&Frame { kind, flags, stream, payload: part.to_vec() }).await?;
            kind = kind::CONTINUATION;
        }
        Ok(())
    }

    /// Acknowledges SETTINGS or a PING.
    pub async fn acknowledge(&mut self, frame: &Frame) -> Result<()> {
        let payload = if frame.kind == kind::PING { frame.payload.clone() } else { Vec::new() };
        self.send(&Frame { kind: frame.kind, flags: ACK, stream: 0, payload }).await
    }

    /// The next frame, or nothing at the end of the connection.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        wait::within("a frame", self.read()).await?
    }

    async fn read(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 9];
        if self.tls.read_exact(&mut head).await.is_err() {
            return Ok(None);
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.tls.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Ok(Some(Frame { kind, flags, stream, payload }))
    }

    /// Reads until a frame of this kind without ACK comes; other frames are passed over.
    pub async fn until(&mut self, kind: u8) -> Result<Frame> {
        loop {
            let frame =
                self.next().await?.with_context(|| format!("the connection ended before a frame {kind}"))?;
            if frame.kind == kind && !(matches!(kind, kind::SETTINGS | kind::PING) && frame.flags & ACK != 0)
            {
                return Ok(frame);
            }
        }
    }
}

fn bytes_of(frame: &Frame) -> Result<Vec<u8>> {
    let length = u32::try_from(frame.payload.len())?;
    let mut bytes = length.to_be_bytes().get(1..).context("three bytes")?.to_vec();
    bytes.extend([frame.kind, frame.flags]);
    bytes.extend(frame.stream.to_be_bytes());
    bytes.extend(&frame.payload);
    Ok(bytes)
}
