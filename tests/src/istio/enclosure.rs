//! The namespaces of a lab: network, processes and mounts. All processes are below one, the lab's own, which is process 1
//! of its namespace: the kernel ends them with it, and their networks and mounts with them, however it ends.

use super::command::{run, run_line};
use super::controlplane::ControlPlane;
use super::network::{self, FOLDER};
use super::state::{HUB, State, VARIABLE};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};

/// New namespaces for what follows. The kernel kills it when `unshare` ends.
const UNSHARE: [&str; 8] =
    ["unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--mount-proc"];

/// How long a command and the control plane may take to stop before they are killed.
const STOP: Duration = Duration::from_secs(10);

/// The names of Istio's services, which a cluster's DNS would know.
const NAMES: &str = "istiod.istio-system.svc istiod.istio-system.svc.cluster.local istiod";

/// Runs `command` in a lab with its files in `folder`, and returns how it ended. `inside` are the arguments that make
/// this program call [`inside`] with that folder and that command.
///
/// SIGINT and SIGTERM end the command, then the lab. Nothing of the lab outlives this process, also when it is killed.
///
/// # Errors
/// When namespaces can't be made here, or the control plane does not start.
pub async fn run_in(inside: Vec<OsString>) -> Result<ExitStatus> {
    possible()?;
    let mut stops = Stops::new()?;
    // If this process is killed, so is unshare (by setpriv), and so is the lab (by unshare).
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(UNSHARE).arg("--kill-child").arg(std::env::current_exe()?);
    let mut lab = command.args(inside).kill_on_drop(true).spawn().context("setpriv of util-linux")?;
    tokio::select! {
        // Both are cancel safe.
        ended = lab.wait() => return Ok(ended?),
        () = stops.come() => {}
    }
    signal_child(&lab, Signal::TERM);
    match tokio::time::timeout(2 * STOP, lab.wait()).await {
        Ok(ended) => Ok(ended?),
        Err(_) => {
            lab.kill().await?;
            bail!("the lab did not stop in {:?} and was killed", 2 * STOP)
        }
    }
}

/// Whether namespaces can be made.
fn possible() -> Result<()> {
    // ip keeps names of network namespaces here; the lab mounts its own folder over it.
    let made = std::fs::create_dir_all(FOLDER).map_err(anyhow::Error::from);
    let tried = made.and_then(|()| run_line(&format!("{} --kill-child true", UNSHARE.join(" "))));
    tried.map(|_| ()).context(
        "the tests against a real istiod need network, process and mount namespaces, which can't be made here: run \
         them as root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN, or leave them out with `--without istio`",
    )
}

/// Signals that end a lab.
struct Stops(Signals, Signals);

impl Stops {
    fn new() -> Result<Self> {
        Ok(Self(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    /// Resolves at the next one. Cancel safe.
    async fn come(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// Sends a signal to what `unshare` has started; itself it holds signals back.
fn signal_child(unshare: &Child, signal: Signal) {
    let Some(id) = unshare.id() else { return };
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    for child in children.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)) {
        // It may have ended in this moment, which is what is wanted.
        let _ = kill_process(child, signal);
    }
}

/// Process 1 of a lab: starts the control plane in `folder`, runs `command`, and returns its exit code. All other
/// processes of the lab end when this one does.
pub async fn inside(folder: &Path, command: &[OsString]) -> Result<i32> {
    let mut stops = Stops::new()?;
    mount_own(folder)?;
    network::make_bridge()?;
    let started = tokio::select! {
        // Dropping a half-started control plane kills its programs.
        started = ControlPlane::start(folder) => Some(started?),
        () = stops.come() => None,
    };
    let Some(controlplane) = started else { return Ok(130) };
    run_command(&controlplane.state, command, &mut stops).await
}

/// Folders that are private to the lab: names of network namespaces, names of hosts.
fn mount_own(folder: &Path) -> Result<()> {
    run_line(&format!("mount -t tmpfs lab {FOLDER}"))?;
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, hosts_file(HUB))?;
    let mut mount = std::process::Command::new("mount");
    run(mount.arg("--bind").arg(hosts).arg("/etc/hosts"), "")?;
    Ok(())
}

/// `/etc/hosts` of everything that finds istiod at `istiod`.
pub(super) fn hosts_file(istiod: std::net::Ipv4Addr) -> String {
    format!("127.0.0.1 localhost\n{istiod} {NAMES}\n")
}

async fn run_command(state: &State, command: &[OsString], stops: &mut Stops) -> Result<i32> {
    let (program, args) = command.split_first().context("no command to run")?;
    let mut paths = vec![state.programs.clone()];
    paths.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let mut running = Command::new(program)
        .args(args)
        .env(VARIABLE, &state.folder)
        .env("KUBECONFIG", &state.kubeconfig)
        .env("PATH", std::env::join_paths(paths)?)
        .spawn()
        .with_context(|| PathBuf::from(program).display().to_string())?;
    tokio::select! {
        // Both are cancel safe.
        ended = running.wait() => return Ok(code(ended?)),
        () = stops.come() => {}
    }
    if let Some(pid) = running.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
        // It may have ended in this moment, which is what is wanted.
        let _ = kill_process(pid, Signal::TERM);
    }
    match tokio::time::timeout(STOP, running.wait()).await {
        Ok(ended) => Ok(code(ended?)),
        Err(_) => Ok(137),
    }
}

/// The exit code as a shell tells it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}
