//! `requestState` (2026-07-28): what a server hands to its client, to have it back with the next attempt at the same request. Its
//! client may have got it from anybody.

use super::answer::INVALID_PARAMS;
use crate::json::{Shape, Value, quote};
use crate::reply::{Malformed, Reply, error_object};
use ::http::StatusCode;
use bytes::Bytes;
use std::borrow::Cow;
use std::ops::Range;

/// A state that a request hands back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State<'b> {
    /// As its client knows it.
    pub text: Cow<'b, str>,
    place: Range<usize>,
}

impl<'b> State<'b> {
    /// `params.requestState`.
    pub(super) fn read(value: Option<Value<'_, 'b>>) -> Result<Option<Self>, Malformed> {
        let Some(value) = value.filter(|value| !value.is(Shape::Null)) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| Malformed::params("bad_request_state"))?;
        let (start, end) = value.span();
        Ok(Some(Self { text, place: start..end }))
    }

    /// The body that it was read from, with another state in its place.
    pub fn replaced(&self, body: &[u8], by: &str) -> Bytes {
        let (before, after) = (body.get(..self.place.start), body.get(self.place.end..));
        let by = quote(by);
        [before.unwrap_or_default(), by.as_bytes(), after.unwrap_or_default()].concat().into()
    }
}

/// A state that was not given to this caller for this request: as servers answer one that they did not make. `id` is raw JSON
/// text from [`super::Message::id`].
pub fn state_not_found(id: Option<&str>) -> Malformed {
    let body = error_object(id, INVALID_PARAMS, "Invalid requestState");
    Malformed::answered("request_state", INVALID_PARAMS, Reply::json(StatusCode::OK, body))
}
