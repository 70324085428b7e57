//! What this process takes, by the names that Prometheus' client libraries agreed on (*Writing client libraries*, process metrics).

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Times of `/proc` are in hundredths of a second, whatever the kernel's own clock (`USER_HZ`, proc(5)).
const TICKS: f64 = 100.0;

/// Read anew for each scrape. Where the system does not tell, a metric is left out.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> fmt::Result {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut counter = |name, help, value: Option<f64>| match value {
            Some(value) => write(&mut out, name, help, MetricType::Counter, &ConstCounter::new(value)),
            None => Ok(()),
        };
        counter(
            "process_cpu_seconds",
            "CPU time spent, of all threads, by user and system",
            cpu_seconds(&stat),
        )?;
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let gauges = [
            ("process_resident_memory_bytes", "Memory held", kibibytes(&status, "VmRSS:")),
            ("process_virtual_memory_bytes", "Address space reserved", kibibytes(&status, "VmSize:")),
            ("process_threads", "Threads", number(&status, "Threads:")),
            ("process_open_fds", "Open files, sockets and pipes", open_files()),
            ("process_max_fds", "Bound of open files", number(&limits, "Max open files")),
            ("process_start_time_seconds", "When it was started, in Unix time", started(&stat, &boot)),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                write(&mut out, name, help, MetricType::Gauge, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

fn write(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(out.encode_descriptor(name, help, None, kind)?)
}

/// A field of `/proc/self/stat` by its number in proc(5), from the third on: the second is a name that may hold anything.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS)
}

fn started(stat: &str, boot: &str) -> Option<f64> {
    Some(number(boot, "btime")? + field(stat, 22)? / TICKS)
}

/// The first number behind `name` at a line's beginning.
fn number(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn kibibytes(status: &str, name: &str) -> Option<f64> {
    Some(number(status, name)? * 1024.0)
}

fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // The folder that is being read is one of them.
    u32::try_from(count.saturating_sub(1)).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 5 0 0 0 150 50 0 0 20 0 4 0 1000 99 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(started(stat, "cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_010.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
        let limits = "Limit  Soft  Hard  Units\nMax open files            1024    4096   files\n";
        assert_eq!(number(limits, "Max open files"), Some(1024.0));
        assert_eq!(kibibytes("VmRSS:\t  20 kB\n", "VmRSS:"), Some(20_480.0));
    }

    #[test]
    fn this_process_tells_everything() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_virtual_memory_bytes ",
            "process_threads ",
            "process_open_fds ",
            "process_max_fds ",
            "process_start_time_seconds ",
        ] {
            let line = text.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("{name}in {text}"));
            let value: f64 = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            assert!(value >= 0.0, "{name}{value}");
            assert!(name.contains("cpu") || value > 0.0, "{name}{value}");
        }
    }
}
