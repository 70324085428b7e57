//! No descriptors, and a tenth of a core.

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use http::{Request, StatusCode};
use portcullis_tests::http::{Client, empty};
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Refused;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

async fn get(client: &Client) -> Result<StatusCode> {
    Ok(client.send(Request::get("/").header("host", "app").body(empty())?).await?.status)
}

#[tokio::test]
async fn without_descriptors_what_is_open_goes_on_and_all_is_well_when_they_come_back() -> Result<()> {
    let single = Single::new(false).await?;
    let _web = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let settings = single.setup.file("settings.yaml", "handshake_timeout: 60000\nejection_failures: 1\n")?;
    let run = single.setup.run().arg("--settings", settings).under(&["prlimit", "--nofile=100"]);
    let running = single.start_with(run).await?;
    let portcullis = &running.mesh.portcullis;
    let connection = running.mesh.peer("agents", "other")?.dial().await?;
    let client = Client::http1(connection.connect(&running.service.authority(HTTP)).await?).await?;
    assert_eq!(get(&client).await?, StatusCode::OK);
    let before = portcullis.descriptors()?;
    let mut silent = Vec::new();
    for _ in 0..150 {
        silent.push(TcpStream::connect(portcullis.address("hbone")?).await?);
    }
    let refused = |line: &String| line.contains("accepting failed").then_some(());
    portcullis.events().find("accepting fails", refused).await?;
    assert_eq!(get(&client).await?, StatusCode::OK, "what is open goes on");
    let status = Refused::status_of(connection.connect(&running.service.authority(RAW)).await);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let line = portcullis.logged("the stream", |line| line["kind"] == "stream").await?;
    assert!(line["response_flags"] == "UF" && line.to_string().contains("os error 24"), "{line}");
    drop(silent);
    let begun = Instant::now();
    wait::until_async("streams are carried again", async || {
        Ok(connection.connect(&running.service.authority(RAW)).await.ok())
    })
    .await?;
    running.bot()?.dial().await?;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    portcullis.metric_reaches("portcullis_limit_hits_total", &[("limit", "open_files")], 1.0).await?;
    assert_eq!(
        portcullis.metrics().await?.sum("portcullis_upstream_ejected", &[]),
        0.0,
        "no endpoint is to blame"
    );
    wait::until_async("descriptors are given back", async || {
        Ok((portcullis.descriptors()? <= before + 2).then_some(()))
    })
    .await
}

/// How long it runs and how long it stands, in each turn.
const TURN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(45));

/// Lets the process run for a tenth of the time until it is told to stop; then it runs on.
async fn throttled(pid: u32, mut over: tokio::sync::oneshot::Receiver<()>) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("a process")?;
    loop {
        kill_process(pid, Signal::STOP)?;
        let stands = tokio::time::timeout(TURN.1, &mut over).await;
        kill_process(pid, Signal::CONT)?;
        if stands.is_ok() || tokio::time::timeout(TURN.0, &mut over).await.is_ok() {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn with_a_tenth_of_a_core_everything_is_answered_late_and_nothing_fails() -> Result<()> {
    let single = Single::new(true).await?;
    let _web = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running: Running = single.start().await?;
    let pid = running.mesh.portcullis.id()?;
    let (stop, over) = tokio::sync::oneshot::channel();
    let throttle = tokio::spawn(throttled(pid, over));
    let load = (0..20).map(async |n| {
        let client = Client::http1(
            running
                .mesh
                .peer("agents", &format!("bot-{n}"))?
                .connect(&running.service.authority(HTTP))
                .await?,
        )
        .await?;
        for _ in 0..5 {
            ensure!(get(&client).await? == StatusCode::OK, "an answer");
        }
        Ok(())
    });
    try_join_all(load).await?;
    stop.send(()).ok().context("the throttle runs")?;
    throttle.await??;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let begun = Instant::now();
    assert_eq!(get(&client).await?, StatusCode::OK);
    assert!(begun.elapsed() < Duration::from_secs(2), "it is itself again: {:?}", begun.elapsed());
    let failures = running.mesh.portcullis.metrics().await?.sum("portcullis_refusals_total", &[]);
    assert_eq!(failures, 0.0);
    let mut tunnel = running.tunnel(RAW).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut tunnel).await?;
    assert_eq!(tunnel.read(&mut [0; 8]).await?, 0);
    Ok(())
}
