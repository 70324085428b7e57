//! One CONNECT stream as a full-duplex byte stream.
//!
//! END_STREAM is a half-close and nothing else is: a RST_STREAM with any code, NO_ERROR and CANCEL included, and a lost connection
//! are errors. ztunnel reads those two codes as an end; we do not, since a cut answer would look whole.

use crate::error::{Reset, StreamError};
use crate::observer::Bound;
use crate::stream::{Chunk, Shared};
use crate::watch::Broken;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What an abandoned stream is reset with. Not CANCEL: ztunnel takes that for the end of the bytes.
const ABANDONED: Reset = Reset::InternalError;

/// An open CONNECT stream: [`AsyncRead`] + [`AsyncWrite`], or two halves.
///
/// `read` gives EOF on END_STREAM and [`io::ErrorKind::ConnectionReset`] on a reset. `shutdown` sends END_STREAM; dropping the
/// tunnel without it resets the stream with INTERNAL_ERROR. After `shutdown` a drop lets queued bytes go out; if the peer was not
/// done sending, it is then told to stop.
///
/// Flow-control credit for bytes that were read goes back to the peer with the next read, so a reader that stops stops the sender.
pub struct Tunnel {
    headers: HeaderMap,
    reader: TunnelReader,
    writer: TunnelWriter,
    leaves_at: Option<Instant>,
}

impl Tunnel {
    pub(crate) fn new(
        headers: HeaderMap,
        recv: RecvStream,
        send: SendStream<Chunk>,
        shared: Arc<Shared>,
        send_buffer: usize,
    ) -> Self {
        Self {
            headers,
            reader: TunnelReader {
                recv,
                unread: Bytes::new(),
                held: 0,
                copied: 0,
                had_trailers: false,
                _shared: Arc::clone(&shared),
            },
            writer: TunnelWriter { send, shared, send_buffer, state: Sending::Open, is_full: false },
            leaves_at: None,
        }
    }

    /// The same on a connection that leaves then.
    pub(crate) fn leaving_at(self, leaves_at: Option<Instant>) -> Self {
        Self { leaves_at, ..self }
    }

    /// When nothing new should begin on this stream any more, since its connection is to end
    /// ([`Connector::leaves_at`](crate::Connector::leaves_at)).
    #[must_use]
    pub fn leaves_at(&self) -> Option<Instant> {
        self.leaves_at
    }

    /// Resolves when the peer resets this stream or its connection is lost, also while nobody reads from it or writes to it: for those
    /// who carry it on behalf of somebody that would not look. Of a tunnel that we opened it never resolves. One may be waited for.
    #[must_use]
    pub fn broken(&self) -> Broken {
        self.writer.shared.broken()
    }

    /// Resets both directions; bytes still queued are thrown away.
    pub fn reset(&mut self, reason: Reset) {
        self.writer.reset(reason);
    }

    /// Two halves for full-duplex use. Dropping the writer unfinished resets both directions.
    #[must_use]
    pub fn into_split(self) -> (TunnelReader, TunnelWriter) {
        (self.reader, self.writer)
    }

    /// Response headers of an opened tunnel (client side), request headers of an accepted one. Hints, never identity.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("stream", &self.writer.send.stream_id()).finish_non_exhaustive()
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.writer.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

/// The receiving half. Dropping it early lets the peer's further bytes be thrown away; the writer decides how the stream ends.
pub struct TunnelReader {
    recv: RecvStream,
    /// Rest of a chunk that a smaller read buffer did not take.
    unread: Bytes,
    /// Bytes handed out whose credit has not gone back.
    held: usize,
    /// Of these, bytes copied out by the last `poll_read`.
    copied: usize,
    /// Keeps the error: h2 would report an end when asked again.
    had_trailers: bool,
    /// The stream is open while this half is.
    _shared: Arc<Shared>,
}

impl TunnelReader {
    /// The next bytes, uncopied; `None` is END_STREAM. Credit comes back by [`Self::release`] only. Cancel safe.
    ///
    /// An error stays: each later call gives it again, never an end.
    pub async fn data(&mut self) -> Option<Result<Bytes, StreamError>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Gives credit for `bytes` back to the peer, once they have gone where they had to go. More than was handed out is ignored.
    pub fn release(&mut self, bytes: usize) {
        let bytes = bytes.min(self.held);
        if bytes > 0 {
            self.held -= bytes;
            // Fails only for more than was received, which `held` rules out.
            let _ = self.recv.flow_control().release_capacity(bytes);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        self.release_copied();
        if !self.unread.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.unread))));
        }
        loop {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.held += data.len();
                    return Poll::Ready(Some(Ok(data)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return self.poll_end(cx).map(Result::err).map(|error| error.map(Err)),
            }
        }
    }

    /// After the last DATA: an end, unless trailers follow.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if !self.had_trailers {
            self.had_trailers = ready!(self.recv.poll_trailers(cx))?.is_some();
        }
        Poll::Ready(if self.had_trailers { Err(StreamError::Trailers) } else { Ok(()) })
    }

    fn release_copied(&mut self) {
        let copied = std::mem::take(&mut self.copied);
        self.release(copied);
    }
}

impl AsyncRead for TunnelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut data = match ready!(self.poll_data(cx)) {
            Some(data) => data?,
            None => return Poll::Ready(Ok(())),
        };
        let count = data.len().min(buf.remaining());
        buf.put_slice(data.get(..count).unwrap_or_default());
        data.advance(count);
        self.unread = data;
        self.copied = count;
        Poll::Ready(Ok(()))
    }
}

/// The sending half.
pub struct TunnelWriter {
    send: SendStream<Chunk>,
    shared: Arc<Shared>,
    send_buffer: usize,
    state: Sending,
    /// Waits for bytes to leave.
    is_full: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    Finished,
    Reset,
}

impl TunnelWriter {
    /// Sends all of `data`, uncopied, waiting for flow control and for room in the send buffer.
    ///
    /// Not cancel safe: part of `data` may have been taken.
    ///
    /// # Errors
    /// The peer's reset, also one that comes while waiting; or the connection broke, or [`Self::finish`] was called before.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), StreamError> {
        while !data.is_empty() {
            poll_fn(|cx| self.poll_send(cx, data.len(), |room| data.split_to(room))).await?;
        }
        Ok(())
    }

    /// Sends END_STREAM after what was sent; the other direction goes on. A second call does nothing.
    ///
    /// # Errors
    /// The stream was reset.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        if self.state == Sending::Finished {
            return Ok(());
        }
        match self.send.send_data(Chunk::empty(), true) {
            Ok(()) => {
                self.state = Sending::Finished;
                Ok(())
            }
            Err(error) => Err(self.why_broken().unwrap_or_else(|| error.into())),
        }
    }

    /// Resets both directions; bytes still queued are thrown away.
    pub fn reset(&mut self, reason: Reset) {
        self.send.send_reset(reason.into());
        self.state = Sending::Reset;
    }

    /// Resolves when the peer resets the stream or the connection breaks, also after [`Self::finish`]. Cancel safe.
    pub async fn broken(&mut self) -> StreamError {
        poll_fn(|cx| self.poll_broken(cx)).await
    }

    /// Resolves when all that was sent has been written to the connection, or thrown away by a reset. Cancel safe.
    pub(crate) async fn written(&mut self) {
        poll_fn(|cx| self.shared.poll_written(cx)).await;
    }

    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        self.send.poll_reset(cx).map(|reset| match reset {
            Ok(reason) => StreamError::Reset(reason.into()),
            Err(error) => error.into(),
        })
    }

    fn why_broken(&mut self) -> Option<StreamError> {
        match self.poll_broken(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(error) => Some(error),
            Poll::Pending => None,
        }
    }

    /// Waits for room and queues what `take(room)` gives; `room` is 1 to `wanted`.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
        take: impl FnOnce(usize) -> Bytes,
    ) -> Poll<Result<usize, StreamError>> {
        let room = ready!(self.poll_room(cx, wanted))?;
        let chunk = take(room);
        if let Err(error) = self.send.send_data(Chunk::new(chunk, &self.shared), false) {
            return Poll::Ready(Err(self.why_broken().unwrap_or_else(|| error.into())));
        }
        Poll::Ready(Ok(room))
    }

    /// A writer waits for the peer's credit, or because too much of what it wrote has not left yet.
    fn tell_if_full(&mut self) {
        if !self.is_full && self.shared.unwritten() >= self.send_buffer {
            self.is_full = true;
            self.shared.reached(Bound::SendBuffer);
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, StreamError>> {
        if self.state == Sending::Finished {
            return Poll::Ready(Err(StreamError::Finished));
        }
        self.send.reserve_capacity(wanted.min(self.send_buffer));
        loop {
            let room = self.send.capacity();
            if room > 0 {
                self.is_full = false;
                return Poll::Ready(Ok(room.min(wanted)));
            }
            let polled = self.send.poll_capacity(cx);
            if polled.is_pending() {
                self.tell_if_full();
            }
            match ready!(polled) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                None => return Poll::Ready(Err(self.why_broken().unwrap_or(StreamError::Finished))),
            }
        }
    }
}

impl Drop for TunnelWriter {
    fn drop(&mut self) {
        if self.state == Sending::Open {
            self.reset(ABANDONED);
        }
    }
}

impl AsyncWrite for TunnelWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let copy = |room| Bytes::copy_from_slice(buf.get(..room).unwrap_or(buf));
        self.poll_send(cx, buf.len(), copy).map_err(Into::into)
    }

    /// Gathers the slices into one frame.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        self.poll_send(cx, wanted, |room| gather(slices, room)).map_err(Into::into)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready at once: the connection's driver writes what is queued.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish().map_err(Into::into))
    }
}

/// The first `room` bytes of the slices.
fn gather(slices: &[IoSlice<'_>], room: usize) -> Bytes {
    let mut gathered = BytesMut::with_capacity(room);
    for slice in slices {
        let left = room - gathered.len();
        gathered.put_slice(slice.get(..left).unwrap_or(slice));
    }
    gathered.freeze()
}
