//! The goals: what must hold, where we are going, and what a run says about it.

use super::{ContestantReport, Report, table};
use crate::cases::{DIRECT, ENVOY, ENVOY_MCP, ENVOY_MCP_DEFAULT, ENVOY_RBAC, PORTCULLIS, UNREAD};
use crate::figures::{Figure, median};
use serde::{Deserialize, Serialize};

/// How a value is found in a report.
enum Measure {
    /// Ratio of a figure to a peer's, in a case.
    Ratio(&'static str, &'static str, Figure),
    /// Ratio of what we add to the direct connection to what the peer adds.
    Added(&'static str, &'static str, Figure),
    /// Ratio of a figure of ours in one case to another case.
    Between(&'static str, &'static str, Figure),
    /// What judging adds to the same request unread, in µs.
    Judging(&'static str),
    /// A figure of ours.
    Own(&'static str, Figure),
}

/// Which side of a goal is good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    AtMost,
    AtLeast,
}

struct Goal {
    what: &'static str,
    measure: Measure,
    side: Side,
    must: f64,
    aim: f64,
    unit: &'static str,
}

/// A goal and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Judged {
    /// What is asked.
    pub what: String,
    /// What was found; nothing if the run did not measure it.
    pub value: Option<f64>,
    /// What must hold.
    pub must: String,
    /// Where we are going.
    pub aim: String,
    /// `aim met`, `must met`, `not met` or `not measured`.
    pub verdict: String,
}

const fn at_most(what: &'static str, measure: Measure, must: f64, aim: f64) -> Goal {
    Goal { what, measure, side: Side::AtMost, must, aim, unit: "×" }
}

const fn at_least(what: &'static str, measure: Measure, must: f64, aim: f64) -> Goal {
    Goal { what, measure, side: Side::AtLeast, must, aim, unit: "×" }
}

const fn in_unit(unit: &'static str, goal: Goal) -> Goal {
    Goal { unit, ..goal }
}

use Figure::{BaseMib, CpuMicros, CpuPerGb, KibEach, P50, P99, PerSecond};
use Measure::{Added, Between, Judging, Own, Ratio};

/// Issue "Under load", item 14, in its order.
const GOALS: [Goal; 26] = [
    at_most("GET saturated, 10 rules: CPU", Ratio("get-1k", ENVOY_RBAC, CpuMicros), 0.80, 0.50),
    at_most("GET at 1,000/s: CPU", Ratio("get-open-1000", ENVOY_RBAC, CpuMicros), 0.80, 0.55),
    at_most("GET at 1,000/s: p50 added to direct", Added("get-open-1000", ENVOY_RBAC, P50), 0.90, 0.65),
    at_most("GET at 1,000/s: p99 added to direct", Added("get-open-1000", ENVOY_RBAC, P99), 1.00, 0.80),
    in_unit("µs", at_most("judging 1 KiB, one long string", Judging("call-1k-text"), 10.0, 4.0)),
    in_unit("µs", at_most("judging 1 KiB, escaped text", Judging("call-1k-escaped"), 10.0, 4.0)),
    in_unit("µs", at_most("judging 1 KiB, nested objects", Judging("call-1k-nested"), 10.0, 4.0)),
    at_most("tools/call 1 KiB, string: CPU", Ratio("call-1k-text", ENVOY_MCP, CpuMicros), 0.55, 0.35),
    at_most("tools/call 1 KiB, escaped: CPU", Ratio("call-1k-escaped", ENVOY_MCP, CpuMicros), 0.55, 0.35),
    at_most("tools/call 1 KiB, nested: CPU", Ratio("call-1k-nested", ENVOY_MCP, CpuMicros), 0.55, 0.35),
    at_most("tools/call 64 KiB, string: CPU", Ratio("call-64k-text", ENVOY_MCP, CpuMicros), 0.80, 0.60),
    at_most(
        "tools/call 64 KiB, string: CPU, Envoy's first 8 KiB",
        Ratio("call-64k-text", ENVOY_MCP_DEFAULT, CpuMicros),
        0.80,
        0.60,
    ),
    at_most("tools/call 64 KiB, escaped: CPU", Ratio("call-64k-escaped", ENVOY_MCP, CpuMicros), 0.80, 0.60),
    at_most("tools/call 64 KiB, nested: CPU", Ratio("call-64k-nested", ENVOY_MCP, CpuMicros), 0.80, 0.60),
    at_most("1,000 rules against 10: CPU", Between("rules-1000", "rules-10", CpuMicros), 1.20, 1.05),
    at_most("opaque, 1 tunnel: CPU per byte", Ratio("opaque-1", ENVOY, CpuPerGb), 0.80, 0.60),
    at_most("opaque, 32 tunnels: CPU per byte", Ratio("opaque-32", ENVOY, CpuPerGb), 0.80, 0.60),
    at_most("1 MiB answers: CPU", Ratio("get-1m", ENVOY, CpuMicros), 0.80, 0.60),
    at_least("1 MiB answers: throughput", Ratio("get-1m", ENVOY, PerSecond), 1.20, 2.00),
    at_most("new stream and request: CPU", Ratio("new-stream", ENVOY, CpuMicros), 0.90, 0.60),
    at_most("new connection, stream, request: CPU", Ratio("new-connection", ENVOY, CpuMicros), 0.95, 0.70),
    in_unit("MiB", at_most("memory without traffic", Own("idle-stream-1k", BaseMib), 25.0, 20.0)),
    at_most("memory of an idle stream, of 1,000", Ratio("idle-stream-1k", ENVOY, KibEach), 0.40, 0.30),
    at_most("memory of an idle stream, of 5,000", Ratio("idle-stream-5k", ENVOY, KibEach), 0.40, 0.30),
    at_most("memory of an event stream, of 1,000", Ratio("sse-stream-1k", ENVOY, KibEach), 0.45, 0.30),
    at_most("memory of an event stream, of 5,000", Ratio("sse-stream-5k", ENVOY, KibEach), 0.45, 0.30),
];

/// What `report` says about each goal; prints it as a table.
pub(crate) fn judge(report: &Report) -> Vec<Judged> {
    println!("\n{:54} {:>10} {:>10} {:>10}  ", "goal", "found", "must", "aim");
    let judged: Vec<Judged> = GOALS.iter().map(|goal| goal.judge(report)).collect();
    for Judged { what, value, must, aim, verdict } in &judged {
        let found = value.map_or("–".to_owned(), table::number);
        println!("{what:54} {found:>10} {must:>10} {aim:>10}  {verdict}");
    }
    judged
}

impl Goal {
    fn judge(&self, report: &Report) -> Judged {
        let value = self.measure.of(report);
        let verdict = match value {
            None => "not measured",
            Some(value) if self.holds(value, self.aim) => "aim met",
            Some(value) if self.holds(value, self.must) => "must met",
            Some(_) => "NOT MET",
        };
        let sign = if self.side == Side::AtMost { "≤" } else { "≥" };
        let bound = |bound: f64| format!("{sign} {bound} {}", self.unit);
        Judged {
            what: self.what.to_owned(),
            value,
            must: bound(self.must),
            aim: bound(self.aim),
            verdict: verdict.to_owned(),
        }
    }

    fn holds(&self, value: f64, bound: f64) -> bool {
        match self.side {
            Side::AtMost => value <= bound,
            Side::AtLeast => value >= bound,
        }
    }
}

impl Measure {
    fn of(&self, report: &Report) -> Option<f64> {
        let find = |case: &str, name: &str| report.case(case)?.contestant(name);
        match self {
            Ratio(case, peer, figure) => find(case, PORTCULLIS)?.ratio(find(case, peer)?, *figure),
            Own(case, figure) => find(case, PORTCULLIS)?.median(*figure),
            Judging(case) => find(case, PORTCULLIS)?.more_than(find(case, UNREAD)?, CpuMicros),
            Between(case, other, figure) => {
                Some(find(case, PORTCULLIS)?.median(*figure)? / find(other, PORTCULLIS)?.median(*figure)?)
            }
            Added(case, peer, figure) => {
                let direct = find(case, DIRECT)?;
                added(find(case, PORTCULLIS)?, find(case, peer)?, direct, *figure)
            }
        }
    }
}

/// The median over the rounds of what ours adds to `direct`, as a part of what `peer` adds.
fn added(
    ours: &ContestantReport,
    peer: &ContestantReport,
    direct: &ContestantReport,
    figure: Figure,
) -> Option<f64> {
    let rounds = ours.values(figure).into_iter().zip(peer.values(figure)).zip(direct.values(figure));
    let ratios: Vec<f64> = rounds.map(|((ours, peer), direct)| (ours - direct) / (peer - direct)).collect();
    median(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;
    use crate::figures::Round;

    /// A report in which every contestant of every case has this much of everything in each of three rounds.
    fn report(value: impl Fn(&str) -> f64) -> Report {
        let rounds = |name: &str| {
            let round: Round = Figure::ALL.into_iter().map(|figure| (figure, value(name))).collect();
            ContestantReport { name: name.to_owned(), rounds: vec![round; 3] }
        };
        let case = |case: &cases::Case| super::super::CaseReport {
            name: case.name.clone(),
            about: String::new(),
            contestants: case.contestants.iter().map(|one| rounds(one.name)).collect(),
            missing: Vec::new(),
        };
        let about = super::super::About {
            commit: String::new(),
            machine: String::new(),
            peers: Vec::new(),
            rounds: 3,
            quick: false,
            first: false,
            when: 0,
        };
        Report { about, cases: cases::all().unwrap().iter().map(case).collect(), goals: Vec::new() }
    }

    #[test]
    fn every_goal_is_measured_by_the_cases_there_are() {
        let report = report(|name| if name == DIRECT { 1.0 } else { 2.0 });
        for judged in judge(&report) {
            assert_ne!(judged.verdict, "not measured", "{}", judged.what);
        }
    }

    #[test]
    fn a_run_without_a_case_says_that_its_goals_are_not_measured() {
        let mut report = report(|_| 1.0);
        report.cases.clear();
        assert!(judge(&report).iter().all(|judged| judged.verdict == "not measured"));
    }

    #[test]
    fn half_of_what_a_peer_takes_meets_the_first_goal() {
        let rows = [(40.0, "NOT MET"), (35.0, "must met"), (20.0, "aim met")];
        for (ours, verdict) in rows {
            let report = report(|name| if name == PORTCULLIS { ours } else { 46.0 });
            let judged = GOALS[0].judge(&report);
            assert_eq!(judged.verdict, verdict, "{ours}");
        }
    }
}
