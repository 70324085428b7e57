//! The manifests of a test mesh, as a user would `kubectl apply` them.

use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder of manifests that a running waypoint may be watching. Gone when dropped.
#[derive(Debug)]
pub struct Manifests {
    folder: TempDir,
}

impl Manifests {
    /// An empty folder.
    pub fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::Builder::new().prefix("portcullis-manifests").tempdir()? })
    }

    /// The folder, for `--manifests`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes or replaces `<name>.yaml` in one step, so that a watcher never reads half of it.
    pub fn write(&self, name: &str, documents: &[String]) -> Result<()> {
        let path = self.path(name);
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, documents.join("---\n")).with_context(|| fresh.display().to_string())?;
        std::fs::rename(&fresh, &path).with_context(|| path.display().to_string())
    }

    /// Removes `<name>.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    /// Removes `<name>.yaml`, and returns what was in it.
    pub fn take(&self, name: &str) -> Result<String> {
        let path = self.path(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        self.remove(name)?;
        Ok(text)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.yaml"))
    }
}

/// A port of a Service.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its name; Istio reads a protocol from its first part.
    pub name: String,
    /// The service port, which stands in the authority.
    pub port: u16,
    /// Where the pods listen.
    pub target_port: u16,
    /// `appProtocol`, when declared.
    pub app_protocol: Option<String>,
}

impl Port {
    /// A port named `name` whose pods listen on the same number.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Self {
        Self { name: name.to_owned(), port, target_port: port, app_protocol: None }
    }

    /// The same with a declared protocol (`http`, `http2`, `grpc`, `tcp`, `kubernetes.io/h2c` …).
    #[must_use]
    pub fn speaking(mut self, app_protocol: &str) -> Self {
        self.app_protocol = Some(app_protocol.to_owned());
        self
    }
}

/// A waypoint's Gateway.
#[must_use]
pub fn gateway(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    istio.io/waypoint-for: service
spec:
  gatewayClassName: istio-waypoint
  listeners:
  - name: mesh
    port: 15008
    protocol: HBONE
"
    )
}

/// A Service that the waypoint named `waypoint` of its namespace fronts, and that selects pods by `app: <name>`.
#[must_use]
pub fn service(namespace: &str, name: &str, vip: Ipv4Addr, ports: &[Port]) -> String {
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    istio.io/use-waypoint: waypoint
spec:
  clusterIP: {vip}
  clusterIPs: [{vip}]
  selector:
    app: {name}
  ports:
"
    );
    for Port { name, port, target_port, app_protocol } in ports {
        let _ = writeln!(text, "  - name: {name}\n    port: {port}\n    targetPort: {target_port}");
        if let Some(app_protocol) = app_protocol {
            let _ = writeln!(text, "    appProtocol: {app_protocol}");
        }
    }
    text
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its label `app`, by which Services select it.
    pub app: &'a str,
    /// Its ServiceAccount, which its SPIFFE id names.
    pub service_account: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether a ztunnel stands before it, so that it is reached by HBONE.
    pub in_mesh: bool,
}

impl Pod<'_> {
    /// The manifest, with its status as the cluster would show it: running and ready.
    #[must_use]
    pub fn manifest(&self) -> String {
        let Self { namespace, name, app, service_account, address, in_mesh } = self;
        let captured = if *in_mesh { "\n    ambient.istio.io/redirection: enabled" } else { " {}" };
        format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    app: {app}
  annotations:{captured}
spec:
  serviceAccountName: {service_account}
  containers:
  - name: app
    image: app
status:
  phase: Running
  podIP: {address}
  podIPs:
  - ip: {address}
  conditions:
  - type: Ready
    status: \"True\"
"
        )
    }
}

/// An AuthorizationPolicy on the Service `service`. `rules` is the YAML list under `rules:`, starting at column 0;
/// empty for a policy without rules.
#[must_use]
pub fn policy(namespace: &str, name: &str, service: &str, action: &str, rules: &str) -> String {
    let mut text = format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: {name}
  namespace: {namespace}
spec:
  targetRefs:
  - group: \"\"
    kind: Service
    name: {service}
  action: {action}
"
    );
    if !rules.trim().is_empty() {
        text.push_str("  rules:\n");
    }
    for line in rules.lines().filter(|line| !line.trim().is_empty()) {
        let _ = writeln!(text, "  {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_indented_under_their_key() {
        let text = policy("tools", "p", "s", "ALLOW", "- to:\n  - operation: {paths: [/mcp]}\n");
        assert!(text.ends_with("  rules:\n  - to:\n    - operation: {paths: [/mcp]}\n"), "{text}");
        assert!(!policy("tools", "p", "s", "ALLOW", "").contains("rules:"));
    }

    #[test]
    fn a_replaced_file_is_the_only_one_in_the_folder() {
        let manifests = Manifests::new().unwrap();
        manifests.write("a", &["one\n".into()]).unwrap();
        manifests.write("a", &["two\n".into(), "three\n".into()]).unwrap();
        let files: Vec<_> = std::fs::read_dir(manifests.folder()).unwrap().collect();
        assert_eq!(files.len(), 1);
        let text = std::fs::read_to_string(manifests.folder().join("a.yaml")).unwrap();
        assert_eq!(text, "two\n---\nthree\n");
    }
}
