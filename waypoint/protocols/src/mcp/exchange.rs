//! One POST body: a message, or a batch of them, in one revision.

use super::answer::{DenyMode, refuse};
use super::head::{Head, text};
use super::message::{Message, Reader, Refused};
use super::method::{BATCHES, INITIALIZE, LISTEN};
use super::revision::{self, Era, Revision};
use super::routing;
use super::subject::Context;
use crate::facts::Kind;
use crate::json::{Document, Shape, Value};
use crate::jsonrpc;
use crate::limits::Limits;
use crate::reply::Malformed;
use std::collections::HashSet;
use std::sync::Arc;

/// One POST body, strictly read. Borrows the body; the bytes are forwarded as they came.
#[derive(Debug)]
pub struct Exchange<'b> {
    /// Revision that the request declares; what `initialize` proposes; 2025-03-26 where nothing is said.
    pub revision: Revision,
    /// Whether the body is an array.
    pub batch: bool,
    /// Its messages in their order; one unless it is a batch.
    pub messages: Vec<Message<'b>>,
    pub(super) era: Era,
}

impl<'b> Exchange<'b> {
    /// Reads a whole body. What comes back means the same to every server that was measured.
    ///
    /// # Errors
    /// [`Malformed`] with the answer to send. A resource that is not named in canonical form is refused here too, with
    /// the answer of a resource that does not exist.
    pub fn read(head: &Head, body: &'b [u8], limits: &Limits) -> Result<Self, Malformed> {
        if body.len() > limits.body {
            return Err(Malformed::body_too_large());
        }
        let document = Arc::new(Document::read(body, &limits.request())?);
        let context = Context {
            session: head.session_header().cloned(),
            version: head.version.clone(),
            proposed: None,
        };
        let reader = Reader { document: &document, context, limits };
        let root = document.root();
        let exchange = if root.is(Shape::Array) {
            read_batch(head, root, &reader)?
        } else {
            read_single(head, root, &reader).map_err(|error| error.with_id(jsonrpc::id_text(root)))?
        };
        exchange.refuse_hidden_resources()
    }

    /// Whether it is of the era without handshake and sessions (from 2026-07-28).
    pub fn is_modern(&self) -> bool {
        self.era == Era::Modern
    }

    /// Whether it opens a session.
    pub fn is_initialize(&self) -> bool {
        self.messages.iter().any(|message| message.method.as_deref() == Some(INITIALIZE))
    }

    /// Whether some message is a list request, so that the answer is to be screened.
    pub fn asks_for_list(&self) -> bool {
        self.messages.iter().any(|message| message.kind() == Kind::List)
    }

    /// Whether some message opens a subscription, whose stream tells of lists that change.
    pub fn listens(&self) -> bool {
        self.messages.iter().any(|message| message.method.as_deref() == Some(LISTEN))
    }

    fn refuse_hidden_resources(self) -> Result<Self, Malformed> {
        let denied: Vec<bool> = self.messages.iter().map(|m| m.refused == Some(Refused::Uri)).collect();
        if !denied.contains(&true) {
            return Ok(self);
        }
        let code = super::answer::resource_code(self.era);
        Err(Malformed::answered("uri_not_canonical", code, refuse(&self, &denied, DenyMode::Hide)))
    }
}

fn read_single<'d, 'b>(
    head: &Head,
    root: Value<'d, 'b>,
    reader: &Reader<'d, 'b>,
) -> Result<Exchange<'b>, Malformed> {
    let (message, declaration) = reader.read(jsonrpc::read(root)?)?;
    let (revision, era) = revision::tell(declaration.with_header(text(head.version.as_ref())))?;
    if era == Era::Modern {
        if message.method.is_none() {
            return Err(Malformed::invalid("response_not_allowed"));
        }
        routing::check(head, &message)?;
    }
    Ok(Exchange { revision, batch: false, messages: vec![message], era })
}

fn read_batch<'d, 'b>(
    head: &Head,
    root: Value<'d, 'b>,
    reader: &Reader<'d, 'b>,
) -> Result<Exchange<'b>, Malformed> {
    let header = text(head.version.as_ref());
    if header.is_some_and(|version| version != BATCHES.as_str()) {
        return Err(Malformed::invalid("batch_not_allowed"));
    }
    let mut messages = Vec::new();
    for element in root.elements() {
        if messages.len() >= reader.limits.batch {
            return Err(Malformed::invalid("batch_too_long"));
        }
        if element.is(Shape::Array) {
            return Err(Malformed::invalid("nested_batch"));
        }
        let (message, declaration) = reader.read(jsonrpc::read(element)?)?;
        if message.method.as_deref() == Some(INITIALIZE) {
            return Err(Malformed::invalid("initialize_in_batch"));
        }
        revision::tell(declaration.with_header(header))?;
        messages.push(message);
    }
    check_batch(&messages)?;
    Ok(Exchange { revision: BATCHES, batch: true, messages, era: Era::Legacy })
}

/// A batch has members, and no two requests (or two responses) under one id. `1` and `"1"` count as one: clients take
/// an answer under either for both.
fn check_batch(messages: &[Message<'_>]) -> Result<(), Malformed> {
    if messages.is_empty() {
        return Err(Malformed::invalid("empty_batch"));
    }
    let mut seen = HashSet::new();
    for message in messages {
        if message.id.as_ref().is_some_and(|id| !seen.insert((message.method.is_some(), id.text.as_ref()))) {
            return Err(Malformed::invalid("shared_id"));
        }
    }
    Ok(())
}
