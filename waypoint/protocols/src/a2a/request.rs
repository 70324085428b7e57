//! One request, whatever its binding: its operation, and what it names.

use super::body;
use super::fields::Named;
use super::grpc;
use super::head::{Head, Route};
use super::operation::{Binding, Operation, Vocabulary};
use super::push;
use super::subject::Subject;
use crate::json::{Document, Shape};
use crate::jsonrpc::{self, Content};
use crate::limits::Limits;
use crate::reply::Malformed;
use ::http::StatusCode;

/// Combinations of a task and an extension that one request is judged by.
const MAX_SUBJECTS: usize = 256;

/// One request, strictly read. Holds nothing of the body.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked; `None`: a method that A2A does not have.
    pub operation: Option<Operation>,
    /// How it came.
    pub binding: Binding,
    /// The method as on the wire, for the log; of REST the operation's name.
    pub method: String,
    /// `A2A-Version` as declared.
    pub version: Option<String>,
    /// Raw JSON text of the JSON-RPC id.
    id: Option<String>,
    pub(super) named: Named,
    pub(super) tenant_unclear: bool,
    /// Hosts of the push notification URLs that may be handed on.
    pub(super) push_hosts: Vec<String>,
}

impl Request {
    /// Reads a whole request. Of plain HTTP there is none ([`Head::is_plain`]).
    ///
    /// `push_hosts`: hosts inside the network that push notifications may go to.
    ///
    /// # Errors
    /// [`Malformed`] with the JSON-RPC id where it was read; answer it by [`super::refuse`].
    pub fn read(head: &Head, body: &[u8], push_hosts: &[String], limits: &Limits) -> Result<Self, Malformed> {
        if body.len() > limits.body {
            return Err(Malformed::new("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, -32600));
        }
        head.check_body(body)?;
        let mut request = match &head.route {
            Route::JsonRpc => json_rpc(head, body, limits)?,
            Route::Rest(operation, vocabulary, _) => rest(head, *operation, *vocabulary, body, limits)?,
            Route::Grpc(operation, path) => grpc_request(head, *operation, path, body)?,
            Route::Plain => return Err(Malformed::invalid("no_request")),
        };
        let checked = request.check(push_hosts);
        checked.map_err(|error| error.with_id(request.id.as_deref()))?;
        Ok(request)
    }

    /// Raw JSON text of the JSON-RPC id.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Tasks that it is about or refers to.
    #[must_use]
    pub fn tasks(&self) -> &[String] {
        &self.named.tasks
    }

    /// The context that it names.
    #[must_use]
    pub fn context(&self) -> Option<&str> {
        self.named.context.as_deref()
    }

    /// Everything that is judged: each task with each extension. It may go on only if every one is permitted.
    pub fn subjects(&self) -> impl Iterator<Item = Subject<'_>> {
        let tasks = either(&self.named.tasks);
        tasks.flat_map(move |task| {
            either(&self.named.extensions).map(move |extension| Subject { request: self, task, extension })
        })
    }

    fn new(head: &Head, operation: Option<Operation>, method: &str) -> Self {
        Self {
            operation,
            binding: head.binding(),
            method: method.to_owned(),
            version: head.version.clone(),
            id: None,
            named: head.named.clone(),
            tenant_unclear: head.tenant_unclear,
            push_hosts: Vec::new(),
        }
    }

    fn check(&mut self, allowed: &[String]) -> Result<(), Malformed> {
        self.named.check()?;
        if self.operation.is_some_and(Operation::needs_task) && self.named.tasks.is_empty() {
            return Err(Malformed::params("no_task"));
        }
        if self.named.tasks.len().max(1) * self.named.extensions.len().max(1) > MAX_SUBJECTS {
            return Err(Malformed::params("too_many_named"));
        }
        for url in &self.named.push_urls {
            let host = push::host(url, allowed).ok_or_else(|| Malformed::params("push_url"))?;
            self.push_hosts.push(host);
        }
        Ok(())
    }
}

/// Each of them, or once none.
fn either(named: &[String]) -> impl Iterator<Item = Option<&str>> {
    let none = named.is_empty().then_some(None);
    named.iter().map(|one| Some(one.as_str())).chain(none)
}

fn json_rpc(head: &Head, body: &[u8], limits: &Limits) -> Result<Request, Malformed> {
    let document = Document::read(body, &limits.request())?;
    let root = document.root();
    if root.is(Shape::Array) {
        return Err(Malformed::invalid("batch_not_allowed"));
    }
    let id = jsonrpc::id_text(root).map(str::to_owned);
    let read = || {
        let envelope = jsonrpc::read(root)?;
        let Content::Request { method, params } = envelope.content else {
            return Err(Malformed::invalid("response_not_allowed"));
        };
        if envelope.id.is_none() {
            return Err(Malformed::invalid("no_id"));
        }
        let known = Operation::of_json_rpc(&method);
        let mut request = Request::new(head, known.map(|(operation, _)| operation), &method);
        if let (Some((operation, vocabulary)), Some(params)) = (known, params) {
            body::read(operation, vocabulary, false, params, &mut request.named)?;
        } else if known.is_some_and(|(operation, _)| operation.sends()) {
            return Err(Malformed::params("no_message"));
        }
        Ok(request)
    };
    let request = read().map_err(|error: Malformed| error.with_id(id.as_deref()))?;
    Ok(Request { id, ..request })
}

fn rest(
    head: &Head,
    operation: Operation,
    vocabulary: Vocabulary,
    body: &[u8],
    limits: &Limits,
) -> Result<Request, Malformed> {
    let mut request = Request::new(head, Some(operation), operation.name());
    if body.is_empty() {
        let sends = operation.sends().then(|| Malformed::params("no_message"));
        return sends.map_or(Ok(request), Err);
    }
    let document = Document::read(body, &limits.request())?;
    let root = document.root();
    // A server that takes JSON-RPC on every path would run another operation than the path names.
    if root.get("jsonrpc").is_some() || root.get("method").is_some() {
        return Err(Malformed::invalid("json_rpc_in_rest"));
    }
    body::read(operation, vocabulary, true, root, &mut request.named)?;
    Ok(request)
}

fn grpc_request(
    head: &Head,
    known: Option<(Operation, Vocabulary)>,
    path: &str,
    body: &[u8],
) -> Result<Request, Malformed> {
    let Some((operation, vocabulary)) = known else { return Ok(Request::new(head, None, path)) };
    let method = path.rsplit('/').next().unwrap_or(path);
    let mut request = Request::new(head, Some(operation), method);
    grpc::read(operation, vocabulary, grpc::only_message(body)?, &mut request.named)?;
    Ok(request)
}
