//! What a running lab tells the commands in it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Names the folder of the lab that a command runs in.
pub(super) const VARIABLE: &str = "PORTCULLIS_LAB";

/// The address of everything that runs in the hub namespace: API server, istiod, node.
pub(super) const HUB: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 244, 0, 1);

/// Where things of a lab are. Written as `lab.json` in its folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The lab's folder: logs, keys, roots of pods.
    pub folder: PathBuf,
    /// Programs that were built from Go modules.
    pub programs: PathBuf,
    /// This crate's own program, which starts containers.
    pub lab: PathBuf,
    /// Administrator's access for kubectl.
    pub kubeconfig: PathBuf,
    /// The same as a bearer token.
    pub token: String,
    /// The CA of the API server, in PEM.
    pub authority: String,
}

impl State {
    /// Reads what the lab around this process wrote.
    ///
    /// # Errors
    /// Outside of a lab, with how to get into one.
    pub fn read() -> Result<Self> {
        let folder = std::env::var_os(VARIABLE).context(
            "these tests need a lab around them: run `cargo xtask test --only istio`, or `lab run -- COMMAND` \
             (see tests/istio/README.md)",
        )?;
        let path = Path::new(&folder).join("lab.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Writes it for the commands in the lab.
    pub(super) fn write(&self) -> Result<()> {
        std::fs::write(self.folder.join("lab.json"), serde_json::to_string_pretty(self)?)?;
        Ok(())
    }

    /// The path of a built program.
    ///
    /// # Errors
    /// When it was not built, with how to build it.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.programs.join(name);
        anyhow::ensure!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
        Ok(path)
    }
}
