//! What a soak has shown.

use super::churn::Churned;
use super::crowd::{Answers, POSTS};
use super::watch::{Idle, MEBIBYTE, Sample, Watch, mebibytes};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Memory may grow by so much in the second half, whatever its length: what the allocator's heaps still move by. Some 600
/// questions are answered a second, so a leak of 30 bytes a question is beyond it in two minutes, and of 3 bytes in twenty-five.
const GROWTH: f64 = MEBIBYTE;

/// And by so much in steps: a burst that was greater than all before it makes the heaps larger once (1 MiB was seen, in twenty
/// minutes).
const RISE: f64 = 4.0 * MEBIBYTE;

/// Of longer runs so many samples of the second half are compared, spread evenly.
const COMPARED: usize = 300;

/// Descriptors may differ by so many: a scrape of the metrics that is just open, a pool that made one more connection.
pub(super) const MORE_DESCRIPTORS: usize = 2;
const BUSY_DESCRIPTORS: f64 = 20.0;

/// The result of a soak.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What was not as it should be; empty when all was.
    pub faults: Vec<String>,
    seconds: u64,
    answers: BTreeMap<&'static str, Answers>,
    changes: Churned,
    memory: Trend,
    descriptors: Trend,
    descriptors_at_start: usize,
    idle: Idle,
    samples: Vec<Sample>,
}

/// How something went in the second half of the run. The first half is the warm-up: the allocator's heaps come to the size of
/// what was ever in use at one time, and never give it back.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Trend {
    /// Median of the half.
    median: f64,
    /// From the half's begin to its end, by its slope.
    growth: f64,
    growth_per_hour: f64,
    /// From the median of the half's first eighth to that of its last, steps included.
    rise: f64,
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
        #[expect(clippy::cast_precision_loss, reason = "bytes of one process")]
        let memory = trend(&watch.samples, |sample| sample.resident_bytes as f64);
        #[expect(clippy::cast_precision_loss, reason = "descriptors of one process")]
        let descriptors = trend(&watch.samples, |sample| sample.descriptors as f64);
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
        let grown = memory.growth;
        must(grown <= GROWTH, format!("memory grew by {:.1} MiB in the second half", grown / MEBIBYTE));
        let rise = memory.rise;
        must(rise <= RISE, format!("memory rose by {:.1} MiB in the second half", rise / MEBIBYTE));
        let more = descriptors.growth;
        must(more <= BUSY_DESCRIPTORS, format!("{more:.0} more descriptors under the same load"));
        for (gauge, value) in &idle.gauges {
            must(*value <= 0.0, format!("{gauge} is {value} when nobody is there"));
        }
        let left = idle.descriptors.saturating_sub(watch.descriptors);
        must(left <= MORE_DESCRIPTORS, format!("{left} descriptors are left over"));
        let lost: u64 = answers.iter().map(|(_, answers)| answers.lost).sum();
        must(lost > 0 || changes.deaths == 0, "nothing was lost with the pods that died".into());
        for series in &idle.failed {
            must(false, format!("failed, says the waypoint: {series}"));
        }
        let posts = answers.iter().find(|(name, _)| *name == POSTS).map_or(0, |(_, answers)| answers.lost);
        #[expect(clippy::cast_precision_loss, reason = "requests of minutes")]
        let apart = (idle.lost - posts as f64).abs();
        must(apart < 0.5, format!("{posts} posts were lost, and the waypoint says {}", idle.lost));
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
        let lost: u64 = self.answers.values().map(|answers| answers.lost).sum();
        let Churned { configurations, certificates, restarts, deaths } = self.changes;
        format!(
            "{answered} questions answered in {} s, {lost} lost with pods that died; {configurations} configurations, \
             {certificates} certificates, {restarts} restarts, {deaths} deaths\n\
             second half: memory {:.1} MiB, growing by {:.2} MiB ({:.1} an hour), with steps {:.2} MiB, descriptors {}, growing by {:.1}\n\
             idle: memory {:.1} MiB, descriptors {} (at the start {}); this process was late by {:.0} ms at most",
            self.seconds,
            self.memory.median / MEBIBYTE,
            self.memory.growth / MEBIBYTE,
            self.memory.growth_per_hour / MEBIBYTE,
            self.memory.rise / MEBIBYTE,
            self.descriptors.median,
            self.descriptors.growth,
            mebibytes(self.idle.resident_bytes),
            self.idle.descriptors,
            self.descriptors_at_start,
            self.samples.iter().map(|sample| sample.late_seconds).fold(0.0, f64::max) * 1000.0,
        )
    }
}

/// The second half. Its slope is the one of those between any two samples (as Theil and Sen) that two of five lie below: one
/// step, wherever it stands, lies between half of the pairs at most, so neither it nor spikes make a slope, while what goes on
/// and on does.
fn trend(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Trend {
    let (_, half) = samples.split_at(samples.len() / 2);
    let some: Vec<_> = half.iter().step_by(half.len().div_ceil(COMPARED).max(1)).collect();
    let slopes = some.iter().enumerate().flat_map(|(at, one)| {
        let later = some.iter().skip(at + 1).filter(|other| other.seconds > one.seconds);
        later.map(|other| (of(other) - of(one)) / (other.seconds - one.seconds))
    });
    let slope = quantile(slopes, 0.4);
    let lasted = half.first().zip(half.last()).map_or(0.0, |(first, last)| last.seconds - first.seconds);
    let end = half.len().div_ceil(8);
    let (first, last) = (half.iter().take(end), half.iter().rev().take(end));
    Trend {
        median: median(half.iter().map(&of)),
        growth: slope * lasted,
        growth_per_hour: slope * 3600.0,
        rise: median(last.map(&of)) - median(first.map(&of)),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value that this share of all lies below; zero if there are none.
fn quantile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "some ten thousand")]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and below the length"
    )]
    let at = (values.len() as f64 * share) as usize;
    values.get(at).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The trend of a look each second.
    fn seen(bytes: impl Fn(u32) -> u32) -> Trend {
        let sample = |at: u32| Sample {
            seconds: f64::from(at),
            resident_bytes: bytes(at).into(),
            descriptors: 9,
            late_seconds: 0.0,
        };
        let samples: Vec<_> = (0..1000).map(sample).collect();
        trend(&samples, |sample| sample.resident_bytes as f64)
    }

    /// Below 1000, and without a pattern (the finalizer of MurmurHash3).
    fn noise(at: u32) -> u32 {
        let mixed = (at ^ (at >> 16)).wrapping_mul(0x85eb_ca6b);
        let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
        (mixed ^ (mixed >> 16)) % 1000
    }

    #[test]
    fn growth_is_told_for_the_second_half_and_by_the_hour() {
        let memory = seen(|at| 1000 + at * 10);
        assert!((memory.growth - 4990.0).abs() < 1.0, "{memory:?}");
        assert!((memory.growth_per_hour - 36_000.0).abs() < 1.0, "{memory:?}");
        assert!((memory.median - 8500.0).abs() < 1.0, "{memory:?}");
    }

    #[test]
    fn neither_the_warm_up_nor_a_spike_nor_noise_is_growth() {
        let warm_up = seen(|at| if at < 400 { at * 1000 } else { 400_000 });
        let spikes = seen(|at| if at % 20 == 19 { 900_000 } else { 1000 });
        let noise = seen(|at| 1_000_000 + noise(at));
        for memory in [warm_up, spikes, noise] {
            assert!(memory.growth.abs() < 500.0, "{memory:?}");
        }
    }

    #[test]
    fn a_step_is_a_rise_and_no_growth_wherever_it_stands() {
        for at_step in [510, 600, 700, 750, 760, 900, 990] {
            let memory = seen(|at| if at < at_step { 1000 } else { 900_000 });
            assert!(memory.growth.abs() < 500.0, "{at_step}: {memory:?}");
        }
        assert!((seen(|at| if at < 700 { 1000 } else { 900_000 }).rise - 899_000.0).abs() < 1.0);
        let stairs = seen(|at| at / 50 * 10_000);
        assert!((80_000.0..120_000.0).contains(&stairs.growth), "{stairs:?}");
    }

    #[test]
    fn a_slow_leak_below_noise_is_growth() {
        let memory = seen(|at| 1_000_000 + at * 4 + noise(at));
        assert!((1000.0..2200.0).contains(&memory.growth), "{memory:?}");
    }

    #[test]
    fn nothing_seen_is_no_growth() {
        let memory = trend(&[], |sample| sample.resident_bytes as f64);
        assert_eq!((memory.median, memory.growth), (0.0, 0.0));
    }
}
