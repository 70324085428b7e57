//! The machine: which core does what, and what a process has used of it.

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;

/// The two cores of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    /// Where the measured process runs, alone.
    pub proxy: usize,
    /// Where the load and the backend run.
    pub load: usize,
}

impl Cores {
    /// Binds this process, and every thread that it starts from now on, to the core of the load, and lets it have as many open
    /// files as the system allows. Processes that it starts inherit both, until `taskset` says otherwise.
    ///
    /// # Errors
    /// When there is no such core.
    pub(crate) fn take(self) -> Result<()> {
        let mut set = CpuSet::new();
        set.set(self.load);
        sched_setaffinity(None, &set).with_context(|| format!("this machine has no core {}", self.load))?;
        let mut files = getrlimit(Resource::Nofile);
        files.current = files.maximum;
        Ok(setrlimit(Resource::Nofile, files)?)
    }
}

/// The priority of this session's processes is raised while this value lives.
#[derive(Debug)]
pub(crate) struct First(String);

/// Where Linux keeps the priority of a session, which counts before that of a process (`sched(7)`, autogroups).
const SESSION: &str = "/proc/self/autogroup";

impl First {
    /// Lets this process and those it will start come before others, so that builds beside a run disturb it less.
    ///
    /// # Errors
    /// When that is not allowed.
    pub(crate) fn come() -> Result<Self> {
        rustix::process::nice(-20).context("only root may come first")?;
        let session = fs::read_to_string(SESSION).unwrap_or_default();
        let before = session.rsplit("nice ").next().unwrap_or("0").trim().to_owned();
        if !session.is_empty() {
            fs::write(SESSION, "-20").context(SESSION)?;
        }
        Ok(Self(before))
    }
}

impl Drop for First {
    fn drop(&mut self) {
        // A session that is gone has no priority to give back.
        let _ = fs::write(SESSION, &self.0);
    }
}

/// Seconds of CPU that a process has used so far, in user and kernel mode (fields 14 and 15 of `/proc/PID/stat`).
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The second field is a name in parentheses, which may hold spaces.
    let (_, fields) = stat.rsplit_once(')').with_context(|| path.clone())?;
    let used = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let used = used.sum::<Result<u64, _>>().with_context(|| path.clone())?;
    Ok(seconds(used))
}

/// Seconds that all cores together have worked, for whomever.
pub(crate) fn busy_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq; guest time is part of user time.
    let idle = [3, 4];
    let worked =
        ticks.iter().enumerate().take(7).filter(|(at, _)| !idle.contains(at)).map(|(_, ticks)| ticks);
    Ok(seconds(worked.sum()))
}

/// Memory that a process holds now (`VmRSS`), in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

/// The model of the processor, and how many cores there are.
pub(crate) fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.split('-').next().unwrap_or_default().trim();
    format!("{model}, {cores} cores, Linux {release}")
}

#[expect(clippy::cast_precision_loss, reason = "ticks of a process are far below 2^52")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_some_of_what_the_machine_worked() {
        let own = cpu_seconds(std::process::id()).unwrap();
        assert!(own >= 0.0 && own < busy_seconds().unwrap());
        assert!(resident_bytes(std::process::id()).unwrap() > 1024.0 * 1024.0);
    }
}
