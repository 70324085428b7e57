//! Edits of a JSON text in place: every byte that they do not name stays.

use bytes::{Bytes, BytesMut};
use std::borrow::Cow;

/// Bytes to replace, in the order of the text.
pub(super) struct Edit {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) by: Cow<'static, str>,
}

/// Cuts elements out of an array, each with the comma before or after it.
#[derive(Default)]
pub(super) struct Cut {
    last_kept: Option<usize>,
    denied: Option<(usize, usize)>,
}

impl Cut {
    /// Whether all that was there is to go.
    pub(super) fn leaves_nothing(&self) -> bool {
        self.denied.is_some() && self.last_kept.is_none()
    }

    pub(super) fn keep(&mut self, (start, end): (usize, usize), edits: &mut Vec<Edit>) {
        if let Some((from, _)) = self.denied.take() {
            edits.push(Edit { start: from, end: start, by: Cow::Borrowed("") });
        }
        self.last_kept = Some(end);
    }

    pub(super) fn hide(&mut self, (start, end): (usize, usize)) {
        self.denied = Some((self.denied.map_or(start, |(from, _)| from), end));
    }

    pub(super) fn finish(self, edits: &mut Vec<Edit>) {
        if let Some((from, end)) = self.denied {
            edits.push(Edit { start: self.last_kept.unwrap_or(from), end, by: Cow::Borrowed("") });
        }
    }
}

/// The text with its edits; `None` where there are none.
pub(super) fn apply(body: &[u8], edits: &[Edit]) -> Option<Bytes> {
    if edits.is_empty() {
        return None;
    }
    let mut out = BytesMut::with_capacity(body.len() + edits.len() * 2);
    let mut at = 0;
    for edit in edits {
        out.extend_from_slice(body.get(at..edit.start).unwrap_or(&[]));
        out.extend_from_slice(edit.by.as_bytes());
        at = edit.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or(&[]));
    Some(out.freeze())
}
