//! Refusals byte by byte, and headers that are corrected.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use agent_protocols::mcp::{self, DenyMode, refuse};
use http::{HeaderMap, HeaderName, HeaderValue};
use support::{read, read_under};

const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;

fn modern<'a>(method: &'a str, name: Option<&'a str>) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
    headers.extend(name.map(|name| ("mcp-name", name)));
    headers
}

#[test]
fn a_refused_request_is_answered_with_exact_bytes() {
    use DenyMode::{Explicit, Hide, ModelVisible, Status};
    let legacy = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":"r\u0031","method":"{method}","params":{{{params}}}}}"#)
    };
    let current = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":9,"method":"{method}","params":{{{MODERN}{params}}}}}"#)
    };
    let error = |id: &str, code: i32, message: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{message}"}}}}"#)
    };
    let old = r#""r\u0031""#;
    let call = r#"{"content":[{"type":"text","text":"Access denied: this tool call is not permitted."}],"isError":true"#;
    for (row, headers, body, mode, status, answer) in [
        (
            "tool",
            vec![],
            legacy("tools/call", r#""name":"a\"b""#),
            Hide,
            200,
            error(old, -32602, r#"Unknown tool: a\"b"#),
        ),
        (
            "prompt",
            vec![],
            legacy("prompts/get", r#""name":"p""#),
            Hide,
            200,
            error(old, -32602, "Unknown prompt: p"),
        ),
        (
            "resource",
            vec![],
            legacy("resources/read", r#""uri":"demo://h/r""#),
            Hide,
            200,
            error(old, -32002, "Resource not found"),
        ),
        ("list", vec![], legacy("tools/list", ""), Hide, 200, error(old, -32601, "Method not found")),
        ("unknown", vec![], legacy("x/y", ""), Hide, 200, error(old, -32601, "Method not found")),
        (
            "task",
            vec![],
            legacy("tasks/get", r#""taskId":"t""#),
            Hide,
            200,
            error(old, -32601, "Method not found"),
        ),
        (
            "unknown, explicit",
            vec![],
            legacy("x/y", ""),
            Explicit,
            200,
            error(old, -32601, "Method not found"),
        ),
        ("unknown, status", vec![], legacy("x/y", ""), Status, 200, error(old, -32601, "Method not found")),
        (
            "tool, explicit",
            vec![],
            legacy("tools/call", r#""name":"a""#),
            Explicit,
            200,
            error(old, -31403, "denied by policy"),
        ),
        (
            "tool, model",
            vec![],
            legacy("tools/call", r#""name":"a""#),
            ModelVisible,
            200,
            format!(r#"{{"jsonrpc":"2.0","id":{old},"result":{call}}}}}"#),
        ),
        (
            "prompt, model",
            vec![],
            legacy("prompts/get", r#""name":"p""#),
            ModelVisible,
            200,
            error(old, -32602, "Unknown prompt: p"),
        ),
        (
            "tool, status",
            vec![],
            legacy("tools/call", r#""name":"a""#),
            Status,
            403,
            "RBAC: access denied".to_owned(),
        ),
        (
            "modern tool",
            modern("tools/call", Some("a")),
            current("tools/call", r#","name":"a""#),
            Hide,
            200,
            error("9", -32602, "Unknown tool: a"),
        ),
        (
            "modern tool, model",
            modern("tools/call", Some("a")),
            current("tools/call", r#","name":"a""#),
            ModelVisible,
            200,
            format!(r#"{{"jsonrpc":"2.0","id":9,"result":{call},"resultType":"complete"}}}}"#),
        ),
        (
            "modern resource",
            modern("resources/read", Some("demo://h/r")),
            current("resources/read", r#","uri":"demo://h/r""#),
            Hide,
            200,
            error("9", -32602, "Resource not found"),
        ),
        (
            "modern unknown",
            modern("x/y", None),
            current("x/y", ""),
            Hide,
            404,
            error("9", -32601, "Method not found"),
        ),
        (
            "taken away, and names nothing",
            modern("resources/subscribe", None),
            current("resources/subscribe", ""),
            Hide,
            404,
            error("9", -32601, "Method not found"),
        ),
        (
            "taken away, but names something that an older server would run",
            modern("resources/subscribe", None),
            current("resources/subscribe", r#","uri":"demo://h/r""#),
            Hide,
            200,
            error("9", -32602, "Resource not found"),
        ),
        (
            "modern subscription",
            modern("subscriptions/listen", None),
            current(
                "subscriptions/listen",
                r#","notifications":{"toolsListChanged":true,"resourceSubscriptions":["demo://h/r"]}"#,
            ),
            Hide,
            200,
            error("9", -32602, "Resource not found"),
        ),
    ] {
        let exchange = read_under(&headers, body.as_bytes()).unwrap();
        let reply = refuse(&exchange, &[true], mode);
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (status, answer.as_bytes()), "{row}");
        let content_type = if status == 403 { "text/plain" } else { "application/json" };
        assert_eq!(reply.content_type, content_type, "{row}");
    }
}

#[test]
fn a_refused_notification_is_accepted_and_goes_nowhere() {
    for mode in [DenyMode::Hide, DenyMode::Explicit, DenyMode::ModelVisible, DenyMode::Status] {
        for body in [
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","method":"x/y"}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#,
            r#"{"jsonrpc":"2.0","method":"resources/read","params":{"uri":"demo://h/r"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        ] {
            let reply = refuse(&read(body.as_bytes()).unwrap(), &[true], mode);
            assert_eq!((reply.status.as_u16(), reply.body.len()), (202, 0), "{body}");
        }
    }
    let hidden =
        read(br#"{"jsonrpc":"2.0","method":"resources/read","params":{"uri":"file:/x"}}"#).unwrap_err();
    assert_eq!((hidden.reply().status.as_u16(), hidden.reply().body.len()), (202, 0));
}

#[test]
fn a_batch_is_answered_as_a_whole() {
    let body = concat!(
        r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"},"#,
        r#"{"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"bad"}},"#,
        r#"{"jsonrpc":"2.0","id":7,"result":{}},"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"x/y"}]"#
    );
    let exchange = read(body.as_bytes()).unwrap();
    let not_run = "not run: another message of the batch was refused";
    let answer = |tool: &str| {
        format!(
            concat!(
                r#"[{{"jsonrpc":"2.0","id":1,"error":{{"code":-32600,"message":"{}"}}}},"#,
                r#"{{"jsonrpc":"2.0","id":"b","error":{}}},"#,
                r#"{{"jsonrpc":"2.0","id":3,"error":{{"code":-32601,"message":"Method not found"}}}}]"#
            ),
            not_run, tool
        )
    };
    let denied = [false, false, true, false, true];
    for (mode, tool) in [
        (DenyMode::Hide, r#"{"code":-32602,"message":"Unknown tool: bad"}"#),
        (DenyMode::Explicit, r#"{"code":-31403,"message":"denied by policy"}"#),
    ] {
        let reply = refuse(&exchange, &denied, mode);
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, answer(tool).as_bytes()));
    }
    assert_eq!(refuse(&exchange, &denied, DenyMode::Status).status.as_u16(), 403);
    let unsaid = refuse(&exchange, &[], DenyMode::Hide);
    assert!(!String::from_utf8_lossy(&unsaid.body).contains(not_run), "what is not said counts as refused");
}

#[test]
fn other_answers_are_worded_exactly() {
    let reply = mcp::session_not_found(Some("3"));
    assert_eq!(reply.status.as_u16(), 404);
    assert_eq!(
        reply.body,
        r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32001,"message":"Session not found"}}"#
    );
    let reply = mcp::session_not_found(None);
    assert_eq!(
        reply.body,
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#
    );
    let reply = mcp::unscreenable(Some("3"));
    assert_eq!(reply.status.as_u16(), 200);
    assert_eq!(reply.body, r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"Internal error"}}"#);
    let reply = mcp::no_access();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (403, &b"RBAC: access denied"[..]));
}

#[test]
fn headers_that_lie_are_corrected_or_removed() {
    let tool = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"get_е"}}"#;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let batch = format!("[{ping}]");
    let response = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    let discover = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{{MODERN}}}}}"#);
    for (row, given, body, left) in [
        (
            "H-9 lies are overwritten",
            &[("mcp-method", "ping"), ("mcp-name", "z")][..],
            Some(tool),
            &[("mcp-method", "tools/call"), ("mcp-name", "=?base64?Z2V0X9C1?=")][..],
        ),
        ("H-9 nothing is added", &[], Some(tool), &[]),
        (
            "H-9 no name in the body",
            &[("mcp-method", "tools/call"), ("mcp-name", "z")],
            Some(ping),
            &[("mcp-method", "ping")],
        ),
        ("H-9 batch", &[("mcp-method", "ping"), ("mcp-name", "z")], Some(&batch), &[]),
        ("H-9 response", &[("mcp-method", "ping")], Some(response), &[]),
        ("H-9 parameters on legacy", &[("mcp-param-region", "eu")], Some(ping), &[]),
        (
            "no body",
            &[("mcp-method", "ping"), ("mcp-param-region", "eu"), ("mcp-session-id", "s")],
            None,
            &[("mcp-session-id", "s")],
        ),
        (
            "H-8 underscores",
            &[("mcp_session_id", "s"), ("Mcp_Name", "z"), ("content_type", "x"), ("my_header", "kept")],
            Some(ping),
            &[("my_header", "kept")],
        ),
        (
            "H-13 overrides",
            &[
                ("x-http-method-override", "DELETE"),
                ("x-method-override", "PUT"),
                ("x-http-method", "PUT"),
                ("x_http_method_override", "PUT"),
            ],
            Some(ping),
            &[],
        ),
        ("H-17 upgrade", &[("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")], Some(ping), &[]),
        (
            "modern agrees and stays",
            &[
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "server/discover"),
                ("mcp-param-region", "eu"),
            ],
            Some(&discover),
            &[
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "server/discover"),
                ("mcp-param-region", "eu"),
            ],
        ),
        (
            "modern, body not read",
            &[
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "x"),
                ("mcp-name", "z"),
                ("mcp-param-a", "b"),
            ],
            None,
            &[
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "x"),
                ("mcp-name", "z"),
                ("mcp-param-a", "b"),
            ],
        ),
        (
            "legacy, body not read",
            &[
                ("mcp-protocol-version", "2025-11-25"),
                ("mcp-method", "x"),
                ("mcp-name", "z"),
                ("mcp-param-a", "b"),
            ],
            None,
            &[("mcp-protocol-version", "2025-11-25")],
        ),
        (
            "modern name without a name",
            &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "server/discover"), ("mcp-name", "z")],
            Some(&discover),
            &[("mcp-protocol-version", "2026-07-28"), ("mcp-method", "server/discover")],
        ),
    ] {
        let exchange = body.map(|body| {
            let mcp: Vec<_> = given.iter().copied().filter(|(name, _)| name.starts_with("mcp-")).collect();
            read_under(&mcp, body.as_bytes()).unwrap()
        });
        let mut headers = map(given);
        mcp::sanitize(&mut headers, exchange.as_ref());
        assert_eq!(headers, map(left), "{row}");
    }
}

#[test]
fn a_name_that_agrees_is_left_as_it_is_written() {
    let body =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{{MODERN},"name":"a"}}}}"#);
    for name in ["a", "=?base64?YQ==?="] {
        let given = modern("tools/call", Some(name));
        let exchange = read_under(&given, body.as_bytes()).unwrap();
        let mut headers = map(&given);
        mcp::sanitize(&mut headers, Some(&exchange));
        assert_eq!(headers, map(&given));
    }
}

fn map(headers: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    headers.iter().map(pair).collect()
}
