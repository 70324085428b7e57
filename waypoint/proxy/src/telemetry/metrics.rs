//! Every metric by name, with its help text (`docs/operations.md` lists them).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use waypoint_model::Service;

use super::exchange::{Decision, DryRun, McpRecord, RequestRecord, StreamRecord};
use super::labels::{
    Bounded, DecisionLabels, DryRunLabels, Operation, OperationLabels, ServiceNames, Traffic, Word,
};
use super::names::{KnownNames, bound_method};
use super::settings::{Facts, Metric as Standard, Plan, Told};

/// Envoy's default histogram bounds: what Istio's dashboards expect.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Envoy has the same bounds for bytes.
fn histogram() -> Histogram {
    Histogram::new(BOUNDS)
}

/// A family that never holds more label sets than it was told; later ones share one set.
pub(super) struct BoundedFamily<L, M> {
    family: Family<L, M, fn() -> M>,
    sets: AtomicUsize,
    most: usize,
}

impl<L: Bounded, M: Metric + Clone> BoundedFamily<L, M>
where
    fn() -> M: MetricConstructor<M>,
    Family<L, M, fn() -> M>: Metric,
{
    fn register(registry: &mut Registry, name: &str, help: &str, most: usize, make: fn() -> M) -> Self {
        let family = Family::new_with_constructor(make);
        registry.register(name, help, family.clone());
        Self { family, sets: AtomicUsize::new(0), most }
    }

    /// Counts; `false` when the set was beyond the bound. Two threads that meet a new set at once may count it
    /// twice towards the bound, never towards the metric.
    fn with(&self, labels: &L, count: impl FnOnce(&M)) -> bool {
        if let Some(metric) = self.family.get(labels) {
            count(&metric);
            return true;
        }
        let fits = self
            .sets
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sets| (sets < self.most).then_some(sets + 1))
            .is_ok();
        if fits {
            count(&self.family.get_or_create(labels));
        } else {
            count(&self.family.get_or_create(&L::other()));
        }
        fits
    }
}

/// All metrics of the process.
pub(super) struct Metrics {
    registry: Registry,
    requests: BoundedFamily<Traffic, Counter>,
    durations: BoundedFamily<Traffic, Histogram>,
    request_bytes: BoundedFamily<Traffic, Histogram>,
    response_bytes: BoundedFamily<Traffic, Histogram>,
    opened: BoundedFamily<Traffic, Counter>,
    closed: BoundedFamily<Traffic, Counter>,
    sent: BoundedFamily<Traffic, Counter>,
    received: BoundedFamily<Traffic, Counter>,
    decisions: BoundedFamily<DecisionLabels, Counter>,
    dry_run: BoundedFamily<DryRunLabels, Counter>,
    operations: BoundedFamily<Operation, Counter>,
    hidden: Counter,
    bodies: Family<Word, Counter>,
    mirrored: Family<Word, Counter>,
    pub(super) sessions: Gauge,
    handshake_failures: Family<Word, Counter>,
    refusals: Family<Word, Counter>,
    limit_hits: Family<Word, Counter>,
    pub(super) tunnels: Gauge,
    pub(super) streams: Gauge,
    pub(super) upstream_connections: Gauge,
    pub(super) upstream_ejected: Gauge,
    pub(super) generation: Gauge,
    pub(super) config_errors: Gauge,
    xds_connected: Family<Word, Gauge>,
    xds_silent: Family<Word, Gauge>,
    not_after: Gauge<i64, AtomicI64>,
    pub(super) lines_dropped: Counter,
}

impl Metrics {
    /// `most` bounds the label sets of each metric.
    pub(super) fn new(most: usize) -> Self {
        let mut r = Registry::default();
        let counter: fn() -> Counter = Counter::default;
        let histogram: fn() -> Histogram = histogram;
        Self {
            requests: BoundedFamily::register(
                &mut r,
                "istio_requests",
                "Requests and their answers",
                most,
                counter,
            ),
            durations: BoundedFamily::register(
                &mut r,
                "istio_request_duration_milliseconds",
                "Time from a request's first byte to its answer's last",
                most,
                histogram,
            ),
            request_bytes: BoundedFamily::register(
                &mut r,
                "istio_request_bytes",
                "Body bytes of requests",
                most,
                histogram,
            ),
            response_bytes: BoundedFamily::register(
                &mut r,
                "istio_response_bytes",
                "Body bytes of answers",
                most,
                histogram,
            ),
            opened: BoundedFamily::register(
                &mut r,
                "istio_tcp_connections_opened",
                "Opaque streams carried",
                most,
                counter,
            ),
            closed: BoundedFamily::register(
                &mut r,
                "istio_tcp_connections_closed",
                "Opaque streams that ended",
                most,
                counter,
            ),
            sent: BoundedFamily::register(
                &mut r,
                "istio_tcp_sent_bytes",
                "Bytes of opaque streams sent to clients; counted when the stream ends",
                most,
                counter,
            ),
            received: BoundedFamily::register(
                &mut r,
                "istio_tcp_received_bytes",
                "Bytes of opaque streams received from clients; counted when the stream ends",
                most,
                counter,
            ),
            decisions: BoundedFamily::register(
                &mut r,
                "portcullis_policy_decisions",
                "Decisions of policy by deciding rule; `-` where no rule decided",
                most,
                counter,
            ),
            dry_run: BoundedFamily::register(
                &mut r,
                "portcullis_dry_run_decisions",
                "What would have been decided, were the dry-run policies enforced; by their rule, `-` for want of one",
                most,
                counter,
            ),
            operations: BoundedFamily::register(
                &mut r,
                "portcullis_mcp_operations",
                "MCP requests; a name is shown if the server listed it or a policy spells it, else `other`",
                most,
                counter,
            ),
            hidden: registered(
                &mut r,
                "portcullis_mcp_list_entries_hidden",
                "Entries left out of list answers because the peer may not use them",
            ),
            bodies: registered(
                &mut r,
                "portcullis_mcp_bodies",
                "MCP requests by whether their body had to be read to decide",
            ),
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
            handshake_failures: registered(
                &mut r,
                "portcullis_handshake_failures",
                "TLS and HTTP/2 handshakes of clients that failed",
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
        let keep = Keep { metrics: self, traffic: &Traffic::request(record), plan, facts };
        let size = |bytes: u64| move |histogram: &Histogram| histogram.observe(bytes as f64);
        keep.told(Standard::Requests, &self.requests, increment);
        keep.told(Standard::Durations, &self.durations, |histogram| histogram.observe(milliseconds));
        keep.told(Standard::RequestBytes, &self.request_bytes, size(record.bytes_received));
        keep.told(Standard::ResponseBytes, &self.response_bytes, size(record.bytes_sent));
        self.decided(record.service.as_ref(), &record.decision, record.dry_run.as_ref());
        if let Some(mcp) = &record.mcp {
            self.operation(record, mcp, names);
        }
    }

    fn operation(&self, record: &RequestRecord, mcp: &McpRecord, names: &KnownNames) {
        let service = record.service.as_ref();
        let labels = OperationLabels {
            principal: record.source.principal.clone(),
            service: ServiceNames::of(service),
            method: bound_method(mcp.method.as_deref()),
            name: mcp.name.as_deref().map(|name| names.bound(service.map(|service| &service.key), name)),
            decision: record.decision.name(),
            outcome: outcome(record, mcp),
        };
        self.within(self.operations.with(&Operation(Some(labels)), increment));
        self.bodies.get_or_create(&Word("read", if mcp.body_read { "yes" } else { "no" })).inc();
        self.hidden.inc_by(mcp.hidden as u64);
    }

    pub(super) fn stream_opened(&self, record: &StreamRecord, facts: &Facts<'_>, plan: Option<&Plan>) {
        let keep = Keep { metrics: self, traffic: &Traffic::stream_opened(record), plan, facts };
        keep.told(Standard::Opened, &self.opened, increment);
    }

    pub(super) fn stream_finished(&self, record: &StreamRecord, facts: &Facts<'_>, plan: Option<&Plan>) {
        self.decided(record.service.as_ref(), &record.decision, record.dry_run.as_ref());
        if record.status != 200 {
            return;
        }
        let keep = Keep { metrics: self, traffic: &Traffic::stream_closed(record), plan, facts };
        let bytes = |bytes: u64| {
            move |counter: &Counter| {
                counter.inc_by(bytes);
            }
        };
        keep.told(Standard::Closed, &self.closed, increment);
        keep.told(Standard::Sent, &self.sent, bytes(record.bytes_sent));
        keep.told(Standard::Received, &self.received, bytes(record.bytes_received));
    }

    fn decided(&self, service: Option<&Arc<Service>>, decision: &Decision, dry_run: Option<&DryRun>) {
        match decision {
            Decision::NotDecided => {}
            Decision::Allowed(_) | Decision::Denied { .. } => {
                self.within(self.decisions.with(&DecisionLabels::new(service, decision), increment));
            }
        }
        if let Some(dry_run) = dry_run {
            self.within(self.dry_run.with(&DryRunLabels::new(service, dry_run), increment));
        }
    }

    fn within(&self, bound: bool) {
        if !bound {
            self.limit_hit("label_sets");
        }
    }

    pub(super) fn handshake_failed(&self, reason: &'static str) {
        self.handshake_failures.get_or_create(&Word("reason", reason)).inc();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&Word("reason", reason)).inc();
    }

    pub(super) fn mirrored(&self, outcome: &'static str) {
        self.mirrored.get_or_create(&Word("outcome", outcome)).inc();
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

    /// OpenMetrics text. Writing to a `String` cannot fail; if it did, what was written so far is returned.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            tracing::warn!("metrics could not be rendered whole");
        }
        text
    }
}

/// One record on its way into Istio's metrics, as the settings of its port have them.
struct Keep<'a> {
    metrics: &'a Metrics,
    traffic: &'a Traffic,
    plan: Option<&'a Plan>,
    facts: &'a Facts<'a>,
}

impl Keep<'_> {
    fn told<M: Metric + Clone>(
        &self,
        metric: Standard,
        family: &BoundedFamily<Traffic, M>,
        count: impl FnOnce(&M),
    ) where
        fn() -> M: MetricConstructor<M>,
        Family<Traffic, M, fn() -> M>: Metric,
    {
        let within = match self.plan.map_or(&Told::Standard, |plan| plan.metric(metric)) {
            Told::Not => return,
            Told::Standard => family.with(self.traffic, count),
            Told::Changed(changes) => family.with(&self.traffic.changed(changes, self.facts), count),
        };
        self.metrics.within(within);
    }
}

/// `refused`: policy said no; `failed`: an HTTP or JSON-RPC error came back; else `ok`.
fn outcome(record: &RequestRecord, mcp: &McpRecord) -> &'static str {
    match record.decision {
        Decision::Denied { .. } => "refused",
        _ if mcp.failed || record.status >= 400 || record.status == 0 => "failed",
        _ => "ok",
    }
}

fn increment(counter: &Counter) {
    counter.inc();
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
