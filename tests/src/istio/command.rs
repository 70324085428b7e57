//! Short programs that are run to their end: `ip`, `mount`, `kubectl`.

use anyhow::{Context, Result, ensure};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs `command` with `input` and returns its standard output. Blocks; for programs that take milliseconds.
///
/// # Errors
/// When it can't be started or fails, with what it said.
pub(super) fn run(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| shown.clone())?;
    let mut stdin = child.stdin.take().context("a standard input")?;
    // What is written is short enough for a pipe, so this can't wait for a program that waits for us.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{shown} ended with {}: {}", output.status, said.trim());
    written.with_context(|| shown)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `line`, words parted by spaces.
pub(super) fn run_line(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    run(command.args(words), "")
}
