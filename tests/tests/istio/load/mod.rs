//! Load on Services behind a waypoint that istiod deployed.

mod follower;
mod site;

pub(crate) use follower::follower;
pub(crate) use portcullis_tests::load::*;
pub(crate) use site::{GRPC, HTTP, Site, TCP, WAYPOINT, ask, manifest};
