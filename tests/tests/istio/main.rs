//! Tests against a real istiod. They need a lab around them: `cargo xtask test --only istio`.
#![cfg(test)]

mod access_log;
mod analyze;
mod authorization;
mod control_plane;
mod controlplane;
mod deploy;
mod deployment;
mod direct;
mod egress;
mod enclosure;
mod equivalence;
mod external;
mod istioctl;
mod lifecycle;
mod limits;
mod load;
mod mesh_settings;
mod readme;
mod refusals;
mod rollout;
mod rotation;
mod routing;
mod services;
mod stage;
mod telemetry;
mod tools;
mod traces;
mod traffic;
mod waypoint;
