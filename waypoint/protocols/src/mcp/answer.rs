//! What the waypoint answers in a server's place. Statuses were measured: most SDKs drop the whole session at anything
//! but 200, so a refused call is an error inside a 200.

use super::exchange::Exchange;
use super::message::{Message, Refused};
use super::revision::Era;
use super::subject::Target;
use crate::json::quote;
use crate::reply::{Reply, error_object};
use ::http::StatusCode;

/// How a refusal looks to the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyMode {
    /// As if the tool, prompt, resource or method did not exist.
    #[default]
    Hide,
    /// Error `-31403` *denied by policy*, without the policy's text.
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

/// Answer to an exchange of which nothing is forwarded; `denied[i]` tells whether message `i` was refused. A missing
/// entry counts as refused.
///
/// A batch is answered as a whole: refused requests with their refusal, the others with `-32600` *not run*. An exchange
/// without a request is answered 202, which is what its sender expects.
pub fn refuse(exchange: &Exchange<'_>, denied: &[bool], mode: DenyMode) -> Reply {
    if !exchange.messages.iter().any(Message::is_request) {
        return Reply::accepted();
    }
    if mode == DenyMode::Status && is_by_policy(exchange, denied) {
        return Reply::access_denied();
    }
    if exchange.batch {
        return refuse_batch(exchange, denied, mode);
    }
    match exchange.messages.first() {
        Some(message) => {
            let (status, body) = refusal(message, exchange.era, mode);
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

fn refuse_batch(exchange: &Exchange<'_>, denied: &[bool], mode: DenyMode) -> Reply {
    let answers = exchange.messages.iter().enumerate().filter(|(_, message)| message.is_request());
    let answers = answers.map(|(index, message)| {
        if is_denied(denied, index) {
            refusal(message, exchange.era, mode).1
        } else {
            error_object(message.id(), INVALID_REQUEST, "not run: another message of the batch was refused")
        }
    });
    let body = answers.collect::<Vec<_>>().join(",");
    Reply::json(StatusCode::OK, format!("[{body}]"))
}

/// Status and body for one refused request.
fn refusal(message: &Message<'_>, era: Era, mode: DenyMode) -> (StatusCode, String) {
    if message.refused == Some(Refused::Method) {
        return method_not_found(message, era);
    }
    match (mode, message.subjects.first().map(|subject| &subject.target)) {
        (DenyMode::Explicit, _) => {
            (StatusCode::OK, error_object(message.id(), DENIED_BY_POLICY, "denied by policy"))
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
