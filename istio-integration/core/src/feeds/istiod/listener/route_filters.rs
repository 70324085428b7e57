//! What filters are told by a route: CORS and faults.

use std::collections::BTreeMap;

use istio_protos::Any;
use istio_protos::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use istio_protos::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use istio_protos::envoy::extensions::filters::http::fault::v3::HttpFault;
use istio_protos::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use waypoint_model::{Cors, Fault, RoutePolicy};

use super::duration::required;
use super::percent::millionths;
use super::strings::string;
use super::translated::{At, Refused};
use super::unpack::unpack;

/// Reads the settings of a route's filters. Another filter's are refused by name.
pub(super) fn apply(settings: &BTreeMap<String, Any>, policy: &mut RoutePolicy) -> Result<(), Refused> {
    for (filter, config) in settings {
        match filter.as_str() {
            "envoy.filters.http.cors" => policy.cors = Some(cors(config).at(filter)?),
            "envoy.filters.http.fault" => policy.fault = Some(fault(config).at(filter)?),
            other => return Err(Refused::new("settings of this filter are not supported").at(other)),
        }
    }
    Ok(())
}

fn cors(config: &Any) -> Result<Cors, Refused> {
    let policy: CorsPolicy = unpack(Some(config))?;
    let enabled = policy.filter_enabled.as_ref().and_then(|share| share.default_value.as_ref());
    if enabled.is_some_and(|share| millionths::of(share) != millionths::ALL) {
        return Err(Refused::new("CORS for a share of requests is not supported").at("filter_enabled"));
    }
    let origins: Result<Vec<_>, _> = policy.allow_origin_string_match.iter().map(string).collect();
    Ok(Cors {
        allow_origins: origins.at("allow_origin_string_match")?,
        allow_methods: policy.allow_methods,
        allow_headers: policy.allow_headers,
        expose_headers: policy.expose_headers,
        max_age: policy.max_age,
        allow_credentials: policy.allow_credentials == Some(true),
        forward_unmatched_preflights: policy.forward_not_matching_preflights != Some(false),
    })
}

fn fault(config: &Any) -> Result<Fault, Refused> {
    let config: HttpFault = unpack(Some(config))?;
    let mut fault = Fault::default();
    if let Some(delay) = &config.delay {
        let share = delay.percentage.as_ref().map_or(0, millionths::of);
        let FaultDelaySecifier::FixedDelay(fixed) = delay
            .fault_delay_secifier
            .as_ref()
            .ok_or_else(|| Refused::new("a delay without its length").at("delay"))?;
        fault.delay = Some((required(Some(fixed)).at("delay")?, share));
    }
    if let Some(abort) = &config.abort {
        let share = abort.percentage.as_ref().map_or(0, millionths::of);
        match abort.error_type.as_ref() {
            Some(ErrorType::HttpStatus(status)) => {
                let status = u16::try_from(*status).map_err(|_| Refused::new("no status").at("abort"))?;
                fault.abort = Some((status, share));
            }
            Some(ErrorType::GrpcStatus(status)) => fault.grpc_abort = Some((*status, share)),
            None => return Err(Refused::new("an abort without a status").at("abort")),
        }
    }
    Ok(fault)
}
