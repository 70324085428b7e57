//! The place of a request in a trace, as callers tell it and upstreams are told (W3C *Trace Context*, level 1).

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::b3;
use waypoint_model::TraceForm;

pub(super) const PARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Flag of a `traceparent`: the caller records this trace.
const SAMPLED: u8 = 1;
/// The flags that are known: sampled, and a random trace id (level 2).
const KNOWN_FLAGS: u8 = 3;
/// Longest `tracestate` that is passed on: its specification asks for no more.
const LONGEST_STATE: usize = 512;

/// A span as others refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// 16 bytes, not all zero.
    pub trace_id: u128,
    /// 8 bytes, not all zero.
    pub span_id: u64,
    /// Flags of W3C's `traceparent`; the lowest says that it is recorded.
    pub flags: u8,
}

impl SpanContext {
    /// Whether the span is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Reads a `traceparent` (§3.2.2); `None` where it must be ignored.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (version, rest) = text.split_at_checked(2)?;
        let version = u8::try_from(hex(version)?).ok().filter(|version| *version != 0xff)?;
        let fields = rest.get(..53)?;
        match rest.get(53..)? {
            "" => {}
            more if version > 0 && more.starts_with('-') => {} // A later version may say more.
            _longer => return None,
        }
        let mut fields = fields.split('-');
        let ("", Some(trace), Some(span), Some(flags), None) =
            (fields.next()?, fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        let trace_id = hex(trace).filter(|id| trace.len() == 32 && *id != 0)?;
        let span_id = hex(span).filter(|id| span.len() == 16 && *id != 0)?;
        let flags = u8::try_from(hex(flags)?).ok()? & KNOWN_FLAGS;
        Some(Self { trace_id, span_id: u64::try_from(span_id).ok()?, flags })
    }

    fn traceparent(self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// A number in lower-case hexadecimal digits.
pub(super) fn hex(text: &str) -> Option<u128> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits { u128::from_str_radix(text, 16).ok() } else { None }
}

/// What a caller says of its trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// Its span.
    pub(super) parent: Option<SpanContext>,
    /// Whether it is to be recorded, where that is said: B3 can leave it open, or say nothing else.
    pub(super) sampled: Option<bool>,
    /// `tracestate`.
    pub(super) state: Option<String>,
    /// Forms beside W3C's in which it was said.
    pub(super) forms: Vec<TraceForm>,
}

impl Incoming {
    /// From a request's head: W3C's form before B3's.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let b3 = b3::read(headers);
        let Some(parent) = only(headers, &PARENT).and_then(SpanContext::parse) else { return b3 };
        Self { parent: Some(parent), sampled: Some(parent.is_sampled()), state: state(headers), ..b3 }
    }

    /// From `params._meta` of an MCP message (SEP-414).
    pub(super) fn of_meta(parent: &str, state: Option<&str>) -> Option<Self> {
        let parent = SpanContext::parse(parent)?;
        let state = state.filter(|state| state.len() <= LONGEST_STATE).map(str::to_owned);
        Some(Self { parent: Some(parent), sampled: Some(parent.is_sampled()), state, forms: Vec::new() })
    }
}

/// A header that stands there once.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(str::trim)
}

/// Several lines are one list (§3.3.1.1).
fn state(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<&str> = headers.get_all(&STATE).iter().filter_map(|line| line.to_str().ok()).collect();
    let state = lines.join(",");
    (!state.is_empty() && state.len() <= LONGEST_STATE).then_some(state)
}

/// Tells the upstream: what the caller said is replaced, in W3C's form and in each of `forms`.
pub(super) fn write(headers: &mut HeaderMap, context: SpanContext, state: Option<&str>, forms: &[TraceForm]) {
    put(headers, PARENT, &context.traceparent());
    headers.remove(&STATE);
    if let Some(state) = state {
        put(headers, STATE, state);
    }
    b3::write(headers, context, forms);
}

/// What is written is digits, or came in a header or a string without controls.
pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn head(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    #[test]
    fn a_traceparent_is_read_as_its_specification_says_or_ignored() {
        let rows = [
            (format!("00-{TRACE}-{SPAN}-01"), Some(1)),
            (format!("00-{TRACE}-{SPAN}-00"), Some(0)),
            (format!("00-{TRACE}-{SPAN}-ff"), Some(3)),
            (format!("cc-{TRACE}-{SPAN}-01"), Some(1)),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-says"), Some(1)),
            (format!("cc-{TRACE}-{SPAN}-01.what"), None),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{}-{SPAN}-01", "0".repeat(32)), None),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{SPAN}-01", TRACE.to_uppercase()), None),
            (format!("00-{}-{SPAN}0-01", &TRACE[1..]), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00_{TRACE}-{SPAN}-01"), None),
            (format!("00-+{}-{SPAN}-01", &TRACE[1..]), None),
            ("é0-".to_owned(), None),
            (String::new(), None),
        ];
        for (text, flags) in rows {
            assert_eq!(SpanContext::parse(&text).map(|context| context.flags), flags, "{text}");
        }
        let read = SpanContext::parse(&format!("00-{TRACE}-{SPAN}-01")).unwrap();
        assert_eq!(read.traceparent(), format!("00-{TRACE}-{SPAN}-01"));
    }

    #[test]
    fn two_traceparents_are_none_and_a_state_without_one_is_not_told() {
        let one = format!("00-{TRACE}-{SPAN}-01");
        let headers = head(&[("traceparent", &one), ("traceparent", &one), ("tracestate", "a=1")]);
        assert_eq!(Incoming::read(&headers), Incoming::default());
        let headers = head(&[("traceparent", &one), ("tracestate", "a=1"), ("tracestate", "b=2")]);
        assert_eq!(Incoming::read(&headers).state.as_deref(), Some("a=1,b=2"));
    }

    #[test]
    fn w3c_comes_before_b3_and_what_the_caller_said_is_replaced_in_every_form() {
        let one = format!("00-{TRACE}-{SPAN}-01");
        let b3 = format!("{}-{SPAN}-0", "a".repeat(32));
        let mut headers = head(&[("traceparent", &one), ("b3", &b3), ("x-b3-flags", "1")]);
        let incoming = Incoming::read(&headers);
        assert_eq!(incoming.parent, SpanContext::parse(&one));
        assert_eq!((incoming.sampled, incoming.forms.as_slice()), (Some(true), &[TraceForm::B3][..]));
        let own = SpanContext { trace_id: 1, span_id: 2, flags: 1 };
        write(&mut headers, own, None, &incoming.forms);
        let (trace, span) = (format!("{:032x}", 1), format!("{:016x}", 2));
        assert_eq!(
            headers,
            head(&[("traceparent", &format!("00-{trace}-{span}-01")), ("b3", &format!("{trace}-{span}-1")),])
        );
    }
}
