//! Envoy's local rate limit.

use istio_protos::Any;
use istio_protos::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use istio_protos::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use waypoint_model::{DescribedQuota, LimitShare, LocalLimit};

use super::super::translated::{At, Refused};
use super::super::unpack::unpack;
use super::Limit;
use super::description::descriptions;
use super::terms::{bucket, entries, name, refusal, share};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// Off unless `filter_enabled` says otherwise, and only told of unless `filter_enforced` does: Envoy's defaults.
pub(super) fn translate(config: &Any) -> Result<Limit, Refused> {
    let written: LocalRateLimit = unpack(Some(config))?;
    let counted = share(written.filter_enabled.as_ref()).unwrap_or_default();
    if counted == 0 {
        return Ok(Limit::Off);
    }
    let enforced = share(written.filter_enforced.as_ref()).unwrap_or_default();
    let general = written.token_bucket.as_ref().map(bucket).transpose().at("token_bucket")?;
    let quotas = written.descriptors.iter().enumerate();
    let quotas = quotas.map(|(at, written)| quota(written).at(format!("descriptors[{at}]")));
    let quotas = quotas.collect::<Result<Vec<_>, _>>()?;
    if general.is_none() && quotas.is_empty() {
        return Err(Refused::new("has neither token_bucket nor descriptors, so it limits nothing"));
    }
    Ok(Limit::Local(LocalLimit {
        name: name(&written.stat_prefix, "local_rate_limit"),
        descriptions: descriptions(&written.rate_limits)?,
        quotas,
        general,
        general_counts_all: written.always_consume_default_token_bucket != Some(false),
        share: LimitShare { counted, enforced },
        refusal: refusal(
            written.status.as_ref(),
            written.rate_limited_as_resource_exhausted,
            &written.response_headers_to_add,
        )?,
    }))
}

fn quota(written: &LocalRateLimitDescriptor) -> Result<DescribedQuota, Refused> {
    let bucket =
        written.token_bucket.as_ref().ok_or_else(|| Refused::new("is missing").at("token_bucket"))?;
    Ok(DescribedQuota {
        entries: entries(&written.entries)?,
        quota: self::bucket(bucket).at("token_bucket")?,
        shadow: written.shadow_mode,
    })
}
