//! Many string matches at once: exact values by hash, the others in turn.

use std::collections::HashSet;

use waypoint_model::{Pattern, StringMatch};

/// Up to this many exact values are compared one by one, which is quicker than hashing.
const FEW: usize = 8;

/// Istio's string matches OR-ed: exact, prefix, suffix, presence. Compares bytes, so that a header that is no UTF-8 is
/// compared too and does not slip past a DENY.
#[derive(Debug, Default)]
pub(crate) struct Strings {
    exact: Exact,
    prefixes: Vec<Box<[u8]>>,
    suffixes: Vec<Box<[u8]>>,
    patterns: Vec<Pattern>,
    /// `*`: anything but the empty text.
    present: bool,
}

#[derive(Debug)]
enum Exact {
    Few(Vec<Box<[u8]>>),
    Many(HashSet<Box<[u8]>>),
}

impl Default for Exact {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Strings {
    /// One match.
    pub(crate) fn one(value: &StringMatch) -> Self {
        let bytes = |text: &str| Box::from(text.as_bytes());
        let mut strings = Self::default();
        match value {
            StringMatch::Exact(text) => strings.exact.insert(bytes(text)),
            StringMatch::Prefix(text) => strings.prefixes.push(bytes(text)),
            StringMatch::Suffix(text) => strings.suffixes.push(bytes(text)),
            StringMatch::Present => strings.present = true,
            StringMatch::Regex(pattern) => strings.patterns.push(pattern.clone()),
        }
        strings
    }

    /// One match of a text that is given in lower case.
    pub(crate) fn one_ignoring_case(value: &StringMatch) -> Self {
        Self::one(&match value {
            StringMatch::Exact(text) => StringMatch::Exact(text.to_ascii_lowercase()),
            StringMatch::Prefix(text) => StringMatch::Prefix(text.to_ascii_lowercase()),
            StringMatch::Suffix(text) => StringMatch::Suffix(text.to_ascii_lowercase()),
            StringMatch::Present => StringMatch::Present,
            // A control plane asks for hosts by exact value, prefix or suffix; a pattern sees the text as it is given.
            StringMatch::Regex(pattern) => StringMatch::Regex(pattern.clone()),
        })
    }

    /// Adds the alternatives of another.
    pub(crate) fn absorb(&mut self, other: Self) {
        match other.exact {
            Exact::Few(texts) => texts.into_iter().for_each(|text| self.exact.insert(text)),
            Exact::Many(texts) => texts.into_iter().for_each(|text| self.exact.insert(text)),
        }
        self.prefixes.extend(other.prefixes);
        self.suffixes.extend(other.suffixes);
        self.patterns.extend(other.patterns);
        self.present |= other.present;
    }

    /// Whether any of them matches.
    pub(crate) fn matches(&self, text: &[u8]) -> bool {
        (self.present && !text.is_empty())
            || self.exact.contains(text)
            || self.prefixes.iter().any(|prefix| text.starts_with(prefix))
            || self.suffixes.iter().any(|suffix| text.ends_with(suffix))
            || self.patterns.iter().any(|pattern| pattern.matches(text))
    }

    /// Whether some text that begins like this could match.
    pub(crate) fn could_match_from(&self, beginning: &[u8]) -> bool {
        self.present
            || !self.suffixes.is_empty()
            || !self.patterns.is_empty()
            || self
                .prefixes
                .iter()
                .any(|prefix| prefix.starts_with(beginning) || beginning.starts_with(prefix))
            || self.exact.any(|text| text.starts_with(beginning))
    }

    /// The exact values, if there is no other match beside them.
    pub(crate) fn exact_only(&self) -> Option<Vec<&[u8]>> {
        let other = self.present
            || !self.prefixes.is_empty()
            || !self.suffixes.is_empty()
            || !self.patterns.is_empty();
        (!other).then(|| match &self.exact {
            Exact::Few(texts) => texts.iter().map(AsRef::as_ref).collect(),
            Exact::Many(texts) => texts.iter().map(AsRef::as_ref).collect(),
        })
    }
}

impl Exact {
    fn contains(&self, text: &[u8]) -> bool {
        match self {
            Self::Few(texts) => texts.iter().any(|have| have.as_ref() == text),
            Self::Many(texts) => texts.contains(text),
        }
    }

    fn any(&self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Self::Few(texts) => texts.iter().any(|text| wanted(text)),
            Self::Many(texts) => texts.iter().any(|text| wanted(text)),
        }
    }

    fn insert(&mut self, text: Box<[u8]>) {
        match self {
            Self::Few(texts) if texts.len() < FEW => texts.push(text),
            Self::Few(texts) => *self = Self::Many(texts.drain(..).chain([text]).collect()),
            Self::Many(texts) => {
                texts.insert(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(patterns: &[&str]) -> Strings {
        let mut strings = Strings::default();
        patterns.iter().for_each(|pattern| strings.absorb(Strings::one(&StringMatch::parse(pattern))));
        strings
    }

    #[test]
    fn presence_needs_a_text() {
        assert!(set(&["*"]).matches(b"x"));
        assert!(!set(&["*"]).matches(b""));
        assert!(set(&["*"]).matches(b"\xff"), "bytes that are no UTF-8 are a text too");
    }

    #[test]
    fn a_pattern_is_an_alternative_like_any_other() {
        let mut strings = set(&["x"]);
        strings.absorb(Strings::one(&StringMatch::Regex(Pattern::parse("a.c").unwrap())));
        assert!(strings.matches(b"x") && strings.matches(b"abc") && !strings.matches(b"abcd"));
        assert!(strings.could_match_from(b"q"), "its beginning is not looked at");
        assert_eq!(strings.exact_only(), None);
    }

    #[test]
    fn exact_values_are_told_only_when_nothing_else_matches() {
        assert_eq!(set(&["a", "b"]).exact_only(), Some(vec![&b"a"[..], &b"b"[..]]));
        for other in ["a*", "*a", "*"] {
            assert_eq!(set(&["a", other]).exact_only(), None, "{other}");
        }
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(set(&many).exact_only().map(|texts| texts.len()), Some(20));
    }

    #[test]
    fn a_beginning_tells_what_can_no_longer_match() {
        let rows = [
            ("notes://a", "notes://", true),
            ("notes://a", "notes://b", false),
            ("notes://a", "notes://a/b", false),
            ("notes://a*", "notes://", true),
            ("notes://a*", "notes://ab", true),
            ("notes://a*", "notes://b", false),
            ("*.md", "notes://b", true),
            ("*", "notes://", true),
        ];
        for (pattern, beginning, want) in rows {
            assert_eq!(set(&[pattern]).could_match_from(beginning.as_bytes()), want, "{pattern} {beginning}");
        }
        assert!(set(&["x", "notes://a"]).could_match_from(b"notes://"), "one of them is enough");
        assert!(!set(&[]).could_match_from(b""));
    }

    proptest! {
        #[test]
        fn no_text_matches_what_its_beginning_ruled_out(
            patterns in proptest::collection::vec("(\\*)?[ab]{0,3}(\\*)?", 0..4),
            beginning in "[ab]{0,2}",
            rest in "[ab]{0,3}",
        ) {
            let members: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let strings = set(&members);
            let text = format!("{beginning}{rest}");
            prop_assert!(strings.could_match_from(beginning.as_bytes()) || !strings.matches(text.as_bytes()));
        }

        #[test]
        fn a_set_matches_what_some_member_matches(
            patterns in proptest::collection::vec("(\\*)?[ab]{0,3}(\\*)?", 0..14),
            text in "[ab]{0,4}",
        ) {
            let members: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let want = members.iter().any(|pattern| StringMatch::parse(pattern).matches(&text));
            prop_assert_eq!(set(&members).matches(text.as_bytes()), want);
        }
    }
}
