//! Envoy's string tests.

use istio_protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use istio_protos::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use waypoint_model::{Pattern, StringMatch};

use super::re2;
use super::translated::Refused;

/// What istiod writes for `*`: any text that is not empty.
const ANYTHING: &str = ".+";

/// A test that regards case, as all of istiod's do save those of hosts.
pub(super) fn string(matcher: &StringMatcher) -> Result<StringMatch, Refused> {
    let pattern = pattern_of(matcher)?;
    match pattern {
        MatchPattern::SafeRegex(regex) => self::regex(regex),
        MatchPattern::Custom(_) => Err(Refused::new("an extension of a string test is not supported")),
        MatchPattern::Exact(text) | MatchPattern::Prefix(text) | MatchPattern::Suffix(text)
            if matcher.ignore_case =>
        {
            let ends = Ends {
                before: matches!(pattern, MatchPattern::Suffix(_)),
                after: matches!(pattern, MatchPattern::Prefix(_)),
            };
            literal(ends, text, true)
        }
        MatchPattern::Exact(text) => Ok(StringMatch::Exact(text.clone())),
        MatchPattern::Prefix(text) => Ok(StringMatch::Prefix(text.clone())),
        MatchPattern::Suffix(text) => Ok(StringMatch::Suffix(text.clone())),
    }
}

/// A test of a text that is compared in lower case by whoever asks it (hosts); `None` where the matcher regards case.
pub(super) fn string_ignoring_case(matcher: &StringMatcher) -> Result<Option<StringMatch>, Refused> {
    if !matcher.ignore_case {
        return Ok(None);
    }
    let plain = StringMatcher { ignore_case: false, ..matcher.clone() };
    match pattern_of(matcher)? {
        MatchPattern::Exact(_) | MatchPattern::Prefix(_) | MatchPattern::Suffix(_) => {
            string(&plain).map(Some)
        }
        MatchPattern::SafeRegex(_) | MatchPattern::Custom(_) => string(matcher).map(Some),
    }
}

/// A regular expression for the whole text. `.+` is istiod's way to write `*`.
pub(super) fn regex(matcher: &RegexMatcher) -> Result<StringMatch, Refused> {
    if matcher.regex == ANYTHING {
        return Ok(StringMatch::Present);
    }
    re2::pattern(&matcher.regex).map(StringMatch::Regex)
}

/// Whether a text that is there but empty passes.
pub(super) fn passes_empty(value: &StringMatch) -> bool {
    value.matches("")
}

/// Holds for every text, the empty one too: what `present_match` asks of a header that is there.
pub(super) fn whatever() -> StringMatch {
    StringMatch::Prefix(String::new())
}

fn pattern_of(matcher: &StringMatcher) -> Result<&MatchPattern, Refused> {
    matcher.match_pattern.as_ref().ok_or_else(|| Refused::new("a string test without a pattern"))
}

/// Where further text may stand.
#[derive(Clone, Copy)]
struct Ends {
    before: bool,
    after: bool,
}

/// A literal inside any text, for what Istio's own notation cannot say.
fn literal(ends: Ends, text: &str, ignore_case: bool) -> Result<StringMatch, Refused> {
    const ANY: &str = "(?s-u:.)*";
    let mut pattern = String::new();
    if ends.before {
        pattern.push_str(ANY);
    }
    for c in text.chars() {
        if ignore_case && c.is_ascii_alphabetic() {
            pattern.extend(['[', c.to_ascii_lowercase(), c.to_ascii_uppercase(), ']']);
        } else {
            re2::push_quoted(&mut pattern, c);
        }
    }
    if ends.after {
        pattern.push_str(ANY);
    }
    Pattern::parse(&pattern).map(StringMatch::Regex).map_err(|error| Refused::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(pattern: MatchPattern, ignore_case: bool) -> StringMatcher {
        StringMatcher { ignore_case, match_pattern: Some(pattern) }
    }

    fn safe_regex(text: &str) -> MatchPattern {
        MatchPattern::SafeRegex(RegexMatcher { regex: text.to_owned() })
    }

    #[test]
    fn each_pattern_compares_as_envoy_does() {
        let of = |text: &str| text.to_owned();
        let rows = [
            (MatchPattern::Exact(of("a.b")), false, "a.b", true),
            (MatchPattern::Exact(of("a.b")), false, "A.b", false),
            (MatchPattern::Exact(of("a.b")), true, "A.B", true),
            (MatchPattern::Exact(of("a.b")), true, "AxB", false),
            (MatchPattern::Exact(of("")), false, "", true),
            (MatchPattern::Prefix(of("é-A")), true, "é-a\n\u{0}", true),
            (MatchPattern::Prefix(of("é")), true, "É", false),
            (MatchPattern::Prefix(of("a")), false, "ab", true),
            (MatchPattern::Suffix(of("b*")), true, "xB*", true),
            (MatchPattern::Suffix(of("b")), false, "xB", false),
            (safe_regex(".+"), false, "x", true),
            (safe_regex(".+"), false, "", false),
            (safe_regex("a|b"), false, "ab", false),
            (safe_regex("A"), true, "a", false), // case is the expression's own matter
        ];
        for (pattern, ignore_case, text, want) in rows {
            let have = string(&matcher(pattern.clone(), ignore_case)).unwrap();
            assert_eq!(have.matches(text), want, "{pattern:?} {ignore_case} {text:?}");
        }
    }

    #[test]
    fn what_istio_can_write_stays_as_istio_writes_it() {
        for (pattern, want) in [
            (MatchPattern::Exact("a".to_owned()), "a"),
            (MatchPattern::Prefix("a".to_owned()), "a*"),
            (MatchPattern::Suffix("a".to_owned()), "*a"),
            (safe_regex(".+"), "*"),
        ] {
            assert_eq!(string(&matcher(pattern, false)).unwrap(), StringMatch::parse(want));
        }
    }

    #[test]
    fn a_test_without_a_pattern_is_refused() {
        let empty = StringMatcher { ignore_case: false, match_pattern: None };
        assert!(
            string(&empty).is_err() && string_ignoring_case(&StringMatcher::default()).unwrap().is_none()
        );
        assert!(string(&matcher(safe_regex("("), false)).is_err());
    }
}
