//! What is told of a port's traffic (Istio `Telemetry`).

use serde::Serialize;

use crate::Map;

/// Access log, metrics and traces of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TelemetrySettings {
    /// Loggers; empty: nothing is logged.
    pub access_log: Vec<AccessLog>,
    /// Changes of Istio's standard metrics.
    pub metrics: Vec<MetricOverride>,
    /// Whether the standard metrics are kept at all (filter `istio.stats` is there).
    pub standard_metrics: bool,
    /// Share of requests that are traced, in hundredths of a percent; `None`: not traced.
    pub trace_sampling: Option<u32>,
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
