//! JSON Web Tokens that a service accepts (Istio `RequestAuthentication`).

use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::ClusterKey;

/// One issuer whose tokens are accepted. A request without a token passes, and has no request principal; one whose token
/// is not valid is refused with 401.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JwtRule {
    /// Claim `iss`, exactly. Empty: any.
    pub issuer: String,
    /// Any of these must be in claim `aud`; empty: not looked at.
    pub audiences: Vec<String>,
    /// Keys.
    pub keys: Jwks,
    /// Where the token is looked for.
    pub locations: JwtLocations,
    /// Whether the token goes on to the service.
    pub forward: bool,
    /// Request header that gets the token's payload, base64url.
    pub payload_header: Option<String>,
    /// Claims (a dotted path is a path into objects) that go on as request headers, `(claim, header)`.
    pub claim_headers: Vec<(String, String)>,
    /// Claims whose text is a list with spaces between its entries.
    pub space_delimited: Vec<String>,
    /// How far clocks may differ.
    pub clock_skew: Duration,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Jwks {
    /// A JWK Set (RFC 7517) as JSON text. Written out, e.g. in a dump, without what is secret of its keys.
    Inline(#[serde(serialize_with = "public")] Arc<str>),
    /// Fetched by HTTP GET from an endpoint of a cluster, and again after a time.
    Remote {
        /// `http://` or `https://` URI.
        uri: String,
        /// Through this cluster; `None`: the host of the URI.
        cluster: Option<ClusterKey>,
        /// One fetch.
        timeout: Duration,
        /// How long fetched keys are used.
        cache: Duration,
    },
}

/// Where a token may stand. All empty: header `authorization` after `Bearer `, and query parameter `access_token`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JwtLocations {
    /// Lower-case header name, and the text before the token.
    pub headers: Vec<(String, String)>,
    /// Query parameters.
    pub params: Vec<String>,
    /// Cookies.
    pub cookies: Vec<String>,
}

/// Members of a JWK that only its owner may know (RFC 7518 §6.2.2, §6.3.2, §6.4.1): `k` of a symmetric key above all.
const SECRETS: [&str; 8] = ["k", "d", "p", "q", "dp", "dq", "qi", "oth"];

fn public<S: Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    let Ok(mut set) = serde_json::from_str::<Value>(text) else {
        return serializer.serialize_str("(no JSON: not shown)");
    };
    hide(&mut set);
    serializer.serialize_str(&set.to_string())
}

fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => members.iter_mut().for_each(|(name, value)| {
            if SECRETS.contains(&name.as_str()) {
                *value = Value::from("(not shown)");
            } else {
                hide(value);
            }
        }),
        Value::Array(entries) => entries.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_keys_are_not_written_out() {
        let set =
            r#"{"keys":[{"kty":"oct","kid":"1","k":"c2VjcmV0"},{"kty":"EC","x":"YQ","d":"cHJpdmF0ZQ"}]}"#;
        let written = serde_json::to_string(&Jwks::Inline(set.into())).unwrap();
        assert!(!written.contains("c2VjcmV0") && !written.contains("cHJpdmF0ZQ"), "{written}");
        assert!(written.contains("oct") && written.contains("YQ"), "{written}");
        let broken = serde_json::to_string(&Jwks::Inline("{\"k\":\"c2VjcmV0\"".into())).unwrap();
        assert!(!broken.contains("c2VjcmV0"), "{broken}");
    }
}
