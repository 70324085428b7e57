//! Tests of the peer's identity. Envoy compares the whole URI; here it is the principal, which has no scheme.

use istio_protos::envoy::r#type::matcher::v3::StringMatcher;
use istio_protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use waypoint_model::{Expr, StringMatch, Test};

use super::expr::{any, never, test};
use super::re2;
use super::translated::Refused;

const SCHEME: &str = "spiffe://";

/// A test of `io.istio.peer_principal`, the peer's URI SAN.
///
/// What is made of it holds for an identity exactly when Envoy's test holds for its URI. The shapes that istiod writes
/// for namespaces and ServiceAccounts become tests that the policy engine can look up.
pub(super) fn peer(matcher: &StringMatcher) -> Result<Expr, Refused> {
    if matcher.ignore_case {
        return Err(Refused::new("an identity is compared with regard to case"));
    }
    match matcher.match_pattern.as_ref() {
        Some(MatchPattern::Exact(uri)) => Ok(exact(uri)),
        Some(MatchPattern::Prefix(uri)) => Ok(prefix(uri)),
        Some(MatchPattern::Suffix(uri)) => Ok(suffix(uri)),
        Some(MatchPattern::SafeRegex(regex)) => self::regex(&regex.regex),
        Some(MatchPattern::Custom(_)) | None => {
            Err(Refused::new("this kind of test is not supported for an identity"))
        }
    }
}

fn principal(value: StringMatch) -> Expr {
    test(Test::Principal(value))
}

fn exact(uri: &str) -> Expr {
    uri.strip_prefix(SCHEME).map_or(never(), |rest| principal(StringMatch::Exact(rest.to_owned())))
}

fn prefix(uri: &str) -> Expr {
    match uri.strip_prefix(SCHEME) {
        Some("") => principal(StringMatch::Present),
        Some(rest) => principal(StringMatch::Prefix(rest.to_owned())),
        None if SCHEME.starts_with(uri) => principal(StringMatch::Present),
        None => never(),
    }
}

/// A principal that ends so, or one that is short enough for the scheme's end to be part of it.
fn suffix(uri: &str) -> Expr {
    let over_the_scheme = (0..SCHEME.len())
        .filter_map(|at| SCHEME.get(at..))
        .filter_map(|tail| uri.strip_prefix(tail))
        .filter(|rest| !rest.is_empty())
        .map(|rest| principal(StringMatch::Exact(rest.to_owned())));
    let whole = match uri {
        "" => StringMatch::Present,
        uri => StringMatch::Suffix(uri.to_owned()),
    };
    any(std::iter::once(principal(whole)).chain(over_the_scheme).collect())
}

fn regex(expression: &str) -> Result<Expr, Refused> {
    if expression == ".+" {
        return Ok(principal(StringMatch::Present));
    }
    if let Some(expr) = namespace(expression).or_else(|| service_account(expression)) {
        return Ok(expr);
    }
    let rest = without_scheme(expression)?;
    if let Some(text) = rest.strip_prefix(".*").and_then(re2::unquote).filter(|text| !text.is_empty()) {
        return Ok(principal(StringMatch::Suffix(text)));
    }
    re2::pattern(&rest).map(|pattern| principal(StringMatch::Regex(pattern)))
}

/// `.*/ns/X/.*`, where X is a name or its beginning. (With `.*` before a name it is not the namespace that Envoy's
/// expression finds: it may run over slashes. That one stays an expression.)
fn namespace(expression: &str) -> Option<Expr> {
    let value = expression.strip_prefix(".*/ns/")?.strip_suffix("/.*")?;
    let value = match value.strip_suffix(".*") {
        Some("") => StringMatch::Present,
        Some(prefix) => StringMatch::Prefix(segment(prefix)?),
        None => StringMatch::Exact(segment(value)?),
    };
    Some(test(Test::Namespace(value)))
}

/// `spiffe://.+/ns/X/(.+/|)sa/Y(/.+)?`.
fn service_account(expression: &str) -> Option<Expr> {
    let names = expression.strip_prefix("spiffe://.+/ns/")?.strip_suffix("(/.+)?")?;
    let (namespace, name) = names.split_once("/(.+/|)sa/")?;
    let (namespace, name) = (segment(namespace)?, segment(name)?);
    Some(test(Test::ServiceAccount { namespace, name }))
}

/// A literal that stands between slashes.
fn segment(expression: &str) -> Option<String> {
    re2::unquote(expression).filter(|text| !text.is_empty() && !text.contains('/'))
}

/// The expression that matches a principal where the given one matches its URI. istiod writes two beginnings; what
/// has another is refused, and so is an alternative at the top, of which only the first has that beginning.
fn without_scheme(expression: &str) -> Result<String, Refused> {
    let unknown = || Refused::new(format!("`{expression}` is no expression that is known for an identity"));
    if has_top_alternative(expression) {
        return Err(unknown());
    }
    if let Some(rest) = expression.strip_prefix(SCHEME) {
        return Ok(rest.to_owned());
    }
    // The slash before `ns` is the scheme's last or one of the principal's: the one before that in `//` is followed
    // by a slash.
    let rest = expression.strip_prefix(".*/ns/").ok_or_else(unknown)?;
    Ok(format!("(?:.*/)?ns/{rest}"))
}

fn has_top_alternative(expression: &str) -> bool {
    let (mut depth, mut in_class) = (0_usize, false);
    let mut chars = expression.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            '|' if !in_class && depth == 0 => return true,
            _ => {}
        }
    }
    false
}
