//! Mixed traffic for minutes or hours through one waypoint whose configuration, certificates and endpoints change all the time.
//!
//! [`run`] starts everything, keeps it going, prints what it sees, and says at the end what was not as it should be.

mod callers;
mod churn;
mod crowd;
mod frail;
mod report;
mod watch;

pub use report::Report;

use crate::load::site::Site;
use crate::portcullis::Portcullis;
use crate::wait;
use anyhow::{Context as _, Result};
use churn::{Churn, Churned};
use crowd::Crowd;
use frail::Frail;
use std::time::Duration;
use tokio::time::Instant;
use watch::Watch;

/// Idle upstream connections go soon, so that the end shows whether all of them do.
const SETTINGS: &str = "upstream_idle: 2000\ndrain_linger: 200\ndrain_deadline: 10000\n";

/// Runs for this long and reports. What went wrong with the waypoint is in the report, and no error.
///
/// # Errors
/// What surrounds the waypoint could not be set up, or the waypoint has ended.
pub async fn run(duration: Duration) -> Result<Report> {
    let mut site = Site::new().await?;
    let mut frail = Frail::new(&mut site).await?;
    churn::policies(&site, 0)?;
    let mut portcullis = Portcullis::start_silent(&site.run(SETTINGS)?).await.context("the waypoint")?;
    let (crowd, renewed) = Crowd::start(&site, &frail, &portcullis).await?;
    let mut watch = Watch::new(&portcullis)?;
    let churn = Churn::new(site, renewed, &portcullis)?;
    let end = Instant::now() + duration;
    let (churned, deaths, ()) = tokio::try_join!(
        churn.run_until(end),
        frail.die_until(end),
        watch.look_until(end, &portcullis, &crowd)
    )?;
    let churned = Churned { deaths, ..churned };
    // The pods stay, so that only idleness closes the connections to them.
    let site = churn.into_site();
    let callers = crowd.end().await;
    let idle = watch.idle(&portcullis).await?;
    let told = portcullis.events().all();
    let ended = wait::within("the end of the waypoint", portcullis.stop()).await??;
    drop((site, frail));
    Ok(Report::of(duration, watch, idle, callers, churned, &told, ended.code()))
}
