//! Everything that knows Istio and Kubernetes: their resources are translated into the waypoint's model here, and
//! nothing of their shape leaves this crate.

pub mod bootstrap;
pub mod ca;
pub mod feeds;
