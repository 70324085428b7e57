//! Envoy's rate limit, which a service counts for all replicas.

use std::time::Duration;

use istio_protos::Any;
use istio_protos::envoy::config::core::v3::grpc_service::TargetSpecifier;
use istio_protos::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use istio_protos::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
use waypoint_model::{ClusterKey, GlobalLimit, LimitService, LimitShare};

use super::super::duration::optional;
use super::super::translated::{At, Refused};
use super::super::unpack::unpack;
use super::Limit;
use super::description::descriptions;
use super::terms::{name, refusal, share};

pub(super) const TYPE: &str = "envoy.extensions.filters.http.ratelimit.v3.RateLimit";
/// Envoy's default.
const TIMEOUT: Duration = Duration::from_millis(20);

/// On and enforced unless it says otherwise, and open where its service does not answer: Envoy's defaults.
pub(super) fn translate(config: &Any) -> Result<Limit, Refused> {
    let written: RateLimit = unpack(Some(config))?;
    let all = LimitShare::ALL;
    let counted = share(written.filter_enabled.as_ref()).unwrap_or(all.counted);
    if counted == 0 {
        return Ok(Limit::Off);
    }
    let enforced = share(written.filter_enforced.as_ref()).unwrap_or(all.enforced);
    if written.domain.is_empty() {
        return Err(Refused::new("is missing").at("domain"));
    }
    let descriptions = descriptions(&written.rate_limits)?;
    if descriptions.is_empty() {
        // Envoy would take them of routes, which have none here.
        return Err(Refused::new("is empty, so it limits nothing").at("rate_limits"));
    }
    let config = written.rate_limit_service.as_ref();
    let config = config.ok_or_else(|| Refused::new("is missing").at("rate_limit_service"))?;
    let (service, authority) = service(config).at("rate_limit_service.grpc_service")?;
    Ok(Limit::Global(GlobalLimit {
        name: name(&written.stat_prefix, &written.domain),
        domain: written.domain.as_str().into(),
        descriptions,
        service,
        authority,
        timeout: optional(written.timeout.as_ref())
            .at("timeout")?
            .filter(|t| !t.is_zero())
            .unwrap_or(TIMEOUT),
        deny_on_failure: written.failure_mode_deny,
        share: LimitShare { counted, enforced },
        refusal: refusal(
            written.rate_limited_status.as_ref(),
            written.rate_limited_as_resource_exhausted,
            &written.response_headers_to_add,
        )?,
    }))
}

fn service(config: &RateLimitServiceConfig) -> Result<(LimitService, Option<String>), Refused> {
    let grpc = config.grpc_service.as_ref().ok_or_else(|| Refused::new("is missing"))?;
    if !grpc.initial_metadata.is_empty() {
        return Err(Refused::new("is not supported").at("initial_metadata"));
    }
    match grpc.target_specifier.as_ref() {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) if !envoy.cluster_name.is_empty() => {
            let service = LimitService::Cluster(ClusterKey(envoy.cluster_name.as_str().into()));
            Ok((service, Some(envoy.authority.clone()).filter(|authority| !authority.is_empty())))
        }
        Some(TargetSpecifier::EnvoyGrpc(_)) | None => Err(Refused::new("names no cluster").at("envoy_grpc")),
    }
}
