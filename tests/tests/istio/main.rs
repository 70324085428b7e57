//! Tests against a real istiod. They need a lab around them: `cargo xtask test --only istio`.
#![cfg(test)]

mod analyze;
mod controlplane;
mod deploy;
mod deployment;
mod enclosure;
mod readme;
mod stage;
mod tools;
mod traffic;
mod waypoint;
