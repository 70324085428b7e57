//! What a span says: OpenTelemetry's semantic conventions of HTTP servers and of MCP, Istio's names for both ends and for
//! what Envoy tells, and what policy decided. Arguments are never told.

use std::borrow::Cow;

use http::Method;

use super::SpanValue;
use crate::telemetry::exchange::{Decision, McpRecord, RequestRecord};
use crate::telemetry::line::clip;
use crate::telemetry::settings::{Facts, Tracer};

/// Methods that stand in names and attributes as they are (RFC 9110 §9, RFC 5789); clients can invent others.
const METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];
/// What the conventions write for what they don't know.
const OTHER: &str = "_OTHER";
/// Bytes of a name that a client chose.
const LONGEST_NAME: usize = 128;

/// What is not in the record.
pub(super) struct Told<'a> {
    pub(super) tracer: &'a Tracer,
    pub(super) session: Option<&'a str>,
    pub(super) id: Option<&'a str>,
}

/// `tools/call search` for MCP; `GET` otherwise, since paths have too many values.
pub(super) fn name(record: &RequestRecord) -> String {
    let mcp = record.mcp.as_ref();
    let Some((mcp, method)) = mcp.and_then(|mcp| Some((mcp, mcp.method.as_deref()?))) else {
        return if METHODS.contains(&record.method) { record.method.to_string() } else { "HTTP".to_owned() };
    };
    match mcp.name.as_deref().filter(|_| names_tool(method) || names_prompt(method)) {
        Some(target) => format!("{} {}", short(method), short(target)),
        None => short(method).to_owned(),
    }
}

/// What went wrong, in few words; `None` where nothing did. A refusal of plain HTTP is the client's fault, and no error of
/// a server (*HTTP spans*, status); one of an MCP call is an error whatever its status.
pub(super) fn error(record: &RequestRecord) -> Option<Cow<'static, str>> {
    let denied = matches!(record.decision, Decision::Denied { .. });
    match record.mcp.as_ref() {
        Some(mcp) if mcp.method.is_some() && denied => return Some("policy_denied".into()),
        Some(McpRecord { failed: true, .. }) => return Some(OTHER.into()),
        _none => {}
    }
    match record.status {
        500.. => Some(record.status.to_string().into()),
        _fine => None,
    }
}

/// Everything that is known.
pub(super) fn all(
    record: &RequestRecord,
    facts: &Facts<'_>,
    told: &Told<'_>,
) -> Vec<(Cow<'static, str>, SpanValue)> {
    let mut list = List(Vec::with_capacity(48));
    http(record, told.tracer.max_path, &mut list);
    if let Some(mcp) = &record.mcp {
        self::mcp(mcp, told, &mut list);
    }
    mesh(record, facts, &mut list);
    list.some("error.type", error(record).as_deref());
    for (name, value) in told.tracer.tags(facts) {
        // An operator's own name wins over ours.
        list.0.retain(|(known, _)| known != name);
        list.0.push((Cow::Owned(name.to_owned()), SpanValue::Text(clip(&value))));
    }
    list.0
}

struct List(Vec<(Cow<'static, str>, SpanValue)>);

impl List {
    fn text(&mut self, name: &'static str, value: &str) {
        self.0.push((Cow::Borrowed(name), SpanValue::Text(clip(value))));
    }

    fn some(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.text(name, value);
        }
    }

    fn number(&mut self, name: &'static str, value: impl Into<i64>) {
        self.0.push((Cow::Borrowed(name), SpanValue::Number(value.into())));
    }
}

fn http(record: &RequestRecord, max_path: usize, list: &mut List) {
    let method = record.method.as_str();
    if METHODS.contains(&record.method) {
        list.text("http.request.method", method);
    } else {
        list.text("http.request.method", OTHER);
        list.text("http.request.method_original", short(method));
    }
    // Without its query, which may hold what is nobody else's.
    let path = record.path.split_once('?').map_or(record.path.as_str(), |(path, _)| path);
    list.some("url.path", path.get(..path.floor_char_boundary(max_path)));
    list.text("url.scheme", "http");
    if record.status != 0 {
        list.number("http.response.status_code", record.status);
    }
    list.text("network.protocol.name", "http");
    list.text("network.protocol.version", record.protocol.trim_start_matches("HTTP/"));
    list.text("network.transport", "tcp");
    let (host, port) = authority(&record.authority);
    list.some("server.address", Some(host));
    list.number("server.port", port.unwrap_or(record.port));
    let client = record.source.address;
    list.text("client.address", &client.ip().to_string());
    list.text("network.peer.address", &client.ip().to_string());
    list.number("network.peer.port", client.port());
    list.some("user_agent.original", record.user_agent.as_deref());
    if record.grpc {
        list.text("rpc.system", "grpc");
        if let Some(status) = record.grpc_status {
            list.number("rpc.grpc.status_code", status);
        }
    }
}

fn mcp(mcp: &McpRecord, told: &Told<'_>, list: &mut List) {
    let method = mcp.method.as_deref();
    list.some("mcp.method.name", method);
    list.some("mcp.protocol.version", mcp.revision.as_deref());
    list.some("mcp.session.id", told.session);
    list.some("jsonrpc.request.id", told.id.map(|id| id.trim_matches('"')));
    let name = |names: fn(&str) -> bool| mcp.name.as_deref().filter(|_| method.is_some_and(names));
    list.some("gen_ai.tool.name", name(names_tool));
    list.some("gen_ai.prompt.name", name(names_prompt));
    list.some("mcp.resource.uri", name(|method| method.starts_with("resources/")));
    list.some("gen_ai.operation.name", method.filter(|method| names_tool(method)).map(|_| "execute_tool"));
    if mcp.hidden > 0 {
        list.number("portcullis.list_hidden", i64::try_from(mcp.hidden).unwrap_or(i64::MAX));
    }
}

/// Both ends, what Envoy tells under Istio, and what policy decided.
fn mesh(record: &RequestRecord, facts: &Facts<'_>, list: &mut List) {
    let principal = record.source.principal.as_ref().map(|id| id.as_str());
    list.some("istio.source_principal", principal);
    let upstream = record.upstream.as_ref();
    let identity = upstream.and_then(|(workload, _)| workload.identity.as_ref());
    list.some("istio.destination_principal", identity.map(|id| id.as_str()));
    list.some("istio.destination_service", record.service.as_ref().map(|service| &*service.key.hostname));
    list.text("component", "proxy");
    list.some("guid:x-request-id", record.request_id.as_deref());
    list.text("peer.address", &record.source.address.ip().to_string());
    list.text("response_flags", if record.flags.is_empty() { "-" } else { record.flags });
    list.text("request_size", &record.bytes_received.to_string());
    list.text("response_size", &record.bytes_sent.to_string());
    list.some("upstream_cluster", facts.cluster().as_deref());
    list.some("upstream_cluster.name", facts.cluster().as_deref());
    list.some("upstream_address", upstream.map(|(_, address)| address.to_string()).as_deref());
    list.text("portcullis.decision", record.decision.name());
    list.some("portcullis.policy_rule", record.decision.rule().map(ToString::to_string).as_deref());
}

fn names_tool(method: &str) -> bool {
    method == "tools/call"
}

fn names_prompt(method: &str) -> bool {
    method == "prompts/get"
}

fn short(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST_NAME)).unwrap_or_default()
}

/// Host and port; an IPv6 address without its brackets.
fn authority(authority: &str) -> (&str, Option<u16>) {
    let split = authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.map_or((authority, None), |(host, port)| (host, Some(port)));
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        let rows = [
            ("a.example:8080", ("a.example", Some(8080))),
            ("a.example", ("a.example", None)),
            ("[fd00::1]:80", ("fd00::1", Some(80))),
            ("[fd00::1]", ("fd00::1", None)),
            ("", ("", None)),
        ];
        for (text, want) in rows {
            assert_eq!(authority(text), want, "{text}");
        }
    }
}
