//! Text to [`Expression`].

use std::time::Duration;

use http::HeaderName;
use regex::RegexBuilder;

use super::super::captured::Side;
use super::expression::{Compare, Expression, Kind, Test};
use super::facts::Attribute;

/// Longest expression, in bytes.
const LONGEST: usize = 4 << 10;
/// Deepest nesting.
const DEEPEST: usize = 32;
/// Most memory of a compiled regular expression, in bytes.
const REGEX_SIZE: usize = 64 << 10;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ParseError {
    #[error("an expression longer than {LONGEST} bytes or deeper than {DEEPEST} levels")]
    TooLarge,
    #[error("{expected} expected before {rest:?}")]
    Expected { expected: &'static str, rest: String },
    #[error("{0} is not an attribute that is known here")]
    Attribute(String),
    #[error("{0} is not a function that is known here")]
    Function(String),
    #[error("two types are compared that are never equal")]
    Types,
    #[error("not a regular expression: {0}")]
    Regex(String),
    #[error("a filter is true or false")]
    NotBoolean,
}

/// Reads a whole expression.
///
/// # Errors
/// What is not known or not well formed, with its name.
pub(super) fn parse(text: &str) -> Result<Expression, ParseError> {
    if text.len() > LONGEST {
        return Err(ParseError::TooLarge);
    }
    let mut parser = Parser { rest: text, depth: 0 };
    let expression = parser.condition()?;
    parser.skip();
    if parser.rest.is_empty() { Ok(expression) } else { Err(parser.expected("an operator or the end")) }
}

/// Reads an expression that is true or false.
///
/// # Errors
/// As [`parse`], and where it is known to have another type.
pub(super) fn parse_filter(text: &str) -> Result<Expression, ParseError> {
    let expression = parse(text)?;
    match expression.kind() {
        Some(Kind::Bool) | None => Ok(expression),
        Some(Kind::Number | Kind::Text | Kind::Time) => Err(ParseError::NotBoolean),
    }
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// `a ? b : c`, the loosest level.
    fn condition(&mut self) -> Result<Expression, ParseError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(ParseError::TooLarge);
        }
        let mut expression = self.any()?;
        if self.take("?") {
            let yes = self.condition()?;
            self.must(":")?;
            let no = self.condition()?;
            expression = Expression::If(Box::new((expression, yes, no)));
        }
        self.depth -= 1;
        Ok(expression)
    }

    fn any(&mut self) -> Result<Expression, ParseError> {
        let mut left = self.all()?;
        while self.take("||") {
            left = Expression::Any(Box::new(left), Box::new(self.all()?));
        }
        Ok(left)
    }

    fn all(&mut self) -> Result<Expression, ParseError> {
        let mut left = self.relation()?;
        while self.take("&&") {
            left = Expression::All(Box::new(left), Box::new(self.relation()?));
        }
        Ok(left)
    }

    fn relation(&mut self) -> Result<Expression, ParseError> {
        let left = self.sum()?;
        // Two letters before one: `<` begins `<=`.
        const OPERATORS: [(&str, Compare); 6] = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::MoreOrEqual),
            ("<", Compare::Less),
            (">", Compare::More),
        ];
        if self.take_word("in") {
            return self.member(left);
        }
        let Some((_, how)) = OPERATORS.into_iter().find(|(operator, _)| self.take(operator)) else {
            return Ok(left);
        };
        let right = self.sum()?;
        match (left.kind(), right.kind()) {
            (Some(a), Some(b)) if a != b => Err(ParseError::Types),
            _may_fit => Ok(Expression::Compare(how, Box::new(left), Box::new(right))),
        }
    }

    /// `x in [a, b]`, or `'name' in request.headers`.
    fn member(&mut self, of: Expression) -> Result<Expression, ParseError> {
        if self.take("[") {
            let list = self.list("]")?;
            let fits = |one: &Expression| matches!((one.kind(), of.kind()), (Some(a), Some(b)) if a == b);
            return if list.iter().all(fits) {
                Ok(Expression::In(Box::new(of), list))
            } else {
                Err(ParseError::Types)
            };
        }
        let path = self.path()?;
        match (headers(&path), of) {
            (Some(side), Expression::Text(name)) => {
                Ok(Expression::Has(Box::new(Expression::Header(side, header(&name)?))))
            }
            _other => Err(ParseError::Attribute(path)),
        }
    }

    fn sum(&mut self) -> Result<Expression, ParseError> {
        let mut left = self.unary()?;
        while self.take("+") {
            let right = self.unary()?;
            match (left.kind(), right.kind()) {
                (Some(a), Some(b)) if a == b && matches!(a, Kind::Number | Kind::Text) => {}
                _unfit => return Err(ParseError::Types),
            }
            left = Expression::Add(Box::new(left), Box::new(right));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression, ParseError> {
        self.skip();
        let mut negated = false;
        while self.rest.starts_with('!') && !self.rest.starts_with("!=") {
            self.take("!");
            negated = !negated;
        }
        let expression = self.postfix()?;
        Ok(if negated { Expression::Not(Box::new(expression)) } else { expression })
    }

    /// A value and the methods called on it.
    fn postfix(&mut self) -> Result<Expression, ParseError> {
        let (mut of, mut method) = self.primary()?;
        loop {
            let name = match method.take() {
                Some(name) => name,
                None if self.take(".") => {
                    let name = self.word().ok_or_else(|| self.expected("a method"))?.to_owned();
                    self.must("(")?;
                    name
                }
                None => return Ok(of),
            };
            let arguments = self.list(")")?;
            of = call(of, &name, arguments)?;
        }
    }

    /// A literal, a group, a function or an attribute; with it the method that its path ended in, its `(` taken.
    fn primary(&mut self) -> Result<(Expression, Option<String>), ParseError> {
        self.skip();
        if self.take("(") {
            let inner = self.condition()?;
            self.must(")")?;
            return Ok((inner, None));
        }
        if self.rest.starts_with(['"', '\'']) {
            return Ok((Expression::Text(self.quoted()?), None));
        }
        if self.rest.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            return Ok((self.number()?, None));
        }
        let mut path = self.path()?;
        match path.as_str() {
            "true" => return Ok((Expression::Bool(true), None)),
            "false" => return Ok((Expression::Bool(false), None)),
            _other => {}
        }
        if let Some(side) = headers(&path)
            && self.take("[")
        {
            let name = self.quoted()?;
            self.must("]")?;
            return Ok((Expression::Header(side, header(&name)?), None));
        }
        if !self.take("(") {
            return Ok((attribute(&path)?, None));
        }
        match path.rfind('.') {
            Some(dot) => {
                let method = path.split_off(dot).trim_start_matches('.').to_owned();
                Ok((attribute(&path)?, Some(method)))
            }
            None => {
                let arguments = self.list(")")?;
                Ok((function(&path, arguments)?, None))
            }
        }
    }

    /// Names with dots between.
    fn path(&mut self) -> Result<String, ParseError> {
        let mut path = self.word().ok_or_else(|| self.expected("a value"))?.to_owned();
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            path.push('.');
            path.push_str(self.word().ok_or_else(|| self.expected("a name"))?);
        }
        Ok(path)
    }

    fn list(&mut self, end: &'static str) -> Result<Vec<Expression>, ParseError> {
        let mut list = Vec::new();
        if self.take(end) {
            return Ok(list);
        }
        loop {
            list.push(self.condition()?);
            if self.take(end) {
                return Ok(list);
            }
            self.must(",")?;
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        self.skip();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        let starts = word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        starts.then(|| {
            self.rest = rest;
            word
        })
    }

    fn number(&mut self) -> Result<Expression, ParseError> {
        let digits = |c: char| c.is_ascii_digit();
        let sign = usize::from(self.rest.starts_with('-'));
        let after = self.rest.get(sign..).unwrap_or_default();
        let length = sign + after.find(|c| !digits(c)).unwrap_or(after.len());
        let (number, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| self.expected("a whole number"))?;
        if rest.starts_with('.') {
            return Err(self.expected("a whole number"));
        }
        let number = number.parse().map_err(|_range| self.expected("a whole number"))?;
        self.rest = rest;
        Ok(Expression::Number(number))
    }

    fn quoted(&mut self) -> Result<String, ParseError> {
        self.skip();
        let mut chars = self.rest.char_indices();
        let quote = chars.next().map(|(_, c)| c).filter(|c| matches!(c, '"' | '\''));
        let quote = quote.ok_or_else(|| self.expected("a string"))?;
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '"' | '\'' | '?' | '`'))) => text.push(c),
                    _other => return Err(self.expected("an escape that is known")),
                },
                c if c == quote => {
                    self.rest = self.rest.get(at + 1..).unwrap_or_default();
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        Err(self.expected("the end of a string"))
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        if let Some(rest) = rest {
            self.rest = rest;
        }
        rest.is_some()
    }

    fn take_word(&mut self, word: &str) -> bool {
        let before = self.rest;
        if self.word() == Some(word) {
            return true;
        }
        self.rest = before;
        false
    }

    fn must(&mut self, token: &'static str) -> Result<(), ParseError> {
        if self.take(token) { Ok(()) } else { Err(self.expected(token)) }
    }

    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn expected(&self, expected: &'static str) -> ParseError {
        ParseError::Expected { expected, rest: self.rest.chars().take(20).collect() }
    }
}

fn headers(path: &str) -> Option<Side> {
    match path {
        "request.headers" => Some(Side::Request),
        "response.headers" => Some(Side::Response),
        _other => None,
    }
}

fn header(name: &str) -> Result<HeaderName, ParseError> {
    let known = match name {
        ":authority" => "host",
        other => other,
    };
    known.to_ascii_lowercase().parse().map_err(|_invalid| ParseError::Attribute(format!("header {name:?}")))
}

/// A method of a string.
fn call(of: Expression, name: &str, mut arguments: Vec<Expression>) -> Result<Expression, ParseError> {
    let argument = arguments.pop();
    if of.kind() != Some(Kind::Text) || !arguments.is_empty() {
        return Err(ParseError::Function(name.to_owned()));
    }
    let test = match (name, argument) {
        ("startsWith", Some(with)) => (Test::StartsWith, with),
        ("endsWith", Some(with)) => (Test::EndsWith, with),
        ("contains", Some(with)) => (Test::Contains, with),
        ("matches", Some(Expression::Text(regex))) => {
            let regex = RegexBuilder::new(&regex).size_limit(REGEX_SIZE).build();
            let regex = regex.map_err(|error| ParseError::Regex(error.to_string()))?;
            return Ok(Expression::Matches(Box::new(of), regex));
        }
        ("size", None) => return Ok(Expression::Size(Box::new(of))),
        _other => return Err(ParseError::Function(name.to_owned())),
    };
    match test {
        (test, with) if with.kind() == Some(Kind::Text) => {
            Ok(Expression::Test(test, Box::new(of), Box::new(with)))
        }
        _unfit => Err(ParseError::Types),
    }
}

fn function(name: &str, mut arguments: Vec<Expression>) -> Result<Expression, ParseError> {
    let unknown = || ParseError::Function(name.to_owned());
    let argument = arguments.pop().filter(|_| arguments.is_empty()).ok_or_else(unknown)?;
    match (name, argument) {
        ("has", of @ (Expression::Attribute(_) | Expression::Header(..))) => {
            Ok(Expression::Has(Box::new(of)))
        }
        // No function of CEL: it stands for Envoy's filter by response flag.
        ("response_flag", Expression::Text(flag)) => Ok(Expression::Flag(flag)),
        ("string", of) => Ok(Expression::Show(Box::new(of))),
        ("size", of) if of.kind() == Some(Kind::Text) => Ok(Expression::Size(Box::new(of))),
        ("duration", Expression::Text(text)) => duration(&text).map(Expression::Time).ok_or_else(unknown),
        _other => Err(unknown()),
    }
}

/// A whole number and its unit.
fn duration(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        _other => None,
    }
}

/// Envoy's attributes (*Attributes* of its documentation), as far as a waypoint knows them.
fn attribute(path: &str) -> Result<Expression, ParseError> {
    let attribute = match path {
        "request.method" => Attribute::Method,
        "request.path" => Attribute::Path,
        "request.url_path" => Attribute::PathWithoutQuery,
        "request.query" => Attribute::Query,
        "request.host" => Attribute::Authority,
        "request.scheme" => Attribute::Scheme,
        "request.protocol" => Attribute::Protocol,
        "request.useragent" => Attribute::UserAgent,
        "request.id" => Attribute::RequestId,
        "request.size" => Attribute::BytesReceived,
        "request.duration" => Attribute::Took,
        "response.code" => Attribute::Code,
        "response.code_details" => Attribute::CodeDetails,
        "response.flags" => Attribute::FlagBits,
        "response.grpc_status" => Attribute::GrpcNumber,
        "response.size" => Attribute::BytesSent,
        "source.address" => Attribute::Source,
        "source.port" => Attribute::SourcePort,
        "destination.address" => Attribute::Local,
        "destination.port" => Attribute::LocalPort,
        "connection.mtls" => Attribute::Mtls,
        "connection.requested_server_name" => Attribute::ServerName,
        "connection.uri_san_peer_certificate" => Attribute::PeerUri,
        "connection.termination_details" => Attribute::TerminationDetails,
        "upstream.address" => Attribute::Upstream,
        "upstream.port" => Attribute::UpstreamPort,
        "upstream.local_address" => Attribute::UpstreamLocal,
        "upstream.transport_failure_reason" => Attribute::TransportFailure,
        "upstream.uri_san_peer_certificate" => Attribute::UpstreamPeerUri,
        "xds.cluster_name" => Attribute::Cluster,
        "xds.route_name" => Attribute::Route,
        other => return selected_header(other),
    };
    Ok(Expression::Attribute(attribute))
}

/// `request.headers.name`.
fn selected_header(path: &str) -> Result<Expression, ParseError> {
    let selected = path.rsplit_once('.').and_then(|(map, name)| Some((headers(map)?, name)));
    match selected {
        Some((side, name)) => Ok(Expression::Header(side, header(name)?)),
        None => Err(ParseError::Attribute(path.to_owned())),
    }
}
