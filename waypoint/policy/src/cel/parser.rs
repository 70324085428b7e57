//! Tokens to a tree: operators, from the loosest to the tightest. [`super::term`] reads what stands between them.

use agent_protocols::FactKey;
use http::HeaderName;

use super::fault::{Fault, MAX_DEPTH, MAX_LENGTH, What};
use super::token::{Placed, Token, tokens};
use super::tree::{Compare, Kind, Math, Node};

/// Reads a whole condition.
///
/// # Errors
/// [`Fault`]
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > MAX_LENGTH {
        return Err(Fault::at(text, 0, What::TooLong));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens: &tokens, at: 0, depth: 0, locals: Vec::new() };
    let root = parser.expression()?;
    if parser.at < tokens.len() {
        return Err(parser.fault(What::Expected("an operator or the end")));
    }
    parser.at = 0;
    parser.check_truth(&root)?;
    Ok(root)
}

pub(super) struct Parser<'t> {
    text: &'t str,
    tokens: &'t [Placed],
    at: usize,
    depth: usize,
    /// Variables of the macros around this place, the outermost first.
    pub(super) locals: Vec<String>,
}

impl<'t> Parser<'t> {
    /// `a ? b : c`
    pub(super) fn expression(&mut self) -> Result<Node, Fault> {
        self.deeper(|parser| {
            let start = parser.at;
            let first = parser.any()?;
            if !parser.take("?") {
                return Ok(first);
            }
            parser.back_to(start).check_truth(&first)?;
            let yes = parser.any()?;
            parser.must(":", "`:`")?;
            let no = parser.expression()?;
            parser.built(Node::If(Box::new([first, yes, no])))
        })
    }

    fn any(&mut self) -> Result<Node, Fault> {
        self.joined("||", Self::all, Node::any)
    }

    fn all(&mut self) -> Result<Node, Fault> {
        self.joined("&&", Self::relation, Node::all)
    }

    fn joined(
        &mut self,
        sign: &str,
        part: fn(&mut Self) -> Result<Node, Fault>,
        join: fn(Vec<Node>) -> Node,
    ) -> Result<Node, Fault> {
        let start = self.at;
        let mut parts = vec![part(self)?];
        let mut starts = vec![start];
        while self.take(sign) {
            starts.push(self.at);
            parts.push(part(self)?);
        }
        if parts.len() > 1 {
            for (part, start) in parts.iter().zip(starts) {
                self.back_to(start).check_truth(part)?;
            }
        }
        self.built(join(parts))
    }

    /// Comparisons stand in a row: `a < b == c` is `(a < b) == c`.
    fn relation(&mut self) -> Result<Node, Fault> {
        const OPERATORS: [(&str, Compare); 6] = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::MoreOrEqual),
            ("<", Compare::Less),
            (">", Compare::More),
        ];
        let mut left = self.sum()?;
        loop {
            let place = self.at;
            if self.take_name("in") {
                left = self.member(left)?;
            } else if let Some((_, how)) = OPERATORS.into_iter().find(|(sign, _)| self.take(sign)) {
                let right = self.sum()?;
                self.back_to(place).check_kinds(&left, &right)?;
                left = compared(how, left, right);
            } else {
                return Ok(left);
            }
            left = self.built(left)?;
        }
    }

    /// What follows `in`.
    fn member(&mut self, of: Node) -> Result<Node, Fault> {
        let place = self.at;
        if self.takes_headers() {
            let name = match &of {
                Node::Text(name) => header(name),
                _ => None,
            };
            let name = name.ok_or_else(|| self.back_to(place).fault(What::Header))?;
            return Ok(Node::Has(Box::new(Node::Header(name))));
        }
        let list = self.sum()?;
        if let Some(kind @ (Kind::Bool | Kind::Number | Kind::Text)) = list.kind() {
            let what = What::NeverEqual { left: kind.name(), right: "a list or a map after `in`" };
            return Err(self.back_to(place).fault(what));
        }
        Ok(match (of, list) {
            (Node::Fact(key), Node::List(names)) => match texts(&names) {
                Some(texts) => Node::FactIs(key, texts),
                None => Node::In(Box::new([Node::Fact(key), Node::List(names)])),
            },
            (of, list) => Node::In(Box::new([of, list])),
        })
    }

    /// Takes `request.headers`, if nothing of it is asked for.
    fn takes_headers(&mut self) -> bool {
        let place = self.at;
        let whole = self.take_name("request") && self.take(".") && self.take_name("headers");
        let taken = whole && !["[", "."].iter().any(|sign| self.is(sign));
        if !taken {
            self.at = place;
        }
        taken
    }

    fn sum(&mut self) -> Result<Node, Fault> {
        self.math(&[("+", Math::Add), ("-", Math::Subtract)], Self::product)
    }

    fn product(&mut self) -> Result<Node, Fault> {
        self.math(&[("*", Math::Multiply), ("/", Math::Divide), ("%", Math::Remainder)], Self::unary)
    }

    fn math(
        &mut self,
        operators: &[(&str, Math)],
        part: fn(&mut Self) -> Result<Node, Fault>,
    ) -> Result<Node, Fault> {
        let mut left = part(self)?;
        while let Some((_, how)) = operators.iter().find(|(sign, _)| self.take(sign)) {
            let right = part(self)?;
            left = self.built(Node::Math(*how, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, Fault> {
        if self.take("!") {
            let start = self.at;
            let part = self.deeper(Self::unary)?;
            self.back_to(start).check_truth(&part)?;
            return self.built(Node::Not(Box::new(part)));
        }
        if self.is("-") {
            return self.negative();
        }
        self.operand()
    }

    /// The least number there is has no positive twin.
    fn negative(&mut self) -> Result<Node, Fault> {
        if let Some((Token::Int(magnitude), _)) = self.tokens.get(self.at + 1) {
            let number = 0i64.checked_sub_unsigned(*magnitude);
            let number = number.ok_or_else(|| self.fault(What::Number))?;
            self.at += 2;
            return self.with_members(Node::Int(number));
        }
        self.take("-");
        let part = self.deeper(Self::unary)?;
        self.built(Node::Negate(Box::new(part)))
    }

    /// Reads something that lies deeper, unless that is too deep.
    pub(super) fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth == MAX_DEPTH {
            return Err(self.fault(What::TooDeep));
        }
        self.depth += 1;
        let part = read(self)?;
        self.depth -= 1;
        Ok(part)
    }

    /// The node, unless it is too deep: operators in a row nest without a bracket.
    pub(super) fn built(&mut self, node: Node) -> Result<Node, Fault> {
        if node.depth() > MAX_DEPTH { Err(self.fault(What::TooDeep)) } else { Ok(node) }
    }

    /// Refuses what cannot be true.
    fn check_truth(&self, node: &Node) -> Result<(), Fault> {
        match node.kind() {
            None | Some(Kind::Bool) => Ok(()),
            Some(kind) => Err(self.fault(What::NoTruth(kind.name()))),
        }
    }

    fn check_kinds(&self, left: &Node, right: &Node) -> Result<(), Fault> {
        match (left.kind(), right.kind()) {
            (Some(a), Some(b)) if a != b => {
                Err(self.fault(What::NeverEqual { left: a.name(), right: b.name() }))
            }
            _ => Ok(()),
        }
    }

    /// A reader of the same text at another place, for a fault there.
    fn back_to(&self, at: usize) -> Self {
        Self { text: self.text, tokens: self.tokens, at, depth: self.depth, locals: Vec::new() }
    }

    /// A fault at the next token.
    pub(super) fn fault(&self, what: What) -> Fault {
        let byte = self.tokens.get(self.at).map_or(self.text.len(), |(_, place)| *place);
        Fault::at(self.text, byte, what)
    }

    /// A fault at the token before the next.
    pub(super) fn fault_before(&self, what: What) -> Fault {
        self.back_to(self.at.saturating_sub(1)).fault(what)
    }

    /// Where it stands, for [`Self::return_to`].
    pub(super) fn place(&self) -> usize {
        self.at
    }

    pub(super) fn return_to(&mut self, place: usize) {
        self.at = place;
    }

    pub(super) fn next(&mut self) -> Option<&'t Token> {
        let (token, _) = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    pub(super) fn is(&self, sign: &str) -> bool {
        matches!(self.tokens.get(self.at), Some((Token::Sign(next), _)) if *next == sign)
    }

    pub(super) fn take(&mut self, sign: &str) -> bool {
        let taken = self.is(sign);
        self.at += usize::from(taken);
        taken
    }

    fn take_name(&mut self, name: &str) -> bool {
        let taken = matches!(self.tokens.get(self.at), Some((Token::Name(next), _)) if next == name);
        self.at += usize::from(taken);
        taken
    }

    pub(super) fn must(&mut self, sign: &str, called: &'static str) -> Result<(), Fault> {
        if self.take(sign) { Ok(()) } else { Err(self.fault(What::Expected(called))) }
    }
}

/// A header's name, as requests have it.
pub(super) fn header(name: &str) -> Option<HeaderName> {
    name.parse::<HeaderName>().ok().filter(|parsed| parsed.as_str() == name)
}

fn compared(how: Compare, left: Node, right: Node) -> Node {
    match (how, left, right) {
        (Compare::Equal, Node::Fact(key), Node::Text(name))
        | (Compare::Equal, Node::Text(name), Node::Fact(key))
            if !name.is_empty() =>
        {
            Node::FactIs(key, vec![name])
        }
        (how, left, right) => Node::Compare(how, Box::new([left, right])),
    }
}

/// The texts, if all are and none is empty.
fn texts(nodes: &[Node]) -> Option<Vec<Box<str>>> {
    let text = |node: &Node| match node {
        Node::Text(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    nodes.iter().map(text).collect()
}

/// `tool` and `method`.
pub(super) fn fact(name: &str) -> Option<FactKey> {
    Some(match name {
        "tool" => FactKey::Tool,
        "method" => FactKey::Method,
        _ => return None,
    })
}
