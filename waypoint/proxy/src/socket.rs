//! Sockets that do one thing more: reset what did not come to its end, and read ahead of a TLS session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// ENOMEM, ENFILE, EMFILE, EADDRNOTAVAIL and ENOBUFS of Linux: the process or the machine has no more of what sockets need.
const EXHAUSTED: [i32; 5] = [12, 23, 24, 99, 105];

/// Whether there are no more descriptors, ports or memory for sockets.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code))
}

/// A socket whose owner may be dropped at any time: closed as usual, it would tell its peer of an end that was none, and a
/// body without a length would look complete. Dropped before its end it sends a RST.
pub(crate) struct ResetOnDrop {
    /// The socket.
    pub(crate) socket: TcpStream,
    /// Whether it may be closed as usual; so it may once its sending side was shut down through this type.
    pub(crate) ended: bool,
}

impl ResetOnDrop {
    pub(crate) fn of(socket: TcpStream) -> Self {
        Self { socket, ended: false }
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if !self.ended {
            // Fails only for a socket that is gone already.
            let _ = self.socket.set_zero_linger();
        }
    }
}

impl AsyncRead for ResetOnDrop {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for ResetOnDrop {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = ready!(Pin::new(&mut this.socket).poll_shutdown(cx));
        this.ended |= shut.is_ok();
        Poll::Ready(shut)
    }
}

/// What is read at once of a socket that has much to say, in bytes: four records of TLS.
const AHEAD: usize = 64 << 10;

/// A socket below a TLS session. rustls asks for 4 KiB at a time, which costs a busy connection four system calls a record. When
/// it got all that it asked for, more is read at once the next time; a socket that has nothing to say holds no buffer.
pub(crate) struct ReadAhead {
    socket: TcpStream,
    /// Read and not yet asked for.
    ahead: BytesMut,
    /// Whether the last read was filled.
    busy: bool,
}

impl ReadAhead {
    pub(crate) fn of(socket: TcpStream) -> Self {
        Self { socket, ahead: BytesMut::new(), busy: false }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            if !this.busy || buf.remaining() >= AHEAD {
                ready!(Pin::new(&mut this.socket).poll_read(cx, buf))?;
                this.busy = buf.remaining() == 0;
                return Poll::Ready(Ok(()));
            }
            this.ahead.reserve(AHEAD);
            let read = poll_read_buf(Pin::new(&mut this.socket), cx, &mut this.ahead);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                (this.ahead, this.busy) = (BytesMut::new(), false);
            }
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        let taken = this.ahead.len().min(buf.remaining());
        buf.put_slice(this.ahead.get(..taken).unwrap_or_default());
        this.ahead.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_read_ahead_is_what_was_sent_and_silence_holds_no_buffer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = ReadAhead::of(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut read, mut ahead) = (Vec::new(), 0);
        let write = async {
            far.write_all(&sent).await.unwrap();
            far
        };
        let take = async {
            let mut part = [0; 4096];
            while read.len() < sent.len() {
                let taken = near.read(&mut part).await.unwrap();
                read.extend_from_slice(&part[..taken]);
                ahead = ahead.max(near.ahead.capacity());
            }
            let pending = std::future::poll_fn(|cx| {
                Poll::Ready(Pin::new(&mut near).poll_read(cx, &mut ReadBuf::new(&mut part)).is_pending())
            });
            assert!(pending.await);
            assert_eq!(near.ahead.capacity(), 0);
        };
        let (far, ()) = tokio::join!(write, take);
        assert!(read == sent, "{} bytes of {}", read.len(), sent.len());
        // What was taken from the buffer is no longer in its capacity.
        assert!(ahead > AHEAD / 2, "{ahead}");
        drop(far);
        assert_eq!(near.read(&mut [0; 16]).await.unwrap(), 0);
    }
}
