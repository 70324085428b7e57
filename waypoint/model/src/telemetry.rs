//! What is told of a port's traffic (Istio `Telemetry`).

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::{ClusterKey, Map};

/// Access log, metrics and traces of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TelemetrySettings {
    /// Loggers; empty: nothing is logged.
    pub access_log: Vec<AccessLog>,
    /// Changes of Istio's standard metrics.
    pub metrics: Vec<MetricOverride>,
    /// Whether the standard metrics are kept at all (filter `istio.stats` is there).
    pub standard_metrics: bool,
    /// Spans of its requests; `None`: not traced, and trace headers pass as they came.
    pub tracing: Option<Arc<TracingSettings>>,
    /// Whether `x-forwarded-client-cert` with the caller's identity is put on requests.
    pub client_identity_header: bool,
}

/// One access logger that writes lines to the process' output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccessLog {
    /// How a line looks.
    pub format: LogFormat,
    /// Common Expression Language: which requests are logged; `None`: all.
    pub filter: Option<String>,
}

/// How an access log line looks; operators are Envoy's command operators.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum LogFormat {
    /// The process' own format.
    Default,
    /// One line of text.
    Text(String),
    /// A JSON object of formats.
    Json(serde_json::Value),
}

/// A change of one standard metric, or of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MetricOverride {
    /// Its name without `istio_`, e.g. `requests_total`; `None`: every metric.
    pub metric: Option<String>,
    /// It is not kept.
    pub disabled: bool,
    /// Labels that are set to a value.
    pub set: Map<String, LabelValue>,
    /// Labels that are removed.
    pub remove: Vec<String>,
}

/// Where a label's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum LabelValue {
    /// The same for every request.
    Text(String),
    /// An attribute of the request (Envoy attributes: `request.host`, `request.headers['x']`, …).
    Attribute(String),
}

/// Which requests are traced, and what becomes of their spans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TracingSettings {
    /// Share of the traces that begin here, in hundredths of a percent. A request that comes with a trace's context is
    /// traced where its caller is.
    pub sampling: u32,
    /// Whether the context is told to the upstream (Istio `disableContextPropagation`).
    pub propagate: bool,
    /// Forms beside W3C's in which it is told. A form that the caller used is used too.
    pub forms: Vec<TraceForm>,
    /// Attributes beside those that every span has.
    pub tags: Vec<SpanTag>,
    /// Bytes of a path that are told.
    pub max_path: usize,
    /// Where spans go.
    pub collector: Arc<Collector>,
}

/// How the context of a trace is written, beside W3C's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum TraceForm {
    /// One header, `b3`.
    B3,
    /// `x-b3-traceid` and its like.
    B3Multi,
}

/// An attribute of spans that an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpanTag {
    /// Its name.
    pub name: String,
    /// Where its value comes from; without a value there is no such attribute.
    pub value: SpanTagValue,
}

/// Where an attribute's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SpanTagValue {
    /// The same for every request.
    Text(String),
    /// A variable of the process' environment when the configuration came, or this instead.
    Environment(String, String),
    /// A header of the request, or this instead.
    Header(String, String),
    /// A format of Envoy's command operators.
    Format(String),
    /// What dry-run policies would have done.
    DryRun(DryRunTag),
}

/// Part of what dry-run policies would have done (Istio `istio.io/dry-run`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum DryRunTag {
    /// The ALLOW policy's rule that matched.
    AllowName,
    /// What ALLOW policies come to: `allowed` or `denied`.
    AllowResult,
    /// The DENY policy's rule that matched.
    DenyName,
    /// What DENY policies come to.
    DenyResult,
}

/// An OTLP receiver (OpenTelemetry Protocol 1.x).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Collector {
    /// The way there.
    pub to: CollectorAddress,
    /// What is spoken.
    pub protocol: CollectorProtocol,
    /// `service.name` of the spans' resource.
    pub service_name: String,
    /// Headers of each export, or metadata of the call.
    pub headers: Vec<(String, String)>,
    /// One export; `None`: ten seconds.
    pub timeout: Option<Duration>,
}

/// The way to a receiver.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum CollectorAddress {
    /// Host and port, by plain TCP: an agent beside us, or on our node.
    Host(String, u16),
    /// A cluster of the mesh, as requests go there: HBONE or TLS, whatever it says.
    Cluster(ClusterKey),
}

/// What a receiver speaks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum CollectorProtocol {
    /// gRPC, with this `:authority`.
    Grpc(String),
    /// Protobuf over HTTP/1.1, POSTed here: authority and path.
    Http(String, String),
}
