//! What is recorded of A2A, and of lists whatever protocol they came by.

use std::sync::atomic::Ordering;

use agent_protocols::a2a::Request;

use super::{ExchangeLog, Passing};
use crate::telemetry::{A2aRecord, Decision, RequestRecord};

impl ExchangeLog {
    /// An A2A request was read, with this much of a body.
    pub(crate) fn a2a(&mut self, request: &Request, bytes: usize) {
        self.0.seen.received.store(bytes as u64, Ordering::Relaxed);
        self.0.record.a2a = Some(A2aRecord::of(request));
    }

    /// A task that is not this identity's is refused, whatever the policies said.
    pub(crate) fn task_refused(&mut self) {
        self.0.record.decision = Decision::Denied { detail: "task_not_found".to_owned(), rule: None };
    }

    /// URLs of a card that lead past this waypoint.
    pub(crate) fn card_elsewhere(&mut self, urls: Vec<String>) {
        if let Some(a2a) = &mut self.0.record.a2a {
            a2a.card_elsewhere = urls;
        }
    }
}

/// What was left out of a list, and what stayed.
pub(super) fn listed(record: &mut RequestRecord, seen: &Passing) {
    let (hidden, kept) = (seen.hidden.load(Ordering::Relaxed), seen.kept.load(Ordering::Relaxed));
    if let Some(a2a) = &mut record.a2a {
        a2a.hidden = hidden;
    }
    if let Some(mcp) = &mut record.mcp {
        (mcp.hidden, mcp.list_entries) = (hidden, kept);
    }
}
