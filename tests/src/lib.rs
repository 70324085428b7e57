//! Support for the black-box tests: everything around the shipped binary, written without any of our crates.
//!
//! A test starts the binary as an operator would and stands in for its neighbours:
//!
//! ```text
//!   ztunnel::Outbound ──TLS, h2 CONNECT──► portcullis::Portcullis ──TLS, h2 CONNECT──► ztunnel::Inbound ──► upstream::Upstream
//!     (a source pod)                        (the shipped binary)                       (a destination pod)    (its application)
//! ```
//!
//! [`mesh::Mesh`] puts these together for the usual case; the parts can be used on their own.
//! Set-up that fails returns an error with its cause; a broken promise of the binary panics and says what was expected.
//! Nothing sleeps: [`wait`] waits for a condition with a deadline.
//!
//! Real neighbours (SDKs, the conformance suite, gRPC, WebSocket) are scripts that [`neighbours`] starts; [`stand`] puts
//! a waypoint before one. [`load`] is traffic that must go on whatever happens. [`istio`] is a real control plane. A file of tests begins with `#![cfg(test)]`, which tells the lints that it is one.

pub mod addresses;
pub mod application;
pub mod ca;
pub mod forward;
pub mod frames;
pub mod http;
pub mod istio;
pub mod lines;
pub mod load;
pub mod manifests;
pub mod mesh;
pub mod neighbours;
pub mod portcullis;
pub mod process;
mod rest;
pub mod single;
pub mod soak;
pub mod stand;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod wait;
pub mod workload_api;
pub mod ztunnel;
