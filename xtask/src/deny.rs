//! Licences, bans and sources of what we depend on, by cargo-deny and `deny.toml`.

use crate::cargo::cargo;
use crate::paths::Paths;
use crate::shell::Shell;
use crate::steps::Done;
use anyhow::Result;

const VERSION: &str = "0.20.2";

/// Builds the tool, unless it is there in the right version. A debug build: it compiles in half the time.
pub(crate) fn install(paths: &Paths) -> Result<()> {
    let has = deny(paths, &["--version"]);
    if has.read().is_ok_and(|version| version.trim().ends_with(VERSION)) {
        return Ok(());
    }
    let install = ["install", "cargo-deny", "--version", VERSION, "--locked", "--debug", "--quiet", "--root"];
    let install = cargo(paths, &install).arg(paths.tools());
    install.env("CARGO_TARGET_DIR", paths.tools().join("build")).run()
}

/// Everything that needs no network.
pub(crate) fn check(paths: &Paths) -> Result<()> {
    install(paths)?;
    deny(paths, &["--all-features", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]).run()
}

/// Known faults. Their database is fetched; where that fails the step is skipped, and says so.
pub(crate) fn advisories(paths: &Paths) -> Result<Done> {
    install(paths)?;
    if let Err(error) = deny(paths, &["fetch", "db"]).run() {
        return Ok(Done::Skipped(format!("the database of advisories could not be fetched ({error})")));
    }
    deny(paths, &["--all-features", "check", "--disable-fetch", "advisories"]).run()?;
    Ok(Done::Passed)
}

fn deny(paths: &Paths, args: &[&str]) -> Shell {
    Shell::new(&paths.root, paths.tools().join("bin/cargo-deny"), args)
}
