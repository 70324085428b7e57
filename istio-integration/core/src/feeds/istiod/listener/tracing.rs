//! Traces of a chain: the share that is recorded, tags of spans, and the collector that takes them.

use std::sync::Arc;
use std::time::Duration;

use istio_protos::envoy::config::core::v3::grpc_service::TargetSpecifier;
use istio_protos::envoy::config::core::v3::http_uri::HttpUpstreamType;
use istio_protos::envoy::config::core::v3::{GrpcService, HttpService};
use istio_protos::envoy::config::trace::v3::OpenTelemetryConfig;
use istio_protos::envoy::config::trace::v3::tracing::Http as Provider;
use istio_protos::envoy::config::trace::v3::tracing::http::ConfigType;
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use istio_protos::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
use istio_protos::envoy::r#type::tracing::v3::CustomTag;
use istio_protos::envoy::r#type::tracing::v3::custom_tag::{Metadata, Type};
use prost::Name as _;
use waypoint_model::{
    ClusterKey, Collector, CollectorAddress, CollectorProtocol, DryRunTag, SpanTag, SpanTagValue,
    TracingSettings,
};

use super::chain::ChainDraft;
use super::translated::{At, Refused};
use super::unpack::unpack;

/// Envoy's default share where none is named, percent.
const ALL: f64 = 100.0;
/// Envoy's default of `max_path_tag_length`, bytes.
const PATH: usize = 256;
/// Filter whose metadata tell of dry-run policies.
const RBAC: &str = "envoy.filters.http.rbac";

/// Traces the chain as istiod says; what is not carried out is noted by name, and weakens nothing.
pub(super) fn apply(tracing: &Tracing, draft: &mut ChainDraft) {
    let Some(provider) = &tracing.provider else { return };
    match collector(provider).at("provider") {
        Ok(collector) => {
            draft.telemetry.tracing = Some(Arc::new(settings(tracing, collector, &mut draft.notes)))
        }
        Err(refused) => draft.notes.push(refused.at("tracing")),
    }
}

fn settings(tracing: &Tracing, collector: Collector, notes: &mut Vec<Refused>) -> TracingSettings {
    let mut tags = Vec::new();
    for tag in &tracing.custom_tags {
        match self::tag(tag) {
            Ok(value) => tags.push(SpanTag { name: tag.tag.clone(), value }),
            Err(refused) => notes.push(refused.at(format!("tracing.custom_tags[{:?}]", tag.tag))),
        }
    }
    TracingSettings {
        sampling: sampling(tracing),
        propagate: !tracing.no_context_propagation,
        forms: Vec::new(),
        tags,
        max_path: tracing.max_path_tag_length.and_then(|most| usize::try_from(most).ok()).unwrap_or(PATH),
        collector: Arc::new(collector),
    }
}

/// Share of requests whose trace begins here, in hundredths of a percent.
fn sampling(tracing: &Tracing) -> u32 {
    let percent =
        |share: Option<&istio_protos::envoy::r#type::v3::Percent>| share.map_or(ALL, |share| share.value);
    let random = percent(tracing.random_sampling.as_ref()).min(percent(tracing.overall_sampling.as_ref()));
    let bounded = if random.is_finite() { random.clamp(0.0, ALL) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10,000")]
    let hundredths = (bounded * 100.0).round() as u32;
    hundredths
}

fn collector(provider: &Provider) -> Result<Collector, Refused> {
    let ConfigType::TypedConfig(config) =
        provider.config_type.as_ref().ok_or_else(|| Refused::new("no configuration"))?;
    if config.type_name() != OpenTelemetryConfig::full_name() {
        return Err(Refused::new(format!("{} is not built; spans go by OTLP only", provider.name)));
    }
    let config: OpenTelemetryConfig = unpack(Some(config))?;
    if config.sampler.is_some() {
        return Err(Refused::new("is not built; the share of a Telemetry decides").at("sampler"));
    }
    match (&config.grpc_service, &config.http_service) {
        (Some(service), None) => grpc(service, config.service_name).at("grpc_service"),
        (None, Some(service)) => http(service, config.service_name).at("http_service"),
        _neither_or_both => Err(Refused::new("one service is expected")),
    }
}

fn grpc(service: &GrpcService, service_name: String) -> Result<Collector, Refused> {
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
        return Err(Refused::new("no cluster"));
    };
    let authority = if target.authority.is_empty() { &target.cluster_name } else { &target.authority };
    Ok(Collector {
        to: CollectorAddress::Cluster(ClusterKey(target.cluster_name.as_str().into())),
        protocol: CollectorProtocol::Grpc(authority.clone()),
        service_name,
        headers: service.initial_metadata.iter().map(|one| (one.key.clone(), one.value.clone())).collect(),
        timeout: service.timeout.as_ref().and_then(timeout),
    })
}

fn http(service: &HttpService, service_name: String) -> Result<Collector, Refused> {
    let uri = service.http_uri.as_ref().ok_or_else(|| Refused::new("no address"))?;
    let Some(HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
        return Err(Refused::new("no cluster"));
    };
    // istiod writes host and path, without a scheme.
    let rest = uri.uri.split_once("://").map_or(uri.uri.as_str(), |(_scheme, rest)| rest);
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let header = |option: &istio_protos::envoy::config::core::v3::HeaderValueOption| {
        option.header.as_ref().map(|header| (header.key.clone(), header.value.clone()))
    };
    Ok(Collector {
        to: CollectorAddress::Cluster(ClusterKey(cluster.as_str().into())),
        protocol: CollectorProtocol::Http(
            authority.to_owned(),
            if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        ),
        service_name,
        headers: service.request_headers_to_add.iter().filter_map(header).collect(),
        timeout: uri.timeout.as_ref().and_then(timeout),
    })
}

/// None, and zero, mean that the exporter's own counts.
fn timeout(duration: &prost_types::Duration) -> Option<Duration> {
    Duration::try_from(*duration).ok().filter(|timeout| !timeout.is_zero())
}

fn tag(tag: &CustomTag) -> Result<SpanTagValue, Refused> {
    match tag.r#type.as_ref() {
        Some(Type::Literal(literal)) => Ok(SpanTagValue::Text(literal.value.clone())),
        Some(Type::Environment(variable)) => {
            Ok(SpanTagValue::Environment(variable.name.clone(), variable.default_value.clone()))
        }
        Some(Type::RequestHeader(header)) => {
            Ok(SpanTagValue::Header(header.name.clone(), header.default_value.clone()))
        }
        Some(Type::Value(format)) => Ok(SpanTagValue::Format(format.clone())),
        Some(Type::Metadata(metadata)) => dry_run(metadata).map(SpanTagValue::DryRun),
        None => Err(Refused::new("no value")),
    }
}

/// The only metadata that istiod asks for.
fn dry_run(metadata: &Metadata) -> Result<DryRunTag, Refused> {
    let key = metadata.metadata_key.as_ref();
    let mut path = key.iter().flat_map(|key| &key.path).filter_map(|step| match step.segment.as_ref()? {
        Segment::Key(key) => Some(key.as_str()),
    });
    match (key.map(|key| key.key.as_str()), path.next(), path.next()) {
        (Some(RBAC), Some("istio_dry_run_allow_shadow_effective_policy_id"), None) => {
            Ok(DryRunTag::AllowName)
        }
        (Some(RBAC), Some("istio_dry_run_allow_shadow_engine_result"), None) => Ok(DryRunTag::AllowResult),
        (Some(RBAC), Some("istio_dry_run_deny_shadow_effective_policy_id"), None) => Ok(DryRunTag::DenyName),
        (Some(RBAC), Some("istio_dry_run_deny_shadow_engine_result"), None) => Ok(DryRunTag::DenyResult),
        _other => Err(Refused::new("metadata that are not known")),
    }
}

#[cfg(test)]
mod tests {
    use istio_protos::Any;
    use istio_protos::envoy::config::core::v3::grpc_service::EnvoyGrpc;
    use istio_protos::envoy::config::core::v3::{HeaderValue, HttpUri, TypedExtensionConfig};
    use istio_protos::envoy::r#type::metadata::v3::MetadataKey;
    use istio_protos::envoy::r#type::metadata::v3::metadata_key::PathSegment;
    use istio_protos::envoy::r#type::tracing::v3::custom_tag::{Header, Literal};
    use istio_protos::envoy::r#type::v3::Percent;
    use prost::Message as _;

    use super::*;

    const CLUSTER: &str = "outbound|4317||otel.obs.svc.cluster.local";

    fn provider(config: &OpenTelemetryConfig) -> Provider {
        let config = Any { type_url: OpenTelemetryConfig::type_url(), value: config.encode_to_vec().into() };
        Provider {
            name: "envoy.tracers.opentelemetry".to_owned(),
            config_type: Some(ConfigType::TypedConfig(config)),
        }
    }

    fn by_grpc() -> OpenTelemetryConfig {
        let target = EnvoyGrpc {
            cluster_name: CLUSTER.to_owned(),
            authority: "otel.obs.svc.cluster.local".to_owned(),
        };
        OpenTelemetryConfig {
            grpc_service: Some(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
                timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
                initial_metadata: vec![HeaderValue { key: "x-tenant".to_owned(), value: "a".to_owned() }],
            }),
            service_name: "wp.tools".to_owned(),
            ..OpenTelemetryConfig::default()
        }
    }

    fn tracing(provider: Provider) -> Tracing {
        Tracing {
            random_sampling: Some(Percent { value: 12.5 }),
            overall_sampling: Some(Percent { value: 100.0 }),
            provider: Some(provider),
            ..Tracing::default()
        }
    }

    #[test]
    fn a_collector_is_a_cluster_and_what_is_spoken_there() {
        let told = collector(&provider(&by_grpc())).unwrap();
        assert_eq!(told.to, CollectorAddress::Cluster(ClusterKey(CLUSTER.into())));
        assert_eq!(told.protocol, CollectorProtocol::Grpc("otel.obs.svc.cluster.local".to_owned()));
        assert_eq!((told.service_name.as_str(), told.timeout), ("wp.tools", Some(Duration::from_secs(2))));
        assert_eq!(told.headers, [("x-tenant".to_owned(), "a".to_owned())]);
        for (uri, authority, path) in
            [("otel.obs/v1/traces", "otel.obs", "/v1/traces"), ("http://otel.obs:4318", "otel.obs:4318", "/")]
        {
            let http_uri = Some(HttpUri {
                uri: uri.to_owned(),
                http_upstream_type: Some(HttpUpstreamType::Cluster(CLUSTER.to_owned())),
                timeout: None,
            });
            let service = HttpService { http_uri, ..HttpService::default() };
            let told = http(&service, String::new()).unwrap();
            assert_eq!(
                told.protocol,
                CollectorProtocol::Http(authority.to_owned(), path.to_owned()),
                "{uri}"
            );
        }
    }

    #[test]
    fn shares_and_tags_are_those_of_the_telemetry() {
        let metadata = |key: &str, path: &str| {
            let segment = Some(Segment::Key(path.to_owned()));
            Type::Metadata(Metadata {
                metadata_key: Some(MetadataKey { key: key.to_owned(), path: vec![PathSegment { segment }] }),
                ..Metadata::default()
            })
        };
        let tags = [
            ("a", Type::Literal(Literal { value: "1".to_owned() })),
            ("b", Type::RequestHeader(Header { name: "x-b".to_owned(), default_value: "-".to_owned() })),
            ("c", Type::Value("%PROTOCOL%".to_owned())),
            ("d", metadata(RBAC, "istio_dry_run_deny_shadow_engine_result")),
            ("e", metadata("envoy.filters.http.other", "istio_dry_run_deny_shadow_engine_result")),
        ];
        let tags = tags.map(|(tag, value)| CustomTag { tag: tag.to_owned(), r#type: Some(value) });
        let tracing = Tracing {
            custom_tags: tags.into(),
            no_context_propagation: true,
            ..tracing(provider(&by_grpc()))
        };
        let mut draft = ChainDraft::new();
        apply(&tracing, &mut draft);
        let settings = draft.telemetry.tracing.unwrap();
        assert_eq!((settings.sampling, settings.propagate, settings.max_path), (1_250, false, PATH));
        let values: Vec<&SpanTagValue> = settings.tags.iter().map(|tag| &tag.value).collect();
        let want = [
            SpanTagValue::Text("1".to_owned()),
            SpanTagValue::Header("x-b".to_owned(), "-".to_owned()),
            SpanTagValue::Format("%PROTOCOL%".to_owned()),
            SpanTagValue::DryRun(DryRunTag::DenyResult),
        ];
        assert_eq!(values, want.iter().collect::<Vec<_>>());
        let notes: Vec<String> = draft.notes.iter().map(ToString::to_string).collect();
        assert_eq!(notes, ["tracing.custom_tags[\"e\"]: metadata that are not known"]);
    }

    #[test]
    fn what_is_not_built_is_named_and_the_chain_is_not_traced() {
        let sampler = Some(TypedExtensionConfig::default());
        let zipkin = Any {
            type_url: "type.googleapis.com/envoy.config.trace.v3.ZipkinConfig".to_owned(),
            ..Any::default()
        };
        let zipkin = Provider {
            name: "envoy.tracers.zipkin".to_owned(),
            config_type: Some(ConfigType::TypedConfig(zipkin)),
        };
        let rows = [
            (zipkin, "tracing.provider: envoy.tracers.zipkin is not built; spans go by OTLP only"),
            (
                provider(&OpenTelemetryConfig { sampler, ..by_grpc() }),
                "tracing.provider.sampler: is not built; the share of a Telemetry decides",
            ),
            (provider(&OpenTelemetryConfig::default()), "tracing.provider: one service is expected"),
        ];
        for (provider, want) in rows {
            let mut draft = ChainDraft::new();
            apply(&tracing(provider), &mut draft);
            assert_eq!(draft.notes.iter().map(ToString::to_string).collect::<Vec<_>>(), [want]);
            assert!(draft.telemetry.tracing.is_none() && draft.unusable.is_none());
        }
    }
}
