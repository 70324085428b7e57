//! What HTTP says about a message before its body: single headers, media types, codings.

use ::http::{HeaderMap, HeaderValue, header};

/// Media type of a message, as far as MCP tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`
    Json,
    /// `text/event-stream`
    EventStream,
    /// Something else, or more than one thing.
    Other,
    /// No `Content-Type`.
    Absent,
}

/// The media type of a response. Case and parameters do not matter (RFC 9110 §8.3.1); a repeated or listed
/// `Content-Type` is [`Media::Other`].
pub fn response_media(headers: &HeaderMap) -> Media {
    match single(headers, header::CONTENT_TYPE) {
        Ok(Some(value)) => media_type(value).map_or(Media::Other, |(media, _)| media),
        Ok(None) => Media::Absent,
        Err(Repeated) => Media::Other,
    }
}

/// Whether a message is coded (`gzip`, `br`, …): its bytes are then not its content.
pub fn is_coded(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// A header that may stand once stands more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeated;

/// The only line of a header.
pub(crate) fn single<K: header::AsHeaderName>(
    headers: &HeaderMap,
    name: K,
) -> Result<Option<&HeaderValue>, Repeated> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(Repeated),
    }
}

/// Media type and `charset` of a `Content-Type` line.
///
/// `None` for what is no single media type, a comma list in particular: readers take its first or its last part.
pub(crate) fn media_type(value: &HeaderValue) -> Option<(Media, Option<&str>)> {
    essence(value).map(|(essence, charset)| (media(essence), charset))
}

/// As [`media_type`], with the type itself as written.
pub(crate) fn essence(value: &HeaderValue) -> Option<(&str, Option<&str>)> {
    let text = value.to_str().ok()?;
    let mut parts = text.split(';');
    let essence = parts.next()?.trim_matches([' ', '\t']);
    let (kind, subtype) = essence.split_once('/')?;
    if !is_token(kind) || !is_token(subtype) {
        return None;
    }
    let mut charset = None;
    for parameter in parts.map(|p| p.trim_matches([' ', '\t'])).filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=')?;
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
        // A quoted value with a separator in it would have to be parsed further: no charset or version needs one.
        if !is_token(name) || !is_token(value) {
            return None;
        }
        if name.eq_ignore_ascii_case("charset") && charset.replace(value).is_some() {
            return None;
        }
    }
    Some((essence, charset))
}

fn media(essence: &str) -> Media {
    if essence.eq_ignore_ascii_case("application/json") {
        Media::Json
    } else if essence.eq_ignore_ascii_case("text/event-stream") {
        Media::EventStream
    } else {
        Media::Other
    }
}

/// Whether `Accept` asks for an event stream by name; `*/*` does not, nor does a weight of zero.
pub(crate) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        parts.next().is_some_and(|essence| media(essence) == Media::EventStream) && !parts.any(is_zero_weight)
    })
}

fn is_zero_weight(parameter: &str) -> bool {
    let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
    weight.is_some_and(|w| w.parse::<f32>().is_ok_and(|w| w == 0.0))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn a_response_is_what_its_only_media_type_says() {
        for (lines, media) in [
            (&["application/json"][..], Media::Json),
            (&["Application/JSON; charset=utf-8"], Media::Json),
            (&["Text/Event-Stream; charset=utf-8"], Media::EventStream),
            (&["text/event-stream;"], Media::EventStream),
            (&["text/html"], Media::Other),
            (&["application/json, text/event-stream"], Media::Other),
            (&["application/json", "text/event-stream"], Media::Other),
            (&["application"], Media::Other),
            (&[], Media::Absent),
        ] {
            assert_eq!(response_media(&headers(header::CONTENT_TYPE, lines)), media, "{lines:?}");
        }
    }

    #[test]
    fn only_identity_is_uncoded() {
        for (lines, coded) in [
            (&[][..], false),
            (&["identity"], false),
            (&["Identity"], false),
            (&["gzip"], true),
            (&["identity, gzip"], true),
            (&["identity", "br"], true),
            (&[""], true),
        ] {
            assert_eq!(is_coded(&headers(header::CONTENT_ENCODING, lines)), coded, "{lines:?}");
        }
    }

    #[test]
    fn an_event_stream_is_asked_for_by_name() {
        for (lines, asks) in [
            (&["text/event-stream"][..], true),
            (&["application/json, Text/Event-Stream;q=0.5"], true),
            (&["application/json", "text/event-stream"], true),
            (&["*/*"], false),
            (&["text/*"], false),
            (&["text/event-stream;q=0"], false),
            (&["text/event-stream; q=0.000"], false),
            (&[], false),
        ] {
            assert_eq!(accepts_event_stream(&headers(header::ACCEPT, lines)), asks, "{lines:?}");
        }
    }
}
