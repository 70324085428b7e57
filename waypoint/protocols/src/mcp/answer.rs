//! What the waypoint answers in a server's place. Statuses were measured: most SDKs drop the whole session at anything
//! but 200, so a refused call is an error inside a 200.

use super::exchange::Exchange;
use super::message::{Message, Refused};
use super::revision::Era;
use super::subject::Target;
use crate::json::quote;
use crate::reply::{Malformed, Reply, error_object, error_with_data};
use ::http::StatusCode;

/// How a refusal looks to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyMode {
    /// As if the tool, prompt, resource or method did not exist.
    #[default]
    Hide,
    /// Error `-31403` *denied by policy*, with the [`Explanation`] that its operator wants shown.
    Explicit,
    /// A result that the model reads as a failed tool call; other methods as [`DenyMode::Hide`].
    ModelVisible,
    /// HTTP 403 `RBAC: access denied`. Ends the session of some clients.
    Status,
}

/// Code of [`DenyMode::Explicit`], outside the range that JSON-RPC reserves.
const DENIED_BY_POLICY: i32 = -31403;
const METHOD_NOT_FOUND: i32 = -32601;
pub(super) const INVALID_PARAMS: i32 = -32602;
const INTERNAL_ERROR: i32 = -32603;
pub(super) const INVALID_REQUEST: i32 = -32600;
const SESSION_NOT_FOUND: i32 = -32001;

/// What [`DenyMode::Explicit`] tells of a refused message beside its code: enough to find it in the logs, and no text of
/// a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The rule that denied it, or the policy that cannot be enforced; `None`: no rule allowed it.
    pub policy: Option<String>,
    /// Why, from a bounded set.
    pub reason: &'static str,
    /// The request's id (`x-request-id`).
    pub request_id: String,
}

impl Explanation {
    /// As the member `data` of an error.
    fn data(&self) -> String {
        let policy = self.policy.as_deref().map_or_else(|| "null".to_owned(), quote);
        let (reason, id) = (quote(self.reason), quote(&self.request_id));
        format!(r#"{{"policy":{policy},"reason":{reason},"requestId":{id}}}"#)
    }
}

/// What may be told of each message of an exchange, by its place.
type Explain<'a> = &'a dyn Fn(usize) -> Option<Explanation>;

/// As [`refuse_explaining`], with nothing to tell.
pub fn refuse(exchange: &Exchange<'_>, denied: &[bool], mode: DenyMode) -> Reply {
    refuse_explaining(exchange, denied, mode, &|_| None)
}

/// Answer to an exchange of which nothing is forwarded; `denied[i]` tells whether message `i` was refused. A missing
/// entry counts as refused.
///
/// A batch is answered as a whole: refused requests with their refusal, the others with `-32600` *not run*. An exchange
/// without a request is answered 202, which is what its sender expects.
pub fn refuse_explaining(
    exchange: &Exchange<'_>,
    denied: &[bool],
    mode: DenyMode,
    explain: &dyn Fn(usize) -> Option<Explanation>,
) -> Reply {
    if !exchange.messages.iter().any(Message::is_request) {
        return Reply::accepted();
    }
    if mode == DenyMode::Status && is_by_policy(exchange, denied) {
        return Reply::access_denied();
    }
    if exchange.batch {
        return refuse_batch(exchange, denied, mode, explain);
    }
    match exchange.messages.first() {
        Some(message) => {
            let (status, body) = refusal(message, exchange.era, mode, &|| explain(0));
            Reply::json(status, body)
        }
        None => Reply::accepted(),
    }
}

/// Whether a message was refused that is known: a method that is not is answered alike in every mode.
fn is_by_policy(exchange: &Exchange<'_>, denied: &[bool]) -> bool {
    let mut messages = exchange.messages.iter().enumerate();
    messages.any(|(index, message)| is_denied(denied, index) && message.is_known())
}

fn is_denied(denied: &[bool], index: usize) -> bool {
    denied.get(index).copied().unwrap_or(true)
}

fn refuse_batch(exchange: &Exchange<'_>, denied: &[bool], mode: DenyMode, explain: Explain<'_>) -> Reply {
    let answers = exchange.messages.iter().enumerate().filter(|(_, message)| message.is_request());
    let answers = answers.map(|(index, message)| {
        if is_denied(denied, index) {
            refusal(message, exchange.era, mode, &|| explain(index)).1
        } else {
            error_object(message.id(), INVALID_REQUEST, "not run: another message of the batch was refused")
        }
    });
    let body = answers.collect::<Vec<_>>().join(",");
    Reply::json(StatusCode::OK, format!("[{body}]"))
}

/// Status and body for one refused request.
fn refusal(
    message: &Message<'_>,
    era: Era,
    mode: DenyMode,
    explain: &dyn Fn() -> Option<Explanation>,
) -> (StatusCode, String) {
    if message.refused == Some(Refused::Method) {
        return method_not_found(message, era);
    }
    match (mode, message.subjects.first().map(|subject| &subject.target)) {
        (DenyMode::Explicit, _) => {
            let data = explain().map(|told| told.data());
            let text = "denied by policy";
            (StatusCode::OK, error_with_data(message.id(), DENIED_BY_POLICY, text, data.as_deref()))
        }
        (DenyMode::ModelVisible, Some(Target::Tool(_))) => (StatusCode::OK, failed_call(message.id(), era)),
        _ => hide(message, era),
    }
}

/// The answer of a server that does not have the thing.
fn hide(message: &Message<'_>, era: Era) -> (StatusCode, String) {
    let named = message.subjects.iter().map(|s| &s.target).find(|target| target.name().is_some());
    let (code, text) = match named {
        Some(Target::Tool(name)) => (INVALID_PARAMS, format!("Unknown tool: {name}")),
        Some(Target::Prompt(name)) => (INVALID_PARAMS, format!("Unknown prompt: {name}")),
        Some(Target::Resource(_) | Target::Template(_)) => {
            (resource_code(era), "Resource not found".to_owned())
        }
        Some(Target::None) | None => return method_not_found(message, era),
    };
    (StatusCode::OK, error_object(message.id(), code, &text))
}

/// Code of *Resource not found*: renumbered in 2026-07-28.
pub(super) fn resource_code(era: Era) -> i32 {
    match era {
        Era::Legacy => -32002,
        Era::Modern => INVALID_PARAMS,
    }
}

fn method_not_found(message: &Message<'_>, era: Era) -> (StatusCode, String) {
    let status = match era {
        Era::Legacy => StatusCode::OK,
        Era::Modern => StatusCode::NOT_FOUND,
    };
    (status, error_object(message.id(), METHOD_NOT_FOUND, "Method not found"))
}

fn failed_call(id: Option<&str>, era: Era) -> String {
    let id = id.unwrap_or("null");
    let text = quote("Access denied: this tool call is not permitted.");
    let kind = match era {
        Era::Legacy => "",
        Era::Modern => r#","resultType":"complete""#,
    };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":{text}}}],"isError":true{kind}}}}}"#
    )
}

/// The principal may do nothing on this server: HTTP 403 `RBAC: access denied`.
pub fn no_access() -> Reply {
    Reply::access_denied()
}

/// 413 with JSON-RPC `-32600`: the body is larger than may be read, so nothing of it is known.
pub fn too_large() -> Reply {
    Malformed::body_too_large().reply()
}

/// 404 with JSON-RPC `-32001` *Session not found*, upon which clients open a new session. `id` is raw JSON text from
/// [`Message::id`].
pub fn session_not_found(id: Option<&str>) -> Reply {
    Reply::json(StatusCode::NOT_FOUND, error_object(id, SESSION_NOT_FOUND, "Session not found"))
}

/// A JSON-RPC internal error (`-32603`) in place of an answer that could not be screened. `id` is raw JSON text from
/// [`Message::id`].
pub fn unscreenable(id: Option<&str>) -> Reply {
    Reply::json(StatusCode::OK, error_object(id, INTERNAL_ERROR, "Internal error"))
}
