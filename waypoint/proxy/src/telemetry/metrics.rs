//! Every metric by name, with its help text (`docs/operations.md` lists them).

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use super::agents::Agents;
use super::exchange::{RequestRecord, StreamRecord};
use super::family::Bounds;
use super::labels::{LimitLabels, Word};
use super::names::KnownNames;
use super::process::Process;
use super::settings::{Facts, Plan};
use super::standard::{Beyond, Standard};

/// All metrics of the process.
pub(super) struct Metrics {
    registry: Registry,
    standard: Standard,
    agents: Agents,
    mirrored: Family<Word, Counter>,
    pub(super) sessions: Gauge,
    limited: Family<LimitLabels, Counter>,
    pub(super) rate_buckets: Gauge,
    handshake_failures: Family<Word, Counter>,
    tunnel_failures: Family<Word, Counter>,
    refusals: Family<Word, Counter>,
    pub(super) limit_hits: Family<Word, Counter>,
    pub(super) tunnels: Gauge,
    pub(super) streams: Gauge,
    pub(super) upstream_connections: Gauge,
    pub(super) upstream_ejected: Gauge,
    pub(super) upstream_requests: Gauge,
    pub(super) inspected_bytes: Gauge,
    pub(super) generation: Gauge,
    pub(super) config_errors: Gauge,
    xds_connected: Family<Word, Gauge>,
    xds_silent: Family<Word, Gauge>,
    not_after: Gauge<i64, AtomicI64>,
    pub(super) lines_dropped: Counter,
    pub(super) spans_exported: Counter,
    pub(super) spans_dropped: Family<Word, Counter>,
}

impl Metrics {
    pub(super) fn new(bounds: Bounds) -> Self {
        let mut r = Registry::default();
        r.register_collector(Box::new(Process));
        Self {
            standard: Standard::register(&mut r, bounds),
            agents: Agents::register(&mut r, bounds),
            mirrored: registered(
                &mut r,
                "portcullis_mirrors",
                "Copies of requests that routes ask for, by what became of them",
            ),
            sessions: registered(
                &mut r,
                "portcullis_mcp_sessions",
                "MCP sessions remembered by this process",
            ),
            limited: registered(
                &mut r,
                "portcullis_rate_limited",
                "Requests that a rate or concurrency limit refused, or would refuse were it enforced; and questions to rate limit services without an answer",
            ),
            rate_buckets: registered(
                &mut r,
                "portcullis_rate_buckets",
                "Quotas of rate and concurrency limits in use, of `rate_buckets`",
            ),
            handshake_failures: registered(
                &mut r,
                "portcullis_handshake_failures",
                "TLS and HTTP/2 handshakes of clients that failed",
            ),
            tunnel_failures: registered(
                &mut r,
                "portcullis_tunnel_failures",
                "HBONE connections of clients that broke, or that were ended for what the client did",
            ),
            refusals: registered(
                &mut r,
                "portcullis_refusals",
                "Requests and streams that were refused or failed, by reason",
            ),
            limit_hits: registered(&mut r, "portcullis_limit_hits", "Times a bound was reached, by setting"),
            tunnels: registered(&mut r, "portcullis_tunnels", "HBONE connections of clients now open"),
            streams: registered(&mut r, "portcullis_streams", "Tunnel streams now open"),
            upstream_connections: registered(
                &mut r,
                "portcullis_upstream_connections",
                "Connections to endpoints now open",
            ),
            upstream_requests: registered(
                &mut r,
                "portcullis_upstream_requests",
                "Requests and opaque streams now running at endpoints",
            ),
            inspected_bytes: registered(
                &mut r,
                "portcullis_inspected_bytes",
                "Room that bodies take which are held to be judged, of `inspected_total` and a quarter more",
            ),
            upstream_ejected: registered(
                &mut r,
                "portcullis_upstream_ejected",
                "Endpoints now left out because they failed too often",
            ),
            generation: registered(&mut r, "portcullis_config_generation", "Snapshot that serves"),
            config_errors: registered(
                &mut r,
                "portcullis_config_errors",
                "Faults in the newest configuration; a faulty document keeps its last good version",
            ),
            xds_connected: registered(
                &mut r,
                "portcullis_xds_connected",
                "Whether the control plane is connected and has answered (1), or is away (0)",
            ),
            xds_silent: registered(
                &mut r,
                "portcullis_xds_last_answer_seconds",
                "How long ago the control plane answered last; a mesh that does not change is silent too",
            ),
            not_after: registered(
                &mut r,
                "portcullis_certificate_not_after_seconds",
                "When our certificate expires, in Unix time",
            ),
            lines_dropped: registered(
                &mut r,
                "portcullis_log_lines_dropped",
                "Access log lines dropped because their reader is slow or gone",
            ),
            spans_exported: registered(
                &mut r,
                "portcullis_spans_exported",
                "Spans that a collector has taken",
            ),
            spans_dropped: registered(&mut r, "portcullis_spans_dropped", "Spans that were lost, by reason"),
            registry: r,
        }
    }

    pub(super) fn request(
        &self,
        record: &RequestRecord,
        facts: &Facts<'_>,
        milliseconds: f64,
        plan: Option<&Plan>,
        names: &KnownNames,
    ) {
        self.beyond(self.standard.request(record, facts, milliseconds, plan));
        self.beyond(self.agents.decided(record.service.as_ref(), &record.decision, record.dry_run.as_ref()));
        if let Some(mcp) = &record.mcp {
            self.beyond(self.agents.operation(record, mcp, milliseconds, names));
        }
        if let Some(a2a) = &record.a2a {
            self.beyond(self.agents.asked_agent(record, a2a));
        }
    }

    pub(super) fn stream_opened(&self, record: &StreamRecord, facts: &Facts<'_>, plan: Option<&Plan>) {
        self.beyond(self.standard.stream_opened(record, facts, plan));
    }

    pub(super) fn stream_progress(&self, record: &StreamRecord, facts: &Facts<'_>, plan: Option<&Plan>) {
        self.beyond(self.standard.stream_progress(record, facts, plan));
    }

    pub(super) fn stream_finished(&self, record: &StreamRecord, facts: &Facts<'_>, plan: Option<&Plan>) {
        let service = record.service.as_ref();
        self.beyond(self.agents.decided(service, &record.decision, record.dry_run.as_ref()));
        if record.status == 200 {
            self.beyond(self.standard.stream_closed(record, facts, plan));
        }
    }

    fn beyond(&self, sets: Beyond) {
        if sets > 0 {
            self.limit_hits.get_or_create(&Word("limit", "label_sets")).inc_by(sets as u64);
        }
    }

    pub(super) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.get_or_create(&Word("reason", reason)).inc();
    }

    pub(super) fn tunnel_failed(&self, reason: &'static str) {
        self.tunnel_failures.get_or_create(&Word("reason", reason)).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Word("reason", reason)).inc();
    }

    pub(super) fn mirrored(&self, outcome: &'static str) {
        self.mirrored.get_or_create(&Word("outcome", outcome)).inc();
    }

    pub(super) fn limited(&self, limit: &Arc<str>, outcome: &'static str) {
        self.limited.get_or_create(&LimitLabels(Arc::clone(limit), outcome)).inc();
    }

    pub(super) fn limit_hit(&self, limit: &'static str) {
        self.limit_hits.get_or_create(&Word("limit", limit)).inc();
    }

    pub(super) fn control_plane(&self, name: &'static str, connected: bool, silent: Option<Duration>) {
        let label = Word("control_plane", name);
        self.xds_connected.get_or_create(&label).set(i64::from(connected));
        if let Some(silent) = silent {
            let seconds = i64::try_from(silent.as_secs()).unwrap_or(i64::MAX);
            self.xds_silent.get_or_create(&label).set(seconds);
        }
    }

    pub(super) fn certificate(&self, not_after: SystemTime) {
        let since = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.not_after.set(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    }

    /// OpenMetrics text; idle label sets are shown for a last time. Writing to a `String` cannot fail; if it did, what was written so far is returned.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::warn!("metrics could not be rendered whole");
        }
        self.standard.forget_idle();
        self.agents.forget_idle();
        text
    }
}

fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// A gauge stays raised as long as this lives.
pub struct Raised(Gauge);

impl Raised {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.dec();
    }
}
