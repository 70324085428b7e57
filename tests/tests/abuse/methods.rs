//! Every method of every revision, with a name that is allowed and one that is not: the former reaches the server byte by
//! byte, the latter gets its refusal byte by byte, in each mode of refusing. What names nothing is refused by a DENY rule on
//! the method.
//!
//! A method is judged alike in every revision, also in those that don't define it: servers run methods of revisions that
//! were not declared.

use crate::stage::{RULES, Scene, Stage, server};
use crate::table::{Row, Sent, Want, try_all};
use anyhow::Result;

/// The versions as their clients declare them: 2025-03-26 by saying nothing.
const REVISIONS: [&str; 5] = ["2024-11-05", "", "2025-06-18", "2025-11-25", "2026-07-28"];
/// The last of them: every request carries its version twice, and headers for routing.
const MODERN: usize = 4;

/// `agents/mute` may do what `agents/bot` may, but for the methods that name nothing.
const MUTE: &str = r#"
- from: [{source: {serviceAccounts: [agents/mute]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha]}]
"#;

/// What a method names, with a thing that `bot` may use and one that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    Nothing,
    Tool,
    Prompt,
    Resource,
    PromptReference,
    ResourceReference,
    Listening,
}

/// Requests of clients (wire contract §2.1), but for tasks.
const REQUESTS: &[(&str, Names)] = &[
    ("initialize", Names::Nothing),
    ("server/discover", Names::Nothing),
    ("ping", Names::Nothing),
    ("logging/setLevel", Names::Nothing),
    ("tools/list", Names::Nothing),
    ("prompts/list", Names::Nothing),
    ("resources/list", Names::Nothing),
    ("resources/templates/list", Names::Nothing),
    ("tools/call", Names::Tool),
    ("prompts/get", Names::Prompt),
    ("resources/read", Names::Resource),
    ("resources/subscribe", Names::Resource),
    ("resources/unsubscribe", Names::Resource),
    ("completion/complete", Names::PromptReference),
    ("completion/complete", Names::ResourceReference),
    ("subscriptions/listen", Names::Listening),
];

/// Methods that clients send without an id (§2.2).
const NOTIFICATIONS: &[&str] = &[
    "notifications/initialized",
    "notifications/roots/list_changed",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/tasks/status",
];

/// Tasks belong to who made them; until that is kept they are refused by name.
const TASKS: &[&str] = &["tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "tasks/update"];

/// What nobody may do: methods that no revision knows, spelled otherwise, or the server's own.
const UNKNOWN: &[&str] = &[
    "tools/destroy",
    "skills/list",
    "TOOLS/CALL",
    "tools/call ",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
    "notifications/message",
    "",
];

impl Names {
    fn parameters(self, allowed: bool) -> String {
        let (tool, prompt) = if allowed { ("alpha", "hello") } else { ("beta", "bye") };
        let uri = self.uri(allowed);
        match self {
            Self::Nothing => String::new(),
            Self::Tool => format!(r#""name":"{tool}","arguments":{{"a":1.0}}"#),
            Self::Prompt => format!(r#""name":"{prompt}","arguments":{{"a":"b"}}"#),
            Self::Resource => format!(r#""uri":"{uri}""#),
            Self::PromptReference => format!(
                r#""ref":{{"type":"ref/prompt","name":"{prompt}"}},"argument":{{"name":"a","value":""}}"#
            ),
            Self::ResourceReference => format!(
                r#""ref":{{"type":"ref/resource","uri":"{uri}"}},"argument":{{"name":"a","value":""}}"#
            ),
            Self::Listening => format!(
                r#""notifications":{{"toolsListChanged":true,"resourceSubscriptions":["file:///public/y","{uri}"]}}"#
            ),
        }
    }

    fn uri(self, allowed: bool) -> &'static str {
        if allowed { "file:///public/x" } else { "file:///secret/x" }
    }

    /// The value of `Mcp-Name`, where the revision demands one.
    fn header(self, method: &str, allowed: bool) -> Option<&'static str> {
        match (self, method) {
            (Self::Tool, _) => Some(if allowed { "alpha" } else { "beta" }),
            (Self::Prompt, _) => Some(if allowed { "hello" } else { "bye" }),
            (Self::Resource, "resources/read") => Some(self.uri(allowed)),
            _ => None,
        }
    }

    /// Code and text of a server that does not have what was denied.
    fn missing(self, revision: usize) -> (u16, i32, &'static str) {
        let modern = revision == MODERN;
        match self {
            Self::Tool => (200, -32602, "Unknown tool: beta"),
            Self::Prompt | Self::PromptReference => (200, -32602, "Unknown prompt: bye"),
            Self::Resource | Self::ResourceReference | Self::Listening => {
                (200, if modern { -32602 } else { -32002 }, "Resource not found")
            }
            Self::Nothing => no_method(revision),
        }
    }
}

fn no_method(revision: usize) -> (u16, i32, &'static str) {
    (if revision == MODERN { 404 } else { 200 }, -32601, "Method not found")
}

/// A message as a client of this revision sends it.
fn sent(revision: usize, method: &str, id: &str, parameters: &str, name: Option<&str>) -> Sent {
    let version = REVISIONS[revision];
    let meta = format!(r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{version}"}}"#);
    let members = match (revision == MODERN, parameters.is_empty()) {
        (true, true) => meta,
        (true, false) => format!("{meta},{parameters}"),
        (false, _) => parameters.to_owned(),
    };
    let sent = Sent::post(format!(r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":{{{members}}}}}"#));
    let sent = if version.is_empty() { sent } else { sent.with(&format!("MCP-Protocol-Version: {version}")) };
    if revision != MODERN {
        return sent;
    }
    let sent = sent.with(&format!("Mcp-Method: {method}"));
    name.into_iter().fold(sent, |sent, name| sent.with(&format!("Mcp-Name: {name}")))
}

fn request(revision: usize, method: &str, names: Names, allowed: bool) -> Sent {
    let name = names.header(method, allowed);
    sent(revision, method, r#""id":"i\u0031","#, &names.parameters(allowed), name)
}

/// A refusal of this id, to the byte.
fn error((status, code, message): (u16, i32, &str), data: &str) -> Want {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":"i\u0031","error":{{"code":{code},"message":"{message}"{data}}}}}"#
    );
    // Rows live as long as the test; a table of constants could not hold what is built here.
    Want::Text(status, Box::leak(body.into_boxed_str()))
}

/// What a mode makes of a refusal by policy.
fn refusal(mode: &str, names: Names, revision: usize, row: &str, rule: &str) -> Want {
    match (mode, names) {
        ("explicit", _) => error((200, -31403, "denied by policy"), &explanation(row, rule)),
        ("model-visible", Names::Tool) => {
            let kind = if revision == MODERN { r#","resultType":"complete""# } else { "" };
            let text = "Access denied: this tool call is not permitted.";
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":"i\u0031","result":{{"content":[{{"type":"text","text":"{text}"}}],"isError":true{kind}}}}}"#
            );
            Want::Text(200, Box::leak(body.into_boxed_str()))
        }
        ("status", _) => Want::Text(403, "RBAC: access denied"),
        _ => error(names.missing(revision), ""),
    }
}

/// What an explicit refusal tells beside its code: the rule that denied, or that none allowed, and the request's id.
fn explanation(row: &str, rule: &str) -> String {
    let (policy, reason) = match rule {
        "" => ("null".to_owned(), "no_rule_matched"),
        rule => (format!("\"{rule}\""), "denied_by_rule"),
    };
    format!(r#","data":{{"policy":{policy},"reason":"{reason}","requestId":"{row}"}}"#)
}

async fn stage(mode: &str) -> Result<Stage> {
    let scene = Scene::under(&format!("{RULES}{MUTE}"), server).await?;
    let nameless = REQUESTS.iter().filter(|(_, names)| *names == Names::Nothing).map(|(method, _)| *method);
    let methods = nameless.chain(NOTIFICATIONS.iter().copied()).collect::<Vec<_>>().join(", ");
    let rule = format!(
        "- from: [{{source: {{serviceAccounts: [agents/mute]}}}}]\n  when: [{{key: \"experimental.envoy.filters.http.mcp[method]\", values: [{methods}]}}]\n"
    );
    scene.setup.policy("mute", "app", "DENY", &rule)?;
    scene.start(&[("--deny-mode", mode)]).await
}

/// A row whose request id is its name, so that a refusal that tells it is known to the byte.
fn named(name: String, sent: &Sent, want: Want) -> Row {
    let sent = sent.clone().with(&format!("X-Request-Id: {name}"));
    Row { name, sent, want }
}

fn rows_of_bot(mode: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for revision in 0..REVISIONS.len() {
        for (method, names) in REQUESTS {
            let name = |what: &str| format!("{revision}-{method}-{names:?}-{what}");
            let allowed = request(revision, method, *names, true);
            rows.push(named(name("allowed"), &allowed, Want::Runs("/mcp")));
            if *names != Names::Nothing {
                let (name, denied) = (name("denied"), request(revision, method, *names, false));
                let want = refusal(mode, *names, revision, &name, "");
                rows.push(named(name, &denied, want));
                let (name, unnumbered) = (
                    format!("{revision}-{method}-{names:?}-unnumbered"),
                    sent(revision, method, "", &names.parameters(false), names.header(method, false)),
                );
                rows.push(named(name, &unnumbered, Want::Text(202, "")));
            }
        }
        for method in NOTIFICATIONS {
            let sent = sent(revision, method, "", "", None);
            rows.push(named(format!("{revision}-{method}"), &sent, Want::Runs("/mcp")));
        }
        for method in TASKS {
            let name = format!("{revision}-{method}");
            let asked = sent(revision, method, r#""id":"i\u0031","#, r#""taskId":"t""#, Some("t"));
            rows.push(named(name, &asked, error(no_method(revision), "")));
        }
        for method in UNKNOWN.iter().copied() {
            let routed = method.trim_end(); // A header has no space at its end.
            if revision == MODERN && (routed != method || method.is_empty()) {
                continue;
            }
            let name = format!("{revision}-{}-unknown", method.replace(' ', "_"));
            let (asked, told) =
                (request(revision, method, Names::Nothing, false), sent(revision, method, "", "", None));
            rows.push(named(format!("{name}-told"), &told, Want::Text(202, "")));
            rows.push(named(name, &asked, error(no_method(revision), "")));
        }
    }
    rows
}

fn rows_of_mute(mode: &str) -> Vec<Row> {
    let rule = "ns[tools]-policy[mute]-rule[0]";
    let mut rows = Vec::new();
    for revision in 0..REVISIONS.len() {
        for (method, _) in REQUESTS.iter().filter(|(_, names)| *names == Names::Nothing) {
            let name = format!("{revision}-{method}-mute");
            let want = refusal(mode, Names::Nothing, revision, &name, rule);
            rows.push(named(name, &request(revision, method, Names::Nothing, false), want));
        }
        for method in NOTIFICATIONS {
            let sent = sent(revision, method, "", "", None);
            rows.push(named(format!("{revision}-{method}-mute"), &sent, Want::Text(202, "")));
        }
    }
    rows
}

async fn all(mode: &str, peer: &str, rows: Vec<Row>) -> Result<()> {
    let stage = stage(mode).await?;
    try_all(&stage, &stage.peer(peer)?, rows).await
}

#[tokio::test]
async fn every_method_of_every_revision_is_judged_by_what_it_names() -> Result<()> {
    all("hide", "bot", rows_of_bot("hide")).await
}

#[tokio::test]
async fn what_names_nothing_is_refused_by_its_method() -> Result<()> {
    all("hide", "mute", rows_of_mute("hide")).await
}

#[tokio::test]
async fn every_refusal_says_so_where_it_shall() -> Result<()> {
    all("explicit", "bot", rows_of_bot("explicit")).await
}

#[tokio::test]
async fn a_refusal_that_says_so_names_the_rule_that_denied() -> Result<()> {
    all("explicit", "mute", rows_of_mute("explicit")).await
}

#[tokio::test]
async fn every_refused_tool_call_is_a_failed_one_where_models_shall_see_it() -> Result<()> {
    all("model-visible", "bot", rows_of_bot("model-visible")).await
}

#[tokio::test]
async fn every_refusal_is_a_status_where_it_shall() -> Result<()> {
    all("status", "bot", rows_of_bot("status")).await
}
