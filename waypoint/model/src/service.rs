//! Services: what a client addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::{Chain, JwtRule, Map, PolicyKey, RouteKey, ServiceKey, WorkloadUid};

/// A service: its addresses, its ports, its endpoints and what applies to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    /// `namespace/hostname`.
    pub key: ServiceKey,
    /// Short name, as metrics show it (`destination_service_name`).
    pub name: String,
    /// Whether this waypoint stands before it. Services that are only a route's backend are not addressable by clients.
    pub fronted: bool,
    /// Other host names that a CONNECT may carry for it (a ServiceEntry may have several).
    pub aliases: Vec<String>,
    /// Virtual addresses.
    pub vips: Vec<IpAddr>,
    /// Ports by service port number.
    pub ports: Map<u16, ServicePort>,
    /// Workloads behind it.
    pub endpoints: Vec<Endpoint>,
    /// Policies that target it (the service itself, its Gateway or its GatewayClass), merged per action.
    pub policies: Vec<PolicyKey>,
    /// Routes attached to it, in the order in which they are tried.
    pub routes: Vec<RouteKey>,
    /// Tokens that are accepted on every port.
    pub jwt: Vec<Arc<JwtRule>>,
}

/// Workloads that stand behind this waypoint by their own address, on any port (`istio.io/waypoint-for: workload`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pods {
    /// Their addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// What their ports carry; `Undeclared`: the first bytes tell.
    pub protocol: Protocol,
    /// What holds on them. Requests go to the workload itself: its cluster, routes and streams are not looked at.
    pub chain: Chain,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServicePort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What it carries.
    pub protocol: Protocol,
    /// What holds on this port only.
    pub chain: Chain,
}

impl ServicePort {
    /// A port with nothing of its own.
    #[must_use]
    pub fn new(name: Option<String>, protocol: Protocol) -> Self {
        Self { name, protocol, chain: Chain::default() }
    }
}

/// What a port carries, as declared by `appProtocol` or the port's name (Istio's protocol selection).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2 with prior knowledge towards us; HTTP/1.1 upstream.
    Http,
    /// As `Http`, and HTTP/2 upstream.
    Http2,
    /// As `Http2`; refusals are gRPC statuses.
    Grpc,
    /// Opaque bytes.
    Tcp,
    /// Opaque bytes that start with a TLS ClientHello.
    Tls,
    /// Not declared: the first bytes tell.
    Undeclared,
}

/// One workload behind a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The workload.
    pub workload: WorkloadUid,
    /// Target port by service port number; a port that is missing here is not served by this endpoint.
    pub ports: Map<u16, u16>,
    /// Whether the control plane holds it for ready.
    pub ready: bool,
}
