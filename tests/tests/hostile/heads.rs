//! Heads that are too large, and heads without end.

use crate::bystander::Stage;
use anyhow::Result;
use portcullis_tests::frames::kind;
use portcullis_tests::http::raw;
use portcullis_tests::single::{HTTP, RAW, Running};
use portcullis_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const HITS: &str = "portcullis_limit_hits_total";

#[tokio::test]
async fn a_large_head_on_connect() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let mut frames = running.frames().await?;
        for stream in 0..20 {
            frames.connect_with(stream * 2 + 1, &running.service.authority(RAW), 100_000).await?;
            let answer = frames.until(kind::HEADERS).await?;
            assert_eq!(answer.stream, stream * 2 + 1);
        }
        Ok(())
    };
    stage.under(HITS, &[("limit", "header_list")], attack).await
}

#[tokio::test]
async fn an_endless_head_on_connect() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let mut frames = running.frames().await?;
        // It is cut while it is being written, or after it.
        let _written = frames.connect_with(1, &running.service.authority(RAW), 64 << 20).await;
        while let Ok(Some(frame)) = frames.next().await {
            assert_ne!(frame.kind, kind::DATA);
        }
        Ok(())
    };
    stage.under("portcullis_tunnel_failures_total", &[], attack).await
}

#[tokio::test]
async fn an_endless_head_inside() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let mut tunnel = running.tunnel(HTTP).await?;
        tunnel.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nX: ").await?;
        for _ in 0..1000 {
            if tunnel.write_all(&[b'x'; 16_384]).await.is_err() {
                break;
            }
        }
        let mut heard = Vec::new();
        let _broken = wait::within("the end", tunnel.read_to_end(&mut heard)).await?;
        assert!(
            heard.is_empty() || heard.starts_with(b"HTTP/1.1 431"),
            "{:?}",
            String::from_utf8_lossy(&heard)
        );
        Ok(())
    };
    stage.under(HITS, &[("limit", "header_list")], attack).await
}

#[tokio::test]
async fn very_many_headers_inside() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let head = format!("GET / HTTP/1.1\r\nHost: app\r\n{}\r\n", "a: b\r\n".repeat(5000));
        let reply = raw(&mut running.tunnel(HTTP).await?, &[head.as_bytes()]).await?;
        assert_eq!(reply.status(), 431);
        Ok(())
    };
    stage.under(HITS, &[("limit", "header_list")], attack).await
}
