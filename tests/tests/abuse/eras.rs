//! Which revision a request is in, told by head and body together; neither can talk its way into the other era.

use crate::stage::{Stage, call};
use crate::table::{Sent, Want, ran, row, try_all};
use anyhow::Result;

const RUNS: Want = Want::Runs("/mcp");
const MISMATCH: Want = Want::Error(400, -32020, "1");
const NOT_THERE: Want = Want::Error(400, -32602, "1");
const DENIED: Want = Want::Error(200, -32602, "1");
const NEW: &str = "2026-07-28";
const OLD: &str = "2025-11-25";

/// A request that says its version in the body.
fn dated(version: &str, method: &str, rest: &str) -> Sent {
    let meta = format!(r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}"}}"#);
    Sent::post(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{meta}{rest}}}}}"#))
}

fn tool(version: &str, name: &str) -> Sent {
    dated(version, "tools/call", &format!(r#","name":"{name}""#))
}

fn under(sent: Sent, version: &str) -> Sent {
    sent.with(&format!("MCP-Protocol-Version: {version}"))
}

/// With the headers that a modern request carries.
fn routed(sent: Sent, method: &str, name: &str) -> Sent {
    let sent = under(sent, NEW).with(&format!("Mcp-Method: {method}"));
    if name.is_empty() { sent } else { sent.with(&format!("Mcp-Name: {name}")) }
}

#[tokio::test]
async fn head_and_body_tell_the_era_together() -> Result<()> {
    let stage = Stage::start().await?;
    let plain = || Sent::post(call("1", "alpha"));
    let routed_alpha = || tool(NEW, "alpha").with("Mcp-Method: tools/call").with("Mcp-Name: alpha");
    let initialize = |version: &str| {
        Sent::post(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"x","version":"1"}}}}}}"#
        ))
    };
    let rows = vec![
        row("nothing said", plain(), RUNS),
        row("2024-11-05", under(plain(), "2024-11-05"), RUNS),
        row("2025-03-26", under(plain(), "2025-03-26"), RUNS),
        row("2025-06-18", under(plain(), "2025-06-18"), RUNS),
        row("2025-11-25", under(plain(), OLD), RUNS),
        row("an unknown version is the server's matter", under(plain(), "1999-01-01"), RUNS),
        row("no date", under(plain(), "draft"), RUNS),
        row("an unknown version, denied", under(Sent::post(call("1", "beta")), "1999-01-01"), DENIED),
        row("legacy twice", under(tool(OLD, "alpha"), OLD), RUNS),
        row("modern", under(routed_alpha(), NEW), RUNS),
        row(
            "later than known, with its headers",
            under(
                tool("2027-01-01", "alpha").with("Mcp-Method: tools/call").with("Mcp-Name: alpha"),
                "2027-01-01",
            ),
            RUNS,
        ),
        row(
            "later than known, another name",
            under(
                tool("2027-01-01", "alpha").with("Mcp-Method: tools/call").with("Mcp-Name: beta"),
                "2027-01-01",
            ),
            MISMATCH,
        ),
        row("H-12 no header", routed_alpha(), MISMATCH),
        row("H-12 legacy header", under(routed_alpha(), OLD), MISMATCH),
        row("H-12 unknown header", under(routed_alpha(), "draft"), MISMATCH),
        row("H-12 legacy body alone", tool(OLD, "alpha"), MISMATCH),
        row("H-12 legacy body under a modern header", under(tool(OLD, "alpha"), NEW), MISMATCH),
        row("H-12 later than the header", under(tool("2027-01-01", "alpha"), NEW), MISMATCH),
        row("modern header alone", routed(plain(), "tools/call", "alpha"), NOT_THERE),
        row(
            "a version that is no string",
            under(
                Sent::post(
                    r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":20260728}}}"#,
                ),
                NEW,
            ),
            NOT_THERE,
        ),
        row(
            "_meta that is no object",
            under(
                Sent::post(r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":"2026-07-28"}}"#),
                NEW,
            ),
            NOT_THERE,
        ),
        row("initialize only proposes", initialize(NEW), RUNS),
        row("initialize under a legacy header", under(initialize("2025-06-18"), OLD), RUNS),
        row(
            "a response in the modern era",
            under(Sent::post(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), NEW),
            Want::Error(400, -32600, "1"),
        ),
        row("a response before", under(Sent::post(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), OLD), RUNS),
        row(
            "a notification in the modern era",
            under(
                Sent::post(
                    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
                ),
                NEW,
            ),
            RUNS,
        ),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await
}

#[tokio::test]
async fn modern_headers_agree_with_the_body() -> Result<()> {
    let stage = Stage::start().await?;
    let alpha = || tool(NEW, "alpha");
    let cyrillic = || tool(NEW, "g\u{435}t_x");
    let resource = |uri: &str| dated(NEW, "resources/read", &format!(r#","uri":"{uri}""#));
    let public = "file:///public/x";
    let rows = vec![
        row("agree", routed(alpha(), "tools/call", "alpha"), RUNS),
        row("agree, denied", routed(tool(NEW, "beta"), "tools/call", "beta"), DENIED),
        row(
            "H-10 allowed name before a denied one",
            routed(tool(NEW, "beta"), "tools/call", "alpha"),
            MISMATCH,
        ),
        row("H-10 denied name before an allowed one", routed(alpha(), "tools/call", "beta"), MISMATCH),
        row("H-10 another method", routed(alpha(), "tools/list", "alpha"), MISMATCH),
        row("H-10 the method in other case", routed(alpha(), "Tools/Call", "alpha"), MISMATCH),
        row("H-10 the name in other case", routed(alpha(), "tools/call", "Alpha"), MISMATCH),
        row("H-10 no method", under(alpha(), NEW).with("Mcp-Name: alpha"), MISMATCH),
        row("H-10 no name", routed(alpha(), "tools/call", ""), MISMATCH),
        row(
            "H-10 an empty name",
            under(alpha(), NEW).with("Mcp-Method: tools/call").with("Mcp-Name:"),
            MISMATCH,
        ),
        row(
            "H-10 another resource",
            routed(resource("file:///secret/x"), "resources/read", public),
            MISMATCH,
        ),
        row("the resource", routed(resource(public), "resources/read", public), RUNS),
        row(
            "the resource, denied",
            routed(resource("file:///secret/x"), "resources/read", "file:///secret/x"),
            DENIED,
        ),
        row(
            "R-2 in the modern era",
            routed(resource("file:///public/../x"), "resources/read", "file:///public/../x"),
            DENIED,
        ),
        row(
            "a prompt",
            routed(dated(NEW, "prompts/get", r#","name":"hello""#), "prompts/get", "hello"),
            RUNS,
        ),
        row("a list has no name", routed(dated(NEW, "tools/list", ""), "tools/list", ""), RUNS),
        row("base64", routed(alpha(), "tools/call", "=?base64?YWxwaGE=?="), RUNS),
        row("base64 of another name", routed(alpha(), "tools/call", "=?base64?YmV0YQ==?="), MISMATCH),
        row("base64 without padding", routed(alpha(), "tools/call", "=?base64?YWxwaGE?="), MISMATCH),
        row("base64 under another marker", routed(alpha(), "tools/call", "=?BASE64?YWxwaGE=?="), MISMATCH),
        row("base64 that is none", routed(alpha(), "tools/call", "=?base64?!?="), MISMATCH),
        row("base64 of what is no UTF-8", routed(alpha(), "tools/call", "=?base64?/w==?="), MISMATCH),
        row("not in ASCII, encoded", routed(cyrillic(), "tools/call", "=?base64?Z9C1dF94?="), DENIED),
        row(
            "not in ASCII, as it is",
            routed(cyrillic(), "tools/call", "g\u{435}t_x"),
            Want::Error(400, -32020, "null"),
        ),
        row("not in ASCII, allowed", routed(tool(NEW, "\u{e9}"), "tools/call", "=?base64?w6k=?="), RUNS),
        row(
            "H-12 base64 on a legacy request",
            Sent::post(call("1", "alpha")).with("Mcp-Name: =?base64?YmV0YQ==?="),
            RUNS,
        ),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await?;
    let name =
        |row: &str| -> Result<String> { Ok(ran(&stage, row)?.headers["mcp-name"].to_str()?.to_owned()) };
    assert_eq!(name("agree")?, "alpha", "a plain name is never re-encoded");
    assert_eq!(name("base64")?, "=?base64?YWxwaGE=?=", "an encoded name stays as it was");
    assert_eq!(name("H-12 base64 on a legacy request")?, "alpha");
    Ok(())
}
