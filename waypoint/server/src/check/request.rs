//! The request that the flags of `check` describe, byte for byte as a client would send it.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, header};
use serde_json::Value;
use serde_json::value::RawValue;
use waypoint_model::Service;

use crate::cli::CheckArgs;

/// Declared where no header says another.
const REVISION: &str = "2025-06-18";

/// Why the flags make no request.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// Not an HTTP method.
    #[error("--method {0}: no HTTP method")]
    Method(String),
    /// Not a path.
    #[error("--path {0}: a path starts with / and holds no space")]
    Path(String),
    /// Not `name: value`.
    #[error("--header {0}: write `name: value`")]
    Header(String),
    /// Not a JSON object.
    #[error("--args {args}: a JSON object is needed, as in '{{\"owner\": \"acme\"}}' ({reason})")]
    Arguments {
        /// As given.
        args: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Neither a JSON object nor a file with one.
    #[error(
        "--claims {claims}: a JSON object is needed, as in '{{\"iss\": \"a\", \"sub\": \"b\"}}', or a file with one ({reason})"
    )]
    Claims {
        /// As given.
        claims: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Arguments of nothing.
    #[error("--args without --tool or --prompt: arguments of what?")]
    ArgumentsOfNothing,
    /// A method that needs something named.
    #[error("--mcp-method {method} needs --{flag}")]
    NothingNamed {
        /// The method.
        method: String,
        /// The flag that is missing.
        flag: &'static str,
    },
    /// An MCP message in something else than a POST.
    #[error("--method {0}: an MCP message is always a POST")]
    NotPost(String),
}

/// A request, and whether one was described at all.
#[derive(Debug)]
pub(super) struct Composed {
    pub(super) parts: Parts,
    pub(super) body: Bytes,
    /// JSON-RPC method, if the body is an MCP message.
    pub(super) mcp_method: Option<String>,
    /// What it names.
    pub(super) mcp_name: Option<String>,
    /// Claims of its token.
    pub(super) claims: Option<Value>,
    /// Some flag describes HTTP; else the question may be about an opaque stream.
    pub(super) is_http_meant: bool,
}

/// Composes the request to a service. `None` never happens for an HTTP port: without flags it is `GET /`.
pub(super) fn compose(args: &CheckArgs, service: &Service) -> Result<Option<Composed>, BadRequest> {
    let message = message(args)?;
    let claims = args.claims.as_deref().map(claims).transpose()?;
    let described =
        args.method.is_some() || args.path.is_some() || !args.headers.is_empty() || claims.is_some();
    let is_mcp = message.is_some();
    let method = match (&args.method, is_mcp) {
        (None, true) => Method::POST,
        (None, false) => Method::GET,
        (Some(method), _) => method.parse().map_err(|_| BadRequest::Method(method.clone()))?,
    };
    if is_mcp && method != Method::POST {
        return Err(BadRequest::NotPost(method.to_string()));
    }
    let is_mcp_message = is_mcp && args.a2a_method.is_none();
    let path = args.path.as_deref().unwrap_or(if is_mcp_message { "/mcp" } else { "/" });
    let bad_path = || BadRequest::Path(path.to_owned());
    if !path.starts_with('/') {
        return Err(bad_path());
    }
    let built = Request::builder().method(method).uri(path).body(()).map_err(|_| bad_path())?;
    let (mut parts, ()) = built.into_parts();
    headers(&mut parts, args, service, is_mcp)?;
    let (body, mcp_method, mcp_name) = match message {
        Some(Message { body, method, name }) => (body, Some(method), name),
        None => (Bytes::new(), None, None),
    };
    Ok(Some(Composed { parts, body, mcp_method, mcp_name, claims, is_http_meant: described || is_mcp }))
}

fn headers(parts: &mut Parts, args: &CheckArgs, service: &Service, is_mcp: bool) -> Result<(), BadRequest> {
    let defaults = [
        (header::CONTENT_TYPE, "application/json"),
        (header::ACCEPT, "application/json, text/event-stream"),
        (HeaderName::from_static("mcp-protocol-version"), REVISION),
    ];
    for line in &args.headers {
        let bad = || BadRequest::Header(line.clone());
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let name: HeaderName = name.trim().parse().map_err(|_| bad())?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| bad())?;
        parts.headers.append(name, value);
    }
    for (name, value) in defaults.into_iter().filter(|_| is_mcp) {
        parts.headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    let host = HeaderValue::try_from(service.key.hostname.as_ref())
        .map_err(|_| BadRequest::Header(format!("host: {}", service.key.hostname)))?;
    parts.headers.entry(header::HOST).or_insert(host);
    Ok(())
}

struct Message {
    body: Bytes,
    method: String,
    name: Option<String>,
}

/// An A2A request over JSON-RPC, in the words of 1.0. What it lacks of a real one decides nothing.
fn agent_request(method: &str, args: &CheckArgs) -> Result<Message, BadRequest> {
    let metadata = args.a2a_metadata.as_deref().unwrap_or("{}");
    let bad = |reason: String| BadRequest::Arguments { args: metadata.to_owned(), reason };
    let metadata: &RawValue = serde_json::from_str(metadata).map_err(|error| bad(error.to_string()))?;
    let task = args.a2a_task.as_deref();
    let params = if method.starts_with("Send") || method.starts_with("message/") {
        let task = task.map(|task| format!(r#","taskId":{}"#, quote(task))).unwrap_or_default();
        format!(
            r#"{{"message":{{"messageId":"1","role":"ROLE_USER","parts":[]{task}}},"metadata":{metadata}}}"#
        )
    } else {
        let member = if method.contains("PushNotificationConfig") { "taskId" } else { "id" };
        let task = task.map(|task| format!(r#""{member}":{},"#, quote(task))).unwrap_or_default();
        format!(r#"{{{task}"metadata":{metadata}}}"#)
    };
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":{},"params":{params}}}"#, quote(method));
    Ok(Message { body: body.into(), method: method.to_owned(), name: args.a2a_task.clone() })
}

/// The JSON-RPC message, if the flags describe one.
fn message(args: &CheckArgs) -> Result<Option<Message>, BadRequest> {
    if let Some(method) = &args.a2a_method {
        return agent_request(method, args).map(Some);
    }
    let named = args.tool.as_ref().or(args.prompt.as_ref()).or(args.resource.as_ref());
    let usual = match (&args.tool, &args.prompt, &args.resource) {
        (Some(_), ..) => Some("tools/call"),
        (_, Some(_), _) => Some("prompts/get"),
        (.., Some(_)) => Some("resources/read"),
        (None, None, None) => None,
    };
    let Some(method) = args.mcp_method.as_deref().or(usual) else {
        return if args.args.is_some() { Err(BadRequest::ArgumentsOfNothing) } else { Ok(None) };
    };
    let needed = match method {
        "tools/call" if args.tool.is_none() => Some("tool"),
        "prompts/get" if args.prompt.is_none() => Some("prompt"),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" if args.resource.is_none() => {
            Some("resource")
        }
        "completion/complete" if args.prompt.is_none() && args.resource.is_none() => Some("prompt"),
        _ => None,
    };
    if let Some(flag) = needed {
        return Err(BadRequest::NothingNamed { method: method.to_owned(), flag });
    }
    let params = params(args, method)?;
    let id = if method.starts_with("notifications/") { "" } else { r#""id":1,"# };
    let body = format!(r#"{{"jsonrpc":"2.0",{id}"method":{},"params":{params}}}"#, quote(method));
    Ok(Some(Message { body: body.into(), method: method.to_owned(), name: named.cloned() }))
}

/// The arguments go in as they were written, so that what the reader refuses (a key twice, …) is refused here too.
fn params(args: &CheckArgs, method: &str) -> Result<String, BadRequest> {
    let arguments = arguments(args)?;
    let subject = match (&args.tool, &args.prompt, &args.resource) {
        (Some(name), ..) | (_, Some(name), _) if method != "completion/complete" => {
            return Ok(format!(r#"{{"name":{},"arguments":{arguments}}}"#, quote(name)));
        }
        (_, Some(prompt), _) => format!(r#"{{"type":"ref/prompt","name":{}}}"#, quote(prompt)),
        (.., Some(uri)) if method == "completion/complete" => {
            format!(r#"{{"type":"ref/resource","uri":{}}}"#, quote(uri))
        }
        (.., Some(uri)) => return Ok(format!(r#"{{"uri":{}}}"#, quote(uri))),
        _ if method == "initialize" => return Ok(initialize()),
        _ => return Ok("{}".to_owned()),
    };
    Ok(format!(r#"{{"ref":{subject},"argument":{{"name":"x","value":""}}}}"#))
}

fn initialize() -> String {
    let client = r#"{"name":"portcullis-check","version":"1"}"#;
    format!(r#"{{"protocolVersion":"{REVISION}","capabilities":{{}},"clientInfo":{client}}}"#)
}

fn arguments(args: &CheckArgs) -> Result<String, BadRequest> {
    let Some(text) = &args.args else { return Ok("{}".to_owned()) };
    let bad = |reason: String| BadRequest::Arguments { args: text.clone(), reason };
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    if !raw.get().starts_with('{') {
        return Err(bad("this is another kind of value".to_owned()));
    }
    if args.tool.is_none() && args.prompt.is_none() {
        return Err(BadRequest::ArgumentsOfNothing);
    }
    Ok(raw.get().to_owned())
}

/// From the flag itself where that begins an object, else from the file that it names.
fn claims(given: &str) -> Result<Value, BadRequest> {
    let bad = |reason: String| BadRequest::Claims { claims: given.to_owned(), reason };
    let text = if given.trim_start().starts_with('{') {
        given.to_owned()
    } else {
        std::fs::read_to_string(given).map_err(|error| bad(error.to_string()))?
    };
    let claims: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    if claims.is_object() { Ok(claims) } else { Err(bad("this is another kind of value".to_owned())) }
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
