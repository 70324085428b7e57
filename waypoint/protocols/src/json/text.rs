//! Strings of JSON: scanning, unescaping, quoting, case folding.

use std::fmt::Write as _;

/// How many leading bytes of `bytes` are ordinary string content: no quote, no backslash, no control character.
#[inline]
pub(crate) fn plain_run(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return index * 8 + (special.trailing_zeros() / 8) as usize;
        }
    }
    let run = rest.iter().take_while(|&&b| b >= 0x20 && b != b'"' && b != b'\\').count();
    words.len() * 8 + run
}

/// Marks (with 0x80) the bytes of a word that end a run. Only the lowest mark is exact: a borrow may set marks above
/// it, never below.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let is_quote = quote.wrapping_sub(ONES) & !quote;
    let is_backslash = backslash.wrapping_sub(ONES) & !backslash;
    let is_control = word.wrapping_sub(ONES * 0x20) & !word;
    (is_quote | is_backslash | is_control) & HIGH
}

/// The content of a string whose escapes the strict reader has accepted.
pub(super) fn unescape(content: &str) -> String {
    let mut out = String::with_capacity(content.len());
    let mut rest = content;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        rest = unescape_one(escaped, &mut out);
    }
    out.push_str(rest);
    out
}

/// Appends the character whose escape begins after the backslash; returns what follows it.
fn unescape_one<'a>(escaped: &'a str, out: &mut String) -> &'a str {
    let mut chars = escaped.chars();
    let character = match chars.next() {
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => return unescape_unicode(escaped, out),
        Some(other) => other,
        None => char::REPLACEMENT_CHARACTER,
    };
    out.push(character);
    chars.as_str()
}

fn unescape_unicode<'a>(escaped: &'a str, out: &mut String) -> &'a str {
    let first = hex4(escaped.as_bytes(), 1).unwrap_or(0xFFFD);
    if (0xD800..0xDC00).contains(&first) {
        let second = hex4(escaped.as_bytes(), 7).unwrap_or(0xDC00);
        let scalar = 0x10000 + ((first - 0xD800) << 10) + (second.wrapping_sub(0xDC00) & 0x3FF);
        out.push(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER));
        return escaped.get(11..).unwrap_or("");
    }
    out.push(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
    escaped.get(5..).unwrap_or("")
}

/// Four hexadecimal digits at `at`.
pub(super) fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..)?.first_chunk::<4>()?;
    // A digit that is none has a value above all others, so one test at the end tells.
    let [a, b, c, d] = digits.map(hex);
    ((a | b | c | d) < 16).then_some(a << 12 | b << 8 | c << 4 | d)
}

/// The value of a hexadecimal digit; more than 15 for any other byte.
#[inline]
fn hex(digit: u8) -> u32 {
    match digit {
        b'0'..=b'9' => u32::from(digit - b'0'),
        b'a'..=b'f' => u32::from(digit - b'a') + 10,
        b'A'..=b'F' => u32::from(digit - b'A') + 10,
        _ => 16,
    }
}

/// `text` as a JSON string, quotes included.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a reader that ignores case would take `key` for `known`: simple Unicode folding, in which U+017F is an `s`
/// and U+212A a `k` (Go's `encoding/json`; CVE-2026-27896).
pub(crate) fn folds_to(key: &str, known: &str) -> bool {
    // Characters that fold together are one to three bytes apart in length, so most keys are told apart by it.
    if key.len() > known.len() * 3 || known.len() > key.len() * 3 {
        return false;
    }
    key.chars().map(fold).eq(known.chars().map(fold))
}

/// Whether `key` is written otherwise than `known` and yet taken for it by a reader that ignores case.
pub(crate) fn is_twin(key: &str, known: &str) -> bool {
    key != known && folds_to(key, known)
}

/// Up and down again, so that characters which share only their upper case meet (U+017F and `s`, `ς` and `σ`).
/// Mappings to several characters are no simple folding.
fn fold(character: char) -> char {
    if character.is_ascii() {
        return character.to_ascii_lowercase();
    }
    let upper = only(character.to_uppercase()).unwrap_or(character);
    only(upper.to_lowercase()).unwrap_or(upper)
}

fn only(mut characters: impl Iterator<Item = char>) -> Option<char> {
    let first = characters.next()?;
    if characters.next().is_some() { None } else { Some(first) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_undone() {
        for (content, text) in [
            ("", ""),
            ("plain", "plain"),
            (r"m\u0065thod", "method"),
            (r"tools\/call", "tools/call"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"\ud83d\ude00!", "😀!"),
            (r"a\u0000", "a\0"),
            ("é\\u00e9", "éé"),
        ] {
            assert_eq!(unescape(content), text, "{content}");
        }
    }

    #[test]
    fn a_case_blind_reader_sees_twins() {
        for (key, known, twin) in [
            ("Name", "name", true),
            ("METHOD", "method", true),
            ("param\u{17F}", "params", true),
            ("tas\u{212A}Id", "taskId", true),
            ("name", "name", false),
            ("names", "name", false),
            ("nam\u{e9}", "name", false),
            ("ÉCLAIR", "éclair", true),
            ("\u{3c2}", "\u{3c3}", true),
            ("s", "\u{17F}", true),
            ("SS", "ß", false),
        ] {
            assert_eq!(is_twin(key, known), twin, "{key} {known}");
        }
    }

    proptest! {
        #[test]
        fn quoting_is_read_back(text: String) {
            prop_assert_eq!(serde_json::from_str::<String>(&quote(&text)).unwrap(), text);
        }

        #[test]
        fn a_plain_run_ends_where_a_slow_look_says(bytes: Vec<u8>) {
            let slow = bytes.iter().position(|b| matches!(b, 0..0x20 | b'"' | b'\\')).unwrap_or(bytes.len());
            prop_assert_eq!(plain_run(&bytes), slow);
        }
    }
}
