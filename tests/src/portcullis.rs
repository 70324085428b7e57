//! The shipped binary, started as an operator would start it.

use crate::ca::SvidFiles;
use crate::http::Client;
use crate::lines::Lines;
use crate::process::Process;
use crate::{rest, wait};
use anyhow::{Context, Result, ensure};
use http::{Method, Request};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::Command;

/// The binary under test: `PORTCULLIS_BIN`, else the one that was built into the same target folder as this test or program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PORTCULLIS_BIN") {
        return Ok(path.into());
    }
    let this = std::env::current_exe()?;
    let folder = this.parent().context("a program lies in a folder")?;
    let profile = folder.parent().filter(|_| folder.ends_with("deps")).unwrap_or(folder);
    let binary = profile.join("portcullis");
    ensure!(binary.exists(), "{} is missing: build it with `cargo build -p waypoint`", binary.display());
    Ok(binary)
}

/// How to start `portcullis run`.
#[derive(Clone, Debug)]
pub struct Run {
    args: Vec<OsString>,
    /// A program that starts the binary, with its arguments.
    under: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Run {
    /// Serves the manifests in `manifests` with the identity in `svid`; every listener gets a free loopback port.
    #[must_use]
    pub fn new(manifests: &Path, svid: &SvidFiles) -> Self {
        let run = Self::nameless(manifests);
        let run = run.arg("--cert-chain", &svid.cert_chain).arg("--key", &svid.key);
        run.arg("--trust-bundle", &svid.trust_bundle)
    }

    /// The same without a flag that says where the identity comes from.
    #[must_use]
    pub fn nameless(manifests: &Path) -> Self {
        let run = Self { args: vec!["run".into()], under: Vec::new(), environment: Vec::new() };
        let run = run.arg("--manifests", manifests);
        let listeners = ["--hbone-address", "--admin-address", "--metrics-address", "--ready-address"];
        listeners.into_iter().fold(run, |run, flag| run.arg(flag, "127.0.0.1:0"))
    }

    /// One more flag with its value.
    #[must_use]
    pub fn arg(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        self.args.extend([flag.into(), value.as_ref().to_owned()]);
        self
    }

    /// Another value for a flag that was given before.
    #[must_use]
    pub fn instead(mut self, flag: &str, value: impl AsRef<OsStr>) -> Self {
        let after = self.args.iter().position(|arg| arg == flag).and_then(|at| self.args.get_mut(at + 1));
        after.into_iter().for_each(|old| *old = value.as_ref().to_owned());
        self
    }

    /// Started by another program, which becomes the binary: `prlimit --nofile=64`.
    #[must_use]
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(Into::into).collect();
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.into(), value.as_ref().to_owned()));
        self
    }

    fn command(&self) -> Result<Command> {
        let words: Vec<OsString> = self.under.iter().cloned().chain([binary()?.into()]).collect();
        let (program, before) = words.split_first().context("a program")?;
        let mut command = Command::new(program);
        command.args(before).args(&self.args).envs(self.environment.iter().cloned());
        Ok(command)
    }

    /// One more flag without a value.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.into());
        self
    }
}

/// A running waypoint.
#[derive(Debug)]
pub struct Portcullis {
    process: Process,
    listeners: BTreeMap<String, SocketAddr>,
}

impl Portcullis {
    /// Starts the binary and waits until it says that it is ready.
    pub async fn start(run: &Run) -> Result<Self> {
        let mut this = Self::start_unready(run)?;
        this.ready().await?;
        Ok(this)
    }

    /// Starts the binary without waiting, for tests of starts that must fail or take their time.
    pub fn start_unready(run: &Run) -> Result<Self> {
        let process = Process::start("portcullis", run.command()?)?;
        Ok(Self { process, listeners: BTreeMap::new() })
    }

    /// Starts the binary and waits until it is ready; its access log is read and forgotten, and nothing is printed.
    pub async fn start_silent(run: &Run) -> Result<Self> {
        let process = Process::start_silent("portcullis", run.command()?)?;
        let mut this = Self { process, listeners: BTreeMap::new() };
        this.ready().await?;
        Ok(this)
    }

    /// Starts the binary with an access log that nobody reads, and waits until it is ready.
    pub async fn start_unread(run: &Run) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(&run.args);
        let process = Process::start_unread("portcullis", command)?;
        let mut this = Self { process, listeners: BTreeMap::new() };
        this.ready().await?;
        Ok(this)
    }

    /// Waits for the event `ready`, and learns the bound addresses from the events before it.
    pub async fn ready(&mut self) -> Result<()> {
        self.told("ready", |line| line.get("event") == Some(&"ready".into())).await?;
        self.learn_addresses()
    }

    /// Waits until all listeners are bound, which may be before it is ready, and learns their addresses.
    pub async fn bound(&mut self) -> Result<()> {
        // The readiness port is bound last.
        self.told("bound", |line| line.get("what") == Some(&"ready".into())).await?;
        self.learn_addresses()
    }

    async fn told(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let process = &mut self.process;
        wait::until_async(&format!("portcullis is {what}"), async || {
            process.assert_running()?;
            Ok(process.stderr.json().iter().any(&wanted).then_some(()))
        })
        .await
    }

    fn learn_addresses(&mut self) -> Result<()> {
        let events = self.process.stderr.json();
        for line in events.iter().filter(|line| line.get("event") == Some(&"listening".into())) {
            let text = |key: &str| line.get(key).and_then(Value::as_str).with_context(|| line.to_string());
            self.listeners.insert(text("what")?.to_owned(), text("address")?.parse()?);
        }
        Ok(())
    }

    /// Where `what` listens: `hbone`, `proxy_protocol`, `admin`, `metrics` or `ready`.
    pub fn address(&self, what: &str) -> Result<SocketAddr> {
        self.listeners.get(what).copied().with_context(|| format!("no listener {what}: {:?}", self.listeners))
    }

    /// The access log: one JSON line per request and per opaque stream.
    #[must_use]
    pub fn access_log(&self) -> &Lines {
        &self.process.stdout
    }

    /// Events and messages on standard error.
    #[must_use]
    pub fn events(&self) -> &Lines {
        &self.process.stderr
    }

    /// Waits for the access-log line that `wanted` accepts.
    pub async fn logged(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.access_log().find_json(what, wanted).await
    }

    /// Asks an address of the binary over plain HTTP, and returns status and body.
    pub async fn ask(&self, what: &str, method: Method, path: &str) -> Result<(u16, String)> {
        let address = self.address(what)?;
        let client = Client::http1(TcpStream::connect(address).await?).await?;
        let request = Request::builder().method(method).uri(path).header("host", address.to_string());
        let reply = client.send(request.body(crate::http::empty())?).await?;
        Ok((reply.status.as_u16(), reply.text()))
    }

    /// The metrics as they are now.
    pub async fn metrics(&self) -> Result<Metrics> {
        let (status, text) = self.ask("metrics", Method::GET, "/stats/prometheus").await?;
        ensure!(status == 200, "metrics answered {status}: {text}");
        Ok(Metrics(text))
    }

    /// Waits until the sum of the series of `name` with these labels is at least `least`.
    pub async fn metric_reaches(&self, name: &str, labels: &[(&str, &str)], least: f64) -> Result<f64> {
        let what = format!("{name}{labels:?} reached {least}");
        wait::until_async(&what, async || {
            Ok(Some(self.metrics().await?.sum(name, labels)).filter(|sum| *sum >= least))
        })
        .await
    }

    /// The generation of configuration that is now in force.
    pub async fn generation(&self) -> Result<f64> {
        Ok(self.metrics().await?.sum("portcullis_config_generation", &[]))
    }

    /// Waits until a newer configuration than `generation` is in force.
    pub async fn newer_than(&self, generation: f64) -> Result<f64> {
        self.metric_reaches("portcullis_config_generation", &[], generation + 1.0).await
    }

    /// Memory that it holds now, in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        self.process.resident_bytes()
    }

    /// Files, sockets and pipes that it has open now.
    pub fn descriptors(&self) -> Result<usize> {
        self.process.descriptors()
    }

    /// The most memory that it has held at once, in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        self.process.peak_bytes()
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        self.process.signal(signal).await
    }

    /// Waits for the process to end.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        self.process.ended().await
    }

    /// CPU that it has used (`utime` and `stime` of `/proc`).
    pub fn cpu_time(&self) -> Result<Duration> {
        self.process.cpu_time()
    }

    /// Its process number, to look into `/proc`.
    pub fn id(&self) -> Result<u32> {
        self.process.id()
    }

    /// SIGTERM, then waits for the end of the drain.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.process.stop().await
    }
}

/// What runs on is watched until it is at rest; see `rest.rs`.
impl Drop for Portcullis {
    fn drop(&mut self) {
        if let (Some(child), Some(metrics)) = (self.process.take(), self.listeners.get("metrics")) {
            rest::watch(child, *metrics, &self.process.stderr);
        }
    }
}

/// A scrape in the Prometheus text format.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of all series called `name` that carry these labels; zero when there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |held: &str| labels.iter().all(|(key, value)| has_label(held, key, value));
        self.series(name).filter(|(held, _)| fits(held)).map(|(_, value)| value).sum()
    }

    /// The series called `name`: their labels as written, and their values.
    pub fn series(&self, name: &str) -> impl Iterator<Item = (&str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, held) = series.split_once('{').unwrap_or((series, ""));
            (found == name).then(|| Some((held, value.parse::<f64>().ok()?))).flatten()
        })
    }
}

/// Whether these labels of a series have that one. Label values of the tests hold no comma and no quote, so plain text is enough.
#[must_use]
pub fn has_label(held: &str, key: &str, value: &str) -> bool {
    let wanted = format!("{key}=\"{value}\"");
    held.trim_end_matches('}').split(',').any(|label| label == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let scrape =
            Metrics("# HELP a x\na{b=\"1\",c=\"2\"} 3\na{b=\"1\",c=\"3\"} 4\na_total 9\nd 5\n".into());
        assert!((scrape.sum("a", &[("b", "1")]) - 7.0).abs() < f64::EPSILON);
        assert!((scrape.sum("a", &[("c", "3")]) - 4.0).abs() < f64::EPSILON);
        assert!((scrape.sum("d", &[]) - 5.0).abs() < f64::EPSILON);
        assert!(scrape.sum("d", &[("b", "1")]).abs() < f64::EPSILON);
    }
}
