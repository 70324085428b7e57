//! A file over time: what it said counts until what it says now has settled, since that may be half-written.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::document::{Contents, Document};
use super::finding::{Finding, Severity};
use super::options::Options;
use super::resource::{self, Translated};

/// A file that changes in place is believed when it was the same for this long: whoever writes it may have emptied it
/// first, and what there is of it may end just where a document does.
pub(super) const SETTLE: Duration = Duration::from_millis(200);

/// What counts of a file, with each document's translation.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) documents: Vec<(Document, Translated)>,
    pub(super) findings: Vec<Finding>,
    /// Documents of which not even kind and name could be read.
    pub(super) unreadable: Vec<usize>,
    /// What will count instead once the file was the same for a while.
    next: Option<Box<Next>>,
}

#[derive(Debug)]
struct Next {
    since: Instant,
    read: Read,
    /// How many of the documents that count were there before the file began to change.
    settled: usize,
}

impl Read {
    pub(super) fn new(file: &Arc<Path>, text: &Result<Arc<str>, String>, options: &Options) -> Self {
        let contents = match text {
            Ok(text) => Contents::read(file, text),
            Err(why) => Contents::unread(file, why.clone()),
        };
        let Contents { documents, findings, unreadable } = contents;
        let documents = documents.into_iter().map(|document| {
            let translated = resource::translate(&document, options);
            (document, translated)
        });
        Self { documents: documents.collect(), findings, unreadable, next: None }
    }

    /// What counts after the file's text became `fresh`. With `settle`, that is what it said before the change and what
    /// is new and valid: new documents do not wait, so that one that moves here from a deleted file is always in force.
    pub(super) fn replaced_by(mut self, fresh: Self, file: &Path, settle: Option<Instant>) -> Self {
        if let Some(next) = self.next.take() {
            self.documents.truncate(next.settled);
        }
        let fresh = if fresh.is_blank() { self.emptied(file) } else { fresh };
        let Some(since) = settle else { return fresh };
        let settled = self.documents.len();
        let known: BTreeSet<_> = self.documents.iter().map(|(document, _)| document.key.clone()).collect();
        let new = fresh
            .documents
            .iter()
            .filter(|(document, translated)| !known.contains(&document.key) && !translated.is_invalid());
        self.documents.extend(new.cloned());
        self.next = Some(Box::new(Next { since, read: fresh, settled }));
        self
    }

    /// Takes the file at its word if it was the same for `settle`. Tells whether it did.
    pub(super) fn settle(&mut self, now: Instant, settle: Duration) -> bool {
        let due = self.next.take_if(|next| now.saturating_duration_since(next.since) >= settle);
        due.map(|next| *self = next.read).is_some()
    }

    /// Whether it waits to be taken at its word.
    pub(super) fn is_settling(&self) -> bool {
        self.next.is_some()
    }

    /// Whether something new counts already.
    pub(super) fn is_adding(&self) -> bool {
        self.next.as_ref().is_some_and(|next| next.settled < self.documents.len())
    }

    /// An empty file is no order to drop what it said: whoever was to write it may have failed.
    fn emptied(&self, file: &Path) -> Self {
        let (documents, mut findings) = (self.documents.clone(), self.findings.clone());
        let message =
            "holds no document now: what it said stays in force. To remove that, delete the file".to_owned();
        let finding = Finding {
            severity: Severity::Error,
            file: file.to_owned(),
            document: 0,
            kind: String::new(),
            name: String::new(),
            field: None,
            message,
        };
        if !self.is_blank() && !findings.contains(&finding) {
            findings.push(finding);
        }
        Self { documents, findings, unreadable: self.unreadable.clone(), next: None }
    }

    /// Whether it says nothing at all, not even something that a waypoint does not read.
    fn is_blank(&self) -> bool {
        self.documents.is_empty() && self.unreadable.is_empty() && self.findings.is_empty()
    }
}
