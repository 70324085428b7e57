//! What the waypoint answers in an agent's place, in the words of each binding (A2A 1.0 §5.4, §11.6; 0.3 §8).

use super::head::VERSION_NOT_SUPPORTED;
use super::operation::Binding;
use crate::mcp::DenyMode;
use crate::reply::{Malformed, Reply, error_object};
use ::http::StatusCode;

/// Why an agent is not asked, or its answer is withheld.
#[derive(Clone, Copy, Debug)]
pub enum Why<'a> {
    /// The peer may do nothing on this agent.
    NoAccess,
    /// Policy denies the operation.
    Denied(DenyMode),
    /// A2A has no such method.
    UnknownMethod,
    /// A task or context that is not the peer's: as if it did not exist.
    NotFound,
    /// It cannot be read in one way.
    Malformed(&'a Malformed),
    /// The agent's answer could not be screened.
    Unscreenable,
}

/// As for MCP, outside the range that JSON-RPC reserves.
const DENIED_BY_POLICY: i32 = -31403;
const METHOD_NOT_FOUND: i32 = -32601;
const INTERNAL_ERROR: i32 = -32603;
const TASK_NOT_FOUND: i32 = -32001;
const UNSUPPORTED_OPERATION: i32 = -32004;

/// The answer. `id`: raw JSON text of the JSON-RPC id, where one was read.
#[must_use]
pub fn refuse(binding: Binding, id: Option<&str>, why: Why<'_>) -> Reply {
    match binding {
        Binding::JsonRpc => json_rpc(id, why),
        Binding::Rest => rest(why),
        Binding::Grpc => grpc(why),
    }
}

/// Servers of A2A answer errors of JSON-RPC with HTTP 200.
fn json_rpc(id: Option<&str>, why: Why<'_>) -> Reply {
    let (code, message) = match why {
        Why::NoAccess | Why::Denied(DenyMode::Status) => return Reply::access_denied(),
        Why::Denied(DenyMode::Explicit) => (DENIED_BY_POLICY, "denied by policy"),
        Why::Denied(DenyMode::Hide | DenyMode::ModelVisible) => {
            (UNSUPPORTED_OPERATION, "This operation is not supported")
        }
        Why::UnknownMethod => (METHOD_NOT_FOUND, "Method not found"),
        Why::NotFound => (TASK_NOT_FOUND, "Task not found"),
        Why::Malformed(malformed) if malformed.code == VERSION_NOT_SUPPORTED => {
            return Reply { status: StatusCode::OK, ..malformed.reply() };
        }
        Why::Malformed(malformed) => return malformed.reply(),
        Why::Unscreenable => (INTERNAL_ERROR, "Internal error"),
    };
    Reply::json(StatusCode::OK, error_object(id, code, message))
}

/// `google.rpc.Status` as JSON, with its `ErrorInfo`.
fn rest(why: Why<'_>) -> Reply {
    let (status, name, reason, message) = match why {
        Why::NoAccess | Why::Denied(DenyMode::Status) => return Reply::access_denied(),
        Why::Denied(_) => {
            (StatusCode::FORBIDDEN, "PERMISSION_DENIED", "PERMISSION_DENIED", "Permission denied".to_owned())
        }
        Why::UnknownMethod => {
            (StatusCode::NOT_FOUND, "NOT_FOUND", "METHOD_NOT_FOUND", "Method not found".to_owned())
        }
        Why::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND", "TASK_NOT_FOUND", "Task not found".to_owned()),
        Why::Malformed(malformed) => {
            let version = malformed.code == VERSION_NOT_SUPPORTED;
            let reason = if version { "VERSION_NOT_SUPPORTED" } else { "INVALID_REQUEST" };
            (malformed.status, "INVALID_ARGUMENT", reason, format!("Invalid request: {}", malformed.name))
        }
        Why::Unscreenable => (StatusCode::BAD_GATEWAY, "INTERNAL", "INTERNAL", "Internal error".to_owned()),
    };
    let code = status.as_u16();
    let body = format!(
        r#"{{"error":{{"code":{code},"status":"{name}","message":"{message}","details":[{{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"{reason}","domain":"a2a-protocol.org"}}]}}}}"#
    );
    Reply::json(status, body)
}

/// Trailers only (grpc.io, *Status codes*).
fn grpc(why: Why<'_>) -> Reply {
    match why {
        Why::NoAccess | Why::Denied(_) => Reply::grpc(7, "RBAC: access denied"),
        Why::UnknownMethod => Reply::grpc(12, "Method not found"),
        Why::NotFound => Reply::grpc(5, "Task not found"),
        Why::Malformed(malformed) => {
            let code = match malformed.status {
                _ if malformed.code == VERSION_NOT_SUPPORTED => 9,
                StatusCode::PAYLOAD_TOO_LARGE => 8,
                StatusCode::UNSUPPORTED_MEDIA_TYPE => 12,
                _ => 3,
            };
            Reply::grpc(code, &format!("Invalid request: {}", malformed.name))
        }
        Why::Unscreenable => Reply::grpc(13, "Internal error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_exact_bytes_in_every_binding() {
        let bad = Malformed::invalid("spelling_twin").with_id(Some("7"));
        let version = Malformed::new("version_unknown", StatusCode::BAD_REQUEST, VERSION_NOT_SUPPORTED);
        let info = |reason: &str| {
            format!(
                r#""details":[{{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"{reason}","domain":"a2a-protocol.org"}}]"#
            )
        };
        let rest = |code: u16, status: &str, message: &str, reason: &str| {
            format!(
                r#"{{"error":{{"code":{code},"status":"{status}","message":"{message}",{}}}}}"#,
                info(reason)
            )
        };
        let rpc = |code: i32, message: &str| {
            format!(r#"{{"jsonrpc":"2.0","id":7,"error":{{"code":{code},"message":"{message}"}}}}"#)
        };
        let rbac = || "RBAC: access denied".to_owned();
        let rows = [
            (
                Why::Denied(DenyMode::Hide),
                (200, rpc(-32004, "This operation is not supported")),
                (403, rest(403, "PERMISSION_DENIED", "Permission denied", "PERMISSION_DENIED")),
                7,
            ),
            (
                Why::Denied(DenyMode::Explicit),
                (200, rpc(-31403, "denied by policy")),
                (403, rest(403, "PERMISSION_DENIED", "Permission denied", "PERMISSION_DENIED")),
                7,
            ),
            (Why::Denied(DenyMode::Status), (403, rbac()), (403, rbac()), 7),
            (Why::NoAccess, (403, rbac()), (403, rbac()), 7),
            (
                Why::NotFound,
                (200, rpc(-32001, "Task not found")),
                (404, rest(404, "NOT_FOUND", "Task not found", "TASK_NOT_FOUND")),
                5,
            ),
            (
                Why::Malformed(&bad),
                (400, rpc(-32600, "Invalid Request: spelling_twin")),
                (400, rest(400, "INVALID_ARGUMENT", "Invalid request: spelling_twin", "INVALID_REQUEST")),
                3,
            ),
            (
                Why::Unscreenable,
                (200, rpc(-32603, "Internal error")),
                (502, rest(502, "INTERNAL", "Internal error", "INTERNAL")),
                13,
            ),
        ];
        for (why, json_rpc, http, grpc) in rows {
            let of = |binding| {
                let reply = refuse(binding, Some("7"), why);
                (reply.status.as_u16(), String::from_utf8(reply.body.to_vec()).unwrap())
            };
            assert_eq!(of(Binding::JsonRpc), json_rpc, "{why:?}");
            assert_eq!(of(Binding::Rest), http, "{why:?}");
            assert_eq!(refuse(Binding::Grpc, None, why).grpc_status, Some(grpc), "{why:?}");
        }
        let old = Why::Malformed(&version);
        assert_eq!(refuse(Binding::JsonRpc, None, old).status, StatusCode::OK);
        assert_eq!(refuse(Binding::Rest, None, old).status, StatusCode::BAD_REQUEST);
        assert_eq!(refuse(Binding::Grpc, None, old).grpc_status, Some(9));
        assert_eq!(refuse(Binding::Grpc, None, Why::UnknownMethod).grpc_status, Some(12));
    }
}
