//! Which crate may know which (docs/architecture.md): a purity rule fails a build, not a review.

use crate::cargo::cargo;
use crate::paths::Paths;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;

/// What one of our crates may reach, by normal and build dependencies.
struct Rule {
    krate: &'static str,
    /// Ours, directly or through others.
    ours: &'static [&'static str],
    /// Foreign crates that must not be reachable, other than through `but_through`.
    never: &'static [&'static str],
    /// One of ours that hides what it needs behind its own types.
    but_through: Option<&'static str>,
}

impl Rule {
    const fn new(krate: &'static str, ours: &'static [&'static str], never: &'static [&'static str]) -> Self {
        Self { krate, ours, never, but_through: None }
    }
}

/// Runtimes and transports, which pure crates do without.
const IO: &[&str] = &["tokio", "hyper", "mio", "h2", "async-std", "smol"];
/// Control-plane formats, which the data plane does without.
const CONTROL_PLANE: &[&str] = &["prost", "tonic", "kube", "kube-client", "k8s-openapi"];

/// Crates of tunnels, which know no identity and no control plane.
const NOT_FOR_TUNNELS: &[&str] = &["rustls", "hyper", "prost", "tonic", "kube"];

/// From the bottom up. A crate that is missing here fails the check.
const RULES: &[Rule] = &[
    Rule::new("spiffe-id", &[], IO),
    Rule::new("agent-protocols", &[], IO),
    Rule::new("waypoint-model", &["spiffe-id"], IO),
    Rule::new("waypoint-policy", &["agent-protocols", "spiffe-id", "waypoint-model"], IO),
    Rule::new("hbone", &[], NOT_FOR_TUNNELS),
    Rule::new("certs", &["spiffe-id"], &["kube", "k8s-openapi"]),
    Rule::new("xds-client", &[], &["kube", "k8s-openapi"]),
    Rule::new("istio-protos", &[], IO),
    Rule::new(
        "istio-integration",
        &["certs", "istio-protos", "spiffe-id", "waypoint-model", "xds-client"],
        &[],
    ),
    Rule {
        krate: "waypoint-proxy",
        ours: &["agent-protocols", "certs", "hbone", "spiffe-id", "waypoint-model", "waypoint-policy"],
        never: CONTROL_PLANE,
        // The SPIFFE Workload API is gRPC; nothing of it shows in the types of `certs`.
        but_through: Some("certs"),
    },
    Rule::new("portcullis-tests", &["istio-protos"], &[]),
    Rule::new("portcullis-bench", &["istio-protos", "portcullis-tests"], &[]),
    Rule::new("xtask", &[], IO),
];

/// The binary knows everything below it.
const TOP: &str = "waypoint";

/// Checks every rule, and that every crate of the workspace has one.
pub(crate) fn check(paths: &Paths) -> Result<()> {
    let members = members(paths)?;
    let mut faults = Vec::new();
    for member in members.iter().filter(|member| *member != TOP) {
        match RULES.iter().find(|rule| rule.krate == member) {
            Some(rule) => faults.extend(broken(paths, rule, &members)?),
            None => faults.push(format!("{member} has no rule in xtask/src/arrows.rs")),
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    println!("{} crates know only what they may", members.len());
    Ok(())
}

/// How `rule` is broken, if it is.
fn broken(paths: &Paths, rule: &Rule, members: &BTreeSet<String>) -> Result<Vec<String>> {
    let all = reachable(paths, rule.krate, None)?;
    let open = reachable(paths, rule.krate, rule.but_through)?;
    let ours = all.iter().filter(|name| members.contains(*name) && *name != rule.krate);
    let unknown = ours.filter(|name| !rule.ours.contains(&name.as_str()));
    let forbidden = open.iter().filter(|name| rule.never.contains(&name.as_str()));
    Ok(unknown.chain(forbidden).map(|name| format!("{} must not know {name}", rule.krate)).collect())
}

/// Names of all crates that `krate` reaches by normal and build dependencies, without those below `pruned`.
fn reachable(paths: &Paths, krate: &str, pruned: Option<&str>) -> Result<BTreeSet<String>> {
    let tree = ["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--package", krate];
    let mut tree = cargo(paths, &tree);
    if let Some(pruned) = pruned {
        tree = tree.arg("--prune").arg(pruned);
    }
    Ok(tree.read()?.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// Names of the crates of the workspace.
fn members(paths: &Paths) -> Result<BTreeSet<String>> {
    let metadata = cargo(paths, &["metadata", "--no-deps", "--locked", "--format-version", "1"]).read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages =
        metadata.get("packages").and_then(Value::as_array).context("cargo metadata lists packages")?;
    let name = |package: &Value| package.get("name").and_then(Value::as_str).map(str::to_owned);
    packages.iter().map(|package| name(package).context("a package has a name")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrow_that_points_up_and_a_forbidden_crate_are_found() {
        let paths = Paths::find().unwrap();
        let rule = Rule::new("certs", &[], &["tokio"]);
        let faults = broken(&paths, &rule, &members(&paths).unwrap()).unwrap();
        assert_eq!(faults, ["certs must not know spiffe-id", "certs must not know tokio"]);
    }
}
