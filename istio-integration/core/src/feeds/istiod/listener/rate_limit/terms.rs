//! What all limits have in common: shares, buckets, refusals.

use istio_protos::envoy::config::core::v3::{HeaderValueOption, RuntimeFractionalPercent};
use istio_protos::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use istio_protos::envoy::r#type::v3::{HttpStatus, TokenBucket as Written};
use waypoint_model::{HeaderChange, LimitRefusal, Quota, TokenBucket};

use super::super::duration::required;
use super::super::header_change::added;
use super::super::percent::millionths;
use super::super::translated::{At, Refused};

/// Envoy answers with 429 where nothing, or no error, is written.
const STATUS: u16 = 429;

/// A share of requests, in millionths; none where none is written.
pub(super) fn share(percent: Option<&RuntimeFractionalPercent>) -> Option<u32> {
    percent.and_then(|percent| percent.default_value.as_ref()).map(millionths::of)
}

/// Envoy's bucket, which fills steadily.
pub(super) fn bucket(written: &Written) -> Result<Quota, Refused> {
    let interval = required(written.fill_interval.as_ref()).at("fill_interval")?;
    if interval.as_millis() == 0 {
        return Err(Refused::new("less than a millisecond").at("fill_interval"));
    }
    let (most, fill) = (written.max_tokens, written.tokens_per_fill.unwrap_or(1));
    for (name, number) in [("max_tokens", most), ("tokens_per_fill", fill)] {
        if number == 0 {
            return Err(Refused::new("none would ever pass: write a DENY policy").at(name));
        }
    }
    Ok(Quota::Rate(TokenBucket { most, fill, interval }))
}

/// Keys and values; an empty value is any.
pub(super) fn entries(entries: &[Entry]) -> Result<Vec<(String, Option<String>)>, Refused> {
    if entries.is_empty() {
        return Err(Refused::new("is empty, so it limits nothing").at("entries"));
    }
    let entry = |entry: &Entry| {
        if entry.key.is_empty() {
            return Err(Refused::new("an entry without a key").at("entries"));
        }
        Ok((entry.key.clone(), Some(entry.value.clone()).filter(|value| !value.is_empty())))
    };
    entries.iter().map(entry).collect()
}

/// How a refusal looks.
pub(super) fn refusal(
    status: Option<&HttpStatus>,
    exhausted: bool,
    headers: &[HeaderValueOption],
) -> Result<LimitRefusal, Refused> {
    let status = status.and_then(|status| u16::try_from(status.code).ok()).filter(|code| *code >= 400);
    let headers: Result<Vec<_>, Refused> = headers.iter().map(header).collect();
    Ok(LimitRefusal {
        status: status.unwrap_or(STATUS),
        exhausted,
        headers: headers.at("response_headers_to_add")?,
    })
}

/// A header of our own answer, so there is none before it to join.
fn header(option: &HeaderValueOption) -> Result<(String, String), Refused> {
    match added(option)? {
        HeaderChange::Set(name, value) | HeaderChange::Add(name, value) => {
            if value.replace("%%", "").contains('%') {
                return Err(Refused::new(format!("operators in the value of {name} are not supported")));
            }
            Ok((name, value.replace("%%", "%")))
        }
        HeaderChange::Remove(name) => Err(Refused::new(format!("{name} is not there to be removed"))),
    }
}

/// A name for the log and metrics.
pub(super) fn name(stat_prefix: &str, otherwise: &str) -> std::sync::Arc<str> {
    if stat_prefix.is_empty() { otherwise.into() } else { stat_prefix.into() }
}
