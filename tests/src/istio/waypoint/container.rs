//! What a pod's object says about its container, as a kubelet reads it. What is not understood is refused by name: a
//! waypoint must not start with less than its pod asks for.

use crate::istio::objects::{at, list, text};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The container of a waypoint's pod, with everything looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The image.
    pub image: String,
    /// Instead of the image's entry point, if set.
    pub command: Vec<String>,
    /// Arguments, with `$(NAME)` replaced.
    pub args: Vec<String>,
    /// The environment of the pod.
    pub environment: BTreeMap<String, String>,
    /// Where its volumes appear.
    pub mounts: Vec<Mount>,
    /// Who it runs as.
    pub user: u32,
    /// And in which group.
    pub group: u32,
    /// Whether its root can't be written to.
    pub read_only: bool,
    /// How to see that it is ready.
    pub probe: Probe,
    /// How long it may take to end.
    pub grace: Duration,
}

/// A volume in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The volume's name.
    pub volume: String,
    /// The folder.
    pub path: String,
    /// Whether it can't be written to there.
    pub read_only: bool,
}

/// `httpGet` of a readiness probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The port on the pod's address.
    pub port: u16,
    /// The path.
    pub path: String,
}

impl Container {
    /// Reads the only container of `pod`, whose status names its address.
    ///
    /// # Errors
    /// When the pod has something that is not understood, by its name.
    pub fn read(pod: &Value) -> Result<Self> {
        let [container] = list(pod, "/spec/containers") else { bail!("a pod with one container") };
        let environment = environment(pod, container)?;
        let words = |pointer: &str| {
            let words = list(container, pointer).iter().filter_map(Value::as_str);
            words.map(|word| expanded(word, &environment)).collect::<Vec<_>>()
        };
        let grace = at(pod, "/spec/terminationGracePeriodSeconds").as_u64().unwrap_or(30);
        Ok(Self {
            image: text(container, "/image")?.to_owned(),
            command: words("/command"),
            args: words("/args"),
            mounts: list(container, "/volumeMounts")
                .iter()
                .map(|one| mount(pod, one))
                .collect::<Result<_>>()?,
            user: id(pod, container, "runAsUser")?,
            group: id(pod, container, "runAsGroup")?,
            read_only: at(container, "/securityContext/readOnlyRootFilesystem") == true,
            probe: probe(container)?,
            grace: Duration::from_secs(grace),
            environment,
        })
    }
}

/// The container's own id, else the pod's.
fn id(pod: &Value, container: &Value, what: &str) -> Result<u32> {
    let pointer = format!("/securityContext/{what}");
    let id = at(container, &pointer).as_u64().or_else(|| at(at(pod, "/spec"), &pointer).as_u64());
    Ok(id.with_context(|| format!("no {what}"))?.try_into()?)
}

fn mount(pod: &Value, mount: &Value) -> Result<Mount> {
    for unknown in ["subPath", "subPathExpr", "mountPropagation"] {
        anyhow::ensure!(mount.get(unknown).is_none(), "{unknown} of a volumeMount");
    }
    let name = text(mount, "/name")?;
    let volume = list(pod, "/spec/volumes").iter().find(|volume| at(volume, "/name") == name);
    let volume = volume.with_context(|| format!("no volume is called {name}"))?;
    // Only an emptyDir is the container's own; a kubelet mounts what it writes itself read-only.
    let read_only = at(mount, "/readOnly") == true || volume.get("emptyDir").is_none();
    Ok(Mount { volume: name.to_owned(), path: text(mount, "/mountPath")?.to_owned(), read_only })
}

fn probe(container: &Value) -> Result<Probe> {
    let get = at(container, "/readinessProbe/httpGet");
    let port = match at(get, "/port") {
        Value::String(name) => {
            let ports = list(container, "/ports").iter();
            let named = ports.clone().find(|port| at(port, "/name") == name.as_str());
            at(named.with_context(|| format!("no port is called {name}"))?, "/containerPort").as_u64()
        }
        number => number.as_u64(),
    };
    let port = port.context("a readiness probe with a port")?.try_into()?;
    Ok(Probe { port, path: text(get, "/path")?.to_owned() })
}

/// Values are looked up in order, so that a later one may name an earlier one.
fn environment(pod: &Value, container: &Value) -> Result<BTreeMap<String, String>> {
    anyhow::ensure!(container.get("envFrom").is_none(), "envFrom");
    let mut environment = BTreeMap::new();
    for variable in list(container, "/env") {
        let name = text(variable, "/name")?;
        let value =
            value(pod, container, variable, &environment).with_context(|| format!("variable {name}"))?;
        environment.insert(name.to_owned(), value);
    }
    Ok(environment)
}

fn value(
    pod: &Value,
    container: &Value,
    variable: &Value,
    before: &BTreeMap<String, String>,
) -> Result<String> {
    let Some(from) = variable.get("valueFrom") else {
        return Ok(expanded(at(variable, "/value").as_str().unwrap_or_default(), before));
    };
    if let Some(path) = at(from, "/fieldRef/fieldPath").as_str() {
        return field(pod, path);
    }
    match from.get("resourceFieldRef") {
        Some(resource) => limit(container, resource),
        None => bail!("valueFrom {from}"),
    }
}

/// The field of a pod that `path` names (downward API).
pub(super) fn field(pod: &Value, path: &str) -> Result<String> {
    let own = |pointer: &str| text(pod, pointer).map(str::to_owned);
    let entry =
        |of: &str, key: &str| Ok(at(pod, of).get(key).and_then(Value::as_str).unwrap_or_default().to_owned());
    let key = |prefix: &str| path.strip_prefix(prefix)?.strip_suffix("']");
    match path {
        "metadata.name" => own("/metadata/name"),
        "metadata.namespace" => own("/metadata/namespace"),
        "metadata.uid" => own("/metadata/uid"),
        "spec.nodeName" => own("/spec/nodeName"),
        "spec.serviceAccountName" => own("/spec/serviceAccountName"),
        "status.podIP" => own("/status/podIP"),
        "status.hostIP" => own("/status/hostIP"),
        "metadata.labels" => Ok(entries(at(pod, "/metadata/labels"))),
        "metadata.annotations" => Ok(entries(at(pod, "/metadata/annotations"))),
        _ => match (key("metadata.labels['"), key("metadata.annotations['")) {
            (Some(key), _) => entry("/metadata/labels", key),
            (_, Some(key)) => entry("/metadata/annotations", key),
            _ => bail!("fieldPath {path}"),
        },
    }
}

/// Labels or annotations as a file of the downward API: `key="value"`, quoted as Go does.
fn entries(map: &Value) -> String {
    let sorted: BTreeMap<_, _> = map.as_object().into_iter().flatten().collect();
    // The strings of Istio's labels and annotations are quoted alike in Go and in JSON.
    sorted.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
}

fn limit(container: &Value, reference: &Value) -> Result<String> {
    let resource = text(reference, "/resource")?;
    let name = resource.strip_prefix("limits.").with_context(|| format!("resource {resource}"))?;
    let limit = match at(container, &format!("/resources/limits/{name}")) {
        Value::String(limit) => limit.clone(),
        Value::Number(limit) => limit.to_string(),
        _ => bail!("no {resource}"),
    };
    let divisor = at(reference, "/divisor").as_str().unwrap_or("1");
    let (limit, divisor) = (thousandths(&limit)?, thousandths(if divisor == "0" { "1" } else { divisor })?);
    Ok(limit.div_ceil(divisor).to_string())
}

/// A quantity of Kubernetes in thousandths.
fn thousandths(quantity: &str) -> Result<u128> {
    let split = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, unit) = quantity.split_at(split);
    let factor = match unit {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        _ => bail!("quantity {quantity}"),
    };
    Ok(number.parse::<u128>().with_context(|| format!("quantity {quantity}"))? * factor)
}

/// `$(NAME)` replaced by variables that are there; others stay, and `$$` is a dollar.
fn expanded(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let named = after.strip_prefix('(').and_then(|inside| inside.split_once(')'));
        rest = match named.and_then(|(name, tail)| Some((environment.get(name)?, tail))) {
            Some((value, tail)) => {
                out.push_str(value);
                tail
            }
            None => {
                out.push('$');
                after.strip_prefix('$').unwrap_or(after)
            }
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "wp-0", "namespace": "app", "labels": {"b": "2", "a": "1"}},
            "spec": {"nodeName": "node1", "serviceAccountName": "wp", "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {}}],
                "containers": [{
                "image": "portcullis",
                "args": ["proxy", "--domain", "$(POD_NAMESPACE).svc", "$$(POD_NAMESPACE)", "$(NOBODY)"],
                "env": [
                    {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                    {"name": "INSTANCE_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}}},
                    {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "0"}}},
                    {"name": "TWICE", "value": "$(A)$(A)"},
                ],
                "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "w", "mountPath": "/w"}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 15021}},
                "securityContext": {"runAsUser": 1337, "runAsGroup": 1337, "readOnlyRootFilesystem": true},
            }]},
            "status": {"podIP": "10.244.1.1"},
        })
    }

    #[test]
    fn a_container_is_what_its_pod_says() {
        let container = Container::read(&pod()).unwrap();
        assert_eq!(container.args, ["proxy", "--domain", "app.svc", "$(POD_NAMESPACE)", "$(NOBODY)"]);
        let environment = [
            ("A", "1"),
            ("CPU", "2"),
            ("INSTANCE_IP", "10.244.1.1"),
            ("MEMORY", "1073741824"),
            ("POD_NAMESPACE", "app"),
            ("TWICE", "11"),
        ];
        let found: Vec<_> = container.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, environment);
        assert_eq!((container.user, container.group, container.read_only), (1337, 1337, true));
        let mounts = container.mounts.iter().map(|mount| (mount.path.as_str(), mount.read_only));
        assert_eq!(mounts.collect::<Vec<_>>(), [("/v", false), ("/w", true)]);
        assert_eq!(container.probe, Probe { port: 15021, path: "/ready".into() });
    }

    #[test]
    fn what_a_kubelet_would_do_and_we_do_not_is_refused_by_name() {
        let rows = [
            ("/spec/containers/0/env/0/valueFrom", json!({"secretKeyRef": {}}), "secretKeyRef"),
            (
                "/spec/containers/0/env/0/valueFrom/fieldRef/fieldPath",
                json!("spec.hostname"),
                "spec.hostname",
            ),
            ("/spec/containers/0/resources/limits", json!({}), "limits.cpu"),
            ("/spec/containers/0/securityContext", json!({}), "runAsUser"),
            ("/spec/containers/0/volumeMounts/0", json!({"subPath": "x"}), "subPath"),
            ("/spec/containers/0/volumeMounts/0/name", json!("u"), "no volume is called u"),
            ("/spec/containers", json!([]), "one container"),
        ];
        for (pointer, bent, named) in rows {
            let mut pod = pod();
            *pod.pointer_mut(pointer).unwrap() = bent;
            let error = format!("{:#}", Container::read(&pod).unwrap_err());
            assert!(error.contains(named), "{pointer}: {error}");
        }
    }

    #[test]
    fn labels_become_a_sorted_file() {
        assert_eq!(field(&pod(), "metadata.labels").unwrap(), "a=\"1\"\nb=\"2\"");
    }
}
