//! The wall clock is stepped. Timeouts count on the other clock; only certificates know what day it is.

use anyhow::{Context as _, Result};
use http::{Request, StatusCode};
use portcullis_tests::http::{Client, empty};
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Debian's libfaketime (`cargo xtask setup` installs it).
fn library() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found =
        folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().context("libfaketime is missing: run `cargo xtask setup`")
}

/// A waypoint whose wall clock is a file's.
struct Stage {
    running: Running,
    clock: PathBuf,
    _web: Upstream,
}

impl Stage {
    async fn start() -> Result<Self> {
        let single = Single::new(true).await?;
        let web = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
        let clock = single.setup.file("clock", "+0")?;
        let run = single.setup.run().env("LD_PRELOAD", library()?);
        let run = run.env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
        let run = run.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
        Ok(Self { running: single.start_with(run).await?, clock, _web: web })
    }

    fn step(&self, to: &str) -> Result<()> {
        Ok(std::fs::write(&self.clock, to)?)
    }

    /// A new connection, a new tunnel and a request on it.
    async fn asks(&self) -> Result<StatusCode> {
        let connection = self.running.bot()?.dial().await?;
        get(&Client::http1(connection.connect(&self.running.service.authority(HTTP)).await?).await?).await
    }

    /// When the waypoint says that it is, by the access log.
    async fn says(&self) -> Result<String> {
        let lines = self.running.mesh.portcullis.access_log().json();
        let last = lines.last().and_then(|line| line["start_time"].as_str()).context("a line")?;
        Ok(last.to_owned())
    }
}

async fn get(client: &Client) -> Result<StatusCode> {
    Ok(client.send(Request::get("/").header("host", "app").body(empty())?).await?.status)
}

#[tokio::test]
async fn ten_minutes_ahead_nothing_happens() -> Result<()> {
    let stage = Stage::start().await?;
    let kept = Client::http1(stage.running.tunnel(HTTP).await?).await?;
    assert_eq!(get(&kept).await?, StatusCode::OK);
    stage.running.mesh.portcullis.logged("a line", |_| true).await?;
    let before = stage.says().await?;
    for to in ["+10m", "+0", "+10m"] {
        stage.step(to)?;
        assert_eq!(get(&kept).await?, StatusCode::OK, "{to}: what is open goes on");
        assert_eq!(stage.asks().await?, StatusCode::OK, "{to}: what is new, too");
    }
    let jumped = |line: &serde_json::Value| {
        let minute = |text: &str| text.get(..16).map(str::to_owned);
        line["start_time"].as_str().and_then(minute) > minute(&before)
    };
    stage.running.mesh.portcullis.logged("a line ten minutes on: the clock was stepped", jumped).await?;
    Ok(())
}

/// Certificates of this test began a minute ago, so ten minutes back they are not valid yet.
#[tokio::test]
async fn ten_minutes_back_certificates_are_not_valid_by_name_and_then_they_are() -> Result<()> {
    let stage = Stage::start().await?;
    assert_eq!(stage.asks().await?, StatusCode::OK);
    stage.step("-10m")?;
    wait::until_async("a peer of the future is refused", async || Ok(stage.asks().await.err())).await?;
    stage
        .running
        .mesh
        .portcullis
        .metric_reaches("portcullis_handshake_failures_total", &[("reason", "not_yet_valid")], 1.0)
        .await?;
    stage.step("+0")?;
    let begun = Instant::now();
    wait::until_async("peers are let in again", async || Ok(stage.asks().await.ok())).await?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}
