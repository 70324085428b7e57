//! Everything in one process. The scenario is not here yet.

use std::process::ExitCode;

use crate::cli::DemoArgs;

/// Runs the demo.
///
/// # Errors
/// Always, until the scenario is built.
pub fn command(_args: DemoArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the demo is not built yet")
}
