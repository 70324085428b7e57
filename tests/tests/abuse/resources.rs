//! R: resource URIs that a server may normalise to another resource.

use crate::stage::Stage;
use crate::table::{Row, Sent, Want, row, try_all};
use anyhow::Result;
use serde_json::json;

const HIDDEN: Want = Want::Error(200, -32002, "1");

/// Spellings of `file:///secret/x` and its like, under the prefix that is allowed where they can be.
const SPELLINGS: [(&str, &str); 35] = [
    ("R-1 scheme", "FILE:///public/x"),
    ("R-1 host", "http://HOST/public/x"),
    ("R-1 default port", "http://host:80/public/x"),
    ("R-2 dot segments", "file:///public/../secret/x"),
    ("R-2 one dot", "file:///public/./x"),
    ("R-2 at the end", "file:///public/.."),
    ("R-2 encoded", "file:///public/%2e%2e/secret/x"),
    ("R-2 encoded in upper case", "file:///public/%2E%2E/secret/x"),
    ("R-2 half encoded", "file:///public/.%2e/secret/x"),
    ("R-3 localhost", "file://localhost/public/x"),
    ("R-3 one slash", "file:/public/x"),
    ("R-3 no slash", "http:host/public/x"),
    ("R-3 backslashes", "file:///public\\..\\secret\\x"),
    ("R-3 one backslash", "file:///public/\\x"),
    ("R-3 tab", "file:///public/\tx"),
    ("R-3 line feed", "file:///public/\nx"),
    ("R-3 carriage return", "file:///public/\rx"),
    ("R-3 NUL", "file:///public/\0x"),
    ("R-3 leading space", " file:///public/x"),
    ("R-3 trailing space", "file:///public/x "),
    ("R-4 four slashes", "file:////secret/x"),
    ("R-4 two slashes within", "file:///public//secret/x"),
    ("R-6 encoded slash", "file:///public/..%2fsecret"),
    ("R-6 encoded slash in upper case", "file:///public/..%2Fsecret"),
    ("R-6 encoded backslash", "file:///public/..%5csecret"),
    ("R-6 encoded backslash in upper case", "file:///public/..%5Csecret"),
    ("R-6 encoded letter", "file:///%70ublic/x"),
    ("R-6 encoded in lower case", "file:///public/caf%c3%a9"),
    ("R-2 behind a question mark", "file:///public/x?/../../secret/x"),
    ("R-5 fragment", "file:///public/x#y"),
    ("R-5 empty query", "file:///public/x?"),
    ("R-5 not a URI", "public/x"),
    ("R-5 not in ASCII", "file:///public/\u{e9}"),
    ("R-5 empty", ""),
    ("canonical, and denied", "file:///secret/x"),
];

#[tokio::test]
async fn resources_are_asked_for_in_one_spelling_only() -> Result<()> {
    let stage = Stage::start().await?;
    let mut rows = Vec::new();
    for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
        rows.extend(SPELLINGS.map(|(name, uri)| read(name, method, uri, HIDDEN)));
        rows.push(read("R-5 canonical", method, "file:///public/x", Want::Runs("/mcp")));
        rows.push(read("R-5 encoded otherwise", method, "file:///public/a%20b", Want::Runs("/mcp")));
    }
    rows.extend(SPELLINGS.map(|(name, uri)| complete(name, uri, HIDDEN)));
    rows.extend(templates());
    try_all(&stage, &stage.peer("bot")?, rows).await
}

fn read(name: &str, method: &str, uri: &str, want: Want) -> Row {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri}});
    row(&format!("{name}: {method}"), Sent::post(body.to_string()), want)
}

fn complete(name: &str, uri: &str, want: Want) -> Row {
    let params = json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "x", "value": ""}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "completion/complete", "params": params});
    row(&format!("{name}: completion/complete"), Sent::post(body.to_string()), want)
}

/// A template may stand for whatever begins as it does.
fn templates() -> [Row; 7] {
    [
        complete("R-5 canonical", "file:///public/x", Want::Runs("/mcp")),
        complete("R-6 template", "file:///public/{name}", Want::Runs("/mcp")),
        complete("R-6 template, denied", "file:///secret/{name}", HIDDEN),
        complete("R-6 template, in part", "file:///pub{name}", HIDDEN),
        complete("R-6 template, all open", "{+uri}", HIDDEN),
        complete("R-6 template with dot segments", "file:///public/../secret/{name}", HIDDEN),
        complete("R-6 template with an encoded slash", "file:///public/{name}%2f..", HIDDEN),
    ]
}
