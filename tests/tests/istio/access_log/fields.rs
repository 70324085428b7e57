//! A line as fields with names.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// Fields of a line by name, as JSON.
pub(crate) type Fields = BTreeMap<String, Value>;

/// A format of the mesh.
pub(crate) struct Format {
    pub(crate) name: &'static str,
    /// What its lines begin with.
    pub(crate) begins: char,
    /// Reads one of its lines.
    pub(crate) read: fn(&str) -> Result<Fields>,
}

pub(crate) const FORMATS: [Format; 2] = [
    Format { name: "text", begins: '[', read: of_text },
    Format { name: "JSON", begins: '{', read: of_json },
];

/// Istio's default text format, field by field (`EnvoyTextLogFormat` of istiod).
const TEXT: [&str; 22] = [
    "start_time",
    "request",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "upstream_transport_failure_reason",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "route_name",
];

/// The JSON format of the mesh: Istio's own, and operators that people use beside it.
pub(crate) const JSON: &str = r#"{
    "start_time": "%START_TIME%", "minute": "%START_TIME(%Y-%m-%dT%H:%M)%", "route_name": "%ROUTE_NAME%",
    "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "without_query": "%REQ_WITHOUT_QUERY(:PATH)%", "cut": "%REQ(USER-AGENT):3%",
    "either": "%REQ(X-NONE?USER-AGENT)%", "content_type": "%RESP(CONTENT-TYPE)%", "grpc": "%GRPC_STATUS%",
    "cluster": "%UPSTREAM_CLUSTER%", "local_port": "%DOWNSTREAM_LOCAL_PORT%",
    "local_ip": "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "remote_ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "direct_ip": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%", "upstream_remote": "%UPSTREAM_REMOTE_ADDRESS%",
    "mixed": "%REQ(:METHOD)% gave %RESPONSE_CODE% %REQ(X-NONE)%", "percent": "100%%",
    "nested": {"agent": "%REQ(USER-AGENT)%", "list": ["%RESPONSE_CODE%", "fixed"]}
}"#;

fn of_text(line: &str) -> Result<Fields> {
    let mut values = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => rest[1..].find('"').context("an end of quotes")? + 2,
            '[' => rest.find(']').context("an end of brackets")? + 1,
            _word => rest.find(' ').unwrap_or(rest.len()),
        };
        let (value, after) = rest.split_at(end);
        let quoted = ['"', '['].contains(&first);
        values.push(if quoted { &value[1..value.len() - 1] } else { value });
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    ensure!(values.len() == TEXT.len(), "{} fields", values.len());
    let fields = TEXT.into_iter().zip(values).map(|(name, value)| (name.to_owned(), Value::from(value)));
    Ok(shaped(fields.collect()))
}

fn of_json(line: &str) -> Result<Fields> {
    Ok(shaped(serde_json::from_str(line)?))
}

/// As text: what is not there is `-`.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What is another with every request, by its shape. Types stay.
fn shaped(mut fields: Fields) -> Fields {
    for (name, value) in &mut fields {
        let text = shown(value);
        let shape = match name.as_str() {
            "start_time" | "minute" => digits(&text),
            "duration" | "upstream_service_time" if text != "-" => digits(&text).replace('9', ""),
            "downstream_remote_address" => without_port(&text),
            "upstream_local_address" if !text.contains("://") => {
                without_port(&text).split('.').take(2).collect::<Vec<_>>().join(".")
            }
            // The word is Envoy's; what it puts behind it is not ours.
            "response_code_details" => match text.split_once('|') {
                Some((word, _causes)) => format!("{word}}}"),
                None => text,
            },
            "upstream_transport_failure_reason" if text != "-" && !text.contains(' ') => {
                "a reason".to_owned()
            }
            _same => continue,
        };
        *value = match value {
            Value::Number(_) => Value::from(shape.len()),
            Value::Null => Value::Null,
            Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => Value::from(shape),
        };
    }
    fields
}

/// Each digit is a nine.
fn digits(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect()
}

/// A port is there or it is 0.
fn without_port(address: &str) -> String {
    match address.rsplit_once(':') {
        Some((host, "0")) => format!("{host}:0"),
        Some((host, _)) => host.to_owned(),
        None => address.to_owned(),
    }
}
