//! Bounds of one tunnel connection and of its streams.

use anyhow::{Context as _, Result};
use portcullis_tests::application::{Application, hears, to_the_end};
use portcullis_tests::frames::{Frame, kind};
use portcullis_tests::single::{RAW, Running, Single};
use portcullis_tests::upstream::Echo;
use portcullis_tests::wait;
use std::collections::HashSet;
use tokio::io::AsyncWriteExt as _;

/// More than all buffers on the way to an application that does not read.
const MUCH: usize = 8 << 20;

const REFUSED_STREAM: u32 = 7;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

pub(crate) async fn one_more_stream_is_refused() -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start_with_settings("streams_per_connection: 100\n").await?;
    let authority = running.service.authority(RAW);
    let mut frames = running.frames().await?;
    for stream in 0..=100 {
        frames.connect(stream * 2 + 1, &authority).await?;
    }
    let reset = frames.until(kind::RST_STREAM).await?;
    assert_eq!((reset.stream, reset.word()), (201, Some(REFUSED_STREAM)));
    Ok(running)
}

pub(crate) async fn one_more_upstream_stream_has_another_connection() -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"hi").await?;
    let running = single.start_with_settings("upstream_streams_per_connection: 1\n").await?;
    let (mut one, mut other) = (running.tunnel(RAW).await?, running.tunnel(RAW).await?);
    hears(&mut one, b"hi").await?;
    hears(&mut other, b"hi").await?;
    let seen = running.pod.ztunnel.as_ref().context("in the mesh")?.saw(2).await?;
    assert_eq!(seen.iter().map(|connect| connect.connection).collect::<HashSet<_>>().len(), 2);
    Ok(running)
}

/// Writes much to an application that reads only when the bound was reached; nothing is lost.
async fn stuck(settings: &str, limit: &str) -> Result<Running> {
    let single = Single::new(false).await?;
    let app = Application::start(single.pod.port(RAW)).await?;
    let running = single.start_with_settings(settings).await?;
    let bot = running.bot()?;
    let authority = running.service.authority(RAW);
    let (other, other_tcp) = tokio::join!(bot.connect(&authority), app.accepted());
    let (tunnel, tcp) = tokio::join!(bot.connect(&authority), app.accepted());
    let (mut writers, mut readers) = (tokio::task::JoinSet::new(), Vec::new());
    for (mut tunnel, tcp) in [(other?, other_tcp?), (tunnel?, tcp?)] {
        readers.push(tcp);
        writers.spawn(async move {
            tunnel.write_all(&vec![7; MUCH]).await?;
            tunnel.shutdown().await?;
            to_the_end(&mut tunnel).await
        });
    }
    running.mesh.portcullis.metric_reaches(super::HITS, &[("limit", limit)], 1.0).await?;
    assert!(writers.try_join_next().is_none(), "its sender waits");
    // At once: one that waited for the other would hold the whole connection up.
    for read in futures_util::future::try_join_all(readers.iter_mut().map(to_the_end)).await? {
        assert_eq!(read.len(), MUCH);
    }
    drop(readers);
    while let Some(written) = wait::within("the writers", writers.join_next()).await? {
        written??;
    }
    Ok(running)
}

pub(crate) async fn a_stream_that_nobody_reads_stops_its_sender() -> Result<Running> {
    stuck("stream_window: 65535\n", "stream_window").await
}

pub(crate) async fn a_connection_that_nobody_reads_stops_its_senders() -> Result<Running> {
    stuck("stream_window: 65535\nconnection_window: 65536\n", "connection_window").await
}

/// What an application writes at once arrives whole, however small the pieces on the way.
async fn arrives_whole(settings: &str) -> Result<Running> {
    let single = Single::new(false).await?;
    let app = Application::start(single.pod.port(RAW)).await?;
    let running = single.start_with_settings(settings).await?;
    let (tunnel, tcp) = tokio::join!(running.tunnel(RAW), app.accepted());
    let (mut tunnel, mut tcp) = (tunnel?, tcp?);
    let writer = tokio::spawn(async move {
        tcp.write_all(&vec![7; MUCH]).await?;
        tcp.shutdown().await
    });
    tunnel.shutdown().await?;
    assert_eq!(to_the_end(&mut tunnel).await?.len(), MUCH, "whole");
    writer.await??;
    Ok(running)
}

pub(crate) async fn a_reader_that_is_slow_slows_its_sender() -> Result<Running> {
    arrives_whole("send_buffer: 16384\n").await
}

pub(crate) async fn a_read_is_no_larger_than_may_be() -> Result<Running> {
    arrives_whole("copy_buffer: 1024\n").await
}

pub(crate) async fn a_frame_that_is_too_large_ends_the_connection() -> Result<Running> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start_with_settings("frame: 16384\n").await?;
    let mut frames = running.frames().await?;
    frames.connect(1, &running.service.authority(RAW)).await?;
    frames.send(&Frame::new(kind::DATA, 1, vec![0; 20_000])).await?;
    let goaway = frames.until(kind::GOAWAY).await?.goaway();
    assert_eq!(goaway.map(|(_, code)| code), Some(FRAME_SIZE_ERROR));
    Ok(running)
}

pub(crate) async fn frames_that_carry_nothing_end_the_connection() -> Result<Running> {
    let running = Single::new(true).await?.start_with_settings("idle_frames: 100\n").await?;
    let mut frames = running.frames().await?;
    frames.flood(&Frame::new(kind::PING, 0, [7; 8]), 1000).await?;
    let goaway = frames.until(kind::GOAWAY).await?.goaway();
    assert_eq!(goaway.map(|(_, code)| code), Some(ENHANCE_YOUR_CALM));
    running.bot()?.dial().await?;
    Ok(running)
}
