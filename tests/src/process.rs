//! A neighbour that is a process of its own: its output is kept, and it ends with the test.

use crate::lines::Lines;
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    readers: Vec<JoinHandle<()>>,
    /// What it printed on standard output.
    pub stdout: Lines,
    /// What it printed on standard error.
    pub stderr: Lines,
}

impl Process {
    /// Starts `command` with its output captured and no standard input. `name` labels its lines.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        let mut child = spawn(name, command)?;
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            readers.push(tokio::spawn(stdout.clone().collect(format!("{name} out"), output)));
        }
        if let Some(output) = child.stderr.take() {
            readers.push(tokio::spawn(stderr.clone().collect(format!("{name} err"), output)));
        }
        Ok(Self { name: name.to_owned(), child, readers, stdout, stderr })
    }

    /// The same for one that runs for long and says much: its standard output is read and forgotten, nothing is printed.
    pub fn start_silent(name: &str, command: Command) -> Result<Self> {
        let mut child = spawn(name, command)?;
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let mut readers = Vec::new();
        if let Some(mut output) = child.stdout.take() {
            readers.push(tokio::spawn(async move {
                // What cannot be read has ended.
                let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
            }));
        }
        if let Some(output) = child.stderr.take() {
            readers.push(tokio::spawn(stderr.clone().keep(output)));
        }
        Ok(Self { name: name.to_owned(), child, readers, stdout, stderr })
    }

    /// The same with a standard output that is open and that nobody reads.
    pub fn start_unread(name: &str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        let stderr = Lines::default();
        let output = child.stderr.take().context("standard error is piped")?;
        let readers = vec![tokio::spawn(stderr.clone().collect(format!("{name} err"), output))];
        Ok(Self { name: name.to_owned(), child, readers, stdout: Lines::default(), stderr })
    }

    /// Sends a signal by its name (`TERM`, `INT`, `HUP`).
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().await?;
        ensure!(sent.success(), "kill -{signal} {pid} failed");
        Ok(())
    }

    /// Waits for the process to end by itself, and for the last of its output.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.ended_within(wait::DEADLINE).await
    }

    /// The same for a program that takes its time.
    pub async fn ended_within(&mut self, time: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let status = wait::within_time(time, &what, self.child.wait()).await??;
        for reader in self.readers.drain(..) {
            reader.await?;
        }
        Ok(status)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        self.ended().await
    }

    /// Memory that it holds now (`VmRSS` of `/proc`), in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let pid = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Files, sockets and pipes that it has open now.
    pub fn descriptors(&self) -> Result<usize> {
        let pid = self.child.id().with_context(|| format!("{} has ended", self.name))?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    /// Fails when the process has ended already, with how.
    pub fn assert_running(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{} ended early: {ended:?}; {:?}", self.name, self.stderr.all());
        Ok(())
    }
}

fn spawn(name: &str, mut command: Command) -> Result<Child> {
    let command =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().with_context(|| format!("starting {name}: {command:?}"))
}

/// Runs a program to its end and returns what it printed on standard output.
///
/// # Errors
/// When it can't be started, takes too long or ends with another status than 0; its output is in the error.
pub async fn run(program: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Vec<String>> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut command = Command::new(program);
    command.args(args);
    let mut process = Process::start(&name, command)?;
    let status = process.ended_within(wait::PATIENCE).await?;
    ensure!(status.success(), "{name} ended with {status}: {:?}", process.stderr.all());
    Ok(process.stdout.all())
}
