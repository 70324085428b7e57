//! The access log of the running waypoint, as its only source of who decided what: the demo prints nothing that it did not
//! read here or in an answer.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Lines kept for somebody to ask for; older ones are forgotten, so that a load cannot fill memory.
const KEPT: usize = 1_024;

/// Envoy's wording for: ALLOW policies are attached, and none of their rules matches.
const NO_RULE: &str = "rbac_access_denied_matched_policy[none]";

/// How long a line is waited for. It is written when the exchange is over, by a thread of its own.
const PATIENCE: Duration = Duration::from_secs(3);

/// The fields of a line that the demo looks at; names as documented for operators.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(super) struct Line {
    /// `request` or `stream`.
    pub(super) kind: String,
    /// SPIFFE id of the caller, by certificate.
    pub(super) source_principal: String,
    /// Host name of the service.
    pub(super) destination_service: String,
    /// Endpoint that answered.
    pub(super) destination_workload: Option<String>,
    /// HTTP or CONNECT status.
    pub(super) response_code: u16,
    /// What decided or ended it, in Envoy's words.
    pub(super) response_code_details: Option<String>,
    /// `allow`, `deny` or `not_decided`.
    pub(super) decision: String,
    /// Rule that decided.
    pub(super) policy_rule: Option<String>,
    /// MCP method.
    pub(super) mcp_method: Option<String>,
    /// Tool, prompt or resource.
    pub(super) mcp_name: Option<String>,
    /// Entries left out of a list.
    pub(super) list_hidden: Option<usize>,
    /// Request id.
    pub(super) x_request_id: Option<String>,
    /// Milliseconds.
    pub(super) duration_ms: f64,
    /// Configuration that it was judged by.
    pub(super) generation: u64,
}

impl Line {
    /// Policy and rule without Istio's brackets: `readers rule 0`. If no rule decided, the detail that says what did.
    pub(super) fn rule(&self) -> String {
        match (self.policy_rule.as_deref(), self.detail()) {
            (Some(rule), _) => short(rule).unwrap_or_else(|| rule.to_owned()),
            (None, NO_RULE) => "no ALLOW rule".to_owned(),
            // Its name stands before its explanation.
            (None, detail) => detail.split(':').next().unwrap_or_default().to_owned(),
        }
    }

    /// Why it ended as it did.
    pub(super) fn detail(&self) -> &str {
        self.response_code_details.as_deref().unwrap_or_default()
    }
}

/// `ns[tools]-policy[readers]-rule[0]` → `readers rule 0`.
fn short(rule: &str) -> Option<String> {
    let (_, rest) = rule.split_once("]-policy[")?;
    let (policy, rest) = rest.split_once("]-rule[")?;
    Some(format!("{policy} rule {}", rest.strip_suffix(']')?))
}

/// The reading side. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Journal(Arc<Shared>);

#[derive(Default)]
struct Shared {
    lines: Mutex<VecDeque<Line>>,
    more: Notify,
}

impl Journal {
    /// Where the waypoint writes its lines.
    pub(super) fn sink(&self) -> Box<dyn Write + Send> {
        Box::new(Sink { journal: self.clone(), partial: Vec::new() })
    }

    /// The line of the request with this `x-request-id`.
    pub(super) async fn request(&self, id: &str) -> Result<Line> {
        self.wait(|line| line.x_request_id.as_deref() == Some(id))
            .await
            .with_context(|| format!("no access log line for request {id}"))
    }

    /// The line of an opaque stream of `principal`. Streams carry no id, so the oldest that nobody asked for yet is it.
    pub(super) async fn stream(&self, principal: &str) -> Result<Line> {
        self.wait(|line| line.kind == "stream" && line.source_principal == principal)
            .await
            .with_context(|| format!("no access log line for a stream of {principal}"))
    }

    /// The next line, however long it takes.
    pub(super) async fn next(&self) -> Line {
        self.take(|_| true).await
    }

    /// Forgets what nobody asked for.
    pub(super) fn clear(&self) {
        self.lines().clear();
    }

    async fn wait(&self, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
        Ok(timeout(PATIENCE, self.take(wanted)).await?)
    }

    async fn take(&self, wanted: impl Fn(&Line) -> bool) -> Line {
        loop {
            // Made before looking, so that a line that comes in between wakes it.
            let more = self.0.more.notified();
            if let Some(line) = self.find(&wanted) {
                return line;
            }
            more.await;
        }
    }

    fn find(&self, wanted: impl Fn(&Line) -> bool) -> Option<Line> {
        let mut lines = self.lines();
        let place = lines.iter().position(wanted)?;
        lines.remove(place)
    }

    fn push(&self, line: Line) {
        let mut lines = self.lines();
        while lines.len() >= KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.0.more.notify_waiters();
    }

    /// Each line is whole whenever the lock is free, also after a panic.
    fn lines(&self) -> MutexGuard<'_, VecDeque<Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writing side: cuts bytes into lines.
struct Sink {
    journal: Journal,
    partial: Vec<u8>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = serde_json::from_slice(&self.partial);
                self.partial.clear();
                self.journal.push(line?);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_found_by_its_request_id_however_it_was_cut() {
        let journal = Journal::default();
        let mut sink = journal.sink();
        for piece in [r#"{"x_request_id":"a","decision":"al"#, "low\"}\n{\"x_request_id\":\"b\"}\n"] {
            sink.write_all(piece.as_bytes()).unwrap();
        }
        assert_eq!(journal.request("b").await.unwrap().decision, "");
        assert_eq!(journal.request("a").await.unwrap().decision, "allow");
    }

    #[tokio::test]
    async fn a_line_that_comes_later_is_waited_for() {
        let journal = Journal::default();
        let mut sink = journal.sink();
        let (line, ()) = tokio::join!(journal.stream("spiffe://a/b"), async {
            tokio::task::yield_now().await;
            sink.write_all(b"{\"kind\":\"stream\",\"source_principal\":\"spiffe://a/b\"}\n").unwrap();
        });
        assert_eq!(line.unwrap().kind, "stream");
    }

    #[test]
    fn rules_are_named_as_people_say_them() {
        assert_eq!(short("ns[tools]-policy[readers]-rule[0]").as_deref(), Some("readers rule 0"));
        assert_eq!(short("something else"), None);
        for (detail, want) in
            [(NO_RULE, "no ALLOW rule"), ("session_not_found: so it is", "session_not_found")]
        {
            let line = Line { response_code_details: Some(detail.to_owned()), ..Line::default() };
            assert_eq!(line.rule(), want);
        }
    }
}
