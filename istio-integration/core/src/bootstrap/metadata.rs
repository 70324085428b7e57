//! The node metadata that istiod reads (`pkg/model/proxy.go`, `NodeMetadata`; `pkg/bootstrap/config.go`, `GetNodeMetaData`).

use serde_json::{Map, Value};

use super::{Environment, ISTIO_VERSION, Pod, downward::Pairs};

const PREFIX: &str = "ISTIO_META_";
/// The value is an object whose members are taken; what follows the prefix means nothing.
const JSON_PREFIX: &str = "ISTIO_METAJSON_";
/// Made by the Deployment's controller; Istio does not count it among the labels of a workload.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// What goes in besides the `ISTIO_META_*` variables.
pub(super) struct Parts<'a> {
    pub(super) pod: &'a Pod<'a>,
    pub(super) proxy_config: Map<String, Value>,
    pub(super) labels: Pairs,
    pub(super) annotations: Pairs,
}

/// Builds the metadata. Names the variable that cannot be read.
pub(super) fn read(
    environment: &Environment,
    parts: Parts<'_>,
    cluster: &str,
) -> Result<Map<String, Value>, String> {
    let mut metadata = proxy_metadata(&parts.proxy_config);
    metadata.extend(environment.beginning(PREFIX).map(|(name, value)| (name.to_owned(), Value::from(value))));
    for (name, text) in environment.beginning(JSON_PREFIX) {
        let members: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            format!("{JSON_PREFIX}{name} is no JSON object: {error}\n  fix: write an object whose members are node metadata")
        })?;
        metadata.extend(members);
    }
    refuse_generator(&metadata)?;
    let static_labels = metadata.get("LABELS").cloned();
    metadata.extend(owned(&parts, cluster));
    if let Some(Value::Object(given)) = static_labels
        && let Some(Value::Object(labels)) = metadata.get_mut("LABELS")
    {
        // The pod's own win.
        for (name, value) in given {
            labels.entry(name).or_insert(value);
        }
    }
    metadata.entry("ISTIO_VERSION").or_insert_with(|| ISTIO_VERSION.into());
    if let (Some(network), false) = (environment.get("NETWORK"), metadata.contains_key("NETWORK")) {
        metadata.insert("NETWORK".to_owned(), network.into());
    }
    Ok(metadata)
}

/// Another generator would send us resources of another dialect.
fn refuse_generator(metadata: &Map<String, Value>) -> Result<(), String> {
    match metadata.get("GENERATOR") {
        None => Ok(()),
        Some(generator) => {
            Err(format!("ISTIO_META_GENERATOR={generator} is not supported\n  fix: remove it"))
        }
    }
}

/// `ISTIO_META_*` members of `proxyMetadata`, which the Deployment passes on as variables too.
fn proxy_metadata(proxy_config: &Map<String, Value>) -> Map<String, Value> {
    let Some(Value::Object(given)) = proxy_config.get("proxyMetadata") else { return Map::new() };
    given
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?.to_owned(), value.clone())))
        .collect()
}

/// What we know better than any variable.
fn owned(parts: &Parts<'_>, cluster: &str) -> Vec<(String, Value)> {
    let Parts { pod, proxy_config, labels, annotations } = parts;
    let object = |pairs: &Pairs| {
        Value::Object(pairs.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect())
    };
    let labels = labels
        .iter()
        .filter(|(name, _)| *name != TEMPLATE_HASH)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    [
        ("NAME", pod.name.into()),
        ("NAMESPACE", pod.namespace.into()),
        ("SERVICE_ACCOUNT", pod.service_account.into()),
        ("CLUSTER_ID", cluster.into()),
        ("INSTANCE_IPS", pod.ip.into()),
        ("LABELS", object(&labels)),
        ("ANNOTATIONS", object(annotations)),
        // An empty one too: without it `istioctl proxy-status` does not list us.
        ("PROXY_CONFIG", Value::Object(proxy_config.clone())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}
