//! Istio's own linter reads what we ship.

use anyhow::{Context, Result, ensure};
use portcullis_tests::istio::{Lab, PodSpec};
use std::path::{Path, PathBuf};

/// The Service of the examples, bound to the waypoint of `deploy/istio`.
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: github-mcp, labels: {istio.io/use-waypoint: portcullis}}
spec: {selector: {app: github-mcp}, ports: [{name: mcp, port: 80, targetPort: 8080, appProtocol: http}]}
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The YAML files of a folder, in order.
fn manifests(folder: &Path) -> Result<Vec<String>> {
    let listed = folder.read_dir().with_context(|| folder.display().to_string())?;
    let paths = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_yaml = |path: &&PathBuf| path.extension().is_some_and(|ending| ending == "yaml");
    let mut files: Vec<_> = paths.iter().filter(is_yaml).map(|path| path.display().to_string()).collect();
    files.sort();
    ensure!(!files.is_empty(), "{} holds no manifest", folder.display());
    Ok(files)
}

/// What the linter says of files alone; that it has nothing to say it says on standard error.
async fn said(lab: &Lab, files: &[String]) -> Result<String> {
    let files = files.iter().map(String::as_str);
    let args: Vec<_> = ["analyze", "--all-namespaces", "--use-kube=false"].into_iter().chain(files).collect();
    Ok(lab.istioctl(&args).await?.trim().to_owned())
}

async fn has_nothing_to_say(lab: &Lab, files: &[String]) -> Result<()> {
    let said = said(lab, files).await?;
    ensure!(said.is_empty(), "{files:?}: {said}");
    Ok(())
}

#[tokio::test]
async fn it_has_nothing_to_say_of_what_we_ship() -> Result<()> {
    let lab = Lab::get()?;
    for file in manifests(&root().join("deploy/istio"))? {
        has_nothing_to_say(&lab, &[file]).await?;
    }
    let examples = root().join("examples").read_dir()?;
    let mut folders = examples.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    folders.retain(|path| path.is_dir());
    ensure!(folders.len() >= 4, "{folders:?}");
    for folder in folders {
        has_nothing_to_say(&lab, &manifests(&folder)?).await?;
    }
    Ok(())
}

#[tokio::test]
async fn it_has_nothing_to_say_of_the_chart() -> Result<()> {
    let lab = Lab::get()?;
    let chart = root().join("deploy/helm/portcullis-waypoint").display().to_string();
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    std::fs::write(
        file.path(),
        lab.helm(&["template", "portcullis", &chart, "--namespace", "tools"]).await?,
    )?;
    has_nothing_to_say(&lab, &[file.path().display().to_string()]).await
}

#[tokio::test]
async fn it_does_say_what_is_wrong_in_any_namespace() -> Result<()> {
    let lab = Lab::get()?;
    let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
    let wrong = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: elsewhere}
spec: {hosts: [a.example], gateways: [nobody], http: [{route: [{destination: {host: nowhere.example}}]}]}
";
    std::fs::write(file.path(), wrong)?;
    let said = said(&lab, &[file.path().display().to_string()]).await;
    let said = said.expect_err("a gateway that is not there").to_string();
    assert!(said.contains("Analyzers found issues"), "{said}");
    Ok(())
}

#[tokio::test]
async fn it_has_nothing_to_say_of_a_mesh_with_our_waypoint_in_it() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("analyzed").await?;
    let read = |file: &str| std::fs::read_to_string(root().join(file)).with_context(|| file.to_owned());
    namespace.apply(&read("deploy/istio/waypoint.yaml")?).await?;
    let server = namespace.pod(&PodSpec::new("github-mcp")).await?;
    let _waypoint = namespace.waypoint("portcullis").await?;
    namespace.apply(SERVICE).await?;
    namespace.endpoints("github-mcp", &[&server]).await?;
    let policy = read("examples/basic/policy.yaml")?;
    namespace.apply(&policy.replace("namespace: tools", &format!("namespace: {}", namespace.name))).await?;
    namespace.apply(&read("deploy/istio/only-from-waypoint.yaml")?).await?;
    namespace.wait("service/github-mcp", "condition=istio.io/WaypointBound").await?;
    namespace.wait("gateway/portcullis", "condition=Programmed").await?;
    namespace.wait("authorizationpolicy/github-readers", "condition=WaypointAccepted").await?;
    let said = lab.istioctl(&["analyze", "-n", &namespace.name]).await?;
    assert_eq!(said.trim(), "");
    let status = lab.istioctl(&["waypoint", "status", "--namespace", &namespace.name]).await?;
    let ours = status.lines().find(|line| line.contains("portcullis")).context("a line of ours")?;
    assert!(ours.contains("True") && ours.contains("Programmed"), "{status}");
    Ok(())
}
