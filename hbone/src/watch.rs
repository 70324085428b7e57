//! What passes over an accepted connection, watched: resets that nobody reads, windows that are used up, and floods.
//!
//! h2 keeps most of these bounds, but says nothing of it, and tells a stream's reader of a reset only when it reads. The heads of
//! the frames say it all, so they are read on their way to h2 and from it.

use crate::frames::{Head, Scanner, kind};
use crate::observer::{Bound, Observer};
use futures_util::task::AtomicWaker;
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Over which time frames that carry nothing are counted.
const FLOOD_TIME: Duration = Duration::from_secs(1);

/// Frames without content that one with content allows for: some clients give credit twice for each that they read, for the stream and
/// for the connection. Bytes under [`SMALL`] allow for none, or credit byte by byte would pay for itself.
const CREDIT: usize = 4;
const SMALL: u32 = 64;

/// A connection's window before anything is said of it (RFC 9113 §6.9.2).
const FIRST_WINDOW: i64 = 65_535;

/// Resolves when the peer resets the stream or its connection is lost, whoever reads it and whether anybody does. Cancel safe.
///
/// A stream that ended in order is not broken.
pub struct Broken(Option<Arc<Signal>>);

impl Broken {
    /// Of what cannot be reset: never resolves.
    #[must_use]
    pub fn never() -> Self {
        Self(None)
    }

    pub(crate) fn of(signal: Option<Arc<Signal>>) -> Self {
        Self(signal)
    }
}

impl Future for Broken {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &self.0 {
            Some(signal) => signal.poll(cx),
            None => Poll::Pending,
        }
    }
}

/// One stream's end by a break. One waits for it at a time.
#[derive(Default)]
pub(crate) struct Signal {
    broken: AtomicBool,
    waiting: AtomicWaker,
}

impl Signal {
    fn raise(&self) {
        self.broken.store(true, Ordering::Release);
        self.waiting.wake();
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.broken.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What the connection and its bytes share. Locked once a read and once a write, by the connection's own task.
pub(crate) struct Watch {
    state: Mutex<State>,
    observer: Observer,
    /// Window of a stream when it begins.
    stream_window: i64,
    /// Frames that may carry nothing in [`FLOOD_TIME`].
    idle_frames: usize,
    flooded: AtomicBool,
}

struct State {
    /// Why we ended it, if that was for a flood.
    flood: Option<&'static str>,
    streams: HashMap<u32, Stream>,
    /// What the peer may still send on the connection, as it can know.
    window: i64,
    idle_frames: usize,
    counted_since: Instant,
}

struct Stream {
    signal: Arc<Signal>,
    window: i64,
    peer_ended: bool,
    we_ended: bool,
}

impl Watch {
    pub(crate) fn new(observer: Observer, stream_window: u32, idle_frames: usize) -> Arc<Self> {
        let state = State {
            flood: None,
            streams: HashMap::new(),
            window: FIRST_WINDOW,
            idle_frames: 0,
            counted_since: Instant::now(),
        };
        let flooded = AtomicBool::new(false);
        Arc::new(Self {
            state: Mutex::new(state),
            observer,
            stream_window: stream_window.into(),
            idle_frames,
            flooded,
        })
    }

    /// The signal of a stream that has begun and not ended.
    pub(crate) fn signal(&self, stream: u32) -> Option<Arc<Signal>> {
        self.state().streams.get(&stream).map(|stream| Arc::clone(&stream.signal))
    }

    /// Which flood h2 ended the connection for.
    pub(crate) fn flood(&self) -> Option<&'static str> {
        self.state().flood
    }

    /// Whether the peer sent too many frames that carry nothing. Nothing more is read then.
    pub(crate) fn is_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self, state: &mut State, head: Head) {
        match head.kind {
            kind::HEADERS => {
                let begin = || Stream {
                    signal: Arc::default(),
                    window: self.stream_window,
                    peer_ended: false,
                    we_ended: false,
                };
                state.streams.entry(head.stream).or_insert_with(begin);
            }
            kind::DATA => self.used(state, head),
            kind::RST_STREAM => {
                if let Some(stream) = state.streams.remove(&head.stream) {
                    stream.signal.raise();
                }
            }
            _other => {}
        }
        if head.ends_stream()
            && let Some(stream) = state.streams.get_mut(&head.stream)
        {
            stream.peer_ended = true;
            state.forget_ended(head.stream);
        }
        self.weigh(state, head);
    }

    /// Whether bytes that came used a window up: then the peer waits until we give credit back.
    fn used(&self, state: &mut State, head: Head) {
        let bytes = i64::from(head.length);
        if bytes > 0 && takes_the_last(&mut state.window, bytes) {
            self.observer.reached(Bound::ConnectionWindow);
        }
        if let Some(stream) = state.streams.get_mut(&head.stream)
            && bytes > 0
            && takes_the_last(&mut stream.window, bytes)
        {
            self.observer.reached(Bound::StreamWindow);
        }
    }

    /// A frame that opens nothing and carries nothing costs one; see [`CREDIT`].
    fn weigh(&self, state: &mut State, head: Head) {
        match head.kind {
            kind::DATA if head.length > 0 => state.carried(head),
            kind::DATA if head.ends_stream() => {}
            kind::HEADERS => {}
            _nothing => {
                if state.counted_since.elapsed() > FLOOD_TIME {
                    (state.counted_since, state.idle_frames) = (Instant::now(), 0);
                }
                state.idle_frames += 1;
                if state.idle_frames > self.idle_frames && !self.flooded.swap(true, Ordering::Relaxed) {
                    self.observer.reached(Bound::IdleFrames);
                }
            }
        }
    }

    fn sent(&self, state: &mut State, head: Head) {
        match head.kind {
            kind::WINDOW_UPDATE if head.stream == 0 => state.window += i64::from(head.word),
            kind::WINDOW_UPDATE => {
                if let Some(stream) = state.streams.get_mut(&head.stream) {
                    stream.window += i64::from(head.word);
                }
            }
            kind::RST_STREAM => self.refused(state, head),
            kind::GOAWAY => state.flood = state.flood.or_else(|| crate::error::flood(&head.debug)),
            kind::DATA => state.carried(head),
            _other => {}
        }
        if head.ends_stream()
            && let Some(stream) = state.streams.get_mut(&head.stream)
        {
            stream.we_ended = true;
            state.forget_ended(head.stream);
        }
    }

    /// h2 refuses a stream too many with REFUSED_STREAM, and a head that is too large with an answer (431) and PROTOCOL_ERROR.
    fn refused(&self, state: &mut State, head: Head) {
        let Some(stream) = state.streams.remove(&head.stream) else { return };
        if head.word == u32::from(h2::Reason::REFUSED_STREAM) {
            self.observer.reached(Bound::Streams);
        }
        if stream.we_ended && head.word == u32::from(h2::Reason::PROTOCOL_ERROR) {
            self.observer.reached(Bound::HeaderList);
        }
    }
}

impl State {
    fn carried(&mut self, data: Head) {
        if data.length >= SMALL {
            self.idle_frames = self.idle_frames.saturating_sub(CREDIT);
        }
    }

    fn forget_ended(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| stream.peer_ended && stream.we_ended) {
            self.streams.remove(&id);
        }
    }
}

fn takes_the_last(window: &mut i64, bytes: i64) -> bool {
    let before = *window;
    *window -= bytes;
    before > 0 && *window <= 0
}

/// What HTTP/2 inside a tunnel is served on: the same watch over a connection that somebody else accepts. A flood of frames that
/// carry nothing reads as an error.
pub struct Guarded<IO>(Watched<IO>);

impl<IO> Guarded<IO> {
    /// `idle_frames` as [`crate::Settings::idle_frames`]. `observer` is told of [`Bound::IdleFrames`], [`Bound::Streams`] and
    /// [`Bound::HeaderList`]; windows are the business of whoever accepts.
    pub fn new(io: IO, observer: Observer, idle_frames: usize) -> Self {
        let observer = observer.only(&[Bound::IdleFrames, Bound::Streams, Bound::HeaderList]);
        Self(Watched::new(io, Watch::new(observer, u32::MAX, idle_frames)))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Guarded<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watched = &mut self.get_mut().0;
        if watched.watch.is_flooded() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a flood of frames")));
        }
        Pin::new(watched).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guarded<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// A connection's bytes, watched.
pub(crate) struct Watched<IO> {
    io: IO,
    watch: Arc<Watch>,
    from_peer: Scanner,
    to_peer: Scanner,
}

impl<IO> Watched<IO> {
    /// Of the accepting side.
    pub(crate) fn new(io: IO, watch: Arc<Watch>) -> Self {
        Self { io, watch, from_peer: Scanner::of_client(), to_peer: Scanner::new() }
    }

    /// `bytes` of what these slices hold were taken.
    fn sent<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>, bytes: usize) {
        let mut state = self.watch.state();
        let mut left = bytes;
        for slice in slices {
            let taken = slice.get(..left).unwrap_or(slice);
            left -= taken.len();
            self.to_peer.scan(taken, |head| self.watch.sent(&mut state, head));
            if left == 0 {
                break;
            }
        }
    }
}

impl<IO> Drop for Watched<IO> {
    fn drop(&mut self) {
        for (_, stream) in self.watch.state().streams.drain() {
            stream.signal.raise();
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.is_flooded() {
            return Poll::Pending; // The connection's owner looks at that next, and ends it.
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let fresh = buf.filled().get(before..).unwrap_or_default();
        let mut state = this.watch.state();
        this.from_peer.scan(fresh, |head| this.watch.received(&mut state, head));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.sent(std::iter::once(buf), taken);
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let taken = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        this.sent(slices.iter().map(|slice| &**slice), taken);
        Poll::Ready(Ok(taken))
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
