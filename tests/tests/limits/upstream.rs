//! Bounds towards endpoints.

use anyhow::{Context as _, Result};
use http::{Request, StatusCode};
use portcullis_tests::application::Application;
use portcullis_tests::http::{Client, Reply, empty};
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

async fn client(running: &Running) -> Result<Client> {
    Client::http1(running.tunnel(HTTP).await?).await
}

async fn get(client: &Client, path: &str) -> Result<Reply> {
    client.send(Request::get(path).header("host", "app").body(empty())?).await
}

/// One request is held at the endpoint; a second meets the bound.
async fn held(settings: &str) -> Result<Running> {
    let single = Single::new(true).await?;
    let app = Application::start(single.pod.port(HTTP)).await?;
    let running = single.start_with_settings(settings).await?;
    let first = client(&running).await?;
    let mut held = Box::pin(get(&first, "/first"));
    let _tcp = tokio::select! {
        tcp = app.accepted() => tcp?,
        answered = &mut held => anyhow::bail!("nobody answered, but {answered:?}"),
    };
    assert_eq!(get(&client(&running).await?, "/second").await?.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = running.mesh.portcullis.logged("the second", |line| line["path"] == "/second").await?;
    assert_eq!(line["response_flags"], "UO", "{line}");
    Ok(running)
}

pub(crate) async fn one_more_request_is_503() -> Result<Running> {
    held("endpoint_requests: 1\n").await
}

pub(crate) async fn one_more_connection_is_503() -> Result<Running> {
    held("endpoint_connections: 1\n").await
}

/// An endpoint that answers 503 so often and then 200.
async fn unwell(settings: &str, times: usize) -> Result<(Running, Upstream)> {
    let single = Single::new(true).await?;
    let failures = AtomicUsize::new(0);
    let app = Upstream::start(single.pod.port(HTTP), move |_| {
        let failed = failures.fetch_add(1, Ordering::Relaxed) < times;
        upstream::text(if failed { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, "answer")
    })
    .await?;
    Ok((single.start_with_settings(settings).await?, app))
}

pub(crate) async fn an_endpoint_that_fails_is_ejected() -> Result<Running> {
    let (running, app) = unwell("ejection_failures: 2\n", 2).await?;
    let client = client(&running).await?;
    for _ in 0..2 {
        assert_eq!(get(&client, "/").await?.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    running.mesh.portcullis.metric_reaches("portcullis_upstream_ejected", &[], 1.0).await?;
    assert_eq!(app.seen().len(), 2);
    Ok(running)
}

pub(crate) async fn an_ejected_endpoint_comes_back() -> Result<Running> {
    let (running, _app) = unwell("ejection_failures: 1\nejection_time: 300\n", 1).await?;
    let client = client(&running).await?;
    assert_eq!(get(&client, "/").await?.status, StatusCode::SERVICE_UNAVAILABLE);
    wait::until_async("it is no longer ejected", async || {
        let metrics = running.mesh.portcullis.metrics().await?;
        Ok((metrics.sum("portcullis_upstream_ejected", &[]) == 0.0).then_some(()))
    })
    .await?;
    assert_eq!(get(&client, "/").await?.status, StatusCode::OK);
    Ok(running)
}

pub(crate) async fn an_idle_connection_is_closed() -> Result<Running> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start_with_settings("upstream_idle: 100\n").await?;
    assert_eq!(get(&client(&running).await?, "/").await?.status, StatusCode::OK);
    wait::until_async("nothing is kept", async || {
        let metrics = running.mesh.portcullis.metrics().await?;
        Ok((metrics.sum("portcullis_upstream_connections", &[]) == 0.0).then_some(()))
    })
    .await?;
    Ok(running)
}

pub(crate) async fn one_more_idle_connection_is_closed() -> Result<Running> {
    let single = Single::new(false).await?;
    let together = Arc::new(AtomicUsize::new(0));
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start_with_settings("upstream_idle_connections: 1\n").await?;
    wait::until_async("two requests ran at once", async || {
        let (one, other) = (client(&running).await?, client(&running).await?);
        together.fetch_add(1, Ordering::Relaxed);
        let (first, second) = tokio::join!(get(&one, "/1"), get(&other, "/2"));
        assert_eq!((first?.status, second?.status), (StatusCode::OK, StatusCode::OK));
        Ok((app.connections() >= 2).then_some(()))
    })
    .await?;
    running.pod.ztunnel.is_none().then_some(()).context("a plain endpoint")?;
    wait::until_async("one is kept", async || {
        let metrics = running.mesh.portcullis.metrics().await?;
        Ok((metrics.sum("portcullis_upstream_connections", &[]) <= 1.0).then_some(()))
    })
    .await?;
    Ok(running)
}
