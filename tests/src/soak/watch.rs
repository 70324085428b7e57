//! Looks at the waypoint from outside: memory, descriptors, its own gauges.

use super::crowd::{Answers, Crowd};
use super::frail;
use crate::portcullis::{Metrics, Portcullis, has_label};
use crate::wait;
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Pause between two looks, and looks between two lines.
const LOOK: Duration = Duration::from_secs(1);
const LINE: usize = 5;

/// How often it is seen in between whether this process itself comes to its turn in time.
const BEATS: u32 = 20;

/// Gauges that are zero when nobody is there.
const GAUGES: [&str; 3] = ["portcullis_tunnels", "portcullis_streams", "portcullis_upstream_connections"];

/// Answers by which the waypoint says that something failed, its own and those that it passes on.
const FAILED: [&str; 4] = ["500", "502", "503", "504"];

/// How Istio flags a request that was lost with its endpoint: the connection broke, or there was none.
const GONE: [&str; 2] = ["UC", "UF"];

/// What was seen in one look.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    /// Since the start.
    pub seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open files, sockets and pipes.
    pub descriptors: usize,
    /// How late this process came to its turn at most since the look before: what else the machine has to do. Certificates of
    /// seconds cannot be left in time on a machine that stands still for a second.
    pub late_seconds: f64,
}

/// What is left when everybody has gone.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Idle {
    /// What the gauges say.
    pub gauges: Vec<(&'static str, f64)>,
    /// Open files, sockets and pipes.
    pub descriptors: usize,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Access-log lines that were dropped.
    pub lines_dropped: f64,
    /// Newest configuration.
    pub generation: f64,
    /// Requests that the waypoint counted as lost with a pod that died.
    pub lost: f64,
    /// Series of all others that it counted as failed, with their number.
    pub failed: Vec<String>,
}

/// The looks so far.
pub(super) struct Watch {
    begun: Instant,
    /// Descriptors before anybody came.
    pub(super) descriptors: usize,
    pub(super) samples: Vec<Sample>,
}

impl Watch {
    pub(super) fn new(portcullis: &Portcullis) -> Result<Self> {
        Ok(Self { begun: Instant::now(), descriptors: portcullis.descriptors()?, samples: Vec::new() })
    }

    /// Looks until then, and prints a line now and then.
    pub(super) async fn look_until(
        &mut self,
        end: Instant,
        portcullis: &Portcullis,
        crowd: &Crowd,
    ) -> Result<()> {
        let mut pace = interval(LOOK / BEATS);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace.tick().await;
        while Instant::now() < end {
            let mut late = Duration::ZERO;
            for _ in 0..BEATS {
                late = late.max(pace.tick().await.elapsed());
            }
            let sample = Sample {
                late_seconds: late.as_secs_f64(),
                seconds: self.begun.elapsed().as_secs_f64(),
                resident_bytes: portcullis.resident_bytes()?,
                descriptors: portcullis.descriptors()?,
            };
            self.samples.push(sample);
            if self.samples.len().is_multiple_of(LINE) {
                self.tell(sample, &portcullis.metrics().await?, crowd);
            }
        }
        Ok(())
    }

    fn tell(&self, sample: Sample, scrape: &Metrics, crowd: &Crowd) {
        let answers = crowd.answers();
        let sum = |of: fn(&Answers) -> u64| answers.iter().map(|(_, one)| of(one)).sum::<u64>();
        let (good, lost, failed) = (sum(|one| one.good), sum(|one| one.lost), sum(|one| one.failed));
        println!(
            "{:6.0} s  {good:8} answered  {lost:4} lost  {failed:4} failed  {:6.1} MiB  {:4} descriptors  {:3} tunnels  {:4} streams  generation {}  late {:.0} ms",
            sample.seconds,
            mebibytes(sample.resident_bytes),
            sample.descriptors,
            scrape.sum("portcullis_tunnels", &[]),
            scrape.sum("portcullis_streams", &[]),
            scrape.sum("portcullis_config_generation", &[]),
            sample.late_seconds * 1000.0,
        );
    }

    /// Waits until everybody has gone, or for so long that they never will.
    pub(super) async fn idle(&self, portcullis: &Portcullis) -> Result<Idle> {
        // What is left then is in the report.
        let _ = wait::until_async("nothing is open", async || {
            let scrape = portcullis.metrics().await?;
            let open: f64 = GAUGES.iter().map(|name| scrape.sum(name, &[])).sum();
            let few = portcullis.descriptors()? <= self.descriptors + super::report::MORE_DESCRIPTORS;
            Ok((open <= 0.0 && few).then_some(()))
        })
        .await;
        let scrape = portcullis.metrics().await?;
        let (lost, failed) = failures(&scrape);
        Ok(Idle {
            gauges: GAUGES.iter().map(|name| (*name, scrape.sum(name, &[]))).collect(),
            descriptors: portcullis.descriptors()?,
            resident_bytes: portcullis.resident_bytes()?,
            lines_dropped: scrape.sum("portcullis_log_lines_dropped_total", &[]),
            generation: scrape.sum("portcullis_config_generation", &[]),
            lost,
            failed,
        })
    }
}

/// How many requests to [`frail`] failed because their endpoint was gone, and the series of all others that failed.
fn failures(scrape: &Metrics) -> (f64, Vec<String>) {
    let (mut lost, mut others) = (0.0, Vec::new());
    for (series, count) in scrape.series("istio_requests_total") {
        let any = |name: &str, values: &[&str]| values.iter().any(|value| has_label(series, name, value));
        if count <= 0.0 || !any("response_code", &FAILED) {
            continue;
        }
        if any("destination_service_name", &[frail::NAME]) && any("response_flags", &GONE) {
            lost += count;
        } else {
            others.push(format!("{series} {count}"));
        }
    }
    (lost, others)
}

/// In bytes.
pub(super) const MEBIBYTE: f64 = (1 << 20) as f64;

/// For people.
pub(super) fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let bytes = bytes as f64;
    bytes / MEBIBYTE
}
