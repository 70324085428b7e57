//! An MCP client as small as one can be, so that every status and every answer can be seen as it came.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::agent::Connection;
use super::github::PATH;

/// Revision with sessions; answers come as event streams.
const WITH_SESSIONS: &str = "2025-11-25";

/// Revision without; each request says everything about itself, answers are plain JSON.
const WITHOUT_SESSIONS: &str = "2026-07-28";

/// One number a request in this process, so that no two access log lines have the same id.
static REQUESTS: AtomicU64 = AtomicU64::new(1);

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: &'static str,
    params: Value,
}

impl Ask {
    /// `tools/list`.
    pub(super) fn tools() -> Self {
        Self { method: "tools/list", params: json!({}) }
    }

    /// `tools/call`.
    pub(super) fn call(tool: &str, arguments: Value) -> Self {
        Self { method: "tools/call", params: json!({"name": tool, "arguments": arguments}) }
    }

    /// `prompts/get`.
    pub(super) fn prompt(name: &str, arguments: Value) -> Self {
        Self { method: "prompts/get", params: json!({"name": name, "arguments": arguments}) }
    }

    /// `resources/read`.
    pub(super) fn resource(uri: &str) -> Self {
        Self { method: "resources/read", params: json!({"uri": uri}) }
    }

    /// The message in the revision without sessions: it says everything about itself.
    fn alone(&self) -> Value {
        let mut params = self.params.clone();
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": WITHOUT_SESSIONS,
            "io.modelcontextprotocol/clientInfo": {"name": "demo", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        if let Some(params) = params.as_object_mut() {
            params.insert("_meta".to_owned(), meta);
        }
        json!({"jsonrpc": "2.0", "id": 1, "method": self.method, "params": params})
    }

    /// The headers that must agree with it.
    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        headers.insert("mcp-protocol-version", HeaderValue::from_static(WITHOUT_SESSIONS));
        headers.insert("mcp-method", HeaderValue::from_static(self.method));
        if let Some(name) = self.params.get("name").or(self.params.get("uri")).and_then(Value::as_str) {
            headers.insert("mcp-name", name.parse()?);
        }
        Ok(headers)
    }

    /// The same request as a file for `curl -K`.
    pub(super) fn curl(&self) -> Result<String> {
        let mut text = String::new();
        for (name, value) in always().iter().chain(&self.headers()?) {
            text.push_str(&format!("header = \"{name}: {}\"\n", value.to_str()?));
        }
        let body = self.alone().to_string().replace('\\', "\\\\").replace('"', "\\\"");
        text.push_str(&format!("data = \"{body}\"\nwrite-out = \"\\n\"\n"));
        Ok(text)
    }

    /// For people: the method, what it names, and the argument that policies look at.
    pub(super) fn text(&self) -> String {
        let text = |key: &str| self.params.get(key).and_then(Value::as_str);
        let named = text("name").or(text("uri")).unwrap_or_default();
        let verb = match self.method {
            "tools/call" => "call",
            "prompts/get" => "prompt",
            "resources/read" => "read",
            other => other,
        };
        let owner = self.params.pointer("/arguments/owner").and_then(Value::as_str);
        let owner = owner.map(|owner| format!(" owner={owner}")).unwrap_or_default();
        format!("{verb} {named}{owner}").trim_end().to_owned()
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: StatusCode,
    /// The JSON-RPC message, from a body or from the event that carries it; null if there was none.
    pub(super) message: Value,
    /// The body as it came.
    pub(super) text: String,
    /// `x-request-id` of the request.
    pub(super) request_id: String,
    /// `event stream` or `JSON`.
    pub(super) form: &'static str,
    session: Option<String>,
}

impl Answer {
    /// The code of a JSON-RPC error.
    pub(super) fn error(&self) -> Option<i64> {
        self.message.pointer("/error/code").and_then(Value::as_i64)
    }

    /// Whether it carries what was asked for.
    pub(super) fn is_result(&self) -> bool {
        let failed = self.message.pointer("/result/isError") == Some(&Value::Bool(true));
        self.status == StatusCode::OK && self.message.get("result").is_some() && !failed
    }

    /// The names of the tools in a list.
    pub(super) fn tools(&self) -> Vec<String> {
        let tools = self.message.pointer("/result/tools").and_then(Value::as_array);
        let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
        tools.into_iter().flatten().filter_map(name).collect()
    }

    /// The gist, in a few words.
    pub(super) fn gist(&self) -> String {
        if let Some(code) = self.error() {
            let said = self.message.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
            let status = if self.status == StatusCode::OK {
                String::new()
            } else {
                format!("{} ", self.status.as_u16())
            };
            return format!("{status}{code} {}", said.split(':').next().unwrap_or_default());
        }
        let places = ["/result/content/0/text", "/result/messages/0/content/text", "/result/contents/0/text"];
        let text = places.iter().find_map(|place| self.message.pointer(place)).and_then(Value::as_str);
        match text {
            Some(text) => text.to_owned(),
            None => format!("{} {}", self.status.as_u16(), self.text.lines().next().unwrap_or_default()),
        }
    }
}

/// A client on one connection.
pub(super) struct Client {
    connection: Connection,
    host: String,
    /// `None`: the revision without sessions.
    session: Option<String>,
}

impl Client {
    /// A client that has not said anything; until [`Client::initialize`] it speaks the revision without sessions.
    pub(super) fn new(connection: Connection, host: &str) -> Self {
        Self { connection, host: host.to_owned(), session: None }
    }

    /// Opens a session: `initialize`, and the notification that ends the handshake.
    pub(super) async fn initialize(&mut self) -> Result<Answer> {
        let params = json!({
            "protocolVersion": WITH_SESSIONS, "capabilities": {}, "clientInfo": {"name": "demo", "version": "1"},
        });
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = self.post(&message, HeaderMap::new()).await?;
        self.session.clone_from(&answer.session);
        if self.session.is_some() {
            self.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}), HeaderMap::new())
                .await?;
        }
        Ok(answer)
    }

    /// The id of its session.
    pub(super) fn session(&self) -> Option<&str> {
        self.session.as_deref()
    }

    /// Uses a session id, wherever it comes from.
    pub(super) fn with_session(mut self, id: &str) -> Self {
        self.session = Some(id.to_owned());
        self
    }

    /// Sends one request and reads the answer to its end.
    pub(super) async fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        if self.session.is_none() {
            return self.post(&ask.alone(), ask.headers()?).await;
        }
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": ask.method, "params": ask.params});
        self.post(&message, HeaderMap::new()).await
    }

    async fn post(&mut self, message: &Value, mut headers: HeaderMap) -> Result<Answer> {
        let request_id = format!("demo-{}", REQUESTS.fetch_add(1, Ordering::Relaxed));
        headers.insert(header::HOST, self.host.parse()?);
        headers.extend(always());
        headers.insert("x-request-id", request_id.parse()?);
        if let Some(session) = &self.session {
            headers.insert("mcp-session-id", session.parse()?);
            headers.insert("mcp-protocol-version", WITH_SESSIONS.parse()?);
        }
        let mut request = Request::new(Full::new(Bytes::from(serde_json::to_vec(message)?)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = PATH.parse()?;
        *request.headers_mut() = headers;
        let (head, body) = self.connection.send(request).await?.into_parts();
        let text = String::from_utf8(body.to_vec())?;
        let text_of = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let events = text_of("content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        Ok(Answer {
            status: head.status,
            message: if events { last_event(&text) } else { serde_json::from_str(&text).unwrap_or_default() },
            session: text_of("mcp-session-id").map(str::to_owned),
            form: if events { "event stream" } else { "JSON" },
            request_id,
            text,
        })
    }
}

/// What every POST of every revision says.
fn always() -> HeaderMap {
    let accepts = HeaderValue::from_static("application/json, text/event-stream");
    let speaks = HeaderValue::from_static("application/json");
    HeaderMap::from_iter([(header::CONTENT_TYPE, speaks), (header::ACCEPT, accepts)])
}

/// The last event that carries a message. The server of the demo writes one `data` line an event.
fn last_event(text: &str) -> Value {
    let data = text.lines().rev().filter_map(|line| line.strip_prefix("data:"));
    data.filter_map(|data| serde_json::from_str(data).ok()).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_an_event_stream_is_found_behind_a_priming_event() {
        let text = "id: 0\nretry: 3000\ndata:\n\nevent: message\ndata: {\"result\":1}\n\n";
        assert_eq!(last_event(text), json!({"result": 1}));
        assert_eq!(last_event(": keepalive\n\n"), Value::Null);
    }

    #[test]
    fn a_request_is_told_with_the_argument_that_policies_look_at() {
        let ask = Ask::call("create_issue", json!({"owner": "acme", "repo": "web"}));
        assert_eq!(ask.text(), "call create_issue owner=acme");
        assert_eq!(Ask::tools().text(), "tools/list");
        assert_eq!(Ask::resource("docs://a").text(), "read docs://a");
    }
}
