//! Resource URIs in canonical form. Three of six servers that were measured normalise a URI before they look it up,
//! so a policy on any other spelling than the canonical one can be walked around (`file:///public/../secret/x`).

use url::Url;

/// Whether `uri` is its own WHATWG serialisation and hides nothing that a server might decode or collapse: no `//` in
/// the path, no backslash, C0 control or space, no `%2e`, `%2f` or `%5c` (in any case, anywhere).
pub(crate) fn is_canonical(uri: &str) -> bool {
    if hides_something(uri) {
        return false;
    }
    Url::parse(uri).is_ok_and(|url| url.as_str() == uri && !url.path().contains("//"))
}

/// Where the literal prefix of a URI template (RFC 6570) ends: at its first `{`. `None`: no template.
pub(crate) fn template_prefix(uri: &str) -> Option<&str> {
    uri.split_once('{').map(|(literal, _)| literal)
}

/// Whether every expansion of a template can be canonical, as far as its literal prefix tells.
pub(crate) fn is_canonical_template(template: &str) -> bool {
    let literal = template_prefix(template).unwrap_or(template);
    if hides_something(template) {
        return false;
    }
    match Url::parse(literal) {
        // A prefix without a path gains one when it is serialised (`https://host{/path}`).
        Ok(url) => {
            let written = url.as_str();
            (written == literal || written.strip_suffix('/') == Some(literal)) && !url.path().contains("//")
        }
        // Too short to be a URL: only the scheme can be judged.
        Err(_) => !literal.contains(|c: char| c.is_ascii_uppercase()),
    }
}

fn hides_something(uri: &str) -> bool {
    let bytes = uri.as_bytes();
    bytes.iter().any(|&b| b <= b' ' || b == b'\\' || b == 0x7f) || bytes.windows(3).any(is_hidden_separator)
}

fn is_hidden_separator(window: &[u8]) -> bool {
    matches!(window, [b'%', b'2', b'e' | b'E' | b'f' | b'F'] | [b'%', b'5', b'c' | b'C'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spelling_of_a_resource_is_canonical() {
        for (row, uri, canonical) in [
            ("plain file", "file:///secret/x", true),
            ("non-special scheme", "test://static-text", true),
            ("non-special scheme with path", "demo://resource/static/document/a.md", true),
            ("opaque path", "urn:example:a", true),
            ("https with query", "https://example.com/a?b=c%20d&u=http://x//y", true),
            ("encoded space", "file:///a%20b", true),
            ("R-1 upper-case scheme", "FILE:///secret/x", false),
            ("R-1 upper-case host", "http://HOST/x", false),
            ("R-1 default port", "http://host:80/x", false),
            ("R-2 dot segments", "file:///public/../secret/x", false),
            ("R-2 single dot", "file:///public/./x", false),
            ("R-2 encoded dots", "file:///public/%2e%2e/secret/x", false),
            ("R-2 encoded dots, upper case", "file:///public/%2E%2E/secret/x", false),
            ("R-2 half encoded", "file:///public/.%2e/secret/x", false),
            ("R-3 localhost", "file://localhost/secret/x", false),
            ("R-3 one slash", "file:/secret/x", false),
            ("R-3 no slash", "http:host/x", false),
            ("R-3 backslash", "file:///public\\..\\secret", false),
            ("R-3 backslash in an opaque host scheme", "demo://a\\b", false),
            ("R-3 tab inside", "file:///se\tcret/x", false),
            ("R-3 newline inside", "file:///se\ncret/x", false),
            ("R-3 leading space", " file:///secret/x", false),
            ("R-3 trailing space", "file:///secret/x ", false),
            ("R-4 doubled slash", "file:////secret/x", false),
            ("R-4 doubled slash inside", "demo://h/a//b", false),
            ("R-6 encoded separator", "demo://h/a%2fb", false),
            ("R-6 encoded separator, upper case", "demo://h/a%2Fb", false),
            ("R-6 encoded backslash", "demo://h/a%5cb", false),
            ("R-6 climbing variable", "demo://h/..%2f..%2fetc", false),
            ("host without path", "https://example.com", false),
            ("relative", "/secret/x", false),
            ("empty", "", false),
            ("non-ASCII path", "file:///é", false),
        ] {
            assert_eq!(is_canonical(uri), canonical, "{row}: {uri:?}");
        }
    }

    #[test]
    fn a_template_is_judged_by_what_it_says_literally() {
        for (template, canonical) in [
            ("demo://resource/dynamic/text/{id}", true),
            ("test://template/{id}/data", true),
            ("https://example.com{/path}", true),
            ("{+anything}", true),
            ("http://{host}/x", true),
            ("no-braces://host/x", true),
            ("file:///public/../secret/{x}", false),
            ("FILE:///secret/{x}", false),
            ("HTTP://{host}", false),
            ("demo://h/{a}%2f{b}", false),
            ("demo://h//{a}", false),
        ] {
            assert_eq!(is_canonical_template(template), canonical, "{template}");
        }
    }
}
