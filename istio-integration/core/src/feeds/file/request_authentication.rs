//! RequestAuthentication: which tokens a service accepts.
//!
//! One that cannot be read as a whole refuses everything at its targets: leaving it out would let through what it stops.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use waypoint_model::{Action, Jwks, JwtLocations, JwtRule, Policy, PolicyKey};

use super::authorization_policy::{PolicyDoc, Targets, targets};
use super::decode::{Unread, decode};
use super::document::{Document, ResourceKey};
use super::duration;
use super::finding::{Remarks, Severity};

/// The tokens, and whom they are for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TokensDoc {
    pub(super) targets: Targets,
    pub(super) rules: Vec<Arc<JwtRule>>,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    jwt_rules: Vec<WrittenRule>,
    // Read by `targets`, which must also work where the rest does not.
    #[serde(rename = "targetRef")]
    _target_ref: Option<Value>,
    #[serde(rename = "targetRefs")]
    _target_refs: Option<Value>,
    #[serde(rename = "selector")]
    _selector: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenRule {
    issuer: Option<String>,
    audiences: Vec<String>,
    jwks: Option<String>,
    jwks_uri: Option<String>,
    /// The CRD has both spellings.
    #[serde(rename = "jwks_uri")]
    jwks_uri_snake: Option<String>,
    from_headers: Vec<WrittenHeader>,
    from_params: Vec<String>,
    from_cookies: Vec<String>,
    output_payload_to_header: Option<String>,
    forward_original_token: bool,
    output_claim_to_headers: Vec<WrittenClaim>,
    timeout: Option<String>,
    space_delimited_claims: Vec<String>,
}

#[derive(Deserialize)]
struct WrittenHeader {
    name: String,
    #[serde(default)]
    prefix: String,
}

#[derive(Deserialize)]
struct WrittenClaim {
    header: String,
    claim: String,
}

const UNREAD: Unread = Unread { harmless: &["status"], severity: Severity::Error };

/// One fetch of keys, where the rule says nothing (istiod).
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long fetched keys are used (istiod, `cacheDuration`).
const CACHE: Duration = Duration::from_secs(300);

/// How far clocks may differ (Envoy).
const SKEW: Duration = Duration::from_secs(60);

/// Claims that istiod has split at blanks in any case.
const SPACE_DELIMITED: [&str; 2] = ["permission", "scope"];

/// Translates a RequestAuthentication.
pub(super) fn translate(document: &Document, remarks: &mut Remarks) -> Option<TokensDoc> {
    let targets = targets(&document.body, &document.key.namespace, remarks);
    if targets == Targets::Ztunnel {
        remarks.note("spec", "has no targetRefs and concerns no waypoint");
    }
    let spec = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    if spec.jwt_rules.is_empty() {
        remarks.warning("spec.jwtRules", "is empty, so no token is looked at");
    }
    let rules = spec.jwt_rules.iter().enumerate();
    let rules = rules.filter_map(|(index, written)| {
        rule(written, &format!("spec.jwtRules[{index}]"), remarks).map(Arc::new)
    });
    Some(TokensDoc { rules: rules.collect(), targets })
}

/// What stands for one that never was usable.
pub(super) fn unusable(document: &Document, why: String) -> PolicyDoc {
    let targets = targets(&document.body, &document.key.namespace, &mut Remarks::default());
    PolicyDoc { targets, policy: refusal(&document.key, why) }
}

/// Refuses everything, in the place of the tokens of a document.
pub(super) fn refusal(key: &ResourceKey, why: String) -> Policy {
    Policy {
        key: PolicyKey::new(&key.namespace, &format!("{}/{}", key.kind, key.name)),
        action: Action::Deny,
        dry_run: false,
        rules: Vec::new(),
        unusable: Some(why),
    }
}

fn rule(written: &WrittenRule, path: &str, remarks: &mut Remarks) -> Option<JwtRule> {
    let issuer = written.issuer.clone().unwrap_or_default();
    if written.issuer.as_deref() == Some("") {
        remarks.error(format!("{path}.issuer"), "is an empty text: remove it to accept any issuer");
    }
    for (field, values) in [
        ("audiences", &written.audiences),
        ("fromParams", &written.from_params),
        ("fromCookies", &written.from_cookies),
        ("spaceDelimitedClaims", &written.space_delimited_claims),
    ] {
        for index in values.iter().enumerate().filter(|(_, value)| value.is_empty()).map(|(index, _)| index) {
            remarks.error(format!("{path}.{field}[{index}]"), "is an empty text");
        }
    }
    for (index, claim) in written.space_delimited_claims.iter().enumerate() {
        if matches!(claim.as_str(), "iss" | "sub") {
            let field = format!("{path}.spaceDelimitedClaims[{index}]");
            remarks
                .error(field, "`iss` and `sub` are one text each: split, no requestPrincipals would match");
        }
    }
    let mut space_delimited: Vec<String> = SPACE_DELIMITED.iter().map(|claim| (*claim).to_owned()).collect();
    space_delimited.extend(written.space_delimited_claims.iter().cloned());
    space_delimited.sort_unstable();
    space_delimited.dedup();
    let headers = written.from_headers.iter().enumerate().filter_map(|(index, from)| {
        let name = header(&from.name, &format!("{path}.fromHeaders[{index}].name"), remarks)?;
        Some((name, from.prefix.clone()))
    });
    let headers = headers.collect();
    let payload_header = written
        .output_payload_to_header
        .as_ref()
        .and_then(|name| header(name, &format!("{path}.outputPayloadToHeader"), remarks));
    let claim_headers = written.output_claim_to_headers.iter().enumerate().filter_map(|(index, output)| {
        let path = format!("{path}.outputClaimToHeaders[{index}]");
        if output.claim.is_empty() {
            remarks.error(format!("{path}.claim"), "is an empty text");
        }
        Some((output.claim.clone(), header(&output.header, &format!("{path}.header"), remarks)?))
    });
    let claim_headers = claim_headers.collect();
    Some(JwtRule {
        keys: keys(written, path, remarks)?,
        issuer,
        audiences: written.audiences.clone(),
        locations: JwtLocations {
            headers,
            params: written.from_params.clone(),
            cookies: written.from_cookies.clone(),
        },
        forward: written.forward_original_token,
        payload_header,
        claim_headers,
        space_delimited,
        clock_skew: SKEW,
    })
}

/// A header's name, in lower case.
fn header(name: &str, path: &str, remarks: &mut Remarks) -> Option<String> {
    match name.parse::<http::HeaderName>() {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(_malformed) => {
            remarks.error(path, format!("`{name}` is no header name"));
            None
        }
    }
}

fn keys(written: &WrittenRule, path: &str, remarks: &mut Remarks) -> Option<Jwks> {
    let uris = [("jwksUri", &written.jwks_uri), ("jwks_uri", &written.jwks_uri_snake)];
    let mut uris = uris.into_iter().filter_map(|(field, uri)| Some((field, uri.as_ref()?)));
    match (&written.jwks, uris.next(), uris.next()) {
        (Some(text), None, _) => inline(text, &format!("{path}.jwks"), remarks),
        (None, Some((field, uri)), None) => {
            let timeout = timeout(written, path, remarks)?;
            remote(uri, &format!("{path}.{field}"), timeout, remarks)
        }
        (None, None, _) => {
            let message = "has no keys: write jwks or jwksUri; they are not looked for at the issuer";
            remarks.error(path, message);
            None
        }
        (_, Some((field, _)), _) => {
            let field = format!("{path}.{field}");
            remarks.error(field, "only one of jwks, jwksUri and jwks_uri may be there");
            None
        }
    }
}

fn inline(text: &str, path: &str, remarks: &mut Remarks) -> Option<Jwks> {
    let set = serde_json::from_str::<Value>(text).ok();
    let Some(keys) = set.as_ref().and_then(|set| set.get("keys")?.as_array()) else {
        remarks.error(path, "is no JWK Set: a JSON object with a list of `keys` (RFC 7517)");
        return None;
    };
    if keys.is_empty() {
        remarks.warning(path, "holds no key, so every token is refused");
    }
    if keys.iter().any(|key| ["d", "k"].iter().any(|secret| key.get(secret).is_some())) {
        remarks.warning(path, "holds a private or secret key: only public keys are needed to verify");
    }
    Some(Jwks::Inline(text.into()))
}

fn remote(uri: &str, path: &str, timeout: Duration, remarks: &mut Remarks) -> Option<Jwks> {
    let parsed = uri.parse::<http::Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    match parsed.as_ref().and_then(http::Uri::scheme_str) {
        Some("http") => Some(Jwks::Remote { uri: uri.to_owned(), cluster: None, timeout, cache: CACHE }),
        Some("https") => {
            remarks.error(path, "https:// is not fetched yet: write http://, or the keys into jwks");
            None
        }
        _ => {
            remarks.error(path, format!("`{uri}` is no URI: write http://host:port/path"));
            None
        }
    }
}

fn timeout(written: &WrittenRule, path: &str, remarks: &mut Remarks) -> Option<Duration> {
    let Some(text) = &written.timeout else { return Some(TIMEOUT) };
    let parsed = duration::parse(text).filter(|timeout| !timeout.is_zero());
    if parsed.is_none() {
        remarks.error(format!("{path}.timeout"), format!("`{text}` is no duration: write e.g. 5s"));
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::{document, fields};

    fn read(spec: &str) -> (Option<TokensDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: j, namespace: a}}\nspec: {{{spec}}}\n"
        );
        (translate(&document(&text), &mut remarks), remarks)
    }

    const TO_WEB: &str = "targetRefs: [{kind: Service, name: web}]";
    const JWKS: &str = r#"jwks: '{"keys":[{"kty":"RSA"}]}'"#;

    #[test]
    fn every_field_is_translated() {
        let (doc, remarks) = read(&format!(
            "{TO_WEB}, jwtRules: [{{issuer: i, audiences: [a, b], {JWKS}, fromHeaders: [{{name: X-Jwt, prefix: 'T '}}, \
             {{name: z}}], fromParams: [p], fromCookies: [c], outputPayloadToHeader: X-Payload, \
             forwardOriginalToken: true, outputClaimToHeaders: [{{header: X-Sub, claim: sub}}], timeout: 1s, \
             spaceDelimitedClaims: [roles, scope]}}]"
        ));
        assert_eq!(remarks, Remarks::default());
        let want = JwtRule {
            issuer: "i".to_owned(),
            audiences: vec!["a".to_owned(), "b".to_owned()],
            keys: Jwks::Inline(r#"{"keys":[{"kty":"RSA"}]}"#.into()),
            locations: JwtLocations {
                headers: vec![("x-jwt".to_owned(), "T ".to_owned()), ("z".to_owned(), String::new())],
                params: vec!["p".to_owned()],
                cookies: vec!["c".to_owned()],
            },
            forward: true,
            payload_header: Some("x-payload".to_owned()),
            claim_headers: vec![("sub".to_owned(), "x-sub".to_owned())],
            space_delimited: ["permission", "roles", "scope"].map(str::to_owned).to_vec(),
            clock_skew: SKEW,
        };
        assert_eq!(doc.unwrap().rules, [Arc::new(want)]);
    }

    #[test]
    fn keys_are_written_or_fetched() {
        let remote = |uri: &str, seconds| Jwks::Remote {
            uri: uri.to_owned(),
            cluster: None,
            timeout: Duration::from_secs(seconds),
            cache: CACHE,
        };
        let rows = [
            ("jwksUri: 'http://keys.a:8080/k'", remote("http://keys.a:8080/k", 5)),
            ("jwks_uri: 'http://keys.a/k', timeout: 2s", remote("http://keys.a/k", 2)),
        ];
        for (spec, want) in rows {
            let (doc, remarks) = read(&format!("{TO_WEB}, jwtRules: [{{issuer: i, {spec}}}]"));
            assert_eq!(remarks, Remarks::default(), "{spec}");
            assert_eq!(doc.unwrap().rules[0].keys, want, "{spec}");
        }
    }

    #[test]
    fn faults_are_errors_by_their_path() {
        let rows = [
            ("issuer: i", ""),
            ("issuer: ''", ".issuer"),
            ("issuer: i, jwks: x", ".jwks"),
            ("issuer: i, jwks: '{\"keys\":1}'", ".jwks"),
            ("issuer: i, jwksUri: 'https://a/k'", ".jwksUri"),
            ("issuer: i, jwksUri: 'ftp://a/k'", ".jwksUri"),
            ("issuer: i, jwksUri: a", ".jwksUri"),
            ("issuer: i, jwksUri: 'http://a', timeout: x", ".timeout"),
            ("issuer: i, jwksUri: 'http://a', timeout: 0s", ".timeout"),
            ("issuer: i, jwks: '{\"keys\":[]}', jwksUri: 'http://a'", ".jwksUri"),
            ("issuer: i, jwksUri: 'http://a', jwks_uri: 'http://a'", ".jwksUri"),
            ("audiences: ['']", ".audiences[0]"),
            ("fromParams: [a, '']", ".fromParams[1]"),
            ("fromCookies: ['']", ".fromCookies[0]"),
            ("fromHeaders: [{name: 'a b'}]", ".fromHeaders[0].name"),
            ("fromHeaders: [{name: ''}]", ".fromHeaders[0].name"),
            ("fromHeaders: [{nam: a}]", ".fromHeaders[0]"),
            ("outputPayloadToHeader: 'a b'", ".outputPayloadToHeader"),
            ("outputClaimToHeaders: [{header: 'a:', claim: b}]", ".outputClaimToHeaders[0].header"),
            ("outputClaimToHeaders: [{header: a, claim: ''}]", ".outputClaimToHeaders[0].claim"),
            ("spaceDelimitedClaims: [sub]", ".spaceDelimitedClaims[0]"),
            ("issuers: [a]", ".issuers"),
        ];
        for (rule, field) in rows {
            let (_, remarks) = read(&format!("{TO_WEB}, jwtRules: [{{{rule}}}]"));
            let want = (Severity::Error, format!("spec.jwtRules[0]{field}"));
            let near = |(severity, got): &(Severity, String)| *severity == want.0 && got.starts_with(&want.1);
            assert!(fields(&remarks).iter().any(near), "{rule}: {remarks:?}");
        }
    }

    #[test]
    fn what_verifies_nothing_is_warned_of() {
        for (rules, field) in [
            ("[]", "spec.jwtRules"),
            ("[{issuer: i, jwks: '{\"keys\":[]}'}]", "spec.jwtRules[0].jwks"),
            ("[{issuer: i, jwks: '{\"keys\":[{\"d\":1}]}'}]", "spec.jwtRules[0].jwks"),
        ] {
            let (doc, remarks) = read(&format!("{TO_WEB}, jwtRules: {rules}"));
            assert!(doc.is_some());
            assert_eq!(fields(&remarks), [(Severity::Warning, field.to_owned())], "{rules}");
        }
    }
}
