//! Filters of rate limits, of Envoy and one of ours. istiod sends them where an EnvoyFilter says so; the manifests of the `file`
//! feed are EnvoyFilters too, and read here as well.
//!
//! Whatever is not understood closes its chain: a limit that does not hold is not told from one that is never reached.

mod concurrency;
mod description;
mod global;
mod local;
mod terms;
#[cfg(test)]
mod tests;

use istio_protos::Any;
use waypoint_model::{GlobalLimit, LocalLimit};

use super::translated::Refused;

/// What a filter comes to.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::feeds) enum Limit {
    /// Counted here.
    Local(LocalLimit),
    /// Counted by a service.
    Global(GlobalLimit),
    /// Switched off, as Envoy's are unless they say otherwise.
    Off,
}

/// Types of these filters, whatever their names.
pub(in crate::feeds) const TYPES: [&str; 3] = [local::TYPE, global::TYPE, concurrency::TYPE];

/// Translates a filter of one of [`TYPES`].
///
/// # Errors
/// [`Refused`], with the field.
pub(in crate::feeds) fn translate(type_name: &str, config: &Any) -> Result<Limit, Refused> {
    match type_name {
        local::TYPE => local::translate(config),
        global::TYPE => global::translate(config),
        concurrency::TYPE => concurrency::translate(config),
        other => Err(Refused::new(format!("{other} is no limit"))),
    }
}
