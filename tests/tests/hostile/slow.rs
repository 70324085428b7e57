//! Peers that take their time, and one identity that wants everything.

use crate::bystander::Stage;
use anyhow::Result;
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

/// Bodies of which nothing more comes after their first byte, to a Service whose calls are judged.
#[tokio::test]
async fn bodies() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("others", "app", "ALLOW", "- from: [{source: {serviceAccounts: [agents/other]}}]")?;
    single.setup.policy(
        "calls",
        "app",
        "ALLOW",
        "- from: [{source: {serviceAccounts: [agents/bot]}}]\n  when: [{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [alpha]}]",
    )?;
    let stage = Stage::of(single, "inspection_timeout: 1000\n").await?;
    let attack = async |running: &Running| {
        let mut slow = JoinSet::new();
        for _ in 0..60 {
            let mut tunnel = running.tunnel(HTTP).await?;
            slow.spawn(async move {
                let head = "POST /mcp HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\n\
                            Accept: application/json, text/event-stream\r\nContent-Length: 1000\r\n\r\n{";
                tunnel.write_all(head.as_bytes()).await?;
                let mut status = [0; 12];
                tunnel.read_exact(&mut status).await?;
                anyhow::Ok(status)
            });
        }
        while let Some(status) = wait::within("the refusals", slow.join_next()).await? {
            assert_eq!(&status??, b"HTTP/1.1 408");
        }
        Ok(())
    };
    stage.under("portcullis_refusals_total", &[("reason", "body_too_slow")], attack).await
}

/// Bodies that trickle to a server which waits for their end: nothing is held, and the endpoint is not blamed.
#[tokio::test]
async fn heads() -> Result<()> {
    let stage = Stage::start("request_head_timeout: 1000\n").await?;
    let attack = async |running: &Running| {
        let mut slow = Vec::new();
        for _ in 0..100 {
            let mut tunnel = running.tunnel(HTTP).await?;
            tunnel.write_all(b"GET / HTTP/1.1\r\nHost: a").await?;
            slow.push(tunnel);
        }
        for mut tunnel in slow {
            let mut heard = Vec::new();
            let _ended = wait::within("the end", tunnel.read_to_end(&mut heard)).await?;
        }
        Ok(())
    };
    stage.under("portcullis_limit_hits_total", &[("limit", "request_head_timeout")], attack).await
}

/// As many streams as one identity can open: its connections are bounded, and with them what it holds.
#[tokio::test]
async fn thousands_of_streams() -> Result<()> {
    let stage =
        Stage::start("peer_connections: 8\nendpoint_connections: 10000\nendpoint_requests: 10000\n").await?;
    let attack = async |running: &Running| {
        let authority = running.service.authority(RAW);
        let (mut held, mut refused) = (Vec::new(), 0);
        for _ in 0..10 {
            let Ok(connection) = running.bot()?.dial().await else {
                refused += 1;
                continue;
            };
            let opened =
                futures_util::future::join_all((0..200).map(|_| connection.connect(&authority))).await;
            refused += usize::from(opened.iter().all(Result::is_err));
            held.extend(opened.into_iter().flatten());
        }
        assert_eq!((held.len(), refused), (1600, 2), "eight connections of 200 streams");
        let streams = running.mesh.portcullis.metrics().await?.sum("portcullis_streams", &[]);
        assert!(streams >= 1600.0, "{streams}");
        Ok(())
    };
    stage.under("portcullis_limit_hits_total", &[("limit", "peer_connections")], attack).await
}
