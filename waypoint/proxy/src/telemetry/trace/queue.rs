//! Spans on their way to the exporter: a bounded queue that never blocks a request.

use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::mpsc;

use super::span::Span;
use crate::telemetry::Hits;
use crate::telemetry::labels::Word;

/// Why a span was lost, as the metric says it.
const FULL: &str = "queue_full";

/// The sending side.
pub(in super::super) struct Spans {
    sender: mpsc::Sender<Span>,
    /// Taken once, by the exporter.
    receiver: Mutex<Option<mpsc::Receiver<Span>>>,
    exported: Counter,
    dropped: Family<Word, Counter>,
    hits: Hits,
}

impl Spans {
    /// Counts what is exported and what is lost.
    pub(in super::super) fn new(
        bound: usize,
        exported: Counter,
        dropped: Family<Word, Counter>,
        hits: Hits,
    ) -> Self {
        let (sender, receiver) = mpsc::channel(bound.max(1));
        Self { sender, receiver: Mutex::new(Some(receiver)), exported, dropped, hits }
    }

    /// Hands over a span, or counts it as lost.
    pub(in super::super) fn offer(&self, span: Span) {
        if self.sender.try_send(span).is_err() {
            self.dropped.get_or_create(&Word::reason(FULL)).inc();
            self.hits.reached("span_queue");
        }
    }

    /// The receiving side, once.
    pub(in super::super) fn take(&self) -> Option<SpanQueue> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(SpanQueue { receiver, exported: self.exported.clone(), dropped: self.dropped.clone() })
    }
}

/// The receiving side: whoever exports spans. Spans are lost, and counted, while it is full.
pub struct SpanQueue {
    receiver: mpsc::Receiver<Span>,
    exported: Counter,
    dropped: Family<Word, Counter>,
}

impl SpanQueue {
    /// Waits for spans and adds up to `most` of them; none where nobody can send any more. Cancel safe.
    pub async fn next(&mut self, spans: &mut Vec<Span>, most: usize) {
        self.receiver.recv_many(spans, most).await;
    }

    /// Adds what is here already, up to `most`.
    pub fn rest(&mut self, spans: &mut Vec<Span>, most: usize) {
        spans.extend(std::iter::from_fn(|| self.receiver.try_recv().ok()).take(most));
    }

    /// So many spans were taken by their collector.
    pub fn exported(&self, spans: usize) {
        self.exported.inc_by(spans as u64);
    }

    /// So many spans were lost, e.g. by `export_failed`.
    pub fn lost(&self, spans: usize, reason: &'static str) {
        self.dropped.get_or_create(&Word::reason(reason)).inc_by(spans as u64);
    }
}
