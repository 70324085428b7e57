//! What a port's settings say of its log lines and of Istio's metrics, compiled once (Istio `Telemetry`).

mod clock;
mod expression;
mod facts;
mod format;
mod operator;
mod parse;
mod plan;
mod tag;
mod tracer;

pub(super) use facts::Facts;
pub(crate) use plan::{Building as PlansBuilding, Plan, Plans};
pub(super) use plan::{Metric, Told};
pub(super) use tag::Changes;
pub(super) use tracer::Tracer;
