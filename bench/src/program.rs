//! A measured process on its core.

use crate::machine::Cores;
use anyhow::{Context, Result, bail};
use portcullis_tests::wait;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How much of its output is shown when it ends early.
const SHOWN: usize = 2000;

/// A running process, killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    output: PathBuf,
}

impl Program {
    /// Starts `program` on the core of the proxy, with its output in the file `output`.
    pub(crate) fn start(cores: Cores, program: &Path, args: &[OsString], output: PathBuf) -> Result<Self> {
        let log = File::create(&output).with_context(|| output.display().to_string())?;
        // `setpriv` lets it end with this process, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &cores.proxy.to_string()])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, output })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until GET `path` at `address` is answered with 200.
    pub(crate) async fn ready(&mut self, address: SocketAddr, path: &str) -> Result<()> {
        wait::until_async(&format!("{address}{path} says 200"), async || {
            if let Some(status) = self.child.try_wait()? {
                let told = fs::read_to_string(&self.output).unwrap_or_default();
                let from = told.floor_char_boundary(told.len().saturating_sub(SHOWN));
                bail!("ended early with {status}: {}", told.get(from..).unwrap_or_default());
            }
            let answer = get(address, path).await.unwrap_or_default();
            Ok(answer.starts_with("HTTP/1.1 200").then_some(()))
        })
        .await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole answer, head included, of a plain HTTP server.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut tcp = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    Ok(answer)
}
