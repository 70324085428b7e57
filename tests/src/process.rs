//! A neighbour that is a process of its own: its output is kept, and it ends with the test.

use crate::lines::Lines;
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::io::PipeReader;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A running process. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    /// `None` once it was given away.
    child: Option<Child>,
    /// Threads and no tasks: they read on when the test's runtime is gone, so that the process never finds its output closed.
    readers: Vec<JoinHandle<()>>,
    /// A standard output that is held open.
    _unread: Option<PipeReader>,
    /// What it printed on standard output.
    pub stdout: Lines,
    /// What it printed on standard error.
    pub stderr: Lines,
}

impl Process {
    /// Starts `command` with its output captured and no standard input. `name` labels its lines.
    pub fn start(name: &str, command: Command) -> Result<Self> {
        let (child, [out, err]) = spawn(name, command)?;
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers =
            vec![read(&stdout, format!("{name} out"), out), read(&stderr, format!("{name} err"), err)];
        Ok(Self { name: name.to_owned(), child: Some(child), readers, _unread: None, stdout, stderr })
    }

    /// Its number.
    pub fn id(&self) -> Result<u32> {
        self.child.as_ref().and_then(Child::id).with_context(|| format!("{} has ended", self.name))
    }

    /// Gives the process itself away if it runs still; its output is read on.
    pub(crate) fn take(&mut self) -> Option<Child> {
        self.child.take().filter(|child| child.id().is_some())
    }

    /// The same for one that runs for long and says much: its standard output is read and forgotten, nothing is printed.
    pub fn start_silent(name: &str, command: Command) -> Result<Self> {
        let (child, [mut out, err]) = spawn(name, command)?;
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let kept = stderr.clone();
        // What cannot be read has ended.
        let forgotten = std::thread::spawn(move || drop(std::io::copy(&mut out, &mut std::io::sink())));
        let readers = vec![forgotten, std::thread::spawn(move || kept.keep(err))];
        Ok(Self { name: name.to_owned(), child: Some(child), readers, _unread: None, stdout, stderr })
    }

    /// The same with a standard output that is open and that nobody reads.
    pub fn start_unread(name: &str, command: Command) -> Result<Self> {
        let (child, [out, err]) = spawn(name, command)?;
        let stderr = Lines::default();
        let readers = vec![read(&stderr, format!("{name} err"), err)];
        let (name, stdout) = (name.to_owned(), Lines::default());
        Ok(Self { name, child: Some(child), readers, _unread: Some(out), stdout, stderr })
    }

    /// Sends a signal by its name (`TERM`, `INT`, `HUP`).
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.id()?;
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
        let child = self.child.as_mut().context("it was given away")?;
        let status = wait::within_time(time, &what, child.wait()).await??;
        let readers = &self.readers;
        wait::until("the end of its output", || readers.iter().all(JoinHandle::is_finished).then_some(()))
            .await?;
        Ok(status)
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        self.ended().await
    }

    /// Memory that it holds now (`VmRSS` of `/proc`), in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most memory that it has held at once (`VmHWM` of `/proc`), in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> Result<u64> {
        let pid = self.id()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix(what)).with_context(|| what.to_owned())?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// CPU that it has used (`utime` and `stime` of `/proc`, in ticks of 10 ms).
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()?))?;
        let (_, fields) = stat.rsplit_once(") ").context("stat")?;
        let ticks = |at: usize| fields.split(' ').nth(at).and_then(|ticks| ticks.parse::<u64>().ok());
        let used = ticks(11).zip(ticks(12)).map(|(user, system)| user + system).context("times")?;
        Ok(Duration::from_millis(used * 10))
    }

    /// Files, sockets and pipes that it has open now.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.id()?))?.count())
    }

    /// Fails when the process has ended already, with how.
    pub fn assert_running(&mut self) -> Result<()> {
        let ended = self.child.as_mut().context("it was given away")?.try_wait()?;
        ensure!(ended.is_none(), "{} ended early: {ended:?}; {:?}", self.name, self.stderr.all());
        Ok(())
    }
}

/// The process, and where its two outputs are read.
fn spawn(name: &str, mut command: Command) -> Result<(Child, [PipeReader; 2])> {
    let (out, to_out) = std::io::pipe()?;
    let (err, to_err) = std::io::pipe()?;
    // The command holds our copies of what the process writes to, and goes with this function: readers wait for the last one.
    let command = command.stdin(Stdio::null()).stdout(to_out).stderr(to_err).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("starting {name}: {command:?}"))?;
    Ok((child, [out, err]))
}

fn read(lines: &Lines, label: String, output: PipeReader) -> JoinHandle<()> {
    let lines = lines.clone();
    std::thread::spawn(move || lines.collect(&label, output))
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
