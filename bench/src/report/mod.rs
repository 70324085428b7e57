//! What a run found: kept in a file, printed as tables, compared with another run and with the goals.

mod compare;
mod goals;
mod table;

pub(crate) use compare::compare;
pub(crate) use goals::judge;
pub(crate) use table::print;

use crate::figures::{Figure, Round, median, spread};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// What was measured, and where.
    pub about: About,
    /// The cases that were carried.
    pub cases: Vec<CaseReport>,
    /// What of the goals was reached.
    #[serde(default)]
    pub goals: Vec<goals::Judged>,
}

/// What was measured, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// The commit of our binary.
    pub commit: String,
    /// Processor and system.
    pub machine: String,
    /// Versions of the peers.
    pub peers: Vec<String>,
    /// Rounds of each contestant.
    pub rounds: usize,
    /// Whether rounds were too short for figures.
    pub quick: bool,
    /// Whether the run came before other processes.
    pub first: bool,
    /// Seconds since 1970.
    pub when: u64,
}

/// One case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CaseReport {
    /// Its name.
    pub name: String,
    /// What was carried.
    pub about: String,
    /// Who carried it.
    pub contestants: Vec<ContestantReport>,
    /// Who was not there.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// One contestant of a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContestantReport {
    /// Its name.
    pub name: String,
    /// Its figures, round by round.
    pub rounds: Vec<Round>,
}

impl Report {
    /// The case of this name.
    pub(crate) fn case(&self, name: &str) -> Option<&CaseReport> {
        self.cases.iter().find(|case| case.name == name)
    }

    /// Reads a run from a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
    }

    /// Writes it to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

impl CaseReport {
    /// The contestant of this name.
    pub(crate) fn contestant(&self, name: &str) -> Option<&ContestantReport> {
        self.contestants.iter().find(|contestant| contestant.name == name)
    }
}

impl ContestantReport {
    /// A figure, round by round.
    pub(crate) fn values(&self, figure: Figure) -> Vec<f64> {
        self.rounds.iter().filter_map(|round| round.get(&figure).copied()).collect()
    }

    /// The median of a figure.
    pub(crate) fn median(&self, figure: Figure) -> Option<f64> {
        median(&self.values(figure))
    }

    /// How far the rounds of a figure lie apart, as a part of their median.
    pub(crate) fn spread(&self, figure: Figure) -> Option<f64> {
        spread(&self.values(figure))
    }

    /// The median over the rounds of the ratio to `other`, each round to the same round.
    pub(crate) fn ratio(&self, other: &Self, figure: Figure) -> Option<f64> {
        let pairs = self.values(figure).into_iter().zip(other.values(figure));
        let ratios: Vec<f64> =
            pairs.filter(|(_, other)| *other > 0.0).map(|(own, other)| own / other).collect();
        median(&ratios)
    }

    /// The median over the rounds of the difference to `other`.
    pub(crate) fn more_than(&self, other: &Self, figure: Figure) -> Option<f64> {
        let pairs = self.values(figure).into_iter().zip(other.values(figure));
        median(&pairs.map(|(own, other)| own - other).collect::<Vec<_>>())
    }
}
