//! What a server sends of its own accord: requests of its client, and notifications.
//!
//! Requests of a server reach further than its answers do: into the client's model, its files, and its user. A policy may
//! forbid them. What no revision knows is not passed on.

use super::entry::ListKind;
use crate::facts::{FactKey, Facts, Given, Kind, ServerRequest, Truth, tell};
use crate::json::{Shape, Value, is_twin};
use std::borrow::Cow;
use url::Url;

/// A request of a server to its client, as a policy sees it (`sampling/createMessage`, `roots/list`,
/// `elicitation/create`): on a stream, or as an entry of `inputRequests` (2026-07-28).
#[derive(Debug)]
pub struct ServerAsk<'b> {
    what: ServerRequest,
    host: Host<'b>,
}

/// Where a URL elicitation sends its reader.
#[derive(Debug)]
enum Host<'b> {
    /// Nowhere.
    Nowhere,
    /// Somewhere, but where is not known, or readers of the URL might differ on it.
    Unknown,
    To(Cow<'b, str>),
}

impl ServerAsk<'static> {
    /// Every request that a server could make while nothing more is known of it.
    pub const ALL: [Self; 4] = [
        Self { what: ServerRequest::Sampling, host: Host::Nowhere },
        Self { what: ServerRequest::Roots, host: Host::Nowhere },
        Self { what: ServerRequest::Elicitation, host: Host::Nowhere },
        Self { what: ServerRequest::Elicitation, host: Host::Unknown },
    ];
}

impl ServerAsk<'_> {
    fn method(&self) -> &'static str {
        match self.what {
            ServerRequest::Sampling => SAMPLING,
            ServerRequest::Roots => ROOTS,
            ServerRequest::Elicitation => ELICITATION,
        }
    }
}

impl Facts for ServerAsk<'_> {
    fn kind(&self) -> Kind {
        Kind::ServerRequest
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match (key, &self.host) {
            (FactKey::Method, _) => tell(Some(self.method()), test),
            (FactKey::Kind, _) => tell(self.kind().as_str(), test),
            (FactKey::ServerRequest, _) => tell(Some(self.what.as_str()), test),
            (FactKey::ServerRequestHost, Host::To(host)) => tell(Some(host), test),
            (FactKey::ServerRequestHost, Host::Unknown) => Truth::NotYet,
            (FactKey::ServerRequestHost, Host::Nowhere) => Truth::No,
            // No A2A is read here: it cannot be told.
            (FactKey::A2a(_), _) => Truth::NotYet,
            // Session and revision are those of the stream, which was judged by them.
            (
                FactKey::Session
                | FactKey::ProtocolVersion
                | FactKey::Tool
                | FactKey::Prompt
                | FactKey::Resource
                | FactKey::Task
                | FactKey::Argument(_)
                | FactKey::ToolHint(_),
                _,
            ) => Truth::No,
        }
    }

    fn arguments(&self) -> Given<'_> {
        Given::Nothing
    }
}

/// A response that the waypoint gives a server in its client's place.
#[derive(Clone, Copy, Debug)]
pub struct Answering;

impl Facts for Answering {
    fn kind(&self) -> Kind {
        Kind::Response
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        if *key == FactKey::Kind { tell(self.kind().as_str(), test) } else { Truth::No }
    }

    fn arguments(&self) -> Given<'_> {
        Given::Nothing
    }
}

const SAMPLING: &str = "sampling/createMessage";
const ROOTS: &str = "roots/list";
const ELICITATION: &str = "elicitation/create";

/// What a message of a server is.
#[derive(Debug)]
pub(super) enum Sent<'b> {
    /// It asks for nothing that is protected.
    Harmless,
    /// It may go on if one of these may be asked.
    Asks(Vec<ServerAsk<'b>>),
    /// It tells of something that the client must be able to see.
    Tells(ListKind, Option<Cow<'b, str>>),
    /// No revision knows it.
    Unknown,
}

/// Tells a message of a server by its method.
pub(super) fn sent<'b>(method: &str, params: Option<Value<'_, 'b>>) -> Sent<'b> {
    let member = |key| params.and_then(|params| params.get(key)).and_then(Value::as_str);
    match method {
        "ping"
        | "notifications/message"
        | "notifications/progress"
        | "notifications/cancelled"
        | "notifications/tools/list_changed"
        | "notifications/prompts/list_changed"
        | "notifications/resources/list_changed"
        | "notifications/elicitation/complete"
        | "notifications/subscriptions/acknowledged" => Sent::Harmless,
        "notifications/resources/updated" => Sent::Tells(ListKind::Resources, member("uri")),
        "notifications/tasks/status" | "notifications/tasks" => {
            Sent::Tells(ListKind::Tasks, member("taskId"))
        }
        // Tasks that the client hosts run what it was asked for (2025-11-25).
        "tasks/get" | "tasks/result" | "tasks/list" | "tasks/cancel" => {
            let [sampling, _, elicitation, url] = ServerAsk::ALL;
            Sent::Asks(vec![sampling, elicitation, url])
        }
        _ => match asks(method, params) {
            Some(ask) => Sent::Asks(vec![ask]),
            None => Sent::Unknown,
        },
    }
}

/// What a request of a server asks for, if it is one that a policy may forbid.
pub(super) fn asks<'b>(method: &str, params: Option<Value<'_, 'b>>) -> Option<ServerAsk<'b>> {
    let (what, host) = match method {
        SAMPLING => (ServerRequest::Sampling, Host::Nowhere),
        ROOTS => (ServerRequest::Roots, Host::Nowhere),
        ELICITATION => (ServerRequest::Elicitation, params.map_or(Host::Nowhere, host)),
        _ => return None,
    };
    Some(ServerAsk { what, host })
}

/// Where an elicitation leads: what calls itself one by URL, or bears one, leads somewhere.
fn host<'b>(params: Value<'_, 'b>) -> Host<'b> {
    if params.members().any(|(key, _)| is_twin(&key, "url") || is_twin(&key, "mode")) {
        return Host::Unknown;
    }
    match (params.get("mode"), params.get("url")) {
        (None, None) => Host::Nowhere,
        (Some(mode), None) if mode.as_str().as_deref() == Some("form") => Host::Nowhere,
        (_, Some(url)) if url.is(Shape::String) => url.as_str().and_then(one_host).unwrap_or(Host::Unknown),
        _ => Host::Unknown,
    }
}

/// The host of a URL that every reader takes for the same: one that is written as WHATWG writes it, without user
/// information, which would stand where a hasty reader looks for the host.
fn one_host<'b>(text: Cow<'_, str>) -> Option<Host<'b>> {
    let url = Url::parse(&text).ok()?;
    let written = url.as_str() == text || url.as_str().strip_suffix('/') == Some(&*text);
    let plain = url.username().is_empty() && url.password().is_none();
    let host = url.host_str().filter(|_| written && plain)?;
    Some(Host::To(Cow::Owned(host.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Bounds, Document};

    fn host_of(params: &str) -> String {
        let bounds = Bounds { depth: 16, members: 100, key: 100 };
        let document = Document::read(params.as_bytes(), &bounds).unwrap();
        match asks(ELICITATION, Some(document.root())).unwrap().host {
            Host::Nowhere => "nowhere".to_owned(),
            Host::Unknown => "unknown".to_owned(),
            Host::To(host) => format!("to {host}"),
        }
    }

    #[test]
    fn an_elicitation_leads_where_every_reader_says() {
        for (params, host) in [
            ("{}", "nowhere"),
            (r#"{"mode":"form","message":"https://evil.example"}"#, "nowhere"),
            (r#"{"mode":"url","url":"https://pay.example/x?y=1"}"#, "to pay.example"),
            (r#"{"mode":"url","url":"https://pay.example"}"#, "to pay.example"),
            (r#"{"mode":"url","url":"https://pay.example:444/"}"#, "to pay.example"),
            (r#"{"url":"https://pay.example/"}"#, "to pay.example"),
            (r#"{"mode":"form","url":"https://pay.example/"}"#, "to pay.example"),
            (r#"{"mode":"url","url":"https:\/\/pay.example\/\u0078"}"#, "to pay.example"),
            (r#"{"mode":"url"}"#, "unknown"),
            (r#"{"mode":"URL"}"#, "unknown"),
            (r#"{"mode":1}"#, "unknown"),
            (r#"{"mode":"url","url":7}"#, "unknown"),
            (r#"{"mode":"url","url":"pay.example"}"#, "unknown"),
            (r#"{"mode":"url","url":"https://pay.example@evil.example/"}"#, "unknown"),
            (r#"{"mode":"url","url":"https://evil.example\\@pay.example/"}"#, "unknown"),
            (r#"{"mode":"url","url":"HTTPS://PAY.example/"}"#, "unknown"),
            (r#"{"mode":"url","url":" https://pay.example/"}"#, "unknown"),
            (r#"{"mode":"url","url":"javascript:alert(1)"}"#, "unknown"),
            (r#"{"mode":"url","url":"https://pay.example/","URL":"https://evil.example/"}"#, "unknown"),
            (r#"{"Mode":"url","url":"https://pay.example/"}"#, "unknown"),
        ] {
            assert_eq!(host_of(params), host, "{params}");
        }
    }

    #[test]
    fn what_no_revision_knows_is_unknown() {
        for method in ["tools/call", "x/y", "Sampling/createMessage", "notifications/tools/call", ""] {
            assert!(matches!(sent(method, None), Sent::Unknown), "{method}");
        }
        assert!(matches!(sent("ping", None), Sent::Harmless));
    }
}
