//! H-18: HTTP/2 frames that no library would write, inside a tunnel.

use crate::frames::{Connection, Heard, Request};
use crate::stage::{Peer, Stage, call};
use anyhow::{Context, Result, ensure};
use http::HeaderMap;
use portcullis_tests::http::{Client, empty, full, streamed};

/// Everything that may come of a request that is not run: a reset, the end of the connection, or an answer that is no
/// success.
fn is_refusal(heard: &Heard) -> bool {
    match heard {
        Heard::Reset(_) | Heard::GoAway(_) | Heard::Closed => true,
        Heard::Status(status) => (400..500).contains(status),
    }
}

fn post() -> Request {
    Request::new(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "app"),
        (":path", "/mcp"),
        ("content-type", "application/json"),
    ])
}

#[tokio::test]
async fn frames_that_say_two_things_are_refused() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let body = call("1", "alpha");
    let length = body.len();
    let rows: Vec<(&str, Request)> = vec![
        ("content-length too small", post().header("content-length", "3").body(&body)),
        ("content-length too large", post().header("content-length", &(length + 1).to_string()).body(&body)),
        (
            "two content-lengths",
            post().header("content-length", &length.to_string()).header("content-length", "3").body(&body),
        ),
        ("content-length of no body", post().header("content-length", "5")),
        ("transfer-encoding", post().header("transfer-encoding", "chunked").body(&body)),
        ("connection", post().header("connection", "close").body(&body)),
        ("keep-alive", post().header("keep-alive", "1").body(&body)),
        ("upgrade", post().header("upgrade", "h2c").body(&body)),
        ("proxy-connection", post().header("proxy-connection", "x").body(&body)),
        ("te", post().header("te", "gzip").body(&body)),
        ("an upper-case name", post().header("Mcp-Name", "beta").body(&body)),
        ("a space in a name", post().header("mcp name", "beta").body(&body)),
        ("a line break in a value", post().header("x", "a\r\nmcp-name: beta").body(&body)),
        ("NUL in a value", post().header("x", "a\0b").body(&body)),
        (
            "no path",
            Request::new(&[(":method", "POST"), (":scheme", "http"), (":authority", "app")]).body(&body),
        ),
        ("an empty path", post().path("").body(&body)),
        ("a path without slash", post().path("mcp").body(&body)),
        ("NUL in the path", post().path("/mcp\0").body(&body)),
        ("a space in the path", post().path("/mcp x").body(&body)),
        ("a line break in the path", post().path("/mcp\r\n").body(&body)),
        ("two paths", post().header(":path", "/other").body(&body)),
        (
            "two methods",
            Request::new(&[
                (":method", "POST"),
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "app"),
                (":path", "/mcp"),
            ])
            .body(&body),
        ),
        (
            "a pseudo-header behind the others",
            Request::new(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/mcp"),
                ("x", "y"),
                (":authority", "app"),
            ])
            .body(&body),
        ),
        (
            "an unknown pseudo-header",
            Request::new(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/mcp"),
                (":authority", "app"),
                (":x", "y"),
            ])
            .body(&body),
        ),
        ("another host", post().header("host", "other").body(&body)),
        (
            "no authority",
            Request::new(&[
                (":method", "POST"),
                (":scheme", "http"),
                (":path", "/mcp"),
                ("content-type", "application/json"),
            ])
            .body(&body),
        ),
        (
            "a GET with DATA",
            Request::new(&[
                (":method", "GET"),
                (":scheme", "http"),
                (":authority", "app"),
                (":path", "/mcp"),
                ("accept", "text/event-stream"),
            ])
            .body(&body),
        ),
        ("CONNECT", Request::new(&[(":method", "CONNECT"), (":authority", "app:8080")]).body(&body)),
        (
            "extended CONNECT",
            Request::new(&[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":authority", "app"),
                (":path", "/mcp"),
            ])
            .body(&body),
        ),
    ];
    for (name, request) in rows {
        let mut connection = Connection::open(peer.stream().await?).await?;
        let heard = connection.ask(&request).await.context(name)?;
        ensure!(is_refusal(&heard), "H-18 {name}: {heard:?}");
        good_request(&peer).await.context(name)?;
    }
    let seen = stage.upstream.seen();
    assert!(seen.iter().all(|seen| seen.body == call("7", "alpha")), "{seen:?}");
    assert_eq!(stage.upstream.begun(), seen.len());
    let mut connection = Connection::open(peer.stream().await?).await?;
    let whole = post().header("content-length", &length.to_string()).header("te", "trailers").body(&body);
    assert_eq!(connection.ask(&whole).await?, Heard::Status(200), "the same without a fault");
    Ok(())
}

async fn good_request(peer: &Peer) -> Result<()> {
    let client = Client::http2(peer.stream().await?).await?;
    let request = http::Request::post("http://app/mcp").header("content-type", "application/json");
    let reply = client.send(request.body(full(call("7", "alpha")))?).await?;
    ensure!(reply.status == 200, "the next request: {reply:?}");
    Ok(())
}

/// Header blocks without end, and lists of headers without end, cost the connection.
#[tokio::test]
async fn endless_headers_end_the_connection() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let mut connection = Connection::open(peer.stream().await?).await?;
    let heard = connection.flood_continuations(10_000).await?;
    ensure!(
        matches!(heard, Heard::GoAway(_) | Heard::Closed | Heard::Reset(_) | Heard::Status(431)),
        "{heard:?}"
    );
    let mut connection = Connection::open(peer.stream().await?).await?;
    let large = (0..40).fold(post(), |request, n| request.header(&format!("x-{n}"), &"v".repeat(2000)));
    let heard = connection.ask(&large.body(&call("1", "alpha"))).await?;
    ensure!(is_refusal(&heard), "{heard:?}");
    stage.upstream.saw_nothing();
    good_request(&peer).await
}

/// Trailers come after the decision and must not carry what it would have read.
#[tokio::test]
async fn trailers_on_http2_steer_nothing() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let client = Client::http2(peer.stream().await?).await?;
    let (sender, body) = streamed();
    sender.send(hyper::body::Frame::data(call("1", "alpha").into())).await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("mcp-name", "beta".parse()?);
    trailers.insert("mcp-session-id", "x".parse()?);
    sender.send(hyper::body::Frame::trailers(trailers)).await?;
    drop(sender);
    let request = http::Request::post("http://app/mcp").header("content-type", "application/json");
    assert_eq!(client.send(request.body(body)?).await?.status, 200);
    let seen = stage.upstream.saw(1).await?;
    assert!(
        !seen[0].headers.contains_key("mcp-name") && !seen[0].headers.contains_key("trailer"),
        "{seen:?}"
    );
    Ok(())
}

/// Methods and paths that HTTP/1.1 is tried with too, as HTTP/2 says them.
#[tokio::test]
async fn other_methods_and_paths_are_refused_on_http2_too() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let client = Client::http2(peer.stream().await?).await?;
    for (method, path, status) in [
        ("PUT", "/mcp", 405),
        ("PATCH", "/mcp", 405),
        ("HEAD", "/mcp", 405),
        ("TRACE", "/mcp", 405),
        ("post", "/mcp", 405),
        ("GET", "/mcp", 403),
        ("GET", "/admin", 403),
        ("OPTIONS", "/mcp", 403),
        ("DELETE", "/mcp", 403),
    ] {
        let request =
            http::Request::builder().method(method).uri(format!("http://app{path}")).body(empty())?;
        assert_eq!(client.send(request).await?.status.as_u16(), status, "{method} {path}");
    }
    stage.upstream.saw_nothing();
    Ok(())
}
