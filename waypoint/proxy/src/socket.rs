//! A plain socket that is only closed as usual when what it carried came to its end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

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
