//! What a port's settings say of its log lines and of Istio's metrics, compiled once (Istio `Telemetry`).

mod clock;
mod expression;
mod facts;
mod format;
mod operator;
mod own;
mod parse;
mod plan;
mod tag;
mod tracer;
mod wants;

pub(super) use facts::Facts;
#[cfg(test)]
pub(super) use own::ISTIO;
pub(super) use own::Own;
pub(crate) use plan::{Building as PlansBuilding, Plan, Plans};
pub(super) use plan::{Metric, Told};
pub(super) use tag::Changes;
pub(super) use tracer::Tracer;
pub(super) use wants::Wants;
