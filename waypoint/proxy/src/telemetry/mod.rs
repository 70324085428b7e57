// SKELETON: files exchange.rs (records), access_log.rs, metrics.rs
//! Every request and stream, said once: one log line, Istio's metrics, ours.
use spiffe_id::SpiffeId;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use waypoint_model::{Service, Workload};
use waypoint_policy::{Denial, Permit, RuleName};

/// Who called.
#[derive(Clone, Debug)]
pub struct SourceRecord {
    pub principal: Option<SpiffeId>,
    pub address: SocketAddr,
    pub workload: Option<Arc<Workload>>,
}
#[derive(Clone, Debug, Default)]
pub enum Decision {
    #[default]
    NotDecided,
    Allowed(Option<RuleName>),
    Denied {
        detail: String,
        rule: Option<RuleName>,
    },
}
#[derive(Clone, Debug, Default)]
pub struct McpRecord {
    pub method: Option<String>,
    pub name: Option<String>,
    pub revision: Option<String>,
    pub kind: Option<&'static str>,
    pub messages: usize,
    pub body_read: bool,
    pub hidden: usize,
    pub list_entries: usize,
    /* JSON-RPC error in the answer, if seen */ pub failed: bool,
}
/// One HTTP request, filled along the way.
#[derive(Debug)]
pub struct RequestRecord {
    pub started: SystemTime,
    pub clock: Instant,
    pub source: SourceRecord,
    pub service: Option<Arc<Service>>,
    pub port: u16,
    pub method: http::Method,
    pub path: String,
    pub authority: String,
    pub protocol: &'static str,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
    pub decision: Decision,
    pub dry_run: Option<String>,
    pub audited: Vec<RuleName>,
    pub upstream: Option<(Arc<Workload>, SocketAddr)>,
    pub route: Option<Arc<str>>,
    pub mcp: Option<McpRecord>,
    pub status: u16,
    pub grpc_status: Option<i32>,
    pub flags: &'static str,
    pub detail: String,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub generation: u64,
    pub grpc: bool,
}
/// One opaque stream.
#[derive(Debug)]
pub struct StreamRecord {
    pub started: SystemTime,
    pub clock: Instant,
    pub source: SourceRecord,
    pub service: Option<Arc<Service>>,
    pub port: u16,
    pub authority: String,
    pub decision: Decision,
    pub upstream: Option<(Arc<Workload>, SocketAddr)>,
    pub status: u16,
    pub flags: &'static str,
    pub detail: String,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub generation: u64,
    pub dry_run: Option<String>,
    pub audited: Vec<RuleName>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
    Off,
}
/// Where records go. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Telemetry {
    _p: (),
}
impl Telemetry {
    /// `sink` is written by its own thread through a bounded queue that counts what it drops.
    pub fn new(
        format: LogFormat,
        sink: Box<dyn std::io::Write + Send>,
        limits: &crate::limits::Limits,
    ) -> Self {
        todo!()
    }
    pub fn finish_request(&self, record: RequestRecord) {
        todo!()
    }
    pub fn stream_opened(&self, record: &StreamRecord) {
        todo!()
    }
    pub fn finish_stream(&self, record: StreamRecord) {
        todo!()
    }
    pub fn handshake_failed(&self, reason: &'static str) {
        todo!()
    }
    pub fn refused(&self, reason: &'static str) {
        todo!()
    }
    pub fn limit_hit(&self, limit: &'static str) {
        todo!()
    }
    /// A tunnel connection lives as long as the guard.
    pub fn tunnel(&self) -> Gauge {
        todo!()
    }
    pub fn stream(&self) -> Gauge {
        todo!()
    }
    pub fn config_applied(&self, generation: u64, errors: usize) {
        todo!()
    }
    pub fn certificate(&self, not_after: SystemTime) {
        todo!()
    }
    pub fn sessions(&self, count: usize) {
        todo!()
    }
    /// Names that servers really listed; other names count as `other`.
    pub fn listed(&self, service: &Arc<Service>, names: &[String]) {
        todo!()
    }
    /// Prometheus text (OpenMetrics), for `/stats/prometheus`.
    pub fn render(&self) -> String {
        todo!()
    }
}
pub struct Gauge {
    _p: (),
}
