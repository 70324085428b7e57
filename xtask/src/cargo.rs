//! The steps that are one call of cargo. All use the release profile, so that everything is compiled once.

use crate::paths::Paths;
use crate::shell::Shell;
use anyhow::Result;

/// A call of the cargo that runs this program.
pub(crate) fn cargo(paths: &Paths, args: &[&str]) -> Shell {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Shell::new(&paths.root, program, args).env("CARGO_TARGET_DIR", &paths.target)
}

/// Formatting is what rustfmt says.
pub(crate) fn fmt(paths: &Paths) -> Result<()> {
    cargo(paths, &["fmt", "--all", "--check"]).run()
}

/// No lint of the workspace fires. `--all-targets` leaves out tests that `cargo test` does not run by itself.
pub(crate) fn clippy(paths: &Paths) -> Result<()> {
    for what in [&["--workspace", "--all-targets"][..], &["--package", "portcullis-tests", "--test", "istio"]]
    {
        let clippy = what.iter().fold(cargo(paths, &["clippy", "--release", "--locked"]), Shell::arg);
        ["--", "-D", "warnings"].iter().fold(clippy, Shell::arg).run()?;
    }
    Ok(())
}

/// The documentation builds without a warning.
pub(crate) fn doc(paths: &Paths) -> Result<()> {
    let doc = cargo(
        paths,
        &["doc", "--release", "--workspace", "--no-deps", "--document-private-items", "--locked"],
    );
    doc.env("RUSTDOCFLAGS", "-D warnings").run()
}

/// The shipped binary, which the black-box tests start.
pub(crate) fn build(paths: &Paths) -> Result<()> {
    cargo(paths, &["build", "--release", "--locked", "--package", "waypoint"]).run()
}

/// Unit, property and wire tests of all crates.
pub(crate) fn test(paths: &Paths) -> Result<()> {
    cargo(paths, &["test", "--release", "--workspace", "--locked", "--no-fail-fast"]).run()
}
