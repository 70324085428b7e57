//! What formats, filters and labels ask of a request beside what every record has. Nothing else costs a request anything.

use http::{HeaderMap, HeaderName};

use super::super::captured::{Captured, Side};
use super::facts::SERVICE_TIME;

/// Headers to be kept, and whether the time is taken that an endpoint needs.
#[derive(Debug, Default)]
pub(in super::super) struct Wants {
    request: Vec<HeaderName>,
    response: Vec<HeaderName>,
    service_time: bool,
}

impl Wants {
    /// One more header; once is enough.
    pub(super) fn header(&mut self, side: Side, name: &HeaderName) {
        self.service_time |= side == Side::Response && name.as_str() == SERVICE_TIME;
        let names = match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        };
        if !names.contains(name) {
            names.push(name.clone());
        }
    }

    /// Keeps what of a head will be told.
    pub(in super::super) fn keep(&self, side: Side, headers: &HeaderMap, into: &mut Captured) {
        let names = match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        };
        into.keep(side, names, headers);
    }

    /// Whether anybody asks how long an endpoint took.
    pub(in super::super) fn service_time(&self) -> bool {
        self.service_time
    }
}
