//! The flags of `run` that turn traces on.

use std::sync::Arc;

use http::Uri;
use waypoint_model::{
    Collector, CollectorAddress, CollectorProtocol, SpanTag, SpanTagValue, TraceForm, TracingSettings,
};

use crate::cli::{OtlpProtocol, Propagator, TraceArgs};

/// Bytes of a path that are told (Envoy's default, `max_path_tag_length`).
const PATH: usize = 256;
/// Where OTLP over HTTP is taken (OTLP, *Default paths*).
const TRACES: &str = "/v1/traces";

/// Names of both ends, as istiod asks of a waypoint: attribute and field.
const ENDS: [(&str, &str); 8] = [
    ("workload", "workload"),
    ("namespace", "namespace"),
    ("cluster_id", "cluster"),
    ("canonical_service", "service"),
    ("canonical_revision", "revision"),
    ("app", "app"),
    ("app_version", "version"),
    ("instance_name", "name"),
];

/// What the flags say; `None` without `--otlp-endpoint`.
///
/// # Errors
/// What is wrong with the endpoint, with what to do.
pub(crate) fn settings(args: &TraceArgs) -> Result<Option<TracingSettings>, String> {
    let Some(endpoint) = &args.otlp_endpoint else { return Ok(None) };
    let (host, port, path) = address(endpoint, args.otlp_protocol)?;
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let protocol = match args.otlp_protocol {
        OtlpProtocol::Grpc => CollectorProtocol::Grpc(authority),
        OtlpProtocol::Http => CollectorProtocol::Http(authority, path),
    };
    let collector = Collector {
        to: CollectorAddress::Host(host, port),
        protocol,
        service_name: args.otlp_service_name.clone(),
        headers: Vec::new(),
        timeout: None,
    };
    let form = |propagator: &Propagator| match propagator {
        Propagator::Tracecontext => None,
        Propagator::B3 => Some(TraceForm::B3),
        Propagator::B3multi => Some(TraceForm::B3Multi),
    };
    Ok(Some(TracingSettings {
        sampling: args.trace_sampling.0,
        propagate: true,
        forms: args.trace_propagation.iter().filter_map(form).collect(),
        tags: ENDS.iter().flat_map(|(name, field)| ends(name, field)).collect(),
        max_path: PATH,
        collector: Arc::new(collector),
    }))
}

fn ends(name: &str, field: &str) -> [SpanTag; 2] {
    [("source", "downstream"), ("destination", "upstream")].map(|(end, stream)| SpanTag {
        name: format!("istio.{end}_{name}"),
        value: SpanTagValue::Format(format!("%FILTER_STATE({stream}_peer_obj:FIELD:{field})%")),
    })
}

fn address(endpoint: &Uri, protocol: OtlpProtocol) -> Result<(String, u16, String), String> {
    let bad = |why: &str| {
        Err(format!(
            "--otlp-endpoint {endpoint}: {why}; write http://HOST[:PORT], of a collector or agent that takes plain TCP"
        ))
    };
    let (Some("http"), Some(host)) = (endpoint.scheme_str(), endpoint.host()) else {
        return bad("is not http:// and a host");
    };
    let path = match (protocol, endpoint.path()) {
        (_, "" | "/") => TRACES,
        (OtlpProtocol::Http, path) => path,
        (OtlpProtocol::Grpc, _) => return bad("gRPC has no path"),
    };
    let default = match protocol {
        OtlpProtocol::Grpc => 4317,
        OtlpProtocol::Http => 4318,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), endpoint.port_u16().unwrap_or(default), path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_plain_address_with_the_ports_of_otlp() {
        let of = |text: &str, protocol| address(&text.parse().unwrap(), protocol).ok();
        let some = |host: &str, port, path: &str| Some((host.to_owned(), port, path.to_owned()));
        assert_eq!(of("http://otel", OtlpProtocol::Grpc), some("otel", 4317, TRACES));
        assert_eq!(of("http://otel/", OtlpProtocol::Http), some("otel", 4318, TRACES));
        assert_eq!(of("http://[::1]:9/x/y", OtlpProtocol::Http), some("::1", 9, "/x/y"));
        for bad in ["https://otel:4317", "otel:4317", "http://otel/x"] {
            assert_eq!(of(bad, OtlpProtocol::Grpc), None, "{bad}");
        }
    }
}
