//! What the API server is told before istiod starts: resource definitions, istiod's rights, its settings.

use super::api::Api;
use super::state::State;
use super::{command, objects};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::task::JoinSet;

/// Kinds of the chart that are needed where nothing runs in a cluster: rights, mesh settings, injection templates.
const KINDS: [&str; 5] = ["ConfigMap", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

/// How the chart is rendered. Images are never pulled.
const CHART: [&str; 8] = [
    "--set",
    "profile=ambient",
    "--set",
    "hub=none",
    "--set",
    "tag=none",
    "--set",
    "meshConfig.accessLogFile=/dev/stdout",
];

/// What istiod's chart makes of [`KINDS`]. Blocks for about a second; rendered once for a set of programs.
pub(super) fn chart(state: &State) -> Result<Vec<Value>> {
    let istioctl = state.program("istioctl")?;
    let rendered = command::run(Command::new(istioctl).args(["manifest", "generate"]).args(CHART), "")?;
    let wanted = |object: &Value| objects::text(object, "/kind").is_ok_and(|kind| KINDS.contains(&kind));
    Ok(objects::documents(&rendered)?.into_iter().filter(wanted).collect())
}

/// Definitions of the custom resources that istiod watches: files beside the programs.
pub(super) fn resources(folder: &Path) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("{}: run `cargo xtask setup`", folder.display()))?
    {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        objects.extend(objects::documents(&text).with_context(|| path.display().to_string())?);
    }
    Ok(objects)
}

/// The node that all pods are on, Istio's namespace, and the accounts of its programs.
pub(super) fn base() -> [Value; 5] {
    let account = |name: &str| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "istio-system"}});
    let places = json!({"topology.kubernetes.io/region": "r1", "topology.kubernetes.io/zone": "z1", "kubernetes.io/hostname": "node1"});
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1", "labels": places}}),
        // Whose token istioctl shows to istiod; in a cluster a controller makes it.
        account("default"),
        account("istiod"),
        account("ztunnel"),
    ]
}

/// Creates objects that do not depend on each other.
pub(super) async fn create_all(api: &Api, objects: Vec<Value>) -> Result<()> {
    let mut calls = JoinSet::new();
    for object in objects {
        let api = api.clone();
        calls.spawn(async move { api.create(&object).await });
    }
    while let Some(done) = calls.join_next().await {
        done??;
    }
    Ok(())
}

/// Waits until all definitions are served.
pub(super) async fn established(api: &Api) -> Result<()> {
    const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let holds = |definition: &Value| {
        objects::list(definition, "/status/conditions").iter().any(|condition| {
            objects::at(condition, "/type") == "Established" && objects::at(condition, "/status") == "True"
        })
    };
    loop {
        let all = api.get(PATH).await?;
        if objects::list(&all, "/items").iter().all(holds) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
