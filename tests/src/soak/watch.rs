//! Looks at the waypoint from outside: memory, descriptors, its own gauges.

use super::crowd::Crowd;
use crate::portcullis::{Metrics, Portcullis};
use crate::wait;
use anyhow::Result;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Pause between two looks, and looks between two lines.
const LOOK: Duration = Duration::from_secs(1);
const LINE: usize = 5;

/// Gauges that are zero when nobody is there.
const GAUGES: [&str; 3] = ["portcullis_tunnels", "portcullis_streams", "portcullis_upstream_connections"];

/// What was seen in one look.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    /// Since the start.
    pub seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open files, sockets and pipes.
    pub descriptors: usize,
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
        let mut pace = interval(LOOK);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace.tick().await;
        while Instant::now() < end {
            pace.tick().await;
            let sample = Sample {
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
        let (good, failed) =
            answers.iter().fold((0, 0), |(good, failed), (_, one)| (good + one.good, failed + one.failed));
        println!(
            "{:6.0} s  {good:8} answered  {failed:4} failed  {:6.1} MiB  {:4} descriptors  {:3} tunnels  {:4} streams  generation {}",
            sample.seconds,
            mebibytes(sample.resident_bytes),
            sample.descriptors,
            scrape.sum("portcullis_tunnels", &[]),
            scrape.sum("portcullis_streams", &[]),
            scrape.sum("portcullis_config_generation", &[]),
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
        Ok(Idle {
            gauges: GAUGES.iter().map(|name| (*name, scrape.sum(name, &[]))).collect(),
            descriptors: portcullis.descriptors()?,
            resident_bytes: portcullis.resident_bytes()?,
            lines_dropped: scrape.sum("portcullis_log_lines_dropped_total", &[]),
            generation: scrape.sum("portcullis_config_generation", &[]),
        })
    }
}

/// For people.
pub(super) fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let bytes = bytes as f64;
    bytes / (1 << 20) as f64
}
