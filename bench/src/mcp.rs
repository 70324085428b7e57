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
    let tool = format!("tool_{}", RULES - 1);
    // What is lacking after a first guess is filled up with plain text.
    let guessed = filling.of(size * 9 / 10 - 128);
    let lacking = size.saturating_sub(request(&tool, &guessed, "").len());
    request(&tool, &guessed, &"-".repeat(lacking)).into()
}

/// A `tools/call` that no rule allows, however it is filled.
pub(crate) fn forbidden_call() -> Bytes {
    request("drop_table", &Filling::Text.of(100), "").into()
}

fn request(tool: &str, payload: &Value, rest: &str) -> String {
    let arguments = json!({"owner": "acme", "repo": "portcullis", "payload": payload, "rest": rest});
    let params = json!({"name": tool, "arguments": arguments});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
}

impl Filling {
    /// At most `size` bytes in JSON, and nearly as many.
    fn of(self, size: usize) -> Value {
        let repeated = |text: &str, length: usize| Value::from(text.repeat(size / length));
        match self {
            Self::Text => repeated("search the issues that nobody has answered ", 43),
            Self::Escaped => repeated("line \"one\"\n\tC:\\temp\\ \u{e9}\u{1}", 36),
            Self::Nested => {
                let entry =
                    |n: usize| json!({"id": n, "ok": true, "at": {"line": n * 7, "tags": ["a", null, 1.5]}});
                (0..size / 72).map(|n| (format!("k{n}"), entry(n))).collect::<serde_json::Map<_, _>>().into()
            }
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
                assert_eq!(body.len(), size, "{filling:?}");
                let read: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(read["params"]["name"], "tool_9");
                let rest = read["params"]["arguments"]["rest"].as_str().unwrap().len();
                assert!(rest < size / 3, "{filling:?}: {rest} of {size} are only filled up");
            }
        }
    }
}
