//! Bytes without end, from the backend to the client.

use super::{CONNECTIONS, Meter, ways};
use crate::contestant::Running;
use crate::figures::Round;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use portcullis_tests::ztunnel::TunnelStream;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

/// Part of the time that is carried before it counts.
const WARM_UP: u32 = 10;

pub(super) async fn carry(tunnels: usize, running: &Running, time: Duration) -> Result<Round> {
    let ways = ways(running, CONNECTIONS.min(tunnels)).await?;
    let mut streams = Vec::with_capacity(tunnels);
    for way in ways.iter().cycle().take(tunnels) {
        let mut stream = way.tunnel().await?;
        stream.send(Bytes::from_static(b"go")).await?;
        streams.push(stream);
    }
    let (_, streams) = together(streams, time / WARM_UP).await?;
    let meter = Meter::start(running)?;
    let (bytes, _streams) = together(streams, time).await?;
    Ok(meter.stop()?.by_bytes(bytes))
}

/// Takes from all tunnels at once, since one that is not read holds up the others of its connection; how much came.
async fn together(streams: Vec<TunnelStream>, time: Duration) -> Result<(usize, Vec<TunnelStream>)> {
    let end = Instant::now() + time;
    let mut tasks: JoinSet<_> = streams.into_iter().map(|stream| take(stream, end)).collect();
    let mut bytes = 0;
    let mut streams = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (taken, stream) = done??;
        bytes += taken;
        streams.push(stream);
    }
    Ok((bytes, streams))
}

/// Stops at `end` also when nothing comes any more: those that stopped before may hold the credit of the connection.
async fn take(mut stream: TunnelStream, end: Instant) -> Result<(usize, TunnelStream)> {
    let mut taken = 0;
    while let Ok(more) = timeout_at(end.into(), next(&mut stream)).await {
        taken += more?;
        if Instant::now() >= end {
            break;
        }
    }
    Ok((taken, stream))
}

async fn next(stream: &mut TunnelStream) -> Result<usize> {
    Ok(stream.data().await.context("the stream ended")??.len())
}
