//! One record as one line of JSON with fields of our own, and how text in lines is kept harmless.
//!
//! Most of what is written here was chosen by a client. In JSON every control character is escaped by the encoder; in
//! text, quotes, backslashes, controls and line separators are written as escapes, so no client can end a field or a line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use waypoint_model::{Service, Workload};
use waypoint_policy::RuleName;

use super::exchange::{A2aRecord, Decision, McpRecord, RequestRecord, SourceRecord, StreamRecord, detail};

/// Longest value of one field, in bytes; what is cut off is shown as `…`.
const LONGEST: usize = 2_048;

/// Fields in the order in which they are written; absent where unknown. Names are part of the contract with operators.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
struct Line<'a> {
    start_time: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_principal: Option<&'a str>,
    source_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_service: Option<&'a str>,
    destination_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    authority: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x_request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    response_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<i32>,
    response_flags: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_code_details: Option<String>,
    bytes_received: u64,
    bytes_sent: u64,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    route_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_messages: Option<usize>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    mcp_arguments: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list_hidden: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a2a_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a2a_binding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a2a_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a2a_task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    a2a_context: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    a2a_card_elsewhere: Vec<String>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run_decision: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    audit_rules: Vec<String>,
    generation: u64,
}

impl<'a> Line<'a> {
    fn request(record: &'a RequestRecord, took: Duration) -> Self {
        let (mcp, a2a) = (record.mcp.as_ref(), record.a2a.as_ref());
        let details = detail(&record.detail, &record.decision);
        Self {
            kind: "request",
            method: Some(record.method.as_str()),
            path: Some(clip(&record.path)),
            authority: clip(&record.authority),
            protocol: Some(record.protocol),
            user_agent: record.user_agent.as_deref().map(clip),
            x_request_id: record.request_id.as_deref().map(clip),
            trace_id: record.trace.map(|trace| format!("{:032x}", trace.trace_id)),
            response_code: record.status,
            grpc_status: record.grpc_status,
            response_flags: flags(record.flags),
            response_code_details: some(details).map(clip),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            route_name: record.route.as_deref(),
            mcp_method: mcp.and_then(|mcp| mcp.method.as_deref()).map(clip),
            mcp_name: mcp.and_then(|mcp| mcp.name.as_deref()).map(clip),
            mcp_revision: mcp.and_then(|mcp| mcp.revision.as_deref()).map(clip),
            mcp_kind: mcp.and_then(|mcp| mcp.kind),
            mcp_messages: mcp.map(|mcp| mcp.messages).filter(|messages| *messages > 1),
            mcp_arguments: mcp.map(arguments).unwrap_or_default(),
            list_hidden: list_hidden(record),
            a2a_method: a2a.map(|a2a| clip(a2a.operation.unwrap_or(&a2a.method))),
            a2a_binding: a2a.map(|a2a| a2a.binding),
            a2a_version: a2a.and_then(|a2a| a2a.version.as_deref()).map(clip),
            a2a_task: a2a.and_then(|a2a| a2a.task.as_deref()).map(clip),
            a2a_context: a2a.and_then(|a2a| a2a.context.as_deref()).map(clip),
            a2a_card_elsewhere: a2a.map(card_elsewhere).unwrap_or_default(),
            dry_run_decision: record.dry_run.as_ref().map(ToString::to_string),
            ..Self::common(&record.source, record.service.as_ref(), record.port, record.upstream.as_ref())
        }
        .timed(record.started, took)
        .judged(&record.decision, &record.audited, record.generation)
    }

    fn stream(record: &'a StreamRecord, took: Duration) -> Self {
        let details = detail(&record.detail, &record.decision);
        Self {
            kind: "stream",
            authority: clip(&record.authority),
            response_code: record.status,
            response_flags: flags(record.flags),
            response_code_details: some(details).map(clip),
            bytes_received: record.bytes_received,
            bytes_sent: record.bytes_sent,
            dry_run_decision: record.dry_run.as_ref().map(ToString::to_string),
            ..Self::common(&record.source, record.service.as_ref(), record.port, record.upstream.as_ref())
        }
        .timed(record.started, took)
        .judged(&record.decision, &record.audited, record.generation)
    }

    fn common(
        source: &'a SourceRecord,
        service: Option<&'a Arc<Service>>,
        port: u16,
        upstream: Option<&'a (Arc<Workload>, SocketAddr)>,
    ) -> Self {
        let workload = source.workload.as_deref();
        let attested = source.principal.as_ref().and_then(|principal| principal.workload());
        let endpoint = upstream.map(|(workload, _)| workload);
        Self {
            source_principal: source.principal.as_ref().map(|principal| principal.as_str()),
            source_address: source.address.to_string(),
            source_workload: workload.map(|workload| workload.workload_name.as_ref()),
            source_namespace: workload
                .map(|workload| workload.namespace.as_ref())
                .or(attested.map(|workload| workload.namespace)),
            destination_service: service.map(|service| service.key.hostname.as_ref()),
            destination_port: port,
            destination_principal: endpoint
                .and_then(|workload| workload.identity.as_ref())
                .map(|id| id.as_str()),
            destination_workload: endpoint.map(|workload| workload.workload_name.as_ref()),
            upstream_host: upstream.map(|(_, address)| address.to_string()),
            ..Self::default()
        }
    }

    fn timed(mut self, started: SystemTime, took: Duration) -> Self {
        self.start_time = timestamp(started);
        // Three digits: microseconds.
        self.duration_ms = (took.as_secs_f64() * 1e6).round() / 1e3;
        self
    }

    fn judged(mut self, decision: &Decision, audited: &[RuleName], generation: u64) -> Self {
        self.decision = decision.name();
        self.policy_rule = decision.rule().map(ToString::to_string);
        self.audit_rules = audited.iter().map(ToString::to_string).collect();
        self.generation = generation;
        self
    }
}

/// Entries that were left out; told of every list, so that none is told apart from not looked at.
fn list_hidden(record: &RequestRecord) -> Option<usize> {
    let mcp = record.mcp.as_ref().filter(|mcp| mcp.kind == Some("list") || mcp.hidden > 0);
    let tasks = |a2a: &&A2aRecord| a2a.operation == Some("ListTasks");
    mcp.map(|mcp| mcp.hidden).or(record.a2a.as_ref().filter(tasks).map(|a2a| a2a.hidden))
}

/// At most this many URLs of one card.
const ELSEWHERE: usize = 8;

fn card_elsewhere(a2a: &A2aRecord) -> Vec<String> {
    a2a.card_elsewhere.iter().take(ELSEWHERE).map(|url| clip(url)).collect()
}

fn arguments(mcp: &McpRecord) -> BTreeMap<&str, &str> {
    mcp.arguments.iter().map(|(name, value)| (&**name, value.as_str())).collect()
}

/// JSON, one object, with its line end.
pub(super) fn request_json(record: &RequestRecord, took: Duration) -> Vec<u8> {
    json(&Line::request(record, took))
}

/// JSON, one object, with its line end.
pub(super) fn stream_json(record: &StreamRecord, took: Duration) -> Vec<u8> {
    json(&Line::stream(record, took))
}

fn json(line: &Line<'_>) -> Vec<u8> {
    // The struct has string keys and plain values only, so encoding cannot fail.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn timestamp(at: SystemTime) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    OffsetDateTime::from(at).format(FORMAT).unwrap_or_else(|_| "-".to_owned())
}

fn flags(flags: &'static str) -> &'static str {
    if flags.is_empty() { "-" } else { flags }
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

pub(super) fn clip(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(LONGEST);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// Printable in a quoted field: no quote, no backslash, no control, no Unicode line separator or direction mark.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}
