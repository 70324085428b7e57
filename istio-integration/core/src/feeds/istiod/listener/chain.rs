//! A filter chain: what holds on a port. Which filters there may be, by name and type.

use std::sync::Arc;

use istio_protos::envoy::config::listener::v3::filter::ConfigType;
use istio_protos::envoy::config::listener::v3::{Filter, FilterChain};
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use istio_protos::udpa::r#type::v1::TypedStruct;
use istio_protos::{Any, Finding};
use prost::Message as _;
use waypoint_model::{
    ClusterKey, GlobalLimit, JwtRule, LocalLimit, PathNormalization, Protocol, Route, StreamBounds,
    TelemetrySettings,
};

use super::rbac::{Draft, Judges};
use super::translated::Refused;
use super::{http_connection_manager, network};

/// A chain before its policies are settled.
#[derive(Debug)]
pub(super) struct ChainDraft {
    /// HTTP or TCP; never undeclared, that is a matter of two chains.
    pub(super) protocol: Protocol,
    pub(super) policies: Vec<Draft>,
    pub(super) route: Option<Route>,
    pub(super) jwt: Jwt,
    pub(super) cluster: Option<ClusterKey>,
    pub(super) streams: Vec<(ClusterKey, u32)>,
    pub(super) stream_bounds: StreamBounds,
    pub(super) path_normalization: Option<PathNormalization>,
    pub(super) telemetry: TelemetrySettings,
    pub(super) limits: Vec<Arc<LocalLimit>>,
    pub(super) global_limits: Vec<Arc<GlobalLimit>>,
    /// The first reason why nothing is served.
    pub(super) unusable: Option<String>,
    /// Reasons of a NACK, beside those of the policies.
    pub(super) refused: Vec<Refused>,
    /// What is left out and weakens nothing.
    pub(super) notes: Vec<Refused>,
    /// Whether a filter that refuses what no ALLOW policy matches was seen.
    allows: bool,
}

/// What a chain says of tokens.
#[derive(Debug, Default)]
pub(super) enum Jwt {
    /// No filter.
    #[default]
    None,
    /// Its rules.
    Rules(Vec<Arc<JwtRule>>),
    /// A filter that is not understood: the last good rules stay, or nothing is served.
    Refused(Refused),
}

impl ChainDraft {
    pub(super) fn new() -> Self {
        Self {
            protocol: Protocol::Tcp,
            policies: Vec::new(),
            route: None,
            jwt: Jwt::None,
            cluster: None,
            streams: Vec::new(),
            stream_bounds: StreamBounds::default(),
            path_normalization: None,
            telemetry: TelemetrySettings::default(),
            limits: Vec::new(),
            global_limits: Vec::new(),
            unusable: None,
            refused: Vec::new(),
            notes: Vec::new(),
            allows: false,
        }
    }

    /// Serves nothing, and says why; the first reason stays.
    pub(super) fn refuse(&mut self, why: impl ToString) {
        self.unusable.get_or_insert_with(|| why.to_string());
    }

    /// Adds a filter that judges. A second one that refuses what it does not permit would have to hold as well, while
    /// policies here are merged: istiod does not write it, and it is refused.
    pub(super) fn judge(&mut self, judges: Result<Judges, Refused>, at: &str) {
        match judges {
            Ok(judges) => {
                if self.allows && judges.allows {
                    self.refuse("a second filter of ALLOW policies is not supported");
                }
                self.allows |= judges.allows;
                let placed = |mut draft: Draft| {
                    draft.refused = draft.refused.into_iter().map(|refused| refused.at(at)).collect();
                    draft
                };
                self.policies.extend(judges.policies.into_iter().map(placed));
            }
            Err(refused) => {
                let refused = refused.at(at);
                self.refuse(&refused);
                self.refused.push(refused);
            }
        }
    }
}

/// Translates a chain. `findings` are those of the listener that stand in it.
pub(super) fn chain(chain: &FilterChain, findings: &[&Finding]) -> ChainDraft {
    let mut draft = ChainDraft::new();
    for finding in findings {
        draft.refuse(finding);
    }
    if chain.transport_socket.is_some() {
        draft.refuse("a chain with a transport of its own is not supported");
    }
    let Some((last, before)) = chain.filters.split_last() else {
        draft.refuse("a chain without filters");
        return draft;
    };
    let named: Vec<Named<'_>> = before.iter().map(Named::network).collect();
    let last = Named::network(last);
    match (last.name, last.type_name.as_str()) {
        ("envoy.filters.network.http_connection_manager", http_connection_manager::TYPE) => {
            draft.protocol = Protocol::Http;
            for filter in named {
                // In front of HTTP only what concerns the tunnel's own facts.
                if !network::is_harmless(&filter) {
                    draft.refuse(filter.unsupported());
                }
            }
            http_connection_manager::translate(last.config, &mut draft);
        }
        ("envoy.filters.network.tcp_proxy", network::TCP_PROXY) => {
            for filter in &named {
                network::filter(filter, &mut draft);
            }
            network::tcp_proxy(last.config, &mut draft);
        }
        _ => draft.refuse(last.unsupported()),
    }
    draft
}

/// A filter by its name and the type of its configuration.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    /// The full name of the message; of a Struct, of the message that it stands for.
    pub(super) type_name: String,
    pub(super) config: Option<&'a Any>,
}

impl<'a> Named<'a> {
    /// A network filter.
    pub(super) fn network(filter: &'a Filter) -> Self {
        match filter.config_type.as_ref() {
            Some(ConfigType::TypedConfig(any)) => Self::new(&filter.name, any),
            Some(ConfigType::ConfigDiscovery(source)) => Self::elsewhere(&filter.name, &source.type_urls),
            None => Self::elsewhere(&filter.name, &[]),
        }
    }

    /// An HTTP filter.
    pub(super) fn http(filter: &'a HttpFilter) -> Self {
        match filter.config_type.as_ref() {
            Some(http_filter::ConfigType::TypedConfig(any)) => Self::new(&filter.name, any),
            Some(http_filter::ConfigType::ConfigDiscovery(source)) => {
                Self::elsewhere(&filter.name, &source.type_urls)
            }
            None => Self::elsewhere(&filter.name, &[]),
        }
    }

    fn new(name: &'a str, config: &'a Any) -> Self {
        Self { name, type_name: true_type(config), config: Some(config) }
    }

    /// A filter whose configuration is sent by itself (ECDS). Not one of the known types is sent so, so that even a
    /// known name comes without a known type.
    fn elsewhere(name: &'a str, type_urls: &[String]) -> Self {
        let types: Vec<&str> = type_urls.iter().map(|url| istio_protos::type_name(url)).collect();
        Self { name, type_name: format!("{} (sent by itself)", types.join(" or ")), config: None }
    }

    /// The words of a chain that is closed because of this filter.
    pub(super) fn unsupported(&self) -> String {
        format!("filter {} of type {} is not supported", self.name, self.type_name)
    }
}

/// Istio's own filters are configured by a Struct that names their type.
fn true_type(any: &Any) -> String {
    let name = any.type_name();
    if name == "udpa.type.v1.TypedStruct" || name == "xds.type.v3.TypedStruct" {
        // The two messages are alike on the wire.
        return TypedStruct::decode(any.value.clone())
            .map(|inner| istio_protos::type_name(&inner.type_url).to_owned())
            .unwrap_or_default();
    }
    name.to_owned()
}
