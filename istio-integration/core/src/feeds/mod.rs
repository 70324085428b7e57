//! Where configuration comes from, one folder a feed. Each emits a whole [`waypoint_model::MeshConfig`].

pub mod file;
pub mod istiod;
