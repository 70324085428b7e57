//! Keys of a JWK Set (RFC 7517), ready to verify with. A key knows which algorithms fit it; a token only chooses among
//! these, so that it cannot have a public key taken for a secret.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::rejection::Rejection;

/// Most keys that are taken from one set; real ones hold a handful.
const MAX_KEYS: usize = 100;

/// How a token may be signed (RFC 7518 §3.1, RFC 8037). There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Es384,
    Es512,
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    EdDsa,
}

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// The usable keys of a set.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<Key>,
    id: u64,
}

struct Key {
    id: Option<String>,
    /// What the set says of it; a token of another algorithm is not its.
    declared: Option<String>,
    verifiers: Vec<(Algorithm, Verifier)>,
}

enum Verifier {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

/// Secrets stay out of logs.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("declared", &self.declared).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    used_for: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys that cannot be used are left out; a text that is no set has none.
    pub(super) fn parse(text: &[u8]) -> Self {
        let written = serde_json::from_slice::<WrittenSet>(text).map(|set| set.keys).unwrap_or_default();
        let keys = written.into_iter().take(MAX_KEYS);
        let keys = keys.filter_map(|key| Key::read(serde_json::from_value(key).ok()?));
        Self { keys: keys.collect(), id: fastrand::u64(..) }
    }

    /// Tells it from other sets, of the same source too.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks a signature with each key that fits: by `kid` where both name one, and by algorithm.
    ///
    /// # Errors
    /// [`Rejection::NoKeys`], [`Rejection::NoSuchKey`], [`Rejection::Signature`].
    pub(super) fn verify(
        &self,
        (algorithm, name): (Algorithm, &str),
        key_id: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Rejection> {
        if self.keys.is_empty() {
            return Err(Rejection::NoKeys);
        }
        let mut fits = false;
        for key in self.keys.iter().filter(|key| key.may_be(key_id, name)) {
            fits = true;
            if key.verify(algorithm, signed, signature) {
                return Ok(());
            }
        }
        Err(if fits { Rejection::Signature } else { Rejection::NoSuchKey })
    }
}

impl Key {
    fn read(written: WrittenKey) -> Option<Self> {
        if written.used_for.as_deref() == Some("enc") {
            return None;
        }
        let mut verifiers = match written.kty.as_str() {
            "RSA" => rsa(&bytes(written.n.as_deref())?, &bytes(written.e.as_deref())?),
            "EC" => vec![elliptic(&written)?],
            "OKP" if written.crv.as_deref() == Some("Ed25519") => {
                let x = bytes(written.x.as_deref())?;
                vec![public(Algorithm::EdDsa, &signature::ED25519, &x)?]
            }
            "oct" => secret(&bytes(written.k.as_deref())?),
            _ => return None,
        };
        if let Some(declared) = &written.alg {
            let declared = Algorithm::parse(declared)?;
            verifiers.retain(|(algorithm, _)| *algorithm == declared);
        }
        let id = written.kid.filter(|id| !id.is_empty());
        (!verifiers.is_empty()).then_some(Self { id, declared: written.alg, verifiers })
    }

    fn may_be(&self, id: Option<&str>, algorithm: &str) -> bool {
        let same_id = match (&self.id, id) {
            (Some(mine), Some(asked)) => mine == asked,
            _ => true,
        };
        same_id && self.declared.as_ref().is_none_or(|declared| declared == algorithm)
    }

    fn verify(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let fitting = self.verifiers.iter().find(|(fits, _)| *fits == algorithm);
        fitting.is_some_and(|(_, verifier)| match verifier {
            Verifier::Public(key) => key.verify_sig(signed, signature).is_ok(),
            Verifier::Secret(key) => hmac::verify(key, signed, signature).is_ok(),
        })
    }
}

fn bytes(text: Option<&str>) -> Option<Vec<u8>> {
    let decoded = URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok()?;
    (!decoded.is_empty()).then_some(decoded)
}

fn public(
    algorithm: Algorithm,
    verification: &'static dyn VerificationAlgorithm,
    key: &[u8],
) -> Option<(Algorithm, Verifier)> {
    Some((algorithm, Verifier::Public(ParsedPublicKey::new(verification, key).ok()?)))
}

/// Keys of 2048 to 8192 bits; smaller ones fit nothing.
fn rsa(n: &[u8], e: &[u8]) -> Vec<(Algorithm, Verifier)> {
    let rows: [(Algorithm, &'static RsaParameters); 6] = [
        (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
        (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
        (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
    ];
    // Some issuers write the sign byte that RFC 7518 §6.3.1.1 leaves out.
    let trim = |number: &[u8]| -> Vec<u8> { number.iter().copied().skip_while(|byte| *byte == 0).collect() };
    let key = RsaPublicKeyComponents { n: trim(n), e: trim(e) };
    if key.n.len() < 256 {
        return Vec::new();
    }
    rows.into_iter()
        .filter_map(|(algorithm, parameters)| {
            Some((algorithm, Verifier::Public(key.to_parsed_public_key(parameters).ok()?)))
        })
        .collect()
}

/// One curve has one algorithm (RFC 7518 §3.4).
fn elliptic(written: &WrittenKey) -> Option<(Algorithm, Verifier)> {
    let curve = match (written.crv.as_deref(), written.alg.as_deref()) {
        (Some(curve), _) => curve,
        (None, Some("ES384")) => "P-384",
        (None, Some("ES512")) => "P-521",
        (None, _) => "P-256",
    };
    let (algorithm, verification, size): (_, &'static dyn VerificationAlgorithm, usize) = match curve {
        "P-256" => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        "P-521" => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
        _ => return None,
    };
    let mut point = vec![4]; // Uncompressed (SEC 1 §2.3.3).
    for coordinate in [&written.x, &written.y] {
        let coordinate = bytes(coordinate.as_deref())?;
        point.resize(point.len() + size.checked_sub(coordinate.len())?, 0);
        point.extend(coordinate);
    }
    public(algorithm, verification, &point)
}

fn secret(secret: &[u8]) -> Vec<(Algorithm, Verifier)> {
    let rows = [
        (Algorithm::Hs256, hmac::HMAC_SHA256),
        (Algorithm::Hs384, hmac::HMAC_SHA384),
        (Algorithm::Hs512, hmac::HMAC_SHA512),
    ];
    let key = |hash| Verifier::Secret(Box::new(hmac::Key::new(hash, secret)));
    rows.into_iter().map(|(algorithm, hash)| (algorithm, key(hash))).collect()
}
