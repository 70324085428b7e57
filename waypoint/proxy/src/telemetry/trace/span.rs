//! A span that ended, as it is handed over for export.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use waypoint_model::Collector;

use super::context::SpanContext;

/// One request at this waypoint: a span of kind *server* (OpenTelemetry, *Trace API*).
#[derive(Clone, Debug)]
pub struct Span {
    /// Its own place.
    pub context: SpanContext,
    /// `tracestate` that goes with it.
    pub state: Option<String>,
    /// The caller's span; `None`: the trace begins here.
    pub parent: Option<SpanContext>,
    /// A span that also led to it: of the MCP message, where the head named another.
    pub link: Option<SpanContext>,
    /// By the conventions; few values.
    pub name: String,
    /// First byte of the request.
    pub started: SystemTime,
    /// Last byte of the answer.
    pub ended: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(Cow<'static, str>, SpanValue)>,
    /// Whether it counts as failed.
    pub failed: bool,
    /// Where it goes.
    pub collector: Arc<Collector>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanValue {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i64),
}
