//! So many requests a second, whether or not those before are answered.
//!
//! Each tunnel has its own schedule, and a latency counts from when the request was due: a proxy that stalls is late with all
//! requests that were due meanwhile, not with one.

use super::pace::Pace;
use super::sender::{Ask, Sender};
use super::{Meter, closed};
use crate::contestant::Running;
use crate::figures::{Figure, Round, percentile};
use anyhow::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Part of the time that is carried before it counts.
const WARM_UP: u32 = 10;

pub(super) async fn carry(ask: &Ask, rate: u32, running: &Running, time: Duration) -> Result<Round> {
    let mut senders = closed::open(ask, running).await?;
    let ask = Arc::new(ask.clone());
    (_, senders) = scheduled(senders, &ask, rate, time / WARM_UP).await?;
    let meter = Meter::start(running)?;
    let (latencies, _senders) = scheduled(senders, &ask, rate, time).await?;
    let mut round = meter.stop()?.by_count(latencies.len());
    round.extend(tails(latencies));
    Ok(round)
}

/// Percentiles of latencies in µs.
pub(super) fn tails(mut latencies: Vec<f64>) -> Vec<(Figure, f64)> {
    latencies.sort_by(f64::total_cmp);
    let parts = [(Figure::P50, 0.5), (Figure::P99, 0.99), (Figure::P999, 0.999)];
    parts.into_iter().filter_map(|(figure, part)| Some((figure, percentile(&latencies, part)?))).collect()
}

/// Lets all senders ask by their schedules for `time`; all latencies in µs.
pub(super) async fn scheduled(
    senders: Vec<Sender>,
    ask: &Arc<Ask>,
    rate: u32,
    time: Duration,
) -> Result<(Vec<f64>, Vec<Sender>)> {
    let step = Duration::from_secs(1) / rate;
    let period = step * u32::try_from(senders.len())?;
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for (sender, number) in senders.into_iter().zip(0..) {
        tasks.spawn(one(sender, ask.clone(), Pace::new(step * number, period)?, end));
    }
    let mut latencies = Vec::new();
    let mut senders = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (some, sender) = done??;
        latencies.extend(some);
        senders.push(sender);
    }
    Ok((latencies, senders))
}

async fn one(mut sender: Sender, ask: Arc<Ask>, mut pace: Pace, end: Instant) -> Result<(Vec<f64>, Sender)> {
    let mut latencies = Vec::new();
    loop {
        let due = pace.tick().await?;
        if due >= end {
            return Ok((latencies, sender));
        }
        sender.exchange(&ask).await?;
        latencies.push(due.elapsed().as_secs_f64() * 1e6);
    }
}
