//! Answers of an agent: whose tasks and contexts they tell of, and lists without those of others.

use super::operation::{Binding, Operation};
use super::protobuf::Message;
use crate::json::{Document, Shape, Value, folds_to, is_twin};
use crate::limits::Limits;
use crate::mcp::{Screened, Unscreenable};
use bytes::{Bytes, BytesMut};

/// What belongs to the peer that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Handle {
    /// A task, by its id.
    Task,
    /// A context, by its id.
    Context,
}

/// Who says what is the peer's.
pub trait Owner {
    /// The answer to the peer tells of it: what nobody owned is the peer's from now on. Whether it is the peer's.
    fn claim(&mut self, handle: Handle, id: &str) -> bool;
    /// Whether a task in a list is the peer's.
    fn owns(&mut self, task: &str) -> bool;
}

/// Reads one JSON answer, or one event of a stream. `None`: nothing to change, send the original bytes.
///
/// A list loses the tasks that are not the peer's; every other byte stays. Any other answer is never changed.
///
/// # Errors
/// [`Unscreenable`] for an answer that its readers might take differently, beyond the bounds, or that tells of a task of
/// somebody else's.
pub fn screen_json(
    body: &[u8],
    operation: Operation,
    binding: Binding,
    limits: &Limits,
    owner: &mut dyn Owner,
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
    let root = document.root();
    if !root.is(Shape::Object) {
        return Err(Unscreenable { name: "not_an_object" });
    }
    let payload = match binding {
        Binding::JsonRpc => member(root, "result")?,
        Binding::Rest | Binding::Grpc => Some(root),
    };
    let Some(payload) = payload else { return Ok(None) };
    if operation == Operation::ListTasks {
        return list(body, payload, limits, owner, counts);
    }
    told(payload, owner)?;
    Ok(None)
}

/// A member that no reader finds under another spelling.
fn member<'d, 'b>(object: Value<'d, 'b>, name: &str) -> Result<Option<Value<'d, 'b>>, Unscreenable> {
    if object.members().any(|(key, _)| is_twin(&key, name)) {
        return Err(Unscreenable { name: "case_variant_key" });
    }
    Ok(object.get(name))
}

/// Cuts the tasks of others out of `tasks`.
fn list(
    body: &[u8],
    payload: Value<'_, '_>,
    limits: &Limits,
    owner: &mut dyn Owner,
    counts: &mut Screened,
) -> Result<Option<Bytes>, Unscreenable> {
    let Some(tasks) = member(payload, "tasks")? else { return Ok(None) };
    counts.lists += 1;
    let (mut kept, mut hidden) = (Vec::new(), 0);
    for (index, task) in tasks.elements().enumerate() {
        if index >= limits.list_items {
            return Err(Unscreenable { name: "list_too_long" });
        }
        // What cannot be named cannot be somebody's, and goes.
        let id = member(task, "id").ok().flatten().and_then(Value::as_str);
        if id.is_some_and(|id| owner.owns(&id)) {
            kept.push(task.raw());
        } else {
            hidden += 1;
        }
    }
    counts.kept += kept.len();
    counts.hidden += hidden;
    if hidden == 0 {
        return Ok(None);
    }
    let (start, end) = tasks.span();
    let mut out = BytesMut::with_capacity(body.len());
    out.extend_from_slice(body.get(..start).unwrap_or_default());
    out.extend_from_slice(b"[");
    out.extend_from_slice(kept.join(",").as_bytes());
    out.extend_from_slice(b"]");
    out.extend_from_slice(body.get(end..).unwrap_or_default());
    Ok(Some(out.freeze()))
}

/// Members that hold a task, and members that refer to one, in any version.
const TASKS: [&str; 1] = ["task"];
const REFERRING: [&str; 4] = ["message", "msg", "statusUpdate", "artifactUpdate"];

/// What a payload tells of: itself a task, message or event (up to 0.3), or one in a member of its own (gRPC, 1.0).
fn told(payload: Value<'_, '_>, owner: &mut dyn Owner) -> Result<(), Unscreenable> {
    let is_task = payload.get("kind").and_then(Value::as_str).is_some_and(|kind| kind == "task")
        || (payload.get("id").is_some() && payload.get("status").is_some());
    refers(payload, is_task, owner)?;
    for (key, value) in payload.members().filter(|(_, value)| value.is(Shape::Object)) {
        let bare = super::spelling::bare(&key);
        if TASKS.iter().any(|known| folds_to(&bare, known)) {
            refers(value, true, owner)?;
        } else if REFERRING.iter().any(|known| folds_to(&bare, known)) {
            refers(value, false, owner)?;
        }
    }
    Ok(())
}

/// Claims what an object names, under any spelling: of a task its own id.
fn refers(object: Value<'_, '_>, is_task: bool, owner: &mut dyn Owner) -> Result<(), Unscreenable> {
    for (key, value) in object.members() {
        let Some(id) = value.as_str().filter(|id| !id.is_empty()) else { continue };
        let bare = super::spelling::bare(&key);
        if folds_to(&bare, "contextId") {
            // The context of one's own task may be shared by its agent: that gives nobody a right to it.
            owner.claim(Handle::Context, &id);
        } else if (folds_to(&bare, "taskId") || (is_task && key == "id")) && !owner.claim(Handle::Task, &id) {
            return Err(Unscreenable { name: "foreign_task" });
        }
    }
    Ok(())
}

/// Reads one message of a gRPC answer. `None`: nothing to change. Numbers are the same in both packages.
///
/// # Errors
/// As [`screen_json`].
pub fn screen_grpc(
    bytes: &[u8],
    operation: Operation,
    owner: &mut dyn Owner,
    counts: &mut Screened,
) -> Result<Option<Bytes>, Unscreenable> {
    use Operation as O;
    let message = Message::read(bytes).map_err(unreadable)?;
    match operation {
        O::ListTasks => return Ok(list_grpc(bytes, &message, owner, counts)),
        O::GetTask | O::CancelTask => task(&message, owner)?,
        O::SendMessage | O::SendStreamingMessage | O::SubscribeToTask => {
            for (number, place) in [(1, (1, 2)), (2, (3, 2)), (3, (1, 2)), (4, (1, 2))] {
                for part in message.all(number) {
                    let part = Message::read(part.map_err(unreadable)?).map_err(unreadable)?;
                    names(&part, place, owner)?;
                }
            }
        }
        _ => {}
    }
    Ok(None)
}

fn task(message: &Message<'_>, owner: &mut dyn Owner) -> Result<(), Unscreenable> {
    names(message, (1, 2), owner)
}

/// Claims what a message names in these two fields, task and context.
fn names(message: &Message<'_>, place: (u32, u32), owner: &mut dyn Owner) -> Result<(), Unscreenable> {
    if let Some(context) = message.text(place.1).map_err(unreadable)? {
        owner.claim(Handle::Context, &context);
    }
    match message.text(place.0).map_err(unreadable)? {
        Some(task) if !owner.claim(Handle::Task, &task) => Err(Unscreenable { name: "foreign_task" }),
        _ => Ok(()),
    }
}

/// `ListTasksResponse` without the tasks of others, which are its first field.
fn list_grpc(
    bytes: &[u8],
    message: &Message<'_>,
    owner: &mut dyn Owner,
    counts: &mut Screened,
) -> Option<Bytes> {
    counts.lists += 1;
    let mut out = BytesMut::with_capacity(bytes.len());
    let mut hidden = 0;
    for field in message.fields() {
        let own = field.number != 1
            || match field.value {
                super::protobuf::Wire::Bytes(task) => is_own(task, owner),
                _ => false,
            };
        if own {
            out.extend_from_slice(bytes.get(field.span.0..field.span.1).unwrap_or_default());
            counts.kept += usize::from(field.number == 1);
        } else {
            hidden += 1;
        }
    }
    counts.hidden += hidden;
    (hidden > 0).then(|| out.freeze())
}

fn is_own(task: &[u8], owner: &mut dyn Owner) -> bool {
    let id = Message::read(task).ok().and_then(|task| task.text(1).ok().flatten());
    id.is_some_and(|id| owner.owns(&id))
}

fn unreadable(error: crate::reply::Malformed) -> Unscreenable {
    Unscreenable { name: error.name }
}
