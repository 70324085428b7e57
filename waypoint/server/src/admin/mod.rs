//! The plain HTTP ports beside the traffic: 15000 (admin, loopback), 15020 (metrics) and 15021 (readiness).

mod config_dump;
mod envoy;
mod pages;
mod ready;
mod server;

pub use pages::{Admin, Surface};
pub use ready::Readiness;
pub use server::serve;
