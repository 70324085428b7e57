//! Istio's standard metrics: names, labels and buckets are Istio's, so that its dashboards and Kiali read them.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::exchange::{RequestRecord, StreamRecord};
use super::family::{Bounds, Cell, Make, Sets, show};
use super::labels::Traffic;
use super::settings::{Facts, Metric, Plan, Told};

/// Envoy's default histogram bounds: what Istio's dashboards expect. The same for milliseconds and for bytes.
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

impl Make for Histogram {
    fn make() -> Self {
        Self::new(BOUNDS)
    }
}

impl Make for Counter {
    fn make() -> Self {
        Self::default()
    }
}

#[derive(Debug, Default)]
struct Http {
    requests: Cell<Counter>,
    durations: Cell<Histogram>,
    request_bytes: Cell<Histogram>,
    response_bytes: Cell<Histogram>,
    request_messages: Cell<Counter>,
    response_messages: Cell<Counter>,
}

#[derive(Debug, Default)]
struct Tcp {
    opened: Cell<Counter>,
    closed: Cell<Counter>,
    sent: Cell<Counter>,
    received: Cell<Counter>,
}

/// The standard metrics of a process.
pub(super) struct Standard {
    http: Arc<Sets<Traffic, Http>>,
    tcp: Arc<Sets<Traffic, Tcp>>,
}

/// How often a label set was beyond the bound.
pub(super) type Beyond = usize;

impl Standard {
    pub(super) fn register(r: &mut Registry, bounds: Bounds) -> Self {
        let (http, tcp) = (Sets::new(bounds), Sets::new(bounds));
        show(r, "istio_requests", "Requests and their answers", &http, |m: &Http| &m.requests);
        let help = "Time from a request's first byte to its answer's last";
        show(r, "istio_request_duration_milliseconds", help, &http, |m: &Http| &m.durations);
        show(r, "istio_request_bytes", "Body bytes of requests", &http, |m: &Http| &m.request_bytes);
        show(r, "istio_response_bytes", "Body bytes of answers", &http, |m: &Http| &m.response_bytes);
        let help = "gRPC messages of requests; counted when the call ends";
        show(r, "istio_request_messages", help, &http, |m: &Http| &m.request_messages);
        let help = "gRPC messages of answers; counted when the call ends";
        show(r, "istio_response_messages", help, &http, |m: &Http| &m.response_messages);
        show(r, "istio_tcp_connections_opened", "Opaque streams carried", &tcp, |m: &Tcp| &m.opened);
        show(r, "istio_tcp_connections_closed", "Opaque streams that ended", &tcp, |m: &Tcp| &m.closed);
        show(r, "istio_tcp_sent_bytes", "Bytes of opaque streams sent to clients", &tcp, |m: &Tcp| &m.sent);
        let help = "Bytes of opaque streams received from clients";
        show(r, "istio_tcp_received_bytes", help, &tcp, |m: &Tcp| &m.received);
        Self { http, tcp }
    }

    pub(super) fn forget_idle(&self) {
        self.http.forget_idle();
        self.tcp.forget_idle();
    }

    pub(super) fn request(
        &self,
        record: &RequestRecord,
        facts: &Facts<'_>,
        milliseconds: f64,
        plan: Option<&Plan>,
    ) -> Beyond {
        let count = |metric: Metric, http: &Http| match metric {
            Metric::Requests => increment(http.requests.get()),
            Metric::Durations => http.durations.get().observe(milliseconds),
            Metric::RequestBytes => http.request_bytes.get().observe(record.bytes_received as f64),
            Metric::ResponseBytes => http.response_bytes.get().observe(record.bytes_sent as f64),
            Metric::RequestMessages => add(&http.request_messages, record.grpc_messages.0),
            Metric::ResponseMessages => add(&http.response_messages, record.grpc_messages.1),
            Metric::Opened | Metric::Closed | Metric::Sent | Metric::Received => {}
        };
        let metrics: &[Metric] = if record.grpc { &Metric::GRPC } else { &Metric::HTTP };
        told(&self.http, &Traffic::request(record), metrics, facts, plan, count)
    }

    pub(super) fn stream_opened(
        &self,
        record: &StreamRecord,
        facts: &Facts<'_>,
        plan: Option<&Plan>,
    ) -> Beyond {
        let count = |_: Metric, tcp: &Tcp| increment(tcp.opened.get());
        told(&self.tcp, &Traffic::stream_opened(record), &[Metric::Opened], facts, plan, count)
    }

    /// Bytes since the last report of a stream that goes on.
    pub(super) fn stream_progress(
        &self,
        record: &StreamRecord,
        facts: &Facts<'_>,
        plan: Option<&Plan>,
    ) -> Beyond {
        let labels = Traffic::stream_opened(record);
        told(&self.tcp, &labels, &[Metric::Sent, Metric::Received], facts, plan, bytes(record))
    }

    pub(super) fn stream_closed(
        &self,
        record: &StreamRecord,
        facts: &Facts<'_>,
        plan: Option<&Plan>,
    ) -> Beyond {
        let count = bytes(record);
        let count = |metric: Metric, tcp: &Tcp| match metric {
            Metric::Closed => increment(tcp.closed.get()),
            other => count(other, tcp),
        };
        let metrics = [Metric::Closed, Metric::Sent, Metric::Received];
        told(&self.tcp, &Traffic::stream_closed(record), &metrics, facts, plan, count)
    }
}

fn bytes(record: &StreamRecord) -> impl Fn(Metric, &Tcp) {
    let (sent, received) = record.unreported();
    move |metric, tcp| match metric {
        Metric::Sent => add(&tcp.sent, sent),
        Metric::Received => add(&tcp.received, received),
        _other => {}
    }
}

/// Counts metrics of one record as the settings of its port have them. Those with Istio's own labels share one look-up.
fn told<M: Default + std::fmt::Debug + Send + Sync + 'static>(
    sets: &Sets<Traffic, M>,
    labels: &Traffic,
    metrics: &[Metric],
    facts: &Facts<'_>,
    plan: Option<&Plan>,
    count: impl Fn(Metric, &M),
) -> Beyond {
    let how = |metric: Metric| plan.map_or(&Told::Standard, |plan| plan.metric(metric));
    let standard = |metric: &&Metric| matches!(how(**metric), Told::Standard);
    let mut beyond = 0;
    if metrics.iter().any(|metric| standard(&metric)) {
        let each = |kept: &M| metrics.iter().filter(standard).for_each(|metric| count(*metric, kept));
        beyond += usize::from(!sets.with(labels, each));
    }
    for metric in metrics {
        if let Told::Changed(changes) = how(*metric) {
            beyond += usize::from(!sets.with(&labels.changed(changes, facts), |kept| count(*metric, kept)));
        }
    }
    beyond
}

fn increment(counter: &Counter) {
    counter.inc();
}

/// A counter that counted nothing is not shown.
fn add(counter: &Cell<Counter>, by: u64) {
    if by > 0 {
        counter.get().inc_by(by);
    }
}
