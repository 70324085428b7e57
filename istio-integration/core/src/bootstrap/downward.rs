//! Labels and annotations as the kubelet writes them into a volume: one `key="value"` a line, the value quoted as Go does
//! (Kubernetes: downward API).

use std::collections::BTreeMap;

pub(super) type Pairs = BTreeMap<String, String>;

/// Reads such a file. Names the line that cannot be read.
pub(super) fn parse(text: &str) -> Result<Pairs, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let pairs = lines.map(|(at, line)| {
        pair(line).ok_or_else(|| format!("line {} is not of the form key=\"value\"", at + 1))
    });
    pairs.collect()
}

fn pair(line: &str) -> Option<(String, String)> {
    let (key, quoted) = line.split_once('=')?;
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    Some((key.to_owned(), unquote(inner)?))
}

/// A Go string literal without its quotes (Go specification, "String literals"; what `%q` writes). Bytes that make no UTF-8
/// become the replacement character.
fn unquote(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        match next {
            '"' => return None,
            '\\' => escape(&mut rest, &mut bytes)?,
            plain => push(plain, &mut bytes),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn escape(rest: &mut std::str::Chars<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    match rest.next()? {
        'a' => bytes.push(0x07),
        'b' => bytes.push(0x08),
        'f' => bytes.push(0x0c),
        'n' => bytes.push(b'\n'),
        'r' => bytes.push(b'\r'),
        't' => bytes.push(b'\t'),
        'v' => bytes.push(0x0b),
        '\\' => bytes.push(b'\\'),
        '"' => bytes.push(b'"'),
        'x' => bytes.push(u8::try_from(hex(rest, 2)?).ok()?),
        'u' => push(char::from_u32(hex(rest, 4)?)?, bytes),
        'U' => push(char::from_u32(hex(rest, 8)?)?, bytes),
        _ => return None,
    }
    Some(())
}

fn hex(rest: &mut std::str::Chars<'_>, digits: usize) -> Option<u32> {
    (0..digits).try_fold(0, |value, _| Some(value << 4 | rest.next()?.to_digit(16)?))
}

fn push(character: char, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_go_wrote_them() {
        for (written, value) in [
            (r#""plain""#, "plain"),
            (r#""""#, ""),
            (r#""a=b""#, "a=b"),
            (r#""say \"hi\"""#, "say \"hi\""),
            (r#""back\\slash""#, "back\\slash"),
            (r#""two\nlines\tand\r""#, "two\nlines\tand\r"),
            (r#""\a\b\f\v""#, "\u{7}\u{8}\u{c}\u{b}"),
            (r#""\x41\u00e9\U0001f600é""#, "Aé😀é"),
            (r#""\xff""#, "\u{fffd}"),
        ] {
            let parsed = parse(&format!("key={written}\n")).unwrap();
            assert_eq!(parsed.get("key").map(String::as_str), Some(value), "{written}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for bad in [
            "key",
            "key=plain",
            "key=\"open",
            "key=\"a\"b\"",
            r#"key="\q""#,
            r#"key="\x4""#,
            r#"key="\ud800""#,
            "key=\"",
        ] {
            assert_eq!(
                parse(&format!("a=\"b\"\n\n{bad}\n")),
                Err("line 3 is not of the form key=\"value\"".to_owned()),
                "{bad}"
            );
        }
    }
}
