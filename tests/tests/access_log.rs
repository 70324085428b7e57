//! The access log of the running binary, when nobody reads it.

#![cfg(test)]

use anyhow::Result;
use http::Request;
use portcullis_tests::http::{Client, empty};
use portcullis_tests::mesh::Mesh;
use portcullis_tests::portcullis::Portcullis;
use portcullis_tests::single::{HTTP, Single};
use portcullis_tests::upstream::{self, Upstream};

#[tokio::test]
async fn a_pipe_that_nobody_reads_costs_lines_and_no_request() -> Result<()> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "ok")).await?;
    let settings = single.setup.file("settings.yaml", "log_queue: 16\n")?;
    let portcullis = Portcullis::start_unread(&single.setup.run().arg("--settings", settings)).await?;
    let mut mesh = Mesh { portcullis, setup: single.setup };
    let tunnel = mesh.peer("agents", "bot")?.connect(&single.service.authority(HTTP)).await?;
    let client = Client::http1(tunnel).await?;
    let mut sent = 0.0;
    let lost = async || {
        let metrics = mesh.portcullis.metrics().await?;
        Ok::<_, anyhow::Error>(metrics.sum("portcullis_log_lines_dropped_total", &[]))
    };
    while lost().await? < 100.0 {
        for _ in 0..50 {
            let request = Request::get("/").header("host", "app").body(empty())?;
            assert_eq!(client.send(request).await?.status, 200);
        }
        sent += 50.0;
        assert!(sent < 5_000.0, "nothing is lost after {sent} requests");
    }
    assert!(lost().await? <= sent, "each line is lost once");
    drop(client);
    // The end of the process does not wait for the reader either.
    assert!(mesh.portcullis.stop().await?.success());
    Ok(())
}
