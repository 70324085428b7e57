//! Tokens through the whole of it: found, verified, taken out.

use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waypoint_model::{Jwks, JwtLocations};

use super::*;

/// Someone who signs.
pub(super) struct Signer {
    alg: &'static str,
    kid: &'static str,
    key: Key,
}

enum Key {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
    Secret(Box<hmac::Key>, Vec<u8>),
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    fn rsa(alg: &'static str, kid: &'static str) -> Self {
        let encoding: &'static dyn RsaEncoding = match alg {
            "RS384" => &signature::RSA_PKCS1_SHA384,
            "RS512" => &signature::RSA_PKCS1_SHA512,
            "PS256" => &signature::RSA_PSS_SHA256,
            "PS384" => &signature::RSA_PSS_SHA384,
            "PS512" => &signature::RSA_PSS_SHA512,
            _ => &signature::RSA_PKCS1_SHA256,
        };
        Self { alg, kid, key: Key::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap(), encoding) }
    }

    pub(super) fn ec(alg: &'static str, kid: &'static str) -> Self {
        let (algorithm, curve): (&'static EcdsaSigningAlgorithm, _) = match alg {
            "ES384" => (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "ES512" => (&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            _ => (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        };
        Self { alg, kid, key: Key::Ec(EcdsaKeyPair::generate(algorithm).unwrap(), curve) }
    }

    fn secret(alg: &'static str, kid: &'static str, secret: &[u8]) -> Self {
        let hash = match alg {
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        Self { alg, kid, key: Key::Secret(Box::new(hmac::Key::new(hash, secret)), secret.to_vec()) }
    }

    pub(super) fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Key::Rsa(pair, _) => {
                // RSAPublicKey (RFC 8017 §A.1.1) of 2048 bits: nine bytes, the modulus, two bytes, the exponent.
                let der = pair.public_key().as_ref();
                json!({"kty": "RSA", "n": b64(&der[9..265]), "e": b64(&der[267..])})
            }
            Key::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
            }
            Key::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key())}),
            Key::Secret(_, secret) => json!({"kty": "oct", "k": b64(secret)}),
        };
        if !self.kid.is_empty() {
            jwk["kid"] = self.kid.into();
        }
        jwk
    }

    fn raw(&self, signed: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, signed, &mut signature).unwrap();
                signature
            }
            Key::Ec(pair, _) => pair.sign(&random, signed).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(signed).as_ref().to_vec(),
            Key::Secret(key, _) => hmac::sign(key, signed).as_ref().to_vec(),
        }
    }

    pub(super) fn sign(&self, payload: &Value) -> String {
        let mut header = json!({"alg": self.alg, "typ": "JWT"});
        if !self.kid.is_empty() {
            header["kid"] = self.kid.into();
        }
        let signed = format!("{}.{}", b64(header.to_string()), b64(payload.to_string()));
        format!("{signed}.{}", b64(self.raw(signed.as_bytes())))
    }
}

fn jwks(signers: &[&Signer]) -> Jwks {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    Jwks::Inline(json!({ "keys": keys }).to_string().into())
}

pub(super) fn rule(issuer: &str, keys: Jwks) -> JwtRule {
    JwtRule {
        issuer: issuer.to_owned(),
        audiences: Vec::new(),
        keys,
        locations: JwtLocations::default(),
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        space_delimited: vec!["scope".to_owned()],
        clock_skew: Duration::from_secs(60),
    }
}

fn compile(rules: Vec<JwtRule>) -> Authentication {
    let rules = rules.into_iter().map(Arc::new).collect();
    Authentication::compile(rules, &mut Fetched::new(), &Cache::default())
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let add = |request: http::request::Builder, (name, value): &(&str, &str)| request.header(*name, *value);
    headers.iter().fold(http::Request::get(uri), add).body(()).unwrap().into_parts().0
}

fn bearing(token: &str) -> Parts {
    request("/", &[("authorization", &format!("Bearer {token}"))])
}

pub(super) async fn ask(rules: &Authentication, token: &str) -> Result<Option<Value>, Rejection> {
    let verified = rules.authenticate(&mut bearing(token)).await?;
    Ok(verified.map(|verified| verified.claims().clone()))
}

#[tokio::test]
async fn every_algorithm_verifies_its_own_signatures() {
    let secret = [7_u8; 64];
    let signers = [
        Signer::rsa("RS256", "1"),
        Signer::rsa("RS384", "2"),
        Signer::rsa("RS512", "3"),
        Signer::rsa("PS256", "4"),
        Signer::rsa("PS384", "5"),
        Signer::rsa("PS512", "6"),
        Signer::ec("ES256", "7"),
        Signer::ec("ES384", "8"),
        Signer::ec("ES512", "9"),
        Signer { alg: "EdDSA", kid: "10", key: Key::Ed(Ed25519KeyPair::generate().unwrap()) },
        Signer::secret("HS256", "11", &secret),
        Signer::secret("HS384", "12", &secret),
        Signer::secret("HS512", "13", &secret),
    ];
    let rules = compile(vec![rule("i", jwks(&signers.iter().collect::<Vec<_>>()))]);
    let payload = json!({"iss": "i", "sub": "s"});
    for signer in &signers {
        let token = signer.sign(&payload);
        assert_eq!(ask(&rules, &token).await, Ok(Some(payload.clone())), "{}", signer.alg);
        let (signed, _) = token.rsplit_once('.').unwrap();
        let mut forged = signer.raw(signed.as_bytes());
        forged[9] ^= 1;
        let token = format!("{signed}.{}", b64(forged));
        assert_eq!(ask(&rules, &token).await, Err(Rejection::Signature), "{}", signer.alg);
    }
}

#[tokio::test]
async fn a_key_verifies_only_what_it_is_for() {
    let (rsa, ec) = (Signer::rsa("RS256", ""), Signer::ec("ES256", ""));
    let modulus = rsa.jwk()["n"].as_str().unwrap().to_owned();
    let text = json!({ "keys": [rsa.jwk()] }).to_string();
    let payload = json!({"iss": "i", "sub": "s"});
    let rules = compile(vec![rule("i", jwks(&[&rsa, &ec]))]);
    // A public key that is taken for a secret: as its bytes, as its text, as the whole set.
    for secret in [URL_SAFE_NO_PAD.decode(&modulus).unwrap(), modulus.into_bytes(), text.into_bytes()] {
        for alg in ["HS256", "HS384", "HS512"] {
            let token = Signer::secret(alg, "", &secret).sign(&payload);
            assert_eq!(ask(&rules, &token).await, Err(Rejection::Signature), "{alg}");
        }
    }
    for (header, want) in [
        (json!({"alg": "none"}), Rejection::Algorithm),
        (json!({"alg": "None"}), Rejection::Algorithm),
        (json!({"alg": ""}), Rejection::Algorithm),
        (json!({"alg": "ES384"}), Rejection::Signature),
        (json!({"alg": "PS256"}), Rejection::Signature),
        (json!({"alg": "EdDSA"}), Rejection::Signature),
    ] {
        let signed = format!("{}.{}", b64(header.to_string()), b64(payload.to_string()));
        for signer in [&rsa, &ec] {
            let token = format!("{signed}.{}", b64(signer.raw(signed.as_bytes())));
            assert_eq!(ask(&rules, &token).await, Err(want), "{header}");
        }
        assert_eq!(ask(&rules, &format!("{signed}.")).await, Err(Rejection::Form), "{header}");
    }
    // What the set says of a key binds.
    let mut declared = rsa.jwk();
    declared["alg"] = "RS512".into();
    let rules = compile(vec![rule("i", Jwks::Inline(json!({ "keys": [declared] }).to_string().into()))]);
    assert_eq!(ask(&rules, &rsa.sign(&payload)).await, Err(Rejection::NoSuchKey));
    let mut for_encryption = rsa.jwk();
    for_encryption["use"] = "enc".into();
    let set = json!({ "keys": [for_encryption] }).to_string();
    assert_eq!(
        ask(&compile(vec![rule("i", Jwks::Inline(set.into()))]), &rsa.sign(&payload)).await,
        Err(Rejection::NoKeys)
    );
}

#[tokio::test]
async fn keys_are_chosen_by_id_where_both_name_one() {
    let (one, two, nameless) = (Signer::ec("ES256", "1"), Signer::ec("ES256", "2"), Signer::ec("ES256", ""));
    let payload = json!({"iss": "i"});
    let sign = |signer: &Signer| signer.sign(&payload);
    let rules = compile(vec![rule("i", jwks(&[&one, &two]))]);
    assert!(ask(&rules, &sign(&one)).await.is_ok());
    assert!(ask(&rules, &sign(&two)).await.is_ok());
    assert_eq!(ask(&rules, &sign(&nameless)).await, Err(Rejection::Signature));
    let rules = compile(vec![rule("i", jwks(&[&one]))]);
    assert_eq!(ask(&rules, &sign(&two)).await, Err(Rejection::NoSuchKey));
    let rules = compile(vec![rule("i", jwks(&[&one, &nameless]))]);
    assert!(ask(&rules, &sign(&nameless)).await.is_ok());
    for keys in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"EC"}]}"#] {
        let rules = compile(vec![rule("i", Jwks::Inline(keys.into()))]);
        assert_eq!(ask(&rules, &sign(&one)).await, Err(Rejection::NoKeys), "{keys}");
    }
}

#[tokio::test]
async fn times_issuers_and_audiences_are_checked() {
    let (ours, theirs) = (Signer::ec("ES256", ""), Signer::ec("ES256", ""));
    let strict =
        JwtRule { audiences: vec!["https://a/".to_owned(), "b".to_owned()], ..rule("i", jwks(&[&ours])) };
    let rules = compile(vec![strict, rule("j", jwks(&[&theirs]))]);
    let now = now();
    let rows = [
        (&ours, json!({"iss": "i", "aud": "b"}), None),
        (&ours, json!({"iss": "i", "aud": ["x", "a"], "exp": now - 50}), None),
        (&ours, json!({"iss": "i", "aud": "b", "nbf": now + 50}), None),
        (&theirs, json!({"iss": "j"}), None),
        (&ours, json!({"iss": "i", "aud": "b", "exp": now - 70}), Some(Rejection::Expired)),
        (&ours, json!({"iss": "i", "aud": "b", "nbf": now + 70}), Some(Rejection::NotYet)),
        (&ours, json!({"iss": "i", "aud": "c"}), Some(Rejection::Audience)),
        (&ours, json!({"iss": "i"}), Some(Rejection::Audience)),
        (&ours, json!({"iss": "k"}), Some(Rejection::Issuer)),
        (&ours, json!({"iss": ["i"]}), Some(Rejection::IssuerType)),
        (&ours, json!({}), Some(Rejection::Issuer)),
        (&ours, json!({"iss": "j"}), Some(Rejection::Signature)),
        (&theirs, json!({"iss": "i", "aud": "b"}), Some(Rejection::Signature)),
    ];
    for (signer, payload, want) in rows {
        assert_eq!(ask(&rules, &signer.sign(&payload)).await.err(), want, "{payload}");
    }
    // Two rules of one issuer: either will do. A rule without issuer takes any.
    let narrow =
        |audience: &str| JwtRule { audiences: vec![audience.to_owned()], ..rule("i", jwks(&[&ours])) };
    let rules = compile(vec![narrow("a"), narrow("b"), rule("", jwks(&[&theirs]))]);
    assert!(ask(&rules, &ours.sign(&json!({"iss": "i", "aud": "b"}))).await.is_ok());
    assert!(ask(&rules, &theirs.sign(&json!({"iss": "x"}))).await.is_ok());
    assert!(ask(&rules, &theirs.sign(&json!({}))).await.is_ok());
    assert_eq!(ask(&rules, &ours.sign(&json!({"iss": "x"}))).await, Err(Rejection::Signature));
}

#[tokio::test]
async fn no_token_passes_and_two_do_not() {
    let signer = Signer::ec("ES256", "");
    let (one, other) =
        (signer.sign(&json!({"iss": "i", "sub": "1"})), signer.sign(&json!({"iss": "i", "sub": "2"})));
    let from_header = JwtRule {
        locations: JwtLocations {
            headers: vec![("x-jwt".to_owned(), String::new())],
            ..JwtLocations::default()
        },
        ..rule("j", jwks(&[&signer]))
    };
    let rules = compile(vec![rule("i", jwks(&[&signer])), from_header]);
    let bearer = |token: &str| format!("Bearer {token}");
    for mut absent in [request("/", &[]), request("/?x=1", &[("authorization", "Basic eDp5")])] {
        assert!(rules.authenticate(&mut absent).await.unwrap().is_none());
    }
    let mut preflight = request(
        "/",
        &[("origin", "http://a"), ("access-control-request-method", "GET"), ("authorization", "Bearer x")],
    );
    preflight.method = Method::OPTIONS;
    assert!(rules.authenticate(&mut preflight).await.unwrap().is_none());
    preflight.headers.remove("origin");
    assert_eq!(rules.authenticate(&mut preflight).await.err(), Some(Rejection::Form));
    // Twice the same is one, and is taken out of both places.
    let mut twice = request(&format!("/?access_token={one}&a=1"), &[("authorization", &bearer(&one))]);
    assert!(rules.authenticate(&mut twice).await.unwrap().is_some());
    assert_eq!((twice.uri.to_string().as_str(), twice.headers.len()), ("/?a=1", 0));
    let mut two = request(&format!("/?access_token={other}"), &[("authorization", &bearer(&one))]);
    assert_eq!(rules.authenticate(&mut two).await.err(), Some(Rejection::Several));
    let mut two = request("/", &[("authorization", &bearer(&one)), ("x-jwt", &other)]);
    assert_eq!(rules.authenticate(&mut two).await.err(), Some(Rejection::Several));
    // A rule takes tokens from its own places only.
    let mut elsewhere = request("/", &[("x-jwt", &one)]);
    assert_eq!(rules.authenticate(&mut elsewhere).await.err(), Some(Rejection::Issuer));
}

#[tokio::test]
async fn what_a_token_says_goes_on_and_what_a_client_says_does_not() {
    let signer = Signer::ec("ES256", "");
    let payload = json!({"iss": "i", "sub": "s", "scope": "a  b", "roles": {"n": 7}});
    let telling = |forward| JwtRule {
        forward,
        payload_header: Some("x-payload".to_owned()),
        claim_headers: vec![
            ("sub".to_owned(), "x-sub".to_owned()),
            ("roles.n".to_owned(), "x-n".to_owned()),
            ("scope".to_owned(), "x-scope".to_owned()),
            ("none".to_owned(), "x-none".to_owned()),
        ],
        ..rule("i", jwks(&[&signer]))
    };
    let token = format!("Bearer {}", signer.sign(&payload));
    let forged =
        [("x-sub", "admin"), ("x_sub", "admin"), ("x-none", "admin"), ("x-payload", "e30"), ("x-own", "1")];
    for forward in [false, true] {
        let rules = compile(vec![telling(forward)]);
        let mut parts = request("/", &[&forged[..], &[("authorization", &token)]].concat());
        let verified = rules.authenticate(&mut parts).await.unwrap().unwrap();
        let told = |name: &str| {
            parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(told("x-sub"), ["s"]);
        assert_eq!(told("x-n"), ["7"]);
        assert_eq!(told("x-scope"), ["a  b"]);
        assert_eq!(told("x-payload"), [b64(payload.to_string())]);
        assert_eq!(told("x-own"), ["1"]);
        assert!(told("x-none").is_empty() && told("x_sub").is_empty());
        assert_eq!(parts.headers.contains_key("authorization"), forward);
        assert_eq!(verified.claims()["scope"], json!(["a", "b"]));
        let mut without = request("/", &forged);
        assert!(rules.authenticate(&mut without).await.unwrap().is_none());
        assert_eq!(without.headers.len(), 1);
    }
}

#[tokio::test]
async fn a_result_is_kept_until_the_token_ends_and_for_its_own_rules() {
    let (signer, other) = (Signer::ec("ES256", ""), Signer::ec("ES256", ""));
    let cache = Cache::default();
    let compile = |signer| {
        let rules = vec![Arc::new(rule("i", jwks(&[signer])))];
        Authentication::compile(rules, &mut Fetched::new(), &cache)
    };
    let (mine, theirs) = (compile(&signer), compile(&other));
    let token = signer.sign(&json!({"iss": "i", "exp": now() - 59}));
    let verified = mine.authenticate(&mut bearing(&token)).await.unwrap().unwrap();
    let again = mine.authenticate(&mut bearing(&token)).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&verified, &again));
    assert_eq!(ask(&theirs, &token).await, Err(Rejection::Signature));
    assert!(mine.still_accepts(&verified) && !theirs.still_accepts(&verified));
    assert!(compile(&signer).still_accepts(&verified));
    tokio::time::timeout(Duration::from_secs(10), verified.ended()).await.unwrap();
    assert_eq!(ask(&mine, &token).await, Err(Rejection::Expired));
    assert!(!mine.still_accepts(&verified));
}

#[test]
fn claims_can_be_assumed_where_a_rule_accepts_them() {
    let narrow = JwtRule { audiences: vec!["a".to_owned()], ..rule("i", Jwks::Inline("{}".into())) };
    let rules = compile(vec![narrow]);
    let assume =
        |claims| rules.assume(&claims, &mut request("/", &[])).map(|verified| verified.claims().clone());
    assert_eq!(assume(json!({"iss": "i", "aud": "a"})), Ok(json!({"iss": "i", "aud": "a"})));
    assert_eq!(assume(json!({"iss": "i"})), Err(Rejection::Audience));
    assert_eq!(assume(json!({"iss": "j", "aud": "a"})), Err(Rejection::Issuer));
    assert_eq!(assume(json!({"iss": "i", "aud": "a", "exp": 1})), Err(Rejection::Expired));
}

/// Serves `body` with `status` to everyone, and counts.
pub(super) async fn key_server(
    status: &'static str,
    body: String,
) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, served) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            let mut head = [0; 4096];
            let _read = stream.read(&mut head).await;
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _written = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, served)
}

fn remote(uri: String, cache: Duration) -> Jwks {
    Jwks::Remote { uri, cluster: None, timeout: Duration::from_secs(5), cache }
}

#[tokio::test]
async fn fetched_keys_serve_everyone_who_waits_and_last_for_their_time() {
    let signer = Signer::ec("ES256", "");
    let set = json!({ "keys": [signer.jwk()] }).to_string();
    let (address, served) = key_server("200 OK", set).await;
    let rules = compile(vec![rule("i", remote(format!("http://{address}/keys"), Duration::from_secs(60)))]);
    let tokens: Vec<String> =
        (0..8).map(|sub| signer.sign(&json!({"iss": "i", "jti": sub.to_string()}))).collect();
    assert_eq!(served.load(Ordering::Relaxed), 0);
    let asked = futures_util::future::join_all(tokens.iter().map(|token| ask(&rules, token))).await;
    assert!(asked.iter().all(Result::is_ok), "{asked:?}");
    assert_eq!(served.load(Ordering::Relaxed), 1);
    // Expired before it is looked up, so nobody could make us fetch.
    let (address, served) = key_server("200 OK", json!({ "keys": [signer.jwk()] }).to_string()).await;
    let rules = compile(vec![rule("i", remote(format!("http://{address}/"), Duration::ZERO))]);
    assert!(ask(&rules, &tokens[0]).await.is_ok());
    assert!(ask(&rules, &tokens[1]).await.is_ok());
    assert_eq!(served.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_verify_nothing() {
    let signer = Signer::ec("ES256", "");
    let set = json!({ "keys": [signer.jwk()] }).to_string();
    let token = signer.sign(&json!({"iss": "i"}));
    let (failing, served) = key_server("500 Oh", set).await;
    let (empty, _) = key_server("200 OK", "{}".to_owned()).await;
    let (large, _) = key_server("200 OK", " ".repeat(2 << 20)).await;
    for uri in [
        format!("http://{failing}/"),
        format!("http://{empty}/"),
        format!("http://{large}/"),
        "https://localhost/".to_owned(),
        "x".to_owned(),
    ] {
        let rules = compile(vec![rule("i", remote(uri.clone(), Duration::from_secs(60)))]);
        assert_eq!(ask(&rules, &token).await, Err(Rejection::Fetch), "{uri}");
        assert_eq!(ask(&rules, &token).await, Err(Rejection::Fetch), "{uri}");
        assert!(rules.authenticate(&mut request("/", &[])).await.unwrap().is_none());
    }
    assert_eq!(served.load(Ordering::Relaxed), 1, "a failed fetch is not tried again at once");
}

/// Not a promise, a figure: `cargo test -p waypoint-proxy --lib -- jwt::tests::what_it_costs --nocapture`.
#[tokio::test]
async fn what_it_costs() {
    for signer in [Signer::rsa("RS256", ""), Signer::ec("ES256", "")] {
        let rules = compile(vec![rule("i", jwks(&[&signer]))]);
        let tokens: Vec<String> =
            (0..50).map(|n| signer.sign(&json!({"iss": "i", "sub": "s", "jti": n.to_string()}))).collect();
        let mut took = Vec::new();
        for _ in 0..2 {
            let start = std::time::Instant::now();
            for token in &tokens {
                assert!(ask(&rules, token).await.is_ok());
            }
            took.push(start.elapsed() / 50);
        }
        println!("{}: {:?} a miss, {:?} a hit", signer.alg, took[0], took[1]);
    }
}
