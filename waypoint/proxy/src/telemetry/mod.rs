//! Every request and stream, said once: one log line, Istio's metrics, ours.

mod access_log;
mod agents;
mod arguments;
mod captured;
mod exchange;
mod family;
mod hits;
mod labels;
mod line;
mod metrics;
mod names;
mod process;
mod settings;
#[cfg(test)]
mod settings_tests;
mod standard;
#[cfg(test)]
mod tests;
mod trace;

use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use waypoint_model::{MeshConfig, Service, TracingSettings};

use crate::limits::Limits;
use access_log::{AccessLog, Entry};
use family::Bounds;
use metrics::Metrics;
use names::KnownNames;
use settings::{Facts, Own, Tracer, Wants};
use trace::Spans;

pub use arguments::{LoggedArgument, NotAnArgument};
pub use captured::Captured;
use captured::Side;
pub(crate) use exchange::causes;
pub use exchange::{
    A2aRecord, Decision, DryRun, LocalEnd, McpRecord, RequestRecord, RoutedTo, SourceRecord, StreamRecord,
};
pub use hits::Hits;
pub use metrics::Raised as Gauge;
pub(crate) use settings::{Plan, Plans, PlansBuilding};
pub(crate) use trace::TracedRequest;
pub use trace::{Span, SpanContext, SpanQueue, SpanValue};

/// How access log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, with the fields that `docs/operations.md` lists.
    Json,
    /// Istio's default text format.
    Text,
    /// No lines.
    Off,
}

/// Where records go. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Telemetry(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    names: KnownNames,
    log: Option<AccessLog>,
    /// What the process' own format asks of a request.
    own: Wants,
    spans: Spans,
    /// How ports without settings of their own are traced.
    tracer: OnceLock<Arc<Tracer>>,
}

impl Telemetry {
    /// `sink` is written by its own thread through a bounded queue that counts what it drops.
    #[must_use]
    pub fn new(format: LogFormat, sink: Box<dyn Write + Send>, limits: &Limits) -> Self {
        let metrics = Metrics::new(Bounds { most: limits.label_sets, idle: limits.label_idle });
        let hits = Hits(metrics.limit_hits.clone());
        let own = match format {
            LogFormat::Json => Some(Own::default()),
            LogFormat::Text => Some(Own::istio()),
            LogFormat::Off => None,
        };
        let wants = own.as_ref().map(Own::wants).unwrap_or_default();
        let log = own.map(|own| {
            AccessLog::start(own, sink, limits.log_queue, metrics.lines_dropped.clone(), hits.clone())
        });
        let spans = Spans::new(
            limits.span_queue,
            metrics.spans_exported.clone(),
            metrics.spans_dropped.clone(),
            hits,
        );
        let names = KnownNames::new(limits.label_sets);
        Self(Arc::new(Inner { metrics, names, log, own: wants, spans, tracer: OnceLock::new() }))
    }

    /// Counts and logs a request that has been answered, or that was broken off, as the settings of its port say; without
    /// any, as those of the process do.
    pub(crate) fn finish_request(&self, mut record: RequestRecord, plan: Option<&Arc<Plan>>) {
        let took = record.clock.elapsed();
        let traced = record.traced.take().map(|mut traced| {
            record.trace = Some(traced.context());
            traced
        });
        let facts = Facts::of_request(&record, took);
        let milliseconds = took.as_secs_f64() * 1e3;
        self.0.metrics.request(&record, &facts, milliseconds, plan.map(|plan| &**plan), &self.0.names);
        if let Some(span) = traced.and_then(|traced| traced.finish(&record, &facts, took)) {
            self.0.spans.offer(span);
        }
        if let Some(log) = self.log(&facts, plan) {
            log.write(Entry::Request(Box::new(record), took, plan.cloned()));
        }
    }

    /// Counts an opaque stream that is carried: call it once, when its 200 is sent and its endpoint is known.
    pub(crate) fn stream_opened(&self, record: &StreamRecord, plan: Option<&Arc<Plan>>) {
        let facts = Facts::of_stream(record, Duration::ZERO);
        self.0.metrics.stream_opened(record, &facts, plan.map(|plan| &**plan));
    }

    /// Counts the bytes that an opaque stream carried since it was last told of; it goes on.
    pub(crate) fn stream_progress(&self, record: &mut StreamRecord, plan: Option<&Arc<Plan>>) {
        let facts = Facts::of_stream(record, record.clock.elapsed());
        self.0.metrics.stream_progress(record, &facts, plan.map(|plan| &**plan));
        record.reported = (record.bytes_sent, record.bytes_received);
    }

    /// Counts and logs an opaque stream: one that ended (status 200), or one that was refused (any other status).
    pub(crate) fn finish_stream(&self, record: StreamRecord, plan: Option<&Arc<Plan>>) {
        let took = record.clock.elapsed();
        let facts = Facts::of_stream(&record, took);
        self.0.metrics.stream_finished(&record, &facts, plan.map(|plan| &**plan));
        if let Some(log) = self.log(&facts, plan) {
            log.write(Entry::Stream(Box::new(record), took, plan.cloned()));
        }
    }

    /// Traces ports that have no settings of their own. Once: a second call changes nothing.
    pub fn trace(&self, settings: &TracingSettings) {
        let said = &mut |sentence: String| tracing::warn!("{sentence}");
        self.0.tracer.get_or_init(|| Arc::new(Tracer::compile(settings, said)));
    }

    /// Spans to be exported; `None` the second time.
    #[must_use]
    pub fn spans(&self) -> Option<SpanQueue> {
        self.0.spans.take()
    }

    /// Begins to trace a request, where its port is traced.
    pub(crate) fn traced(&self, plan: Option<&Arc<Plan>>, headers: &HeaderMap) -> Option<Box<TracedRequest>> {
        let tracer = match plan {
            Some(plan) => plan.tracer(),
            None => self.0.tracer.get(),
        };
        Some(TracedRequest::begin(Arc::clone(tracer?), headers))
    }

    /// Keeps what of a request's head will be told.
    pub(crate) fn keep_request(&self, plan: Option<&Arc<Plan>>, headers: &HeaderMap, into: &mut Captured) {
        self.wants(plan).for_each(|wants| wants.keep(Side::Request, headers, into));
    }

    /// Keeps what of an answer's head will be told.
    pub(crate) fn keep_response(&self, plan: Option<&Arc<Plan>>, headers: &HeaderMap, into: &mut Captured) {
        self.wants(plan).for_each(|wants| wants.keep(Side::Response, headers, into));
    }

    /// Whether anybody asks how long an endpoint took.
    pub(crate) fn times_services(&self, plan: Option<&Arc<Plan>>) -> bool {
        self.wants(plan).any(Wants::service_time)
    }

    /// What the port's settings ask of a request, and what the process' own format does where it is used.
    fn wants<'a>(&'a self, plan: Option<&'a Arc<Plan>>) -> impl Iterator<Item = &'a Wants> {
        let own = plan.is_none_or(|plan| plan.writes_own()).then_some(&self.0.own);
        plan.map(|plan| plan.wants()).into_iter().chain(own)
    }

    /// The log, if a line is to be written: what no logger wants takes no place in the queue.
    fn log(&self, facts: &Facts<'_>, plan: Option<&Arc<Plan>>) -> Option<&AccessLog> {
        let wanted = plan.is_none_or(|plan| plan.loggers().iter().any(|logger| logger.wants(facts)));
        self.0.log.as_ref().filter(|_| wanted)
    }

    /// A client's TLS or HTTP/2 handshake failed.
    pub fn handshake_failed(&self, reason: &'static str) {
        self.0.metrics.handshake_failed(reason);
    }

    /// A client's tunnel connection was ended for what its peer did; by [`hbone::ConnectionError::reason`].
    pub fn tunnel_failed(&self, reason: &'static str) {
        self.0.metrics.tunnel_failed(reason);
    }

    /// Counts bounds that are reached, for parts that have nothing else to tell.
    #[must_use]
    pub fn hits(&self) -> Hits {
        Hits(self.0.metrics.limit_hits.clone())
    }

    /// A request or a stream was refused or failed; by [`crate::refusal::Refusal::reason`].
    pub fn refused(&self, reason: &'static str) {
        self.0.metrics.refused(reason);
    }

    /// A copy of a request: `sent` and answered, `failed`, `too_large` to be copied, or `busy` where too many are under way.
    pub fn mirrored(&self, outcome: &'static str) {
        self.0.metrics.mirrored(outcome);
    }

    /// A bound was reached; by its name in [`Limits`].
    pub fn limit_hit(&self, limit: &'static str) {
        self.0.metrics.limit_hit(limit);
    }

    /// A tunnel connection lives as long as the guard.
    #[must_use]
    pub fn tunnel(&self) -> Gauge {
        Gauge::new(&self.0.metrics.tunnels)
    }

    /// A tunnel stream lives as long as the guard.
    #[must_use]
    pub fn stream(&self) -> Gauge {
        Gauge::new(&self.0.metrics.streams)
    }

    /// Tunnel streams open now.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        usize::try_from(self.0.metrics.streams.get()).unwrap_or_default()
    }

    /// A snapshot serves from now on; `errors` counts the faults of its configuration.
    pub fn config_applied(&self, generation: u64, errors: usize) {
        self.0.metrics.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.0.metrics.config_errors.set(i64::try_from(errors).unwrap_or(i64::MAX));
    }

    /// Names that the mesh's policies spell out may be label values.
    pub fn named_by_policies(&self, mesh: &MeshConfig) {
        self.0.names.named_by_policies(mesh);
    }

    /// How the connection to a control plane stands, and how long it has been silent. Without one there is no such metric.
    pub fn control_plane(&self, name: &'static str, connected: bool, silent: Option<Duration>) {
        self.0.metrics.control_plane(name, connected, silent);
    }

    /// When our certificate expires.
    pub fn certificate(&self, not_after: SystemTime) {
        self.0.metrics.certificate(not_after);
    }

    /// A request that a limit refused (`limited`), would refuse if it were enforced (`would_limit`), or whose service did not
    /// answer (`unanswered`).
    pub(crate) fn limited(&self, limit: &Arc<str>, outcome: &'static str) {
        self.0.metrics.limited(limit, outcome);
    }

    /// Quotas of limits in use now.
    pub fn rate_buckets(&self, count: usize) {
        self.0.metrics.rate_buckets.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// MCP sessions remembered now.
    pub fn sessions(&self, count: usize) {
        self.0.metrics.sessions.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Connections to endpoints open now.
    pub fn upstream_connections(&self, count: usize) {
        self.0.metrics.upstream_connections.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Requests and opaque streams running at endpoints now.
    pub fn upstream_requests(&self, count: usize) {
        self.0.metrics.upstream_requests.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Room taken by bodies that are held to be judged, in bytes.
    pub fn inspected_bytes(&self, bytes: usize) {
        self.0.metrics.inspected_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Endpoints that are ejected now.
    pub fn upstream_ejected(&self, count: usize) {
        self.0.metrics.upstream_ejected.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Names that servers really listed; other names count as `other`.
    pub fn listed(&self, service: &Arc<Service>, names: &[String]) {
        self.0.names.listed(&service.key, names);
    }

    /// Prometheus text (OpenMetrics 1.0), for `/stats/prometheus`.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.metrics.render()
    }

    /// Waits until the log lines handed over so far are written; `false` if that takes longer than `within`. Blocks
    /// its thread: for the end of the process.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        self.0.log.as_ref().is_none_or(|log| log.flush(within))
    }
}
