//! MCP: a server with sessions, a client that calls a tool in one of them, and one that listens.

use super::{Caller, Kept, Way};
use crate::http::{Body, Client, Event, Events, empty, post_json};
use crate::upstream::{self, Seen, accepted, open_events};
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::interval;

/// A tool that the server offers, and that policies of tests keep from everybody.
pub const HIDDEN_TOOL: &str = "open_vault";

const SESSION: &str = "mcp-session-id";
const REVISION: &str = "2025-06-18";

/// A server's sessions. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sessions(Arc<Mutex<BTreeSet<String>>>);

impl Sessions {
    /// All that were opened and not ended, by the server's own ids.
    #[must_use]
    pub fn opened(&self) -> Vec<String> {
        self.ids().iter().cloned().collect()
    }

    fn ids(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers requests for `/mcp`; `None` for others.
    #[must_use]
    pub fn answer(&self, seen: &Seen) -> Option<Response<Body>> {
        if seen.uri.path() != "/mcp" {
            return None;
        }
        let message = seen.json();
        let method = message.get("method").and_then(Value::as_str);
        if method == Some("initialize") {
            return Some(self.open(seen));
        }
        let named = seen.headers.get(SESSION).and_then(|id| id.to_str().ok()).unwrap_or_default();
        if !self.ids().contains(named) {
            return Some(upstream::text(StatusCode::NOT_FOUND, "no such session"));
        }
        Some(match method {
            None if seen.method == Method::DELETE => {
                self.ids().remove(named);
                accepted()
            }
            None if seen.method == Method::GET => notices(),
            Some("tools/call") => {
                let text = message.pointer("/params/arguments/text").cloned().unwrap_or_default();
                upstream::result(seen, &json!({"content": [{"type": "text", "text": text}]}))
            }
            Some("tools/list") => upstream::result(seen, &json!({"tools": tools()})),
            _ => accepted(),
        })
    }

    fn open(&self, seen: &Seen) -> Response<Body> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("servers-own-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let result = json!({
            "protocolVersion": REVISION, "capabilities": {"tools": {}},
            "serverInfo": {"name": "app", "version": "1"},
        });
        let mut response = upstream::result(seen, &result);
        if let Ok(value) = id.parse() {
            response.headers_mut().insert(SESSION, value);
        }
        self.ids().insert(id);
        response
    }
}

fn tools() -> Vec<Value> {
    let named =
        |name: &str| json!({"name": name, "description": "a tool", "inputSchema": {"type": "object"}});
    ["echo", "search", HIDDEN_TOOL].map(named).into()
}

/// Notifications without end.
fn notices() -> Response<Body> {
    let (sender, response) = open_events();
    tokio::spawn(async move {
        let mut pace = interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            let notice = json!({"jsonrpc": "2.0", "method": "notifications/message",
                                "params": {"level": "info", "data": "tick"}});
            if sender.send(Frame::data(Bytes::from(format!("data: {notice}\n\n")))).await.is_err() {
                return;
            }
        }
    });
    response
}

/// Opens a session, and returns its id as the client sees it.
pub async fn initialize(way: &Way) -> Result<String> {
    let mut client = Kept::new(way);
    let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": REVISION, "capabilities": {}, "clientInfo": {"name": "bot", "version": "1"}}});
    let reply = client.exchange(post_json("/mcp", "app", &hello)?).await?;
    let id = reply.headers.get(SESSION).with_context(|| format!("{} {}", reply.status, reply.text()))?;
    let id = id.to_str()?.to_owned();
    let begun = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let reply = client.exchange(in_session(post_json("/mcp", "app", &begun)?, &id)?).await?;
    ensure!(reply.status == 202, "{} {}", reply.status, reply.text());
    Ok(id)
}

/// The same request in a session.
pub fn in_session(mut request: Request<Body>, id: &str) -> Result<Request<Body>> {
    request.headers_mut().insert(SESSION, id.parse()?);
    request.headers_mut().insert("mcp-protocol-version", REVISION.parse()?);
    Ok(request)
}

/// A call of a tool with a text.
#[must_use]
pub fn call(id: u64, tool: &str, text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {"text": text}}})
}

/// Calls a tool again and again in one session.
pub struct Calls {
    client: Kept,
    /// Whether it stays on its connection.
    keeps: bool,
    session: String,
    next: u64,
}

impl Calls {
    /// On one connection as long as the server keeps it.
    #[must_use]
    pub fn new(way: &Way, session: &str) -> Self {
        Self { client: Kept::new(way), keeps: true, session: session.to_owned(), next: 1 }
    }

    /// The same with a connection for each call, so that any waypoint may get it.
    #[must_use]
    pub fn anew(way: &Way, session: &str) -> Self {
        Self { keeps: false, ..Self::new(way, session) }
    }
}

impl Caller for Calls {
    async fn ask(&mut self) -> Result<()> {
        let text = format!("word {}", self.next);
        let call = call(self.next, "echo", &text);
        self.next += 1;
        let reply =
            self.client.exchange(in_session(post_json("/mcp", "app", &call)?, &self.session)?).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        let told: Value = reply.json()?;
        ensure!(told.pointer("/result/content/0/text").is_some_and(|said| *said == *text), "{told}");
        if !self.keeps {
            self.client.leave();
        }
        Ok(())
    }
}

/// Lists the tools again and again in one session; [`HIDDEN_TOOL`] must not be among them, and all others must.
pub struct Lists {
    client: Kept,
    session: String,
    next: u64,
}

impl Lists {
    /// On one connection as long as the server keeps it.
    #[must_use]
    pub fn new(way: &Way, session: &str) -> Self {
        Self { client: Kept::new(way), session: session.to_owned(), next: 1 }
    }
}

impl Caller for Lists {
    async fn ask(&mut self) -> Result<()> {
        let list = json!({"jsonrpc": "2.0", "id": self.next, "method": "tools/list"});
        self.next += 1;
        let request = in_session(post_json("/mcp", "app", &list)?, &self.session)?;
        let reply = self.client.exchange(request).await?;
        ensure!(reply.status == 200, "{} {}", reply.status, reply.text());
        let told = reply.json()?;
        let tools = told.pointer("/result/tools").and_then(Value::as_array);
        let names: Vec<_> = tools.into_iter().flatten().filter_map(|tool| tool.get("name")).collect();
        ensure!(names == ["echo", "search"], "{told}");
        Ok(())
    }
}

/// Listens to the server in one session. A stream that is cut is opened again, as clients do; the session must be there.
pub struct Listens {
    way: Way,
    session: String,
    open: Option<(Client, Events)>,
}

impl Listens {
    /// Not listening yet.
    #[must_use]
    pub fn new(way: &Way, session: &str) -> Self {
        Self { way: way.clone(), session: session.to_owned(), open: None }
    }

    async fn listen(&self) -> Result<(Client, Events)> {
        let client = Client::http1(self.way.open().await?).await?;
        let request = Request::get("/mcp").header("host", "app").header("accept", "text/event-stream");
        let response = client.open(in_session(request.body(empty())?, &self.session)?).await?;
        ensure!(response.status() == 200, "{}", response.status());
        Ok((client, Events::of(response)))
    }
}

/// The next event that is not the waypoint's own: a policy that changes is told on the stream.
async fn next_of_the_server(events: &mut Events) -> Result<Option<Event>> {
    loop {
        match events.next().await? {
            Some(event) if event.data.contains("/list_changed\"") => {}
            other => return Ok(other),
        }
    }
}

impl Caller for Listens {
    async fn ask(&mut self) -> Result<()> {
        // Once cut, once opened: more than two are a server that does not let us listen.
        for _ in 0..2 {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.listen().await?,
            };
            if let Ok(Some(event)) = next_of_the_server(&mut open.1).await {
                ensure!(event.data.contains("tick"), "{event:?}");
                self.open = Some(open);
                return Ok(());
            }
        }
        bail!("a stream that was just opened brought nothing")
    }
}
