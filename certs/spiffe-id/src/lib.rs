//! SPIFFE IDs: parsed once, compared cheaply (SPIFFE-ID specification §2).
//!
//! ```
//! use spiffe_id::SpiffeId;
//! let id = SpiffeId::parse("spiffe://cluster.local/ns/agents/sa/researcher")?;
//! assert_eq!(id.trust_domain(), "cluster.local");
//! assert_eq!(id.workload().map(|w| w.service_account), Some("researcher"));
//! # Ok::<(), spiffe_id::ParseError>(())
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const SCHEME: &str = "spiffe://";

/// Longest SPIFFE ID that every implementation must support, in bytes (SPIFFE-ID §2.3).
pub const MAX_LEN: usize = 2048;

/// Longest trust domain name, in bytes (SPIFFE-ID §2.1).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// A SPIFFE ID in its one spelling: `spiffe://<trust domain>[/<segment>…]`.
///
/// Cloning copies a pointer; equality compares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path starts; the length of `text` when there is none.
    path_at: usize,
}

/// The two names in Istio's shape of a SPIFFE ID, `/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IstioWorkload<'a> {
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Kubernetes ServiceAccount.
    pub service_account: &'a str,
}

/// Why a text is no SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Another scheme, another case of it, or none.
    #[error("a SPIFFE ID starts with `spiffe://`")]
    Scheme,
    /// Longer than [`MAX_LEN`].
    #[error("a SPIFFE ID has at most {MAX_LEN} bytes")]
    TooLong,
    /// Nothing between the scheme and the path.
    #[error("the trust domain is empty")]
    NoTrustDomain,
    /// A trust domain holds `a-z`, `0-9`, `.`, `-`, `_` and nothing else: no port, user or upper case.
    #[error(
        "the trust domain holds a character other than a-z, 0-9, `.`, `-` and `_`, or is over {MAX_TRUST_DOMAIN_LEN} bytes"
    )]
    TrustDomain,
    /// An empty, `.` or `..` segment, a trailing slash, or a character outside `a-zA-Z0-9.-_`.
    #[error(
        "a path segment is empty, `.` or `..`, or holds a character other than a-z, A-Z, 0-9, `.`, `-` and `_`"
    )]
    Path,
}

impl SpiffeId {
    /// Parses the canonical form; nothing is normalized, another spelling is another text and refused.
    ///
    /// # Errors
    /// A [`ParseError`] that names the part at fault.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_LEN {
            return Err(ParseError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(ParseError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').map_or((rest, None), |(td, path)| (td, Some(path)));
        check_trust_domain(trust_domain)?;
        if let Some(path) = path {
            path.split('/').try_for_each(check_segment)?;
        }
        Ok(Self { path_at: SCHEME.len() + trust_domain.len(), text: text.into() })
    }

    /// The id of a ServiceAccount as Istio writes it: `spiffe://<td>/ns/<ns>/sa/<sa>`.
    ///
    /// # Errors
    /// As [`SpiffeId::parse`]: a Kubernetes name always fits, a hand-written one may not.
    pub fn istio(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, ParseError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        Self::parse(&format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URI without its scheme: Istio's *principal*, `td/ns/x/sa/y`.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.text.get(SCHEME.len()..).unwrap_or_default()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// The path with its leading slash; empty for the id of a trust domain.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path_at..).unwrap_or_default()
    }

    /// Namespace and ServiceAccount, where the path has exactly Istio's shape; other SPIFFE IDs have none.
    #[must_use]
    pub fn workload(&self) -> Option<IstioWorkload<'_>> {
        let (namespace, service_account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        let whole = !namespace.contains('/') && !service_account.contains('/');
        whole.then_some(IstioWorkload { namespace, service_account })
    }
}

/// Checks a trust domain name on its own, as a flag or an alias holds it.
///
/// # Errors
/// [`ParseError::NoTrustDomain`] or [`ParseError::TrustDomain`].
pub fn check_trust_domain(name: &str) -> Result<(), ParseError> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    match name.len() {
        0 => Err(ParseError::NoTrustDomain),
        1..=MAX_TRUST_DOMAIN_LEN if name.bytes().all(fits) => Ok(()),
        _ => Err(ParseError::TrustDomain),
    }
}

fn check_segment(segment: &str) -> Result<(), ParseError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let dots = matches!(segment, "" | "." | "..");
    if !dots && segment.bytes().all(fits) { Ok(()) } else { Err(ParseError::Path) }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl serde::Serialize for SpiffeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> serde::Deserialize<'de> for SpiffeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_canonical_spelling_parses() {
        let long = format!("spiffe://td/{}", "a".repeat(MAX_LEN));
        let rows: &[(&str, Option<ParseError>)] = &[
            ("spiffe://cluster.local/ns/a/sa/b", None),
            ("spiffe://cluster.local", None),
            ("spiffe://td_1-x.example/any/Path.1", None),
            ("SPIFFE://td/a", Some(ParseError::Scheme)),
            ("https://td/a", Some(ParseError::Scheme)),
            ("", Some(ParseError::Scheme)),
            ("spiffe://", Some(ParseError::NoTrustDomain)),
            ("spiffe:///a", Some(ParseError::NoTrustDomain)),
            ("spiffe://TD/a", Some(ParseError::TrustDomain)),
            ("spiffe://td:8080/a", Some(ParseError::TrustDomain)),
            ("spiffe://u@td/a", Some(ParseError::TrustDomain)),
            ("spiffe://td/", Some(ParseError::Path)),
            ("spiffe://td/a/", Some(ParseError::Path)),
            ("spiffe://td//a", Some(ParseError::Path)),
            ("spiffe://td/a/../b", Some(ParseError::Path)),
            ("spiffe://td/a?x", Some(ParseError::Path)),
            ("spiffe://td/a%2fb", Some(ParseError::Path)),
            (&long, Some(ParseError::TooLong)),
        ];
        for (text, want) in rows {
            assert_eq!(SpiffeId::parse(text).err(), *want, "{text}");
        }
    }

    #[test]
    fn workload_needs_istios_exact_shape() {
        let of = |text: &str| {
            let id = SpiffeId::parse(text).unwrap();
            id.workload().map(|w| (w.namespace.to_owned(), w.service_account.to_owned()))
        };
        assert_eq!(of("spiffe://td/ns/a/sa/b"), Some(("a".into(), "b".into())));
        for other in
            ["spiffe://td/ns/a/sa/b/c", "spiffe://td/x/ns/a/sa/b", "spiffe://td/ns/a/x/sa/b", "spiffe://td"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_to_the_same_id(td in "[a-z0-9._-]{1,20}", path in "(/[a-zA-Z0-9_-]{1,8}){0,5}") {
            let id = SpiffeId::parse(&format!("spiffe://{td}{path}")).unwrap();
            prop_assert_eq!(SpiffeId::parse(&id.to_string()).unwrap(), id.clone());
            prop_assert_eq!(id.trust_domain(), td);
            prop_assert_eq!(id.path(), path);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = SpiffeId::parse(&text);
        }
    }
}
