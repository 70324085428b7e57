//! Random MCP messages: calls, and those that follow access (docs/policy.md).

use http::Response;
use portcullis_tests::http::Body;
use portcullis_tests::upstream::{self, Seen};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Keys of facts about a message; [`Message::facts`] tells their values.
pub(crate) const FACTS: [&str; 9] = [
    "method",
    "kind",
    "tool",
    "prompt",
    "resource",
    "args.owner",
    "args.repo.name",
    "args.count",
    "protocol_version",
];

/// The revision that all messages declare.
pub(crate) const REVISION: &str = "2025-06-18";

/// Tools that the application offers.
const TOOLS: [&str; 5] = ["search_code", "search_users", "get_issue", "drop", "x"];

/// Prompts that it offers.
const PROMPTS: [&str; 3] = ["triage", "review", "x"];

const RESOURCES: [&str; 3] = ["file:///public/a", "file:///secret/b", "db://x/y"];

/// Methods that name nothing, with their kind.
const NAMELESS: [(&str, &str); 7] = [
    ("tools/list", "list"),
    ("prompts/list", "list"),
    ("resources/list", "list"),
    ("resources/templates/list", "list"),
    ("initialize", "lifecycle"),
    ("ping", "lifecycle"),
    ("logging/setLevel", "lifecycle"),
];

/// How many of them ask for what the application has entries of.
const SHOWN: usize = 2;

/// A request of MCP.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Call {
        tool: &'static str,
        arguments: Arguments,
    },
    Prompt {
        prompt: &'static str,
        owner: Option<&'static str>,
    },
    Resource(&'static str),
    /// Names nothing: its index in [`NAMELESS`].
    Nameless(usize),
}

/// Of a tool.
#[derive(Clone, Debug)]
pub(crate) struct Arguments {
    owner: Option<&'static str>,
    repository: Option<&'static str>,
    count: Option<u32>,
}

/// Facts by their index in [`FACTS`].
pub(crate) type Facts = Vec<(usize, String)>;

pub(crate) fn message() -> impl Strategy<Value = Message> {
    let prompt =
        (select(&PROMPTS[..]), owner()).prop_map(|(prompt, owner)| Message::Prompt { prompt, owner });
    prop_oneof![
        4 => call(),
        1 => prompt,
        1 => select(&RESOURCES[..]).prop_map(Message::Resource),
        2 => (0..NAMELESS.len()).prop_map(Message::Nameless),
        2 => (0..SHOWN).prop_map(Message::Nameless),
    ]
}

fn call() -> impl Strategy<Value = Message> {
    let arguments = (
        owner(),
        option::of(select(&["website", "site", "api"][..])),
        option::of(select(&[7u32, 12, 70][..])),
    );
    let arguments = arguments.prop_map(|(owner, repository, count)| Arguments { owner, repository, count });
    (select(&TOOLS[..]), arguments).prop_map(|(tool, arguments)| Message::Call { tool, arguments })
}

fn owner() -> impl Strategy<Value = Option<&'static str>> {
    option::weighted(0.8, select(&["acme", "ac", "evil"][..]))
}

impl Message {
    fn method(&self) -> (&'static str, &'static str) {
        match self {
            Self::Call { .. } => ("tools/call", "call"),
            Self::Prompt { .. } => ("prompts/get", "call"),
            Self::Resource(_) => ("resources/read", "call"),
            Self::Nameless(index) => NAMELESS[*index],
        }
    }

    /// Whether it is judged by what its caller may call.
    pub(crate) fn follows_access(&self) -> bool {
        matches!(self, Self::Nameless(_))
    }

    /// What it tells.
    pub(crate) fn facts(&self) -> Facts {
        let (method, kind) = self.method();
        let mut told = vec![("method", method.to_owned()), ("kind", kind.to_owned())];
        told.push(("protocol_version", REVISION.to_owned()));
        match self {
            Self::Call { tool, arguments } => {
                told.push(("tool", (*tool).to_owned()));
                told.extend(arguments.owner.map(|owner| ("args.owner", owner.to_owned())));
                told.extend(arguments.repository.map(|name| ("args.repo.name", name.to_owned())));
                told.extend(arguments.count.map(|count| ("args.count", count.to_string())));
            }
            Self::Prompt { prompt, owner } => {
                told.push(("prompt", (*prompt).to_owned()));
                told.extend(owner.map(|owner| ("args.owner", owner.to_owned())));
            }
            Self::Resource(uri) => told.push(("resource", (*uri).to_owned())),
            Self::Nameless(_) => {}
        }
        numbered(told)
    }

    /// The entries of its answer, each with what it tells before it is called. Lists of resources are empty.
    pub(crate) fn entries(&self) -> Vec<(&'static str, Facts)> {
        let (names, method, fact) = match self.method().0 {
            "tools/list" => (&TOOLS[..], "tools/call", "tool"),
            "prompts/list" => (&PROMPTS[..], "prompts/get", "prompt"),
            _ => return Vec::new(),
        };
        let told = |name: &str| {
            vec![("method", method.to_owned()), ("kind", "call".to_owned()), (fact, name.to_owned())]
        };
        names.iter().map(|name| (*name, numbered(told(name)))).collect()
    }

    pub(crate) fn body(&self) -> Value {
        let (method, _) = self.method();
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": self.params()})
    }

    fn params(&self) -> Value {
        match self {
            Self::Call { tool, arguments } => json!({"name": tool, "arguments": arguments.json()}),
            Self::Prompt { prompt, owner } => {
                let arguments = owner.map(|owner| json!({ "owner": owner })).unwrap_or_else(|| json!({}));
                json!({"name": prompt, "arguments": arguments})
            }
            Self::Resource(uri) => json!({ "uri": uri }),
            Self::Nameless(_) => match self.method().0 {
                "initialize" => {
                    let client = json!({"name": "client", "version": "1"});
                    json!({"protocolVersion": REVISION, "capabilities": {}, "clientInfo": client})
                }
                "logging/setLevel" => json!({"level": "info"}),
                _ => json!({}),
            },
        }
    }
}

impl Arguments {
    fn json(&self) -> Value {
        let mut arguments = json!({});
        if let Some(owner) = self.owner {
            arguments["owner"] = owner.into();
        }
        if let Some(name) = self.repository {
            arguments["repo"] = json!({ "name": name });
        }
        if let Some(count) = self.count {
            arguments["count"] = count.into();
        }
        arguments
    }
}

fn numbered(told: Vec<(&'static str, String)>) -> Facts {
    let number = |key: &str| FACTS.iter().position(|fact| *fact == key);
    told.into_iter().filter_map(|(key, value)| Some((number(key)?, value))).collect()
}

/// What the application says to any request, MCP or not.
pub(crate) fn answered(seen: &Seen) -> Response<Body> {
    let named = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
    let result = match seen.json()["method"].as_str().unwrap_or_default() {
        "tools/list" => {
            let tool = |name: &&str| json!({"name": name, "inputSchema": {"type": "object"}});
            json!({"tools": TOOLS.iter().map(tool).collect::<Vec<_>>()})
        }
        "prompts/list" => json!({"prompts": named(&PROMPTS)}),
        "resources/list" => json!({"resources": []}),
        "resources/templates/list" => json!({"resourceTemplates": []}),
        "initialize" => {
            let server = json!({"name": "server", "version": "1"});
            json!({"protocolVersion": REVISION, "capabilities": {}, "serverInfo": server})
        }
        _ => json!({}),
    };
    upstream::result(seen, &result)
}
