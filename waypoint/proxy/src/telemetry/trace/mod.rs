//! Traces: which requests belong to one, what their spans say (OpenTelemetry's conventions of HTTP and MCP), and the queue
//! to whoever exports them. Where a port is not traced, a request costs one look at its settings.

mod attributes;
mod b3;
mod context;
mod queue;
mod request;
mod span;

pub use context::SpanContext;
pub use queue::SpanQueue;
pub(super) use queue::Spans;
pub(crate) use request::TracedRequest;
pub use span::{Span, SpanValue};
