//! MCP messages of the load: what clients send, what the backend answers, and the rules that both pass.

use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Where MCP is spoken.
pub(crate) const PATH: &str = "/mcp";
/// An event stream that stays open.
pub(crate) const EVENTS: &str = "/mcp/events";
/// A list of tools as one JSON document.
pub(crate) const LIST: &str = "/mcp/list";
/// The same as one event of a stream.
pub(crate) const LIST_SSE: &str = "/mcp/list-sse";

/// Content type of an event stream.
pub(crate) const SSE: &str = "text/event-stream";

/// Tools of the list; every other one may be called.
const LISTED: usize = 100;

/// What fills a `tools/call` up to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// One long string without escapes.
    Text,
    /// One string full of escapes.
    Escaped,
    /// Objects in objects, with numbers, words and arrays.
    Nested,
}

/// A `tools/call` of `size` bytes that the last of [`RULES`] rules allows.
pub(crate) fn call(filling: Filling, size: usize) -> Bytes {
    let last = RULES - 1;
    let whole = |payload: Value| {
        let arguments = json!({"owner": "acme", "repo": "portcullis", "payload": payload});
        let params = json!({"name": format!("tool_{last}"), "arguments": arguments});
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
    };
    let mut grown = 0;
    while whole(filling.of(grown)).len() < size {
        grown += (size / 200).max(1);
    }
    // The last step may go too far; what is one too many is taken back.
    while grown > 0 && whole(filling.of(grown)).len() > size {
        grown -= 1;
    }
    whole(filling.of(grown)).into()
}

impl Filling {
    /// About `size` bytes in JSON.
    fn of(self, size: usize) -> Value {
        match self {
            Self::Text => "search the issues that nobody has answered "
                .chars()
                .cycle()
                .take(size)
                .collect::<String>()
                .into(),
            Self::Escaped => "line \"one\"\n\tC:\\temp\\é\u{1}"
                .chars()
                .cycle()
                .take(size * 2 / 3)
                .collect::<String>()
                .into(),
            Self::Nested => (0..size / 64)
                .map(|n| {
                    let entry = json!({"id": n, "ok": true, "at": {"line": n * 7, "tags": ["a", null, 1.5]}});
                    (format!("k{n}"), entry)
                })
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// Rules of the policy for calls; [`call`] is allowed by the last.
pub(crate) const RULES: usize = 10;

/// Method of a message that asks for the list.
pub(crate) fn list_request() -> Bytes {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).to_string().into()
}

/// Rules of an AuthorizationPolicy: [`RULES`] tools, each for one value of an argument.
pub(crate) fn call_rules() -> String {
    (0..RULES)
        .map(|n| {
            format!(
                "- to: [{{operation: {{paths: [\"{PATH}*\"]}}}}]\n  when:\n  \
                 - {{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [\"tool_{n}\"]}}\n  \
                 - {{key: \"experimental.envoy.filters.http.mcp[args.owner]\", values: [\"acme\"]}}\n"
            )
        })
        .collect()
}

/// Rules of an AuthorizationPolicy by which half of the listed tools may be called.
pub(crate) fn list_rules() -> String {
    format!(
        "- to: [{{operation: {{paths: [\"{PATH}*\"]}}}}]\n  when:\n  \
         - {{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [\"read_*\"]}}\n"
    )
}

/// What the backend answers at `path`: content type and body.
pub(crate) fn answer(path: &str) -> (&'static str, Bytes) {
    static LISTS: LazyLock<(Bytes, Bytes)> = LazyLock::new(|| {
        let document = list().to_string();
        let event = format!("event: message\ndata: {document}\n\n");
        (document.into(), event.into())
    });
    static DONE: &[u8] = br#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"done"}]}}"#;
    match path {
        LIST => ("application/json", LISTS.0.clone()),
        LIST_SSE => (SSE, LISTS.1.clone()),
        _ => ("application/json", Bytes::from_static(DONE)),
    }
}

fn list() -> Value {
    let tools: Vec<Value> = (0..LISTED).map(tool).collect();
    json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}})
}

fn tool(n: usize) -> Value {
    let kind = if n.is_multiple_of(2) { "read" } else { "write" };
    json!({
        "name": format!("{kind}_{n}"),
        "description": format!("Does the {kind} of thing number {n}, \"carefully\", and says what it did."),
        "inputSchema": {
            "type": "object",
            "properties": {"owner": {"type": "string"}, "repo": {"type": "string"}, "page": {"type": "integer"}},
            "required": ["owner", "repo"],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_size_they_are_asked_for() {
        for filling in [Filling::Text, Filling::Escaped, Filling::Nested] {
            for size in [1 << 10, 64 << 10] {
                let body = call(filling, size);
                assert!(
                    body.len() <= size && body.len() + 100 > size,
                    "{filling:?}: {} of {size}",
                    body.len()
                );
                let read: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(read["params"]["name"], "tool_9");
            }
        }
    }
}
