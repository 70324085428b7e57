//! Bounds that are reached, counted by setting.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::labels::Word;

/// Counts in `portcullis_limit_hits_total`. Cheap to clone; `Default` counts where nobody looks.
#[derive(Clone, Default)]
pub struct Hits(pub(super) Family<Word, Counter>);

impl Hits {
    /// A bound was reached; by its name in [`crate::limits::Limits`].
    pub fn reached(&self, limit: &'static str) {
        self.0.get_or_create(&Word("limit", limit)).inc();
    }

    /// Counts the bounds of HBONE connections by our names for them.
    #[must_use]
    pub fn observer(&self) -> hbone::Observer {
        let hits = self.clone();
        hbone::Observer::new(move |bound| {
            if let Some(limit) = limit_of(bound) {
                hits.reached(limit);
            }
        })
    }
}

impl std::fmt::Debug for Hits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hits").finish()
    }
}

/// The setting that gives a connection this bound.
fn limit_of(bound: hbone::Bound) -> Option<&'static str> {
    use hbone::Bound;
    Some(match bound {
        Bound::Streams => "streams_per_connection",
        Bound::HeaderList => "header_list",
        Bound::StreamWindow => "stream_window",
        Bound::ConnectionWindow => "connection_window",
        Bound::SendBuffer => "send_buffer",
        Bound::IdleFrames => "idle_frames",
        Bound::PooledStreams => "upstream_streams_per_connection",
        Bound::PooledIdle => "upstream_idle",
        _later => return None,
    })
}
