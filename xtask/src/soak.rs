//! Mixed traffic through the release binary for minutes or hours: memory, descriptors and answers must stay as they are.

use crate::cargo::{self, cargo};
use crate::paths::Paths;
use crate::shell::Shell;
use anyhow::Result;
use std::path::Path;

/// How long the step of `cargo xtask test` lasts, in minutes.
const STEP: u64 = 2;

/// The step. Steps run one after the other, so nothing disturbs its figures.
pub(crate) fn step(paths: &Paths) -> Result<()> {
    run(paths, STEP, &paths.target.join("soak.json"))
}

/// Runs for so many minutes, and writes what was seen to `report`.
pub(crate) fn run(paths: &Paths, minutes: u64, report: &Path) -> Result<()> {
    cargo::build(paths)?;
    let build = ["build", "--release", "--locked", "--package", "portcullis-tests", "--bin", "soak"];
    cargo(paths, &build).run()?;
    let soak = Shell::new(&paths.root, paths.target.join("release/soak"), &["--minutes"]);
    soak.arg(minutes.to_string()).arg("--report").arg(report).run()
}
