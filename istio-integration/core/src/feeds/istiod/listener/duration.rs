//! Protobuf's durations.

use std::time::Duration;

use super::translated::Refused;

/// A duration that may be left out.
pub(super) fn optional(duration: Option<&prost_types::Duration>) -> Result<Option<Duration>, Refused> {
    let read = |duration: &prost_types::Duration| {
        Duration::try_from(*duration).map_err(|_| Refused::new("a negative duration"))
    };
    duration.map(read).transpose()
}

/// A duration that must be there.
pub(super) fn required(duration: Option<&prost_types::Duration>) -> Result<Duration, Refused> {
    optional(duration)?.ok_or_else(|| Refused::new("a duration is missing"))
}

/// A duration of which 0, as Envoy writes it, means no limit.
pub(super) fn limit(duration: Option<&prost_types::Duration>) -> Result<Option<Duration>, Refused> {
    Ok(optional(duration)?.filter(|duration| !duration.is_zero()))
}
