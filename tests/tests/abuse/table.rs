//! Rows of the catalogue: what is sent, and what must come of it.

use crate::stage::{Peer, Stage, call};
use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt as _};
use portcullis_tests::http::{Client, full, raw};
use portcullis_tests::upstream::Seen;
use portcullis_tests::wait;
use portcullis_tests::ztunnel::TunnelStream;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

/// Which row a request belongs to; the server sees it.
const ROW: &str = "x-row";
/// Rows under way at once.
const AT_ONCE: usize = 16;

/// What must come of a row.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    /// A JSON-RPC error: status, code, and the id as JSON text. The stream takes the next request.
    Error(u16, i32, &'static str),
    /// An answer without JSON-RPC: status and whole body. The stream takes the next request.
    Text(u16, &'static str),
    /// This status, and the stream ends: what follows on it can't be trusted.
    Ends(u16),
    /// The server sees it once, with this path and the body as it was sent.
    Runs(&'static str),
}

/// One HTTP/1.1 request in parts.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// `POST /mcp`
    line: String,
    headers: Vec<String>,
    /// Body as it stands on the wire, after what `headers` say.
    wire: Vec<u8>,
    /// Body as the server is to see it.
    body: Vec<u8>,
}

impl Sent {
    /// A POST of these bytes to `/mcp`, as an MCP client sends it.
    pub(crate) fn post(body: impl Into<Vec<u8>>) -> Self {
        let headers = ["Host: app", "Accept: application/json, text/event-stream"].map(str::to_owned);
        let body = body.into();
        let sent = Self { line: "POST /mcp".into(), headers: headers.into(), wire: body.clone(), body };
        let length = format!("Content-Length: {}", sent.wire.len());
        sent.with(&length).with("Content-Type: application/json")
    }

    /// A request without a body.
    pub(crate) fn bare(line: &str) -> Self {
        Self { line: line.into(), headers: vec!["Host: app".into()], wire: Vec::new(), body: Vec::new() }
    }

    /// Another request line, without the version.
    pub(crate) fn line(mut self, line: &str) -> Self {
        line.clone_into(&mut self.line);
        self
    }

    /// One more header line, as it stands.
    pub(crate) fn with(mut self, header: &str) -> Self {
        self.headers.push(header.to_owned());
        self
    }

    /// Without the header lines of this name.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|line| line.split(':').next() != Some(name));
        self
    }

    /// Other bytes behind the head, which announces them or does not.
    pub(crate) fn wire(mut self, wire: &str) -> Self {
        self.wire = wire.into();
        self
    }

    /// In chunks, written as `wire` with the framing in it.
    pub(crate) fn chunked(self, wire: impl Into<Vec<u8>>) -> Self {
        let sent = self.without("Content-Length").with("Transfer-Encoding: chunked");
        Self { wire: wire.into(), ..sent }
    }

    /// The body as one chunk, without the end.
    pub(crate) fn chunked_body(&self) -> Vec<u8> {
        chunk(&self.body)
    }

    /// In one chunk for each half of the body.
    pub(crate) fn halved(self) -> Self {
        let (one, other) = self.body.split_at(self.body.len() / 2);
        let wire: Vec<u8> =
            [one, other].iter().filter(|part| !part.is_empty()).flat_map(|part| chunk(part)).collect();
        let wire = [wire.as_slice(), b"0\r\n\r\n"].concat();
        self.chunked(wire)
    }

    pub(crate) fn bytes(&self, row: &str) -> Vec<u8> {
        let head = format!("{} HTTP/1.1\r\n{}\r\n{ROW}: {row}\r\n\r\n", self.line, self.headers.join("\r\n"));
        [head.as_bytes(), &self.wire].concat()
    }
}

/// One chunk of a chunked body.
pub(crate) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// A name, a request and what must come of it.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) sent: Sent,
    pub(crate) want: Want,
}

/// Makes a row.
pub(crate) fn row(name: &str, sent: Sent, want: Want) -> Row {
    Row { name: name.to_owned(), sent, want }
}

/// Sends all rows as `peer`, each on a stream of its own with a good request behind it, and then says that the server
/// saw what was to run, and nothing else.
pub(crate) async fn try_all(stage: &Stage, peer: &Peer, rows: Vec<Row>) -> Result<()> {
    let tries =
        rows.iter().map(|row| async move { try_one(peer, row).await.with_context(|| row.name.clone()) });
    let tries: Vec<_> = tries.collect();
    let failures: Vec<_> = stream::iter(tries)
        .buffer_unordered(AT_ONCE)
        .filter_map(|tried| async { tried.err() })
        .collect()
        .await;
    let mut faults: Vec<String> = failures.iter().map(|failure| format!("{failure:#}")).collect();
    faults.extend(told_by_the_server(stage, &rows));
    ensure!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

async fn try_one(peer: &Peer, row: &Row) -> Result<()> {
    let mut tunnel = peer.stream().await?;
    let reply = raw(&mut tunnel, &[&row.sent.bytes(&row.name)]).await?;
    check(reply.status(), &reply.body, &row.want)?;
    if matches!(row.want, Want::Ends(_)) {
        ended(&mut tunnel).await?;
        tunnel = peer.stream().await?;
    }
    let good = raw(&mut tunnel, &[&Sent::post(call("7", "alpha")).bytes(&after(&row.name))]).await?;
    ensure!(good.status() == 200 && good.text().contains(r#""id":7"#), "the next request: {good:?}");
    Ok(())
}

/// The same as HTTP/2 requests beside each other on one connection; only their bodies matter.
pub(crate) async fn try_all_on_http2(stage: &Stage, peer: &Peer, rows: Vec<Row>) -> Result<()> {
    let client = Client::http2(peer.stream().await?).await?;
    let mut faults = Vec::new();
    for row in &rows {
        for (name, body, want) in [
            (row.name.clone(), row.sent.body.clone(), row.want.clone()),
            (after(&row.name), call("7", "alpha").into(), Want::Runs("/mcp")),
        ] {
            let request = http::Request::post("http://app/mcp").header("content-type", "application/json");
            let reply = client.send(request.header(ROW, name.as_str()).body(full(body))?).await?;
            faults.extend(
                check(reply.status.as_u16(), &reply.body, &want)
                    .err()
                    .map(|fault| format!("{name}: {fault:#}")),
            );
        }
    }
    faults.extend(told_by_the_server(stage, &rows));
    ensure!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    Ok(())
}

fn after(row: &str) -> String {
    format!("after {row}")
}

fn check(status: u16, body: &[u8], want: &Want) -> Result<()> {
    let text = String::from_utf8_lossy(body);
    let is = match want {
        Want::Error(wanted, code, id) => {
            let told: Value = serde_json::from_slice(body).with_context(|| format!("{status} {text:?}"))?;
            let id: Value = serde_json::from_str(id)?;
            let error = told["jsonrpc"] == "2.0" && told["error"]["code"] == *code && told["id"] == id;
            status == *wanted && error && told.get("result").is_none()
        }
        Want::Text(wanted, body) => status == *wanted && text == *body,
        Want::Ends(wanted) => status == *wanted,
        Want::Runs(_) => matches!(status, 200 | 202),
    };
    ensure!(is, "wanted {want:?}, got {status} {text:?}");
    Ok(())
}

/// Nothing more comes on the stream.
async fn ended(tunnel: &mut TunnelStream) -> Result<()> {
    let mut rest = Vec::new();
    // A reset is an end as well: the rest of a request that was refused need not be read.
    let _ = wait::within("the end of the stream", tunnel.read_to_end(&mut rest)).await?;
    ensure!(rest.is_empty(), "more came on the stream: {:?}", String::from_utf8_lossy(&rest));
    Ok(())
}

/// What the server saw against what it was to see.
fn told_by_the_server(stage: &Stage, rows: &[Row]) -> Vec<String> {
    let mut seen = stage.upstream.seen();
    let mut faults = Vec::new();
    for row in rows {
        let one = |seen: &Seen, path: &str, body: &[u8]| {
            (seen.uri.path() == path && seen.body == body).then_some(()).ok_or_else(|| format!("{seen:?}"))
        };
        let mut expect = |name: &str, path: &str, body: &[u8]| match take(&mut seen, name).as_slice() {
            [request] => {
                faults.extend(one(request, path, body).err().map(|seen| format!("{name}: changed: {seen}")))
            }
            others => faults.push(format!("{name}: reached the server {} times", others.len())),
        };
        expect(&after(&row.name), "/mcp", call("7", "alpha").as_bytes());
        if let Want::Runs(path) = row.want {
            expect(&row.name, path, &row.sent.body);
        }
    }
    faults.extend(seen.iter().map(|seen| format!("reached the server and should not: {seen:?}")));
    if stage.upstream.begun() != stage.upstream.seen().len() {
        faults.push("a request began to reach the server and broke off".to_owned());
    }
    faults
}

/// Takes out the requests of one row.
fn take(seen: &mut Vec<Seen>, name: &str) -> Vec<Seen> {
    let is = |seen: &Seen| seen.headers.get(ROW).is_some_and(|row| row.as_bytes() == name.as_bytes());
    let (of, rest) = std::mem::take(seen).into_iter().partition(is);
    *seen = rest;
    of
}

/// The one request of a row that ran.
pub(crate) fn ran(stage: &Stage, name: &str) -> Result<Seen> {
    let mut seen = take(&mut stage.upstream.seen(), name);
    ensure!(seen.len() == 1, "{name}: reached the server {} times", seen.len());
    seen.pop().context("one")
}
