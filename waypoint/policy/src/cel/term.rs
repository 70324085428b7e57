//! What stands between operators: literals, variables, members, calls and macros.

use super::fault::{Fault, MAX_DEPTH, What};
use super::names::{self, Function, Macro, SourceField};
use super::parser::{Parser, fact, header};
use super::regex;
use super::token::Token;
use super::tree::Node;

/// What `.map(x, …)` takes.
const EACH: &str = "a name and what is asked of each, as in args.to.all(x, x.endsWith(\"@acme.com\"))";

impl Parser<'_> {
    /// A term and its members.
    pub(super) fn operand(&mut self) -> Result<Node, Fault> {
        let term = self.term()?;
        self.with_members(term)
    }

    fn term(&mut self) -> Result<Node, Fault> {
        let place = self.place();
        match self.next() {
            Some(Token::Text(text)) => Ok(Node::Text(text.as_str().into())),
            Some(Token::Double(number)) => Ok(Node::Double(*number)),
            Some(Token::Int(number)) => {
                i64::try_from(*number).map(Node::Int).map_err(|_| self.fault_before(What::Number))
            }
            Some(Token::Sign("(")) => {
                let inner = self.expression()?;
                self.must(")", "`)`")?;
                Ok(inner)
            }
            Some(Token::Sign("[")) => self.list(),
            Some(Token::Sign("{")) => Err(self.fault_before(What::Unsupported {
                what: "a map is",
                instead: "compare its members one by one",
            })),
            Some(Token::Name(name)) => self.named(name),
            _ => {
                self.return_to(place);
                Err(self.fault(What::Expected("a value")))
            }
        }
    }

    fn list(&mut self) -> Result<Node, Fault> {
        let mut elements = Vec::new();
        while !self.take("]") {
            elements.push(self.expression()?);
            if !self.take(",") {
                self.must("]", "`,` or `]`")?;
                break;
            }
        }
        self.built(Node::List(elements))
    }

    /// A literal, a variable or a function.
    fn named(&mut self, name: &str) -> Result<Node, Fault> {
        if self.is("(") {
            return self.function(name);
        }
        Ok(match name {
            "true" => Node::Bool(true),
            "false" => Node::Bool(false),
            "null" => Node::Null,
            "args" => Node::Args,
            "jwt" => Node::Claims,
            "source" => return self.source(),
            "request" => return self.request(),
            _ => match (fact(name), self.locals.iter().rposition(|local| local == name)) {
                (Some(key), _) => Node::Fact(key),
                (None, Some(number)) => Node::Local(number),
                (None, None) => return Err(self.fault_before(What::Variable { name: name.to_owned() })),
            },
        })
    }

    fn source(&mut self) -> Result<Node, Fault> {
        let unknown = |name| What::Field { root: "source", name, fields: names::SOURCE };
        let name = self.field("source", names::SOURCE)?;
        match SourceField::parse(&name) {
            Some(field) => Ok(Node::Source(field)),
            None => Err(self.fault_before(unknown(name))),
        }
    }

    /// `request.headers["x-team"]` or `request.headers.host`.
    fn request(&mut self) -> Result<Node, Fault> {
        let name = self.field("request", "headers")?;
        if name != "headers" {
            return Err(self.fault_before(What::Field { root: "request", name, fields: "headers" }));
        }
        let bracket = self.take("[");
        if !bracket && !self.take(".") {
            return Err(self.fault_before(What::Header));
        }
        let name = match self.next() {
            Some(Token::Text(name)) if bracket => header(name),
            Some(Token::Name(name)) if !bracket => header(name),
            _ => None,
        };
        let name = name.ok_or_else(|| self.fault_before(What::Header))?;
        if bracket {
            self.must("]", "`]`")?;
        }
        Ok(Node::Header(name))
    }

    /// The field of something that is no value itself.
    fn field(&mut self, root: &'static str, fields: &'static str) -> Result<String, Fault> {
        if !self.take(".") {
            return Err(self.fault_before(What::NoValue { root, fields }));
        }
        self.name("the name of a field")
    }

    fn name(&mut self, called: &'static str) -> Result<String, Fault> {
        let place = self.place();
        match self.next() {
            Some(Token::Name(name)) => Ok(name.clone()),
            _ => {
                self.return_to(place);
                Err(self.fault(What::Expected(called)))
            }
        }
    }

    /// `f(x)` and `has(a.b)`.
    fn function(&mut self, name: &str) -> Result<Node, Fault> {
        let place = self.place();
        self.take("(");
        if name == "has" {
            let of = self.expression()?;
            self.must(")", "`)`")?;
            if !matches!(of, Node::Select(..) | Node::Header(_) | Node::Source(_)) {
                self.return_to(place);
                let takes = "a member, as in has(args.amount)";
                return Err(self.fault_before(What::Arguments { name: name.to_owned(), takes }));
            }
            return self.built(Node::Has(Box::new(of)));
        }
        let Some(function) = Function::of_one(name) else {
            self.return_to(place);
            return Err(self.fault_before(What::Function { name: name.to_owned() }));
        };
        let [of] = self.arguments(name, "one value")?;
        self.built(Node::Call(function, vec![of]))
    }

    /// What stands up to the closing bracket.
    fn arguments<const N: usize>(&mut self, name: &str, takes: &'static str) -> Result<[Node; N], Fault> {
        let place = self.place();
        let mut given = Vec::new();
        while !self.take(")") {
            given.push(self.expression()?);
            if !self.take(",") {
                self.must(")", "`,` or `)`")?;
                break;
            }
        }
        given.try_into().map_err(|_| {
            self.return_to(place);
            self.fault(What::Arguments { name: name.to_owned(), takes })
        })
    }

    /// `.member`, `.f(…)` and `[…]`, as many as there are.
    pub(super) fn with_members(&mut self, term: Node) -> Result<Node, Fault> {
        let mut node = term;
        loop {
            if self.take(".") {
                let name = self.name("the name of a member or a function")?;
                node = if self.take("(") { self.method(node, &name)? } else { self.member_of(node, name)? };
            } else if self.take("[") {
                let at = self.expression()?;
                self.must("]", "`]`")?;
                node = Node::Index(Box::new(node), Box::new(at));
            } else {
                return Ok(node);
            }
            node = self.built(node)?;
        }
    }

    fn member_of(&mut self, of: Node, name: String) -> Result<Node, Fault> {
        if ["true", "false", "null", "in"].contains(&name.as_str()) {
            return Err(self.fault_before(What::Expected("the name of a member")));
        }
        Ok(Node::Select(Box::new(of), name.into()))
    }

    fn method(&mut self, of: Node, name: &str) -> Result<Node, Fault> {
        if let Some(each) = Macro::parse(name) {
            return self.each(each, of, name);
        }
        if let Some(function) = Function::of_text(name) {
            let [with] = self.arguments(name, "one text")?;
            return Ok(Node::Call(function, vec![of, with]));
        }
        match name {
            "size" => {
                let [] = self.arguments(name, "nothing between its brackets")?;
                Ok(Node::Call(Function::Size, vec![of]))
            }
            "matches" => self.matches(of),
            _ => {
                self.return_to(self.place().saturating_sub(1));
                Err(self.fault_before(What::Function { name: name.to_owned() }))
            }
        }
    }

    fn matches(&mut self, of: Node) -> Result<Node, Fault> {
        let place = self.place();
        let [pattern] = self.arguments("matches", "one regular expression")?;
        let compiled = match pattern {
            Node::Text(text) => regex::compile(&text).map_err(What::Pattern),
            _ => Err(What::Pattern("it must be written out, so that it is compiled once".to_owned())),
        };
        match compiled {
            Ok(pattern) => Ok(Node::Matches(Box::new(of), pattern)),
            Err(what) => {
                self.return_to(place);
                Err(self.fault(what))
            }
        }
    }

    /// `.all(x, …)`
    fn each(&mut self, each: Macro, over: Node, name: &str) -> Result<Node, Fault> {
        let takes = |parser: &Self| parser.fault(What::Arguments { name: name.to_owned(), takes: EACH });
        let variable = self.name("the name of each element")?;
        if names::is_variable(&variable) || names::is_reserved(&variable) || self.locals.contains(&variable) {
            return Err(self.fault_before(What::Taken(variable)));
        }
        if !self.take(",") {
            return Err(takes(self));
        }
        if self.locals.len() == MAX_DEPTH {
            return Err(self.fault(What::TooDeep));
        }
        self.locals.push(variable);
        let asked = self.expression()?;
        self.locals.pop();
        if !self.take(")") {
            return Err(takes(self));
        }
        Ok(Node::Each(each, Box::new([over, asked])))
    }
}
