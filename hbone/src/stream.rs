//! What the two halves of a stream and its connection share: how many streams are open, and which bytes are not written yet.

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// How many streams a connection carries, and since when it has had none.
pub(crate) struct Load {
    open: AtomicUsize,
    /// Open streams of all connections that share this counter.
    total: Arc<AtomicUsize>,
    epoch: Instant,
    /// When the last stream ended, in milliseconds since `epoch`.
    last_end: AtomicU64,
}

impl Load {
    pub(crate) fn new(total: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            total,
            epoch: Instant::now(),
            last_end: AtomicU64::new(0),
        })
    }

    pub(crate) fn open_streams(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// When the last stream ended; the connection's birth if there was none.
    pub(crate) fn last_end(&self) -> Instant {
        self.epoch + Duration::from_millis(self.last_end.load(Ordering::Acquire))
    }

    pub(crate) fn enter(self: &Arc<Self>) -> OpenStream {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.total.fetch_add(1, Ordering::AcqRel);
        OpenStream(Arc::clone(self))
    }
}

/// One stream that counts as open until this is dropped.
pub(crate) struct OpenStream(Arc<Load>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last_end.store(now, Ordering::Release);
        self.0.total.fetch_sub(1, Ordering::AcqRel);
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Shared by a stream's reader, its writer and its bytes on their way out; the stream is open while any of them lives.
pub(crate) struct Shared {
    unwritten_chunks: AtomicUsize,
    written: AtomicWaker,
    _open: OpenStream,
}

impl Shared {
    pub(crate) fn new(open: OpenStream) -> Arc<Self> {
        Arc::new(Self { unwritten_chunks: AtomicUsize::new(0), written: AtomicWaker::new(), _open: open })
    }

    /// Ready when every chunk has been written to the connection, or thrown away by a reset.
    pub(crate) fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.written.register(cx.waker());
        match self.unwritten_chunks.load(Ordering::Acquire) {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// Bytes of a stream inside h2's queue. h2 drops them once they are written; that is the only sign of it that h2 gives.
pub(crate) struct Chunk {
    data: Bytes,
    shared: Option<Arc<Shared>>,
}

impl Chunk {
    pub(crate) fn new(data: Bytes, shared: &Arc<Shared>) -> Self {
        shared.unwritten_chunks.fetch_add(1, Ordering::AcqRel);
        Self { data, shared: Some(Arc::clone(shared)) }
    }

    pub(crate) fn empty() -> Self {
        Self { data: Bytes::new(), shared: None }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        if shared.unwritten_chunks.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.written.wake();
        }
    }
}
