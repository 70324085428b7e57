//! J: JSON and JSON-RPC that two readers could take for two things.

use crate::stage::{Stage, call};
use crate::table::{Row, Sent, Want, row, try_all, try_all_on_http2};
use Want::{Error, Runs};
use anyhow::Result;

const PARSE: Want = Error(400, -32700, "null");
/// Malformed as JSON, or a batch: the id can't be known.
const INVALID: Want = Error(400, -32600, "null");
/// One message that was read as far as its id.
const INVALID_1: Want = Error(400, -32600, "1");
const PARAMS_1: Want = Error(400, -32602, "1");
const DENIED: Want = Error(200, -32602, "1");
const UNKNOWN: Want = Error(200, -32601, "1");
const RUNS: Want = Runs("/mcp");

#[tokio::test]
async fn ambiguous_messages_never_reach_the_server() -> Result<()> {
    let stage = Stage::start().await?;
    try_all(&stage, &stage.peer("bot")?, rows("")).await
}

#[tokio::test]
async fn ambiguous_messages_in_chunks_never_reach_the_server() -> Result<()> {
    let stage = Stage::start().await?;
    let halved = |row: Row| Row { sent: row.sent.halved(), ..row };
    try_all(&stage, &stage.peer("bot")?, rows(" (chunked)").into_iter().map(halved).collect()).await
}

#[tokio::test]
async fn ambiguous_messages_on_http2_never_reach_the_server() -> Result<()> {
    let stage = Stage::start().await?;
    try_all_on_http2(&stage, &stage.peer("bot")?, rows(" (HTTP/2)")).await
}

fn rows(how: &str) -> Vec<Row> {
    let rows = [keys(), text(), numbers_and_depth(), envelopes(), names()].concat();
    rows.into_iter().map(|(name, body, want)| row(&format!("{name}{how}"), Sent::post(body), want)).collect()
}

type Body = (&'static str, Vec<u8>, Want);

fn params(params: &str) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#).into()
}

fn argument(value: &str) -> Vec<u8> {
    params(&format!(r#"{{"name":"alpha","arguments":{{"x":{value}}}}}"#))
}

fn keys() -> Vec<Body> {
    vec![
        ("plain", call("1", "alpha").into(), RUNS),
        ("plain, denied", call("1", "beta").into(), DENIED),
        ("J-1 method", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"beta"}}"#.into(), INVALID),
        ("J-1 params", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha"},"params":{"name":"beta"}}"#.into(), INVALID),
        ("J-1 params.name", params(r#"{"name":"alpha","name":"beta"}"#), INVALID),
        ("J-1 params.name, denied first", params(r#"{"name":"beta","name":"alpha"}"#), INVALID),
        ("J-1 twice the same", params(r#"{"name":"alpha","name":"alpha"}"#), INVALID),
        ("J-1 deep in arguments", argument(r#"[{"k":{"a":1,"a":2}}]"#), INVALID),
        ("J-1 id", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"alpha"}}"#.into(), INVALID),
        ("J-2 alone, allowed", br#"{"jsonrpc":"2.0","id":1,"m\u0065thod":"tools\/call","params":{"n\u0061me":"\u0061lpha"}}"#.into(), RUNS),
        ("J-2 alone, denied", br#"{"jsonrpc":"2.0","id":1,"m\u0065thod":"tools\/call","params":{"n\u0061me":"\u0062eta"}}"#.into(), DENIED),
        ("J-2 with its twin", params(r#"{"name":"alpha","n\u0061me":"beta"}"#), INVALID),
        ("J-3 METHOD", br#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call","params":{"name":"beta"}}"#.into(), INVALID_1),
        ("J-3 method and Method", br#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{"name":"beta"}}"#.into(), INVALID_1),
        ("J-3 Params", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha"},"Params":{"name":"beta"}}"#.into(), INVALID_1),
        ("J-3 Name", params(r#"{"name":"alpha","Name":"beta"}"#), INVALID_1),
        ("J-3 Name alone", params(r#"{"Name":"beta"}"#), INVALID_1),
        ("J-3 escaped Name", params(r#"{"name":"alpha","\u004eame":"beta"}"#), INVALID_1),
        ("J-3 Arguments", params(r#"{"name":"alpha","arguments":{},"Arguments":{"x":1}}"#), INVALID_1),
        ("J-3 long s", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"param\u{17f}\":{\"name\":\"beta\"}}".into(), INVALID_1),
        ("J-3 Kelvin sign", params("{\"name\":\"alpha\",\"tas\u{212a}\":{}}"), INVALID_1),
        ("J-3 _META", params(r#"{"name":"alpha","_META":{}}"#), INVALID_1),
        ("J-3 version in _meta", params(r#"{"name":"alpha","_meta":{"io.modelcontextprotocol/ProtocolVersion":"2026-07-28"}}"#), INVALID_1),
        ("J-3 ref", br#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"hello","NAME":"x"},"argument":{"name":"a","value":""}}}"#.into(), INVALID_1),
        ("J-3 arguments are the tool's own", argument(r#"{"name":1,"Name":2}"#), RUNS),
        ("J-4 NUL in a key", params(r#"{"name\u0000":"beta","name":"alpha"}"#), INVALID),
        ("J-4 NUL in a name", params(r#"{"name":"alpha\u0000"}"#), PARAMS_1),
        ("J-4 raw NUL", b"{\"jsonrpc\0\":\"2.0\"}".into(), PARSE),
    ]
}

fn text() -> Vec<Body> {
    let good = call("1", "alpha");
    let (little, big) = (u16::to_le_bytes, u16::to_be_bytes);
    let utf16 =
        |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let utf32 = |text: &str| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>();
    let bytes = |bytes: &[u8]| {
        [br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha"#, bytes, b"\"}}"].concat()
    };
    vec![
        ("J-5 byte order mark", format!("\u{feff}{good}").into(), PARSE),
        ("J-6 trailing garbage", format!("{good}x").into(), PARSE),
        ("J-6 second document", [good.as_str(), &call("2", "beta")].concat().into(), PARSE),
        (
            "J-6 second document in a line of its own",
            [good.as_str(), "\n", &call("2", "beta")].concat().into(),
            PARSE,
        ),
        ("J-6 trailing NUL", format!("{good}\0").into(), PARSE),
        ("J-6 white space is no garbage", format!(" \r\n{good}\n").into(), RUNS),
        ("J-7 invalid UTF-8", bytes(b"\xff"), PARSE),
        ("J-7 overlong", bytes(b"\xc1\xa1"), PARSE),
        ("J-7 surrogate in UTF-8", bytes(b"\xed\xa0\x80"), PARSE),
        ("J-8 lone surrogate", params(r#"{"name":"alpha\ud800"}"#), PARSE),
        ("J-8 lone surrogate in an argument", argument(r#""\udc00""#), PARSE),
        ("J-8 a pair is fine", argument(r#""\ud83d\ude00""#), RUNS),
        ("J-9 UTF-16", utf16(&good, little), PARSE),
        ("J-9 UTF-16, big end first", utf16(&good, big), PARSE),
        ("J-9 UTF-16 with a mark", utf16(&format!("\u{feff}{good}"), little), PARSE),
        ("J-9 UTF-32", utf32(&good), PARSE),
        ("J-10 NaN", argument("NaN"), PARSE),
        ("J-10 Infinity", argument("Infinity"), PARSE),
        ("J-10 -Infinity", argument("-Infinity"), PARSE),
        ("a comment", format!("{good}// x").into(), PARSE),
        ("a trailing comma", params(r#"{"name":"alpha",}"#), PARSE),
        ("single quotes", params("{'name':'alpha'}"), PARSE),
        ("nothing", Vec::new(), PARSE),
    ]
}

fn numbers_and_depth() -> Vec<Body> {
    let nested = |depth: usize| argument(&format!("{}{}", "[".repeat(depth - 3), "]".repeat(depth - 3)));
    vec![
        ("J-11 64 levels", nested(64), RUNS),
        ("J-11 65 levels", nested(65), INVALID),
        ("J-11 100,000 levels", nested(100_000), INVALID),
        ("J-11 100,000 levels, never closed", "[".repeat(100_000).into(), INVALID),
        ("J-11 too many members", argument(&format!("[{}1]", "1,".repeat(100_000))), INVALID),
        ("J-11 a key too long", params(&format!(r#"{{"name":"alpha","{}":1}}"#, "k".repeat(1025))), INVALID),
        (
            "J-19 huge numbers go through as they stand",
            argument("[1e400,-0,1.10,123456789012345678901234567890]"),
            RUNS,
        ),
    ]
}

fn envelopes() -> Vec<Body> {
    let id = |id: &str| Vec::from(call(id, "alpha"));
    let beside = |member: &str| {
        Vec::from(format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"beta"}},{member}}}"#
        ))
    };
    let version = |version: &str| {
        Vec::from(format!(r#"{{{version}"id":1,"method":"tools/call","params":{{"name":"alpha"}}}}"#))
    };
    vec![
        ("J-12 empty batch", b"[]".into(), INVALID),
        ("J-12 nested batch", format!("[[{}]]", call("1", "alpha")).into(), INVALID),
        (
            "J-12 denied in a batch",
            format!("[{}]", call("1", "beta")).into(),
            Want::Text(
                200,
                r#"[{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"Unknown tool: beta"}}]"#,
            ),
        ),
        ("J-12 allowed in a batch", format!("[{}]", call("1", "alpha")).into(), RUNS),
        ("J-13 null", id("null"), INVALID),
        ("J-13 bool", id("true"), INVALID),
        ("J-13 object", id("{}"), INVALID),
        ("J-13 array", id("[1]"), INVALID),
        ("J-13 1.5", id("1.5"), INVALID),
        ("J-13 1.0", id("1.0"), INVALID),
        ("J-13 -0", id("-0"), INVALID),
        ("J-13 beyond 64 bits", id("18446744073709551616"), INVALID),
        ("J-13 a string is fine", id(r#""q\u0031""#), RUNS),
        ("J-13 zero is fine", id("0"), RUNS),
        (
            "J-14 denied without id",
            br#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"beta"}}"#.into(),
            Want::Text(202, ""),
        ),
        (
            "J-14 allowed without id",
            br#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"alpha"}}"#.into(),
            RUNS,
        ),
        ("J-15 result", beside(r#""result":{}"#), INVALID_1),
        ("J-15 null result", beside(r#""result":null"#), INVALID_1),
        ("J-15 error", beside(r#""error":{"code":1,"message":""}"#), INVALID_1),
        ("J-15 result and error", br#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#.into(), INVALID_1),
        ("J-16 missing", version(""), INVALID_1),
        ("J-16 1.0", version(r#""jsonrpc":"1.0","#), INVALID_1),
        ("J-16 a number", version(r#""jsonrpc":2.0,"#), INVALID_1),
        ("J-17 array", params(r#"["beta"]"#), PARAMS_1),
        ("J-17 string", params(r#""beta""#), PARAMS_1),
        ("J-17 null", params("null"), PARAMS_1),
        ("J-20 unknown member", beside(r#""extra":1"#), INVALID_1),
        ("J-20 empty member", beside(r#""":1"#), INVALID_1),
        ("a scalar", b"1".into(), INVALID),
        ("a string", br#""tools/call""#.into(), INVALID),
        ("no method", br#"{"jsonrpc":"2.0","id":1}"#.into(), INVALID_1),
    ]
}

fn names() -> Vec<Body> {
    let method = |method: &str| Vec::from(call("1", "alpha").replace("tools/call", method));
    vec![
        ("J-18 TOOLS/CALL", method("TOOLS/CALL"), UNKNOWN),
        ("J-18 trailing space", method("tools/call "), UNKNOWN),
        ("J-18 leading space", method(" tools/call"), UNKNOWN),
        ("J-18 line feed", method(r"tools/call\n"), UNKNOWN),
        ("J-18 empty", method(""), UNKNOWN),
        ("J-18 of an extension", method("skills/list"), UNKNOWN),
        ("J-18 tasks are not built", method("tasks/list"), UNKNOWN),
        ("J-21 the name that is allowed", call("1", "get_x").into(), RUNS),
        ("J-21 Cyrillic", call("1", "g\u{435}t_x").into(), DENIED),
        ("J-21 composed, allowed", call("1", "\u{e9}").into(), RUNS),
        ("J-21 decomposed", call("1", "e\u{301}").into(), DENIED),
        ("J-21 full width", call("1", "\u{ff41}lpha").into(), DENIED),
        ("J-21 in other case", call("1", "ALPHA").into(), DENIED),
        ("J-21 with a space", call("1", "alpha ").into(), DENIED),
        ("J-21 zero width", call("1", "al\u{200b}pha").into(), DENIED),
        ("no name", params("{}"), PARAMS_1),
        ("a number for a name", params(r#"{"name":1}"#), PARAMS_1),
        ("a name too long", call("1", &"a".repeat(257)).into(), PARAMS_1),
        ("a control character in a name", params(r#"{"name":"alpha\n"}"#), PARAMS_1),
    ]
}
