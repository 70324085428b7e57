//! Batches (2025-03-26) go as a whole or not at all.

use crate::stage::{Stage, call};
use crate::table::{Row, Sent, Want, row, try_all};
use anyhow::Result;

const RUNS: Want = Want::Runs("/mcp");
const INVALID: Want = Want::Error(400, -32600, "null");

fn ping(id: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#)
}

fn batch(messages: &[String]) -> Sent {
    Sent::post(format!("[{}]", messages.join(",")))
}

fn many(count: usize) -> Sent {
    batch(&(0..count).map(|id| ping(&id.to_string())).collect::<Vec<_>>())
}

const NOT_RUN: &str =
    r#""error":{"code":-32600,"message":"not run: another message of the batch was refused"}}"#;

#[tokio::test]
async fn a_batch_with_one_refused_message_is_not_run_at_all() -> Result<()> {
    let stage = Stage::start().await?;
    let unnumbered = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned();
    let denied_unnumbered = r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"beta"}}"#.to_owned();
    let secret = r#"{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"file:///secret/x"}}"#
        .to_owned();
    let odd =
        r#"{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{"uri":"file:///public/../secret/x"}}"#
            .to_owned();
    let unknown = r#"{"jsonrpc":"2.0","id":3,"method":"x/y"}"#.to_owned();
    let not_run = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},{NOT_RUN}"#);
    let refused = |id: &str, code: i32, text: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{text}"}}}}"#)
    };
    let beta = |id: &str| refused(id, -32602, "Unknown tool: beta");
    let rows = vec![
        answered(
            "one of three",
            batch(&[ping("1"), call("2", "beta"), call("\"c\"", "alpha")]),
            &[not_run("1"), beta("2"), not_run("\"c\"")],
        ),
        answered("the first", batch(&[call("1", "beta"), call("2", "alpha")]), &[beta("1"), not_run("2")]),
        answered("all", batch(&[call("1", "beta"), call("\"1x\"", "beta")]), &[beta("1"), beta("\"1x\"")]),
        answered("beside a notification", batch(&[unnumbered.clone(), call("2", "beta")]), &[beta("2")]),
        answered("a notification", batch(&[call("2", "alpha"), denied_unnumbered.clone()]), &[not_run("2")]),
        answered(
            "a resource",
            batch(&[ping("1"), secret]),
            &[not_run("1"), refused("3", -32002, "Resource not found")],
        ),
        answered(
            "a resource spelled otherwise",
            batch(&[ping("1"), odd]),
            &[not_run("1"), refused("3", -32002, "Resource not found")],
        ),
        answered(
            "an unknown method",
            batch(&[ping("1"), unknown]),
            &[not_run("1"), refused("3", -32601, "Method not found")],
        ),
        row("only notifications", batch(&[unnumbered.clone(), denied_unnumbered]), Want::Text(202, "")),
        row("allowed", batch(&[ping("1"), call("2", "alpha"), unnumbered.clone()]), RUNS),
        row("allowed, with the header", batch(&[ping("1")]).with("MCP-Protocol-Version: 2025-03-26"), RUNS),
        row("only notifications, allowed", batch(&[unnumbered.clone(), unnumbered]), RUNS),
        row(
            "responses",
            Sent::post(
                r#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"error":{"code":1,"message":""}}]"#,
            ),
            RUNS,
        ),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await
}

/// A row whose answer is this array.
fn answered(name: &str, sent: Sent, answers: &[String]) -> Row {
    let body = format!("[{}]", answers.join(","));
    // Rows live as long as the test; a table of constants could not hold what is built here.
    row(name, sent, Want::Text(200, Box::leak(body.into_boxed_str())))
}

#[tokio::test]
async fn what_is_no_batch_of_2025_03_26_is_refused() -> Result<()> {
    let stage = Stage::start().await?;
    let version =
        |version: &str| batch(&[ping("1"), ping("2")]).with(&format!("MCP-Protocol-Version: {version}"));
    let of = |messages: &str| Sent::post(messages.to_owned());
    let initialize = ping("2").replace("ping", "initialize");
    let modern = r#"[{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}]"#;
    let rows = vec![
        row("2024-11-05", version("2024-11-05"), INVALID),
        row("2025-06-18", version("2025-06-18"), INVALID),
        row("2025-11-25", version("2025-11-25"), INVALID),
        row("2026-07-28", version("2026-07-28"), INVALID),
        row("unknown", version("2025-03-27"), INVALID),
        row("empty", of("[]"), INVALID),
        row("nested", of(&format!("[[{}]]", ping("1"))), INVALID),
        row("nested beside a message", of(&format!("[{},[{}]]", ping("1"), call("2", "beta"))), INVALID),
        row("a scalar", of("[1]"), INVALID),
        row("null", of(&format!("[{},null]", ping("1"))), INVALID),
        row("100 members", many(100), RUNS),
        row("101 members", many(101), INVALID),
        row("one id twice", batch(&[ping("1"), call("1", "alpha")]), INVALID),
        row("one id as number and string", batch(&[ping("1"), ping("\"1\"")]), INVALID),
        row("one id in two spellings", batch(&[ping("\"a\""), ping(r#""\u0061""#)]), INVALID),
        row("initialize", batch(&[ping("1"), initialize]), INVALID),
        row("a modern member", of(modern), Want::Error(400, -32020, "null")),
        row(
            "a member with a key twice",
            of(r#"[{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}]"#),
            INVALID,
        ),
        row(
            "a member that is call and result",
            of(r#"[{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}]"#),
            INVALID,
        ),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await
}
