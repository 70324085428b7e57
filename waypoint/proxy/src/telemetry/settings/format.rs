//! Access log lines in a format of the operator's own.
//!
//! Most of what is written was chosen by a client: in text it is escaped as in the process' own text format, so no client
//! can end a field or a line.

use http::HeaderName;
use serde_json::{Map, Value as Json};

use super::super::captured::Side;
use super::super::line::{clip, escape};
use super::facts::{Facts, Value};
use super::operator::{Piece, pieces};

/// Deepest nesting of a JSON format.
const DEEPEST: usize = 16;

/// A compiled format.
#[derive(Clone, Debug)]
pub(super) enum Format {
    /// One line.
    Text(Vec<Piece>),
    /// One object.
    Json(Node),
}

/// A part of a JSON format.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// As it stands: a number, a truth, null.
    Constant(Json),
    /// A string with operators in it.
    Text(Vec<Piece>),
    /// In the order of its keys.
    Object(Vec<(String, Self)>),
    List(Vec<Self>),
}

impl Format {
    /// What is not known is told to `unknown`.
    pub(super) fn text(format: &str, unknown: &mut dyn FnMut(&str)) -> Self {
        Self::Text(pieces(format.strip_suffix('\n').unwrap_or(format), unknown))
    }

    /// What is not known is told to `unknown`.
    pub(super) fn json(format: &Json, unknown: &mut dyn FnMut(&str)) -> Self {
        Self::Json(node(format, 0, unknown))
    }

    /// The line, with its end.
    pub(super) fn write(&self, facts: &Facts<'_>) -> Vec<u8> {
        let mut line = match self {
            Self::Text(pieces) => line(pieces, facts).into_bytes(),
            // Keys are strings and values are plain, so encoding cannot fail.
            Self::Json(node) => serde_json::to_vec(&json(node, facts)).unwrap_or_default(),
        };
        line.push(b'\n');
        line
    }

    /// Calls `see` with each header that it names.
    pub(super) fn headers(&self, see: &mut dyn FnMut(Side, &HeaderName)) {
        match self {
            Self::Text(pieces) => of_pieces(pieces, see),
            Self::Json(node) => of_node(node, see),
        }
    }
}

fn of_pieces(pieces: &[Piece], see: &mut dyn FnMut(Side, &HeaderName)) {
    for piece in pieces {
        if let Piece::Operator(operator) = piece {
            operator.headers(see);
        }
    }
}

fn of_node(node: &Node, see: &mut dyn FnMut(Side, &HeaderName)) {
    match node {
        Node::Constant(_) => {}
        Node::Text(pieces) => of_pieces(pieces, see),
        Node::Object(fields) => fields.iter().for_each(|(_, node)| of_node(node, see)),
        Node::List(nodes) => nodes.iter().for_each(|node| of_node(node, see)),
    }
}

fn node(format: &Json, depth: usize, unknown: &mut dyn FnMut(&str)) -> Node {
    if depth > DEEPEST {
        unknown("a format that is nested too deep");
        return Node::Constant(Json::Null);
    }
    match format {
        Json::String(text) => Node::Text(pieces(text, unknown)),
        Json::Array(list) => Node::List(list.iter().map(|one| node(one, depth + 1, unknown)).collect()),
        Json::Object(object) => {
            let each = |(key, value): (&String, &Json)| (key.clone(), node(value, depth + 1, unknown));
            let mut fields: Vec<(String, Node)> = object.iter().map(each).collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b)); // A protobuf Struct has no order.
            Node::Object(fields)
        }
        constant @ (Json::Null | Json::Bool(_) | Json::Number(_)) => Node::Constant(constant.clone()),
    }
}

fn line(pieces: &[Piece], facts: &Facts<'_>) -> String {
    let mut out = String::with_capacity(512);
    for piece in pieces {
        match piece {
            Piece::Literal(text) => out.push_str(text),
            Piece::Operator(operator) => match operator.value(facts) {
                None => out.push('-'),
                Some(Value::Text(text)) => out.push_str(&escape(&clip(&text))),
                Some(value) => out.push_str(&value.text()),
            },
        }
    }
    out
}

/// An operator that stands alone keeps its type, as in Envoy's JSON; in a longer string what is missing is `-`.
fn json(node: &Node, facts: &Facts<'_>) -> Json {
    match node {
        Node::Constant(value) => value.clone(),
        Node::Text(pieces) => match pieces.as_slice() {
            [Piece::Operator(operator)] => match operator.value(facts) {
                None => Json::Null,
                Some(Value::Bool(value)) => Json::Bool(value),
                Some(Value::Number(value)) => Json::from(value),
                Some(value) => Json::String(clip(&value.text())),
            },
            pieces => Json::String(plain(pieces, facts)),
        },
        Node::Object(fields) => {
            let fields = fields.iter().map(|(key, node)| (key.clone(), json(node, facts)));
            Json::Object(fields.collect::<Map<String, Json>>())
        }
        Node::List(nodes) => Json::Array(nodes.iter().map(|node| json(node, facts)).collect()),
    }
}

/// The JSON encoder escapes.
pub(super) fn plain(pieces: &[Piece], facts: &Facts<'_>) -> String {
    let each = |piece: &Piece| match piece {
        Piece::Literal(text) => text.clone(),
        Piece::Operator(operator) => {
            operator.value(facts).map_or_else(|| "-".to_owned(), |value| clip(&value.text()))
        }
    };
    pieces.iter().map(each).collect()
}
