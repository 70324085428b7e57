//! HTTP/1 byte by byte, for requests that no library would send.

use super::find;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// An answer read byte by byte, for requests that no HTTP library would send.
#[derive(Clone, Debug)]
pub struct RawReply {
    /// Status line and headers as they came.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl RawReply {
    /// The status of the status line, 0 if it has none.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Writes `request` as it is and reads one HTTP/1 answer, leaving the stream open. The bytes of `request` may also
/// be given in parts, each flushed on its own.
pub async fn raw(io: &mut (impl AsyncRead + AsyncWrite + Unpin), parts: &[&[u8]]) -> Result<RawReply> {
    for part in parts {
        io.write_all(part).await?;
        io.flush().await?;
    }
    wait::within("a raw answer", read_raw(io)).await?
}

/// Reads one HTTP/1 answer.
async fn read_raw(io: &mut (impl AsyncRead + Unpin)) -> Result<RawReply> {
    let mut unread = BytesMut::new();
    let end = fill_until(io, &mut unread, b"\r\n\r\n").await?;
    let head = String::from_utf8_lossy(&unread.split_to(end)).into_owned();
    let mut reply = RawReply { head, body: Vec::new() };
    if reply.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        reply.body = read_chunks(io, &mut unread).await?;
    } else if let Some(length) = reply.header("content-length") {
        let length = length.parse()?;
        fill(io, &mut unread, length).await?;
        reply.body = unread.split_to(length).to_vec();
    } else {
        io.read_to_end(&mut reply.body).await?;
        reply.body.splice(0..0, unread);
    }
    Ok(reply)
}

async fn read_chunks(io: &mut (impl AsyncRead + Unpin), unread: &mut BytesMut) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = fill_until(io, unread, b"\r\n").await?;
        let line = String::from_utf8_lossy(&unread.split_to(end)).trim().to_owned();
        let length = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16).context(line)?;
        fill(io, unread, length + 2).await?;
        body.extend_from_slice(&unread.split_to(length));
        drop(unread.split_to(2));
        if length == 0 {
            return Ok(body);
        }
    }
}

/// Reads until `mark` has come; returns where it ends.
async fn fill_until(io: &mut (impl AsyncRead + Unpin), unread: &mut BytesMut, mark: &[u8]) -> Result<usize> {
    loop {
        if let Some(start) = find(unread, mark) {
            return Ok(start + mark.len());
        }
        if io.read_buf(unread).await? == 0 {
            bail!("the stream ended after {:?}", String::from_utf8_lossy(unread));
        }
    }
}

async fn fill(io: &mut (impl AsyncRead + Unpin), unread: &mut BytesMut, length: usize) -> Result<()> {
    while unread.len() < length {
        ensure!(io.read_buf(unread).await? > 0, "the stream ended {} bytes early", length - unread.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn raw_answers_are_read_to_their_declared_end_only() {
        let rows: [(&str, &[u8], &str); 3] = [
            ("length", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1", "ok"),
            (
                "chunks",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x\r\nk\r\n0\r\n\r\n",
                "ok",
            ),
            ("until the end", b"HTTP/1.1 200 OK\r\n\r\nok", "ok"),
        ];
        for (name, bytes, body) in rows {
            let reply = read_raw(&mut &bytes[..]).await.unwrap();
            assert_eq!((reply.status(), reply.text().as_str()), (200, body), "{name}");
        }
    }
}
