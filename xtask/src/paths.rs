//! Where things lie.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The folders that the commands work in.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// The root of the workspace.
    pub root: PathBuf,
    /// The target folder that this program was built into; everything that is built or installed goes below it.
    pub target: PathBuf,
}

impl Paths {
    /// Finds them from where this program was built from and into.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().context("xtask lies in the workspace")?.to_owned();
        let program = std::env::current_exe()?;
        let target = program.ancestors().nth(2).context("a program lies in target/<profile>")?.to_owned();
        Ok(Self { root, target })
    }

    /// What other programs than ours are installed into.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Python environments of the tests; `tests/src/neighbours.rs` looks here.
    pub(crate) fn neighbours(&self) -> PathBuf {
        self.target.join("neighbours")
    }

    /// The programs of a control plane; `tests/src/istio` looks here.
    pub(crate) fn istio(&self) -> PathBuf {
        self.target.join("istio")
    }

    /// The shipped binary as the tests use it.
    pub(crate) fn binary(&self) -> PathBuf {
        self.target.join("release/portcullis")
    }
}
