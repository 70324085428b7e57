//! Headers that repeat the body (SEP-2243): they may only agree with it.

use super::exchange::Exchange;
use super::head::{Head, METHOD, NAME, PARAM_PREFIX, VERSION, text};
use super::message::Message;
use super::revision::{Era, Revision};
use crate::reply::Malformed;
use ::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

const ENCODED_START: &str = "=?base64?";
const ENCODED_END: &str = "?=";

/// Checks `Mcp-Method` and `Mcp-Name` of a modern message against its body. Only requests must carry them.
pub(super) fn check(head: &Head, message: &Message<'_>) -> Result<(), Malformed> {
    match (text(head.method.as_ref()), message.is_request()) {
        (None, true) => return Err(Malformed::header("method_header_missing")),
        (Some(header), _) if Some(header) != message.method.as_deref() => {
            return Err(Malformed::header("method_mismatch"));
        }
        _ => {}
    }
    match (text(head.name.as_ref()), message.routing_name()) {
        (None, Some(_)) if message.is_request() => Err(Malformed::header("name_header_missing")),
        (Some(header), Some(name)) if decode(header).as_deref() != Some(name) => {
            Err(Malformed::header("name_mismatch"))
        }
        _ => Ok(()),
    }
}

/// Removes or corrects headers that must not reach an MCP server as the client sent them. Call it after the request
/// was judged; `exchange` is what a POST body said, `None` where there is none or nothing hung on it.
///
/// Method overrides and upgrades go; headers with `_` that a CGI-style server takes for ours go; `Mcp-Method` and
/// `Mcp-Name` are set to what the body says where they mean nothing to the revision, and removed where the body names
/// nothing; `Mcp-Param-*` stays only in the modern era, where the server checks it. Of a body that was not read all
/// three stay in that era: its servers demand them and compare them themselves.
pub fn sanitize(headers: &mut HeaderMap, exchange: Option<&Exchange<'_>>) {
    for name in REMOVED {
        headers.remove(name);
    }
    remove_where(headers, is_alias);
    if exchange.is_none() && declares_modern(headers) {
        return;
    }
    let single = exchange.filter(|exchange| !exchange.batch).and_then(|exchange| exchange.messages.first());
    correct(headers, METHOD, single.and_then(|message| message.method.as_deref()));
    correct(headers, NAME, single.and_then(Message::routing_name));
    if exchange.is_none_or(|exchange| exchange.era == Era::Legacy) {
        remove_where(headers, |name| name.starts_with(PARAM_PREFIX));
    }
}

fn declares_modern(headers: &HeaderMap) -> bool {
    text(headers.get(&VERSION)).is_some_and(|version| version >= Revision::V2026_07_28.as_str())
}

const REMOVED: [HeaderName; 5] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("http2-settings"),
    header::UPGRADE,
];

/// A name that differs from one that decides only by `_` for `-`.
fn is_alias(name: &str) -> bool {
    const DECIDING: [&str; 6] = [
        "accept-encoding",
        "content-encoding",
        "content-length",
        "content-type",
        "last-event-id",
        "transfer-encoding",
    ];
    if !name.contains('_') {
        return false;
    }
    let dashed = name.replace('_', "-");
    dashed.starts_with("mcp-") || dashed.starts_with("x-http-method") || DECIDING.contains(&dashed.as_str())
}

fn remove_where(headers: &mut HeaderMap, mut condition: impl FnMut(&str) -> bool) {
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| condition(name.as_str())).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// A header that is there says what the body says, or goes. One that agrees stays as it is: not every server decodes
/// an encoded name, so a plain one is never re-encoded.
fn correct(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    let Some(present) = headers.get(&name) else { return };
    let agrees = value.is_some() && text(Some(present)).and_then(decode).as_deref() == value;
    if agrees {
        return;
    }
    match value.and_then(|value| HeaderValue::try_from(encode(value).as_ref()).ok()) {
        Some(value) => {
            headers.insert(name, value);
        }
        None => {
            headers.remove(name);
        }
    }
}

/// The text that a routing header stands for; `None` if it is encoded wrongly.
fn decode(value: &str) -> Option<Cow<'_, str>> {
    let encoded = value.strip_prefix(ENCODED_START).and_then(|rest| rest.strip_suffix(ENCODED_END));
    match encoded {
        None => Some(Cow::Borrowed(value)),
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok().map(Cow::Owned),
    }
}

/// A text as a routing header: plain where that is safe.
fn encode(value: &str) -> Cow<'_, str> {
    let printable = value.bytes().all(|b| (b' '..=b'~').contains(&b)) && value.trim() == value;
    if printable && !value.starts_with(ENCODED_START) && !value.is_empty() {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("{ENCODED_START}{}{ENCODED_END}", STANDARD.encode(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_exact_sentinel_is_decoded() {
        for (value, text) in [
            ("get_weather", Some("get_weather")),
            ("two words", Some("two words")),
            ("=?base64?Z2V0X9C1?=", Some("get_\u{435}")),
            ("=?base64?Z2V0?=", Some("get")),
            ("=?BASE64?Z2V0?=", Some("=?BASE64?Z2V0?=")),
            ("=?base64?Z2V0", Some("=?base64?Z2V0")),
            ("=?base64?YQ?=", None),
            ("=?base64?YQ==?=", Some("a")),
            ("=?base64?/w==?=", None),
            ("=?base64?!?=", None),
        ] {
            assert_eq!(decode(value).as_deref(), text, "{value}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_name_is_decoded_to_itself(name in "\\PC{1,40}") {
            let encoded = encode(&name).into_owned();
            prop_assert!(HeaderValue::from_str(&encoded).is_ok());
            let decoded = decode(&encoded);
            prop_assert_eq!(decoded.as_deref(), Some(name.as_str()));
        }
    }
}
