//! An open load while the configuration changes.

use super::sender::Ask;
use super::{Meter, closed, open};
use crate::contestant::{Control, Running};
use crate::figures::{Figure, Round, median};
use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// From one change to the next.
const APART: Duration = Duration::from_millis(500);

pub(super) async fn carry(ask: &Ask, rate: u32, running: &Running, time: Duration) -> Result<Round> {
    let waypoint = running.waypoint.as_ref().context("only our waypoint can be told to change")?;
    let senders = closed::open(ask, running).await?;
    let ask = Arc::new(ask.clone());
    let meter = Meter::start(running)?;
    let (carried, swaps) = tokio::try_join!(
        open::scheduled(senders, &ask, rate, time),
        change(waypoint, Instant::now() + time)
    )?;
    let (latencies, _senders) = carried;
    let mut round = meter.stop()?.by_count(latencies.len());
    round.extend(open::tails(latencies));
    round.insert(Figure::SwapMillis, median(&swaps).context("no change was in force in time")?);
    Ok(round)
}

/// How long each change took, in ms.
async fn change(waypoint: &Control, end: Instant) -> Result<Vec<f64>> {
    let mut swaps = Vec::new();
    while Instant::now() < end {
        let started = Instant::now();
        waypoint.change().await?;
        swaps.push(started.elapsed().as_secs_f64() * 1e3);
        sleep(APART).await;
    }
    Ok(swaps)
}
