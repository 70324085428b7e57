//! Portcullis, the binary: command line, settings, runtimes, wiring and admin ports. Everything that carries traffic is in
//! `waypoint-proxy`; everything that reads manifests is in `istio-integration`.
//!
//! [`wire::serve`] is the one composition root: `run` and `demo` are both thin callers of it.

pub mod admin;
pub mod background;
pub mod check;
pub mod cli;
pub mod config;
pub mod demo;
pub mod events;
pub mod feed;
pub mod identity;
pub mod levels;
mod limit_services;
pub mod logging;
pub mod matrix;
pub mod mesh;
pub mod proxy;
pub mod run;
pub mod runtime;
pub mod settings;
pub mod shutdown;
mod sockets;
mod traces;
pub mod tunnel;
pub mod wire;
