//! How a policy or a route compares texts.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// Istio's string match: `abc`, `abc*`, `*abc` and `*`. Case-sensitive, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum StringMatch {
    /// The whole text.
    Exact(String),
    /// Starts with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Any text that is not empty (`*`).
    Present,
    /// The whole text matches a pattern. Not in Istio's notation: only a control plane says it.
    Regex(Pattern),
}

/// A regular expression in RE2 syntax that must match the whole text. Linear in the text's length.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    compiled: regex::bytes::Regex,
}

impl Pattern {
    /// Compiles.
    ///
    /// # Errors
    /// When it is no expression of this syntax, or larger than what we compile.
    pub fn parse(text: &str) -> Result<Self, regex::Error> {
        regex::bytes::Regex::new(text)?; // on its own, so that an unpaired bracket cannot leave the group around it
        let compiled = regex::bytes::RegexBuilder::new(&format!(r"\A(?:{text})\z"))
            .size_limit(1 << 20)
            .dot_matches_new_line(true)
            .build()?;
        Ok(Self { text: text.into(), compiled })
    }

    /// Whether the whole text matches. Takes bytes, so that a header that is no UTF-8 is compared too.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl std::hash::Hash for Pattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl StringMatch {
    /// Reads Istio's notation. A `*` elsewhere than at one end is a literal character, as in Istio.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match (text, text.strip_suffix('*'), text.strip_prefix('*')) {
            ("*", ..) => Self::Present,
            (_, Some(prefix), _) => Self::Prefix(prefix.to_owned()),
            (_, _, Some(suffix)) => Self::Suffix(suffix.to_owned()),
            _ => Self::Exact(text.to_owned()),
        }
    }

    /// Whether `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(want) => text == want,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Self::Present => !text.is_empty(),
            Self::Regex(pattern) => pattern.matches(text.as_bytes()),
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Present => f.write_str("*"),
            Self::Regex(pattern) => write!(f, "/{}/", pattern.as_str()),
        }
    }
}

/// A path of an AuthorizationPolicy: Istio's string match, or a template with `{*}` and `{**}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum PathPattern {
    /// Exact, prefix, suffix or presence.
    Text(StringMatch),
    /// A template.
    Template(Template),
}

impl PathPattern {
    /// Reads a path; one with `{*}` or `{**}` is a template (Istio `Operation.paths`).
    ///
    /// # Errors
    /// A [`TemplateError`] when a template is not one that Istio accepts.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let template = text.contains("{*}") || text.contains("{**}");
        if template {
            Template::parse(text).map(Self::Template)
        } else {
            Ok(Self::Text(StringMatch::parse(text)))
        }
    }

    /// Whether a normalized path, without its query, matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(template) => template.matches(path),
        }
    }
}

/// A path template: `{*}` is one non-empty segment, `{**}` is any text between its slashes, an empty one too, and the last
/// operator. So `/a/{**}` matches `/a/` and not `/a`. Both stand for characters that a path may hold unencoded (RFC 3986
/// `pchar`), as in Envoy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
enum Part {
    Literal(String),
    One,
    Many,
}

/// Why a path template is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{*}` and `{**}` stand between slashes.
    #[error("`{{*}}` and `{{**}}` must be a whole path segment")]
    NotASegment,
    /// An operator after `{**}`.
    #[error("`{{**}}` must be the last operator")]
    AfterMany,
    /// A `*` outside braces cannot stand in a template.
    #[error("`*` outside braces cannot be mixed with `{{*}}` or `{{**}}`")]
    Wildcard,
    /// Does not start with `/`.
    #[error("a path template starts with `/`")]
    NoSlash,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let segments = text.strip_prefix('/').ok_or(TemplateError::NoSlash)?;
        let mut parts = Vec::new();
        for segment in segments.split('/') {
            let part = match segment {
                "{*}" => Part::One,
                "{**}" => Part::Many,
                other if other.contains("{*}") || other.contains("{**}") => {
                    return Err(TemplateError::NotASegment);
                }
                other if other.contains('*') => return Err(TemplateError::Wildcard),
                other => Part::Literal(other.to_owned()),
            };
            if parts.contains(&Part::Many) && !matches!(part, Part::Literal(_)) {
                return Err(TemplateError::AfterMany);
            }
            parts.push(part);
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// Whether a path matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let segments: Vec<&str> = rest.split('/').collect();
        let many = self.parts.iter().position(|part| *part == Part::Many);
        let Some(at) = many else {
            return segments.len() == self.parts.len() && fits(&self.parts, &segments);
        };
        let (before, after) = (self.parts.get(..at), self.parts.get(at + 1..));
        let (Some(before), Some(after)) = (before, after) else { return false };
        let tail_at = segments.len().checked_sub(after.len());
        let Some(tail_at) = tail_at.filter(|tail| *tail > before.len()) else { return false };
        let (head, tail) = (segments.get(..before.len()), segments.get(tail_at..));
        let (Some(head), Some(many), Some(tail)) = (head, segments.get(before.len()..tail_at), tail) else {
            return false;
        };
        fits(before, head) && many.iter().all(|segment| segment.bytes().all(is_plain)) && fits(after, tail)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn fits(parts: &[Part], segments: &[&str]) -> bool {
    parts.iter().zip(segments).all(|(part, segment)| match part {
        Part::Literal(text) => text == segment,
        Part::One | Part::Many => !segment.is_empty() && segment.bytes().all(is_plain),
    })
}

/// What an operator of a template stands for.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;:@=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_match_is_istios() {
        let rows = [
            ("abc", "abc", true),
            ("abc", "Abc", false),
            ("abc*", "abc", true),
            ("abc*", "abcd", true),
            ("*abc", "xabc", true),
            ("*abc", "abcx", false),
            ("*", "x", true),
            ("*", "", false),
            ("a*c", "abc", false),
            ("a*c", "a*c", true),
        ];
        for (pattern, text, want) in rows {
            assert_eq!(StringMatch::parse(pattern).matches(text), want, "{pattern} {text}");
            assert_eq!(StringMatch::parse(pattern).to_string(), pattern);
        }
    }

    #[test]
    fn a_pattern_matches_the_whole_text_and_nothing_leaves_its_group() {
        let rows = [("a|b", "b", true), ("a|b", "ab", false), (".+", "", false), (".*", "a\nb", true)];
        for (pattern, text, want) in rows {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(text.as_bytes()), want, "{pattern} {text}");
        }
        for refused in ["a)|(b", "(", "a{99999}{99999}", r"(a)\1"] {
            assert!(Pattern::parse(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn templates_match_by_segment() {
        let rows = [
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/b/c", false),
            ("/a/{*}", "/a/", false),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a/", true),
            ("/{**}/x", "/a/b/x", true),
            ("/a/{**}", "/a", false),
            ("/a/{**}", "/a/b//c/", true),
            ("/{**}/x", "/x", false),
            ("/{**}/x", "//x", true),
            ("/{*}/x", "/a=b/x", true),
            ("/{*}/x", "/a*b/x", true),
            ("/{**}", "/a|b", false),
            ("/{**}/x", "/a/b", false),
            ("/{*}/b/{**}", "/a/b/c/d", true),
        ];
        for (template, path, want) in rows {
            assert_eq!(PathPattern::parse(template).unwrap().matches(path), want, "{template} {path}");
        }
        let refused = [
            ("/a{*}", TemplateError::NotASegment),
            ("/{**}/{*}", TemplateError::AfterMany),
            ("/{*}/b*", TemplateError::Wildcard),
            ("{*}", TemplateError::NoSlash),
        ];
        for (template, why) in refused {
            assert_eq!(PathPattern::parse(template), Err(why), "{template}");
        }
    }
}
