//! Frames without end.

use crate::bystander::Stage;
use anyhow::{Context as _, Result, ensure};
use portcullis_tests::frames::{Frame, Frames, kind};
use portcullis_tests::single::{HTTP, RAW};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const TUNNEL_FAILURES: &str = "portcullis_tunnel_failures_total";
const CANCEL: u32 = 8;

/// More than any bound of frames, and few enough to be written in a moment.
const MANY: usize = 40_000;

/// Waits until the waypoint has closed the connection; a GOAWAY, if it came through, says why.
async fn cut(mut frames: Frames, code: u32) -> Result<()> {
    while let Ok(Some(frame)) = frames.next().await {
        if let Some((_, told)) = frame.goaway() {
            ensure!(told == code, "GOAWAY {told}");
        }
    }
    Ok(())
}

/// ENHANCE_YOUR_CALM.
const CALM: u32 = 11;

async fn flood(frame: Frame) -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &portcullis_tests::single::Running| {
        let mut frames = running.frames().await?;
        frames.connect(1, &running.service.authority(RAW)).await?;
        frames.flood(&frame, MANY).await?;
        cut(frames, CALM).await
    };
    stage.under(TUNNEL_FAILURES, &[], attack).await?;
    told(&stage, &["idle_frames", "small_frames"]).await
}

#[tokio::test]
async fn pings() -> Result<()> {
    flood(Frame::new(kind::PING, 0, [7; 8])).await
}

#[tokio::test]
async fn settings() -> Result<()> {
    flood(Frame::new(kind::SETTINGS, 0, [])).await
}

#[tokio::test]
async fn settings_that_change_every_stream() -> Result<()> {
    flood(Frame::new(kind::SETTINGS, 0, [0, 4, 0, 1, 0, 0])).await
}

#[tokio::test]
async fn priorities() -> Result<()> {
    flood(Frame::new(kind::PRIORITY, 9, [0, 0, 0, 0, 16])).await
}

#[tokio::test]
async fn empty_data() -> Result<()> {
    flood(Frame::new(kind::DATA, 1, [])).await
}

#[tokio::test]
async fn unknown_frames() -> Result<()> {
    flood(Frame::new(0xfa, 0, [])).await
}

/// The same inside a tunnel, where another HTTP/2 connection begins.
#[tokio::test]
async fn pings_inside() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &portcullis_tests::single::Running| {
        let mut tunnel = running.tunnel(HTTP).await?;
        tunnel.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        let ping = b"\0\0\x08\x06\0\0\0\0\0pingping".repeat(100);
        for _ in 0..MANY / 100 {
            if tunnel.write_all(&ping).await.is_err() {
                break;
            }
        }
        let mut answers = Vec::new();
        let _broken = portcullis_tests::wait::within("the end", tunnel.read_to_end(&mut answers)).await?;
        Ok(())
    };
    stage.under("portcullis_limit_hits_total", &[("limit", "idle_frames")], attack).await
}

/// CVE-2023-44487: streams that are opened and given up at once.
#[tokio::test]
async fn rapid_reset() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &portcullis_tests::single::Running| {
        let mut frames = running.frames().await?;
        let authority = running.service.authority(RAW);
        for stream in 0..20_000_u32 {
            let opened = frames.connect(stream * 2 + 1, &authority).await;
            let reset = Frame::new(kind::RST_STREAM, stream * 2 + 1, CANCEL.to_be_bytes());
            if opened.is_err() || frames.send(&reset).await.is_err() {
                break;
            }
        }
        cut(frames, CALM).await
    };
    stage.under(TUNNEL_FAILURES, &[], attack).await?;
    told(&stage, &["idle_frames", "resets"]).await
}

/// Says that the only reason counted is one of these.
async fn told(stage: &Stage, reasons: &[&str]) -> Result<()> {
    let scrape = stage.running.mesh.portcullis.metrics().await?.0;
    let line = scrape.lines().find(|line| line.starts_with(TUNNEL_FAILURES)).context("a reason")?;
    assert!(reasons.iter().any(|reason| line.contains(&format!("\"{reason}\""))), "{line}");
    Ok(())
}

/// CVE-2024-27316: a head whose end never comes.
#[tokio::test]
async fn continuations() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &portcullis_tests::single::Running| {
        let mut frames = running.frames().await?;
        frames
            .send(&Frame::new(
                kind::HEADERS,
                1,
                [0x02, 7].iter().chain(b"CONNECT").copied().collect::<Vec<_>>(),
            ))
            .await?;
        frames.flood(&Frame::new(kind::CONTINUATION, 1, [0, 1, b'x', 1, b'y']), MANY).await?;
        cut(frames, CALM).await
    };
    stage.under(TUNNEL_FAILURES, &[], attack).await?;
    told(&stage, &["continuations", "idle_frames"]).await
}
