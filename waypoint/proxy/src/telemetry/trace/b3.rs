//! The context of a trace as Zipkin's libraries write it: B3 in one header, or in several (`openzipkin/b3-propagation`).

use http::HeaderMap;
use http::header::HeaderName;
use waypoint_model::TraceForm;

use super::context::{Incoming, SpanContext, hex, only, put};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const ALL: [HeaderName; 6] = [SINGLE, TRACE_ID, SPAN_ID, PARENT_ID, SAMPLED, FLAGS];

/// One header before several, as its specification asks.
pub(super) fn read(headers: &HeaderMap) -> Incoming {
    if let Some(incoming) = only(headers, &SINGLE).and_then(single) {
        return incoming;
    }
    multi(headers).unwrap_or_default()
}

/// `{trace}-{span}-{sampled}-{parent}`, the last two optional; or the decision alone.
fn single(text: &str) -> Option<Incoming> {
    let mut parts = text.split('-');
    let (first, span) = (parts.next()?, parts.next());
    let Some(span) = span else { return incoming(None, Some(decision(first)?), TraceForm::B3) };
    let sampled = match parts.next() {
        None => None,
        Some(told) => Some(decision(told)?),
    };
    let whole = parts.next().is_none_or(|parent| id(parent, 16).is_some()) && parts.next().is_none();
    incoming(Some((first, span)), sampled, TraceForm::B3).filter(|_| whole)
}

fn multi(headers: &HeaderMap) -> Option<Incoming> {
    let debug = only(headers, &FLAGS) == Some("1");
    let told = only(headers, &SAMPLED).and_then(decision);
    let sampled = if debug { Some(true) } else { told };
    let ids = only(headers, &TRACE_ID).zip(only(headers, &SPAN_ID));
    incoming(ids, sampled, TraceForm::B3Multi)
}

fn incoming(ids: Option<(&str, &str)>, sampled: Option<bool>, form: TraceForm) -> Option<Incoming> {
    let parent = match ids {
        None => None,
        Some((trace, span)) => {
            let trace_id = id(trace, 32).or_else(|| id(trace, 16))?;
            let span_id = u64::try_from(id(span, 16)?).ok()?;
            Some(SpanContext { trace_id, span_id, flags: u8::from(sampled == Some(true)) })
        }
    };
    let told = parent.is_some() || sampled.is_some();
    told.then(|| Incoming { parent, sampled, state: None, forms: vec![form] })
}

fn id(text: &str, digits: usize) -> Option<u128> {
    hex(text).filter(|id| text.len() == digits && *id != 0)
}

/// `d` is debug: recorded whatever else is said. Old libraries write words.
fn decision(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _unknown => None,
    }
}

/// In each of `forms`; what the caller said in others is removed, since it would name another span.
pub(super) fn write(headers: &mut HeaderMap, context: SpanContext, forms: &[TraceForm]) {
    for name in &ALL {
        headers.remove(name);
    }
    let (trace, span) = (format!("{:032x}", context.trace_id), format!("{:016x}", context.span_id));
    let sampled = if context.is_sampled() { "1" } else { "0" };
    if forms.contains(&TraceForm::B3) {
        put(headers, SINGLE, &format!("{trace}-{span}-{sampled}"));
    }
    if forms.contains(&TraceForm::B3Multi) {
        put(headers, TRACE_ID, &trace);
        put(headers, SPAN_ID, &span);
        put(headers, SAMPLED, sampled);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn ids(incoming: &Incoming) -> Option<(String, String)> {
        incoming.parent.map(|parent| (format!("{:x}", parent.trace_id), format!("{:x}", parent.span_id)))
    }

    #[test]
    fn one_header_says_ids_and_decision_or_the_decision_alone() {
        let both = Some((TRACE.to_owned(), SPAN.to_owned()));
        let rows = [
            (format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90"), Some((both.clone(), Some(true)))),
            (format!("{TRACE}-{SPAN}-d"), Some((both.clone(), Some(true)))),
            (format!("{TRACE}-{SPAN}-0"), Some((both.clone(), Some(false)))),
            (format!("{TRACE}-{SPAN}"), Some((both, None))),
            (
                format!("{}-{SPAN}-1", &TRACE[16..]),
                Some((Some((TRACE[16..].to_owned(), SPAN.to_owned())), Some(true))),
            ),
            ("0".to_owned(), Some((None, Some(false)))),
            ("d".to_owned(), Some((None, Some(true)))),
            (format!("{TRACE}-{SPAN}-2"), None),
            (format!("{TRACE}-{SPAN}-1-x"), None),
            (format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90-1"), None),
            (format!("{}-{SPAN}-1", &TRACE[1..]), None),
            ("x".to_owned(), None),
        ];
        for (text, want) in rows {
            let got = single(&text).map(|incoming| (ids(&incoming), incoming.sampled));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn several_headers_say_the_same() {
        let of = |lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::try_from(*value).unwrap());
            }
            let incoming = read(&headers);
            (incoming.parent.is_some(), incoming.sampled, incoming.forms)
        };
        let pair = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
        let with = |more: (&'static str, &'static str)| of(&[pair[0], pair[1], more]);
        let multi = vec![TraceForm::B3Multi];
        assert_eq!(with(("x-b3-sampled", "1")), (true, Some(true), multi.clone()));
        assert_eq!(with(("x-b3-sampled", "0")), (true, Some(false), multi.clone()));
        assert_eq!(with(("x-b3-flags", "1")), (true, Some(true), multi.clone()));
        assert_eq!(of(&pair), (true, None, multi.clone()));
        assert_eq!(of(&[("x-b3-sampled", "0")]), (false, Some(false), multi));
        assert_eq!(of(&[pair[0]]), (false, None, vec![]));
    }
}
