//! Resource URIs in canonical form. Three of six servers that were measured normalise a URI before they look it up,
//! so a policy on any other spelling than the canonical one can be walked around (`file:///public/../secret/x`).

use url::Url;

/// Whether `uri` is its own WHATWG serialisation and the only spelling of what it names: no `//` in the path,
/// and nothing hidden ([`hides_something`]).
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
    if without_expressions(template).is_none_or(|rest| hides_something(&rest)) {
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

/// A template with `_` for each of its expressions; `None` if a brace opens none.
fn without_expressions(template: &str) -> Option<String> {
    let mut literal = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, opened)) = rest.split_once('{') {
        let (_, behind) = opened.split_once('}').filter(|(inside, _)| is_expression(inside))?;
        literal.push_str(before);
        literal.push('_');
        rest = behind;
    }
    literal.push_str(rest);
    Some(literal)
}

/// Whether nothing between two braces is a separator to a server that takes the template for a URI. The first
/// character may be one, as an operator: `{/path}`, `{?query}`, `{#fragment}`.
fn is_expression(inside: &str) -> bool {
    let names = inside.strip_prefix(['/', '?', '#']).unwrap_or(inside);
    names.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'?' | b'#' | b'\\' | b'{' | b'%'))
}

/// Whether a server that decodes, collapses or drops parts of a URI could take this one for another: a fragment, an
/// empty query, a dot segment wherever it stands, a byte that must be encoded, one that need not be and is.
fn hides_something(uri: &str) -> bool {
    !uri.bytes().all(stands_raw) || uri.ends_with('?') || has_dot_segment(uri) || has_idle_encoding(uri)
}

/// Bytes that are written as they are. WHATWG leaves some of the others raw in queries and opaque paths only; here
/// they have one spelling everywhere, the encoded one. `#` would begin a fragment.
fn stands_raw(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'}')
}

/// A URL parser collapses dot segments in hierarchical paths only. A server that takes what follows the scheme for a
/// file name collapses them in opaque paths and behind `?` as well.
fn has_dot_segment(uri: &str) -> bool {
    let behind_scheme = uri.split_once(':').map_or("", |(_, rest)| rest);
    [uri, behind_scheme]
        .iter()
        .any(|text| text.split(['/', '?']).any(|segment| matches!(segment, "." | "..")))
}

/// Whether a `%` begins no triplet in upper case, or one that must not be.
fn has_idle_encoding(uri: &str) -> bool {
    uri.split('%').skip(1).any(|rest| encoded(rest).is_none_or(|byte| !is_encoded(byte)))
}

/// The byte that two upper-case hexadecimal digits stand for.
fn encoded(rest: &str) -> Option<u8> {
    let digits = rest.get(..2).filter(|d| d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')))?;
    u8::from_str_radix(digits, 16).ok()
}

/// Bytes that are written encoded: what does not stand raw, except control characters and the backslash, which have
/// no spelling at all, and `?`, which is another character when it is raw. An encoded `/` has none either.
fn is_encoded(byte: u8) -> bool {
    match byte {
        b'\\' => false,
        b'?' | b'%' => true,
        _ => !byte.is_ascii_control() && !stands_raw(byte),
    }
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
            ("file", "file:///a/b.md", true),
            ("watched", "test://watched-resource", true),
            ("demo", "docs://handbook/style", true),
            ("query", "https://host/path?x=1", true),
            ("name", "urn:isbn:1", true),
            ("opaque path with a slash", "memo:public/a", true),
            ("IPv6", "http://[::1]/x", true),
            ("non-ASCII, encoded", "file:///caf%C3%A9", true),
            ("encoded delimiters", "file:///a%3Fb%23c%25d%22%3C%3E%5E%60%7B%7D", true),
            ("raw delimiters", "file:///a-._~!$&'()*+,;=:@|[]", true),
            ("dots in a name", "file:///a../..b/.c/...", true),
            ("R-6 encoded letter", "file:///%70ublic/x", false),
            ("R-6 encoded digit", "file:///%31", false),
            ("R-6 encoded hyphen", "file:///a%2Db", false),
            ("R-6 encoded tilde", "file:///%7Ea", false),
            ("R-6 encoded sub-delimiter", "file:///a%2Bb", false),
            ("R-6 encoded colon", "file:///C%3A/x", false),
            ("R-6 encoded at", "file:///a%40b", false),
            ("R-6 encoded bar", "file:///C%7C/x", false),
            ("R-6 encoded bracket", "file:///a%5Bb", false),
            ("R-6 encoded letter in an opaque path", "memo:%70ublic/a", false),
            ("R-6 encoded letter in a query", "https://host/path?%78=1", false),
            ("R-6 encoded letter in a host", "demo://%68/x", false),
            ("R-6 encoded NUL", "file:///a%00", false),
            ("R-6 encoded line feed", "file:///a%0A", false),
            ("R-6 encoded DEL", "file:///a%7F", false),
            ("R-6 lower-case hex", "file:///caf%c3%a9", false),
            ("R-6 half lower-case hex", "file:///caf%C3%a9", false),
            ("R-6 no hex", "file:///a%zz", false),
            ("R-6 half a triplet", "file:///a%2", false),
            ("R-6 lone percent", "file:///a%", false),
            ("R-6 sign for a digit", "file:///a%+A", false),
            ("R-6 percent before non-ASCII", "file:///a%é", false),
            ("R-2 dot segments in an opaque path", "memo:public/../secret", false),
            ("R-2 dot segment at the end of an opaque path", "memo:public/..", false),
            ("R-2 dot segment right behind the scheme", "memo:../secret", false),
            ("R-2 single dot in an opaque path", "memo:./secret", false),
            ("R-2 dot segments in a query", "file:///public/x?/../../secret/key", false),
            ("R-2 dot segment right behind the question mark", "file:///public/x?../key", false),
            ("R-2 dot segment before the question mark", "memo:public/..?x", false),
            ("R-2 dots for a host", "demo://../secret", false),
            ("fragment", "file:///public/x#y", false),
            ("fragment with dot segments", "file:///public/x#/../../secret/key", false),
            ("empty fragment", "file:///public/x#", false),
            ("empty query", "file:///public/x?", false),
            ("raw quote in an opaque path", "memo:a\"b", false),
            ("raw caret in a query", "https://host/path?a^b", false),
            ("raw brace in an opaque path", "memo:a}b", false),
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
            ("demo://h/{+path}", true),
            ("demo://h/{path*}{?from,to}{#part}", true),
            ("demo://h/a?x={y}", true),
            ("memo:{a}/b%20c", true),
            ("demo://h/{a}/../b", false),
            ("memo:{a}/..", false),
            ("{+base}/../a:b", false),
            ("demo://h/{a}?/../b", false),
            ("demo://h/{a}/%70", false),
            ("demo://h/{a}/%c3%a9", false),
            ("demo://h/{a}%", false),
            ("demo://h/{a}%2{b}", false),
            ("demo://h/{a}/é", false),
            ("demo://h/{a}#b", false),
            ("demo://h/{a}?", false),
            ("demo://h/{a", false),
            ("demo://h/{a}}", false),
            ("demo://h/{a{b}}", false),
            ("demo://h/{a/../b}", false),
            ("demo://h/{/a/../b}", false),
            ("demo://h/{a%2e}", false),
        ] {
            assert_eq!(is_canonical_template(template), canonical, "{template}");
        }
    }
}
