//! JSON-RPC 2.0 envelopes, with every doubt taken out of them.

use crate::json::{Shape, Value, is_twin};
use crate::reply::Malformed;
use std::borrow::Cow;

/// One message, told apart.
#[derive(Debug)]
pub(crate) struct Envelope<'d, 'b> {
    /// The id, a string or an integer. Of a response: the id of the server's request.
    pub(crate) id: Option<Value<'d, 'b>>,
    pub(crate) content: Content<'d, 'b>,
}

#[derive(Debug)]
pub(crate) enum Content<'d, 'b> {
    /// A request, or without an id a notification.
    Request { method: Cow<'b, str>, params: Option<Value<'d, 'b>> },
    /// A result or an error.
    Response,
}

/// Reads one envelope.
///
/// # Errors
/// [`Malformed`] without an id: the caller knows whether the message stands alone and its id may be echoed.
pub(crate) fn read<'d, 'b>(message: Value<'d, 'b>) -> Result<Envelope<'d, 'b>, Malformed> {
    let members = Members::read(message)?;
    if members.version.and_then(Value::as_str).as_deref() != Some("2.0") {
        return Err(Malformed::invalid("jsonrpc_version"));
    }
    if members.id.is_some_and(|id| !is_id(id)) {
        return Err(Malformed::invalid("bad_id"));
    }
    let content = match (members.method, members.result, members.error) {
        (Some(method), None, None) => request(method, members.params)?,
        (None, Some(_), None) | (None, None, Some(_)) => response(&members)?,
        (None, None, None) => return Err(Malformed::invalid("no_method")),
        // Several servers run a call that also carries a result; a reader that saw a response would have let it by.
        _ => return Err(Malformed::invalid("call_and_result")),
    };
    Ok(Envelope { id: members.id, content })
}

/// The id of a message that may be malformed otherwise, for the answer.
pub(crate) fn id_text<'b>(message: Value<'_, 'b>) -> Option<&'b str> {
    message.get("id").filter(|id| is_id(*id)).map(Value::raw)
}

#[derive(Default)]
struct Members<'d, 'b> {
    version: Option<Value<'d, 'b>>,
    id: Option<Value<'d, 'b>>,
    method: Option<Value<'d, 'b>>,
    params: Option<Value<'d, 'b>>,
    result: Option<Value<'d, 'b>>,
    error: Option<Value<'d, 'b>>,
}

impl<'d, 'b> Members<'d, 'b> {
    fn read(message: Value<'d, 'b>) -> Result<Self, Malformed> {
        if !message.is(Shape::Object) {
            return Err(Malformed::invalid("not_an_object"));
        }
        let mut members = Self::default();
        for (key, value) in message.members() {
            let slot = match key.as_ref() {
                "jsonrpc" => &mut members.version,
                "id" => &mut members.id,
                "method" => &mut members.method,
                "params" => &mut members.params,
                "result" => &mut members.result,
                "error" => &mut members.error,
                other => return Err(unknown_member(other)),
            };
            *slot = Some(value);
        }
        Ok(members)
    }
}

fn unknown_member(key: &str) -> Malformed {
    let known = ["jsonrpc", "id", "method", "params", "result", "error"];
    let twin = known.iter().any(|known| is_twin(key, known));
    Malformed::invalid(if twin { "case_variant_key" } else { "unknown_member" })
}

fn request<'d, 'b>(
    method: Value<'d, 'b>,
    params: Option<Value<'d, 'b>>,
) -> Result<Content<'d, 'b>, Malformed> {
    let method = method.as_str().ok_or_else(|| Malformed::invalid("bad_method"))?;
    if params.is_some_and(|params| !params.is(Shape::Object)) {
        return Err(Malformed::params("params_not_an_object"));
    }
    Ok(Content::Request { method, params })
}

fn response<'d, 'b>(members: &Members<'d, 'b>) -> Result<Content<'d, 'b>, Malformed> {
    if members.params.is_some() {
        return Err(Malformed::invalid("call_and_result"));
    }
    if members.id.is_none() {
        return Err(Malformed::invalid("bad_id"));
    }
    Ok(Content::Response)
}

/// A string, or an integer of 64 bits. `-0` and `1.0` are none: readers echo them differently.
fn is_id(id: Value<'_, '_>) -> bool {
    match id.shape() {
        Shape::String => true,
        Shape::Number => id.raw() != "-0" && id.raw().parse::<i64>().is_ok(),
        _ => false,
    }
}
