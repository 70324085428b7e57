//! A case as a table: a line a contestant, a column a figure, and ratios to the direct connection and to each peer.

use super::{CaseReport, ContestantReport};
use crate::cases::{DIRECT, PORTCULLIS};
use crate::figures::Figure;
use std::fmt::Write as _;

/// Prints a case.
pub(crate) fn print(case: &CaseReport) {
    println!("\n{}: {}", case.name, case.about);
    print!("{}", lines(case));
    if !case.missing.is_empty() {
        println!("  not measured, because it is not there or was not asked for: {}", case.missing.join(", "));
    }
}

fn lines(case: &CaseReport) -> String {
    let figures = figures(case);
    let mut text = format!("  {:22}", "");
    for figure in &figures {
        let _ = write!(text, "{:>15}", figure.heading());
    }
    text.push('\n');
    for contestant in &case.contestants {
        let _ = write!(text, "  {:22}", contestant.name);
        for figure in &figures {
            let _ = write!(text, "{:>15}", cell(contestant, *figure));
        }
        text.push('\n');
    }
    text + &ratios(case, &figures)
}

/// How ours compares with everybody else, figure by figure.
fn ratios(case: &CaseReport, figures: &[Figure]) -> String {
    let mut text = String::new();
    let Some(ours) = case.contestant(PORTCULLIS) else { return text };
    for other in case.contestants.iter().filter(|other| other.name != PORTCULLIS) {
        let _ = write!(text, "  {:22}", format!("portcullis ÷ {}", other.name));
        for figure in figures {
            let ratio = ours.ratio(other, *figure).filter(|_| figure.compares());
            let _ = write!(text, "{:>15}", ratio.map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default());
        }
        text.push('\n');
    }
    for peer in case.contestants.iter().filter(|peer| ![DIRECT, PORTCULLIS].contains(&peer.name.as_str())) {
        let Some(direct) = case.contestant(DIRECT) else { continue };
        let _ = write!(text, "  {:22}", format!("{} ÷ direct", peer.name));
        for figure in figures {
            let ratio = peer.ratio(direct, *figure).filter(|_| figure.compares());
            let _ = write!(text, "{:>15}", ratio.map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

/// The figures that anybody has.
fn figures(case: &CaseReport) -> Vec<Figure> {
    let told = |figure: &Figure| case.contestants.iter().any(|one| one.median(*figure).is_some());
    Figure::ALL.into_iter().filter(told).collect()
}

/// A median with its spread.
fn cell(contestant: &ContestantReport, figure: Figure) -> String {
    let Some(median) = contestant.median(figure) else { return "–".to_owned() };
    let spread = contestant.spread(figure).unwrap_or(0.0) * 100.0;
    match figure {
        Figure::ProxyBusy => format!("{:.0} %", median * 100.0),
        Figure::Others => format!("{median:.2} cores"),
        Figure::CpuPer100k => number(median),
        _ => format!("{} ±{spread:.0} %", number(median)),
    }
}

/// Three digits that count, or all before the point.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
