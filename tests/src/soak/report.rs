//! What a soak has shown.

use super::churn::Churned;
use super::crowd::Answers;
use super::watch::{Idle, Sample, Watch, mebibytes};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Memory may grow by so much between the first and the last quarter after the warm-up: what allocators and tables of a busy
/// process move by. A leak of 50 bytes a request is beyond it in two minutes.
const GROWTH: u64 = 3 << 20;

/// Descriptors may differ by so many: a scrape of the metrics that is just open, a pool that made one more connection.
pub(super) const MORE_DESCRIPTORS: usize = 2;
const BUSY_DESCRIPTORS: usize = 20;

/// The result of a soak.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was not as it should be; empty when all was.
    pub faults: Vec<String>,
    seconds: u64,
    answers: BTreeMap<&'static str, Answers>,
    changes: Churned,
    memory: Quarters<u64>,
    descriptors: Quarters<usize>,
    descriptors_at_start: usize,
    idle: Idle,
    samples: Vec<Sample>,
}

/// Medians of the first and the last quarter of what was seen after the warm-up, and the growth between them by the hour.
#[derive(Clone, Copy, Debug, Serialize)]
struct Quarters<T> {
    first: T,
    last: T,
    growth_per_hour: f64,
}

impl Report {
    pub(super) fn of(
        duration: Duration,
        watch: Watch,
        idle: Idle,
        (answers, failures): (Vec<(&'static str, Answers)>, Vec<String>),
        changes: Churned,
        told: &[String],
        code: Option<i32>,
    ) -> Self {
        let warm = watch.samples.get(watch.samples.len() / 3..).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "bytes of one process")]
        let memory = quarters(warm, |sample| sample.resident_bytes, |bytes| bytes as f64);
        #[expect(clippy::cast_precision_loss, reason = "descriptors of one process")]
        let descriptors = quarters(warm, |sample| sample.descriptors, |count| count as f64);
        let mut faults = failures;
        let mut must = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault)
            }
        };
        for (name, answers) in &answers {
            must(answers.failed == 0, format!("{name}: {} questions failed", answers.failed));
            must(answers.good > 0, format!("{name}: no question was answered"));
        }
        let grown = memory.last.saturating_sub(memory.first);
        must(grown <= GROWTH, format!("memory grew by {:.1} MiB", mebibytes(grown)));
        let more = descriptors.last.saturating_sub(descriptors.first);
        must(more <= BUSY_DESCRIPTORS, format!("{more} more descriptors under the same load"));
        for (gauge, value) in &idle.gauges {
            must(*value <= 0.0, format!("{gauge} is {value} when nobody is there"));
        }
        let left = idle.descriptors.saturating_sub(watch.descriptors);
        must(left <= MORE_DESCRIPTORS, format!("{left} descriptors are left over"));
        must(idle.lines_dropped <= 0.0, format!("{} log lines were dropped", idle.lines_dropped));
        must(code == Some(0), format!("the waypoint ended with {code:?}"));
        let errors = told.iter().filter(|line| line.contains(" ERROR ") || line.contains("panicked"));
        errors.for_each(|line| faults.push(line.clone()));
        Self {
            faults,
            seconds: duration.as_secs(),
            answers: answers.into_iter().collect(),
            changes,
            memory,
            descriptors,
            descriptors_at_start: watch.descriptors,
            idle,
            samples: watch.samples,
        }
    }

    /// A few lines for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let answered: u64 = self.answers.values().map(|answers| answers.good).sum();
        let Churned { configurations, certificates, restarts } = self.changes;
        format!(
            "{answered} questions answered in {} s; {configurations} configurations, {certificates} certificates, {restarts} restarts\n\
             memory {:.1} MiB, later {:.1} MiB, idle {:.1} MiB; descriptors {}, later {}, idle {} (at the start {})",
            self.seconds,
            mebibytes(self.memory.first),
            mebibytes(self.memory.last),
            mebibytes(self.idle.resident_bytes),
            self.descriptors.first,
            self.descriptors.last,
            self.idle.descriptors,
            self.descriptors_at_start,
        )
    }
}

fn quarters<T: Ord + Copy + Default>(
    samples: &[Sample],
    of: impl Fn(&Sample) -> T,
    number: impl Fn(T) -> f64,
) -> Quarters<T> {
    let quarter = samples.len().div_ceil(4);
    let (early, late) = (
        samples.get(..quarter).unwrap_or_default(),
        samples.get(samples.len() - quarter..).unwrap_or_default(),
    );
    let (first, last) = (median(early.iter().map(&of)), median(late.iter().map(&of)));
    let middle = |samples: &[Sample]| samples.get(samples.len() / 2).map_or(0.0, |sample| sample.seconds);
    let hours = (middle(late) - middle(early)).max(1.0) / 3600.0;
    Quarters { first, last, growth_per_hour: (number(last) - number(first)) / hours }
}

fn median<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(bytes: impl Iterator<Item = u64>) -> Vec<Sample> {
        let sample = |(at, resident_bytes): (u32, u64)| Sample {
            seconds: f64::from(at),
            resident_bytes,
            descriptors: 9,
        };
        (0..).zip(bytes).map(sample).collect()
    }

    #[test]
    fn growth_is_told_by_the_hour_and_a_spike_is_none() {
        let seen = samples((0..100).map(|at| 1000 + at * 10));
        let memory = quarters(&seen, |sample| sample.resident_bytes, |bytes| bytes as f64);
        assert_eq!((memory.first, memory.last), (1120, 1870));
        assert!((memory.growth_per_hour - 36_000.0).abs() < 1.0, "{memory:?}");
        let spiky = samples((0..100).map(|at| if at % 20 == 19 { 90_000 } else { 1000 }));
        let memory = quarters(&spiky, |sample| sample.resident_bytes, |bytes| bytes as f64);
        assert_eq!((memory.first, memory.last), (1000, 1000));
    }

    #[test]
    fn nothing_seen_is_no_growth() {
        let memory = quarters(&[], |sample| sample.resident_bytes, |bytes| bytes as f64);
        assert_eq!((memory.first, memory.last), (0, 0));
    }
}
