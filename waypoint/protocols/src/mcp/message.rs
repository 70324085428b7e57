//! One message of an exchange: what it is, and what it names.

use super::method::{self, INITIALIZE, Method, Names};
use super::revision::{Declared, Revision};
use super::state::State;
use super::subject::{Arguments, Context, Subject, Target};
use crate::facts::Kind;
use crate::json::{Document, Shape, Value, is_twin};
use crate::jsonrpc::{Content, Envelope};
use crate::limits::Limits;
use crate::reply::Malformed;
use crate::uri::{is_canonical, is_canonical_template, template_prefix};
use std::borrow::Cow;
use std::sync::Arc;

/// One JSON-RPC message of a client.
#[derive(Debug)]
pub struct Message<'b> {
    /// The method; `None` for a response.
    pub method: Option<Cow<'b, str>>,
    /// What it asks for; at least one. It may go on only if every one is permitted.
    pub subjects: Vec<Subject<'b>>,
    /// The place in a trace that its sender names; never a reason to permit or refuse.
    pub trace: Option<Trace<'b>>,
    /// What an earlier answer gave its client to hand back (2026-07-28).
    pub state: Option<State<'b>>,
    pub(super) id: Option<Id<'b>>,
    pub(super) refused: Option<Refused>,
}

/// Context of a trace (W3C *Trace Context*) in `params._meta`, as written (SEP-414).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace<'b> {
    /// `traceparent`.
    pub parent: Cow<'b, str>,
    /// `tracestate`.
    pub state: Option<Cow<'b, str>>,
}

/// The id of a message.
#[derive(Clone, Debug)]
pub(super) struct Id<'b> {
    /// As written.
    pub(super) raw: &'b str,
    /// Content of a string, digits of a number.
    pub(super) text: Cow<'b, str>,
}

/// Why a message is refused whatever the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The method is not known, or not built.
    Method,
    /// It names a resource otherwise than in canonical form.
    Uri,
}

impl<'b> Message<'b> {
    /// Raw JSON text of the id, if it is a request.
    pub fn id(&self) -> Option<&'b str> {
        self.method.as_ref().and(self.id.as_ref()).map(|id| id.raw)
    }

    /// Raw JSON text of the id of the server's request that this response answers. Forward it only if the server asked
    /// under that id on this session.
    pub fn response_id(&self) -> Option<&'b str> {
        if self.method.is_none() { self.id.as_ref().map(|id| id.raw) } else { None }
    }

    /// Whether it is a request: a method with an id.
    pub fn is_request(&self) -> bool {
        self.id().is_some()
    }

    /// What sort of message it is. A method without an id is judged as its request.
    pub fn kind(&self) -> Kind {
        let calls = self.subjects.iter().any(|subject| subject.kind == Kind::Call);
        if calls { Kind::Call } else { self.subjects.first().map_or(Kind::Call, |subject| subject.kind) }
    }

    /// Whether the message can be judged at all. Unknown methods, and tasks until they are built, are denied by name.
    pub fn is_known(&self) -> bool {
        self.refused != Some(Refused::Method)
    }

    /// Tool, prompt or resource named first (for logs and metrics).
    pub fn name(&self) -> Option<&str> {
        self.subjects.first().and_then(|subject| subject.target.name())
    }

    /// What the `Mcp-Name` header mirrors (2026-07-28): the name of a tool or prompt, the URI of a resource read.
    pub(super) fn routing_name(&self) -> Option<&str> {
        match self.method.as_deref() {
            Some("tools/call" | "prompts/get" | "resources/read") => self.name(),
            _ => None,
        }
    }
}

/// What a message says before it is told what it names.
#[derive(Debug)]
pub(super) struct Declaration<'b> {
    version: Option<Cow<'b, str>>,
    proposed: Option<Cow<'b, str>>,
    is_request: bool,
}

impl Declaration<'_> {
    /// The revision that the body declares; before 2026-07-28 bodies declare none.
    fn revision(&self) -> Option<Revision> {
        self.version.as_deref().map(Revision::parse)
    }

    pub(super) fn with_header<'a>(&'a self, header: Option<&'a str>) -> Declared<'a> {
        Declared {
            header,
            body: self.version.as_deref(),
            proposed: self.proposed.as_deref(),
            is_request: self.is_request,
        }
    }
}

/// Reads messages out of one document.
pub(super) struct Reader<'d, 'b> {
    pub(super) document: &'d Arc<Document<'b>>,
    pub(super) context: Context<'b>,
    pub(super) limits: &'d Limits,
}

/// Keys of `params` in any method, and of `_meta` and of the objects inside that are judged.
const PARAMS: &[&str] = &[
    "_meta",
    "name",
    "arguments",
    "uri",
    "ref",
    "argument",
    "context",
    "cursor",
    "level",
    "task",
    "taskId",
    "notifications",
    "requestId",
    "reason",
    "progressToken",
    "progress",
    "total",
    "message",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "inputResponses",
    "requestState",
];
const META: &[&str] = &[
    VERSION_KEY,
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "progressToken",
];
const REFERENCE: &[&str] = &["type", "name", "uri", "title"];
const SUBSCRIPTIONS: &[&str] =
    &["resourceSubscriptions", "taskIds", "toolsListChanged", "promptsListChanged", "resourcesListChanged"];
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

impl<'d, 'b> Reader<'d, 'b> {
    /// Reads what an envelope says and names.
    pub(super) fn read(
        &self,
        envelope: Envelope<'d, 'b>,
    ) -> Result<(Message<'b>, Declaration<'b>), Malformed> {
        let id =
            envelope.id.map(|id| Id { raw: id.raw(), text: id.as_str().unwrap_or(Cow::Borrowed(id.raw())) });
        match envelope.content {
            Content::Response => {
                Ok((self.response(id), Declaration { version: None, proposed: None, is_request: false }))
            }
            Content::Request { method, params } => self.request(id, method, params),
        }
    }

    fn response(&self, id: Option<Id<'b>>) -> Message<'b> {
        let subject = Subject {
            kind: Kind::Response,
            method: None,
            target: Target::None,
            arguments: None,
            context: self.context.clone(),
        };
        Message { method: None, subjects: vec![subject], trace: None, state: None, id, refused: None }
    }

    fn request(
        &self,
        id: Option<Id<'b>>,
        method: Cow<'b, str>,
        params: Option<Value<'d, 'b>>,
    ) -> Result<(Message<'b>, Declaration<'b>), Malformed> {
        let params = Params::read(params)?;
        let declaration = Declaration {
            version: params.version()?,
            proposed: if method == INITIALIZE { params.proposed()? } else { None },
            is_request: id.is_some(),
        };
        let state = State::read(params.value("requestState"))?;
        let mut asked =
            Asked { kind: Kind::Call, targets: Vec::new(), arguments: None, state, refused: None };
        match method::find(&method) {
            Some(row) => match self.ask(row, &params, &mut asked) {
                // Servers of that revision say that they do not have the method, whatever else the request lacks.
                Err(_) if row.is_gone_from(declaration.revision()) => asked.refused = Some(Refused::Method),
                asked => asked?,
            },
            None => asked.refused = Some(Refused::Method),
        }
        let context = Context { proposed: declaration.proposed.clone(), ..self.context.clone() };
        Ok((asked.message(id, method, params.trace(), &context), declaration))
    }

    /// Finds what a known method asks for.
    fn ask(
        &self,
        row: &'static Method,
        params: &Params<'d, 'b>,
        asked: &mut Asked<'b>,
    ) -> Result<(), Malformed> {
        asked.kind = row.kind();
        match row.names {
            Names::Lifecycle | Names::List => {}
            Names::Tool => {
                asked.targets.push((Kind::Call, Target::Tool(self.name(params.value("name"))?)));
                asked.arguments = self.arguments(params)?;
            }
            Names::Prompt => {
                asked.targets.push((Kind::Call, Target::Prompt(self.name(params.value("name"))?)));
                asked.arguments = self.arguments(params)?;
            }
            Names::Resource => asked.resource(uri(params.value("uri"))?),
            Names::Reference => self.reference(params, asked)?,
            Names::Subscriptions => self.subscriptions(params, asked)?,
            Names::NotBuilt => asked.refused = Some(Refused::Method),
        }
        Ok(())
    }

    fn name(&self, value: Option<Value<'d, 'b>>) -> Result<Cow<'b, str>, Malformed> {
        let name = value.and_then(Value::as_str).ok_or_else(|| Malformed::params("bad_name"))?;
        if name.len() > self.limits.name {
            return Err(Malformed::params("name_too_long"));
        }
        if name.is_empty() || name.contains(char::is_control) {
            return Err(Malformed::params("bad_name"));
        }
        Ok(name)
    }

    fn arguments(&self, params: &Params<'d, 'b>) -> Result<Option<Arguments<'b>>, Malformed> {
        let Some(value) = params.value("arguments") else { return Ok(None) };
        match value.shape() {
            Shape::Object => {
                Ok(Some(Arguments { document: Arc::clone(self.document), place: value.place() }))
            }
            // Some clients spell a missing argument list so, and no reader takes it for anything else.
            Shape::Null => Ok(None),
            _ => Err(Malformed::params("arguments_not_an_object")),
        }
    }

    /// `completion/complete` reveals values of the prompt or resource that it refers to.
    fn reference(&self, params: &Params<'d, 'b>, asked: &mut Asked<'b>) -> Result<(), Malformed> {
        let bad = || Malformed::params("bad_reference");
        let reference = params.value("ref").filter(|value| value.is(Shape::Object)).ok_or_else(bad)?;
        check_twins(reference, REFERENCE)?;
        match reference.get("type").and_then(Value::as_str).as_deref() {
            Some("ref/prompt") => {
                asked.targets.push((Kind::Call, Target::Prompt(self.name(reference.get("name"))?)));
            }
            Some("ref/resource") => asked.resource_or_template(uri(reference.get("uri"))?),
            _ => return Err(bad()),
        }
        Ok(())
    }

    /// `subscriptions/listen`: every URI is judged as a read; flags need what a list needs; tasks are not built.
    fn subscriptions(&self, params: &Params<'d, 'b>, asked: &mut Asked<'b>) -> Result<(), Malformed> {
        let bad = || Malformed::params("bad_subscription");
        let Some(filter) = params.value("notifications") else { return Ok(()) };
        if !filter.is(Shape::Object) {
            return Err(bad());
        }
        check_twins(filter, SUBSCRIPTIONS)?;
        for (key, value) in filter.members() {
            match (key.as_ref(), value.shape()) {
                ("resourceSubscriptions", Shape::Array) => {
                    for element in value.elements() {
                        asked.resource(uri(Some(element))?);
                    }
                }
                ("taskIds", Shape::Array) if value.elements().next().is_none() => {}
                ("taskIds", Shape::Array) => asked.refused = Some(Refused::Method),
                ("resourceSubscriptions" | "taskIds", _) => return Err(bad()),
                (_, Shape::Bool) if value.raw() == "false" => {}
                // A flag, or something a later revision may subscribe to: judged as a list.
                _ => asked.targets.push((Kind::List, Target::None)),
            }
        }
        if asked.targets.len() > self.limits.batch {
            Err(Malformed::params("too_many_subscriptions"))
        } else {
            Ok(())
        }
    }
}

/// What a message asks for, while it is being found out.
struct Asked<'b> {
    kind: Kind,
    targets: Vec<(Kind, Target<'b>)>,
    arguments: Option<Arguments<'b>>,
    state: Option<State<'b>>,
    refused: Option<Refused>,
}

impl<'b> Asked<'b> {
    fn resource(&mut self, uri: Cow<'b, str>) {
        if !is_canonical(&uri) {
            self.refused = self.refused.or(Some(Refused::Uri));
        }
        self.targets.push((Kind::Call, Target::Resource(uri)));
    }

    fn resource_or_template(&mut self, uri: Cow<'b, str>) {
        if template_prefix(&uri).is_none() {
            return self.resource(uri);
        }
        if !is_canonical_template(&uri) {
            self.refused = self.refused.or(Some(Refused::Uri));
        }
        self.targets.push((Kind::Call, Target::Template(uri)));
    }

    fn message(
        self,
        id: Option<Id<'b>>,
        method: Cow<'b, str>,
        trace: Option<Trace<'b>>,
        context: &Context<'b>,
    ) -> Message<'b> {
        let mut targets = self.targets;
        if targets.is_empty() {
            targets.push((self.kind, Target::None));
        }
        let arguments = self.arguments;
        let subject = |(kind, target)| Subject {
            kind,
            method: Some(method.clone()),
            target,
            arguments: arguments.clone(),
            context: context.clone(),
        };
        let subjects = targets.into_iter().map(subject).collect();
        Message { method: Some(method), subjects, trace, state: self.state, id, refused: self.refused }
    }
}

/// `params`, without twins of known keys.
struct Params<'d, 'b> {
    object: Option<Value<'d, 'b>>,
    meta: Option<Value<'d, 'b>>,
}

impl<'d, 'b> Params<'d, 'b> {
    fn read(object: Option<Value<'d, 'b>>) -> Result<Self, Malformed> {
        let Some(object) = object else { return Ok(Self { object: None, meta: None }) };
        check_twins(object, PARAMS)?;
        let meta = object.get("_meta");
        if let Some(meta) = meta {
            if !meta.is(Shape::Object) {
                return Err(Malformed::params("meta_not_an_object"));
            }
            check_twins(meta, META)?;
        }
        Ok(Self { object: Some(object), meta })
    }

    fn value(&self, key: &str) -> Option<Value<'d, 'b>> {
        self.object.and_then(|object| object.get(key))
    }

    fn version(&self) -> Result<Option<Cow<'b, str>>, Malformed> {
        version_text(self.meta.and_then(|meta| meta.get(VERSION_KEY)))
    }

    /// Told to spans, never judged: what is no string is as good as nothing.
    fn trace(&self) -> Option<Trace<'b>> {
        let meta = self.meta?;
        let parent = meta.get("traceparent").and_then(Value::as_str)?;
        Some(Trace { parent, state: meta.get("tracestate").and_then(Value::as_str) })
    }

    fn proposed(&self) -> Result<Option<Cow<'b, str>>, Malformed> {
        version_text(self.value("protocolVersion"))
    }
}

fn version_text<'b>(value: Option<Value<'_, 'b>>) -> Result<Option<Cow<'b, str>>, Malformed> {
    match value {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| Malformed::params("bad_version")),
    }
}

fn uri<'b>(value: Option<Value<'_, 'b>>) -> Result<Cow<'b, str>, Malformed> {
    value.and_then(Value::as_str).ok_or_else(|| Malformed::params("bad_uri"))
}

/// Refuses a key that a reader which ignores case would take for a known one.
fn check_twins(object: Value<'_, '_>, known: &[&str]) -> Result<(), Malformed> {
    for (key, _) in object.members() {
        if !known.contains(&key.as_ref()) && known.iter().any(|known| is_twin(&key, known)) {
            return Err(Malformed::invalid("case_variant_key"));
        }
    }
    Ok(())
}
