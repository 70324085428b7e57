//! Games with flow control.

use crate::bystander::Stage;
use anyhow::{Result, ensure};
use portcullis_tests::frames::{Frame, kind};
use portcullis_tests::single::{HTTP, RAW, Running};

const FLOW_CONTROL_ERROR: u32 = 3;

fn increment(stream: u32, by: u32) -> Frame {
    Frame::new(kind::WINDOW_UPDATE, stream, by.to_be_bytes())
}

/// SETTINGS_INITIAL_WINDOW_SIZE.
fn window(bytes: u32) -> Frame {
    let mut payload = vec![0, 4];
    payload.extend(bytes.to_be_bytes());
    Frame::new(kind::SETTINGS, 0, payload)
}

#[tokio::test]
async fn overflow() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let mut frames = running.frames().await?;
        for _ in 0..2 {
            frames.send(&increment(0, 0x7fff_ffff)).await?;
        }
        let goaway = frames.until(kind::GOAWAY).await?.goaway();
        ensure!(goaway.map(|(_, code)| code) == Some(FLOW_CONTROL_ERROR), "{goaway:?}");
        Ok(())
    };
    stage.under("portcullis_tunnel_failures_total", &[("reason", "flow_control")], attack).await
}

/// Streams that ask for much and never give credit: what they do not take is not read from the server.
#[tokio::test]
async fn no_window_at_all() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let mut frames = running.frames().await?;
        frames.send(&window(0)).await?;
        for stream in 0..20 {
            let id = stream * 2 + 1;
            frames.connect(id, &running.service.authority(HTTP)).await?;
            let get = b"GET /2000000 HTTP/1.1\r\nHost: app\r\n\r\n";
            frames.send(&Frame::new(kind::DATA, id, *get)).await?;
        }
        stage.web.saw(20).await?;
        Ok(())
    };
    stage.under("istio_requests_total", &[("response_flags", "DC")], attack).await
}

/// Credit byte by byte costs more frames than it moves bytes.
#[tokio::test]
async fn tiny_increments() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let mut frames = running.frames().await?;
        frames.send(&window(0)).await?;
        frames.connect(1, &running.service.authority(RAW)).await?;
        frames.send(&Frame::new(kind::DATA, 1, vec![7; 8000])).await?;
        frames.flood(&increment(1, 1), 40_000).await?;
        while let Ok(Some(_frame)) = frames.next().await {}
        Ok(())
    };
    stage.under("portcullis_tunnel_failures_total", &[("reason", "idle_frames")], attack).await
}
