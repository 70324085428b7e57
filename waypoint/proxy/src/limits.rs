//! Every bound of the data plane, by name, with its documented default (`docs/operations.md` lists them).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bounds and deadlines. Sizes are bytes. Each is a key of the settings file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// HBONE connections open at once; beyond it accepting stops.
    pub connections: usize,
    /// Of these, connections of one identity; beyond it a new one is closed, so that nobody shuts out the others.
    pub peer_connections: usize,
    /// TLS handshakes in flight; beyond it a new connection is closed.
    pub handshakes: usize,
    /// Deadline of one TLS and HTTP/2 handshake.
    #[serde(with = "Millis")]
    pub handshake_timeout: Duration,
    /// Streams a client may have open on one HBONE connection. Not under 100: ztunnel assumes as many.
    pub streams_per_connection: u32,
    /// Streams that we open on one HBONE connection to an endpoint; beyond it another connection is made.
    pub upstream_streams_per_connection: usize,
    /// HTTP/2 window of one stream.
    pub stream_window: u32,
    /// HTTP/2 window of one connection; greater than `stream_window`.
    pub connection_window: u32,
    /// Flow-control credit granted over all connections; beyond it a new connection gets windows of 64 KiB.
    pub total_window: u64,
    /// Bytes buffered for sending on one stream.
    pub send_buffer: usize,
    /// Header list of one request, inside a tunnel and on CONNECT.
    pub header_list: u32,
    /// Largest HTTP/2 frame.
    pub frame: u32,
    /// Frames of a client that carry nothing (PING, SETTINGS, RST_STREAM, empty DATA and the like) on one connection in a second,
    /// less those that carry data; beyond it GOAWAY.
    pub idle_frames: usize,
    /// Largest body that is read to be judged; beyond it 413.
    pub inspected_body: usize,
    /// Bodies held for judging, all together; beyond it 503.
    pub inspected_total: usize,
    /// Time for a client to send a body that is to be judged.
    #[serde(with = "Millis")]
    pub inspection_timeout: Duration,
    /// Nesting of objects and arrays in a body that is judged, and in an answer that is filtered; beyond it 400.
    pub json_depth: usize,
    /// Object members and array elements of a body that is judged, all levels together; beyond it 400.
    pub json_members: usize,
    /// Object key of such a body as written, in bytes; beyond it 400.
    pub json_key: usize,
    /// Messages of one batch, and URIs of one subscription; beyond it 400.
    pub batch_messages: usize,
    /// Name of a tool or prompt, in bytes; beyond it 400.
    pub name_length: usize,
    /// `Mcp-Param-*` headers of one request; beyond it 431.
    pub parameter_headers: usize,
    /// Event streams of servers' own (GET) that one identity has open to one service; beyond it 429.
    pub peer_event_streams: usize,
    /// Entries of one list that is filtered; beyond it the answer is refused.
    pub list_entries: usize,
    /// Largest list answer that is filtered; beyond it the answer is refused, never passed unfiltered.
    pub screened_list: usize,
    /// Largest event of a filtered event stream. A list answer comes as one event, so not under `screened_list`.
    pub sse_event: usize,
    /// Largest request body kept for a retry.
    pub retry_replay: usize,
    /// Largest read from a socket of an opaque stream. Reads begin at 1 KiB and double while they are filled; a slow reader's sender
    /// waits, since credit returns only for what was written.
    pub copy_buffer: usize,
    /// Bytes looked at to tell the protocol of an undeclared port.
    pub sniffed: usize,
    /// Time to wait for them; then the stream is opaque.
    #[serde(with = "Millis")]
    pub sniff_timeout: Duration,
    /// Deadline for TCP, TLS and CONNECT to an endpoint.
    #[serde(with = "Millis")]
    pub connect_timeout: Duration,
    /// Time for a client to send a request head inside a tunnel.
    #[serde(with = "Millis")]
    pub request_head_timeout: Duration,
    /// Requests to one endpoint at once (circuit breaker); beyond it 503 UO.
    pub endpoint_requests: usize,
    /// Connections to one endpoint at once (circuit breaker).
    pub endpoint_connections: usize,
    /// Consecutive failures (connect, reset, 5xx from the gateway) that eject an endpoint.
    pub ejection_failures: u32,
    /// First ejection time; doubles up to ten times it.
    #[serde(with = "Millis")]
    pub ejection_time: Duration,
    /// Idle time after which a pooled upstream connection is closed.
    #[serde(with = "Millis")]
    pub upstream_idle: Duration,
    /// Idle HTTP/1.1 connections kept for one endpoint; beyond it they are closed after their response.
    pub upstream_idle_connections: usize,
    /// MCP sessions remembered where ids are not sealed; the least recently used goes first.
    pub sessions: usize,
    /// Idle time after which a remembered session is forgotten.
    #[serde(with = "Millis")]
    pub session_idle: Duration,
    /// Age after which a sealed session id is no longer accepted.
    #[serde(with = "Millis")]
    pub session_age: Duration,
    /// Updates of the control plane taken in and not serving yet; beyond it nothing more is read, and the control plane waits.
    pub xds_queue: usize,
    /// Quotas of rate and concurrency limits in use, each for one description of requests; beyond it further descriptions of a
    /// limit share one.
    pub rate_buckets: usize,
    /// Log lines waiting to be written; beyond it they are dropped and counted.
    pub log_queue: usize,
    /// Spans waiting to be exported; beyond it they are dropped and counted.
    pub span_queue: usize,
    /// Label sets of one metric; beyond it `other`.
    pub label_sets: usize,
    /// A label set that nothing touched for so long is forgotten after the scrape that shows it last.
    #[serde(with = "Millis")]
    pub label_idle: Duration,
    /// After SIGTERM: not ready, still accepting.
    #[serde(with = "Millis")]
    pub drain_linger: Duration,
    /// After SIGTERM: streams still open are reset.
    #[serde(with = "Millis")]
    pub drain_deadline: Duration,
    /// How often open connections are checked for expiry, and long streams for a changed policy.
    #[serde(with = "Millis")]
    pub recheck: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            peer_connections: 5_000,
            handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            streams_per_connection: 200,
            upstream_streams_per_connection: 100,
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            total_window: 1 << 30,
            send_buffer: 400 << 10,
            header_list: 64 << 10,
            frame: 1 << 20,
            idle_frames: 2_000,
            inspected_body: 4 << 20,
            inspected_total: 128 << 20,
            inspection_timeout: Duration::from_secs(30),
            json_depth: 64,
            json_members: 100_000,
            json_key: 1 << 10,
            batch_messages: 100,
            name_length: 256,
            parameter_headers: 64,
            peer_event_streams: 10_000,
            list_entries: 10_000,
            screened_list: 4 << 20,
            sse_event: 4 << 20,
            retry_replay: 64 << 10,
            copy_buffer: 64 << 10,
            sniffed: 1 << 10,
            sniff_timeout: Duration::from_millis(100),
            connect_timeout: Duration::from_secs(10),
            request_head_timeout: Duration::from_secs(60),
            endpoint_requests: 1 << 12,
            endpoint_connections: 1 << 10,
            ejection_failures: 5,
            ejection_time: Duration::from_secs(30),
            upstream_idle: Duration::from_secs(300),
            upstream_idle_connections: 100,
            sessions: 100_000,
            session_idle: Duration::from_secs(24 * 3600),
            session_age: Duration::from_secs(7 * 24 * 3600),
            xds_queue: 64,
            rate_buckets: 100_000,
            log_queue: 8_192,
            span_queue: 2_048,
            label_sets: 10_000,
            label_idle: Duration::from_secs(3_600),
            drain_linger: Duration::from_secs(3),
            drain_deadline: Duration::from_secs(25),
            recheck: Duration::from_millis(250),
        }
    }
}

impl Limits {
    /// The bounds that the protocol reader keeps.
    pub(crate) fn protocol(&self) -> agent_protocols::Limits {
        agent_protocols::Limits {
            body: self.inspected_body,
            depth: self.json_depth,
            members: self.json_members,
            key: self.json_key,
            batch: self.batch_messages,
            name: self.name_length,
            parameters: self.parameter_headers,
            list_items: self.list_entries,
            list: self.screened_list,
            sse_event: self.sse_event,
            ..agent_protocols::Limits::default()
        }
    }
}

/// Durations are written in the settings file as whole milliseconds.
#[derive(JsonSchema)]
#[schemars(description = "Milliseconds.", transparent)]
struct Millis(#[expect(dead_code, reason = "only its schema and its functions are used")] u64);

impl Millis {
    fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
