//! What changed between two runs.

use super::{CaseReport, ContestantReport, Report, table};
use crate::figures::Figure;

/// A change that is smaller than this, or than the rounds of either run lie apart, is called noise.
const NOISE: f64 = 0.03;

/// Prints what changed from `before` to `now`: what ours takes, and its ratio to each peer of the same run, which other work on
/// the machine disturbs less.
pub(crate) fn compare(before: &Report, now: &Report) {
    println!("\nchanged since {} ({})", before.about.commit, before.about.machine);
    for case in &now.cases {
        match before.case(&case.name) {
            Some(earlier) => changes(earlier, case).iter().for_each(|line| println!("  {line}")),
            None => println!("  {}: not in the run before", case.name),
        }
    }
    for case in before.cases.iter().filter(|case| now.case(&case.name).is_none()) {
        println!("  {}: not in this run", case.name);
    }
}

fn changes(before: &CaseReport, now: &CaseReport) -> Vec<String> {
    let mut lines = Vec::new();
    for contestant in now.contestants.iter().filter(|one| one.name.starts_with("portcullis")) {
        let Some(earlier) = before.contestant(&contestant.name) else { continue };
        for figure in Figure::ALL.into_iter().filter(|figure| figure.compares()) {
            let what = format!("{} {} {}", now.name, contestant.name, figure.heading());
            let (own, theirs) = (contestant.median(figure), earlier.median(figure));
            let noise = noise(contestant, figure).max(noise(earlier, figure));
            lines.extend(change(&what, theirs, own, noise));
            for peer in now.contestants.iter().filter(|one| !one.name.starts_with("portcullis")) {
                let Some(peer_before) = before.contestant(&peer.name) else { continue };
                let what = format!("{what} ÷ {}", peer.name);
                lines.extend(change(
                    &what,
                    earlier.ratio(peer_before, figure),
                    contestant.ratio(peer, figure),
                    noise,
                ));
            }
        }
    }
    lines
}

fn noise(contestant: &ContestantReport, figure: Figure) -> f64 {
    contestant.spread(figure).unwrap_or(0.0).max(NOISE)
}

fn change(what: &str, before: Option<f64>, now: Option<f64>, noise: f64) -> Option<String> {
    let (before, now) = (before?, now?);
    let changed = now / before - 1.0;
    let verdict = if changed.abs() > noise { "" } else { "  (noise)" };
    let (from, to) = (table::number(before), table::number(now));
    Some(format!("{what:58} {from:>8} → {to:>8}  {:+6.1} %{verdict}", changed * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_are_called_noise_and_large_ones_are_not() {
        assert!(change("x", Some(100.0), Some(102.0), NOISE).unwrap().contains("(noise)"));
        let line = change("x", Some(100.0), Some(80.0), NOISE).unwrap();
        assert!(line.contains("-20.0 %") && !line.contains("noise"), "{line}");
        assert_eq!(change("x", None, Some(80.0), NOISE), None);
    }
}
