//! HTTP+SSE, the transport of 2024-11-05: the server names a URI for the client's messages, with the session in its query,
//! and answers on the stream that it named it on.

use super::screen::Unscreenable;
use crate::json::quote;
use std::ops::Range;

/// Longest URI of an `endpoint` event, in bytes.
const MAX_URI: usize = 2048;

/// What an id of ours begins with: it comes back from the server on the session's stream, with a refusal sealed in it.
pub(super) const REFUSAL: &str = "portcullis-refusal:";

/// Two parameters of a query could name the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwoSessions;

/// Where in a query the value stands that names a session: `sessionId` (TypeScript), `session_id` (Python) and whatever
/// readers could take for them.
///
/// # Errors
/// [`TwoSessions`]: which of them counts depends on the reader.
pub fn session_in_query(query: &str) -> Result<Option<Range<usize>>, TwoSessions> {
    let (mut found, mut at) = (None, 0);
    for pair in query.split(['&', ';']) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let end = at + pair.len();
        if names_session(key) && found.replace(end - value.len()..end).is_some() {
            return Err(TwoSessions);
        }
        at = end + 1;
    }
    Ok(found)
}

fn names_session(key: &str) -> bool {
    let decoded = url::form_urlencoded::parse(key.as_bytes()).next();
    decoded.is_some_and(|(key, _)| {
        let letters = key.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' '));
        letters.flat_map(char::to_lowercase).eq("sessionid".chars())
    })
}

/// The text with `value` at that place.
pub fn replaced(text: &str, place: Range<usize>, value: &str) -> String {
    let (before, after) = (text.get(..place.start), text.get(place.end..));
    [before.unwrap_or_default(), value, after.unwrap_or_default()].concat()
}

/// Where in the URI of an `endpoint` event its session stands.
///
/// # Errors
/// [`Unscreenable`] for a URI that leads past `authority`, which the stream was asked of, and for one without a session in
/// its query: nobody would own what is sent there.
pub fn endpoint_session(uri: &str, authority: &str) -> Result<Range<usize>, Unscreenable> {
    let bad = |name| Unscreenable { name };
    let plain = uri.bytes().all(|byte| byte.is_ascii_graphic()) && !uri.contains(['\\', '#']);
    if !plain || uri.len() > MAX_URI {
        return Err(bad("endpoint_uri"));
    }
    if !stays_at(uri, authority) {
        return Err(bad("endpoint_elsewhere"));
    }
    let (path, query) = uri.split_once('?').ok_or(bad("endpoint_without_session"))?;
    let place = session_in_query(query).map_err(|TwoSessions| bad("endpoint_uri"))?;
    let place = place.filter(|place| !place.is_empty()).ok_or(bad("endpoint_without_session"))?;
    let offset = path.len() + 1;
    Ok(place.start + offset..place.end + offset)
}

/// A reference to a path (RFC 3986 §4.2), or a URI of the same authority.
fn stays_at(uri: &str, authority: &str) -> bool {
    let absolute = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://"));
    match absolute {
        Some(rest) => rest.split(['/', '?']).next().is_some_and(|host| host.eq_ignore_ascii_case(authority)),
        None => {
            let first = uri.split(['/', '?']).next().unwrap_or_default();
            !uri.starts_with("//") && !first.contains(':')
        }
    }
}

/// A `ping` that every server answers on the session's stream, under an id in which the refusal of another message is
/// sealed. Whichever replica holds the stream reads it there, and tells the refusal instead.
pub fn carrier(sealed: &str) -> String {
    let id = quote(&format!("{REFUSAL}{sealed}"));
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_in_the_query_is_found_in_every_spelling() {
        for (query, value) in [
            ("sessionId=1", Some("1")),
            ("a=b&session_id=12&c", Some("12")),
            ("SESSION-ID", Some("")),
            ("sessionid=&x", Some("")),
            ("%73ession%49d=x", Some("x")),
            ("x=1;session_id=2", Some("2")),
            ("sessionId=a=b", Some("a=b")),
            ("", None),
            ("session=1", None),
            ("x=sessionId", None),
            ("my_session_id_2=1", None),
        ] {
            let place = session_in_query(query).unwrap();
            assert_eq!(place.map(|place| &query[place]), value, "{query}");
        }
        assert_eq!(session_in_query("sessionId=1&session_id=1"), Err(TwoSessions));
    }

    #[test]
    fn an_endpoint_stays_where_it_was_asked_and_has_a_session() {
        for (uri, session) in [
            ("/messages?sessionId=abc", Ok("abc")),
            ("/messages/?session_id=0f8fad5bd9cb469fa165&x=y", Ok("0f8fad5bd9cb469fa165")),
            ("messages?sessionId=abc", Ok("abc")),
            ("?sessionId=abc", Ok("abc")),
            ("http://app:8080/m?sessionId=abc", Ok("abc")),
            ("https://APP:8080/m?sessionId=abc", Ok("abc")),
            ("http://other/m?sessionId=abc", Err("endpoint_elsewhere")),
            ("http://app:8080@other/m?sessionId=abc", Err("endpoint_elsewhere")),
            ("//other/m?sessionId=abc", Err("endpoint_elsewhere")),
            ("HTTP://other/m?sessionId=abc", Err("endpoint_elsewhere")),
            ("javascript:x?sessionId=abc", Err("endpoint_elsewhere")),
            ("/\\other/m?sessionId=abc", Err("endpoint_uri")),
            ("/m?sessionId=abc#x", Err("endpoint_uri")),
            ("/m ?sessionId=abc", Err("endpoint_uri")),
            ("/m?sessionId=a&session_id=b", Err("endpoint_uri")),
            ("/m/abc", Err("endpoint_without_session")),
            ("/m?sid=abc", Err("endpoint_without_session")),
            ("/m?sessionId=", Err("endpoint_without_session")),
        ] {
            let found = endpoint_session(uri, "app:8080").map(|place| &uri[place]);
            assert_eq!(found.map_err(|error| error.name), session, "{uri}");
        }
    }
}
