//! One tunnel stream as bytes in both directions.

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use std::any::Any;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// An open CONNECT stream. End of stream reads as end of file; a reset is an error that names its HTTP/2 reason.
/// `shutdown` half-closes. Dropping it in mid-stream resets with CANCEL.
#[derive(Debug)]
pub struct TunnelStream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    unread: Bytes,
    /// The connection, which must not end before its last stream.
    _connection: Option<Arc<dyn Any + Send + Sync>>,
}

impl TunnelStream {
    /// The two halves of a stream that was answered with 200.
    #[must_use]
    pub fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, unread: Bytes::new(), _connection: None }
    }

    /// The same, holding what moves the frames of its connection.
    pub(super) fn on(self, connection: Arc<dyn Any + Send + Sync>) -> Self {
        Self { _connection: Some(connection), ..self }
    }

    /// Resets the stream.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    /// Resolves with the peer's reset reason. Cancel safe.
    pub async fn reset_by_peer(&mut self) -> Result<Reason, h2::Error> {
        std::future::poll_fn(|cx| self.send.poll_reset(cx)).await
    }

    /// Takes the next DATA and gives back its credit, without copying it; `None` is the end. Cancel safe.
    ///
    /// # Errors
    /// When the stream was reset or its connection broke.
    pub async fn data(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let data = self.receive.data().await?;
        Some(data.and_then(|data| {
            self.receive.flow_control().release_capacity(data.len())?;
            Ok(data)
        }))
    }

    /// Sends all of `bytes` without copying them, as fast as the peer grants credit. Not cancel safe: what was sent is lost.
    ///
    /// # Errors
    /// When the stream was reset or its connection broke.
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), h2::Error> {
        while !bytes.is_empty() {
            self.send.reserve_capacity(bytes.len());
            while self.send.capacity() == 0 {
                let granted = std::future::poll_fn(|cx| self.send.poll_capacity(cx)).await;
                granted.ok_or_else(|| h2::Error::from(Reason::STREAM_CLOSED))??;
            }
            let granted = self.send.capacity().min(bytes.len());
            self.send.send_data(bytes.split_to(granted), false)?;
        }
        Ok(())
    }

    /// Takes the next DATA without giving back its credit: a reader that is stuck.
    pub async fn data_without_credit(&mut self) -> Option<Result<Bytes, h2::Error>> {
        self.receive.data().await
    }
}

/// The HTTP/2 reason of a failed read or write, if that is why it failed.
fn as_io(error: h2::Error) -> io::Error {
    let kind = if error.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::Other };
    io::Error::new(kind, error)
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => self.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.slice(..taken));
        self.unread.advance(taken);
        // Credit only for what the reader took, so that a slow reader slows the sender.
        let released = self.receive.flow_control().release_capacity(taken);
        Poll::Ready(released.map_err(as_io))
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let taken = self.send.capacity().min(buf.len());
        let data = buf.get(..taken).map(Bytes::copy_from_slice).unwrap_or_default();
        Poll::Ready(self.send.send_data(data, false).map(|()| taken).map_err(as_io))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(as_io))
    }
}
