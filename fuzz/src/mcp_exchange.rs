//! The body of an MCP request: what the strict reader accepts, a lenient one reads the same.
//!
//! The first byte of the input chooses the headers, the rest is the body.
#![no_main]

use agent_protocols::Limits;
use agent_protocols::mcp::{Exchange, Head};
use http::Request;
use http::request::Parts;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const REVISIONS: [Option<&str>; 6] = [
    None,
    Some("2025-03-26"),
    Some("2025-06-18"),
    Some("2025-11-25"),
    Some("2026-07-28"),
    Some("2099-01-01"),
];
const METHODS: [Option<&str>; 3] = [None, Some("tools/call"), Some("tools/list")];

fn head(choice: u8) -> Parts {
    let choice = usize::from(choice);
    let mut request = Request::post("/mcp").header("content-type", "application/json");
    if let Some(revision) = REVISIONS[choice % REVISIONS.len()] {
        request = request.header("mcp-protocol-version", revision);
    }
    if let Some(method) = METHODS[choice / REVISIONS.len() % METHODS.len()] {
        request = request.header("mcp-method", method).header("mcp-name", "search");
    }
    request.body(()).expect("headers of this file").into_parts().0
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let Ok(head) = Head::read(&head(*choice), &Limits::default()) else { return };
    let Ok(exchange) = Exchange::read(&head, body, &Limits::default()) else { return };

    let lenient: Value = match serde_json::from_slice(body) {
        Ok(lenient) => lenient,
        // JSON by its grammar (RFC 8259 §6), but beyond what this reader's numbers hold.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) => panic!("strictly read, so it is JSON: {error}"),
    };
    let messages = if exchange.batch {
        lenient.as_array().expect("a batch is an array").as_slice()
    } else {
        std::slice::from_ref(&lenient)
    };
    assert_eq!(messages.len(), exchange.messages.len());
    for (lenient, strict) in messages.iter().zip(&exchange.messages) {
        assert_eq!(lenient.get("method").and_then(Value::as_str), strict.method.as_deref());
        if let Some(name) = strict.name() {
            let params = lenient.get("params").expect("a named message has params").to_string();
            let shown = serde_json::to_string(name).expect("text");
            assert!(params.contains(shown.trim_matches('"')), "{name:?} is not in {params}");
        }
    }
});
