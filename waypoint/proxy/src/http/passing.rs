//! What bodies tell the record of their request while they pass.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use agent_protocols::mcp as protocol;

/// What passing bodies tell, each from its own task.
#[derive(Default)]
pub(crate) struct Passing {
    /// When a passing request body was whole: microseconds of the record's clock, [`PENDING`] before that; zero where none passes.
    pub(super) whole: AtomicU64,
    /// Request bytes, and gRPC messages.
    pub(super) received: AtomicU64,
    pub(super) messages: AtomicU64,
    /// Method and name that a passing request body begins with.
    pub(super) asks: OnceLock<(String, Option<String>)>,
    /// List entries left out of the answer, and kept.
    pub(super) hidden: AtomicUsize,
    pub(super) kept: AtomicUsize,
}

/// A body that passes is not whole yet.
pub(super) const PENDING: u64 = u64::MAX;

impl Passing {
    /// The first time counts.
    pub(super) fn is_whole(&self, clock: Instant) {
        let now = u64::try_from(clock.elapsed().as_micros()).unwrap_or(PENDING);
        let _earlier = self.whole.compare_exchange(PENDING, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn screened(&self, counts: protocol::Screened) {
        self.hidden.fetch_add(counts.hidden, Ordering::Relaxed);
        self.kept.fetch_add(counts.kept, Ordering::Relaxed);
    }
}
