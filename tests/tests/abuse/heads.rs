//! H: HTTP/1.1 heads and framing that hide a body, a method or a name.

use crate::stage::{Scene, Stage, call, server};
use crate::table::{Sent, Want, chunk, ran, row, try_all};
use Want::{Ends, Error, Runs, Text};
use anyhow::Result;
use portcullis_tests::http::raw;
use portcullis_tests::upstream::Seen;
use portcullis_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const MEDIA: Want = Error(415, -32600, "null");
const INVALID: Want = Error(400, -32600, "null");
const HEADER: Want = Error(400, -32020, "null");
const METHOD: Want = Error(405, -32600, "null");
const DENIED: Want = Error(200, -32602, "1");
const NO_ACCESS: Want = Text(403, "RBAC: access denied");
const RUNS: Want = Runs("/mcp");

fn alpha() -> Sent {
    Sent::post(call("1", "alpha"))
}

fn beta() -> Sent {
    Sent::post(call("1", "beta"))
}

fn typed(sent: Sent, content_type: &str) -> Sent {
    sent.without("Content-Type").with(&format!("Content-Type: {content_type}"))
}

fn get() -> Sent {
    Sent::bare("GET /mcp").with("Accept: text/event-stream")
}

#[tokio::test]
async fn a_head_cannot_take_a_body_out_of_sight() -> Result<()> {
    let stage = Stage::start().await?;
    let bodiless = || alpha().without("Content-Type");
    let rows = vec![
        row("H-1 case, denied", typed(beta(), "Application/JSON"), DENIED),
        row("H-1 case, allowed", typed(alpha(), "Application/JSON"), RUNS),
        row("H-1 a parameter", typed(beta(), "application/json; profile=x"), DENIED),
        row("H-2 text", typed(alpha(), "text/plain"), MEDIA),
        row("H-2 form", typed(alpha(), "application/x-www-form-urlencoded"), MEDIA),
        row("H-2 multipart", typed(alpha(), "multipart/form-data; boundary=x"), MEDIA),
        row("H-2 a suffix", typed(alpha(), "application/problem+json"), MEDIA),
        row("H-2 anything", typed(alpha(), "*/*"), MEDIA),
        row("H-2 empty", typed(alpha(), ""), MEDIA),
        row("H-2 none", bodiless(), MEDIA),
        row("H-3 two lines", alpha().with("Content-Type: text/plain"), INVALID),
        row("H-3 two lines, the same", alpha().with("Content-Type: application/json"), INVALID),
        row("H-3 a list", typed(alpha(), "application/json, text/plain"), INVALID),
        row("H-4 UTF-16", typed(alpha(), "application/json; charset=utf-16"), MEDIA),
        row("H-4 UTF-7", typed(alpha(), "application/json;charset=\"UTF-7\""), MEDIA),
        row("H-4 two", typed(alpha(), "application/json; charset=utf-8; charset=utf-16"), MEDIA),
        row("H-4 UTF-8", typed(alpha(), "application/json; charset=UTF-8"), RUNS),
        row("H-5 gzip", alpha().with("Content-Encoding: gzip"), MEDIA),
        row("H-5 deflate", alpha().with("Content-Encoding: deflate"), MEDIA),
        row("H-5 br", alpha().with("Content-Encoding: br"), MEDIA),
        row("H-5 unknown", alpha().with("Content-Encoding: x"), MEDIA),
        row(
            "H-5 after identity",
            alpha().with("Content-Encoding: identity").with("Content-Encoding: gzip"),
            MEDIA,
        ),
        row("H-5 identity", alpha().with("Content-Encoding: identity"), RUNS),
        row(
            "H-5 as a transfer coding",
            alpha().halved().without("Transfer-Encoding").with("Transfer-Encoding: gzip, chunked"),
            Ends(400),
        ),
        row("H-13 a GET with a length", get().with("Content-Length: 3").wire("abc"), INVALID),
        row(
            "H-13 a DELETE with a length",
            Sent::bare("DELETE /mcp").with("Mcp-Session-Id: x").with("Content-Length: 3").wire("abc"),
            INVALID,
        ),
        row("H-13 _method", alpha().line("POST /mcp?_method=DELETE"), INVALID),
        row("H-13 _method, encoded", alpha().line("POST /mcp?a=1&%5Fmethod=DELETE"), INVALID),
        row("H-13 another query", alpha().line("POST /mcp?method=DELETE"), RUNS),
        row("H-14 PUT", alpha().line("PUT /mcp"), METHOD),
        row("H-14 PATCH", alpha().line("PATCH /mcp"), METHOD),
        row("H-14 QUERY", alpha().line("QUERY /mcp"), METHOD),
        row("H-14 lower case", alpha().line("post /mcp"), METHOD),
        row("H-14 TRACE", Sent::bare("TRACE /mcp"), METHOD),
        row(
            "H-17 WebSocket",
            get()
                .with("Connection: Upgrade")
                .with("Upgrade: websocket")
                .with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
                .with("Sec-WebSocket-Version: 13"),
            Error(403, -32600, "null"),
        ),
        row(
            "H-17 WebSocket among others",
            get().with("Connection: keep-alive, upgrade").with("Upgrade: h2c, WebSocket"),
            Error(403, -32600, "null"),
        ),
        row("resume without a session", get().with("Last-Event-ID: 3"), INVALID),
        row(
            "too many parameters",
            (0..65).fold(alpha(), |sent, n| sent.with(&format!("Mcp-Param-{n}: x"))),
            Error(431, -32600, "null"),
        ),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await
}

#[tokio::test]
async fn a_request_that_says_its_length_in_two_ways_ends_the_stream() -> Result<()> {
    let stage = Stage::start().await?;
    let inner =
        "POST /mcp HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\nContent-Length: 72\r\n\r\n";
    let hidden = format!("0\r\n\r\n{inner}{}", call("1", "beta"));
    let smuggled = || Sent::post(hidden.clone());
    let length = |length: &str| alpha().without("Content-Length").with(&format!("Content-Length: {length}"));
    let coded =
        |coding: &str| smuggled().without("Content-Length").with(&format!("Transfer-Encoding: {coding}"));
    let rows = vec![
        row("H-6 length and chunks", smuggled().with("Transfer-Encoding: chunked"), Ends(400)),
        row(
            "H-6 chunks and length",
            smuggled().without("Content-Length").with("Transfer-Encoding: chunked").with("Content-Length: 3"),
            Ends(400),
        ),
        row("H-6 both, around an allowed call", alpha().halved().with("Content-Length: 72"), Ends(400)),
        row("H-6 in other case", smuggled().with("tRANSFER-eNCODING: Chunked"), Ends(400)),
        row("H-6 two lengths", alpha().with("Content-Length: 3"), Ends(400)),
        row("H-6 a list of lengths", length("72, 3"), Ends(400)),
        row("H-6 a sign", length("+72"), Ends(400)),
        row("H-6 hexadecimal", length("0x48"), Ends(400)),
        row("H-6 negative", length("-1"), Ends(400)),
        row("H-6 too large to hold", length("99999999999999999999999"), Ends(400)),
        row("H-6 identity", coded("identity"), Ends(400)),
        row("H-6 not chunked at last", coded("chunked, identity"), Ends(400)),
        row("H-6 a coding like it", coded("xchunked"), Ends(400)),
        row("H-6 a space before the colon", smuggled().with("Transfer-Encoding : chunked"), Ends(400)),
        row("H-6 a vertical tab", coded("\u{b}chunked"), Ends(400)),
        row("H-6 chunk size beyond bounds", alpha().chunked("fffffffffffffffff\r\n"), Ends(400)),
        row("H-8 a line break within", alpha().with("X: a\rMcp-Name: beta"), Ends(400)),
        row("H-8 NUL", alpha().with("X: a\0b"), Ends(400)),
        row("H-8 a folded line", alpha().with("X: a\r\n b"), Ends(400)),
        row("H-8 a folded first line", alpha().with(" X: a"), Ends(400)),
        row("H-8 a space in a name", alpha().with("Mcp Name: beta"), Ends(400)),
        row("H-8 no name", alpha().with(": beta"), Ends(400)),
        row("H-8 a control in the target", alpha().line("POST /mcp\u{1}"), Ends(400)),
        row("H-15 a space in the target", alpha().line("POST /mcp x"), Ends(400)),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await
}

#[tokio::test]
async fn chunks_carry_the_body_and_nothing_else() -> Result<()> {
    let stage = Stage::start().await?;
    let body = call("1", "alpha");
    let whole = chunk(body.as_bytes());
    let extended = [b"48;name=beta;\"x\"\r\n", body.as_bytes(), b"\r\n0;last\r\n\r\n"].concat();
    let single: Vec<u8> = body.bytes().flat_map(|byte| chunk(&[byte])).chain(*b"0\r\n\r\n").collect();
    let trailers = |fields: &str| [whole.as_slice(), b"0\r\n", fields.as_bytes(), b"\r\n\r\n"].concat();
    assert_eq!(body.len(), 0x48, "as the chunk says");
    let unnamed = modern("alpha");
    let trailing = [unnamed.chunked_body().as_slice(), b"0\r\nMcp-Name: alpha\r\n\r\n"].concat();
    let rows = vec![
        row("H-7 extensions", alpha().chunked(extended), RUNS),
        row("H-7 byte by byte", alpha().chunked(single), RUNS),
        row("H-7 trailers", alpha().chunked(trailers("Mcp-Name: beta\r\nX-Trailer: 1")), RUNS),
        row("H-7 trailers, modern", unnamed.chunked(trailing), Error(400, -32020, "1")),
        row("H-7 in chunks, denied", beta().halved(), DENIED),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await?;
    let seen = ran(&stage, "H-7 trailers")?;
    assert!(!seen.headers.contains_key("mcp-name") && !seen.headers.contains_key("x-trailer"), "{seen:?}");
    Ok(())
}

/// A modern call without `Mcp-Name`.
fn modern(tool: &str) -> Sent {
    let body = call("1", tool).replace(
        r#""params":{"#,
        r#""params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"},"#,
    );
    Sent::post(body).with("MCP-Protocol-Version: 2026-07-28").with("Mcp-Method: tools/call")
}

#[tokio::test]
async fn routing_headers_say_what_the_body_says() -> Result<()> {
    let stage = Stage::start().await?;
    let lying = |sent: Sent, name: &str| sent.with("Mcp-Method: ping").with(&format!("Mcp-Name: {name}"));
    let rows = vec![
        row("H-9 lies, allowed", lying(alpha(), "beta"), RUNS),
        row("H-9 lies, denied", lying(beta(), "alpha"), DENIED),
        row(
            "H-9 no name",
            Sent::post(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).with("Mcp-Name: beta"),
            RUNS,
        ),
        row("H-11 two names", alpha().with("Mcp-Name: alpha").with("Mcp-Name: beta"), HEADER),
        row("H-11 two names in other case", alpha().with("Mcp-Name: alpha").with("MCP-NAME: alpha"), HEADER),
        row("H-11 two methods", alpha().with("Mcp-Method: ping").with("Mcp-Method: tools/call"), HEADER),
        row(
            "H-11 two versions",
            alpha().with("MCP-Protocol-Version: 2025-06-18").with("MCP-Protocol-Version: 2025-03-26"),
            HEADER,
        ),
        row("H-11 two sessions", alpha().with("Mcp-Session-Id: a").with("Mcp-Session-Id: b"), HEADER),
        row("H-11 two sessions on GET", get().with("Mcp-Session-Id: a").with("Mcp-Session-Id: b"), HEADER),
        row(
            "H-8 aliases",
            [
                "Mcp_Name: beta",
                "mcp_session_id: x",
                "Mcp_Method: ping",
                "content_encoding: gzip",
                "Transfer_Encoding: x",
                "x_forwarded_client_cert: URI=x",
            ]
            .into_iter()
            .fold(alpha(), |sent, line| sent.with(line)),
            RUNS,
        ),
        row(
            "H-13 overrides",
            ["X-HTTP-Method-Override: DELETE", "X-HTTP-Method: PUT", "X-Method-Override: GET"]
                .into_iter()
                .fold(alpha(), |sent, line| sent.with(line)),
            RUNS,
        ),
        row(
            "H-17 h2c",
            alpha()
                .with("Connection: Upgrade, HTTP2-Settings")
                .with("Upgrade: h2c")
                .with("HTTP2-Settings: AAMAAABkAAQAAP__"),
            RUNS,
        ),
        row("H-17 another protocol", alpha().with("Connection: upgrade").with("Upgrade: x"), RUNS),
        row(
            "H-8 dropping what is judged",
            alpha().with("Connection: mcp-session-id"),
            Text(400, "bad request"),
        ),
        row("H-8 dropping the length", alpha().with("Connection: close, content-length"), Ends(400)),
        row(
            "H-19 internal names, denied",
            [
                "x-mcp-toolname: alpha",
                "mcp-init-host: app",
                "router-key: x",
                "x-envoy-original-path: /x",
                "x-forwarded-for: 127.0.0.1",
            ]
            .into_iter()
            .fold(beta(), |sent, line| sent.with(line)),
            DENIED,
        ),
        row("H-19 internal names, allowed", alpha().with("x-mcp-toolname: beta"), RUNS),
        row(
            "H-19 another source",
            beta().with("X-Forwarded-Client-Cert: URI=spiffe://cluster.local/ns/agents/sa/reader"),
            DENIED,
        ),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await?;
    let value = |seen: &Seen, name: &str| {
        seen.headers.get(name).map(|value| value.to_str().unwrap_or_default().to_owned())
    };
    let corrected = ran(&stage, "H-9 lies, allowed")?;
    assert_eq!(value(&corrected, "mcp-method").as_deref(), Some("tools/call"));
    assert_eq!(value(&corrected, "mcp-name").as_deref(), Some("alpha"));
    assert_eq!(value(&ran(&stage, "H-9 no name")?, "mcp-name"), None);
    for name in ["H-8 aliases", "H-13 overrides", "H-17 h2c", "H-17 another protocol"] {
        let left: Vec<_> = ran(&stage, name)?
            .headers
            .keys()
            .map(ToString::to_string)
            .filter(|name| is_stripped(name))
            .collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
    Ok(())
}

fn is_stripped(name: &str) -> bool {
    name.contains('_')
        || name.contains("override")
        || ["upgrade", "http2-settings", "x-http-method"].contains(&name)
}

/// Without `paths` in the policy every path of the port is read as MCP; with them the others are closed.
#[tokio::test]
async fn what_is_read_depends_on_the_port_and_never_on_the_path() -> Result<()> {
    const ANYWHERE: &str = r#"
- from: [{source: {serviceAccounts: [agents/bot]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha]}]
"#;
    let to_mcp = ["/mcp", "/%6dcp", "/./mcp", "/a/../mcp", "/mcp?x=1", "http://app/mcp", "/a/%2e%2e/mcp"];
    let elsewhere = [
        "//mcp",
        "/MCP",
        "/mcp/",
        "/mcp;x",
        "/mcp%2f",
        "/mcp/..;/x",
        "/sse",
        "/messages",
        "/admin",
        "/",
        "/mcp%00x",
        "/%zz",
    ];
    let stage = Stage::start().await?;
    let mut rows = Vec::new();
    for path in to_mcp {
        rows.push(row(&format!("H-15 {path}, allowed"), alpha().line(&format!("POST {path}")), RUNS));
        rows.push(row(&format!("H-15 {path}, denied"), beta().line(&format!("POST {path}")), DENIED));
    }
    for path in elsewhere {
        let want =
            if path.contains("%00") || path.contains("%zz") { Text(400, "bad request") } else { NO_ACCESS };
        rows.push(row(&format!("H-16 {path}"), alpha().line(&format!("POST {path}")), want.clone()));
        rows.push(row(&format!("H-16 GET {path}"), get().line(&format!("GET {path}")), want));
    }
    rows.push(row("H-15 another host", alpha().line("POST http://other/mcp"), Text(400, "bad request")));
    rows.push(row("H-15 user information", alpha().line("POST http://u@app/mcp"), Text(400, "bad request")));
    rows.push(row("two hosts", alpha().with("Host: app"), Text(400, "bad request")));
    rows.push(row("no host", alpha().without("Host"), Text(400, "bad request")));
    rows.push(row("H-16 a GET that opens no stream", Sent::bare("GET /mcp"), NO_ACCESS));
    rows.push(row("H-16 a GET for anything", Sent::bare("GET /mcp").with("Accept: */*"), NO_ACCESS));
    rows.push(row("H-16 a DELETE without a session", Sent::bare("DELETE /mcp"), NO_ACCESS));
    rows.push(row("H-16 OPTIONS", Sent::bare("OPTIONS /mcp"), NO_ACCESS));
    try_all(&stage, &stage.peer("bot")?, rows).await?;

    let stage = Scene::under(ANYWHERE, server).await?.start(&[]).await?;
    let mut rows = Vec::new();
    for path in elsewhere.iter().filter(|path| !path.contains("%00") && !path.contains("%zz")) {
        let as_seen: &'static str = if *path == "/mcp%2f" { "/mcp%2F" } else { path };
        rows.push(row(
            &format!("H-15 {path}, allowed"),
            alpha().line(&format!("POST {path}")),
            Runs(as_seen),
        ));
        rows.push(row(&format!("H-15 {path}, denied"), beta().line(&format!("POST {path}")), DENIED));
        rows.push(row(&format!("H-16 GET {path}"), Sent::bare(&format!("GET {path}")), NO_ACCESS));
    }
    try_all(&stage, &stage.peer("bot")?, rows).await
}

/// These have no body that the other rows could read.
#[tokio::test]
async fn head_and_connect_are_no_methods_of_mcp() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    for (row, request) in [
        ("H-14 HEAD", "HEAD /mcp HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n"),
        ("H-14 CONNECT", "CONNECT app:8080 HTTP/1.1\r\nHost: app:8080\r\nConnection: close\r\n\r\n"),
    ] {
        let mut tunnel = peer.stream().await?;
        tunnel.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        let ended = wait::within("the end of the answer", tunnel.read_to_end(&mut bytes)).await?;
        let answer = String::from_utf8_lossy(&bytes);
        assert!(ended.is_ok() && answer.starts_with("HTTP/1.1 405 "), "{row}: {ended:?} {answer:?}");
    }
    stage.upstream.saw_nothing();
    Ok(())
}

/// A body beyond the bound is refused whether it is announced or not, without reading it all.
#[tokio::test]
async fn a_body_too_large_is_413() -> Result<()> {
    const WANT: &str =
        r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request: body_too_large"}}"#;
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let head = "POST /mcp HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\n";
    let announced = format!("{head}Content-Length: 4194305\r\n\r\n{{");
    let reply = raw(&mut peer.stream().await?, &[announced.as_bytes()]).await?;
    assert_eq!((reply.status(), reply.text().as_str()), (413, WANT));
    let mut tunnel = peer.stream().await?;
    let unannounced = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let mut parts: Vec<Vec<u8>> = vec![unannounced.into_bytes()];
    parts.extend((0..65).map(|_| chunk(&[b' '; 1 << 16])));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    let reply = raw(&mut tunnel, &parts).await?;
    assert_eq!((reply.status(), reply.text().as_str()), (413, WANT));
    stage.upstream.saw_nothing();
    Ok(())
}
