//! A client that is slow runs into its route's timeout; that must not cost the others their endpoint.

use crate::endpoints::timeout;
use anyhow::Result;
use http::StatusCode;
use portcullis_tests::http::raw;
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// More than the windows and buffers between the server and a client that does not read.
const MUCH: usize = 32 << 20;

async fn start() -> Result<(Running, Upstream)> {
    let single = Single::new(true).await?;
    single.setup.manifests.write("route", &[timeout(2000)])?;
    let web = Upstream::start(single.pod.port(HTTP), |seen| {
        let much = seen.uri.path() == "/much";
        upstream::text(StatusCode::OK, if much { vec![b'x'; MUCH] } else { b"hi".to_vec() })
    })
    .await?;
    let running = single.start_with_settings("ejection_failures: 1\nstream_window: 65535\n").await?;
    Ok((running, web))
}

/// Says that the endpoint is there for others.
async fn is_not_ejected(running: &Running) -> Result<()> {
    let reply = raw(&mut running.tunnel(HTTP).await?, &[b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"]).await?;
    assert_eq!(reply.status(), 200);
    let metrics = running.mesh.portcullis.metrics().await?;
    assert_eq!(metrics.sum("portcullis_limit_hits_total", &[("limit", "ejection_failures")]), 0.0);
    Ok(())
}

#[tokio::test]
async fn a_client_that_does_not_read_ejects_nobody() -> Result<()> {
    let (running, _web) = start().await?;
    let mut tunnel = running.tunnel(HTTP).await?;
    tunnel.write_all(b"GET /much HTTP/1.1\r\nHost: app\r\n\r\n").await?;
    wait::within("the beginning", tunnel.read_exact(&mut [0; 1000])).await??;
    // Nothing more is read until the time is over.
    let over = tokio::time::timeout(std::time::Duration::from_millis(2500), std::future::pending::<()>());
    over.await.unwrap_err();
    let mut rest = Vec::new();
    let read = wait::within("the rest", tunnel.read_to_end(&mut rest)).await?;
    assert!(read.is_err(), "cut at the deadline: {} bytes", rest.len());
    is_not_ejected(&running).await
}

#[tokio::test]
async fn a_client_that_does_not_send_ejects_nobody() -> Result<()> {
    let (running, _web) = start().await?;
    let head = b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 10\r\n\r\n1";
    let reply = raw(&mut running.tunnel(HTTP).await?, &[head]).await?;
    assert_eq!(reply.status(), 504);
    is_not_ejected(&running).await
}
