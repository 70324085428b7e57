//! Endpoints that are not well: what their clients see, what the log says, and that nothing stays behind.

use anyhow::{Context as _, Result};
use http::{Request, StatusCode};
use portcullis_tests::application::{Application, abort};
use portcullis_tests::http::{Client, empty, raw};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Inbound;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A route with a time for each request.
pub(crate) fn timeout(milliseconds: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{namespace: {NAMESPACE}, name: timed}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: app}}]\n  rules:\n  \
         - backendRefs: [{{name: app, port: {HTTP}}}]\n    timeouts: {{request: {milliseconds}ms}}\n"
    )
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n";

/// Says that the endpoint serves again within seconds, and that descriptors are as they were.
async fn recovers(running: &Running, before: usize) -> Result<()> {
    let begun = Instant::now();
    wait::until_async("requests are answered again", async || {
        let client = Client::http1(running.tunnel(HTTP).await?).await?;
        let reply = client.send(Request::get("/").header("host", "app").body(empty())?).await?;
        Ok((reply.status == StatusCode::OK).then_some(()))
    })
    .await?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    wait::until_async("descriptors are given back", async || {
        // The tunnel to the endpoint and what is kept of it are new.
        Ok((running.mesh.portcullis.descriptors()? <= before + 3).then_some(()))
    })
    .await
}

async fn well(running: &Running, app: Application) -> Result<Upstream> {
    drop(app);
    wait::until_async("its port is free", async || {
        Ok(Upstream::start(running.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await.ok())
    })
    .await
}

async fn flagged(running: &Running, flag: &str) -> Result<serde_json::Value> {
    running.mesh.portcullis.logged(flag, |line| line["response_flags"] == flag).await
}

#[tokio::test]
async fn one_that_accepts_and_never_answers() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        single.setup.manifests.write("route", &[timeout(300)])?;
        let app = Application::start(single.pod.port(HTTP)).await?;
        let running = single.start_with_settings("ejection_time: 500\n").await?;
        let before = running.mesh.portcullis.descriptors()?;
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut tunnel = running.tunnel(HTTP).await?;
            let (reply, tcp) = tokio::join!(raw(&mut tunnel, &[GET]), app.accepted());
            assert_eq!(reply?.status(), 504);
            held.push(tcp?);
        }
        assert_eq!(flagged(&running, "UT").await?["response_code"], 504);
        drop(held);
        let _web = well(&running, app).await?;
        recovers(&running, before).await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_that_resets_in_its_answer() -> Result<()> {
    for in_mesh in [true, false] {
        let single = Single::new(in_mesh).await?;
        let app = Application::start(single.pod.port(HTTP)).await?;
        let running = single.start_with_settings("ejection_time: 500\n").await?;
        let before = running.mesh.portcullis.descriptors()?;
        for _ in 0..4 {
            let mut tunnel = running.tunnel(HTTP).await?;
            tunnel.write_all(GET).await?;
            let mut tcp: TcpStream = app.accepted().await?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(wait::within("the request", tcp.read_u8()).await??);
            }
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await?;
            let mut heard = [0; 12];
            wait::within("the head", tunnel.read_exact(&mut heard)).await??;
            abort(tcp)?;
            let mut rest = Vec::new();
            let broken = wait::within("the break", tunnel.read_to_end(&mut rest)).await?;
            assert!(broken.is_err(), "a reset, no end: {:?}", String::from_utf8_lossy(&rest));
        }
        assert_eq!(flagged(&running, "UC").await?["response_code"], 200);
        let _web = well(&running, app).await?;
        recovers(&running, before).await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_with_the_certificate_of_another() -> Result<()> {
    let mut single = Single::new(true).await?;
    let _web = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    drop(single.pod.ztunnel.take());
    let ca = &single.setup.ca;
    let (right, wrong) = (ca.svid(&single.pod.id)?, ca.svid(&ca.id(NAMESPACE, "another"))?);
    let address = single.pod.address;
    let start = async |svid| {
        wait::until_async("the pod's port is free", async || Ok(Inbound::start(ca, svid, address).await.ok()))
            .await
    };
    let impostor = start(&wrong).await?;
    let settings = single.setup.file("settings.yaml", "ejection_time: 500\n")?;
    let run = single.setup.run().arg("--settings", settings);
    let mesh = portcullis_tests::portcullis::Portcullis::start(&run).await?;
    let outbound = portcullis_tests::ztunnel::Outbound::new(
        ca,
        &ca.svid(&ca.id("agents", "bot"))?,
        mesh.address("hbone")?,
        &ca.id(NAMESPACE, "waypoint"),
    )?;
    let authority = single.service.authority(HTTP);
    for _ in 0..4 {
        let reply = raw(&mut outbound.connect(&authority).await?, &[GET]).await?;
        assert_eq!(reply.status(), 503);
    }
    let line = mesh.logged("the failure", |line| line["response_flags"] == "UF").await?;
    let detail = line["response_code_details"].as_str().context("details")?;
    assert!(detail.contains("sa/another"), "{detail}");
    assert!(impostor.seen().is_empty(), "it was not spoken to");
    drop(impostor);
    let _ztunnel = start(&right).await?;
    let begun = Instant::now();
    wait::until_async("requests are answered again", async || {
        let reply = raw(&mut outbound.connect(&authority).await?, &[GET]).await?;
        Ok((reply.status() == 200).then_some(()))
    })
    .await?;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    Ok(())
}
