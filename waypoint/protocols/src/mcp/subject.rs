//! What one message asks for, as facts.

use crate::facts::{FactKey, Facts, Given, Kind, Truth, tell};
use crate::json::{Document, Shape, Value};
use crate::uri::template_prefix;
use ::http::HeaderValue;
use std::borrow::Cow;
use std::sync::Arc;

/// Elements of an argument that are compared. Every condition of every rule asks anew, so that a longer array would
/// let one body cost seconds.
const ELEMENTS: usize = 1_000;

/// What one message asks for, once per protected thing: a `subscriptions/listen` has one per URI.
///
/// Arguments (`args.<path>`) are the members of `params.arguments` of a tool or prompt: a string as its text, a number
/// as its shortest decimal (`1.0`, `1e0` → `1`), `true` and `false`; an array by each of its scalars; an object,
/// `null` or a missing argument satisfies nothing. Where servers disagree on what an argument is, the answer is
/// [`Truth::NotYet`], which must not satisfy an ALLOW rule and must satisfy a DENY rule: a number that doubles cannot
/// hold, and a key beside which (or instead of which) stands another that differs only in case. So it is for what is
/// too long to compare: an array of more than 1,000 elements, a number of more than 64 bytes.
///
/// Annotations of tools are not known yet and answer [`Truth::No`].
#[derive(Debug)]
pub struct Subject<'b> {
    pub(super) kind: Kind,
    pub(super) method: Option<Cow<'b, str>>,
    pub(super) target: Target<'b>,
    pub(super) arguments: Option<Arguments<'b>>,
    pub(super) context: Context<'b>,
}

/// The protected thing that a message names.
#[derive(Clone, Debug)]
pub(super) enum Target<'b> {
    None,
    Tool(Cow<'b, str>),
    Prompt(Cow<'b, str>),
    /// A URI in canonical form.
    Resource(Cow<'b, str>),
    /// A URI template, of which only the literal prefix is known.
    Template(Cow<'b, str>),
}

impl Target<'_> {
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Tool(name) | Self::Prompt(name) | Self::Resource(name) | Self::Template(name) => Some(name),
        }
    }

    pub(super) fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match (key, self) {
            (FactKey::Tool, Self::Tool(name))
            | (FactKey::Prompt, Self::Prompt(name))
            | (FactKey::Resource, Self::Resource(name)) => tell(Some(name), test),
            (FactKey::Resource, Self::Template(template)) => ask_template(template, test),
            _ => Truth::No,
        }
    }

    pub(super) fn known_prefix(&self, key: &FactKey) -> Option<&str> {
        match (key, self) {
            (FactKey::Resource, Self::Template(template)) => template_prefix(template),
            _ => None,
        }
    }
}

/// Whether every expansion of a template satisfies `test`. A matcher is only a function here, so it is tried on the
/// literal prefix with something behind it that no rule names: who accepts that, accepts any expansion.
fn ask_template(template: &str, test: &mut dyn FnMut(&str) -> bool) -> Truth {
    let mut probe = template_prefix(template).unwrap_or(template).to_owned();
    probe.push('\u{10FFFF}');
    if test(&probe) { Truth::Yes } else { Truth::NotYet }
}

/// `params.arguments` of a message, inside the document it came in.
#[derive(Clone, Debug)]
pub(super) struct Arguments<'b> {
    pub(super) document: Arc<Document<'b>>,
    pub(super) place: usize,
}

/// What the head and `initialize` say about the exchange.
#[derive(Clone, Debug, Default)]
pub(super) struct Context<'b> {
    pub(super) session: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
    pub(super) proposed: Option<Cow<'b, str>>,
}

impl Context<'_> {
    fn version(&self) -> Option<&str> {
        self.version.as_ref().and_then(|v| v.to_str().ok()).or(self.proposed.as_deref())
    }
}

impl Facts for Subject<'_> {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match key {
            FactKey::Method => tell(self.method.as_deref(), test),
            FactKey::Kind => tell(self.kind.as_str(), test),
            FactKey::Session => {
                tell(self.context.session.as_ref().and_then(|session| session.to_str().ok()), test)
            }
            FactKey::ProtocolVersion => tell(self.context.version(), test),
            FactKey::Argument(path) => self.arguments.as_ref().map_or(Truth::No, |a| a.ask(path, test)),
            FactKey::Tool | FactKey::Prompt | FactKey::Resource | FactKey::Task => self.target.ask(key, test),
            // What a server declares of a tool is known once its tools are pinned, which is not built yet. Until then it cannot
            // be told, so that neither `values` nor `notValues` of a hint permits a call.
            FactKey::ToolHint(_) if matches!(self.target, Target::Tool(_)) => Truth::NotYet,
            FactKey::ToolHint(_) | FactKey::ServerRequest | FactKey::ServerRequestHost => Truth::No,
            // No A2A is read here: it cannot be told.
            FactKey::A2a(_) => Truth::NotYet,
        }
    }

    fn arguments(&self) -> Given<'_> {
        self.arguments.as_ref().map_or(Given::Nothing, |a| Given::Object(a.document.at(a.place)))
    }

    fn known_prefix(&self, key: &FactKey) -> Option<&str> {
        self.target.known_prefix(key)
    }
}

impl Arguments<'_> {
    fn ask(&self, path: &[String], test: &mut dyn FnMut(&str) -> bool) -> Truth {
        let mut value = self.document.at(self.place);
        let mut doubtful = false;
        for segment in path {
            let looked = value.look_up(segment);
            doubtful |= looked.has_twin;
            match looked.found {
                Some(inner) => value = inner,
                None => return if doubtful { Truth::NotYet } else { Truth::No },
            }
        }
        if doubtful { Truth::NotYet } else { ask_value(value, test) }
    }
}

fn ask_value(value: Value<'_, '_>, test: &mut dyn FnMut(&str) -> bool) -> Truth {
    if !value.is(Shape::Array) {
        return ask_scalar(value, test);
    }
    if value.elements().nth(ELEMENTS).is_some() {
        return Truth::NotYet;
    }
    let mut told = Truth::No;
    for element in value.elements() {
        match ask_scalar(element, test) {
            Truth::Yes => return Truth::Yes,
            Truth::NotYet => told = Truth::NotYet,
            Truth::No => {}
        }
    }
    told
}

fn ask_scalar(value: Value<'_, '_>, test: &mut dyn FnMut(&str) -> bool) -> Truth {
    match value.shape() {
        Shape::String => tell(value.as_str().as_deref(), test),
        Shape::Bool => tell(Some(value.raw()), test),
        Shape::Number => match value.as_decimal() {
            Some(decimal) => tell(Some(&decimal), test),
            None => Truth::NotYet,
        },
        Shape::Null | Shape::Object | Shape::Array => Truth::No,
    }
}
