//! The answer to a message that came too often, worded so that its client waits and comes again.

use super::answer::{DenyMode, INVALID_PARAMS, INVALID_REQUEST};
use super::exchange::Exchange;
use super::message::Message;
use super::revision::Era;
use super::subject::Target;
use crate::json::quote;
use crate::reply::{Reply, error_object};
use ::http::StatusCode;
use std::time::Duration;

/// Code of [`DenyMode::Explicit`], outside the range that JSON-RPC reserves.
const LIMITED: i32 = -31429;

/// Answer to an exchange of which nothing is forwarded because message `limited` came too often; `wait`: when it may come again.
///
/// An error, or for a tool in [`DenyMode::ModelVisible`] a failed call, inside a 200, with `retryAfterMs`: any other status ends
/// the session of some clients. `None` in [`DenyMode::Status`], and where nothing in the exchange expects an answer: such
/// messages get the plain 429, since a server that does not take one has to say so in the status (MCP *Streamable HTTP*).
pub fn limited(exchange: &Exchange<'_>, limited: usize, wait: Duration, mode: DenyMode) -> Option<Reply> {
    if mode == DenyMode::Status || !exchange.messages.iter().any(Message::is_request) {
        return None;
    }
    let answers = exchange.messages.iter().enumerate().filter(|(_, message)| message.is_request());
    let answers = answers.map(|(index, message)| {
        if index == limited {
            refusal(message, exchange.era, wait, mode)
        } else {
            error_object(message.id(), INVALID_REQUEST, "not run: another message of the batch was refused")
        }
    });
    let body = answers.collect::<Vec<_>>().join(",");
    Some(Reply::json(StatusCode::OK, if exchange.batch { format!("[{body}]") } else { body }))
}

fn refusal(message: &Message<'_>, era: Era, wait: Duration, mode: DenyMode) -> String {
    let id = message.id().unwrap_or("null");
    let wait = wait.as_nanos().div_ceil(1_000_000);
    let text = quote(&format!("Rate limit exceeded: retry in {wait} ms"));
    let calls_tool = matches!(message.subjects.first().map(|subject| &subject.target), Some(Target::Tool(_)));
    if mode == DenyMode::ModelVisible && calls_tool {
        let kind = match era {
            Era::Legacy => "",
            Era::Modern => r#","resultType":"complete""#,
        };
        return format!(
            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":{text}}}],"isError":true,"_meta":{{"retryAfterMs":{wait}}}{kind}}}}}"#
        );
    }
    let code = if mode == DenyMode::Explicit { LIMITED } else { INVALID_PARAMS };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{text},"data":{{"retryAfterMs":{wait}}}}}}}"#
    )
}
