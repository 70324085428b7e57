//! Before there is a tunnel: silence, garbage, the wrong TLS, and HTTP/2 that is none.

use crate::bystander::Stage;
use anyhow::{Result, ensure};
use portcullis_tests::single::Running;
use portcullis_tests::{tls, wait};
use rustls::pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const FAILURES: &str = "portcullis_handshake_failures_total";

async fn socket(running: &Running) -> Result<TcpStream> {
    Ok(TcpStream::connect(running.mesh.portcullis.address("hbone")?).await?)
}

/// Reads until the waypoint closes, which it must.
async fn closed(mut tcp: impl tokio::io::AsyncRead + Unpin) -> Result<()> {
    let mut heard = Vec::new();
    let _reset_or_end = wait::within("the end of the connection", tcp.read_to_end(&mut heard)).await?;
    Ok(())
}

#[tokio::test]
async fn half_open() -> Result<()> {
    let stage = Stage::start("handshakes: 16\nhandshake_timeout: 1000\n").await?;
    let attack = async |running: &Running| {
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(socket(running).await?);
        }
        for tcp in silent {
            closed(tcp).await?;
        }
        Ok(())
    };
    stage.under(FAILURES, &[("reason", "timeout")], attack).await?;
    stage
        .running
        .mesh
        .portcullis
        .metric_reaches("portcullis_limit_hits_total", &[("limit", "handshakes")], 1.0)
        .await?;
    stage.running.bot()?.dial().await?;
    Ok(())
}

#[tokio::test]
async fn garbage_in_the_place_of_tls() -> Result<()> {
    let stage = Stage::start("handshake_timeout: 2000\n").await?;
    let attack = async |running: &Running| {
        let record = [&[22, 3, 1, 64, 0][..], &[0xff; 16_384]].concat();
        let lines: [&[u8]; 4] =
            [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0; 4096], &record];
        for bytes in lines.into_iter().cycle().take(40) {
            let mut tcp = socket(running).await?;
            let _refused = tcp.write_all(bytes).await;
            closed(tcp).await?;
        }
        Ok(())
    };
    stage.under(FAILURES, &[], attack).await
}

/// TLS 1.3 has no renegotiation (RFC 8446 §4.1.2): a handshake message in its place, or bytes that decrypt to nothing, end the
/// connection.
#[tokio::test]
async fn garbage_after_the_handshake() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let ca = &running.mesh.setup.ca;
        let config = tls::client_config(
            &ca.svid(&ca.id("agents", "bot"))?,
            ca.bundle_pem(),
            &running.mesh.waypoint_id(),
        )?;
        let connector = TlsConnector::from(Arc::new(config));
        for first in [20, 21, 22, 23] {
            let tcp = socket(running).await?;
            let name = ServerName::IpAddress(tcp.peer_addr()?.ip().into());
            let mut stream = connector.connect(name, tcp).await?;
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
            stream.flush().await?;
            acknowledged(&mut stream).await?;
            let (mut tcp, _state) = stream.into_inner();
            // HelloRequest of TLS 1.2, and what it looks like as an alert and as data.
            tcp.write_all(&[first, 3, 3, 0, 4, 0, 0, 0, 0]).await?;
            closed(tcp).await?;
        }
        Ok(())
    };
    stage.under("portcullis_tunnel_failures_total", &[("reason", "tls")], attack).await
}

/// Reads until the acknowledgement of our SETTINGS (RFC 9113 §6.5.3): the connection is served from here on.
async fn acknowledged(mut stream: impl tokio::io::AsyncRead + Unpin) -> Result<()> {
    const ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    let mut heard = Vec::new();
    while !heard.windows(ACK.len()).any(|frame| frame == ACK) {
        let read = wait::within("the acknowledgement", stream.read_buf(&mut heard)).await??;
        ensure!(read > 0, "the connection ended");
    }
    Ok(())
}

#[tokio::test]
async fn old_tls() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let address = running.mesh.portcullis.address("hbone")?.to_string();
        for version in ["-tls1_2", "-tls1_1"] {
            let mut command = tokio::process::Command::new("openssl");
            command.args(["s_client", "-connect", &address, version]).stdin(std::process::Stdio::null());
            let ended = wait::within("openssl", command.output()).await??;
            assert!(!ended.status.success(), "{version}: {ended:?}");
        }
        Ok(())
    };
    stage.under(FAILURES, &[], attack).await
}
