//! etcd, kube-apiserver and istiod, started one after the other, each as soon as what it needs is there.

use super::api::{Api, PORT};
use super::daemon::Daemon;
use super::istiod;
use super::state::{HUB, State};
use super::{definitions, pki};
use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::spawn_blocking;

/// Who issues ServiceAccount tokens, and for whom by default.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

const ETCD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);

/// A running control plane; its programs end when it is dropped.
pub(super) struct ControlPlane {
    /// Where everything is, as the commands in the lab read it.
    pub state: State,
    _daemons: [Daemon; 3],
}

impl ControlPlane {
    /// Starts everything in the network namespace of this process, with its files in `folder`.
    pub(super) async fn start(folder: &Path) -> Result<Self> {
        let begun = Instant::now();
        let told = |what: &str| eprintln!("lab: {what} after {:.1} s", begun.elapsed().as_secs_f64());
        let state = prepare(folder)?;
        let definitions = spawn_blocking({
            let folder = state.programs.parent().context("programs lie in a folder")?.join("definitions");
            move || definitions::resources(&folder)
        });
        let chart = spawn_blocking({
            let state = state.clone();
            move || definitions::chart(&state)
        });
        let etcd = start_etcd(&state).await?;
        let apiserver = start_apiserver(&state).await?;
        told("kube-apiserver is ready");
        let api = Api::new(&state)?;
        for object in definitions::base() {
            api.create(&object).await?;
        }
        definitions::create_all(&api, definitions.await??).await?;
        definitions::create_all(&api, chart.await??).await?;
        definitions::established(&api).await?;
        told("istiod's resources are defined");
        let istiod = istiod::start(&state, "istiod", None, &istiod::Settings::default()).await?;
        told("istiod is ready");
        state.write()?;
        Ok(Self { state, _daemons: [etcd, apiserver, istiod] })
    }
}

/// Keys, access and places.
fn prepare(folder: &Path) -> Result<State> {
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let lab = std::env::current_exe()?;
    let authority = pki::write(&folder.join("pki"))?;
    let token = "lab-administrator".to_owned();
    std::fs::write(folder.join("tokens.csv"), format!("{token},admin,admin,\"system:masters\"\n"))?;
    let kubeconfig = folder.join("kubeconfig");
    istiod::write_kubeconfig(&kubeconfig, &folder.join("pki/ca.crt"), &token)?;
    Ok(State { programs: programs(&lab)?, folder, lab, kubeconfig, token, authority })
}

/// `target/istio/bin`, in the target folder that this program was built into.
fn programs(lab: &Path) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PORTCULLIS_ISTIO") {
        return Ok(PathBuf::from(folder).join("bin"));
    }
    let target = lab.ancestors().nth(2).context("a program lies in target/<profile>")?;
    Ok(target.join("istio/bin"))
}

async fn start_etcd(state: &State) -> Result<Daemon> {
    let mut command = Command::new(state.program("etcd")?);
    // What it keeps need not survive: no flush to disk.
    command.arg("--data-dir").arg(state.folder.join("etcd")).args([
        "--unsafe-no-fsync",
        "--log-level",
        "warn",
    ]);
    command.args(["--listen-client-urls", "http://127.0.0.1:2379"]);
    command.args(["--advertise-client-urls", "http://127.0.0.1:2379"]);
    let mut etcd = Daemon::start("etcd", command, &state.folder.join("etcd.log"))?;
    etcd.ready(async || TcpStream::connect(ETCD).await.is_ok()).await?;
    Ok(etcd)
}

async fn start_apiserver(state: &State) -> Result<Daemon> {
    let mut command = Command::new(state.program("kube-apiserver")?);
    let file = |flag: &str, name: &str| format!("--{flag}={}", state.folder.join(name).display());
    command.args([
        format!("--etcd-servers=http://{ETCD}"),
        format!("--bind-address={HUB}"),
        format!("--advertise-address={HUB}"),
        format!("--secure-port={PORT}"),
        format!("--service-account-issuer={ISSUER}"),
        format!("--api-audiences={ISSUER}"),
        file("tls-cert-file", "pki/apiserver.crt"),
        file("tls-private-key-file", "pki/apiserver.key"),
        file("client-ca-file", "pki/ca.crt"),
        file("service-account-signing-key-file", "pki/sa.key"),
        file("service-account-key-file", "pki/sa.pub"),
        file("token-auth-file", "tokens.csv"),
    ]);
    command.args([
        "--authorization-mode=RBAC",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--allow-privileged=true",
        // No controller makes an account `default` in a new namespace, which this plugin would wait for.
        "--disable-admission-plugins=ServiceAccount",
    ]);
    let mut apiserver = Daemon::start("kube-apiserver", command, &state.folder.join("kube-apiserver.log"))?;
    let api = Api::new(state)?;
    let ready = async || {
        let reply = api.send(http::Method::GET, "/readyz", "application/json", None).await;
        reply.is_ok_and(|reply| reply.status.is_success())
    };
    apiserver.ready(ready).await?;
    Ok(apiserver)
}
