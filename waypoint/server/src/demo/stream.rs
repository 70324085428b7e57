//! An agent's stream to the ledger, line by line.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hbone::Tunnel;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::time::{Instant, timeout};

use super::agent::Agent;
use super::ledger::GREETING;
use super::stage::Service;

/// How long a line may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// An open stream. Dropping it resets it.
pub(super) struct Entries(BufReader<Tunnel>);

impl Entries {
    /// Opens a stream and takes the greeting, which comes before anything is asked.
    pub(super) async fn open(agent: &Agent, ledger: &Service) -> Result<Self> {
        let mut this = Self(BufReader::new(agent.open(&ledger.target).await?));
        let greeting = this.line().await?;
        ensure!(greeting == GREETING, "the ledger greets with {greeting:?}");
        Ok(this)
    }

    /// Writes an entry and takes the answer.
    pub(super) async fn add(&mut self, entry: &str) -> Result<String> {
        self.0.write_all(format!("{entry}\n").as_bytes()).await?;
        self.0.flush().await?;
        self.line().await
    }

    /// Half-close, then whatever the other side still says.
    pub(super) async fn finish(mut self) -> Result<String> {
        self.0.shutdown().await?;
        let mut rest = String::new();
        timeout(PATIENCE, self.0.read_to_string(&mut rest)).await.context("no end came")??;
        Ok(rest)
    }

    /// Waits until the other side ends or resets the stream; how long that took.
    pub(super) async fn closed(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let mut byte = [0];
        let read = timeout(PATIENCE, self.0.read(&mut byte)).await.context("the stream is still open")?;
        ensure!(!matches!(read, Ok(1..)), "the stream still carries bytes");
        Ok(start.elapsed())
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.context("no line came")??;
        Ok(line.trim_end().to_owned())
    }
}
