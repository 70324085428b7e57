//! Who is told when a bound is reached.

use std::fmt;
use std::sync::Arc;

/// A bound of a connection; see the fields of [`crate::Settings`] and [`crate::PoolSettings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bound {
    /// `max_streams`: a stream was refused with REFUSED_STREAM.
    Streams,
    /// `max_header_list`: a request was refused with 431.
    HeaderList,
    /// `stream_window`: the peer used it up, and waits.
    StreamWindow,
    /// `connection_window`: the peer used it up, and waits.
    ConnectionWindow,
    /// `send_buffer`: a writer waits for its bytes to leave.
    SendBuffer,
    /// `idle_frames`: a flood of frames that carry nothing.
    IdleFrames,
    /// `streams_per_connection` of a pool: its connections are full, another is dialled.
    PooledStreams,
    /// `idle` of a pool: a connection was let go.
    PooledIdle,
}

/// Is told of bounds that are reached. `Default` tells nobody.
#[derive(Clone, Default)]
pub struct Observer(Option<Arc<dyn Fn(Bound) + Send + Sync>>);

impl Observer {
    /// Calls `tell`, which must be quick: it runs where the bytes move.
    pub fn new(tell: impl Fn(Bound) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// The same for these bounds alone.
    pub(crate) fn only(self, bounds: &'static [Bound]) -> Self {
        Self::new(move |bound| {
            if bounds.contains(&bound) {
                self.reached(bound);
            }
        })
    }

    pub(crate) fn reached(&self, bound: Bound) {
        if let Some(tell) = &self.0 {
            tell(bound);
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.is_some()).finish()
    }
}
