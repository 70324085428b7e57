//! Reading agent protocols over HTTP: MCP now, A2A next. Pure: no I/O, no clock, no async.
// SKELETON: signatures other crates build on; bodies to be written in the files named by the architecture.
#![allow(missing_docs, unused, clippy::all)]
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, request::Parts};
use std::borrow::Cow;

// ---- facts.rs: what policy may ask
/// A fact a policy may test, compiled once from (filter, key) of `experimental.envoy.filters.<filter>[<key>]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FactKey { Method, Tool, Prompt, Resource, Task, Kind, Session, ProtocolVersion, Argument(Vec<String>), ToolHint(ToolHint) }
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolHint { ReadOnly, Destructive, Idempotent, OpenWorld }
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownFact { #[error("filter `{0}` is not known; known: http.mcp")] Filter(String), #[error("key `{key}` of {filter} is not known")] Key { filter: String, key: String } , #[error("{0} is not built yet")] NotBuilt(String) }
impl FactKey { pub fn parse(filter: &str, key: &str) -> Result<Self, UnknownFact> { todo!() } }
/// Three-valued answer. `NotYet`: something not read so far would tell; merely absent is `No`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth { Yes, No, NotYet }
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind { Call, List, Lifecycle, Response, /// Plain HTTP on an MCP port: not a protocol message; every fact is absent.
    Plain }
/// One thing a rule is asked about. A fact may have several values (array argument): any may satisfy `test`.
pub trait Facts {
    fn kind(&self) -> Kind;
    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth;
}
/// Nothing read yet: every fact is NotYet.
pub struct Unread;
impl Facts for Unread { fn kind(&self) -> Kind { todo!() } fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth { Truth::NotYet } }
/// Plain HTTP: every fact is absent.
pub struct Plain;
impl Facts for Plain { fn kind(&self) -> Kind { Kind::Plain } fn ask(&self, _: &FactKey, _: &mut dyn FnMut(&str) -> bool) -> Truth { Truth::No } }

// ---- limits
#[derive(Clone, Debug)]
pub struct Limits { pub body: usize, pub depth: usize, pub members: usize, pub key: usize, pub batch: usize, pub name: usize, pub list: usize, pub list_items: usize, pub sse_event: usize }
impl Default for Limits { fn default() -> Self { todo!() } }

/// An answer the waypoint gives itself, worded by the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply { pub status: StatusCode, pub content_type: &'static str, pub body: Bytes }
/// Why a request cannot be read; another parser might read it differently. `name()` is a bounded label (`duplicate_key`, …).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}")]
pub struct Malformed { pub name: &'static str, pub status: StatusCode, pub code: i32 }
impl Malformed { pub fn name(&self) -> &'static str { self.name } pub fn reply(&self) -> Reply { todo!() } }

pub mod mcp {
    use super::*;
    /// Header checks of §3 step 3 and rows H-1..H-18 that the head alone decides, and what the head says.
    #[derive(Clone, Debug)]
    pub struct Head { /* http method, session, version header, Mcp-Method, Mcp-Name, last-event-id, accepts_stream */ }
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum HeadKind { /// POST: a body to read
        Message, /// GET that opens a stream (Accept: text/event-stream)
        OpenStream, /// DELETE with a session
        EndSession, /// anything else: plain HTTP on this port
        Plain }
    impl Head {
        pub fn read(parts: &Parts) -> Result<Self, Malformed> { todo!() }
        pub fn kind(&self) -> HeadKind { todo!() }
        pub fn session(&self) -> Option<&str> { todo!() }
        pub fn revision(&self) -> Option<&str> { todo!() }
        /// Facts of a GET/DELETE/plain request (lifecycle or plain).
        pub fn facts(&self) -> Box<dyn Facts + '_> { todo!() }
    }
    /// Headers that must not reach an MCP server as the client sent them (method overrides, `_` twins of Mcp-*, lying Mcp-Method/Mcp-Name on
    /// legacy: overwritten from the body). Applied after `read`.
    pub fn sanitize(headers: &mut HeaderMap, exchange: Option<&Exchange<'_>>) { todo!() }

    /// One POST body, strictly read. Borrows the body; bytes are forwarded as they came.
    #[derive(Debug)]
    pub struct Exchange<'b> { pub revision: Revision, pub batch: bool, pub messages: Vec<Message<'b>> }
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Revision { V2024_11_05, V2025_03_26, V2025_06_18, V2025_11_25, V2026_07_28, /// forwarded after authorization; the server answers
        Unknown }
    impl<'b> Exchange<'b> {
        pub fn read(head: &Head, body: &'b [u8], limits: &Limits) -> Result<Self, Malformed> { todo!() }
        pub fn is_initialize(&self) -> bool { todo!() }
        /// Some message is a list request, so the answer is to be screened.
        pub fn asks_for_list(&self) -> bool { todo!() }
    }
    #[derive(Debug)]
    pub struct Message<'b> { pub method: Option<Cow<'b, str>>, pub subjects: Vec<Subject<'b>>, _p: () }
    impl<'b> Message<'b> {
        /// Raw JSON text of the id, if it is a request.
        pub fn id(&self) -> Option<&'b str> { todo!() }
        pub fn is_request(&self) -> bool { todo!() }
        pub fn kind(&self) -> Kind { todo!() }
        /// Unknown methods are named, never dropped: they are denied.
        pub fn is_known(&self) -> bool { todo!() }
        /// Tool, prompt, resource or task named (for logs and metrics).
        pub fn name(&self) -> Option<&str> { todo!() }
    }
    /// What one message asks for, once per protected thing (a `subscriptions/listen` has one per URI).
    #[derive(Debug)]
    pub struct Subject<'b> { _p: std::marker::PhantomData<&'b ()> }
    impl Facts for Subject<'_> { fn kind(&self) -> Kind { todo!() } fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth { todo!() } }

    /// How a refusal looks to the client (§4.3).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum DenyMode { #[default] Hide, Explicit, ModelVisible, /// HTTP 403 `RBAC: access denied`
        Status }
    /// Answer to an exchange in which `denied[i]` tells which messages were refused (a batch is answered as a whole).
    pub fn refuse(exchange: &Exchange<'_>, denied: &[bool], mode: DenyMode) -> Reply { todo!() }
    /// The principal may do nothing on this server: HTTP 403 `RBAC: access denied`.
    pub fn no_access() -> Reply { todo!() }
    /// 404 with JSON-RPC -32001 `Session not found`.
    pub fn session_not_found(id: Option<&str>) -> Reply { todo!() }
    /// A JSON-RPC internal error (-32603) for an answer that could not be screened.
    pub fn unscreenable(id: Option<&str>) -> Reply { todo!() }

    // ---- screen.rs: list answers without what the peer may not call
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum ListKind { Tools, Prompts, Resources, ResourceTemplates, Tasks }
    /// One entry of a list answer, judged as the call it offers, arguments not known yet.
    #[derive(Debug)]
    pub struct Entry<'a> { pub kind: ListKind, pub name: Cow<'a, str>, _p: () }
    impl Facts for Entry<'_> { fn kind(&self) -> Kind { todo!() } fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth { todo!() } }
    pub trait Judge { fn keep(&mut self, entry: &Entry<'_>) -> bool; }
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Screened { pub lists: usize, pub kept: usize, pub hidden: usize }
    #[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
    #[error("{name}")]
    pub struct Unscreenable { pub name: &'static str }
    /// Filters every list result (by shape) in one JSON answer. `None`: nothing to remove, send the original bytes.
    pub fn screen_json(body: &[u8], limits: &Limits, judge: &mut dyn Judge, counts: &mut Screened) -> Result<Option<Bytes>, Unscreenable> { todo!() }
    /// Filters an SSE stream event by event; comments and other events pass at once and unchanged.
    pub struct SseScreen { _p: () }
    impl SseScreen {
        pub fn new(limits: Limits) -> Self { todo!() }
        /// Bytes that may be sent on now.
        pub fn push(&mut self, chunk: &[u8], judge: &mut dyn Judge, counts: &mut Screened) -> Result<Bytes, Unscreenable> { todo!() }
        /// End of stream: an unterminated event is dropped.
        pub fn finish(self) {}
    }
    /// Cheap observation where nothing has to be decided: method and name from a bounded prefix of a passing body. Never used to decide.
    pub fn observe(prefix: &[u8]) -> Option<(String, Option<String>)> { todo!() }
}
