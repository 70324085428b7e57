//! Refusals to the byte, in each mode and for each kind of thing.

use crate::stage::{Scene, Stage, call, server};
use crate::table::Sent;
use anyhow::{Context, Result};
use portcullis_tests::http::{RawReply, raw};

const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

fn request(id: &str, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}}}}}"#)
}

fn modern(method: &str, name: &str, params: &str) -> Sent {
    let sent = Sent::post(request("1", method, &format!("{MODERN}{params}")));
    let sent = sent.with("MCP-Protocol-Version: 2026-07-28").with(&format!("Mcp-Method: {method}"));
    if name.is_empty() { sent } else { sent.with(&format!("Mcp-Name: {name}")) }
}

fn legacy(method: &str, params: &str) -> Sent {
    Sent::post(request("1", method, params))
}

fn error(id: &str, code: i32, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
}

/// One denied request, and status and body of its refusal.
type Refusal = (&'static str, Sent, u16, String);

/// The requests that a policy denies, with the refusal that `hide` gives them.
fn denied_by_policy() -> Vec<Refusal> {
    let hidden = "Resource not found";
    vec![
        ("tool", legacy("tools/call", r#""name":"beta""#), 200, error("1", -32602, "Unknown tool: beta")),
        (
            "tool, modern",
            modern("tools/call", "beta", r#","name":"beta""#),
            200,
            error("1", -32602, "Unknown tool: beta"),
        ),
        ("prompt", legacy("prompts/get", r#""name":"bye""#), 200, error("1", -32602, "Unknown prompt: bye")),
        (
            "prompt, modern",
            modern("prompts/get", "bye", r#","name":"bye""#),
            200,
            error("1", -32602, "Unknown prompt: bye"),
        ),
        (
            "resource",
            legacy("resources/read", r#""uri":"file:///secret/x""#),
            200,
            error("1", -32002, hidden),
        ),
        (
            "resource, modern",
            modern("resources/read", "file:///secret/x", r#","uri":"file:///secret/x""#),
            200,
            error("1", -32602, hidden),
        ),
        (
            "subscription",
            legacy("resources/subscribe", r#""uri":"file:///secret/x""#),
            200,
            error("1", -32002, hidden),
        ),
        (
            "completion of a prompt",
            legacy(
                "completion/complete",
                r#""ref":{"type":"ref/prompt","name":"bye"},"argument":{"name":"a","value":""}"#,
            ),
            200,
            error("1", -32602, "Unknown prompt: bye"),
        ),
        (
            "completion of a resource",
            legacy(
                "completion/complete",
                r#""ref":{"type":"ref/resource","uri":"file:///secret/x"},"argument":{"name":"a","value":""}"#,
            ),
            200,
            error("1", -32002, hidden),
        ),
        (
            "listening to a resource",
            modern(
                "subscriptions/listen",
                "",
                r#","notifications":{"resourceSubscriptions":["file:///public/x","file:///secret/x"]}"#,
            ),
            200,
            error("1", -32602, hidden),
        ),
    ]
}

/// What is refused alike in every mode.
fn unknown_methods() -> Vec<Refusal> {
    vec![
        ("unknown method", legacy("tools/destroy", ""), 200, error("1", -32601, "Method not found")),
        (
            "unknown method, modern",
            modern("tools/destroy", "", ""),
            404,
            error("1", -32601, "Method not found"),
        ),
        ("tasks", legacy("tasks/list", ""), 200, error("1", -32601, "Method not found")),
        (
            "notification denied",
            Sent::post(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"beta"}}"#),
            202,
            String::new(),
        ),
        (
            "unknown notification",
            Sent::post(r#"{"jsonrpc":"2.0","method":"notifications/unheard"}"#),
            202,
            String::new(),
        ),
    ]
}

#[tokio::test]
async fn a_hidden_thing_is_refused_as_if_it_did_not_exist() -> Result<()> {
    let mut rows = denied_by_policy();
    rows.extend(unknown_methods());
    let tool =
        |id: &str, told: &str| (Sent::post(call(id, "beta")), error(told, -32602, "Unknown tool: beta"));
    for (name, (sent, want)) in [
        ("a number for an id", tool("42", "42")),
        ("a negative number", tool("-7", "-7")),
        ("the largest number", tool("9223372036854775807", "9223372036854775807")),
        ("a string", tool(r#""42""#, r#""42""#)),
        ("a string with escapes, as it stood", tool(r#""a\u0031\"b""#, r#""a\u0031\"b""#)),
        ("an empty string", tool(r#""""#, r#""""#)),
    ] {
        rows.push((name, sent, 200, want));
    }
    let quoted = Sent::post(call("1", r#"b\"\u003c\\"#));
    rows.push(("a name is quoted", quoted, 200, error("1", -32602, r#"Unknown tool: b\"<\\"#)));
    rows.extend(malformed());
    refused(&[], rows).await
}

fn malformed() -> Vec<Refusal> {
    let alpha = || Sent::post(call("1", "alpha"));
    let two = r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}"#;
    vec![
        ("not JSON", Sent::post("{"), 400, error("null", -32700, "Parse error: not_json")),
        ("a key twice", Sent::post(two), 400, error("null", -32600, "Invalid Request: duplicate_key")),
        (
            "an unknown member",
            Sent::post(r#"{"jsonrpc":"2.0","id":"a","method":"ping","x":1}"#),
            400,
            error(r#""a""#, -32600, "Invalid Request: unknown_member"),
        ),
        (
            "no object for parameters",
            Sent::post(r#"{"jsonrpc":"2.0","id":5,"method":"tools/call","params":[]}"#),
            400,
            error("5", -32602, "Invalid params: params_not_an_object"),
        ),
        (
            "coded",
            alpha().with("Content-Encoding: gzip"),
            415,
            error("null", -32600, "Invalid Request: content_encoding"),
        ),
        (
            "of another type",
            alpha().without("Content-Type"),
            415,
            error("null", -32600, "Invalid Request: content_type"),
        ),
        (
            "in another method",
            alpha().line("PUT /mcp"),
            405,
            error("null", -32600, "Invalid Request: http_method"),
        ),
        (
            "two names",
            alpha().with("Mcp-Name: a").with("Mcp-Name: a"),
            400,
            error("null", -32020, "Header mismatch: repeated_header"),
        ),
        (
            "another name",
            modern("tools/call", "beta", r#","name":"alpha""#),
            400,
            error("1", -32020, "Header mismatch: name_mismatch"),
        ),
        (
            "no version in the body",
            alpha().with("MCP-Protocol-Version: 2026-07-28"),
            400,
            error("1", -32602, "Invalid params: version_missing"),
        ),
        (
            "no such session",
            alpha().with("Mcp-Session-Id: nobodys"),
            404,
            error("1", -32001, "Session not found"),
        ),
    ]
}

#[tokio::test]
async fn an_explicit_refusal_says_so_and_where_to_look() -> Result<()> {
    let mut rows = denied_by_policy();
    for (_, sent, _, want) in &mut rows {
        *sent = sent.clone().with("X-Request-Id: a\"b");
        *want = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-31403,"message":"denied by policy","data":{"policy":null,"reason":"no_rule_matched","requestId":"a\"b"}}}"#.to_owned();
    }
    rows.extend(unknown_methods());
    refused(&[("--deny-mode", "explicit")], rows).await
}

#[tokio::test]
async fn a_refusal_for_the_model_is_the_result_of_the_tool() -> Result<()> {
    let text = r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"Access denied: this tool call is not permitted."}],"isError":true"#;
    let mut rows = denied_by_policy();
    for (name, _, _, want) in &mut rows {
        match *name {
            "tool" => *want = format!("{text}}}}}"),
            "tool, modern" => *want = format!(r#"{text},"resultType":"complete"}}}}"#),
            _as_hidden => {}
        }
    }
    rows.extend(unknown_methods());
    refused(&[("--deny-mode", "model-visible")], rows).await
}

#[tokio::test]
async fn a_refusal_by_status_is_the_one_of_istio() -> Result<()> {
    let mut rows = denied_by_policy();
    for (_, _, status, want) in &mut rows {
        (*status, *want) = (403, "RBAC: access denied".to_owned());
    }
    rows.extend(unknown_methods());
    refused(&[("--deny-mode", "status")], rows).await
}

async fn refused(flags: &[(&str, &str)], rows: Vec<Refusal>) -> Result<()> {
    let stage = Scene::new(server).await?.start(flags).await?;
    let peer = stage.peer("bot")?;
    let mut tunnel = peer.stream().await?;
    for (name, sent, status, body) in rows {
        let reply = raw(&mut tunnel, &[&sent.bytes(name)]).await.context(name)?;
        assert_eq!((reply.status(), reply.text()), (status, body), "{name}");
        says_its_type(name, &reply);
    }
    stage.upstream.saw_nothing();
    let reply = raw(&mut tunnel, &[&Sent::post(call("9", "alpha")).bytes("afterwards")]).await?;
    assert_eq!(reply.text(), r#"{"jsonrpc":"2.0","id":9,"result":{"ran":"tools/call"}}"#);
    Ok(())
}

fn says_its_type(name: &str, reply: &RawReply) {
    let head = reply.head.to_ascii_lowercase();
    let want = match reply.body.first() {
        Some(b'{' | b'[') => head.contains("content-type: application/json\r\n"),
        Some(_) => head.contains("content-type: text/plain\r\n"),
        None => !head.contains("content-type:"),
    };
    assert!(want, "{name}: {head}");
}

/// Whoever may do nothing here learns nothing of what is here: not even whether a message could be read.
#[tokio::test]
async fn without_any_access_there_is_only_istios_403() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("nobody")?;
    let mut tunnel = peer.stream().await?;
    for (name, sent) in [
        (
            "initialize",
            legacy(
                "initialize",
                r#""protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"x","version":"1"}"#,
            ),
        ),
        ("ping", legacy("ping", "")),
        ("a call", Sent::post(call("1", "alpha"))),
        ("a list", legacy("tools/list", "")),
        ("a notification", Sent::post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)),
        ("an unknown method", legacy("x/y", "")),
        ("modern", modern("server/discover", "", "")),
        ("a batch", Sent::post(format!("[{}]", call("1", "alpha")))),
        ("not JSON", Sent::post("{")),
        ("a stream", Sent::bare("GET /mcp").with("Accept: text/event-stream")),
        ("a session's end", Sent::bare("DELETE /mcp").with("Mcp-Session-Id: x")),
        ("somebody's session", Sent::post(call("1", "alpha")).with("Mcp-Session-Id: x")),
    ] {
        let reply = raw(&mut tunnel, &[&sent.bytes(name)]).await.context(name)?;
        assert_eq!((reply.status(), reply.text().as_str()), (403, "RBAC: access denied"), "{name}");
    }
    stage.upstream.saw_nothing();
    Ok(())
}
