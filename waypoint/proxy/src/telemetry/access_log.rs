//! The access log's own thread: a request hands over its record and goes on; formatting and writing happen here.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::exchange::{RequestRecord, StreamRecord};
use super::hits::Hits;
use super::line;
use super::settings::{Facts, Own, Plan};

/// Lines written before the sink is flushed and others are told, when lines come faster than they are written.
const BURST: usize = 256;

/// What becomes one line.
pub(super) enum Entry {
    Request(Box<RequestRecord>, Duration, Option<Arc<Plan>>),
    Stream(Box<StreamRecord>, Duration, Option<Arc<Plan>>),
}

/// The sending side: never blocks. A full queue drops the line and counts it.
pub(super) struct AccessLog {
    queue: SyncSender<Entry>,
    accepted: AtomicU64,
    done: Arc<AtomicU64>,
    dropped: Counter,
    hits: Hits,
}

impl AccessLog {
    /// The thread ends when the last sender is gone.
    pub(super) fn start(
        own: Own,
        sink: Box<dyn Write + Send>,
        queue: usize,
        dropped: Counter,
        hits: Hits,
    ) -> Self {
        let (sender, receiver) = sync_channel(queue);
        let done = Arc::new(AtomicU64::new(0));
        let writer = Writer { sink, own, dropped: dropped.clone(), done: Arc::clone(&done) };
        let spawned =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(|| writer.run(receiver));
        if let Err(error) = spawned {
            // The receiver is gone with the closure, so every line counts as dropped from now on.
            tracing::error!(%error, "the access log's thread could not be started");
        }
        Self { queue: sender, accepted: AtomicU64::new(0), done, dropped, hits }
    }

    /// Hands over one record.
    pub(super) fn write(&self, entry: Entry) {
        match self.queue.try_send(entry) {
            Ok(()) => {
                self.accepted.fetch_add(1, Ordering::Release);
            }
            Err(TrySendError::Full(_)) => {
                self.dropped.inc();
                self.hits.reached("log_queue");
            }
            Err(TrySendError::Disconnected(_)) => {
                self.dropped.inc();
            }
        }
    }

    /// Waits until every record handed over so far reached the sink; `false` if that took longer than `within`.
    /// Blocks its thread: for the end of a process.
    pub(super) fn flush(&self, within: Duration) -> bool {
        let target = self.accepted.load(Ordering::Acquire);
        let deadline = Instant::now() + within;
        while self.done.load(Ordering::Acquire) < target {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        true
    }
}

struct Writer {
    sink: Box<dyn Write + Send>,
    own: Own,
    dropped: Counter,
    done: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, queue: Receiver<Entry>) {
        while let Ok(first) = queue.recv() {
            let mut lines = 1;
            self.line(&first);
            for entry in queue.try_iter().take(BURST) {
                self.line(&entry);
                lines += 1;
            }
            // A sink that is gone (a closed pipe) fails each write below, where it is counted.
            let _ = self.sink.flush();
            self.done.fetch_add(lines, Ordering::Release);
        }
    }

    fn line(&mut self, entry: &Entry) {
        let (facts, plan) = match entry {
            Entry::Request(record, took, plan) => (Facts::of_request(record, *took), plan),
            Entry::Stream(record, took, plan) => (Facts::of_stream(record, *took), plan),
        };
        let Some(plan) = plan else { return self.put(&self.own(entry, &facts)) };
        for logger in plan.loggers().iter().filter(|logger| logger.wants(&facts)) {
            let line = logger.line(&facts).unwrap_or_else(|| self.own(entry, &facts));
            self.put(&line);
        }
    }

    /// In the process' own format.
    fn own(&self, entry: &Entry, facts: &Facts<'_>) -> Vec<u8> {
        self.own.line(facts).unwrap_or_else(|| match entry {
            Entry::Request(record, took, _) => line::request_json(record, *took),
            Entry::Stream(record, took, _) => line::stream_json(record, *took),
        })
    }

    fn put(&mut self, line: &[u8]) {
        if self.sink.write_all(line).is_err() {
            self.dropped.inc();
        }
    }
}
