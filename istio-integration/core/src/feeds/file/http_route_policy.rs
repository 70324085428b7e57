//! What an HTTPRoute says beside matches and backends: mirrors, cross-origin requests and retries.

use serde::Deserialize;
use waypoint_model::{Cors, Pattern, Retries, RetryOn, StringMatch};

use super::duration;
use super::finding::Remarks;
use super::http_route::{BackendDoc, BackendRef, backend};

/// A mirror by reference.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MirrorDoc {
    pub(super) backend: BackendDoc,
    /// In millionths.
    pub(super) fraction: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WrittenMirror {
    backend_ref: BackendRef,
    percent: Option<u32>,
    fraction: Option<Fraction>,
}

#[derive(Deserialize)]
struct Fraction {
    numerator: u32,
    denominator: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct WrittenCors {
    allow_origins: Vec<String>,
    allow_credentials: bool,
    allow_methods: Vec<String>,
    allow_headers: Vec<String>,
    expose_headers: Vec<String>,
    max_age: Option<u32>,
}

#[derive(Deserialize)]
pub(super) struct WrittenRetry {
    #[serde(default)]
    codes: Vec<u16>,
    attempts: Option<u32>,
    backoff: Option<String>,
}

/// An origin as such, as istiod compares it where every origin is allowed.
const ANY_ORIGIN: &str = r"[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+";

/// Seconds that a browser remembers a preflight, where none are given (Gateway API).
const MAX_AGE: u32 = 5;

/// Attempts again where none are given, as istiod has it.
const ATTEMPTS: u32 = 2;

/// Translates a mirror; after an error it means nothing.
pub(super) fn mirror(
    written: &WrittenMirror,
    namespace: &str,
    path: &str,
    remarks: &mut Remarks,
) -> MirrorDoc {
    let fraction = match (written.percent, &written.fraction) {
        (None, None) => Some(1_000_000),
        (Some(percent), None) => percent.checked_mul(10_000),
        (None, Some(part)) => {
            let share = u64::from(part.numerator) * 1_000_000;
            share
                .checked_div(u64::from(part.denominator.unwrap_or(100)))
                .and_then(|share| share.try_into().ok())
        }
        (Some(_), Some(_)) => None,
    };
    let fraction = fraction.filter(|share| *share <= 1_000_000);
    if fraction.is_none() {
        remarks.error(path, "write percent (0 to 100) or fraction (not more than the whole), not both");
    }
    let backend = backend(&written.backend_ref, namespace, format!("{path}.backendRef"), remarks);
    MirrorDoc { backend, fraction: fraction.unwrap_or_default() }
}

/// Translates a CORS filter. An origin's `*` stands for any text, as istiod has it.
pub(super) fn cors(written: &WrittenCors, path: &str, remarks: &mut Remarks) -> Cors {
    let lists = [
        ("allowMethods", &written.allow_methods),
        ("allowHeaders", &written.allow_headers),
        ("exposeHeaders", &written.expose_headers),
    ];
    for (name, list) in lists {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if list.iter().any(|entry| entry.is_empty() || !entry.bytes().all(token)) {
            remarks.error(format!("{path}.{name}"), "holds an entry that is no name");
        }
        if written.allow_credentials && list.iter().any(|entry| entry == "*") {
            let message = "`*` means nothing to a browser that sends credentials: name the entries";
            remarks.error(format!("{path}.{name}"), message);
        }
    }
    let origins = written.allow_origins.iter().enumerate();
    let allow_origins = origins
        .filter_map(|(index, text)| origin(text, &format!("{path}.allowOrigins[{index}]"), remarks))
        .collect();
    Cors {
        allow_origins,
        allow_methods: written.allow_methods.join(","),
        allow_headers: written.allow_headers.join(","),
        expose_headers: written.expose_headers.join(","),
        max_age: written.max_age.unwrap_or(MAX_AGE).to_string(),
        allow_credentials: written.allow_credentials,
        forward_unmatched_preflights: false,
    }
}

fn origin(text: &str, path: &str, remarks: &mut Remarks) -> Option<StringMatch> {
    let pattern = match text {
        "" => None,
        "*" => Some(ANY_ORIGIN.to_owned()),
        text if !text.contains('*') => return Some(StringMatch::Exact(text.to_owned())),
        text => Some(text.split('*').map(escaped).collect::<Vec<_>>().join(".*")),
    };
    let pattern = pattern.and_then(|pattern| Pattern::parse(&pattern).ok());
    if pattern.is_none() {
        remarks.error(path, format!("`{text}` is no origin: write e.g. https://app.example"));
    }
    pattern.map(StringMatch::Regex)
}

/// A text that a pattern takes as it is.
fn escaped(text: &str) -> String {
    let special = |character: char| character.is_ascii_punctuation();
    text.chars().flat_map(|one| special(one).then_some('\\').into_iter().chain([one])).collect()
}

/// Translates retries: what istiod makes of them, that is where nothing was processed, gRPC's UNAVAILABLE and CANCELLED, and
/// the statuses named.
pub(super) fn retry(written: &WrittenRetry, path: &str, remarks: &mut Remarks) -> Retries {
    if let Some(code) = written.codes.iter().find(|code| !(400..600).contains(*code)) {
        remarks.error(format!("{path}.codes"), format!("{code} is no status of an error"));
    }
    let backoff = written.backoff.as_deref().map(duration::parse);
    if backoff == Some(None) {
        remarks.error(format!("{path}.backoff"), "is no duration: write e.g. 100ms");
    }
    let statuses = (!written.codes.is_empty()).then(|| RetryOn::Statuses(written.codes.clone()));
    let always =
        [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::GrpcStatus(14), RetryOn::GrpcStatus(1)];
    Retries {
        attempts: written.attempts.unwrap_or(ATTEMPTS),
        on: always.into_iter().chain(statuses).collect(),
        per_try_timeout: None, // The rule's backendRequest.
        backoff: backoff.flatten(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_compared_as_istiod_does() {
        let rows = [
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://a.example.evil", false),
            ("https://*.a.example", "https://x.y.a.example", true),
            ("https://*.a.example", "https://xaaexample", false),
            ("https://a.example:*", "https://a.example:8443", true),
            ("*", "http://b:81", true),
            ("*", "null", false),
        ];
        for (written, sent, want) in rows {
            let mut remarks = Remarks::default();
            let origin = origin(written, "o", &mut remarks).unwrap();
            assert_eq!(origin.matches(sent), want, "{written} {sent}");
            assert_eq!(remarks, Remarks::default());
        }
    }
}
