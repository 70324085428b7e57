//! Spans to their collectors, by OTLP: gathered for a moment, sent in batches, never waited for by a request.

mod dial;
mod otlp;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use waypoint_model::Collector;
use waypoint_proxy::Collectors;
use waypoint_proxy::telemetry::{Span, SpanQueue};

use otlp::Exporter;
pub(crate) use settings::settings;

/// Spans of one export (OpenTelemetry SDK, *Batching processor*, `maxExportBatchSize`).
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHERED: Duration = Duration::from_secs(1);
/// Collectors that are remembered: settings change, processes stay.
const COLLECTORS: usize = 16;

/// The task that exports. Dropped, it goes on until the process ends.
pub(crate) struct Export {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Export {
    /// Starts it on the current runtime.
    pub(crate) fn start(queue: SpanQueue, mesh: Collectors) -> Self {
        let stop = CancellationToken::new();
        let task = Worker { queue, mesh, exporters: HashMap::new(), stop: stop.clone() };
        Self { task: tokio::spawn(task.run()), stop }
    }

    /// Exports what is left, for so long at most; `false` if that was not enough.
    pub(crate) async fn finish(self, within: Duration) -> bool {
        self.stop.cancel();
        timeout(within, self.task).await.is_ok()
    }
}

struct Worker {
    queue: SpanQueue,
    mesh: Collectors,
    exporters: HashMap<Arc<Collector>, Exporter>,
    stop: CancellationToken,
}

impl Worker {
    async fn run(mut self) {
        let stop = self.stop.clone();
        let mut spans = Vec::new();
        loop {
            // All arms are cancel safe: spans that were taken are in `spans`.
            tokio::select! {
                () = self.queue.next(&mut spans, BATCH) => {}
                () = stop.cancelled() => break,
            }
            if spans.is_empty() {
                return; // Nobody is left who could send any.
            }
            tokio::select! {
                () = fill(&mut self.queue, &mut spans) => {}
                () = sleep(GATHERED) => {}
                () = stop.cancelled() => {}
            }
            self.export(&mut spans).await;
        }
        loop {
            self.queue.rest(&mut spans, BATCH);
            if spans.is_empty() {
                return;
            }
            self.export(&mut spans).await;
        }
    }

    /// Each collector gets its spans, all at the same time.
    async fn export(&mut self, spans: &mut Vec<Span>) {
        let mut batches: HashMap<Arc<Collector>, Vec<Span>> = HashMap::new();
        for span in spans.drain(..) {
            batches.entry(Arc::clone(&span.collector)).or_default().push(span);
        }
        if self.exporters.len() > COLLECTORS {
            self.exporters.retain(|collector, _| batches.contains_key(collector));
        }
        for collector in batches.keys() {
            let made = || Exporter::new(collector, &self.mesh);
            self.exporters.entry(Arc::clone(collector)).or_insert_with(made);
        }
        let queue = &self.queue;
        let sent = self.exporters.iter_mut().filter_map(|(collector, exporter)| {
            let batch = batches.remove(collector)?;
            Some(send(collector, exporter, batch, queue))
        });
        join_all(sent).await;
    }
}

/// Cancel safe.
async fn fill(queue: &mut SpanQueue, spans: &mut Vec<Span>) {
    while spans.len() < BATCH {
        let before = spans.len();
        queue.next(spans, BATCH - before).await;
        if spans.len() == before {
            return;
        }
    }
}

/// What the collector asks to be sent again later (OTLP, *Failures*) OpenTelemetry's exporter does send again, three times within the
/// export's time. What failed then is lost: newer spans wait.
async fn send(collector: &Collector, exporter: &mut Exporter, batch: Vec<Span>, queue: &SpanQueue) {
    let spans = batch.len();
    match exporter.export(batch).await {
        Ok(()) => queue.exported(spans),
        Err(error) => {
            queue.lost(spans, "export_failed");
            if exporter.tell() {
                let to = &collector.to;
                tracing::warn!(?to, %error, "spans cannot be exported; further failures are counted in portcullis_spans_dropped_total");
            }
        }
    }
}
