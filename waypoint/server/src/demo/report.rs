//! What the demo prints: sections, aligned rows, and a count of what held and what did not.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

/// Widths of the columns of a row behind its `ok`; the last one is open.
const COLUMNS: [usize; 4] = [10, 32, 28, 5];

/// Width of a section's line.
const WIDTH: usize = 100;

/// Prints as things happen.
pub(super) struct Report {
    colour: bool,
    passed: usize,
    failed: usize,
}

/// How a piece of text looks in a terminal.
#[derive(Clone, Copy)]
enum Style {
    Good,
    Bad,
    Faint,
    Strong,
}

impl Report {
    /// To standard output: colour only in a terminal, and not if `NO_COLOR` is set (no-color.org).
    pub(super) fn to_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: wanted && io::stdout().is_terminal(), passed: 0, failed: 0 }
    }

    /// A new part of the story.
    pub(super) fn section(&self, title: &str) {
        let line = "─".repeat(WIDTH.saturating_sub(title.chars().count() + 4));
        self.print(&format!(
            "\n── {} {}",
            self.styled(Style::Strong, title),
            self.styled(Style::Faint, &line)
        ));
    }

    /// A line that is no expectation.
    pub(super) fn note(&self, text: &str) {
        self.print(&format!("     {}", self.styled(Style::Faint, text)));
    }

    /// A line as it stands, for what is meant to be copied.
    pub(super) fn plain(&self, text: &str) {
        self.print(text);
    }

    /// One expectation: who, what, what came of it, verdict, and what else belongs to it. `wanted` is printed if it failed.
    pub(super) fn row(&mut self, held: bool, cells: &[&str], wanted: &str) {
        self.count(held, &columns(cells));
        if !held {
            self.print(&format!("     {}", self.styled(Style::Bad, &format!("expected: {wanted}"))));
        }
    }

    /// One expectation in a sentence.
    pub(super) fn expect(&mut self, held: bool, text: &str) {
        self.count(held, text);
    }

    /// A headline above rows.
    pub(super) fn head(&self, cells: &[&str]) {
        self.note(&columns(cells));
    }

    /// The last line.
    pub(super) fn summary(&self) {
        let Self { passed, failed, .. } = self;
        let style = if self.all_held() { Style::Good } else { Style::Bad };
        self.print(&format!("\n{}", self.styled(style, &format!("demo: {passed} passed, {failed} failed"))));
    }

    /// Whether every expectation held, and there were some.
    pub(super) fn all_held(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    fn count(&mut self, held: bool, text: &str) {
        let mark = if held {
            self.passed += 1;
            self.styled(Style::Good, "ok  ")
        } else {
            self.failed += 1;
            self.styled(Style::Bad, "FAIL")
        };
        self.print(&format!("{mark} {text}"));
    }

    fn styled(&self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Good => "32",
            Style::Bad => "1;31",
            Style::Faint => "2",
            Style::Strong => "1",
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A reader that is gone (`| head`) is no reason to stop: the exit code still tells.
    fn print(&self, line: &str) {
        let _ = writeln!(io::stdout().lock(), "{}", line.trim_end());
    }
}

/// Cells in their columns; one that is too long pushes the rest, and is never cut.
fn columns(cells: &[&str]) -> String {
    let mut line = String::new();
    for (place, cell) in cells.iter().enumerate() {
        let width = COLUMNS.get(place).copied().unwrap_or(0);
        // Writing to a String cannot fail.
        let _ = write!(line, "{cell:width$} ");
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_done_is_nothing_held() {
        let mut report = Report { colour: false, passed: 0, failed: 0 };
        assert!(!report.all_held());
        report.expect(true, "one");
        assert!(report.all_held());
        report.expect(false, "other");
        assert!(!report.all_held());
    }

    #[test]
    fn cells_stand_in_columns_and_are_never_cut() {
        assert_eq!(columns(&["coder", "x"]), "coder      x");
        let long = "y".repeat(60);
        assert!(columns(&["coder", &long, "z"]).ends_with(&format!("{long} z")));
    }
}
