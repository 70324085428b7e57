//! As many requests as go.

use super::sender::{Ask, Sender};
use super::{CONNECTIONS, Meter, TUNNELS, ways};
use crate::backend::App;
use crate::contestant::Running;
use crate::figures::Round;
use anyhow::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Before each window, so that connections, caches and allocators are warm.
const WARM_UP: Duration = Duration::from_millis(200);

/// Requests at once on a tunnel that allows it.
const AT_ONCE: usize = 4;

pub(super) async fn carry(ask: &Ask, running: &Running, time: Duration) -> Result<Round> {
    let mut senders = open(ask, running).await?;
    let ask = Arc::new(ask.clone());
    (_, senders) = together(senders, &ask, WARM_UP.min(time)).await?;
    let meter = Meter::start(running)?;
    let (count, _senders) = together(senders, &ask, time).await?;
    Ok(meter.stop()?.by_count(count))
}

/// Senders for as many requests at once as there are tunnels, one for each.
pub(super) async fn open(ask: &Ask, running: &Running) -> Result<Vec<Sender>> {
    let each = if ask.app == App::Http1 { 1 } else { AT_ONCE };
    let mut senders = Vec::with_capacity(TUNNELS);
    for way in ways(running, CONNECTIONS).await?.iter().cycle().take(TUNNELS / each) {
        let first = Sender::open(way, ask.app).await?;
        senders.extend((1..each).filter_map(|_| first.another()));
        senders.push(first);
    }
    Ok(senders)
}

/// Lets all senders ask for `time`; how many answers came.
async fn together(senders: Vec<Sender>, ask: &Arc<Ask>, time: Duration) -> Result<(usize, Vec<Sender>)> {
    let end = Instant::now() + time;
    let mut tasks = JoinSet::new();
    for mut sender in senders {
        let ask = ask.clone();
        tasks.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                sender.exchange(&ask).await?;
                count += 1;
            }
            anyhow::Ok((count, sender))
        });
    }
    let mut total = 0;
    let mut senders = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (count, sender) = done??;
        total += count;
        senders.push(sender);
    }
    Ok((total, senders))
}
