//! The data plane: tunnels in, an identity, a destination, an operation and a permit, in that order, and a tunnel out.
//!
//! The files stand in the order in which a request meets them; `docs/architecture.md` follows one through them.
#![allow(dead_code, unused, missing_docs, clippy::all)] // SKELETON: goes when the parts have landed

pub mod body;
pub mod context;
pub mod drain;
pub mod limits;
pub mod refusal;
pub mod routing;
pub mod settings;
pub mod snapshot;
pub mod telemetry;
pub mod upstream;
