//! HTTP/2 frame by frame, for requests that no library would send. Header fields are written as literals (RFC 7541
//! §6.2.2), so that nothing is lost or put right on the way.

use anyhow::{Result, bail};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::TunnelStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Payload of one frame (RFC 9113 §4.2).
const LARGEST: usize = 16_384;

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// An answer with this status.
    Status(u16),
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, other than the one that says that all is well.
    GoAway(u32),
    /// The stream of the tunnel ended.
    Closed,
}

/// A request as header fields in their order, and a body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { fields: fields.collect(), body: Vec::new() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another path in the place of the one that stands.
    pub(crate) fn path(mut self, path: &str) -> Self {
        for (_, value) in self.fields.iter_mut().filter(|(name, _)| name == ":path") {
            path.clone_into(value);
        }
        self
    }

    pub(crate) fn body(mut self, body: &str) -> Self {
        self.body = body.into();
        self
    }

    fn block(&self) -> Vec<u8> {
        self.fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
    }
}

/// A field that is neither indexed nor Huffman-coded.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut out = vec![0];
    for text in [name, value] {
        out.extend(length(text.len()));
        out.extend_from_slice(text.as_bytes());
    }
    out
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn length(length: usize) -> Vec<u8> {
    let byte = |value: usize| u8::try_from(value).unwrap_or(u8::MAX);
    if length < 127 {
        return vec![byte(length)];
    }
    let (mut rest, mut out) = (length - 127, vec![127]);
    while rest >= 128 {
        out.push(byte(rest % 128 + 128));
        rest /= 128;
    }
    out.push(byte(rest));
    out
}

/// One HTTP/2 connection with a single request on it.
pub(crate) struct Connection(TunnelStream);

impl Connection {
    /// Says the preface and empty settings.
    pub(crate) async fn open(mut tunnel: TunnelStream) -> Result<Self> {
        tunnel.write_all(PREFACE).await?;
        let mut this = Self(tunnel);
        this.write(SETTINGS, 0, 0, &[]).await?;
        Ok(this)
    }

    /// Sends a request and returns the first thing that decides it.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Heard> {
        let block = request.block();
        let mut parts = block.chunks(LARGEST).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
            let last = if kind == HEADERS && request.body.is_empty() { END_STREAM } else { 0 };
            // A peer that has hung up already is heard below.
            let _ = self.write(kind, end | last, 1, part).await;
            kind = CONTINUATION;
        }
        if !request.body.is_empty() {
            let _ = self.write(DATA, END_STREAM, 1, &request.body).await;
        }
        self.heard().await
    }

    /// Begins a header block and never ends it.
    pub(crate) async fn flood_continuations(&mut self, frames: usize) -> Result<Heard> {
        let field = literal("x", "y");
        self.write(HEADERS, 0, 1, &literal(":method", "POST")).await?;
        for _ in 0..frames {
            if self.write(CONTINUATION, 0, 1, &field).await.is_err() {
                break;
            }
        }
        self.heard().await
    }

    async fn write(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        Ok(self.0.write_all(&frame).await?)
    }

    async fn heard(&mut self) -> Result<Heard> {
        loop {
            let read = wait::within("a frame", self.read()).await?;
            let Ok((kind, payload)) = read else { return Ok(Heard::Closed) };
            match kind {
                HEADERS => return Ok(Heard::Status(status(&payload)?)),
                RST_STREAM => return Ok(Heard::Reset(number(&payload, 0))),
                GOAWAY if number(&payload, 4) != 0 => return Ok(Heard::GoAway(number(&payload, 4))),
                _other => {}
            }
        }
    }

    async fn read(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]]))?;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await?;
        Ok((head[3], payload))
    }
}

fn number(payload: &[u8], at: usize) -> u32 {
    let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u32::from_be_bytes)
}

/// `:status` stands first: from the static table (RFC 7541, appendix A), or as a literal of three digits under the name
/// of entry 8, with or without indexing.
fn status(block: &[u8]) -> Result<u16> {
    let from_table = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [first, ..] if (0x88..=0x8e).contains(first) => Ok(from_table[usize::from(first - 0x88)]),
        [0x48 | 0x08, 3, rest @ ..] => Ok(std::str::from_utf8(&rest[..3])?.parse()?),
        // Huffman: digits of five bits, `0`, `1` and `2`, and of six bits the others.
        [0x48 | 0x08, 0x82, rest @ ..] => digits(&rest[..2]),
        [0x48 | 0x08, 0x83, rest @ ..] => digits(&rest[..3]),
        other => bail!("no status in {:x?}", &other[..other.len().min(16)]),
    }
}

/// Three digits in the Huffman code of RFC 7541, appendix B.
fn digits(bytes: &[u8]) -> Result<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| u16::from(byte >> bit & 1)));
    let mut told = 0;
    for _ in 0..3 {
        let mut code = 0;
        for _ in 0..5 {
            code = code * 2 + bits.next().unwrap_or(1);
        }
        let digit = if code < 3 { code } else { code * 2 + bits.next().unwrap_or(1) - 0x19 + 3 };
        told = told * 10 + digit;
    }
    Ok(told)
}
