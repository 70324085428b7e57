//! Lines that a process has printed, kept, shown with a failing test, and waited for.

use crate::wait;
use anyhow::Result;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// The lines of one output, growing while the process runs. Clones see the same lines.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Collects `output` to its end. Every line is also printed with `label`, which the test runner shows on failure.
    pub async fn collect(self, label: String, output: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            eprintln!("{label}: {line}");
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    /// The same without printing them.
    pub async fn keep(self, output: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
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
