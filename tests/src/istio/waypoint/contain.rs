//! The last steps of a container runtime, in a process that becomes the container's: mounts, root, user, program.

use crate::istio::command::run;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Devices that every container has.
pub(super) const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];

/// Rights that are needed until the program runs, and gone then: it has none (`drop: [ALL]`).
const RIGHTS: &str = "-all,+sys_chroot,+setuid,+setgid";

/// How a container is to be started. A file of it is what `lab contain` reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The root folder.
    pub root: PathBuf,
    /// Whether it can't be written to.
    pub read_only: bool,
    /// Folders that appear in it: from, to, whether they can't be written to.
    pub mounts: Vec<(PathBuf, String, bool)>,
    /// User and group.
    pub user: (u32, u32),
    /// Program and arguments.
    pub words: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
}

/// Becomes the program of the plan in `file`, in the mount namespace of this process, which has to be its own.
///
/// # Errors
/// Returns only when that fails.
pub fn contain(file: &Path) -> Result<std::convert::Infallible> {
    let plan: Plan = serde_json::from_slice(&std::fs::read(file)?)?;
    plan.mount_all()?;
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--bounding-set", RIGHTS, "--inh-caps", "-all"]);
    let (user, group) = plan.user;
    command
        .args(["chroot", &format!("--userspec={user}:{group}"), &format!("--groups={group}")])
        .arg(&plan.root);
    // chroot and setpriv are found by the PATH of this process; the program gets its own environment only.
    let error = command.args(&plan.words).env_clear().envs(&plan.environment).exec();
    Err(error).context("setpriv of util-linux")
}

impl Plan {
    fn mount_all(&self) -> Result<()> {
        bind(&self.root, &self.root, false)?;
        for (from, to, read_only) in &self.mounts {
            bind(from, &self.below(to), *read_only)?;
        }
        for device in DEVICES {
            bind(Path::new(device), &self.below(device), false)?;
        }
        let mut proc = Command::new("mount");
        run(proc.args(["-t", "proc", "-o", "nosuid,nodev,noexec", "proc"]).arg(self.below("/proc")), "")?;
        if self.read_only {
            remount_read_only(&self.root)?;
        }
        Ok(())
    }

    fn below(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

fn bind(from: &Path, to: &Path, read_only: bool) -> Result<()> {
    run(Command::new("mount").arg("--bind").arg(from).arg(to), "")?;
    if read_only {
        remount_read_only(to)?;
    }
    Ok(())
}

fn remount_read_only(path: &Path) -> Result<()> {
    run(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(path), "")?;
    Ok(())
}
