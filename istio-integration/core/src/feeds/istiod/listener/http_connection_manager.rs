//! The HTTP connection manager of a chain.

use std::sync::Arc;

use istio_protos::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use istio_protos::envoy::extensions::filters::http::fault::v3::HttpFault;
use istio_protos::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier,
};
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use istio_protos::{Any, Finding};
use waypoint_model::{PathNormalization, Protocol};

use super::chain::{ChainDraft, Jwt, Named};
use super::rate_limit::{self, Limit};
use super::route_configuration::{Ways, rule_of, ways};
use super::translated::{At, Refused};
use super::unpack::{unpack, unpack_with_findings};
use super::{access_log, jwt, metrics, network, rbac, tracing, xfcc};

/// Its type.
pub(super) const TYPE: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const WEBSOCKET: &str = "websocket";

/// HTTP filters that count, tell peers of themselves or end the chain: leaving them out weakens nothing.
const HARMLESS: [(&str, &str); 6] = [
    ("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"), // on; the policy is the route's
    ("envoy.filters.http.grpc_stats", "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"),
    ("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
    ("istio.alpn", "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"),
    ("waypoint_downstream_peer_metadata", "io.istio.http.peer_metadata.Config"),
    ("waypoint_upstream_peer_metadata", "io.istio.http.peer_metadata.Config"),
];

/// Translates the manager into a chain.
pub(super) fn translate(config: Option<&Any>, draft: &mut ChainDraft) {
    let (manager, findings) = match unpack_with_findings::<HttpConnectionManager>(config) {
        Ok(decoded) => decoded,
        Err(refused) => return draft.refuse(refused),
    };
    for finding in findings.iter().filter(|finding| rule_of(finding).is_none()) {
        draft.refuse(finding);
    }
    if manager.http2_protocol_options.is_some() {
        draft.protocol = Protocol::Http2;
    }
    match path_normalization(&manager) {
        Ok(normalization) => draft.path_normalization = Some(normalization),
        Err(refused) => draft.refuse(refused),
    }
    if let Err(refused) = connection(&manager) {
        draft.refuse(refused);
    }
    bounds(&manager, draft);
    for filter in &manager.http_filters {
        self::filter(filter, draft);
    }
    routes(&manager, &findings, draft);
    access_log::apply(&manager.access_log, draft);
    if let Some(tracing) = &manager.tracing {
        tracing::apply(tracing, draft);
    }
}

/// Envoy's three settings are one of Istio's four words; another mixture is refused.
fn path_normalization(manager: &HttpConnectionManager) -> Result<PathNormalization, Refused> {
    use PathWithEscapedSlashesAction as Slashes;
    let slashes = Slashes::try_from(manager.path_with_escaped_slashes_action)
        .map_err(|_| Refused::new("not known").at("path_with_escaped_slashes_action"))?;
    let kept = matches!(slashes, Slashes::KeepUnchanged | Slashes::ImplementationSpecificDefault);
    let decoded = slashes == Slashes::UnescapeAndForward;
    match (manager.normalize_path, manager.merge_slashes) {
        (Some(false), false) if kept => Ok(PathNormalization::None),
        (Some(true), false) if kept => Ok(PathNormalization::Base),
        (Some(true), true) if kept => Ok(PathNormalization::MergeSlashes),
        (Some(true), true) if decoded => Ok(PathNormalization::DecodeAndMergeSlashes),
        _ => Err(Refused::new("this mixture of path normalizations is not supported").at("normalize_path")),
    }
}

/// What changes how a request is read.
fn connection(manager: &HttpConnectionManager) -> Result<(), Refused> {
    let underscores = manager
        .common_http_protocol_options
        .as_ref()
        .map_or(0, |options| options.headers_with_underscores_action);
    if underscores != HeadersWithUnderscoresAction::Allow as i32 {
        return Err(Refused::new("underscores in header names are allowed")
            .at("common_http_protocol_options.headers_with_underscores_action"));
    }
    let other =
        manager.upgrade_configs.iter().find(|upgrade| !upgrade.upgrade_type.eq_ignore_ascii_case(WEBSOCKET));
    match other {
        Some(other) => {
            Err(Refused::new(format!("the upgrade {} is not carried", other.upgrade_type))
                .at("upgrade_configs"))
        }
        None => Ok(()),
    }
}

/// Bounds of time that a ProxyConfig set: ours are settings of the process (`docs/operations.md`), so these are told of.
fn bounds(manager: &HttpConnectionManager, draft: &mut ChainDraft) {
    let common = manager.common_http_protocol_options.as_ref();
    let rows = [
        ("stream_idle_timeout", manager.stream_idle_timeout.as_ref()),
        ("request_timeout", manager.request_timeout.as_ref()),
        ("request_headers_timeout", manager.request_headers_timeout.as_ref()),
        ("common_http_protocol_options.idle_timeout", common.and_then(|common| common.idle_timeout.as_ref())),
        (
            "common_http_protocol_options.max_connection_duration",
            common.and_then(|common| common.max_connection_duration.as_ref()),
        ),
        (
            "common_http_protocol_options.max_stream_duration",
            common.and_then(|common| common.max_stream_duration.as_ref()),
        ),
    ];
    let none = prost_types::Duration::default();
    let set = rows.into_iter().filter(|(_, bound)| bound.is_some_and(|bound| *bound != none));
    let told =
        set.map(|(name, _)| Refused::new("not carried out: bounds of HTTP are settings here").at(name));
    draft.notes.extend(told);
}

fn filter(filter: &HttpFilter, draft: &mut ChainDraft) {
    let filter = Named::http(filter);
    match (filter.name, filter.type_name.as_str()) {
        ("envoy.filters.http.rbac", "envoy.extensions.filters.http.rbac.v3.RBAC") => {
            draft.judge(rbac::http(filter.config), filter.name);
        }
        ("envoy.filters.http.jwt_authn", "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication") => {
            token(&filter, draft);
        }
        ("envoy.filters.http.fault", "envoy.extensions.filters.http.fault.v3.HTTPFault") => {
            if let Err(refused) = fault(&filter) {
                draft.refuse(refused);
            }
        }
        (xfcc::FILTER, "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation") => {
            match unpack::<HeaderMutation>(filter.config).and_then(|mutation| xfcc::check(&mutation)) {
                Ok(()) => draft.telemetry.client_identity_header = true,
                Err(refused) => draft.refuse(refused.at(filter.name)),
            }
        }
        (_, of_limits) if rate_limit::TYPES.contains(&of_limits) => limit(&filter, draft),
        (metrics::FILTER, metrics::TYPE) => metrics::apply(filter.config, draft),
        known if HARMLESS.contains(&known) => {}
        _ => draft.refuse(filter.unsupported()),
    }
}

/// A second filter would have to accept the token too; istiod writes one.
fn token(filter: &Named<'_>, draft: &mut ChainDraft) {
    if !matches!(draft.jwt, Jwt::None) {
        draft.refuse("a second filter of tokens is not supported");
    }
    if !draft.policies.is_empty() {
        draft.refuse("policies that are asked before the token is verified are not supported");
    }
    draft.jwt = match jwt::rules(filter.config).at(filter.name) {
        Ok(rules) => Jwt::Rules(rules),
        Err(refused) => Jwt::Refused(refused),
    };
}

/// A limit; any number may stand in a chain, and each must hold.
fn limit(filter: &Named<'_>, draft: &mut ChainDraft) {
    let config = filter.config.ok_or_else(|| Refused::new("no configuration"));
    match config.and_then(|config| rate_limit::translate(&filter.type_name, config)).at(filter.name) {
        Ok(Limit::Local(limit)) => draft.limits.push(Arc::new(limit)),
        Ok(Limit::Global(limit)) => draft.global_limits.push(Arc::new(limit)),
        Ok(Limit::Off) => {
            draft
                .notes
                .push(Refused::new("is off: filter_enabled is 0, which is its default").at(filter.name));
        }
        Err(refused) => {
            draft.refuse(&refused);
            draft.refused.push(refused);
        }
    }
}

/// The filter is on; the faults themselves are a route's.
fn fault(filter: &Named<'_>) -> Result<(), Refused> {
    let config: HttpFault = unpack(filter.config).at(filter.name)?;
    if config == HttpFault::default() {
        return Ok(());
    }
    Err(Refused::new("faults for a whole chain are not supported").at(filter.name))
}

fn routes(manager: &HttpConnectionManager, findings: &[Finding], draft: &mut ChainDraft) {
    let Some(RouteSpecifier::RouteConfig(config)) = manager.route_specifier.as_ref() else {
        return draft.refuse("no routes");
    };
    match ways(config, findings).at("route_config") {
        Ok(Ways::Cluster(key)) => draft.cluster = network::cluster(&key.0),
        Ok(Ways::Routes(route)) => draft.route = Some(*route),
        Err(refused) => return draft.refuse(refused),
    }
    if manager.upgrade_configs.is_empty() {
        no_upgrade(draft);
    }
}

/// Upgrades are off for the chain: every rule says so, and a chain without rules cannot.
fn no_upgrade(draft: &mut ChainDraft) {
    match &mut draft.route {
        Some(route) => route.rules.iter_mut().for_each(|rule| rule.policy.no_upgrade = true),
        None => draft.notes.push(Refused::new("upgrades are carried all the same").at("upgrade_configs")),
    }
}
