//! Bounds of connections and handshakes.

use anyhow::Result;
use portcullis_tests::frames::kind;
use portcullis_tests::single::{RAW, Running, Single};
use portcullis_tests::upstream::Echo;
use portcullis_tests::wait;
use std::io;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 §6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;

async fn silent(running: &Running) -> Result<TcpStream> {
    Ok(TcpStream::connect(running.mesh.portcullis.address("hbone")?).await?)
}

/// Waits until the waypoint has closed a connection, in order or not.
async fn closed(tcp: &mut TcpStream) -> Result<()> {
    let read = wait::within("the end of the connection", tcp.read(&mut [0; 8])).await?;
    assert!(matches!(read, Ok(0)) || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    Ok(())
}

pub(crate) async fn one_more_than_may_be_waits() -> Result<Running> {
    let running = Single::new(true).await?.start_with_settings("connections: 2\n").await?;
    let bot = running.bot()?;
    let (first, _second) = (bot.dial().await?, bot.dial().await?);
    let mut third = Box::pin(bot.dial());
    let hit = running.mesh.portcullis.metric_reaches(super::HITS, &[("limit", "connections")], 1.0);
    tokio::select! {
        _carried = &mut third => panic!("a third connection where two may be"),
        hit = hit => hit?,
    };
    drop(first);
    third.await?;
    Ok(running)
}

pub(crate) async fn one_more_of_an_identity_is_closed() -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start_with_settings("peer_connections: 1\n").await?;
    let authority = running.service.authority(RAW);
    let first = running.bot()?.dial().await?;
    first.connect(&authority).await?;
    // It is authenticated, and then closed.
    match running.bot()?.dial().await {
        Ok(second) => assert!(second.connect(&authority).await.is_err()),
        Err(_closed) => {}
    }
    running.mesh.peer("agents", "other")?.connect(&authority).await?;
    first.connect(&authority).await?;
    Ok(running)
}

pub(crate) async fn one_more_handshake_is_closed() -> Result<Running> {
    let running = Single::new(true).await?.start_with_settings("handshakes: 1\n").await?;
    let (mut one, mut other) = (silent(&running).await?, silent(&running).await?);
    tokio::select! {
        ended = closed(&mut one) => ended?,
        ended = closed(&mut other) => ended?,
    }
    drop((one, other));
    wait::until_async("a handshake has room again", async || Ok(running.bot()?.dial().await.ok())).await?;
    Ok(running)
}

pub(crate) async fn a_silent_handshake_is_closed() -> Result<Running> {
    let running = Single::new(true).await?.start_with_settings("handshake_timeout: 300\n").await?;
    closed(&mut silent(&running).await?).await?;
    let timeouts = [("reason", "timeout")];
    running.mesh.portcullis.metric_reaches("portcullis_handshake_failures_total", &timeouts, 1.0).await?;
    Ok(running)
}

pub(crate) async fn beyond_the_credit_windows_are_small() -> Result<Running> {
    let running = Single::new(true).await?.start_with_settings("total_window: 16777216\n").await?;
    let mut first = running.frames().await?;
    assert_eq!(first.until(kind::SETTINGS).await?.setting(INITIAL_WINDOW_SIZE), Some(4 << 20));
    let mut second = running.frames().await?;
    assert_eq!(second.until(kind::SETTINGS).await?.setting(INITIAL_WINDOW_SIZE), Some(16 << 10));
    Ok(running)
}
