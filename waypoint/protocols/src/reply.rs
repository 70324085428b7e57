//! Answers that the waypoint gives itself, and requests that cannot be read.

use ::http::StatusCode;
use bytes::Bytes;

/// An answer that the waypoint gives itself, worded by the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Value of `Content-Type`; empty where there is no body.
    pub content_type: &'static str,
    /// The body, complete. Of a gRPC answer: its message.
    pub body: Bytes,
    /// gRPC status (grpc.io, *Status codes*), where the answer is one of gRPC: trailers only, over HTTP 200.
    pub grpc_status: Option<u16>,
}

impl Reply {
    pub(crate) fn json(status: StatusCode, body: String) -> Self {
        Self { status, content_type: "application/json", body: Bytes::from(body), grpc_status: None }
    }

    /// Whether it is the answer to one request, by the request's id.
    pub fn is_for_request(&self) -> bool {
        let begins = |with: &str| self.body.starts_with(with.as_bytes());
        begins(r#"{"jsonrpc":"2.0","id":"#) && !begins(r#"{"jsonrpc":"2.0","id":null"#)
    }

    /// 202 without a body: what a notification or a client's response gets, refused or not.
    pub(crate) fn accepted() -> Self {
        Self { status: StatusCode::ACCEPTED, content_type: "", body: Bytes::new(), grpc_status: None }
    }

    /// An answer of gRPC without messages.
    pub(crate) fn grpc(code: u16, message: &str) -> Self {
        let body = Bytes::copy_from_slice(message.as_bytes());
        Self { status: StatusCode::OK, content_type: "application/grpc", body, grpc_status: Some(code) }
    }

    /// HTTP 403 as Istio words it.
    pub(crate) fn access_denied() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            content_type: "text/plain",
            body: Bytes::from_static(b"RBAC: access denied"),
            grpc_status: None,
        }
    }
}

/// A JSON-RPC error object as text. `id` is raw JSON text that the strict reader has accepted.
pub(crate) fn error_object(id: Option<&str>, code: i32, message: &str) -> String {
    error_with_data(id, code, message, None)
}

/// The same with the member `data`, as JSON text.
pub(crate) fn error_with_data(id: Option<&str>, code: i32, message: &str, data: Option<&str>) -> String {
    let id = id.unwrap_or("null");
    let message = crate::json::quote(message);
    let data = data.map(|data| format!(r#","data":{data}"#)).unwrap_or_default();
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}{data}}}}}"#)
}

/// Why a request cannot be read: another parser might read it differently.
///
/// Nothing of such a request is forwarded. It carries no text of the request but the id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}")]
pub struct Malformed {
    /// What is wrong, from a bounded set (`duplicate_key`, …): fit for a metric label.
    pub name: &'static str,
    /// HTTP status of the answer.
    pub status: StatusCode,
    /// JSON-RPC code of the answer.
    pub code: i32,
    /// Raw JSON text of the request's id where it was read.
    id: Option<Box<str>>,
    /// The whole answer, where it is not the usual error object.
    answer: Option<Box<Reply>>,
}

impl Malformed {
    /// A request refused under `name`, with an error object under `code`.
    pub fn new(name: &'static str, status: StatusCode, code: i32) -> Self {
        Self { name, status, code, id: None, answer: None }
    }

    /// 400 `-32700`: not one JSON text.
    pub(crate) fn parse(name: &'static str) -> Self {
        Self::new(name, StatusCode::BAD_REQUEST, -32700)
    }

    /// 400 `-32600`: JSON, but not one unambiguous message.
    pub(crate) fn invalid(name: &'static str) -> Self {
        Self::new(name, StatusCode::BAD_REQUEST, -32600)
    }

    /// 400 `-32602`: a message whose parameters cannot be judged.
    pub(crate) fn params(name: &'static str) -> Self {
        Self::new(name, StatusCode::BAD_REQUEST, -32602)
    }

    /// 400 `-32020`: head and body, or two lines of the head, disagree.
    pub(crate) fn header(name: &'static str) -> Self {
        Self::new(name, StatusCode::BAD_REQUEST, -32020)
    }

    /// 415: a media type or coding that is not inspected.
    pub(crate) fn media(name: &'static str) -> Self {
        Self::new(name, StatusCode::UNSUPPORTED_MEDIA_TYPE, -32600)
    }

    /// 413: more than may be read.
    pub(crate) fn body_too_large() -> Self {
        Self::new("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, -32600)
    }

    /// Echoes the id of the request in the answer.
    pub(crate) fn with_id(mut self, id: Option<&str>) -> Self {
        self.id = id.map(Box::from);
        self
    }

    /// Refuses a message that was read, with the answer that a refusal by policy would get.
    pub(crate) fn answered(name: &'static str, code: i32, answer: Reply) -> Self {
        Self { name, status: answer.status, code, id: None, answer: Some(Box::new(answer)) }
    }

    /// What is wrong, as a bounded label.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The answer: a JSON-RPC error with the id of the request where it was read, else `null`.
    pub fn reply(&self) -> Reply {
        if let Some(answer) = &self.answer {
            return (**answer).clone();
        }
        let message = format!("{}: {}", self.summary(), self.name);
        Reply::json(self.status, error_object(self.id.as_deref(), self.code, &message))
    }

    fn summary(&self) -> &'static str {
        match self.code {
            -32700 => "Parse error",
            -32602 => "Invalid params",
            -32020 => "Header mismatch",
            _ => "Invalid Request",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_request_is_answered_with_exact_bytes() {
        for (malformed, status, body) in [
            (
                Malformed::parse("byte_order_mark"),
                400,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error: byte_order_mark"}}"#,
            ),
            (
                Malformed::invalid("duplicate_key"),
                400,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request: duplicate_key"}}"#,
            ),
            (
                Malformed::params("bad_name").with_id(Some(r#""a\u0031""#)),
                400,
                r#"{"jsonrpc":"2.0","id":"a\u0031","error":{"code":-32602,"message":"Invalid params: bad_name"}}"#,
            ),
            (
                Malformed::header("name_mismatch").with_id(Some("7")),
                400,
                r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32020,"message":"Header mismatch: name_mismatch"}}"#,
            ),
            (
                Malformed::media("content_encoding"),
                415,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request: content_encoding"}}"#,
            ),
        ] {
            let reply = malformed.reply();
            assert_eq!(reply.status.as_u16(), status);
            assert_eq!(reply.content_type, "application/json");
            assert_eq!(reply.body, body);
        }
    }
}
