//! What a route hashes, so that requests with the same key reach the same endpoint (Envoy `hash_policy`).

use std::net::IpAddr;

use http::header::{COOKIE, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use waypoint_model::HashKey;

use super::headers::Target;
use crate::routing::matching::query_value;

/// The hash of one request, and the cookie that its client is to send from now on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Affinity {
    pub(crate) hash: Option<u64>,
    cookie: Option<HeaderValue>,
}

impl Affinity {
    /// Sets the cookie, if there is one to set.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        if let Some(cookie) = self.cookie {
            headers.append(SET_COOKIE, cookie);
        }
    }
}

/// Hashes the first key that the request has; a cookie with a time to live is made where it is missing.
pub(crate) fn of(keys: &[HashKey], parts: &Parts, target: &Target, ip: IpAddr) -> Affinity {
    keys.iter().find_map(|key| one(key, parts, target, ip)).unwrap_or_default()
}

fn one(key: &HashKey, parts: &Parts, target: &Target, ip: IpAddr) -> Option<Affinity> {
    let (bytes, cookie) = match key {
        HashKey::Header(name) if matches!(name.as_str(), ":authority" | "host") => {
            (target.authority.clone().into_bytes(), None)
        }
        HashKey::Header(name) => {
            let lines: Vec<&[u8]> =
                parts.headers.get_all(name.as_str()).iter().map(HeaderValue::as_bytes).collect();
            (!lines.is_empty()).then(|| (lines.join(&b","[..]), None))?
        }
        HashKey::Query(name) => (query_value(target.query.as_deref()?, name)?.as_bytes().to_vec(), None),
        HashKey::SourceIp => (ip.to_canonical().to_string().into_bytes(), None),
        HashKey::Cookie { name, path, ttl } => match (cookie(&parts.headers, name), ttl) {
            (Some(value), _) => (value, None),
            (None, None) => return None,
            (None, Some(ttl)) => {
                let value = format!("{:016x}", fastrand::u64(..));
                let age = if ttl.is_zero() { String::new() } else { format!("; Max-Age={}", ttl.as_secs()) };
                let path = if path.is_empty() { String::new() } else { format!("; Path={path}") };
                let set = HeaderValue::try_from(format!("{name}={value}{age}{path}; HttpOnly")).ok();
                (value.into_bytes(), set)
            }
        },
    };
    Some(Affinity { hash: Some(hash(&bytes)), cookie })
}

/// The value of a cookie, without quotes (RFC 6265 §4.1.1). An empty one is none.
fn cookie(headers: &HeaderMap, wanted: &str) -> Option<Vec<u8>> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == wanted)?;
    let value = value.trim_matches('"');
    (!value.is_empty()).then(|| value.as_bytes().to_vec())
}

/// FNV-1a, 64 bits, with MurmurHash3's finalizer, since FNV alone leaves the high bits of short keys alike. Part of what
/// replicas and restarts must agree on: it may not change.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of_request(keys: &[HashKey], headers: &[(&str, &str)]) -> Affinity {
        let request = http::Request::get("/");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target =
            Target { authority: "h".into(), path: "/".into(), query: Some("q=1&r=&q=2".into()), token: None };
        of(keys, &parts, &target, "10.0.0.7".parse().unwrap())
    }

    fn cookie_key(ttl: Option<u64>) -> HashKey {
        HashKey::Cookie { name: "c".into(), path: "/p".into(), ttl: ttl.map(Duration::from_secs) }
    }

    #[test]
    fn the_first_key_that_the_request_has_is_hashed() {
        let header = || HashKey::Header("x-user".into());
        let headers = [("x-user", "alice"), ("cookie", "a=b; c=\"1\"")];
        let rows = [
            (vec![header(), HashKey::SourceIp], Some("alice")),
            (vec![HashKey::Header("x-none".into()), HashKey::SourceIp], Some("10.0.0.7")),
            (vec![HashKey::Query("q".into())], Some("1")),
            (vec![HashKey::Query("none".into())], None),
            (vec![cookie_key(None)], Some("1")),
            (vec![HashKey::Header(":authority".into())], Some("h")),
            (vec![], None),
        ];
        for (keys, want) in rows {
            let affinity = of_request(&keys, &headers);
            assert_eq!(
                affinity,
                Affinity { hash: want.map(|text| hash(text.as_bytes())), cookie: None },
                "{keys:?}"
            );
        }
    }

    #[test]
    fn a_missing_cookie_is_made_where_it_has_a_time_to_live() {
        assert_eq!(of_request(&[cookie_key(None)], &[]), Affinity::default());
        for (ttl, want) in [(60, "; Max-Age=60; Path=/p; HttpOnly"), (0, "; Path=/p; HttpOnly")] {
            let made = of_request(&[cookie_key(Some(ttl))], &[]);
            let set = made.cookie.clone().unwrap();
            let (value, rest) = set.to_str().unwrap().split_at(2 + 16);
            assert_eq!(rest, want);
            let again = of_request(&[cookie_key(Some(ttl))], &[("cookie", value)]);
            assert_eq!(
                again,
                Affinity { hash: made.hash, cookie: None },
                "the cookie leads to the same endpoint"
            );
        }
    }

    #[test]
    fn the_hash_never_changes_and_spreads() {
        assert_eq!(hash(b"alice"), 0x3507_d047_a67c_08f4);
        let tops: std::collections::HashSet<u64> =
            (0..64_u8).map(|number| hash(&[b'u', number]) >> 58).collect();
        assert!(tops.len() > 30, "64 short keys fall on {} of 64 values of the top bits", tops.len());
    }
}
