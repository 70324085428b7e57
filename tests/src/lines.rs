//! Lines that a process has printed, kept, shown with a failing test, and waited for.

use crate::wait;
use anyhow::Result;
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// The lines of one output, growing while the process runs. Clones see the same lines.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Collects `output` to its end. Every line is also printed with `label`, which the test runner shows on failure.
    /// Blocks its thread.
    pub fn collect(self, label: &str, output: impl Read) {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            eprintln!("{label}: {line}");
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// The same without printing them.
    pub fn keep(self, output: impl Read) {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// All lines so far.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All lines so far that are JSON.
    #[must_use]
    pub fn json(&self) -> Vec<Value> {
        self.all().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the first line for which `wanted` returns something; lines of the past count.
    pub async fn find<T>(&self, what: &str, wanted: impl FnMut(&String) -> Option<T> + Clone) -> Result<T> {
        wait::until(&format!("a line came: {what}"), || self.all().iter().find_map(wanted.clone())).await
    }

    /// Waits for the first JSON line that `wanted` accepts; lines of the past count.
    pub async fn find_json(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(&format!("a line came: {what}"), || self.json().into_iter().find(&wanted)).await
    }
}
