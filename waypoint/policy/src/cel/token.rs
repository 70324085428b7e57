//! Text to tokens (CEL specification, *Syntax*).

use super::fault::{Fault, What};

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Name(String),
    /// The magnitude; a sign before it is a token of its own.
    Int(u64),
    Double(f64),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
}

/// A token, and the byte of the text where it begins.
pub(super) type Placed = (Token, usize);

/// Longer ones first: `<` begins `<=`.
const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];

/// All tokens of a text.
///
/// # Errors
/// What is no token.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, Fault> {
    let mut reader = Reader { text, rest: text };
    let mut tokens = Vec::new();
    loop {
        reader.skip_blanks();
        if reader.rest.is_empty() {
            return Ok(tokens);
        }
        let place = reader.place();
        let token = reader.token().map_err(|what| Fault::at(text, place, what))?;
        tokens.push((token, place));
    }
}

struct Reader<'t> {
    text: &'t str,
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn place(&self) -> usize {
        self.text.len() - self.rest.len()
    }

    fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']);
            match self.rest.strip_prefix("//") {
                Some(comment) => self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => return,
            }
        }
    }

    fn token(&mut self) -> Result<Token, What> {
        if let Some(text) = self.quoted()? {
            return Ok(Token::Text(text));
        }
        let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        if digit(self.rest) || self.rest.strip_prefix('.').is_some_and(digit) {
            return self.number();
        }
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if !name.is_empty() {
            return Ok(Token::Name(name.to_owned()));
        }
        let sign = SIGNS.into_iter().find(|sign| self.rest.starts_with(sign));
        let sign = sign.ok_or(What::Expected("an expression"))?;
        self.rest = self.rest.get(sign.len()..).unwrap_or_default();
        Ok(Token::Sign(sign))
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let (taken, rest) = self.rest.split_at(self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn number(&mut self) -> Result<Token, What> {
        if let Some(hex) = self.rest.strip_prefix("0x").or_else(|| self.rest.strip_prefix("0X")) {
            self.rest = hex;
            let digits = self.take_while(|c| c.is_ascii_hexdigit());
            let number = u64::from_str_radix(digits, 16).map_err(|_| What::Number)?;
            return self.whole(number);
        }
        let start = self.rest;
        self.take_while(|c| c.is_ascii_digit());
        let mut fraction = false;
        let after_point =
            self.rest.strip_prefix('.').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if let Some(digits) = after_point {
            self.rest = digits;
            self.take_while(|c| c.is_ascii_digit());
            fraction = true;
        }
        if let Some(exponent) = self.rest.strip_prefix(['e', 'E']) {
            self.rest = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if self.take_while(|c| c.is_ascii_digit()).is_empty() {
                return Err(What::Expected("the digits of an exponent"));
            }
            fraction = true;
        }
        let text = start.get(..start.len() - self.rest.len()).unwrap_or_default();
        if fraction {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or(What::Number)?;
            return self.ended(Token::Double(number));
        }
        let number = text.parse().map_err(|_| What::Number)?;
        self.whole(number)
    }

    fn whole(&mut self, number: u64) -> Result<Token, What> {
        if self.rest.starts_with(['u', 'U']) {
            return Err(What::Unsupported { what: "an unsigned number is", instead: "write it without `u`" });
        }
        self.ended(Token::Int(number))
    }

    /// A number ends where no name goes on.
    fn ended(&mut self, token: Token) -> Result<Token, What> {
        if self.rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            return Err(What::Expected("an operator after a number"));
        }
        Ok(token)
    }

    /// A text in quotes, with what stands before them.
    fn quoted(&mut self) -> Result<Option<String>, What> {
        let prefix: String = self.rest.chars().take_while(|c| "rRbB".contains(*c)).take(2).collect();
        let after = self.rest.get(prefix.len()..).unwrap_or_default();
        let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| after.starts_with(quote));
        let Some(quote) = quote else { return Ok(None) };
        if prefix.contains(['b', 'B']) {
            return Err(What::Unsupported { what: "bytes are", instead: "write a text" });
        }
        if prefix.len() > 1 {
            return Err(What::Expected("a text"));
        }
        let content = after.get(quote.len()..).unwrap_or_default();
        let raw = !prefix.is_empty();
        let (text, rest) = content_of(content, quote, raw)?;
        self.rest = rest;
        Ok(Some(text))
    }
}

/// What stands before the closing quote, and what follows it.
fn content_of<'t>(content: &'t str, quote: &str, raw: bool) -> Result<(String, &'t str), What> {
    let mut text = String::new();
    let mut rest = content;
    loop {
        if let Some(after) = rest.strip_prefix(quote) {
            return Ok((text, after));
        }
        let mut chars = rest.chars();
        match chars.next() {
            None => return Err(What::OpenText),
            Some('\n' | '\r') if quote.len() == 1 => return Err(What::OpenText),
            Some('\\') if !raw => {
                let (character, after) = escape(chars.as_str())?;
                text.push(character);
                rest = after;
            }
            Some(character) => {
                text.push(character);
                rest = chars.as_str();
            }
        }
    }
}

/// The character of an escape, of which the backslash is gone.
fn escape(text: &str) -> Result<(char, &str), What> {
    let mut chars = text.chars();
    let character = match chars.next() {
        Some(c @ ('\\' | '"' | '\'' | '`' | '?')) => c,
        Some('a') => '\u{7}',
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('v') => '\u{b}',
        Some('x' | 'X') => return coded(chars.as_str(), 2, 16),
        Some('u') => return coded(chars.as_str(), 4, 16),
        Some('U') => return coded(chars.as_str(), 8, 16),
        Some('0'..='3') => return coded(text, 3, 8),
        _ => return Err(What::Escape),
    };
    Ok((character, chars.as_str()))
}

/// The character whose number stands there in so many digits.
fn coded(text: &str, digits: usize, radix: u32) -> Result<(char, &str), What> {
    let (number, rest) = text.split_at_checked(digits).ok_or(What::Escape)?;
    if !number.chars().all(|c| c.is_digit(radix)) {
        return Err(What::Escape);
    }
    let number = u32::from_str_radix(number, radix).map_err(|_| What::Escape)?;
    Ok((char::from_u32(number).ok_or(What::Escape)?, rest))
}
