//! Another client, served on its own connection for as long as an attack lasts.

use anyhow::{Context as _, Result, ensure};
use http::{Request, StatusCode};
use portcullis_tests::http::{Client, empty};
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest answer to the bystander. Far above what it takes, for a machine that runs many tests; an attack that works takes longer.
const LATENCY: Duration = Duration::from_secs(10);
/// How much more memory the waypoint may hold after an attack than before it.
const MEMORY: u64 = 192 << 20;
/// CPU that an attack may cost.
const CPU: Duration = Duration::from_secs(15);

/// A waypoint before an HTTP server and a TCP echo.
pub(crate) struct Stage {
    pub(crate) running: Running,
    pub(crate) web: Upstream,
    _echo: Echo,
}

impl Stage {
    pub(crate) async fn start(settings: &str) -> Result<Self> {
        Self::of(Single::new(true).await?, settings).await
    }

    pub(crate) async fn of(single: Single, settings: &str) -> Result<Self> {
        let web = Upstream::start(single.pod.port(HTTP), |seen| {
            let length = seen.uri.path().trim_start_matches('/').parse().unwrap_or(2);
            upstream::text(StatusCode::OK, vec![b'x'; length])
        })
        .await?;
        let echo = Echo::start(single.pod.port(RAW), b"").await?;
        Ok(Self { running: single.start_with_settings(settings).await?, web, _echo: echo })
    }

    /// Runs `attack` while `agents/other` asks again and again; then says that `metric` has counted it.
    pub(crate) async fn under(
        &self,
        metric: &str,
        labels: &[(&str, &str)],
        attack: impl AsyncFnOnce(&Running) -> Result<()>,
    ) -> Result<()> {
        let portcullis = &self.running.mesh.portcullis;
        let authority = self.running.service.authority(HTTP);
        let tunnel = self.running.mesh.peer("agents", "other")?.connect(&authority).await?;
        let client = Client::http1(tunnel).await?;
        asked(&client).await?;
        let (memory, cpu) = (portcullis.resident_bytes()?, portcullis.cpu_time()?);
        let over = Arc::new(AtomicBool::new(false));
        let bystander = tokio::spawn(served(client, Arc::clone(&over)));
        let attacked = attack(&self.running).await;
        over.store(true, Ordering::Relaxed);
        bystander.await?.context("the bystander")?;
        attacked?;
        portcullis.metric_reaches(metric, labels, 1.0).await?;
        let (held, spent) =
            (portcullis.resident_bytes()?.saturating_sub(memory), portcullis.cpu_time()?.saturating_sub(cpu));
        ensure!(held < MEMORY, "{held} bytes more are held");
        ensure!(spent < CPU, "{spent:?} of CPU were spent");
        Ok(())
    }
}

async fn served(client: Client, over: Arc<AtomicBool>) -> Result<()> {
    loop {
        asked(&client).await?;
        if over.load(Ordering::Relaxed) {
            return asked(&client).await;
        }
    }
}

async fn asked(client: &Client) -> Result<()> {
    let begun = Instant::now();
    let reply = client.send(Request::get("/2").header("host", "app").body(empty())?).await?;
    ensure!(
        reply.status == StatusCode::OK && begun.elapsed() < LATENCY,
        "{} after {:?}",
        reply.status,
        begun.elapsed()
    );
    Ok(())
}
