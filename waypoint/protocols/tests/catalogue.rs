//! The bypass catalogue: what must not be read, row by row.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use agent_protocols::mcp::{DenyMode, Head, HeadKind, refuse};
use agent_protocols::{Kind, Limits, Malformed, Truth};
use support::{ask, call, parts, post, read, read_under};

/// What is expected of a row.
enum Then {
    /// Refused under this name, status and code.
    Refused(&'static str, u16, i32),
    /// Read as a call of this tool.
    Calls(&'static str),
    /// Read, and not known.
    Unknown,
}
use Then::{Calls, Refused, Unknown};

fn parse(name: &'static str) -> Then {
    Refused(name, 400, -32700)
}

fn invalid(name: &'static str) -> Then {
    Refused(name, 400, -32600)
}

fn params(name: &'static str) -> Then {
    Refused(name, 400, -32602)
}

#[track_caller]
fn check(row: &str, body: &[u8], then: &Then) {
    match (read(body), then) {
        (Err(malformed), Refused(name, status, code)) => {
            let told = (malformed.name, malformed.status.as_u16(), malformed.code);
            assert_eq!(told, (*name, *status, *code), "{row}");
            assert_eq!(malformed.reply().status, malformed.status, "{row}");
            assert!(serde_json::from_slice::<serde_json::Value>(&malformed.reply().body).is_ok(), "{row}");
        }
        (Ok(exchange), Calls(tool)) => {
            let [message] = &exchange.messages[..] else { panic!("{row}: one message") };
            assert!(message.is_known(), "{row}");
            assert_eq!(message.method.as_deref(), Some("tools/call"), "{row}");
            assert_eq!(ask(&message.subjects[0], "tool", tool), Truth::Yes, "{row}");
            assert_eq!(message.kind(), Kind::Call, "{row}");
        }
        (Ok(exchange), Unknown) => assert!(!exchange.messages[0].is_known(), "{row}"),
        (read, _) => panic!("{row}: {read:?}"),
    }
}

#[test]
fn ambiguous_json_is_never_read() {
    let with_id =
        |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"a"}}}}"#);
    let utf16 = |text: String| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let utf32 = |text: String| text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect::<Vec<u8>>();
    let nested = |depth: usize| {
        let inner = depth - 3;
        call(&format!(r#"{{"name":"a","arguments":{{"x":{}{}}}}}"#, "[".repeat(inner), "]".repeat(inner)))
    };
    let objects = |depth: usize| {
        let inner = depth - 2;
        call(&format!(r#"{{"name":"a","_x":{}1{}}}"#, "{\"k\":".repeat(inner), "}".repeat(inner)))
    };
    let key = |length: usize| call(&format!(r#"{{"name":"a","arguments":{{"{}":1}}}}"#, "k".repeat(length)));
    let argument = |text: &str| call(&format!(r#"{{"name":"a","arguments":{{"x":{text}}}}}"#));
    // jsonrpc, id, method, params, name, arguments, x: seven members beside the elements.
    let elements = |count: usize| argument(&format!("[{}]", vec!["1"; count].join(",")));
    let sample = call(r#"{"name":"a"}"#);

    for (row, body, then) in [
        ("plain", sample.clone().into_bytes(), Calls("a")),
        ("J-1 duplicate method", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call","params":{"name":"b"}}"#.to_vec(), invalid("duplicate_key")),
        ("J-1 duplicate params", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"params":{"name":"b"}}"#.to_vec(), invalid("duplicate_key")),
        ("J-1 duplicate name", call(r#"{"name":"a","name":"b"}"#).into_bytes(), invalid("duplicate_key")),
        ("J-1 duplicate deep in arguments", argument(r#"[{"y":{"k":1,"k":1}}]"#).into_bytes(), invalid("duplicate_key")),
        ("J-1 duplicate id", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#.to_vec(), invalid("duplicate_key")),
        ("J-2 escaped method", br#"{"jsonrpc":"2.0","id":1,"m\u0065thod":"tools\/call","params":{"n\u0061me":"\u0061"}}"#.to_vec(), Calls("a")),
        ("J-2 escaped twin", call(r#"{"name":"a","n\u0061me":"b"}"#).into_bytes(), invalid("duplicate_key")),
        ("J-2 two escaped twins", call(r#"{"\u006eame":"a","n\u0061me":"b"}"#).into_bytes(), invalid("duplicate_key")),
        ("J-3 METHOD", br#"{"jsonrpc":"2.0","id":1,"METHOD":"tools/call","params":{"name":"a"}}"#.to_vec(), invalid("case_variant_key")),
        ("J-3 method and Method", br#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}"#.to_vec(), invalid("case_variant_key")),
        ("J-3 Params", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","Params":{"name":"a"}}"#.to_vec(), invalid("case_variant_key")),
        ("J-3 Name", call(r#"{"name":"a","Name":"b"}"#).into_bytes(), invalid("case_variant_key")),
        ("J-3 escaped Name", call(r#"{"name":"a","\u004eame":"b"}"#).into_bytes(), invalid("case_variant_key")),
        ("J-3 long s", "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"param\u{17F}\":{\"name\":\"a\"}}".into(), invalid("case_variant_key")),
        ("J-3 Kelvin sign", call("{\"name\":\"a\",\"tas\u{212A}\":{}}").into_bytes(), invalid("case_variant_key")),
        ("J-3 _META", call(r#"{"name":"a","_META":{}}"#).into_bytes(), invalid("case_variant_key")),
        ("J-3 version in _meta", call(r#"{"name":"a","_meta":{"io.modelcontextprotocol/ProtocolVersion":"2026-07-28"}}"#).into_bytes(), invalid("case_variant_key")),
        ("J-3 ref", br#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"a","NAME":"b"}}}"#.to_vec(), invalid("case_variant_key")),
        ("J-4 NUL in a key", call(r#"{"name\u0000":"b","name":"a"}"#).into_bytes(), invalid("nul_in_key")),
        ("J-4 NUL in a deep key", argument(r#"{"\u0000":1}"#).into_bytes(), invalid("nul_in_key")),
        ("J-4 NUL in a name", call(r#"{"name":"a\u0000"}"#).into_bytes(), params("bad_name")),
        ("J-4 raw NUL", b"{\"jsonrpc\0\":1}".to_vec(), parse("not_json")),
        ("J-5 byte order mark", ["\u{FEFF}", &sample].concat().into_bytes(), parse("byte_order_mark")),
        ("J-6 trailing garbage", [&sample, "x"].concat().into_bytes(), parse("trailing_bytes")),
        ("J-6 second document", [sample.as_str(), &sample].concat().into_bytes(), parse("trailing_bytes")),
        ("J-6 trailing NUL", [&sample, "\0"].concat().into_bytes(), parse("trailing_bytes")),
        ("J-6 trailing space is none", [" \r\n\t", &sample, "\n "].concat().into_bytes(), Calls("a")),
        ("J-7 invalid UTF-8", [br#"{"jsonrpc":"2.0","id":"#.as_slice(), b"\"\xff\"}"].concat(), parse("not_utf8")),
        ("J-7 overlong", [br#"{"jsonrpc":"2.0","id":"#.as_slice(), b"\"\xc0\xaf\"}"].concat(), parse("not_utf8")),
        ("J-7 surrogate as UTF-8", [br#"{"jsonrpc":"2.0","id":"#.as_slice(), b"\"\xed\xa0\x80\"}"].concat(), parse("not_utf8")),
        ("J-8 lone high surrogate", call(r#"{"name":"a\ud800"}"#).into_bytes(), parse("lone_surrogate")),
        ("J-8 lone low surrogate", call(r#"{"name":"a\udc00"}"#).into_bytes(), parse("lone_surrogate")),
        ("J-8 high and no low", call(r#"{"name":"a\ud800\u0061"}"#).into_bytes(), parse("lone_surrogate")),
        ("J-8 a pair is none", call(r#"{"name":"\ud83d\ude00"}"#).into_bytes(), Calls("😀")),
        ("J-9 UTF-16", utf16(sample.clone()), parse("not_json")),
        ("J-9 UTF-16 with mark", utf16(format!("\u{FEFF}{sample}")), parse("not_utf8")),
        ("J-9 UTF-32", utf32(sample.clone()), parse("not_json")),
        ("J-10 NaN", argument("NaN").into_bytes(), parse("not_json")),
        ("J-10 Infinity", argument("Infinity").into_bytes(), parse("not_json")),
        ("J-10 -Infinity", argument("-Infinity").into_bytes(), parse("not_json")),
        ("J-11 64 deep", nested(64).into_bytes(), Calls("a")),
        ("J-11 65 deep", nested(65).into_bytes(), invalid("too_deep")),
        ("J-11 64 objects", objects(64).into_bytes(), Calls("a")),
        ("J-11 65 objects", objects(65).into_bytes(), invalid("too_deep")),
        ("J-11 100,000 deep", "[".repeat(100_000).into_bytes(), invalid("too_deep")),
        ("members at the bound", elements(100_000 - 7).into_bytes(), Calls("a")),
        ("members beyond the bound", elements(100_000 - 6).into_bytes(), invalid("too_many_members")),
        ("key at the bound", key(1024).into_bytes(), Calls("a")),
        ("key beyond the bound", key(1025).into_bytes(), invalid("key_too_long")),
        ("J-12 nested batch", br#"[[{"jsonrpc":"2.0","id":1,"method":"ping"}]]"#.to_vec(), invalid("nested_batch")),
        ("J-12 empty batch", b"[]".to_vec(), invalid("empty_batch")),
        ("J-13 id null", with_id("null").into_bytes(), invalid("bad_id")),
        ("J-13 id bool", with_id("true").into_bytes(), invalid("bad_id")),
        ("J-13 id object", with_id("{}").into_bytes(), invalid("bad_id")),
        ("J-13 id array", with_id("[1]").into_bytes(), invalid("bad_id")),
        ("J-13 id 1.5", with_id("1.5").into_bytes(), invalid("bad_id")),
        ("J-13 id 1.0", with_id("1.0").into_bytes(), invalid("bad_id")),
        ("J-13 id 1e3", with_id("1e3").into_bytes(), invalid("bad_id")),
        ("J-13 id -0", with_id("-0").into_bytes(), invalid("bad_id")),
        ("J-13 id beyond 64 bits", with_id("9223372036854775808").into_bytes(), invalid("bad_id")),
        ("J-13 a string is fine", with_id(r#""x""#).into_bytes(), Calls("a")),
        ("J-13 zero is fine", with_id("0").into_bytes(), Calls("a")),
        ("J-14 method without id", br#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a"}}"#.to_vec(), Calls("a")),
        ("J-15 method and result", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"result":{}}"#.to_vec(), invalid("call_and_result")),
        ("J-15 method and error", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"error":{}}"#.to_vec(), invalid("call_and_result")),
        ("J-15 result and error", br#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#.to_vec(), invalid("call_and_result")),
        ("J-15 params and result", br#"{"jsonrpc":"2.0","id":1,"params":{},"result":{}}"#.to_vec(), invalid("call_and_result")),
        ("J-15 null result beside a method", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"result":null}"#.to_vec(), invalid("call_and_result")),
        ("J-16 no version", br#"{"id":1,"method":"ping"}"#.to_vec(), invalid("jsonrpc_version")),
        ("J-16 1.0", br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#.to_vec(), invalid("jsonrpc_version")),
        ("J-16 a number", br#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#.to_vec(), invalid("jsonrpc_version")),
        ("J-17 params array", call(r#"["a"]"#).into_bytes(), params("params_not_an_object")),
        ("J-17 params string", call(r#""a""#).into_bytes(), params("params_not_an_object")),
        ("J-17 params null", call("null").into_bytes(), params("params_not_an_object")),
        ("J-18 upper case", br#"{"jsonrpc":"2.0","id":1,"method":"TOOLS/CALL","params":{"name":"a"}}"#.to_vec(), Unknown),
        ("J-18 trailing space", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call ","params":{"name":"a"}}"#.to_vec(), Unknown),
        ("J-18 empty", br#"{"jsonrpc":"2.0","id":1,"method":""}"#.to_vec(), Unknown),
        ("J-18 extension", br#"{"jsonrpc":"2.0","id":1,"method":"skills/list"}"#.to_vec(), Unknown),
        ("method is no string", br#"{"jsonrpc":"2.0","id":1,"method":7}"#.to_vec(), invalid("bad_method")),
        ("J-19 huge number goes through", argument("1e400").into_bytes(), Calls("a")),
        ("J-19 minus zero goes through", argument("-0").into_bytes(), Calls("a")),
        ("J-20 unknown member", br#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#.to_vec(), invalid("unknown_member")),
        ("J-20 params beside method is fine", sample.clone().into_bytes(), Calls("a")),
        ("no method, no result", br#"{"jsonrpc":"2.0","id":1}"#.to_vec(), invalid("no_method")),
        ("response without id", br#"{"jsonrpc":"2.0","result":{}}"#.to_vec(), invalid("bad_id")),
        ("scalar", b"1".to_vec(), invalid("not_an_object")),
        ("empty body", Vec::new(), parse("not_json")),
        ("no name", call("{}").into_bytes(), params("bad_name")),
        ("name is a number", call(r#"{"name":1}"#).into_bytes(), params("bad_name")),
        ("empty name", call(r#"{"name":""}"#).into_bytes(), params("bad_name")),
        ("name at the bound", call(&format!(r#"{{"name":"{}"}}"#, "a".repeat(256))).into_bytes(), Calls(Box::leak("a".repeat(256).into_boxed_str()))),
        ("name beyond the bound", call(&format!(r#"{{"name":"{}"}}"#, "a".repeat(257))).into_bytes(), params("name_too_long")),
        ("line feed in a name", call(r#"{"name":"a\n"}"#).into_bytes(), params("bad_name")),
        ("C1 control in a name", call("{\"name\":\"a\u{85}\"}").into_bytes(), params("bad_name")),
        ("arguments array", call(r#"{"name":"a","arguments":[]}"#).into_bytes(), params("arguments_not_an_object")),
        ("arguments null", call(r#"{"name":"a","arguments":null}"#).into_bytes(), Calls("a")),
        ("_meta string", call(r#"{"name":"a","_meta":"x"}"#).into_bytes(), params("meta_not_an_object")),
    ] {
        check(row, &body, &then);
    }
}

#[test]
fn syntax_that_only_lenient_readers_take_is_refused() {
    for body in [
        "{",
        "}",
        "[",
        "{]",
        "[}",
        "[1,]",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "[01]",
        "[1.]",
        "[.5]",
        "[+1]",
        "[1e]",
        "[-]",
        "[1 2]",
        "{\"a\" 1}",
        "{\"a\":}",
        "{:1}",
        "{1:1}",
        "[\"\t\"]",
        "[\"\\x\"]",
        "[\"\\u12\"]",
        "[\"",
        "[tru]",
        "[True]",
        "[nul]",
        "// x\n[]",
        "[]/**/",
        "[\u{a0}]",
        "[0x1]",
        "[1_000]",
        "[,1]",
        "{,}",
    ] {
        let name = read(body.as_bytes()).unwrap_err().name;
        assert!(matches!(name, "not_json" | "trailing_bytes"), "{body}: {name}");
    }
}

#[test]
fn a_body_beyond_the_limit_is_413() {
    let limits = Limits { body: 100, ..Limits::default() };
    let body = call(&format!(r#"{{"name":"{}"}}"#, "a".repeat(100)));
    let refused =
        agent_protocols::mcp::Exchange::read(&post(&[]).unwrap(), body.as_bytes(), &limits).unwrap_err();
    assert_eq!((refused.name, refused.status.as_u16()), ("body_too_large", 413));
}

#[test]
fn a_look_alike_is_another_name() {
    let body = call("{\"name\":\"g\u{435}t_x\"}");
    let exchange = read(body.as_bytes()).unwrap();
    assert_eq!(ask(&exchange.messages[0].subjects[0], "tool", "get_x"), Truth::No, "J-21");
    assert_eq!(ask(&exchange.messages[0].subjects[0], "tool", "g\u{435}t_x"), Truth::Yes, "J-21");
}

#[test]
fn a_resource_is_read_under_its_canonical_name_only() {
    for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
        for (row, uri, canonical) in [
            ("plain", "file:///public/x", true),
            ("R-1", "FILE:///public/x", false),
            ("R-2", "file:///public/../secret/x", false),
            ("R-2", "file:///public/%2e%2e/secret/x", false),
            ("R-3", "file:/secret/x", false),
            ("R-4", "file:////secret/x", false),
            ("R-6", "demo://public/..%2fsecret", false),
        ] {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":"x","method":"{method}","params":{{"uri":"{uri}"}}}}"#);
            match read(body.as_bytes()) {
                Ok(exchange) => {
                    assert!(canonical, "{row} {uri}");
                    assert_eq!(ask(&exchange.messages[0].subjects[0], "resource", uri), Truth::Yes);
                }
                Err(refused) => {
                    assert!(!canonical, "{row} {uri}");
                    assert_eq!((refused.name, refused.code), ("uri_not_canonical", -32002));
                    assert_eq!(refused.reply().status.as_u16(), 200);
                    assert_eq!(
                        refused.reply().body,
                        r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32002,"message":"Resource not found"}}"#
                    );
                }
            }
        }
    }
}

#[test]
fn a_hidden_resource_refuses_its_whole_batch() {
    let body = br#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"file:/x"}}]"#;
    let reply = read(body).unwrap_err().reply();
    assert_eq!(
        reply.body,
        concat!(
            r#"[{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"not run: another message of the batch was refused"}},"#,
            r#"{"jsonrpc":"2.0","id":2,"error":{"code":-32002,"message":"Resource not found"}}]"#
        )
    );
}

#[test]
fn a_malformed_message_is_answered_under_its_own_id() {
    for (body, id) in [
        (r#"{"jsonrpc":"2.0","id":"q\u0031","method":"ping","extra":1}"#, r#""q\u0031""#),
        (r#"{"jsonrpc":"2.0","id":42,"method":"tools/call","params":[]}"#, "42"),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "null"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}}"#, "null"),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"initialize"}]"#, "null"),
    ] {
        let reply = read(body.as_bytes()).unwrap_err().reply();
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":"#);
        assert!(reply.body.starts_with(expected.as_bytes()), "{body}: {reply:?}");
    }
}

#[test]
fn batches_are_read_where_they_are_defined_and_nowhere_else() {
    let ping = |id: usize| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    let batch = |messages: &[String]| format!("[{}]", messages.join(","));
    let many = |count: usize| batch(&(0..count).map(ping).collect::<Vec<_>>());
    let version = |version| [("mcp-protocol-version", version)];
    for (row, headers, body, refused) in [
        ("no header", &[][..], many(2), None),
        ("2025-03-26", &version("2025-03-26"), many(2), None),
        ("2024-11-05", &version("2024-11-05"), many(2), Some("batch_not_allowed")),
        ("2025-06-18", &version("2025-06-18"), many(2), Some("batch_not_allowed")),
        ("2025-11-25", &version("2025-11-25"), many(2), Some("batch_not_allowed")),
        ("2026-07-28", &version("2026-07-28"), many(2), Some("batch_not_allowed")),
        ("unknown version", &version("x"), many(2), Some("batch_not_allowed")),
        ("100 members", &[], many(100), None),
        ("101 members", &[], many(101), Some("batch_too_long")),
        ("shared id", &[], batch(&[ping(1), ping(1)]), Some("shared_id")),
        ("id as number and string", &[], batch(&[ping(1), ping(1).replace(":1,", ":\"1\",")]), Some("shared_id")),
        ("escaped shared id", &[], r#"[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","id":"\u0061","method":"ping"}]"#.to_owned(), Some("shared_id")),
        ("initialize", &[], batch(&[ping(1), ping(2).replace("ping", "initialize")]), Some("initialize_in_batch")),
        ("scalar member", &[], "[1]".to_owned(), Some("not_an_object")),
        ("responses", &[], r#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"error":{}}]"#.to_owned(), None),
        ("notifications", &[], r#"[{"jsonrpc":"2.0","method":"notifications/initialized"},{"jsonrpc":"2.0","method":"notifications/initialized"}]"#.to_owned(), None),
        ("modern version in a member", &[], r#"[{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}]"#.to_owned(), Some("version_mismatch")),
    ] {
        let read = read_under(headers, body.as_bytes());
        assert_eq!(read.as_ref().err().map(Malformed::name), refused, "{row}");
        if let Ok(exchange) = read {
            assert!(exchange.batch, "{row}");
        }
    }
}

#[test]
fn heads_that_hide_a_body_are_refused() {
    let json = ("content-type", "application/json");
    for (row, method, uri, headers, refused) in [
        ("one origin", "POST", "/mcp", &[json, ("origin", "http://a")][..], None),
        (
            "two origins",
            "POST",
            "/mcp",
            &[json, ("origin", "http://a"), ("origin", "http://b")],
            Some(("repeated_origin", 403)),
        ),
        ("plain", "POST", "/mcp", &[json], None),
        ("H-1 case", "POST", "/mcp", &[("content-type", "Application/JSON")], None),
        ("H-2 text", "POST", "/mcp", &[("content-type", "text/plain")], Some(("content_type", 415))),
        (
            "H-2 form",
            "POST",
            "/mcp",
            &[("content-type", "application/x-www-form-urlencoded")],
            Some(("content_type", 415)),
        ),
        (
            "H-2 multipart",
            "POST",
            "/mcp",
            &[("content-type", "multipart/form-data; boundary=x")],
            Some(("content_type", 415)),
        ),
        (
            "H-2 json suffix",
            "POST",
            "/mcp",
            &[("content-type", "application/ld+json")],
            Some(("content_type", 415)),
        ),
        ("H-2 none", "POST", "/mcp", &[], Some(("content_type", 415))),
        (
            "H-3 two lines",
            "POST",
            "/mcp",
            &[json, ("content-type", "text/plain")],
            Some(("repeated_content_type", 400)),
        ),
        (
            "H-3 a list",
            "POST",
            "/mcp",
            &[("content-type", "application/json, text/plain")],
            Some(("repeated_content_type", 400)),
        ),
        ("H-4 utf-8", "POST", "/mcp", &[("content-type", "application/json; charset=UTF-8")], None),
        ("H-4 quoted utf-8", "POST", "/mcp", &[("content-type", "application/json;charset=\"utf-8\"")], None),
        (
            "H-4 utf-16",
            "POST",
            "/mcp",
            &[("content-type", "application/json; charset=utf-16")],
            Some(("charset", 415)),
        ),
        (
            "H-4 two charsets",
            "POST",
            "/mcp",
            &[("content-type", "application/json; charset=utf-8; charset=utf-16")],
            Some(("content_type", 415)),
        ),
        ("H-5 gzip", "POST", "/mcp", &[json, ("content-encoding", "gzip")], Some(("content_encoding", 415))),
        (
            "H-5 deflate",
            "POST",
            "/mcp",
            &[json, ("content-encoding", "deflate")],
            Some(("content_encoding", 415)),
        ),
        (
            "H-5 br second",
            "POST",
            "/mcp",
            &[json, ("content-encoding", "identity"), ("content-encoding", "br")],
            Some(("content_encoding", 415)),
        ),
        ("H-5 identity", "POST", "/mcp", &[json, ("content-encoding", "identity")], None),
        (
            "H-6 length and coding",
            "POST",
            "/mcp",
            &[json, ("content-length", "3"), ("transfer-encoding", "chunked")],
            Some(("length_and_transfer_encoding", 400)),
        ),
        (
            "H-6 two lengths",
            "POST",
            "/mcp",
            &[json, ("content-length", "3"), ("content-length", "4")],
            Some(("content_length", 400)),
        ),
        (
            "H-11 two sessions",
            "POST",
            "/mcp",
            &[json, ("mcp-session-id", "a"), ("mcp-session-id", "b")],
            Some(("repeated_header", 400)),
        ),
        (
            "H-11 two versions",
            "POST",
            "/mcp",
            &[json, ("mcp-protocol-version", "2025-06-18"), ("mcp-protocol-version", "2025-06-18")],
            Some(("repeated_header", 400)),
        ),
        (
            "H-11 two names",
            "POST",
            "/mcp",
            &[json, ("mcp-name", "a"), ("mcp-name", "b")],
            Some(("repeated_header", 400)),
        ),
        (
            "H-11 two methods",
            "POST",
            "/mcp",
            &[json, ("mcp-method", "a"), ("mcp-method", "b")],
            Some(("repeated_header", 400)),
        ),
        (
            "H-11 two sessions on GET",
            "GET",
            "/mcp",
            &[("accept", "text/event-stream"), ("mcp-session-id", "a"), ("mcp-session-id", "b")],
            Some(("repeated_header", 400)),
        ),
        ("H-13 GET with length", "GET", "/mcp", &[("content-length", "3")], Some(("body_not_allowed", 400))),
        (
            "H-13 GET with chunks",
            "GET",
            "/mcp",
            &[("transfer-encoding", "chunked")],
            Some(("body_not_allowed", 400)),
        ),
        ("H-13 GET with length 0", "GET", "/mcp", &[("content-length", "0")], None),
        (
            "H-13 DELETE with length",
            "DELETE",
            "/mcp",
            &[("mcp-session-id", "a"), ("content-length", "3")],
            Some(("body_not_allowed", 400)),
        ),
        ("H-13 _method", "POST", "/mcp?a=b&_method=DELETE", &[json], Some(("method_override", 400))),
        ("H-13 encoded _method", "POST", "/mcp?%5Fmethod=DELETE", &[json], Some(("method_override", 400))),
        ("H-14 PUT", "PUT", "/mcp", &[json], Some(("http_method", 405))),
        ("H-14 PATCH", "PATCH", "/mcp", &[json], Some(("http_method", 405))),
        ("H-14 HEAD", "HEAD", "/mcp", &[], Some(("http_method", 405))),
        ("H-14 lower case", "post", "/mcp", &[json], Some(("http_method", 405))),
        ("H-14 CONNECT", "CONNECT", "/mcp", &[], Some(("http_method", 405))),
        ("H-14 TRACE", "TRACE", "/mcp", &[], Some(("http_method", 405))),
        ("H-15 any path is read", "POST", "/%6dcp/..;x", &[json], None),
        (
            "H-15 any path is gated",
            "POST",
            "/other",
            &[("content-type", "text/plain")],
            Some(("content_type", 415)),
        ),
        ("H-17 WebSocket", "GET", "/mcp", &[("upgrade", "websocket")], Some(("upgrade", 403))),
        ("H-17 h2c beside others", "GET", "/mcp", &[("upgrade", "h2c, websocket")], Some(("upgrade", 403))),
        ("H-17 h2c offer", "POST", "/mcp", &[json, ("upgrade", "h2c")], None),
        (
            "session with a space",
            "POST",
            "/mcp",
            &[json, ("mcp-session-id", "a b")],
            Some(("bad_session", 400)),
        ),
        ("empty session", "POST", "/mcp", &[json, ("mcp-session-id", "")], Some(("bad_session", 400))),
        (
            "resume without session",
            "GET",
            "/mcp",
            &[("accept", "text/event-stream"), ("last-event-id", "3")],
            Some(("resume_without_session", 400)),
        ),
    ] {
        let read = Head::read(&parts(method, uri, headers), &Limits::default());
        let told = read.as_ref().err().map(|m| (m.name, m.status.as_u16()));
        assert_eq!(told, refused, "{row}");
    }
    let many: Vec<String> = (0..65).map(|n| format!("mcp-param-{n}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "x")).collect();
    assert!(post(&many[..64]).is_ok());
    assert_eq!(post(&many).unwrap_err().status.as_u16(), 431);
}

#[test]
fn a_repeated_header_is_a_header_mismatch() {
    let refused = post(&[("mcp-name", "a"), ("mcp-name", "b")]).unwrap_err();
    assert_eq!(refused.code, -32020, "H-11");
}

#[test]
fn a_head_is_lifecycle_only_if_it_looks_like_one() {
    let stream = ("accept", "text/event-stream");
    let session = ("mcp-session-id", "s1");
    for (method, headers, kind, facts) in [
        ("GET", &[stream][..], HeadKind::OpenStream, Kind::Lifecycle),
        ("GET", &[session], HeadKind::Plain, Kind::Plain),
        ("GET", &[("accept", "*/*")], HeadKind::Plain, Kind::Plain),
        ("DELETE", &[session], HeadKind::EndSession, Kind::Lifecycle),
        ("DELETE", &[], HeadKind::Plain, Kind::Plain),
        ("OPTIONS", &[], HeadKind::Plain, Kind::Plain),
    ] {
        let head = Head::read(&parts(method, "/mcp", headers), &Limits::default()).unwrap();
        assert_eq!(head.kind(), kind, "{method} {headers:?}");
        assert_eq!(head.facts().kind(), facts, "{method} {headers:?}");
    }
    let head = Head::read(
        &parts("GET", "/mcp", &[stream, session, ("mcp-protocol-version", "2025-06-18")]),
        &Limits::default(),
    )
    .unwrap();
    let facts = head.facts();
    assert_eq!(ask(&*facts, "session", "s1"), Truth::Yes);
    assert_eq!(ask(&*facts, "protocol_version", "2025-06-18"), Truth::Yes);
    assert_eq!(ask(&*facts, "kind", "lifecycle"), Truth::Yes);
    assert_eq!(ask(&*facts, "method", "tools/call"), Truth::No);
    let head = post(&[session]).unwrap();
    assert_eq!(ask(&*head.facts(), "method", "tools/call"), Truth::NotYet);
    assert_eq!(ask(&*head.facts(), "session", "s2"), Truth::No);
}

#[test]
fn modern_headers_and_body_must_agree() {
    let modern = |method: &str, rest: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}{rest}}}}}"#
        )
    };
    let tool = modern("tools/call", r#","name":"a""#);
    let cyrillic = modern("tools/call", ",\"name\":\"get_\u{435}\"");
    let list = modern("tools/list", "");
    let read_resource = modern("resources/read", r#","uri":"demo://a/b""#);
    let legacy = call(r#"{"name":"a"}"#);
    let version = ("mcp-protocol-version", "2026-07-28");
    let method = ("mcp-method", "tools/call");
    let name = ("mcp-name", "a");
    for (row, headers, body, refused) in [
        ("agree", &[version, method, name][..], &tool, None),
        (
            "H-10 other method",
            &[version, ("mcp-method", "tools/list"), name],
            &tool,
            Some(("method_mismatch", -32020)),
        ),
        (
            "H-10 method in other case",
            &[version, ("mcp-method", "Tools/Call"), name],
            &tool,
            Some(("method_mismatch", -32020)),
        ),
        ("H-10 other name", &[version, method, ("mcp-name", "b")], &tool, Some(("name_mismatch", -32020))),
        ("H-10 no method", &[version, name], &tool, Some(("method_header_missing", -32020))),
        ("H-10 no name", &[version, method], &tool, Some(("name_header_missing", -32020))),
        ("encoded name", &[version, method, ("mcp-name", "=?base64?YQ==?=")], &tool, None),
        ("encoded non-ASCII name", &[version, method, ("mcp-name", "=?base64?Z2V0X9C1?=")], &cyrillic, None),
        (
            "unpadded",
            &[version, method, ("mcp-name", "=?base64?YQ?=")],
            &tool,
            Some(("name_mismatch", -32020)),
        ),
        (
            "upper-case marker",
            &[version, method, ("mcp-name", "=?BASE64?YQ==?=")],
            &tool,
            Some(("name_mismatch", -32020)),
        ),
        (
            "resource",
            &[version, ("mcp-method", "resources/read"), ("mcp-name", "demo://a/b")],
            &read_resource,
            None,
        ),
        (
            "other resource",
            &[version, ("mcp-method", "resources/read"), ("mcp-name", "demo://a/c")],
            &read_resource,
            Some(("name_mismatch", -32020)),
        ),
        ("list needs no name", &[version, ("mcp-method", "tools/list")], &list, None),
        ("H-12 no version header", &[method, name], &tool, Some(("version_mismatch", -32020))),
        (
            "H-12 legacy header",
            &[("mcp-protocol-version", "2025-06-18"), method, name],
            &tool,
            Some(("version_mismatch", -32020)),
        ),
        ("no version in the body", &[version, method, name], &legacy, Some(("version_missing", -32602))),
        ("H-9 lies on legacy are no mismatch", &[("mcp-method", "ping"), ("mcp-name", "z")], &legacy, None),
    ] {
        let told = read_under(headers, body.as_bytes()).err().map(|m| (m.name, m.code));
        assert_eq!(told, refused, "{row}");
    }
}

#[test]
fn a_modern_client_may_not_send_responses() {
    let body = br#"{"jsonrpc":"2.0","id":5,"result":{}}"#;
    let refused = read_under(&[("mcp-protocol-version", "2026-07-28")], body).unwrap_err();
    assert_eq!((refused.name, refused.status.as_u16(), refused.code), ("response_not_allowed", 400, -32600));
    let exchange = read(body).unwrap();
    let message = &exchange.messages[0];
    assert_eq!((message.kind(), message.response_id(), message.id()), (Kind::Response, Some("5"), None));
    assert_eq!(refuse(&exchange, &[true], DenyMode::Hide).status.as_u16(), 202);
}
