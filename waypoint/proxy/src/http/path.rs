//! Paths made comparable before they are judged, and sent on as judged (Istio `MeshConfig.pathNormalization`).

use std::borrow::Cow;

use waypoint_model::PathNormalization;

/// The normalized form of a path without its query.
///
/// `Base` decodes percent-encoded unreserved characters (RFC 3986 §6.2.2.2), encodes those that no path may hold (§3.3),
/// reads `\` as `/` and resolves dot segments (§5.2.4).
///
/// # Errors
/// The name of what makes it ambiguous: a control character, a fragment, a broken percent-encoding or an encoded NUL.
pub(crate) fn normalize(path: &str, how: PathNormalization) -> Result<Cow<'_, str>, &'static str> {
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
        return Err("path_character");
    }
    if how == PathNormalization::None || is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path, how == PathNormalization::DecodeAndMergeSlashes)?.replace('\\', "/");
    let merge = matches!(how, PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes);
    Ok(Cow::Owned(encode(&resolve(&decoded, merge))))
}

/// Characters that a path may not hold as they are; Envoy's normalization encodes them, and leaves brackets.
const ENCODED: [char; 8] = ['"', '<', '>', '^', '`', '{', '|', '}'];

fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if ENCODED.contains(&character) {
            out.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
    out
}

/// Most paths hold nothing that could be written otherwise.
fn is_plain(path: &str) -> bool {
    let may_change = |character| matches!(character, '%' | '\\') || ENCODED.contains(&character);
    path.starts_with('/')
        && !path.contains(may_change)
        && !path.as_bytes().windows(2).any(|pair| matches!(pair, b"//" | b"/."))
}

fn decode(path: &str, slashes: bool) -> Result<String, &'static str> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let digits = digits.ok_or("path_encoding")?;
        match u8::from_str_radix(digits, 16).map_err(|_not_hex| "path_encoding")? {
            0 => return Err("path_nul"),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => out.push(char::from(byte)),
            b'/' | b'\\' if slashes => out.push('/'),
            _kept => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = after.get(2..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(out)
}

/// Dot segments resolved; with `merge`, empty segments dropped, but for the last, whose slash counts.
fn resolve(path: &str, merge: bool) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let last = segments.len().saturating_sub(1);
    for (at, segment) in segments.into_iter().enumerate() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if at == last {
                    kept.push("");
                }
            }
            "" if merge && at != last => {}
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes, None};
    use proptest::prelude::*;

    #[test]
    fn paths_normalize_as_istio_says() {
        let rows = [
            ("/mcp", Base, "/mcp"),
            ("/a/../mcp", Base, "/mcp"),
            ("/a/./b/.", Base, "/a/b/"),
            ("/../../mcp", Base, "/mcp"),
            ("/a/..", Base, "/"),
            ("/%6dcp", Base, "/mcp"),
            ("/%2e%2E/mcp", Base, "/mcp"),
            ("\\mcp\\x", Base, "/mcp/x"),
            ("//mcp", Base, "//mcp"),
            ("//mcp//x/", MergeSlashes, "/mcp/x/"),
            ("/a%2fb", Base, "/a%2Fb"),
            ("/a%2fb", MergeSlashes, "/a%2Fb"),
            ("/a%2f%5cb", DecodeAndMergeSlashes, "/a/b"),
            ("/a%2f..%2fb", DecodeAndMergeSlashes, "/b"),
            ("/a/../mcp", None, "/a/../mcp"),
            ("/a;x=1/b", Base, "/a;x=1/b"),
            ("/a{*}\"<>^`|[]", Base, "/a%7B*%7D%22%3C%3E%5E%60%7C[]"),
            ("/a|b", None, "/a|b"),
        ];
        for (path, how, want) in rows {
            assert_eq!(normalize(path, how).as_deref(), Ok(want), "{path} {how:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_in_one_way_is_refused() {
        let rows = [
            ("/a%", "path_encoding"),
            ("/a%zz", "path_encoding"),
            ("/a%+1", "path_encoding"),
            ("/%00", "path_nul"),
            ("/a#b", "path_character"),
            ("/a\u{7f}", "path_character"),
        ];
        for (path, why) in rows {
            assert_eq!(normalize(path, Base), Err(why), "{path}");
        }
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(path in "/[a-z./%2\\\\ef]{0,24}") {
            for how in [Base, MergeSlashes, DecodeAndMergeSlashes] {
                if let Ok(once) = normalize(&path, how)
                    && let Ok(twice) = normalize(&once, how) {
                    // A decoded `%` cannot appear, since `%25` is kept; so a second pass finds nothing.
                    prop_assert_eq!(twice.as_ref(), once.as_ref());
                }
            }
        }

        #[test]
        fn no_dot_segment_survives(path in "/[a-z./%2e\\\\]{0,24}") {
            if let Ok(clean) = normalize(&path, Base) {
                prop_assert!(!clean.split('/').any(|segment| segment == ".." || segment == "."), "{}", clean);
            }
        }
    }
}
