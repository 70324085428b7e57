//! Regular expressions in RE2's syntax, read so that they mean here what they mean in Envoy.
//!
//! The two syntaxes differ in few things: RE2's `\d`, `\s`, `\w` and `\b` are ASCII, a `[` inside a class is a literal,
//! and `&&`, `--` and `~~` mean nothing in a class.

use waypoint_model::Pattern;

use super::translated::Refused;

/// Compiles an expression that must match a whole text.
pub(super) fn pattern(text: &str) -> Result<Pattern, Refused> {
    let rewritten = rewrite(text)?;
    Pattern::parse(&rewritten).map_err(|error| Refused::new(format!("`{text}` is no expression: {error}")))
}

/// Adds a character that stands for itself.
pub(super) fn push_quoted(pattern: &mut String, c: char) {
    if r"\.+*?()|[]{}^$#&-~".contains(c) {
        pattern.push('\\');
    }
    pattern.push(c);
}

/// The literal text that an expression consists of, if it is nothing else (what Go's `QuoteMeta` makes of a text).
pub(super) fn unquote(expression: &str) -> Option<String> {
    let mut text = String::new();
    let mut chars = expression.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(|c| c.is_ascii_punctuation())?),
            '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' => return None,
            c => text.push(c),
        }
    }
    Some(text)
}

/// The same expression in the syntax of the engine here.
fn rewrite(text: &str) -> Result<String, Refused> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    // `Some(true)` at the very start of a class, where `]` is a literal.
    let mut class: Option<bool> = None;
    while let Some(c) = chars.next() {
        match (c, class) {
            ('\\', _) => {
                let escaped = chars.next().ok_or_else(|| Refused::new("an expression ends in `\\`"))?;
                escape(&mut out, escaped, class.is_some())?;
                class = class.map(|_| false);
            }
            ('[', None) => {
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                class = Some(true);
            }
            ('[', Some(_)) if chars.peek() == Some(&':') => {
                posix_class(&mut out, &mut chars)?;
                class = Some(false);
            }
            (']', Some(true)) => {
                out.push_str(r"\]");
                class = Some(false);
            }
            (']', Some(false)) => {
                out.push(']');
                class = None;
            }
            ('[' | '&' | '~', Some(_)) => {
                out.extend(['\\', c]);
                class = Some(false);
            }
            ('-', Some(_)) if chars.peek() == Some(&'-') => {
                return Err(Refused::new("`--` in a class is not supported"));
            }
            (c, _) => {
                out.push(c);
                class = class.map(|_| false);
            }
        }
    }
    Ok(out)
}

/// An escape of RE2 with RE2's meaning.
fn escape(out: &mut String, escaped: char, in_class: bool) -> Result<(), Refused> {
    let ascii = match escaped {
        'd' => "0-9",
        's' => r"\t\n\f\r ",
        'w' => "0-9A-Za-z_",
        'D' => "^0-9",
        'S' => r"^\t\n\f\r ",
        'W' => "^0-9A-Za-z_",
        'b' | 'B' if !in_class => {
            out.push_str("(?-u:\\");
            out.extend([escaped, ')']);
            return Ok(());
        }
        'C' | 'Q' | 'E' => return Err(Refused::new(format!("`\\{escaped}` is not supported"))),
        '<' | '>' => {
            out.push(escaped); // a literal in RE2, a boundary here
            return Ok(());
        }
        other => {
            out.extend(['\\', other]);
            return Ok(());
        }
    };
    if in_class && !ascii.starts_with('^') {
        out.push_str(ascii);
    } else {
        out.push('[');
        out.push_str(ascii);
        out.push(']');
    }
    Ok(())
}

/// `[:alpha:]`, which is the same in both.
fn posix_class(
    out: &mut String,
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Result<(), Refused> {
    out.push('[');
    loop {
        let c = chars.next().ok_or_else(|| Refused::new("a class without its end"))?;
        out.push(c);
        if c == ']' {
            return Ok(());
        }
        if !c.is_ascii_alphabetic() && !matches!(c, ':' | '^') {
            return Err(Refused::new("a class without its end"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_means_what_it_means_in_re2() {
        let rows = [
            (r"\d+", "12", true),
            (r"\d", "\u{661}", false), // an Arabic digit: no digit for RE2
            (r"\w", "é", false),
            (r"\W", "é", true),
            (r"[\w.]+", "a.b_1", true),
            (r"[^\d]", "\u{661}", true),
            (r"[\D]", "5", false),
            (r"\s", "\u{a0}", false),
            (r"a\b.*", "a-b", true),
            (r"a\b.*", "aé", true),
            ("[[a]", "[", true),
            ("[[a]", "b", false),
            ("[a&&b]+", "a&b", true),
            ("[]a]", "]", true),
            ("[^]a]", "b", true),
            ("[[:alpha:]]+", "ab", true),
            ("[[:^digit:]]", "5", false),
            (r"a\<b", "a<b", true),
            (r"/items/[0-9]+\.html", "/items/12.html", true),
            ("(?i)abc", "ABC", true),
            (r"[\]a]", "]", true),
        ];
        for (expression, text, want) in rows {
            let have = pattern(expression).unwrap_or_else(|why| panic!("{expression}: {why}"));
            assert_eq!(have.matches(text.as_bytes()), want, "{expression} {text:?}");
        }
    }

    #[test]
    fn what_cannot_be_said_here_is_refused() {
        for expression in [r"\C", "(", r"a\", "[a--b]", "[[:alpha", "a)|(b", r"(a)\1"] {
            assert!(pattern(expression).is_err(), "{expression}");
        }
    }

    #[test]
    fn a_quoted_text_is_read_back() {
        for text in ["a.b", "a+(b)*[c]{1}^$|?\\", "ns-1", ""] {
            let mut quoted = String::new();
            for c in text.chars() {
                if r"\.+*?()|[]{}^$".contains(c) {
                    quoted.push('\\');
                }
                quoted.push(c);
            }
            assert_eq!(unquote(&quoted).as_deref(), Some(text));
        }
        for expression in ["a.b", "a*", r"\d", "(a)", r"a\"] {
            assert_eq!(unquote(expression), None, "{expression}");
        }
    }
}
