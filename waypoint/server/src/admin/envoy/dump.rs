//! `/config_dump`: resources as istiod sent them, with what was refused of them and why (`envoy.admin.v3.ConfigDump`).

use std::collections::HashSet;

use istio_integration::bootstrap::Bootstrap;
use istio_integration::feeds::istiod::{HeldResource, HeldResources, Kind, Version};
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::routes::routes;
use super::{Each, secrets, server, timestamp};
use crate::admin::pages::{Admin, Query};

/// The sections, in Envoy's order.
pub(in crate::admin) struct Configs<'a> {
    admin: &'a Admin,
    bootstrap: &'a Bootstrap,
    held: HeldResources,
    /// Only sections with one of these fields, as `?mask=` says; empty: all.
    mask: HashSet<String>,
    endpoints: bool,
}

impl<'a> Configs<'a> {
    /// What istiod sent until now. Endpoints are left out unless `?include_eds` asks for them.
    pub(in crate::admin) fn new(admin: &'a Admin, bootstrap: &'a Bootstrap, query: &Query<'_>) -> Self {
        let mask = query.get("mask").unwrap_or_default().replace("%2C", ",");
        Self {
            admin,
            bootstrap,
            held: admin.feed.borrow().held.clone(),
            mask: mask.split(',').filter(|field| !field.is_empty()).map(str::to_owned).collect(),
            endpoints: query.get("include_eds").is_some_and(|value| value != "false"),
        }
    }

    fn shows(&self, fields: &[&str]) -> bool {
        self.mask.is_empty() || fields.iter().any(|field| self.mask.contains(*field))
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &HeldResource)> {
        let all = self.held.iter().filter(move |(of, ..)| *of == kind);
        all.map(|(_, name, resource)| (name, resource))
    }
}

impl Serialize for Configs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        if self.shows(&["bootstrap"]) {
            list.serialize_element(&bootstrap(self.admin, self.bootstrap))?;
        }
        if self.shows(&["dynamic_active_clusters", "dynamic_warming_clusters", "static_clusters"]) {
            list.serialize_element(&ClustersSection {
                kind: "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
                dynamic_active_clusters: Each(|| {
                    let active = self.of(Kind::Cluster).filter(|(_, resource)| resource.good.is_some());
                    active.map(|(_, resource)| dynamic(Kind::Cluster, "cluster", resource))
                }),
                dynamic_warming_clusters: Each(|| {
                    let never_good = self.of(Kind::Cluster).filter(|(_, resource)| resource.good.is_none());
                    never_good.map(|(_, resource)| dynamic(Kind::Cluster, "cluster", resource))
                }),
            })?;
        }
        if self.endpoints && self.shows(&["dynamic_endpoint_configs", "static_endpoint_configs"]) {
            list.serialize_element(&EndpointsSection {
                kind: "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
                dynamic_endpoint_configs: Each(|| {
                    let all = self.of(Kind::Endpoint);
                    all.map(|(_, resource)| dynamic(Kind::Endpoint, "endpoint_config", resource))
                }),
            })?;
        }
        if self.shows(&["dynamic_listeners", "static_listeners"]) {
            list.serialize_element(&ListenersSection {
                kind: "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
                dynamic_listeners: Each(|| {
                    self.of(Kind::Listener).map(|(name, resource)| listener(name, resource))
                }),
            })?;
        }
        if self.shows(&["dynamic_route_configs", "static_route_configs"]) {
            list.serialize_element(&RoutesSection {
                kind: "type.googleapis.com/envoy.admin.v3.RoutesConfigDump",
                static_route_configs: Each(|| {
                    let good = self.of(Kind::Listener).filter_map(|(_, resource)| resource.good.as_ref());
                    good.flat_map(|version| routes(version.to_json(Kind::Listener), version.since))
                }),
            })?;
        }
        if self.shows(&["dynamic_active_secrets", "dynamic_warming_secrets"]) {
            list.serialize_element(&secrets::secrets(self.admin.readiness.svid.borrow().as_deref()))?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct ClustersSection<A, W> {
    #[serde(rename = "@type")]
    kind: &'static str,
    dynamic_active_clusters: A,
    dynamic_warming_clusters: W,
}

#[derive(Serialize)]
struct EndpointsSection<E> {
    #[serde(rename = "@type")]
    kind: &'static str,
    dynamic_endpoint_configs: E,
}

#[derive(Serialize)]
struct ListenersSection<L> {
    #[serde(rename = "@type")]
    kind: &'static str,
    dynamic_listeners: L,
}

/// Routes stand inside of the listeners that istiod sends to a waypoint; Envoy too shows such ones as static.
#[derive(Serialize)]
struct RoutesSection<R> {
    #[serde(rename = "@type")]
    kind: &'static str,
    static_route_configs: R,
}

fn bootstrap(admin: &Admin, bootstrap: &Bootstrap) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
        "bootstrap": {"node": server::node(bootstrap, &admin.launch.locality)},
        "last_updated": timestamp(admin.started),
    })
}

/// `DynamicCluster` and `DynamicEndpointConfig`.
fn dynamic(kind: Kind, field: &str, resource: &HeldResource) -> Map<String, Value> {
    let mut shown = resource.good.as_ref().map_or_else(Map::new, |version| state(kind, field, version));
    refusal(kind, resource, &mut shown);
    shown
}

/// `DynamicListener`.
fn listener(name: &str, resource: &HeldResource) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("name".to_owned(), name.into());
    if let Some(version) = &resource.good {
        shown.insert("active_state".to_owned(), state(Kind::Listener, "listener", version).into());
    }
    refusal(Kind::Listener, resource, &mut shown);
    shown
}

fn state(kind: Kind, field: &str, version: &Version) -> Map<String, Value> {
    let mut state = Map::new();
    state.insert("version_info".to_owned(), (*version.version).into());
    state.insert(field.to_owned(), version.to_json(kind));
    state.insert("last_updated".to_owned(), timestamp(version.since).into());
    state
}

/// `error_state` and `client_status`.
fn refusal(kind: Kind, resource: &HeldResource, shown: &mut Map<String, Value>) {
    if let Some((version, why)) = &resource.refused {
        let error = json!({
            "failed_configuration": version.to_json(kind),
            "last_update_attempt": timestamp(version.since),
            "details": why,
            "version_info": &*version.version,
        });
        shown.insert("error_state".to_owned(), error);
    }
    let status = if resource.refused.is_some() { "NACKED" } else { "ACKED" };
    shown.insert("client_status".to_owned(), status.into());
}
