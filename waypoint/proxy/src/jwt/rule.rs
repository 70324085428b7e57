//! One issuer's rule, compiled.

use std::collections::HashSet;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};
use waypoint_model::{Jwks, JwtRule};

use super::keys::KeySet;
use super::locations::Location;
use super::rejection::Rejection;
use super::remote::{RemoteKeys, Source};
use super::token::Token;
use super::{Fetched, Found, Verified};

pub(super) struct Rule {
    /// Empty: any.
    issuer: String,
    audiences: HashSet<String>,
    keys: Keys,
    locations: Vec<Location>,
    forward: bool,
    payload_header: Option<HeaderName>,
    claim_headers: Vec<(Vec<String>, HeaderName)>,
    space_delimited: Vec<String>,
    /// Seconds.
    skew: i64,
}

enum Keys {
    Fixed(Arc<KeySet>),
    Remote(Arc<RemoteKeys>),
}

impl Rule {
    /// `None` for a rule that names a header which cannot be.
    pub(super) fn compile(rule: &JwtRule, fetched: &mut Fetched) -> Option<Self> {
        let keys = match &rule.keys {
            Jwks::Inline(text) => Keys::Fixed(Arc::new(KeySet::parse(text.as_bytes()))),
            Jwks::Remote { uri, cluster, timeout, cache } => {
                let (uri, cluster) = (uri.clone(), cluster.clone());
                let source = Source { uri, cluster, timeout: *timeout, cache: *cache };
                let fresh = || RemoteKeys::new(source.clone());
                Keys::Remote(Arc::clone(fetched.entry(source.clone()).or_insert_with(fresh)))
            }
        };
        let payload_header = match &rule.payload_header {
            Some(name) => Some(name.parse().ok()?),
            None => None,
        };
        let claim_headers = rule.claim_headers.iter().map(|(claim, header)| {
            Some((claim.split('.').map(str::to_owned).collect(), header.parse().ok()?))
        });
        Some(Self {
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.iter().map(|audience| comparable(audience).to_owned()).collect(),
            keys,
            locations: Location::all(&rule.locations)?,
            forward: rule.forward,
            payload_header,
            claim_headers: claim_headers.collect::<Option<_>>()?,
            space_delimited: rule.space_delimited.clone(),
            skew: i64::try_from(rule.clock_skew.as_secs()).unwrap_or(i64::MAX),
        })
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload_header.iter().chain(self.claim_headers.iter().map(|(_, name)| name))
    }

    pub(super) fn locations(&self) -> impl Iterator<Item = &Location> {
        self.locations.iter()
    }

    /// Where its keys are fetched from.
    pub(super) fn source(&self) -> Option<&Source> {
        match &self.keys {
            Keys::Fixed(_) => None,
            Keys::Remote(keys) => Some(keys.source()),
        }
    }

    pub(super) fn is_for(&self, issuer: &str) -> bool {
        self.issuer.is_empty() || self.issuer == issuer
    }

    /// Its keys, fetched if need be. Cancel safe.
    pub(super) async fn keys(&self) -> Result<Arc<KeySet>, Rejection> {
        match &self.keys {
            Keys::Fixed(keys) => Ok(Arc::clone(keys)),
            Keys::Remote(keys) => keys.get().await,
        }
    }

    /// Its keys, if they are here.
    pub(super) fn current_keys(&self) -> Option<Arc<KeySet>> {
        match &self.keys {
            Keys::Fixed(keys) => Some(Arc::clone(keys)),
            Keys::Remote(keys) => keys.current(),
        }
    }

    /// Times, audience and signature, in Envoy's order.
    pub(super) fn check(&self, token: &Token<'_>, keys: &KeySet, now: i64) -> Result<(), Rejection> {
        self.check_claims(token, now)?;
        let (algorithm, name) = &token.algorithm;
        let signed = token.signed.as_bytes();
        keys.verify((*algorithm, name), token.key_id.as_deref(), signed, &token.signature)
    }

    /// What needs no key.
    pub(super) fn check_claims(&self, token: &Token<'_>, now: i64) -> Result<(), Rejection> {
        token.check_time(now, self.skew)?;
        let ours = |audience: &String| self.audiences.contains(comparable(audience));
        if self.audiences.is_empty() || token.audiences.iter().any(ours) {
            Ok(())
        } else {
            Err(Rejection::Audience)
        }
    }

    pub(super) fn verified(&self, token: Token<'_>, found: &Found, rules: u128) -> Verified {
        let mut headers = Vec::new();
        if let (Some(name), Ok(value)) = (&self.payload_header, HeaderValue::try_from(token.payload_text)) {
            headers.push((name.clone(), value));
        }
        for (claim, name) in &self.claim_headers {
            headers.extend(claim_header(&token.payload, claim).map(|value| (name.clone(), value)));
        }
        let mut claims = token.payload;
        for name in &self.space_delimited {
            if let Some(value) = claims.get_mut(name)
                && let Some(text) = value.as_str()
            {
                *value = text.split(' ').filter(|entry| !entry.is_empty()).collect();
            }
        }
        Verified {
            claims: Value::Object(claims),
            until: token.expires.map(|expires| expires.saturating_add(self.skew)),
            headers,
            forward: self.forward,
            rules,
            token: found.token.as_str().into(),
            at: found.at.clone(),
        }
    }
}

/// Without scheme and final slash, as Envoy compares audiences.
fn comparable(audience: &str) -> &str {
    let rest = audience.strip_prefix("http://").or_else(|| audience.strip_prefix("https://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// A claim as a header's value: texts, numbers and booleans, as Envoy writes them. What no header can carry is left out.
fn claim_header(payload: &Map<String, Value>, claim: &[String]) -> Option<HeaderValue> {
    let (last, outer) = claim.split_last()?;
    let object = outer.iter().try_fold(payload, |object, name| object.get(name)?.as_object())?;
    let text = match object.get(last)? {
        Value::String(text) => text.clone(),
        Value::Bool(is) => is.to_string(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()?) {
            (Some(whole), _) => whole.to_string(),
            (None, float) if float >= 0.0 && float.fract() == 0.0 && float < 1e15 => format!("{float:.0}"),
            (None, float) => format!("{float:.6}"),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_compared_without_scheme_and_final_slash() {
        let rows = [
            ("a", "a"),
            ("https://a.example/x/", "a.example/x"),
            ("http://a", "a"),
            ("a/", "a"),
            ("", ""),
            ("ftp://a", "ftp://a"),
        ];
        for (written, want) in rows {
            assert_eq!(comparable(written), want, "{written}");
        }
    }

    #[test]
    fn claims_become_header_values_as_envoy_writes_them() {
        let payload = serde_json::json!({
            "s": "text", "n": 7, "big": 18_446_744_073_709_551_615_u64, "neg": -1, "f": 1.5, "whole": 2.0,
            "t": true, "list": ["a"], "o": {"in": {"x": "deep"}}, "null": null, "empty": "", "ctl": "a\nb",
            "utf": "ä"
        });
        let rows = [
            ("s", Some("text")),
            ("n", Some("7")),
            ("big", Some("18446744073709551615")),
            ("neg", Some("-1.000000")),
            ("f", Some("1.500000")),
            ("whole", Some("2")),
            ("t", Some("true")),
            ("o.in.x", Some("deep")),
            ("utf", Some("ä")),
            ("list", None),
            ("o.in", None),
            ("o.no.x", None),
            ("s.x", None),
            ("null", None),
            ("empty", None),
            ("ctl", None),
            ("missing", None),
        ];
        for (claim, want) in rows {
            let path: Vec<String> = claim.split('.').map(str::to_owned).collect();
            let got = claim_header(payload.as_object().unwrap(), &path);
            assert_eq!(got.as_ref().map(HeaderValue::as_bytes), want.map(str::as_bytes), "{claim}");
        }
    }
}
