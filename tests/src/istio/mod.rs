//! A real control plane for the tests: etcd, kube-apiserver and an unmodified istiod, with pods that have addresses.
//!
//! `lab run -- COMMAND` starts the control plane in namespaces of its own (network, processes, mounts), so that several
//! run side by side, every port is the real one, and nothing is left when it ends, however it ends. COMMAND runs inside.
//! A test in it calls [`Lab::get`]. There is no kubelet: what it would do for a pod, [`Pod`] and [`Waypoint`] do.
//!
//! ```text
//!   hub namespace: etcd, kube-apiserver, istiod, the tests        bridge 10.244.0.1/16
//!   one namespace a pod: 10.244.x.y                               waypoints, echo servers, clients
//! ```
//!
//! `tests/istio/README.md` says how to use it.

mod api;
mod certificate;
mod command;
mod controlplane;
mod daemon;
mod definitions;
pub mod echo;
pub mod enclosure;
mod istiod;
mod lab;
mod network;
mod objects;
pub mod oracle;
mod pki;
mod pod;
mod state;
pub mod waypoint;

pub use api::Api;
pub use certificate::Identity;
pub use echo::{Answer, Echo};
pub use istiod::{Authority, Istiod, Settings as IstiodSettings};
pub use lab::{Lab, Namespace};
pub use network::PodNetwork;
pub use oracle::Oracle;
pub use pod::{Pod, PodSpec};
pub use state::State;
pub use waypoint::{Waypoint, WaypointSettings};
