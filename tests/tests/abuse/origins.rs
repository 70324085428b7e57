//! Pages in a browser may talk to a server only where their origin is listed: a name that is rebound to an address of the mesh brings
//! nobody in.

use crate::stage::{Scene, call, server};
use crate::table::{Sent, Want, row, try_all};
use anyhow::Result;

const REFUSED: Want = Want::Error(403, -32600, "null");
const RUNS: Want = Want::Runs("/mcp");

#[tokio::test]
async fn a_page_may_ask_only_where_its_origin_is_listed() -> Result<()> {
    let flags = [("--allow-origin", "https://app.example"), ("--allow-origin", "http://localhost:6274")];
    let stage = Scene::new(server).await?.start(&flags).await?;
    let of = |origin: &str| Sent::post(call("1", "alpha")).with(&format!("Origin: {origin}"));
    let bare = |line: &str| Sent::bare(line).with("Origin: https://evil.example");
    let rows = vec![
        row("none", Sent::post(call("1", "alpha")), RUNS),
        row("listed", of("https://app.example"), RUNS),
        row("listed with a port", of("http://localhost:6274"), RUNS),
        row(
            "listed, denied",
            Sent::post(call("1", "beta")).with("Origin: https://app.example"),
            Want::Error(200, -32602, "1"),
        ),
        row("another", of("https://evil.example"), REFUSED),
        row("another port", of("https://app.example:8443"), REFUSED),
        row("its own port, as no browser writes it", of("https://app.example:443"), REFUSED),
        row("another scheme", of("http://app.example"), REFUSED),
        row("in other case", of("https://APP.example"), REFUSED),
        row("behind it", of("https://app.example.evil.example"), REFUSED),
        row("with a path", of("https://app.example/"), REFUSED),
        row("null", of("null"), REFUSED),
        row("empty", of(""), REFUSED),
        row("two in one line", of("https://app.example https://evil.example"), REFUSED),
        row("two lines", of("https://app.example").with("Origin: https://app.example"), REFUSED),
        row("a stream", bare("GET /mcp").with("Accept: text/event-stream"), REFUSED),
        row("a session's end", bare("DELETE /mcp").with("Mcp-Session-Id: x"), REFUSED),
        row("a preflight", bare("OPTIONS /mcp"), REFUSED),
    ];
    try_all(&stage, &stage.peer("bot")?, rows).await
}

#[tokio::test]
async fn without_a_list_no_page_may_ask() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let rows = ["null", "http://localhost", "http://app", "https://app.example"].map(|origin| {
        row(origin, Sent::post(call("1", "alpha")).with(&format!("Origin: {origin}")), REFUSED)
    });
    try_all(&stage, &stage.peer("bot")?, rows.into()).await
}
