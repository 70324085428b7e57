//! An issuer of JSON Web Tokens, with a key of its own.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// Signs with Ed25519.
#[derive(Debug)]
pub struct Issuer {
    /// Claim `iss`.
    pub name: String,
    key: KeyPair,
}

impl Issuer {
    /// An issuer with a fresh key.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), key: KeyPair::generate_for(&PKCS_ED25519)? })
    }

    /// Its keys as a JWK Set.
    #[must_use]
    pub fn jwks(&self) -> String {
        let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "1", "x": encode(self.key.der_bytes())});
        json!({ "keys": [key] }).to_string()
    }

    /// A token of these claims; `iss` is put in.
    pub fn token(&self, claims: &Value) -> Result<String> {
        let mut claims = claims.clone();
        let members = claims.as_object_mut().context("claims are an object")?;
        members.insert("iss".to_owned(), self.name.as_str().into());
        self.sign(&json!({"alg": "EdDSA", "kid": "1", "typ": "JWT"}), &claims)
    }

    /// A token with this header, whatever that says, and a signature of the issuer's own key.
    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String> {
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", encode(signature)))
    }

    /// A RequestAuthentication on the Service `service`, with this rule of the issuer. `more`: further fields, in flow
    /// style after a comma.
    #[must_use]
    pub fn authentication(&self, namespace: &str, name: &str, service: &str, more: &str) -> String {
        let (issuer, jwks) = (&self.name, self.jwks());
        authentication(namespace, name, service, &format!("issuer: '{issuer}', jwks: '{jwks}'{more}"))
    }
}

/// A RequestAuthentication with one rule, in flow style.
#[must_use]
pub fn authentication(namespace: &str, name: &str, service: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  jwtRules: [{{{rule}}}]
"
    )
}

/// Seconds since 1970, for `exp` and `nbf`.
pub fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("before 1970")?.as_secs())
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
