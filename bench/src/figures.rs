//! What a round tells: named numbers with units, and what three of them make.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One kind of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// CPU of the proxy for one request, in µs.
    CpuMicros,
    /// The same for 100,000 requests, in seconds.
    CpuPer100k,
    /// Requests, streams or connections a second.
    PerSecond,
    /// CPU of the proxy for 10^9 bytes, in seconds.
    CpuPerGb,
    /// 10^9 bits a second.
    GbitPerSecond,
    /// Latency that half of the requests keep, in µs from when they were due.
    P50,
    /// Latency that 99 of 100 keep.
    P99,
    /// Latency that 999 of 1,000 keep.
    P999,
    /// Memory of the process without traffic, in MiB.
    BaseMib,
    /// Memory for each thing that is held open, in KiB.
    KibEach,
    /// From a changed file to the configuration that serves, in ms.
    SwapMillis,
    /// Share of its core that the proxy used.
    ProxyBusy,
    /// Cores that neither the load nor the proxy used: what else the machine did.
    Others,
}

impl Figure {
    /// All of them, in the order of the columns.
    pub(crate) const ALL: [Self; 13] = [
        Self::CpuMicros,
        Self::CpuPer100k,
        Self::PerSecond,
        Self::CpuPerGb,
        Self::GbitPerSecond,
        Self::P50,
        Self::P99,
        Self::P999,
        Self::BaseMib,
        Self::KibEach,
        Self::SwapMillis,
        Self::ProxyBusy,
        Self::Others,
    ];

    /// Its heading.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::CpuMicros => "CPU µs each",
            Self::CpuPer100k => "CPU s/100k",
            Self::PerSecond => "each/s",
            Self::CpuPerGb => "CPU s/GB",
            Self::GbitPerSecond => "Gbit/s",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::P999 => "p99.9 µs",
            Self::BaseMib => "base MiB",
            Self::KibEach => "KiB each",
            Self::SwapMillis => "swap ms",
            Self::ProxyBusy => "proxy busy",
            Self::Others => "others",
        }
    }

    /// Whether contestants are compared by it: it does not describe the run, or say again what another figure says.
    pub(crate) fn compares(self) -> bool {
        !matches!(self, Self::ProxyBusy | Self::Others | Self::CpuPer100k)
    }
}

/// The numbers of one contestant in one round.
pub(crate) type Round = BTreeMap<Figure, f64>;

/// The value in the middle; the mean of the two in the middle of an even count. Nothing of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let high = sorted.get(sorted.len() / 2)?;
    let low = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(*low, *high))
}

/// How far the least and the greatest lie apart, as a part of the median.
pub(crate) fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    (middle != 0.0).then(|| (most - least) / middle.abs())
}

/// The value that `part` of the values do not exceed; `sorted` is ascending.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "counts of samples are small, and `part` lies between 0 and 1"
    )]
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_spreads_and_percentiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(spread(&[9.0, 10.0, 11.0]), Some(0.2));
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.5), Some(50.0));
        assert_eq!(percentile(&hundred, 0.99), Some(99.0));
        assert_eq!(percentile(&hundred, 0.999), Some(100.0));
        assert_eq!(percentile(&[], 0.5), None);
    }
}
