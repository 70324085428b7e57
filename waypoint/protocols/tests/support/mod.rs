//! Short hands for the tables.
#![allow(dead_code, missing_docs)]

use agent_protocols::mcp::{Exchange, Head};
use agent_protocols::{FactKey, Facts, Limits, Malformed, Truth};
use http::request::Parts;

pub(crate) fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// Reads the head of a POST with JSON and these further headers.
pub(crate) fn post(headers: &[(&str, &str)]) -> Result<Head, Malformed> {
    let headers = [&[("content-type", "application/json")], headers].concat();
    Head::read(&parts("POST", "/mcp", &headers), &Limits::default())
}

/// Reads a body under a head without MCP headers.
pub(crate) fn read(body: &[u8]) -> Result<Exchange<'_>, Malformed> {
    read_under(&[], body)
}

pub(crate) fn read_under<'b>(headers: &[(&str, &str)], body: &'b [u8]) -> Result<Exchange<'b>, Malformed> {
    Exchange::read(&post(headers)?, body, &Limits::default())
}

pub(crate) fn key(key: &str) -> FactKey {
    FactKey::parse("http.mcp", key).unwrap()
}

pub(crate) fn ask(facts: &dyn Facts, fact: &str, value: &str) -> Truth {
    facts.ask(&key(fact), &mut |text| text == value)
}

/// The values of a fact, as a policy's tests see them.
pub(crate) fn values(facts: &dyn Facts, fact: &str) -> Vec<String> {
    let mut seen = Vec::new();
    facts.ask(&key(fact), &mut |text| {
        seen.push(text.to_owned());
        false
    });
    seen
}

pub(crate) fn call(params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#)
}
