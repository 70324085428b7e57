//! Answers without the entries that the peer may not call: found by shape, edited in place.

use super::http_sse::REFUSAL;
use super::list_changed::ListChanges;
use super::subject::Target;
use crate::facts::{FactKey, Facts, Given, Kind, Truth, tell};
use crate::json::{Document, Shape, Value, is_twin, quote};
use crate::limits::Limits;
use crate::sse::{Cutter, Piece, TooLong, lines};
use crate::uri::{is_canonical, is_canonical_template};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;

/// The first message of a subscription's stream (2026-07-28).
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `result.tools[].name`
    Tools,
    /// `result.prompts[].name`
    Prompts,
    /// `result.resources[].uri`
    Resources,
    /// `result.resourceTemplates[].uriTemplate`
    ResourceTemplates,
    /// `result.tasks[].taskId`. Calls on tasks are not built, so every entry is hidden.
    Tasks,
}

impl ListKind {
    const ALL: [Self; 5] =
        [Self::Tools, Self::Prompts, Self::Resources, Self::ResourceTemplates, Self::Tasks];

    /// The member of `result` that holds the list.
    fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
            Self::Tasks => "tasks",
        }
    }

    /// The member of an entry that names what it offers.
    fn name_member(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
            Self::Tasks => "taskId",
        }
    }

    /// The call that an entry offers.
    fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/call",
            Self::Prompts => "prompts/get",
            Self::Resources | Self::ResourceTemplates => "resources/read",
            Self::Tasks => "tasks/get",
        }
    }

    /// What an entry names; `None` where it names nothing that could be called.
    fn target<'b>(self, name: Cow<'b, str>, limits: &Limits) -> Option<Target<'b>> {
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= limits.name && !name.contains(char::is_control);
        match self {
            Self::Tools => is_name(&name).then_some(Target::Tool(name)),
            Self::Prompts => is_name(&name).then_some(Target::Prompt(name)),
            Self::Resources => is_canonical(&name).then_some(Target::Resource(name)),
            Self::ResourceTemplates => is_canonical_template(&name).then_some(Target::Template(name)),
            Self::Tasks => None,
        }
    }
}

/// One entry of a list answer, judged as the call it offers. Its arguments, session and revision are not known yet;
/// of a resource template only what stands before the first `{` is.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What the list is of.
    pub kind: ListKind,
    /// Name of the tool or prompt, URI, or URI template.
    pub name: Cow<'a, str>,
    target: Target<'a>,
}

impl Facts for Entry<'_> {
    fn kind(&self) -> Kind {
        Kind::Call
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match key {
            FactKey::Method => tell(Some(self.kind.method()), test),
            FactKey::Kind => tell(Kind::Call.as_str(), test),
            FactKey::Tool | FactKey::Prompt | FactKey::Resource | FactKey::Task => self.target.ask(key, test),
            FactKey::Argument(_) if !matches!(self.target, Target::Tool(_) | Target::Prompt(_)) => Truth::No,
            FactKey::Argument(_) | FactKey::Session | FactKey::ProtocolVersion => Truth::NotYet,
            FactKey::ToolHint(_) => Truth::No,
            FactKey::A2a(_) => Truth::NotYet,
        }
    }

    fn arguments(&self) -> Given<'_> {
        if matches!(self.target, Target::Tool(_) | Target::Prompt(_)) {
            Given::NotYet
        } else {
            Given::Nothing
        }
    }

    fn known_prefix(&self, key: &FactKey) -> Option<&str> {
        self.target.known_prefix(key)
    }
}

/// Who says which entries stay.
pub trait Judge {
    /// Whether the call that an entry offers could be allowed.
    fn keep(&mut self, entry: &Entry<'_>) -> bool;

    /// The URI that an `endpoint` event names (HTTP+SSE, 2024-11-05), as its client is to see it.
    ///
    /// # Errors
    /// [`Unscreenable`]: the stream must end. So it is unless told.
    fn endpoint(&mut self, _uri: &str) -> Result<String, Unscreenable> {
        Err(Unscreenable { name: "endpoint_event" })
    }

    /// The server has promised to tell on this stream when these lists change.
    fn acknowledged(&mut self, _lists: ListChanges) {}

    /// A `requestState` (2026-07-28) as its client is to see it; `None`: as it is.
    fn state(&mut self, _state: &str) -> Option<String> {
        None
    }

    /// The message that is told in the place of the answer to a [`super::carrier`] of this sealed refusal.
    fn refusal(&mut self, _sealed: &str) -> Option<String> {
        None
    }
}

/// What screening did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Screened {
    /// Lists found.
    pub lists: usize,
    /// Entries that stayed.
    pub kept: usize,
    /// Entries that were taken out.
    pub hidden: usize,
}

/// Why an answer cannot be screened; it must not be sent. `name` is a bounded label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}")]
pub struct Unscreenable {
    /// What is wrong.
    pub name: &'static str,
}

/// Filters every list result (by shape) in one JSON answer. `None`: nothing to change, send the original bytes.
///
/// Denied entries are cut out; every other byte stays, `nextCursor`, `_meta` and unknown members included. Since a
/// screened list depends on who asked, a `cacheScope` beside it becomes `private`.
///
/// # Errors
/// [`Unscreenable`] for an answer that clients might read differently, or beyond the bounds.
pub fn screen_json(
    body: &[u8],
    limits: &Limits,
    judge: &mut dyn Judge,
    counts: &mut Screened,
) -> Result<Option<Bytes>, Unscreenable> {
    if body.is_empty() {
        return Ok(None);
    }
    if body.len() > limits.list {
        return Err(Unscreenable { name: "list_too_large" });
    }
    let document =
        Document::read(body, &limits.answer()).map_err(|error| Unscreenable { name: error.name() })?;
    let mut screen = Screen { limits, judge, counts, edits: Vec::new() };
    screen.answer(document.root())?;
    Ok(apply(body, &screen.edits))
}

struct Screen<'s> {
    limits: &'s Limits,
    judge: &'s mut dyn Judge,
    counts: &'s mut Screened,
    edits: Vec<Edit>,
}

/// Bytes to replace, in the order of the text.
struct Edit {
    start: usize,
    end: usize,
    by: Cow<'static, str>,
}

impl Screen<'_> {
    /// One message, or an array of them: some clients take an array for a single answer.
    fn answer(&mut self, root: Value<'_, '_>) -> Result<(), Unscreenable> {
        if !root.is(Shape::Array) {
            return self.message(root);
        }
        for element in root.elements() {
            if element.is(Shape::Array) {
                return Err(Unscreenable { name: "nested_batch" });
            }
            self.message(element)?;
        }
        Ok(())
    }

    fn message(&mut self, message: Value<'_, '_>) -> Result<(), Unscreenable> {
        if let Some(told) = self.told_instead(message) {
            let (start, end) = message.span();
            self.edits.push(Edit { start, end, by: told.into() });
            return Ok(());
        }
        if message.get("method").and_then(Value::as_str).as_deref() == Some(ACKNOWLEDGED)
            && let Some(params) = message.get("params")
        {
            self.judge.acknowledged(ListChanges::acknowledged(params));
        }
        for (key, value) in message.members() {
            if key == "result" {
                self.result(value)?;
            } else if is_twin(&key, "result") {
                return Err(Unscreenable { name: "case_variant_key" });
            }
        }
        Ok(())
    }

    fn told_instead(&mut self, message: Value<'_, '_>) -> Option<String> {
        let id = message.get("id").and_then(Value::as_str)?;
        let sealed = id.strip_prefix(REFUSAL)?;
        if message.get("method").is_some() { None } else { self.judge.refusal(sealed) }
    }

    fn result(&mut self, result: Value<'_, '_>) -> Result<(), Unscreenable> {
        let holds_list = result.members().any(|(key, value)| list(&key, value).is_some());
        for (key, value) in result.members() {
            if let Some(kind) = list(&key, value) {
                self.list(kind, value)?;
            } else if ListKind::ALL.iter().any(|kind| is_twin(&key, kind.member())) {
                return Err(Unscreenable { name: "case_variant_key" });
            } else if key == "requestState" {
                self.state(value);
            } else if holds_list && key == "cacheScope" && value.as_str().as_deref() != Some("private") {
                let (start, end) = value.span();
                self.edits.push(Edit { start, end, by: "\"private\"".into() });
            }
        }
        Ok(())
    }

    fn state(&mut self, state: Value<'_, '_>) {
        let shown = state.as_str().and_then(|text| self.judge.state(&text));
        if let Some(shown) = shown {
            let (start, end) = state.span();
            self.edits.push(Edit { start, end, by: quote(&shown).into() });
        }
    }

    /// Cuts the denied elements of one list, each with the comma before or after it.
    fn list(&mut self, kind: ListKind, list: Value<'_, '_>) -> Result<(), Unscreenable> {
        self.counts.lists += 1;
        let mut last_kept = None;
        let mut denied: Option<(usize, usize)> = None;
        for (index, element) in list.elements().enumerate() {
            if index >= self.limits.list_items {
                return Err(Unscreenable { name: "list_too_long" });
            }
            let (start, end) = element.span();
            if self.keeps(kind, element) {
                self.counts.kept += 1;
                if let Some((from, _)) = denied.take() {
                    self.edits.push(Edit { start: from, end: start, by: "".into() });
                }
                last_kept = Some(end);
            } else {
                self.counts.hidden += 1;
                denied = Some((denied.map_or(start, |(from, _)| from), end));
            }
        }
        if let Some((from, end)) = denied {
            self.edits.push(Edit { start: last_kept.unwrap_or(from), end, by: "".into() });
        }
        Ok(())
    }

    /// What cannot be named cannot be judged, and goes.
    fn keeps(&mut self, kind: ListKind, element: Value<'_, '_>) -> bool {
        if element.members().any(|(key, _)| is_twin(&key, kind.name_member())) {
            return false;
        }
        let Some(name) = element.get(kind.name_member()).and_then(Value::as_str) else { return false };
        let Some(target) = kind.target(name.clone(), self.limits) else { return false };
        self.judge.keep(&Entry { kind, name, target })
    }
}

fn list(key: &str, value: Value<'_, '_>) -> Option<ListKind> {
    let kind = ListKind::ALL.into_iter().find(|kind| kind.member() == key);
    kind.filter(|_| value.is(Shape::Array))
}

fn apply(body: &[u8], edits: &[Edit]) -> Option<Bytes> {
    if edits.is_empty() {
        return None;
    }
    let mut out = BytesMut::with_capacity(body.len() + edits.len() * 2);
    let mut at = 0;
    for edit in edits {
        out.extend_from_slice(body.get(at..edit.start).unwrap_or(&[]));
        out.extend_from_slice(edit.by.as_bytes());
        at = edit.end;
    }
    out.extend_from_slice(body.get(at..).unwrap_or(&[]));
    Some(out.freeze())
}

/// Filters an SSE stream event by event.
///
/// Comments and events that are no messages pass unchanged, comments at once. A message passes as it was received
/// unless something is taken out of it; then its data becomes one line, its `id`, `event` and `retry` lines stay, and
/// lines of other names go. How the stream is chunked makes no difference to what comes out.
#[derive(Debug)]
pub struct SseScreen {
    cutter: Cutter,
    limits: Limits,
    failed: Option<Unscreenable>,
    /// What cannot be read passes as it is.
    lenient: bool,
    passes: bool,
}

impl SseScreen {
    /// Screens one stream from its beginning.
    pub fn new(limits: Limits) -> Self {
        Self { cutter: Cutter::new(limits.sse_event), limits, failed: None, lenient: false, passes: false }
    }

    /// As [`SseScreen::new`], for a stream on which nothing is hidden for sure: an event that cannot be read passes as it is, and
    /// so does everything from one on that is too large.
    pub fn lenient(limits: Limits) -> Self {
        Self { lenient: true, ..Self::new(limits) }
    }

    /// Bytes that may be sent on now.
    ///
    /// # Errors
    /// [`Unscreenable`]: the stream must end here, and every later call says so again.
    pub fn push(
        &mut self,
        chunk: &[u8],
        judge: &mut dyn Judge,
        counts: &mut Screened,
    ) -> Result<Bytes, Unscreenable> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.screen(chunk, judge, counts).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// End of the stream: an unterminated event is dropped, as clients drop it.
    pub fn finish(self) {}

    fn screen(
        &mut self,
        chunk: &[u8],
        judge: &mut dyn Judge,
        counts: &mut Screened,
    ) -> Result<Bytes, Unscreenable> {
        if self.passes {
            return Ok(Bytes::copy_from_slice(chunk));
        }
        self.cutter.push(chunk);
        let mut out = BytesMut::new();
        loop {
            match self.cutter.next() {
                Ok(None) => return Ok(out.freeze()),
                Ok(Some(Piece::Passing(bytes))) => out.extend_from_slice(bytes),
                Ok(Some(Piece::Event(event))) => {
                    match screen_event(event, &self.limits, judge, counts, &mut out) {
                        Err(_) if self.lenient => out.extend_from_slice(event),
                        screened => screened?,
                    }
                }
                Err(TooLong) if self.lenient => {
                    self.passes = true;
                    out.extend_from_slice(&self.cutter.rest());
                    return Ok(out.freeze());
                }
                Err(TooLong) => return Err(Unscreenable { name: "event_too_large" }),
            }
        }
    }
}

fn screen_event(
    event: &[u8],
    limits: &Limits,
    judge: &mut dyn Judge,
    counts: &mut Screened,
    out: &mut BytesMut,
) -> Result<(), Unscreenable> {
    let (name, data) = content(event);
    let screened = match data {
        Some(data) if name.is_empty() || name == b"message" => screen_json(&data, limits, judge, counts)?,
        Some(data) if name == b"endpoint" => {
            let uri = std::str::from_utf8(&data).map_err(|_| Unscreenable { name: "endpoint_uri" })?;
            Some(judge.endpoint(uri)?.into())
        }
        Some(_) | None => None,
    };
    match screened {
        Some(data) => rewrite(event, &data, out),
        None => out.extend_from_slice(event),
    }
    Ok(())
}

/// The name of an event, and its data.
fn content(event: &[u8]) -> (&[u8], Option<Cow<'_, [u8]>>) {
    let mut data: Option<Cow<'_, [u8]>> = None;
    let mut name: &[u8] = b"";
    for line in lines(event) {
        match line.field() {
            (b"data", value) => match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(data) => {
                    let data = data.to_mut();
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            },
            (b"event", value) => name = value,
            _ => {}
        }
    }
    (name, data)
}

/// The event with other data, in the place of its first data line. Line feeds in the data stand between tokens only:
/// the strict reader has seen to it.
fn rewrite(event: &[u8], data: &[u8], out: &mut BytesMut) {
    let (start, mut written) = (out.len(), false);
    for line in lines(event) {
        match line.field().0 {
            b"data" if !written => {
                written = true;
                out.extend_from_slice(b"data: ");
                out.extend(data.iter().map(|&b| if b == b'\n' { b' ' } else { b }));
                out.extend_from_slice(line.terminator());
            }
            b"data" => {}
            b"" | b"id" | b"event" | b"retry" => {
                keep_apart(out, start, line.raw);
                out.extend_from_slice(line.raw);
            }
            _ => {}
        }
    }
}

/// Lines that were not neighbours before: a CR that ends one and the LF that is the next must not become one CRLF, or the
/// event would not end.
fn keep_apart(out: &mut BytesMut, start: usize, next: &[u8]) {
    let written = out.get_mut(start..).and_then(<[u8]>::last_mut);
    if let (Some(end @ b'\r'), Some(b'\n')) = (written, next.first()) {
        *end = b'\n';
    }
}
