//! JSON Web Tokens of requests (Istio `RequestAuthentication`), as Envoy's `jwt_authn` verifies them.
//!
//! A request without a token passes and has no claims. One with a token passes only if the token is good, and then the
//! policies see its claims. Two tokens that differ are refused: Istio leaves open which of them would count.

mod cache;
mod fetch;
mod keys;
mod locations;
mod rejection;
mod remote;
mod rule;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod through_clusters;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};
use serde_json::Value;
use waypoint_model::JwtRule;

use crate::sessions::User;
pub(crate) use cache::Cache;
pub use rejection::Rejection;
pub(crate) use remote::{RemoteKeys, Source, Way};
use rule::Rule;
use token::Token;

/// Keys that are fetched, by where from.
pub(crate) type Fetched = HashMap<Source, Arc<RemoteKeys>>;

/// The tokens that one port accepts, compiled.
pub(crate) struct Authentication {
    /// What it was compiled from.
    written: Vec<Arc<JwtRule>>,
    rules: Vec<Rule>,
    /// Request headers that only we may set.
    outputs: Vec<HeaderName>,
    /// Tells its entries in the cache from those of other ports.
    id: u128,
    cache: Cache,
    /// A rule that cannot be compiled: nothing is let through that it might have refused.
    broken: bool,
}

/// A token that was verified. Only [`Authentication`] makes one.
#[derive(Debug)]
pub(crate) struct Verified {
    /// The payload as policies see it.
    claims: Value,
    /// Last second of its time, the skew of clocks included.
    until: Option<i64>,
    /// Request headers that tell of it.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the token goes on to the service.
    forward: bool,
    token: Box<str>,
    /// [`Authentication::id`] of the rules that it is good by.
    rules: u128,
    /// Rules that look where it stood.
    at: Vec<usize>,
}

impl Verified {
    pub(crate) fn claims(&self) -> &Value {
        &self.claims
    }

    /// Whom it names. Without a subject it is anybody of its issuer's.
    pub(crate) fn user(&self) -> User {
        let text =
            |claim: &str| self.claims.get(claim).and_then(Value::as_str).unwrap_or_default().to_owned();
        User { issuer: text("iss"), subject: text("sub") }
    }

    /// Whether its time is not over.
    pub(crate) fn is_current(&self) -> bool {
        self.until.is_none_or(|until| now() <= until)
    }

    /// Waits for the end of its time, if it has one that lies ahead. Cancel safe.
    pub(crate) async fn ended(&self) {
        loop {
            let Some(left) = self.until.and_then(|until| u64::try_from(until.saturating_sub(now())).ok())
            else {
                return std::future::pending().await;
            };
            // The clock may be set meanwhile, so what is left is looked at again now and then.
            tokio::time::sleep(Duration::from_secs(left.saturating_add(1).min(60))).await;
            if !self.is_current() {
                return;
            }
        }
    }

    fn bytes(&self) -> usize {
        // The claims are about as large as the token they stand in, parsed a few times that.
        self.token.len() * 5 + 256
    }
}

/// A token in a request, with the rules that look there.
struct Found {
    token: String,
    at: Vec<usize>,
}

impl Authentication {
    pub(crate) fn compile(written: Vec<Arc<JwtRule>>, fetched: &mut Fetched, cache: &Cache) -> Self {
        let compiled = written.iter().map(|rule| Rule::compile(rule, fetched));
        let (mut rules, mut broken) = (Vec::new(), false);
        for rule in compiled {
            match rule {
                Some(rule) => rules.push(rule),
                None => broken = true,
            }
        }
        let outputs = rules.iter().flat_map(Rule::outputs).cloned().collect();
        Self { written, rules, outputs, id: fastrand::u128(..), cache: cache.clone(), broken }
    }

    /// What it was compiled from.
    pub(crate) fn written(&self) -> &[Arc<JwtRule>] {
        &self.written
    }

    /// Sources whose keys it uses.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.rules.iter().filter_map(Rule::source)
    }

    /// Verifies the token of a request, takes it out and sets the headers that tell of it, as its rule says. `None`: there is
    /// no token, or the request is a browser's preflight, which never bears one. Cancel safe.
    ///
    /// # Errors
    /// A [`Rejection`]: the request is to be refused.
    pub(crate) async fn authenticate(&self, parts: &mut Parts) -> Result<Option<Arc<Verified>>, Rejection> {
        for name in &self.outputs {
            remove_spellings(parts, name);
        }
        if is_preflight(parts) {
            return Ok(None);
        }
        if self.broken {
            return Err(Rejection::NoKeys);
        }
        let Some(found) = self.find(parts)? else { return Ok(None) };
        let verified = self.verify(&found).await?;
        if !verified.forward {
            let places = found.at.iter().filter_map(|rule| self.rules.get(*rule));
            places.flat_map(Rule::locations).for_each(|location| location.remove(parts));
        }
        for (name, value) in &verified.headers {
            parts.headers.append(name, value.clone());
        }
        Ok(Some(verified))
    }

    /// Whether a token that was verified some time ago, maybe by other rules, is good now. Keys that are not here verify
    /// nothing.
    pub(crate) fn still_accepts(&self, verified: &Arc<Verified>) -> bool {
        if self.broken || !verified.is_current() {
            return false;
        }
        if verified.rules == self.id {
            return true; // Keys that were fetched may have changed since; Envoy does not look again either.
        }
        // Entries of a list are asked for one by one.
        let entry = self.entry(b'w', &verified.at, &verified.token);
        if entry.as_ref().is_some_and(|entry| self.cache.get(entry).is_some()) {
            return true;
        }
        let Ok(token) = Token::parse(&verified.token) else { return false };
        let good =
            |rule: &Rule| rule.current_keys().is_some_and(|keys| rule.check(&token, &keys, now()).is_ok());
        let accepted = self.rules.iter().filter(|rule| rule.is_for(&token.issuer)).any(good);
        if let Some(entry) = entry.filter(|_| accepted) {
            self.cache.insert(entry, Arc::clone(verified));
        }
        accepted
    }

    /// What a token with these claims would be, had it been verified: `portcullis check` asks. Its headers are set.
    ///
    /// # Errors
    /// A [`Rejection`] for claims that no rule accepts.
    pub(crate) fn assume(&self, claims: &Value, parts: &mut Parts) -> Result<Arc<Verified>, Rejection> {
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
        let unsigned = format!("{}.{payload}.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#));
        let mut rejection = Rejection::Issuer;
        for (index, rule) in self.rules.iter().enumerate() {
            let token = Token::parse(&unsigned)?;
            if !rule.is_for(&token.issuer) {
                continue;
            }
            match rule.check_claims(&token, now()) {
                Ok(()) => {
                    let found = Found { token: unsigned.clone(), at: vec![index] };
                    let verified = rule.verified(token, &found, self.id);
                    for (name, value) in &verified.headers {
                        parts.headers.append(name, value.clone());
                    }
                    return Ok(Arc::new(verified));
                }
                Err(other) => rejection = other.or_worse(rejection),
            }
        }
        Err(rejection)
    }

    /// Where a token is remembered; `None` while keys are not here, since what they would verify cannot be. `kind` keeps what
    /// was watched apart from what was verified: the one may have been verified by other rules.
    fn entry(&self, kind: u8, at: &[usize], token: &str) -> Option<cache::Entry> {
        let keys: Option<Vec<_>> =
            self.rules.iter().map(|rule| rule.current_keys().map(|keys| keys.id())).collect();
        Some(cache::entry(kind, self.id, keys?.into_iter(), at, token))
    }

    fn find(&self, parts: &Parts) -> Result<Option<Found>, Rejection> {
        let mut found: Option<Found> = None;
        for (index, rule) in self.rules.iter().enumerate() {
            for token in rule.locations().flat_map(|location| location.find(parts)) {
                let found = found.get_or_insert_with(|| Found { token: token.clone(), at: Vec::new() });
                if found.token != token {
                    return Err(Rejection::Several);
                }
                if found.at.last() != Some(&index) {
                    found.at.push(index);
                }
            }
        }
        Ok(found)
    }

    async fn verify(&self, found: &Found) -> Result<Arc<Verified>, Rejection> {
        // Before the fetch, which may bring other keys.
        let entry = self.entry(b'v', &found.at, &found.token);
        let known = entry.as_ref().and_then(|entry| self.cache.get(entry));
        if let Some(verified) = known {
            return if verified.is_current() { Ok(verified) } else { Err(Rejection::Expired) };
        }
        let token = Token::parse(&found.token)?;
        let looking = found.at.iter().filter_map(|rule| self.rules.get(*rule));
        let mut rejection = Rejection::Issuer;
        for rule in looking.filter(|rule| rule.is_for(&token.issuer)) {
            let checked = match rule.keys().await {
                Ok(keys) => rule.check(&token, &keys, now()),
                // What is wrong with the token itself is told first.
                Err(fetch) => rule.check_claims(&token, now()).and(Err(fetch)),
            };
            match checked {
                Ok(()) => {
                    let verified = Arc::new(rule.verified(token, found, self.id));
                    if let Some(entry) = self.entry(b'v', &found.at, &found.token) {
                        self.cache.insert(entry, Arc::clone(&verified));
                    }
                    return Ok(verified);
                }
                Err(other) => rejection = other.or_worse(rejection),
            }
        }
        Err(rejection)
    }
}

/// A header, and what a CGI-style server takes for it.
fn remove_spellings(parts: &mut Parts, name: &HeaderName) {
    let same = |other: &&HeaderName| other.as_str().replace('_', "-") == name.as_str().replace('_', "-");
    let spellings: Vec<HeaderName> = parts.headers.keys().filter(same).cloned().collect();
    for spelling in spellings {
        parts.headers.remove(spelling);
    }
}

/// A CORS preflight (Fetch standard, *CORS-preflight request*): sent by the browser itself, without credentials.
fn is_preflight(parts: &Parts) -> bool {
    let has = |name: HeaderName| parts.headers.get(name).is_some_and(|value| !value.is_empty());
    parts.method == Method::OPTIONS && has(ORIGIN) && has(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Seconds since 1970.
fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
