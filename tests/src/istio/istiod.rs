//! istiod, outside of a cluster, with an account of its own.

use super::api::{Api, PORT};
use super::daemon::Daemon;
use super::lab::ISTIOD_PORT;
use super::network::PodNetwork;
use super::state::{HUB, State};
use crate::http::{Client, empty};
use anyhow::{Result, ensure};
use http::Request;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Port of plain HTTP, with readiness and debugging.
pub(super) const HTTP_PORT: u16 = 8080;

/// Where istiod reads the CA that an operator gave it, in the folder that it runs in (`ROOT_CA_DIR`).
const AUTHORITY: &str = "etc/cacerts";

/// What a CA of an operator is made of, in PEM: the Secret `cacerts`.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The certificate that signs.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The roots of the mesh.
    pub roots: String,
}

impl Authority {
    /// Writes it as a kubelet writes a Secret that has changed: istiod watches the folder.
    fn write(&self, folder: &Path) -> Result<()> {
        let folder = folder.join(AUTHORITY);
        std::fs::create_dir_all(&folder)?;
        let files = [
            ("ca-key.pem", &self.key),
            ("ca-cert.pem", &self.certificate),
            ("cert-chain.pem", &self.certificate),
            ("root-cert.pem", &self.roots),
        ];
        for (name, text) in files {
            // Renamed into place: istiod may read at any moment.
            std::fs::write(folder.join(".new"), text)?;
            std::fs::rename(folder.join(".new"), folder.join(name))?;
        }
        Ok(())
    }
}

/// What differs from the istiod of the chart.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    environment: Vec<(String, String)>,
    mesh_config: Option<String>,
    authority: Option<Authority>,
}

impl Settings {
    /// One more environment variable (pilot-discovery's own: `DEFAULT_WORKLOAD_CERT_TTL=10s`).
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Signs by this instead of the CA that the lab's istiod made for itself.
    #[must_use]
    pub fn authority(mut self, authority: Authority) -> Self {
        self.authority = Some(authority);
        self
    }

    /// Instead of the mesh's settings (ConfigMap `istio`), this YAML of a `MeshConfig`.
    #[must_use]
    pub fn mesh_config(mut self, yaml: &str) -> Self {
        self.mesh_config = Some(yaml.to_owned());
        self
    }
}

/// An istiod that a test may kill: one of its own beside the lab's, at an address of its own. It serves xDS and signs
/// certificates under the same root; the lab's istiod goes on writing status and deploying waypoints.
#[derive(Debug)]
pub struct Istiod {
    network: PodNetwork,
    settings: Settings,
    state: State,
    name: String,
    daemon: Daemon,
}

impl Istiod {
    /// Starts one and waits until it is ready.
    pub(super) async fn start(state: &State, settings: Settings) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("istiod-{}-{number}", std::process::id());
        let network = PodNetwork::make()?;
        let daemon = start(state, &name, Some(&network), &settings).await?;
        Ok(Self { network, settings, state: state.clone(), name, daemon })
    }

    /// Its address. Ports are the real ones: 15012 (xDS and CA over TLS), 15010, 15014, 8080.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.network.address
    }

    /// Where it serves xDS and certificates.
    #[must_use]
    pub fn secure_address(&self) -> SocketAddr {
        (self.network.address, ISTIOD_PORT).into()
    }

    /// Ends it at once (SIGKILL): all its connections break.
    pub async fn kill(&mut self) -> Result<()> {
        self.daemon.kill().await
    }

    /// Starts it again, at the same address, after [`Self::kill`]; returns when it is ready.
    pub async fn restart(&mut self) -> Result<()> {
        if self.daemon.is_running() {
            self.kill().await?;
        }
        self.daemon = start(&self.state, &self.name, Some(&self.network), &self.settings).await?;
        Ok(())
    }

    /// Changes the CA that it was started with; it reads the files by itself. New roots it takes only with
    /// `ISTIO_MULTIROOT_MESH=true`, and only if they hold all of the old ones, or are among them.
    pub fn set_authority(&self, authority: &Authority) -> Result<()> {
        authority.write(&self.state.folder.join(&self.name))
    }

    /// What it tells on a path of its debug pages, as [`super::Lab::debug`] does of the lab's.
    pub async fn debug(&self, path: &str) -> Result<Value> {
        debug(self.network.connect((Ipv4Addr::LOCALHOST, HTTP_PORT).into()).await?, path).await
    }

    /// All that it has logged, over restarts.
    pub fn log(&self) -> Result<String> {
        self.daemon.log()
    }
}

/// Asks a debug page over a connection from istiod's own loopback: from there it wants no token.
pub(super) async fn debug(tcp: TcpStream, path: &str) -> Result<Value> {
    let request = Request::get(path).header("host", format!("localhost:{HTTP_PORT}"));
    let reply = Client::http1(tcp).await?.send(request.body(empty())?).await?;
    ensure!(reply.status.is_success(), "{path}: {} {}", reply.status, reply.text());
    reply.json()
}

/// Starts an istiod in `network`, or in the hub, and waits until it is ready.
pub(super) async fn start(
    state: &State,
    name: &str,
    network: Option<&PodNetwork>,
    settings: &Settings,
) -> Result<Daemon> {
    let program = state.program("pilot-discovery")?;
    let folder = state.folder.join(name);
    std::fs::create_dir_all(&folder)?;
    if let Some(authority) = &settings.authority {
        authority.write(&folder)?;
    }
    let mut command = match network {
        Some(network) => Command::from(network.command(program)),
        None => Command::new(program),
    };
    command
        .arg("discovery")
        .arg("--kubeconfig")
        .arg(kubeconfig(state).await?)
        .args(["--domain", "cluster.local", "--ctrlz_port", "0", "--keepaliveMaxServerConnectionAge", "30m"])
        .current_dir(&folder)
        .envs(ENVIRONMENT)
        .env("POD_NAME", name)
        .envs(settings.environment.iter().map(|(name, value)| (name, value)));
    if let Some(mesh_config) = &settings.mesh_config {
        let file = folder.join("mesh.yaml");
        std::fs::write(&file, mesh_config)?;
        command.arg("--meshConfig").arg(file);
    }
    let mut daemon = Daemon::start(name, command, &state.folder.join(format!("{name}.log")))?;
    let address = (network.map_or(HUB, |network| network.address), HTTP_PORT).into();
    daemon.ready(async || says_ready(address).await.unwrap_or(false)).await?;
    Ok(daemon)
}

/// As the chart sets it for the ambient profile.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("POD_NAMESPACE", "istio-system"),
    ("SERVICE_ACCOUNT", "istiod"),
    ("REVISION", "default"),
    ("CLUSTER_ID", "Kubernetes"),
    ("PILOT_ENABLE_AMBIENT", "true"),
    ("PILOT_CERT_PROVIDER", "istiod"),
    ("CA_TRUSTED_NODE_ACCOUNTS", "istio-system/ztunnel"),
];

async fn says_ready(address: SocketAddr) -> Result<bool> {
    let client = Client::http1(TcpStream::connect(address).await?).await?;
    let request = Request::get("/ready").header("host", address.to_string()).body(empty())?;
    Ok(client.send(request).await?.status.is_success())
}

/// Access with istiod's own account, so that the chart's rights are what counts.
async fn kubeconfig(state: &State) -> Result<PathBuf> {
    let path = state.folder.join("istiod.kubeconfig");
    if !path.exists() {
        let token = Api::new(state)?.token("istio-system", "istiod", None, None).await?;
        write_kubeconfig(&path, &state.folder.join("pki/ca.crt"), &token)?;
    }
    Ok(path)
}

/// Writes how to reach the lab's API server with `token`.
pub(super) fn write_kubeconfig(path: &Path, authority: &Path, token: &str) -> Result<()> {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": format!("https://{HUB}:{PORT}"), "certificate-authority": authority}}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    std::fs::write(path, config.to_string())?;
    Ok(())
}
