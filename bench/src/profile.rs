//! One more round of ours with a sampling profiler at its process.

use crate::cases::{Case, PORTCULLIS};
use crate::run::{self, Effort};
use crate::world::World;
use anyhow::{Context as _, Result, ensure};
use portcullis_tests::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Samples a second: often enough for a round of seconds, and no divisor of anything that ticks.
const FREQUENCY: &str = "1999";

/// Carries `case` through ours once more under `perf record`, into `<folder>/<case>.perf`.
///
/// # Errors
/// When perf is not there or may not look (`kernel.perf_event_paranoid`).
pub(crate) async fn case(world: &World, case: &Case, effort: Effort, folder: &Path) -> Result<()> {
    let ours = case.contestants.iter().find(|contestant| contestant.name == PORTCULLIS);
    let ours = ours.with_context(|| format!("{} has no waypoint of ours", case.name))?;
    let running = run::start(world, ours, case).await?;
    let pid = running.pid().context("a waypoint is a process")?;
    std::fs::create_dir_all(folder)?;
    let file = folder.join(format!("{}.perf", case.name));
    let mut perf = record(pid, &file)?;
    case.load.carry(&running, effort.of(&case.load)).await?;
    let recorder = Pid::from_raw(i32::try_from(perf.id())?).context("perf has ended")?;
    kill_process(recorder, Signal::INT)?;
    let ended = wait::until_async("perf has written", async || Ok(perf.try_wait()?)).await?;
    ensure!(file.exists(), "perf record wrote nothing and ended with {ended}");
    println!("\nprofile: perf report --no-children -i {}", file.display());
    Ok(())
}

fn record(pid: u32, file: &Path) -> Result<Child> {
    let mut command = Command::new("perf");
    command.args(["record", "--quiet", "--freq", FREQUENCY, "--call-graph", "fp", "--pid", &pid.to_string()]);
    let recording = command.arg("--output").arg(file).stdin(Stdio::null()).spawn();
    recording.context("perf is missing: Debian's package linux-perf has it")
}
