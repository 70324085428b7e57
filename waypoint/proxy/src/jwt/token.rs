//! A JSON Web Token taken apart (RFC 7519 in the compact form of RFC 7515). Nothing here is trusted yet.

use agent_protocols::json::{Bounds, Document, Shape};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::keys::Algorithm;
use super::rejection::Rejection;

/// Longest token that is looked at, in bytes. A whole head may have 64 KiB.
const MAX_TOKEN: usize = 16 << 10;

/// Bounds of header and payload; both are smaller than a token anyway.
const BOUNDS: Bounds = Bounds { depth: 32, members: 1024, key: 1024 };

/// A token's parts.
#[derive(Debug)]
pub(super) struct Token<'a> {
    /// What was signed: header and payload as they came.
    pub(super) signed: &'a str,
    pub(super) signature: Vec<u8>,
    pub(super) algorithm: (Algorithm, String),
    pub(super) key_id: Option<String>,
    /// The payload as it came, base64url.
    pub(super) payload_text: &'a str,
    pub(super) payload: Map<String, Value>,
    /// Empty where it names none.
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    /// Seconds since 1970.
    pub(super) not_before: Option<i64>,
    /// Seconds since 1970.
    pub(super) expires: Option<i64>,
}

impl<'a> Token<'a> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// The first thing that is wrong with it, in the order in which Envoy looks.
    pub(super) fn parse(text: &'a str) -> Result<Self, Rejection> {
        if text.len() > MAX_TOKEN {
            return Err(Rejection::TooLarge);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Rejection::Form)?;
        let (header, payload_text) = signed.split_once('.').ok_or(Rejection::Form)?;
        if payload_text.contains('.') || [header, payload_text, signature].contains(&"") {
            return Err(Rejection::Form);
        }
        let header = decode(header).ok_or(Rejection::HeaderEncoding)?;
        let header = object(&header).ok_or(Rejection::HeaderJson)?;
        let name = text_of(&header, "alg").ok().flatten().ok_or(Rejection::NoAlgorithm)?;
        let algorithm = Algorithm::parse(&name).ok_or(Rejection::Algorithm)?;
        let key_id = text_of(&header, "kid").map_err(|_other| Rejection::KeyId)?;
        if header.contains_key("crit") {
            return Err(Rejection::Critical);
        }
        let payload = decode(payload_text).ok_or(Rejection::PayloadEncoding)?;
        let payload = object(&payload).ok_or(Rejection::PayloadJson)?;
        let issuer = text_of(&payload, "iss").map_err(|_other| Rejection::IssuerType)?.unwrap_or_default();
        text_of(&payload, "sub").map_err(|_other| Rejection::SubjectType)?;
        seconds(&payload, "iat").map_err(|_other| Rejection::IssuedType)?;
        let not_before = seconds(&payload, "nbf").map_err(|_other| Rejection::NotBeforeType)?;
        let expires = seconds(&payload, "exp").map_err(|_other| Rejection::ExpiryType)?;
        text_of(&payload, "jti").map_err(|_other| Rejection::IdType)?;
        let audiences = audiences(&payload).ok_or(Rejection::AudienceType)?;
        let signature = decode(signature).ok_or(Rejection::SignatureEncoding)?;
        Ok(Self {
            signed,
            signature,
            algorithm: (algorithm, name),
            key_id: key_id.filter(|id| !id.is_empty()),
            payload_text,
            payload,
            issuer,
            audiences,
            not_before,
            expires,
        })
    }

    /// Whether it holds now, by clocks that may differ by `skew` seconds.
    ///
    /// # Errors
    /// [`Rejection::NotYet`], [`Rejection::Expired`].
    pub(super) fn check_time(&self, now: i64, skew: i64) -> Result<(), Rejection> {
        if self.not_before.is_some_and(|from| now.saturating_add(skew) < from) {
            return Err(Rejection::NotYet);
        }
        if self.expires.is_some_and(|until| now > until.saturating_add(skew)) {
            return Err(Rejection::Expired);
        }
        Ok(())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// An object in which no member stands twice: of two, each reader takes the one it likes.
fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    let document = Document::read(bytes, &BOUNDS).ok()?;
    if document.root().shape() != Shape::Object {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

/// A member that is there and of another type.
struct OtherType;

fn text_of(object: &Map<String, Value>, name: &str) -> Result<Option<String>, OtherType> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(OtherType),
    }
}

/// NumericDate (RFC 7519 §2): fractions are cut off, as in Envoy.
#[expect(clippy::cast_possible_truncation, reason = "a date beyond i64 is as far away as its end")]
fn seconds(object: &Map<String, Value>, name: &str) -> Result<Option<i64>, OtherType> {
    match object.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => {
            let whole = number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64));
            whole.map(Some).ok_or(OtherType)
        }
        Some(_) => Err(OtherType),
    }
}

fn audiences(object: &Map<String, Value>) -> Option<Vec<String>> {
    match object.get("aud") {
        None => Some(Vec::new()),
        Some(Value::String(one)) => Some(vec![one.clone()]),
        Some(Value::Array(several)) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    const HEADER: &str = r#"{"alg":"RS256","kid":"k"}"#;

    #[test]
    fn what_is_wrong_is_told_by_name() {
        let long = "a".repeat(MAX_TOKEN + 1);
        let rows = [
            (String::new(), Rejection::Form),
            ("a".to_owned(), Rejection::Form),
            ("a.b".to_owned(), Rejection::Form),
            ("a.b.c.d".to_owned(), Rejection::Form),
            ("a..c".to_owned(), Rejection::Form),
            (format!("{}.", token(HEADER, "{}").rsplit_once('.').unwrap().0), Rejection::Form),
            (long, Rejection::TooLarge),
            ("!.e30.c2ln".to_owned(), Rejection::HeaderEncoding),
            (token("[]", "{}"), Rejection::HeaderJson),
            (token("{", "{}"), Rejection::HeaderJson),
            (token(r#"{"alg":"none","alg":"RS256"}"#, "{}"), Rejection::HeaderJson),
            (token("{}", "{}"), Rejection::NoAlgorithm),
            (token(r#"{"alg":1}"#, "{}"), Rejection::NoAlgorithm),
            (token(r#"{"alg":"none"}"#, "{}"), Rejection::Algorithm),
            (token(r#"{"alg":"NONE"}"#, "{}"), Rejection::Algorithm),
            (token(r#"{"alg":"rs256"}"#, "{}"), Rejection::Algorithm),
            (token(r#"{"alg":"RS256","kid":1}"#, "{}"), Rejection::KeyId),
            (token(r#"{"alg":"RS256","crit":["exp"]}"#, "{}"), Rejection::Critical),
            (token(HEADER, "{}").replacen(".e30.", ".!.", 1), Rejection::PayloadEncoding),
            (token(HEADER, "1"), Rejection::PayloadJson),
            (token(HEADER, r#"{"sub":"a","sub":"b"}"#), Rejection::PayloadJson),
            (token(HEADER, r#"{"sub":"a","\u0073ub":"b"}"#), Rejection::PayloadJson),
            (token(HEADER, r#"{"a":{"b":1,"b":2}}"#), Rejection::PayloadJson),
            (token(HEADER, r#"{"iss":1}"#), Rejection::IssuerType),
            (token(HEADER, r#"{"sub":["a"]}"#), Rejection::SubjectType),
            (token(HEADER, r#"{"iat":"1"}"#), Rejection::IssuedType),
            (token(HEADER, r#"{"nbf":"1"}"#), Rejection::NotBeforeType),
            (token(HEADER, r#"{"exp":"1"}"#), Rejection::ExpiryType),
            (token(HEADER, r#"{"jti":1}"#), Rejection::IdType),
            (token(HEADER, r#"{"aud":1}"#), Rejection::AudienceType),
            (token(HEADER, r#"{"aud":["a",1]}"#), Rejection::AudienceType),
            (token(HEADER, "{}").replace(".c2ln", ".c2l="), Rejection::SignatureEncoding),
        ];
        for (text, want) in rows {
            let shown = text.get(..text.len().min(80)).unwrap();
            assert_eq!(Token::parse(&text).err(), Some(want), "{shown}");
        }
    }

    #[test]
    fn a_token_holds_between_its_times_give_or_take_the_skew() {
        let text = token(HEADER, r#"{"nbf":1000,"exp":2000.9}"#);
        let token = Token::parse(&text).unwrap();
        let rows = [
            (939, Err(Rejection::NotYet)),
            (940, Ok(())),
            (1500, Ok(())),
            (2060, Ok(())),
            (2061, Err(Rejection::Expired)),
        ];
        for (now, want) in rows {
            assert_eq!(token.check_time(now, 60), want, "{now}");
        }
        for (payload, want) in [
            ("{}", Ok(())),
            (r#"{"exp":0}"#, Err(Rejection::Expired)),
            (r#"{"exp":-1e300}"#, Err(Rejection::Expired)),
            (r#"{"exp":1e300}"#, Ok(())),
            (r#"{"nbf":18446744073709551615}"#, Err(Rejection::NotYet)),
        ] {
            let text = self::token(HEADER, payload);
            assert_eq!(Token::parse(&text).unwrap().check_time(1_700_000_000, 60), want, "{payload}");
        }
    }
}
