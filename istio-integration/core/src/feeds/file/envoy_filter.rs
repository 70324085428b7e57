//! EnvoyFilter: of all that it can do, limits. They are read as istiod sends them, by the same code.
//!
//! Patches of anything else have no effect, and are named. A limit that cannot be read refuses everything at its targets: left
//! out, it would let through what it stops.

use std::sync::Arc;

use istio_protos::from_json;
use serde::Deserialize;
use serde_json::Value;
use waypoint_model::{Chain, LimitService, Policy};

use super::authorization_policy::{PolicyDoc, Targets, targets};
use super::decode::{Unread, decode};
use super::document::{Document, ResourceKey};
use super::finding::{Remarks, Severity};
use super::request_authentication;
use crate::feeds::istiod::{LIMITS, Limit, limit};

/// What a filter of this resource is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LimitsDoc {
    pub(super) targets: Targets,
    limits: Vec<Scoped>,
}

/// A limit, and where it holds of what the resource targets.
#[derive(Clone, Debug, PartialEq)]
struct Scoped {
    scope: Scope,
    limit: Limit,
}

/// A chain of istiod's, by its name `inbound-vip|PORT|http|HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scope {
    Every,
    Port(u16, String),
}

impl LimitsDoc {
    /// Adds what holds on one port.
    pub(super) fn apply(&self, host: &str, port: u16, chain: &mut Chain) {
        for Scoped { scope, limit } in &self.limits {
            let here = match scope {
                Scope::Every => true,
                Scope::Port(number, of) => *number == port && of == host,
            };
            match limit {
                Limit::Local(limit) if here => chain.limits.push(Arc::new(limit.clone())),
                Limit::Global(limit) if here => chain.global_limits.push(Arc::new(limit.clone())),
                Limit::Local(_) | Limit::Global(_) | Limit::Off => {}
            }
        }
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    config_patches: Vec<WrittenPatch>,
    #[serde(rename = "priority")]
    _priority: i64,
    workload_selector: Option<Value>,
    // Read by `targets`.
    #[serde(rename = "targetRefs")]
    _target_refs: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenPatch {
    apply_to: String,
    #[serde(rename = "match")]
    at: Option<WrittenMatch>,
    #[serde(default)]
    patch: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenMatch {
    context: Option<String>,
    listener: Option<WrittenListener>,
    #[serde(rename = "proxy")]
    proxy: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenListener {
    name: Option<String>,
    port_number: Option<u16>,
    filter_chain: Option<WrittenChain>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenChain {
    name: Option<String>,
    /// Where in its chain the filter goes: here limits are asked after all policies, and before the route.
    #[serde(rename = "filter")]
    _filter: Option<Value>,
}

const UNREAD: Unread = Unread { harmless: &["status"], severity: Severity::Error };
/// What istiod calls the listener that waypoints serve by.
const LISTENER: &str = "main_internal";

/// Translates an EnvoyFilter; `None`: nothing in it is a limit.
pub(super) fn translate(document: &Document, remarks: &mut Remarks) -> Option<LimitsDoc> {
    if !has_limits(&document.body) {
        remarks.warning("spec", "patches Envoy, which this waypoint is not: only limits are read");
        return None;
    }
    let targets = targets(&document.body, &document.key.namespace, remarks);
    let spec = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    if spec.workload_selector.is_some() {
        remarks.error("spec.workloadSelector", "is not for waypoints: write targetRefs");
    }
    let patches = spec.config_patches.iter().enumerate();
    let limits = patches.filter_map(|(at, patch)| {
        let path = format!("spec.configPatches[{at}]");
        if config(&patch.patch).is_none() {
            remarks.warning(path, "patches Envoy, which this waypoint is not: only limits are read");
            return None;
        }
        scoped(patch, &path, remarks)
    });
    let limits = limits.collect();
    if targets == Targets::Ztunnel {
        remarks.note("spec", "has no targetRefs and concerns no waypoint");
    }
    Some(LimitsDoc { targets, limits })
}

/// What stands for one that never was usable; an EnvoyFilter without limits needs nothing.
pub(super) fn unusable(document: &Document, why: String) -> Option<PolicyDoc> {
    has_limits(&document.body).then(|| {
        let targets = targets(&document.body, &document.key.namespace, &mut Remarks::default());
        PolicyDoc { targets, policy: refusal(&document.key, why) }
    })
}

/// Refuses everything, in the place of limits that cannot be told.
pub(super) fn refusal(key: &ResourceKey, why: String) -> Policy {
    request_authentication::refusal(key, why)
}

/// Whether some patch is a limit, however little of the rest can be read.
fn has_limits(body: &Value) -> bool {
    let patches = body.pointer("/spec/configPatches").and_then(Value::as_array);
    patches.into_iter().flatten().any(|patch| patch.get("patch").and_then(config).is_some())
}

/// The configuration in a patch, if its type is that of a limit, and the type.
fn config(patch: &Value) -> Option<(&str, &Value)> {
    let value = patch.get("value")?;
    let config = value.get("typed_config").or_else(|| value.get("typedConfig"))?;
    let outer = config.get("@type")?.as_str()?;
    let inner = config.get("type_url").or_else(|| config.get("typeUrl")).and_then(Value::as_str);
    let of = |url: &str| LIMITS.into_iter().find(|known| url.rsplit('/').next() == Some(*known));
    of(outer).or_else(|| inner.and_then(of)).map(|kind| (kind, config))
}

fn scoped(written: &WrittenPatch, path: &str, remarks: &mut Remarks) -> Option<Scoped> {
    let operation = written.patch.get("operation").and_then(Value::as_str).unwrap_or_default();
    let inserts = ["ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER"].contains(&operation);
    if written.apply_to != "HTTP_FILTER" || !inserts {
        remarks
            .error(format!("{path}.patch.operation"), "a limit is an HTTP_FILTER that is added or inserted");
        return None;
    }
    let scope = scope(written.at.as_ref(), &format!("{path}.match"), remarks)?;
    let (kind, config) = config(&written.patch)?;
    let at = format!("{path}.patch.value.typed_config");
    let any = from_json(config).map_err(|error| remarks.error(at.clone(), error.to_string())).ok()?;
    match limit(kind, &any) {
        Ok(Limit::Global(mut global)) => {
            global.service = service(&global.service, &at, remarks)?;
            Some(Scoped { scope, limit: Limit::Global(global) })
        }
        Ok(limit) => {
            if limit == Limit::Off {
                remarks.warning(at, "is off: filter_enabled is 0, which is its default");
            }
            Some(Scoped { scope, limit })
        }
        Err(refused) => {
            remarks.error(at, refused.to_string());
            None
        }
    }
}

/// A cluster's name, as istiod gives it, is a service's host and port.
fn service(cluster: &LimitService, path: &str, remarks: &mut Remarks) -> Option<LimitService> {
    let LimitService::Cluster(key) = cluster else { return Some(cluster.clone()) };
    let parts: Vec<&str> = key.0.split('|').collect();
    if let ["outbound", port, "", host] = parts.as_slice()
        && let Ok(port) = port.parse()
    {
        return Some(LimitService::Service((*host).into(), port));
    }
    let message = format!("`{key}` is no cluster of a service: write outbound|PORT||HOST");
    remarks.error(format!("{path}.rate_limit_service.grpc_service.envoy_grpc.cluster_name"), message);
    None
}

fn scope(at: Option<&WrittenMatch>, path: &str, remarks: &mut Remarks) -> Option<Scope> {
    let Some(at) = at else { return Some(Scope::Every) };
    if at.proxy.is_some() {
        remarks.error(format!("{path}.proxy"), "is not supported: remove it");
    }
    if at.context.as_deref().is_some_and(|context| !["ANY", "SIDECAR_INBOUND"].contains(&context)) {
        let message = "istiod patches waypoints in the context SIDECAR_INBOUND or ANY only";
        remarks.error(format!("{path}.context"), message);
    }
    let Some(listener) = &at.listener else { return Some(Scope::Every) };
    if listener.name.as_deref().is_some_and(|name| name != LISTENER) {
        remarks.error(format!("{path}.listener.name"), format!("a waypoint serves by {LISTENER} only"));
    }
    if listener.port_number.is_some() {
        let message = "a waypoint's listener has no port: name the chain, inbound-vip|PORT|http|HOST";
        remarks.error(format!("{path}.listener.portNumber"), message);
    }
    let Some(name) = listener.filter_chain.as_ref().and_then(|chain| chain.name.as_deref()) else {
        return Some(Scope::Every);
    };
    let parts: Vec<&str> = name.split('|').collect();
    if let ["inbound-vip", port, "http", host] = parts.as_slice()
        && let Ok(port) = port.parse()
    {
        return Some(Scope::Port(port, (*host).to_owned()));
    }
    let message = format!("`{name}` is no chain of a service: write inbound-vip|PORT|http|HOST");
    remarks.error(format!("{path}.listener.filterChain.name"), message);
    None
}
