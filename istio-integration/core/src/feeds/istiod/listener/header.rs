//! Envoy's tests of headers, in policies and in routes.

use istio_protos::envoy::config::route::v3::HeaderMatcher;
use istio_protos::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use istio_protos::envoy::r#type::matcher::v3::StringMatcher;
use waypoint_model::{Expr, HeaderMatch, StringMatch, Test};

use super::expr::{all, any, not, test};
use super::strings::{passes_empty, string, string_ignoring_case, whatever};
use super::translated::{At, Refused};

const AUTHORITY: &str = ":authority";
const METHOD: &str = ":method";

/// A header test of a policy.
pub(super) fn policy(matcher: &HeaderMatcher) -> Result<Expr, Refused> {
    let asked = Asked::of(matcher).at(format!("header[{:?}]", matcher.name))?;
    let holds = leaf(matcher, &asked.value)?;
    let there = || leaf(matcher, &Wanted { value: whatever(), ignore_case: true });
    Ok(match asked.absent {
        Absent::Fails if asked.inverted => all(vec![there()?, not(holds)]),
        Absent::Fails => holds,
        Absent::Holds => any(vec![not(there()?), if asked.inverted { not(holds) } else { holds }]),
    })
}

/// A header test of a route, as one or two of the model's.
pub(super) fn route(matcher: &HeaderMatcher) -> Result<Vec<HeaderMatch>, Refused> {
    let asked = Asked::of(matcher).at(format!("header[{:?}]", matcher.name))?;
    let name = matcher.name.to_ascii_lowercase();
    let value = asked.value.value;
    let one = |value, inverted| HeaderMatch { name: name.clone(), value, inverted };
    match (asked.absent, asked.inverted) {
        (Absent::Fails, false) => Ok(vec![one(value, false)]),
        (Absent::Fails, true) => Ok(vec![one(whatever(), false), one(value, true)]),
        // An absent header is compared as an empty text, but where it is the presence that is asked for.
        (Absent::Holds, true) if value == whatever() => Ok(vec![one(StringMatch::Present, true)]),
        (Absent::Holds, true) => Ok(vec![one(value, true)]),
        (Absent::Holds, false) => Err(Refused::new("a test that an absent header passes is not supported")
            .at(format!("header[{:?}]", matcher.name))),
    }
}

/// A header test, taken apart.
struct Asked {
    value: Wanted,
    /// The comparison must fail.
    inverted: bool,
    /// What an absent header does.
    absent: Absent,
}

enum Absent {
    Fails,
    Holds,
}

/// A text, and whether case is left out of regard.
struct Wanted {
    value: StringMatch,
    ignore_case: bool,
}

impl Wanted {
    fn cased(value: StringMatch) -> Self {
        Self { value, ignore_case: false }
    }
}

impl Asked {
    fn of(matcher: &HeaderMatcher) -> Result<Self, Refused> {
        let inverted = matcher.invert_match;
        let value = match specifier(matcher)? {
            Specifier::Text(text) => match string_ignoring_case(&text)? {
                Some(value) if matcher.name == AUTHORITY => Wanted { value, ignore_case: true },
                _ => Wanted::cased(string(&text)?),
            },
            Specifier::Present(present) => {
                // `present_match: false` asks for absence, and to invert it asks for presence.
                let inverted = inverted == present;
                let absent = if inverted { Absent::Holds } else { Absent::Fails };
                let value = Wanted { value: whatever(), ignore_case: true };
                return Ok(Self { value, inverted, absent });
            }
        };
        let empty = passes_empty(&value.value);
        let absent = if matcher.treat_missing_header_as_empty && empty != inverted {
            Absent::Holds
        } else {
            Absent::Fails
        };
        Ok(Self { value, inverted, absent })
    }
}

enum Specifier {
    Text(StringMatcher),
    Present(bool),
}

fn specifier(matcher: &HeaderMatcher) -> Result<Specifier, Refused> {
    Ok(match matcher.header_match_specifier.as_ref() {
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => Specifier::Text(matcher.clone()),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => Specifier::Present(*present),
        None => return Err(Refused::new("a header test without a value")),
    })
}

fn leaf(matcher: &HeaderMatcher, wanted: &Wanted) -> Result<Expr, Refused> {
    let value = wanted.value.clone();
    let name = matcher.name.to_ascii_lowercase();
    if name.starts_with(':') && name != AUTHORITY && name != METHOD {
        return Err(Refused::new("this pseudo-header is not supported").at(format!("header[{name:?}]")));
    }
    Ok(test(match name.as_str() {
        AUTHORITY if wanted.ignore_case => Test::Host(value),
        METHOD => Test::Method(value),
        _ => Test::Header { name, value },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use istio_protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

    fn matcher(specifier: HeaderMatchSpecifier) -> HeaderMatcher {
        HeaderMatcher {
            name: "X-Foo".to_owned(),
            header_match_specifier: Some(specifier),
            ..HeaderMatcher::default()
        }
    }

    fn exact(text: &str) -> HeaderMatchSpecifier {
        HeaderMatchSpecifier::StringMatch(StringMatcher {
            ignore_case: false,
            match_pattern: Some(MatchPattern::Exact(text.to_owned())),
        })
    }

    /// Envoy's `HeaderMatcher`, told from its documentation, for the tests that are made above.
    fn envoy(matcher: &HeaderMatcher, header: Option<&str>) -> bool {
        let Some(specifier) = &matcher.header_match_specifier else { return header.is_some() };
        if let HeaderMatchSpecifier::PresentMatch(present) = specifier {
            return (header.is_some() == *present) != matcher.invert_match;
        }
        let value = match header {
            Some(value) => value,
            None if matcher.treat_missing_header_as_empty => "",
            None => return false,
        };
        let HeaderMatchSpecifier::StringMatch(text) = specifier else { unreachable!() };
        let Some(MatchPattern::Exact(want)) = &text.match_pattern else { unreachable!() };
        (value == want) != matcher.invert_match
    }

    fn holds(expr: &Expr, header: Option<&str>) -> bool {
        match expr {
            Expr::All(parts) => parts.iter().all(|part| holds(part, header)),
            Expr::Any(parts) => parts.iter().any(|part| holds(part, header)),
            Expr::Not(part) => !holds(part, header),
            Expr::Test(Test::Header { name, value }) => {
                assert_eq!(name, "x-foo");
                header.is_some_and(|text| value.matches(text))
            }
            Expr::Test(other) => panic!("{other:?}"),
        }
    }

    /// As the data plane compares them: an absent header that is asked not to match is an empty text.
    fn route_holds(tests: &[HeaderMatch], header: Option<&str>) -> bool {
        tests.iter().all(|test| {
            let present = test.value == StringMatch::Present;
            let holds = match header {
                Some(text) => present || test.value.matches(text),
                None if test.inverted => !present && test.value.matches(""),
                None => return false,
            };
            holds != test.inverted
        })
    }

    #[test]
    fn absent_empty_and_other_values_do_what_they_do_in_envoy() {
        for specifier in [
            exact("a"),
            exact(""),
            HeaderMatchSpecifier::PresentMatch(true),
            HeaderMatchSpecifier::PresentMatch(false),
        ] {
            for (invert_match, treat_missing_header_as_empty) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let matcher = HeaderMatcher {
                    invert_match,
                    treat_missing_header_as_empty,
                    ..matcher(specifier.clone())
                };
                let expr = policy(&matcher).unwrap();
                let tests = route(&matcher);
                for header in [None, Some(""), Some("a"), Some("b")] {
                    let want = envoy(&matcher, header);
                    assert_eq!(holds(&expr, header), want, "{matcher:?} {header:?}");
                    if let Ok(tests) = &tests {
                        assert_eq!(route_holds(tests, header), want, "{matcher:?} {header:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn pseudo_headers_become_what_they_stand_for() {
        let named = |name: &str, specifier, ignore_case| {
            let mut matcher = matcher(specifier);
            matcher.name = name.to_owned();
            if let Some(HeaderMatchSpecifier::StringMatch(text)) = &mut matcher.header_match_specifier {
                text.ignore_case = ignore_case;
            }
            policy(&matcher)
        };
        let value = || StringMatch::Exact("a".to_owned());
        let rows = [
            (named(":authority", exact("a"), true), Test::Host(value())),
            (
                named(":authority", exact("a"), false),
                Test::Header { name: ":authority".to_owned(), value: value() },
            ),
            (named(":method", exact("a"), false), Test::Method(value())),
            (named("X-A", exact("a"), false), Test::Header { name: "x-a".to_owned(), value: value() }),
        ];
        for (have, want) in rows {
            assert_eq!(have.unwrap(), Expr::Test(want));
        }
        assert!(named(":path", exact("a"), false).is_err());
    }
}
