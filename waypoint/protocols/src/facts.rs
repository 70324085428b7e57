//! What a policy may ask about a message, and the three-valued answer.

use crate::json::Value;

/// A fact that a policy may test, compiled once from the filter and key of
/// `experimental.envoy.filters.<filter>[<key>]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FactKey {
    /// `method`: the JSON-RPC method as on the wire.
    Method,
    /// `tool`: name of the tool that the message calls.
    Tool,
    /// `prompt`: name of the prompt that the message gets or completes.
    Prompt,
    /// `resource`: URI of the resource that the message reads, subscribes to or completes; in canonical form only.
    Resource,
    /// `task`: id of the task that the message names.
    Task,
    /// `kind`: one of [`Kind::as_str`].
    Kind,
    /// `session`: the session id.
    Session,
    /// `protocol_version`: the revision that the request declares, or that `initialize` proposes.
    ProtocolVersion,
    /// `args.<path>`: an argument of a tool or prompt; the path is split at every dot, so a key that itself contains
    /// a dot cannot be named.
    Argument(Vec<String>),
    /// `tool.read_only` and its like: what the server declared about the tool.
    ToolHint(ToolHint),
    /// `server_request`: what a server asks of its client; one of [`ServerRequest::as_str`]. Absent from everything else.
    ServerRequest,
    /// `server_request.host`: the host that an elicitation by URL sends its reader to, without the port.
    ServerRequestHost,
    /// A fact of the filter `http.a2a`.
    A2a(A2aKey),
}

/// Keys of the filter `http.a2a`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum A2aKey {
    /// `method`: the operation by its name in A2A 1.0, whatever binding and version names it.
    Method,
    /// `task`: id of a task that the request names or refers to; each is judged on its own.
    Task,
    /// `context`: id of the context.
    Context,
    /// `tenant`: as body, path or query name it.
    Tenant,
    /// `extension`: URI of an extension that is asked for; each is judged on its own.
    Extension,
    /// `protocol_version`: `A2A-Version` as declared; `0.3` where nothing is (A2A 1.0 §3.6.2).
    ProtocolVersion,
    /// `push_host`: host of the URL that push notifications are to go to.
    PushHost,
    /// `metadata.<key>`: a string in the metadata of the request or of its message. The key is one name, dots included.
    Metadata(String),
}

/// What a server may ask of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerRequest {
    /// To run its language model: `sampling/createMessage`.
    Sampling,
    /// Which folders it works on: `roots/list`.
    Roots,
    /// To ask its user: `elicitation/create`.
    Elicitation,
}

impl ServerRequest {
    /// The value of the fact, and the name of the client's capability.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sampling => "sampling",
            Self::Roots => "roots",
            Self::Elicitation => "elicitation",
        }
    }
}

/// Annotations of a tool (`ToolAnnotations` of MCP). Hints of the server, fit for narrowing only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToolHint {
    /// `tool.read_only`
    ReadOnly,
    /// `tool.destructive`
    Destructive,
    /// `tool.idempotent`
    Idempotent,
    /// `tool.open_world`
    OpenWorld,
}

/// Why a filter and key name no fact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownFact {
    /// The filter is none of ours.
    #[error("filter `{0}` is not known; known: http.mcp, http.a2a")]
    Filter(String),
    /// The filter is ours and the key is not.
    #[error("key `{key}` of {filter} is not known")]
    Key {
        /// The filter, as written.
        filter: String,
        /// The key, as written.
        key: String,
    },
    /// Documented, and not there yet.
    #[error("{0} is not built yet")]
    NotBuilt(String),
}

impl FactKey {
    /// Compiles filter and key, for example `http.mcp` and `args.owner`.
    ///
    /// # Errors
    /// [`UnknownFact`], which names what is not known. A policy with such a key must not be enforced in part.
    pub fn parse(filter: &str, key: &str) -> Result<Self, UnknownFact> {
        match filter {
            "http.mcp" => Self::parse_mcp(key),
            "http.a2a" => Self::parse_a2a(key),
            _ => Err(UnknownFact::Filter(filter.to_owned())),
        }
    }

    fn parse_mcp(key: &str) -> Result<Self, UnknownFact> {
        let unknown = || UnknownFact::Key { filter: "http.mcp".to_owned(), key: key.to_owned() };
        Ok(match key {
            "method" => Self::Method,
            "tool" => Self::Tool,
            "prompt" => Self::Prompt,
            "resource" => Self::Resource,
            "task" => Self::Task,
            "kind" => Self::Kind,
            "session" => Self::Session,
            "protocol_version" => Self::ProtocolVersion,
            "tool.read_only" => Self::ToolHint(ToolHint::ReadOnly),
            "tool.destructive" => Self::ToolHint(ToolHint::Destructive),
            "tool.idempotent" => Self::ToolHint(ToolHint::Idempotent),
            "tool.open_world" => Self::ToolHint(ToolHint::OpenWorld),
            "server_request" => Self::ServerRequest,
            "server_request.host" => Self::ServerRequestHost,
            _ => Self::parse_argument(key).ok_or_else(unknown)?,
        })
    }

    fn parse_a2a(key: &str) -> Result<Self, UnknownFact> {
        let unknown = || UnknownFact::Key { filter: "http.a2a".to_owned(), key: key.to_owned() };
        Ok(Self::A2a(match key {
            "method" => A2aKey::Method,
            "task" => A2aKey::Task,
            "context" => A2aKey::Context,
            "tenant" => A2aKey::Tenant,
            "extension" => A2aKey::Extension,
            "protocol_version" => A2aKey::ProtocolVersion,
            "push_host" => A2aKey::PushHost,
            _ if key.starts_with("cel:") => {
                return Err(UnknownFact::NotBuilt("a condition on http.a2a".to_owned()));
            }
            _ => {
                let name = key.strip_prefix("metadata.").filter(|name| !name.is_empty());
                A2aKey::Metadata(name.ok_or_else(unknown)?.to_owned())
            }
        }))
    }

    fn parse_argument(key: &str) -> Option<Self> {
        let path: Vec<String> = key.strip_prefix("args.")?.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) { None } else { Some(Self::Argument(path)) }
    }
}

/// Three-valued answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    Yes,
    /// It does not hold; a fact that is merely absent gives this.
    No,
    /// It cannot be told. Before the body is read: the body would tell. After: readers disagree on the value (see
    /// [`crate::mcp::Subject`]), so an ALLOW rule must not rest on it, and a DENY rule must hold.
    NotYet,
}

/// What sort of thing a message is; the fact `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Uses a tool, prompt, resource, task or completion; also everything that is not known.
    Call,
    /// Asks for a list, whose entries are judged one by one.
    List,
    /// Opens, keeps or ends a session.
    Lifecycle,
    /// Answers a request of the server.
    Response,
    /// A request of the server to its client.
    ServerRequest,
    /// Plain HTTP on an MCP port: not a protocol message; every fact is absent.
    Plain,
}

impl Kind {
    /// The value of the fact `kind`; `None` for plain HTTP, where the fact is absent.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Call => Some("call"),
            Self::List => Some("list"),
            Self::Lifecycle => Some("lifecycle"),
            Self::Response => Some("response"),
            Self::ServerRequest => Some("server_request"),
            Self::Plain => None,
        }
    }
}

/// The arguments of a message, whole.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    /// They are not read yet.
    NotYet,
    /// The message has none.
    Nothing,
    /// An object.
    Object(Value<'a, 'a>),
}

/// One thing that a rule is asked about.
pub trait Facts {
    /// What sort of thing this is. Lifecycle follows access: a policy treats it and lists leniently in ALLOW rules.
    fn kind(&self) -> Kind;

    /// Whether some value of the fact satisfies `test`. A fact may have several values (an array argument).
    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth;

    /// What the message gives its tool or prompt. Not known unless told.
    fn arguments(&self) -> Given<'_> {
        Given::NotYet
    }

    /// What the value is known to begin with where [`Facts::ask`] answers [`Truth::NotYet`]; a matcher that no such
    /// value can satisfy may then answer `No`. `None`: nothing is known, or `ask` says it all.
    fn known_prefix(&self, _key: &FactKey) -> Option<&str> {
        None
    }
}

/// Nothing read yet: every fact is [`Truth::NotYet`].
#[derive(Clone, Copy, Debug)]
pub struct Unread;

impl Facts for Unread {
    fn kind(&self) -> Kind {
        Kind::Call
    }

    fn ask(&self, _: &FactKey, _: &mut dyn FnMut(&str) -> bool) -> Truth {
        Truth::NotYet
    }
}

/// Plain HTTP: every fact is absent.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Facts for Plain {
    fn kind(&self) -> Kind {
        Kind::Plain
    }

    fn ask(&self, _: &FactKey, _: &mut dyn FnMut(&str) -> bool) -> Truth {
        Truth::No
    }

    fn arguments(&self) -> Given<'_> {
        Given::Nothing
    }
}

/// The answer of a fact with at most one value.
pub(crate) fn tell(value: Option<&str>, test: &mut dyn FnMut(&str) -> bool) -> Truth {
    match value {
        Some(value) if test(value) => Truth::Yes,
        _ => Truth::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_key_is_a_fact() {
        let path = |parts: &[&str]| FactKey::Argument(parts.iter().map(|p| (*p).to_owned()).collect());
        for (key, fact) in [
            ("method", FactKey::Method),
            ("tool", FactKey::Tool),
            ("prompt", FactKey::Prompt),
            ("resource", FactKey::Resource),
            ("task", FactKey::Task),
            ("kind", FactKey::Kind),
            ("session", FactKey::Session),
            ("protocol_version", FactKey::ProtocolVersion),
            ("args.owner", path(&["owner"])),
            ("args.repo.name", path(&["repo", "name"])),
            ("tool.read_only", FactKey::ToolHint(ToolHint::ReadOnly)),
            ("tool.destructive", FactKey::ToolHint(ToolHint::Destructive)),
            ("tool.idempotent", FactKey::ToolHint(ToolHint::Idempotent)),
            ("tool.open_world", FactKey::ToolHint(ToolHint::OpenWorld)),
            ("server_request", FactKey::ServerRequest),
            ("server_request.host", FactKey::ServerRequestHost),
        ] {
            assert_eq!(FactKey::parse("http.mcp", key), Ok(fact), "{key}");
        }
    }

    #[test]
    fn every_documented_key_of_a2a_is_a_fact() {
        let skill = "https://acme.example/ext/skill/v1";
        for (key, fact) in [
            ("method", A2aKey::Method),
            ("task", A2aKey::Task),
            ("context", A2aKey::Context),
            ("tenant", A2aKey::Tenant),
            ("extension", A2aKey::Extension),
            ("protocol_version", A2aKey::ProtocolVersion),
            ("push_host", A2aKey::PushHost),
            (&format!("metadata.{skill}"), A2aKey::Metadata(skill.to_owned())),
        ] {
            assert_eq!(FactKey::parse("http.a2a", key), Ok(FactKey::A2a(fact)), "{key}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (filter, key, says) in [
            ("http.mcp", "tools", "key `tools` of http.mcp is not known"),
            ("http.mcp", "Tool", "key `Tool` of http.mcp is not known"),
            ("http.mcp", "", "key `` of http.mcp is not known"),
            ("http.mcp", "args", "key `args` of http.mcp is not known"),
            ("http.mcp", "args.", "key `args.` of http.mcp is not known"),
            ("http.mcp", "args.a..b", "key `args.a..b` of http.mcp is not known"),
            ("http.mcp", "cel: args.n < 3", "key `cel: args.n < 3` of http.mcp is not known"),
            ("http.a2a", "skill", "key `skill` of http.a2a is not known"),
            ("http.a2a", "metadata.", "key `metadata.` of http.a2a is not known"),
            ("http.a2a", "cel: true", "a condition on http.a2a is not built yet"),
            ("http.jwt", "method", "filter `http.jwt` is not known; known: http.mcp, http.a2a"),
        ] {
            let error = FactKey::parse(filter, key).unwrap_err();
            assert_eq!(error.to_string(), says);
        }
    }

    #[test]
    fn before_reading_nothing_is_told_and_plain_http_has_no_facts() {
        let mut any = |_: &str| true;
        assert_eq!(Unread.ask(&FactKey::Tool, &mut any), Truth::NotYet);
        assert_eq!(Plain.ask(&FactKey::Kind, &mut any), Truth::No);
        assert_eq!(Plain.kind().as_str(), None);
    }
}
