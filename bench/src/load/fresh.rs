//! A new stream, or a new connection, for each request.

use super::sender::{Ask, once};
use super::{CONNECTIONS, Meter, TUNNELS, ways};
use crate::contestant::{Entrance, Running, Way};
use crate::figures::Round;
use anyhow::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Part of the time that is carried before it counts.
const WARM_UP: u32 = 10;

pub(super) async fn streams(ask: &Ask, running: &Running, time: Duration) -> Result<Round> {
    let ways = ways(running, CONNECTIONS).await?;
    let ask = Arc::new(ask.clone());
    let again = async |time| {
        let mut tasks = JoinSet::new();
        for way in ways.iter().cycle().take(TUNNELS) {
            tasks.spawn(streams_on(way.clone(), ask.clone(), Instant::now() + time));
        }
        sum(tasks).await
    };
    again(time / WARM_UP).await?;
    let meter = Meter::start(running)?;
    let count = again(time).await?;
    Ok(meter.stop()?.by_count(count))
}

async fn streams_on(way: Way, ask: Arc<Ask>, end: Instant) -> Result<usize> {
    let mut count = 0;
    while Instant::now() < end {
        once(&way, &ask).await?;
        count += 1;
    }
    Ok(count)
}

pub(super) async fn connections(ask: &Ask, running: &Running, time: Duration) -> Result<Round> {
    let ask = Arc::new(ask.clone());
    let again = async |time| {
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            tasks.spawn(connections_to(running.entrance.clone(), ask.clone(), Instant::now() + time));
        }
        sum(tasks).await
    };
    again(time / WARM_UP).await?;
    let meter = Meter::start(running)?;
    let count = again(time).await?;
    Ok(meter.stop()?.by_count(count))
}

async fn connections_to(entrance: Entrance, ask: Arc<Ask>, end: Instant) -> Result<usize> {
    let mut count = 0;
    while Instant::now() < end {
        let way = entrance.connection().await?;
        once(&way, &ask).await?;
        count += 1;
    }
    Ok(count)
}

async fn sum(mut tasks: JoinSet<Result<usize>>) -> Result<usize> {
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok(count)
}
