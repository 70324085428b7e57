//! Regular expressions: CEL's are those of RE2, which the crate `regex` reads with a few differences.

use ::regex::RegexBuilder;

use super::fault::{MAX_PATTERN, MAX_PATTERN_SIZE};
use super::tree::Pattern;

/// Compiles an expression of RE2's syntax.
///
/// # Errors
/// Why it is none, is too large, or would mean something else here.
pub(super) fn compile(text: &str) -> Result<Pattern, String> {
    if text.len() > MAX_PATTERN {
        return Err(format!("it has at most {MAX_PATTERN} bytes"));
    }
    let compiled = RegexBuilder::new(&translate(text)?).size_limit(MAX_PATTERN_SIZE).build();
    let compiled = compiled.map_err(|error| match error {
        ::regex::Error::CompiledTooBig(_) => format!("it takes more than {MAX_PATTERN_SIZE} bytes"),
        other => {
            let told = other.to_string();
            let last = told.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })?;
    // The matcher's work on a byte grows with the expression, at worst.
    Ok(Pattern { compiled, cost: 16 + text.len() as u64 })
}

/// The same expression for the crate `regex`. There `\d`, `\w`, `\s` and `\b` ask Unicode, which would let in what an author
/// did not mean; and brackets inside of brackets, `&&`, `--` and `~~` have a meaning that RE2 does not give them.
fn translate(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut chars = text.chars().peekable();
    let mut in_class = false;
    while let Some(character) = chars.next() {
        match character {
            '\\' => {
                let escaped = chars.next().ok_or("a backslash at its end")?;
                out.push_str(&escape(escaped, in_class)?);
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                // A bracket that stands first is one of the characters.
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            '[' if chars.peek() == Some(&':') => {
                out.push('[');
                class_name(&mut chars, &mut out)?;
            }
            '[' => out.push_str("\\["),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(character);
            }
            '-' if in_class && chars.peek() == Some(&'-') => {
                return Err("`--` in brackets: write `\\-`".to_owned());
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

/// `[:alpha:]`, of which the first bracket is gone.
fn class_name(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Result<(), String> {
    for character in chars.by_ref() {
        out.push(character);
        match character {
            ']' => return Ok(()),
            ':' | '^' => {}
            letter if letter.is_ascii_lowercase() => {}
            _ => break,
        }
    }
    Err("`[:` in brackets begins the name of a class, as in [[:alpha:]]".to_owned())
}

fn escape(character: char, in_class: bool) -> Result<String, String> {
    Ok(match character {
        'd' => "[0-9]".to_owned(),
        'D' => "[^0-9]".to_owned(),
        'w' => "[0-9A-Za-z_]".to_owned(),
        'W' => "[^0-9A-Za-z_]".to_owned(),
        's' => "[\\t\\n\\x0C\\r ]".to_owned(),
        'S' => "[^\\t\\n\\x0C\\r ]".to_owned(),
        'b' if !in_class => "(?-u:\\b)".to_owned(),
        'B' | 'Q' | 'E' | 'C' | '<' | '>' => return Err(format!("`\\{character}` is not supported")),
        // `\b{start}` and its like are the crate's own.
        other => format!("\\{other}"),
    })
}
