//! What the two halves of a stream and its connection share: how many streams are open, and which bytes are not written yet.

use crate::observer::{Bound, Observer};
use crate::watch::{Broken, Signal};
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
    observer: Observer,
}

impl Load {
    pub(crate) fn new(total: Arc<AtomicUsize>, observer: Observer) -> Arc<Self> {
        Arc::new(Self {
            open: AtomicUsize::new(0),
            total,
            epoch: Instant::now(),
            last_end: AtomicU64::new(0),
            observer,
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
    /// Bytes that h2 holds.
    unwritten: AtomicUsize,
    written: AtomicWaker,
    open: OpenStream,
    /// Of an accepted stream.
    signal: Option<Arc<Signal>>,
}

impl Shared {
    pub(crate) fn new(open: OpenStream, signal: Option<Arc<Signal>>) -> Arc<Self> {
        Arc::new(Self { unwritten: AtomicUsize::new(0), written: AtomicWaker::new(), open, signal })
    }

    /// Resolves when the stream is broken, whoever reads.
    pub(crate) fn broken(&self) -> Broken {
        Broken::of(self.signal.clone())
    }

    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Acquire)
    }

    pub(crate) fn reached(&self, bound: Bound) {
        self.open.0.observer.reached(bound);
    }

    fn wrote(&self, bytes: usize) {
        if bytes > 0 && self.unwritten.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.written.wake();
        }
    }

    /// Ready when every byte has been written to the connection, or thrown away by a reset.
    pub(crate) fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.written.register(cx.waker());
        match self.unwritten() {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

/// Bytes of a stream inside h2's queue. h2 advances and drops them as they are written; that is the only sign of it that h2 gives.
pub(crate) struct Chunk {
    data: Bytes,
    shared: Option<Arc<Shared>>,
}

impl Chunk {
    pub(crate) fn new(data: Bytes, shared: &Arc<Shared>) -> Self {
        shared.unwritten.fetch_add(data.len(), Ordering::AcqRel);
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
        if let Some(shared) = &self.shared {
            shared.wrote(count);
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.wrote(self.data.len());
        }
    }
}
