//! Clusters: endpoints with how they are shared and reached, as a control plane compiled them.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::{ClusterKey, Locality, ServiceKey, TunnelKind, WorkloadUid};

/// Endpoints of one port (and subset) of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cluster {
    /// Its name, `inbound-vip|80|http|server.app.svc.cluster.local`.
    pub key: ClusterKey,
    /// The service it belongs to.
    pub service: ServiceKey,
    /// Service port.
    pub port: u16,
    /// Subset of a DestinationRule.
    pub subset: Option<String>,
    /// Endpoints.
    pub endpoints: Vec<ClusterEndpoint>,
    /// How requests are shared among them, how many at once, and what is spoken.
    pub traffic: TrafficPolicy,
    /// Why it cannot be used: requests to it are answered with 503.
    pub unusable: Option<String>,
}

/// One endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterEndpoint {
    /// The workload, if one is known at the address.
    pub workload: Option<WorkloadUid>,
    /// Where it listens.
    pub address: EndpointAddress,
    /// How it is reached. [`TunnelKind::Hbone`] without a workload (whose identity must be proved) is not used.
    pub tunnel: TunnelKind,
    /// Share among its siblings of one locality; 0 counts as 1.
    pub weight: u32,
    /// Endpoints of the lowest number are used while enough of them are healthy.
    pub priority: u32,
    /// Where it runs.
    pub locality: Locality,
    /// Share of its locality among those of its priority; `None`: shared by endpoint.
    pub locality_weight: Option<u32>,
    /// Whether the control plane holds it for ready.
    pub ready: bool,
}

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum EndpointAddress {
    /// Address and port.
    Socket(SocketAddr),
    /// Host name, resolved by us, and port.
    Host(String, u16),
}

/// How traffic to a cluster is shared and bounded (Istio `DestinationRule.trafficPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TrafficPolicy {
    /// Which endpoint.
    pub balancing: Balancing,
    /// When an endpoint is left out for a time; `None`: the process' settings.
    pub outlier: Option<OutlierDetection>,
    /// Bounds.
    pub limits: ConnectionLimits,
    /// What is spoken; `None`: as the port and the client say.
    pub http: Option<HttpVersion>,
    /// TLS to the endpoint, inside any tunnel; `None`: none.
    pub tls: Option<UpstreamTls>,
}

/// Which endpoint gets a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub enum Balancing {
    /// The less busy of two. The default.
    #[default]
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// By the request's hash (the route's hash policies), so that most keys stay when endpoints change.
    ConsistentHash,
}

/// When an endpoint is ejected (Istio `OutlierDetection`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlierDetection {
    /// 5xx answers in a row, connect failures and resets counted; `None`: not looked at.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503 and 504 in a row; `None`: not looked at.
    pub consecutive_gateway: Option<u32>,
    /// Failures before an answer in a row, where these are counted apart; `None`: with the others.
    pub consecutive_local: Option<u32>,
    /// How long an ejection lasts, times how often it was ejected.
    pub base_ejection: Duration,
    /// At most this share of the endpoints is ejected, percent.
    pub max_ejection_percent: u32,
    /// With fewer healthy than this, percent, ejections and readiness are not looked at.
    pub min_health_percent: u32,
}

/// Bounds of one cluster; `None`: the process' limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConnectionLimits {
    /// Open connections or opaque streams.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending: Option<u32>,
    /// Requests at once.
    pub requests: Option<u32>,
    /// Retries at once.
    pub retries: Option<u32>,
    /// Requests on one connection, then it is closed.
    pub requests_per_connection: Option<u32>,
    /// Connecting.
    pub connect_timeout: Option<Duration>,
    /// A connection without requests is closed after this.
    pub idle_timeout: Option<Duration>,
}

/// What is spoken to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// What the client speaks.
    AsClient,
}

/// TLS that we originate (Istio `ClientTLSSettings`, modes SIMPLE and MUTUAL).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct UpstreamTls {
    /// Server name; `None`: the request's host.
    pub sni: Option<String>,
    /// Any of these must be a SAN of the server's certificate; empty: the server name is checked instead.
    pub subject_alt_names: Vec<String>,
    /// PEM file of roots; `None`: the system's.
    pub ca_file: Option<String>,
    /// PEM files of our chain and key (MUTUAL).
    pub client_files: Option<(String, String)>,
    /// The certificate is not checked at all (`insecureSkipVerify`).
    pub insecure: bool,
    /// ALPN protocols.
    pub alpn: Vec<String>,
}
