//! Programs that run as long as a lab or a test, with their output in a file.

use crate::wait;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// What is waited for longer than this is told.
const QUIET: Duration = Duration::from_secs(2);

/// How long a program of a control plane may take until it is ready. Two cores may be shared by many.
const START: Duration = Duration::from_secs(90);

/// Pause between two looks, short beside what a program takes.
const PAUSE: Duration = Duration::from_millis(20);

/// A running program. Killed when dropped.
#[derive(Debug)]
pub(super) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; its output goes to `log`, after what is there.
    pub(super) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file =
            File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let command = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("starting {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Waits until `probe` says yes.
    ///
    /// # Errors
    /// When the program ends or takes too long, with the end of its log.
    pub(super) async fn ready(&mut self, mut probe: impl AsyncFnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        let mut told = false;
        while started.elapsed() < START {
            if probe().await {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it was ready:\n{}", self.name, self.last_lines());
            }
            if !told && started.elapsed() > QUIET {
                eprintln!("lab: waiting for {} …", self.name);
                told = true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        bail!("{} was not ready in {START:?}:\n{}", self.name, self.last_lines())
    }

    /// All that it has printed.
    pub(super) fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// Whether it is running.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it at once (SIGKILL) and waits until it has.
    pub(super) async fn kill(&mut self) -> Result<()> {
        wait::within(&format!("{} to end", self.name), self.child.kill()).await??;
        Ok(())
    }

    fn last_lines(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}
