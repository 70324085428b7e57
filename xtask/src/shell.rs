//! Running other programs: each is shown before it runs, and its output goes straight through.

use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program with its arguments, to be run in a folder.
pub(crate) struct Shell(Command);

impl Shell {
    /// `program` with `args`, to be run in `folder`.
    pub(crate) fn new(folder: &Path, program: impl AsRef<OsStr>, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.current_dir(folder).args(args).stdin(Stdio::null());
        Self(command)
    }

    /// One more argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }

    /// One environment variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it with its output shown.
    ///
    /// # Errors
    /// When it can't be started or ends with another status than 0.
    pub(crate) fn run(mut self) -> Result<()> {
        println!("$ {}", self.shown());
        let status = self.0.status().with_context(|| self.shown())?;
        ensure!(status.success(), "{} ended with {status}", self.shown());
        Ok(())
    }

    /// Runs it and returns its standard output.
    ///
    /// # Errors
    /// When it can't be started or ends with another status than 0.
    pub(crate) fn read(mut self) -> Result<String> {
        let output = self.0.stderr(Stdio::inherit()).output().with_context(|| self.shown())?;
        ensure!(output.status.success(), "{} ended with {}", self.shown(), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Whether it runs and ends with 0; its output is dropped.
    pub(crate) fn succeeds(mut self) -> bool {
        self.0.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    fn shown(&self) -> String {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}
