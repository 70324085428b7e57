//! Answers without the entries that the peer may not call, and without what the server may not ask of it: found by shape,
//! edited in place.

use super::asks::{self, Sent, ServerAsk};
use super::edits::{Cut, Edit, apply};
use super::entry::{Entry, ListKind};
use super::http_sse::REFUSAL;
use super::list_changed::ListChanges;
use crate::json::{Document, Shape, Value, is_twin, quote};
use crate::limits::Limits;
use crate::reply::error_object;
use crate::sse::{Cutter, Piece, TooLong, lines};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;

/// The first message of a subscription's stream (2026-07-28).
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
/// Code of a request that needs a capability which its client did not declare (2026-07-28).
const MISSING_CAPABILITY: i32 = -32021;

/// Who says what stays.
pub trait Judge {
    /// Whether the call that an entry offers could be allowed.
    fn keep(&mut self, entry: &Entry<'_>) -> bool;

    /// Whether what the server sends of its own accord is looked at. It is, unless told.
    fn judges_server(&self) -> bool {
        true
    }

    /// Whether the server may ask this of its client. Nothing unless told.
    fn may_ask(&mut self, _ask: &ServerAsk<'_>) -> bool {
        false
    }

    /// A message of the server was taken out. A request among them waits for an answer that its client will not give.
    fn withheld(&mut self, _message: Withheld) {}

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

/// A message of the server that its client does not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    /// What it was, from a bounded set.
    pub name: &'static str,
    /// Raw JSON text of its id; `None` for a notification.
    pub id: Option<String>,
}

/// What a client answers that has no such capability; for a request that was withheld. `id` is from [`Withheld::id`].
pub fn error_of_client(id: &str) -> String {
    error_object(Some(id), -32601, "Method not found")
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
    match screen.answer(document.root())? {
        Verdict::Stays => Ok(apply(body, &screen.edits)),
        Verdict::Goes => Err(Unscreenable { name: "server_message" }),
    }
}

/// One message of a stream; `None` where nothing of it may go on.
fn screen_message(
    data: &[u8],
    limits: &Limits,
    judge: &mut dyn Judge,
    counts: &mut Screened,
) -> Result<Option<Message>, Unscreenable> {
    if data.is_empty() {
        return Ok(Some(Message::Unchanged));
    }
    let document =
        Document::read(data, &limits.answer()).map_err(|error| Unscreenable { name: error.name() })?;
    let mut screen = Screen { limits, judge, counts, edits: Vec::new() };
    Ok(match screen.answer(document.root())? {
        Verdict::Stays => Some(apply(data, &screen.edits).map_or(Message::Unchanged, Message::Changed)),
        Verdict::Goes => None,
    })
}

/// What is left of a message.
enum Message {
    Unchanged,
    Changed(Bytes),
}

/// Whether anything of an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Stays,
    Goes,
}

struct Screen<'s> {
    limits: &'s Limits,
    judge: &'s mut dyn Judge,
    counts: &'s mut Screened,
    edits: Vec<Edit>,
}

impl Screen<'_> {
    /// One message, or an array of them: some clients take an array for a single answer.
    fn answer(&mut self, root: Value<'_, '_>) -> Result<Verdict, Unscreenable> {
        if !root.is(Shape::Array) {
            return self.message(root);
        }
        let mut cut = Cut::default();
        for element in root.elements() {
            if element.is(Shape::Array) {
                return Err(Unscreenable { name: "nested_batch" });
            }
            let edits = self.edits.len();
            match self.message(element)? {
                Verdict::Stays => {
                    // What is cut before it stands before what is edited in it.
                    let inside = self.edits.split_off(edits);
                    cut.keep(element.span(), &mut self.edits);
                    self.edits.extend(inside);
                }
                Verdict::Goes => cut.hide(element.span()),
            }
        }
        if cut.leaves_nothing() {
            return Ok(Verdict::Goes);
        }
        cut.finish(&mut self.edits);
        Ok(Verdict::Stays)
    }

    fn message(&mut self, message: Value<'_, '_>) -> Result<Verdict, Unscreenable> {
        if let Some(told) = self.told_instead(message) {
            let (start, end) = message.span();
            self.edits.push(Edit { start, end, by: told.into() });
            return Ok(Verdict::Stays);
        }
        if message.members().any(|(key, _)| is_twin(&key, "result") || is_twin(&key, "method")) {
            return Err(Unscreenable { name: "case_variant_key" });
        }
        if message.get("method").and_then(Value::as_str).as_deref() == Some(ACKNOWLEDGED)
            && let Some(params) = message.get("params")
        {
            self.judge.acknowledged(ListChanges::acknowledged(params));
        }
        if let Some(method) = message.get("method").filter(|_| self.judge.judges_server()) {
            let name = self.not_for_client(method, message.get("params"));
            if let Some(name) = name {
                let id = message.get("id").map(|id| id.raw().to_owned());
                self.judge.withheld(Withheld { name, id });
                return Ok(Verdict::Goes);
            }
        }
        match message.get("result") {
            Some(result) if self.judge.judges_server() && self.asks_too_much(result) => self.replace(message),
            Some(result) => self.result(result)?,
            None => {}
        }
        Ok(Verdict::Stays)
    }

    /// Why a message of the server is not for its client, if it is not.
    fn not_for_client(
        &mut self,
        method: Value<'_, '_>,
        params: Option<Value<'_, '_>>,
    ) -> Option<&'static str> {
        let Some(method) = method.as_str() else { return Some("unknown_server_message") };
        if params.is_some_and(|params| params.members().any(|(key, _)| is_twin(&key, "uri"))) {
            return Some("case_variant_key");
        }
        match asks::sent(&method, params) {
            Sent::Harmless => None,
            Sent::Asks(asks) if asks.iter().any(|ask| self.judge.may_ask(ask)) => None,
            Sent::Asks(_) => Some("server_request"),
            Sent::Tells(kind, name) => {
                let told = name.is_some_and(|name| self.keeps_named(kind, name));
                (!told).then_some("server_notification")
            }
            Sent::Unknown => Some("unknown_server_message"),
        }
    }

    /// Whether a result of 2026-07-28 asks its client for something that the server may not ask for.
    fn asks_too_much(&mut self, result: Value<'_, '_>) -> bool {
        if result.members().any(|(key, _)| is_twin(&key, "inputRequests")) {
            return true;
        }
        let Some(requests) = result.get("inputRequests") else { return false };
        requests.members().any(|(_, request)| {
            let method = request.get("method").and_then(Value::as_str);
            let twins = request.members().any(|(key, _)| is_twin(&key, "method") || is_twin(&key, "params"));
            let ask = method.filter(|_| !twins).and_then(|method| asks::asks(&method, request.get("params")));
            !ask.is_some_and(|ask| self.judge.may_ask(&ask))
        })
    }

    /// An error in the place of a message: the client is asked for nothing.
    fn replace(&mut self, message: Value<'_, '_>) {
        self.judge.withheld(Withheld { name: "server_request", id: None });
        let (start, end) = message.span();
        let error = error_object(
            message.get("id").map(Value::raw),
            MISSING_CAPABILITY,
            "Missing required client capability",
        );
        self.edits.push(Edit { start, end, by: Cow::Owned(error) });
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
                self.edits.push(Edit { start, end, by: Cow::Borrowed("\"private\"") });
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

    /// Cuts the denied elements of one list.
    fn list(&mut self, kind: ListKind, list: Value<'_, '_>) -> Result<(), Unscreenable> {
        self.counts.lists += 1;
        let mut cut = Cut::default();
        for (index, element) in list.elements().enumerate() {
            if index >= self.limits.list_items {
                return Err(Unscreenable { name: "list_too_long" });
            }
            if self.keeps(kind, element) {
                self.counts.kept += 1;
                cut.keep(element.span(), &mut self.edits);
            } else {
                self.counts.hidden += 1;
                cut.hide(element.span());
            }
        }
        cut.finish(&mut self.edits);
        Ok(())
    }

    /// What cannot be named cannot be judged, and goes.
    fn keeps(&mut self, kind: ListKind, element: Value<'_, '_>) -> bool {
        if element.members().any(|(key, _)| is_twin(&key, kind.name_member())) {
            return false;
        }
        let name = element.get(kind.name_member()).and_then(Value::as_str);
        name.is_some_and(|name| self.keeps_named(kind, name))
    }

    fn keeps_named(&mut self, kind: ListKind, name: Cow<'_, str>) -> bool {
        let Some(target) = kind.target(name.clone(), self.limits) else { return false };
        self.judge.keep(&Entry { kind, name, target })
    }
}

fn list(key: &str, value: Value<'_, '_>) -> Option<ListKind> {
    let kind = ListKind::ALL.into_iter().find(|kind| kind.member() == key);
    kind.filter(|_| value.is(Shape::Array))
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
    /// The last event was withheld and ended in CR: an LF that comes next belongs to it.
    withheld_cr: bool,
}

impl SseScreen {
    /// Screens one stream from its beginning.
    pub fn new(limits: Limits) -> Self {
        Self {
            cutter: Cutter::new(limits.sse_event),
            limits,
            failed: None,
            lenient: false,
            passes: false,
            withheld_cr: false,
        }
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
                Ok(Some(Piece::Passing(bytes))) => {
                    if !std::mem::take(&mut self.withheld_cr) || bytes != b"\n" {
                        out.extend_from_slice(bytes);
                    }
                }
                Ok(Some(Piece::Event(event))) => {
                    let before = out.len();
                    match screen_event(event, &self.limits, judge, counts, &mut out) {
                        Err(_) if self.lenient => out.extend_from_slice(event),
                        screened => screened?,
                    }
                    self.withheld_cr = out.len() == before && event.ends_with(b"\r");
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
        Some(data) if name.is_empty() || name == b"message" => screen_message(&data, limits, judge, counts)?,
        Some(data) if name == b"endpoint" => {
            let uri = std::str::from_utf8(&data).map_err(|_| Unscreenable { name: "endpoint_uri" })?;
            Some(Message::Changed(judge.endpoint(uri)?.into()))
        }
        Some(_) | None => Some(Message::Unchanged),
    };
    match screened {
        Some(Message::Changed(data)) => rewrite(event, &data, out),
        Some(Message::Unchanged) => out.extend_from_slice(event),
        // With its id: who resumes before it is not sent it either.
        None => {}
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
