//! istiod as a feed: what it compiled for a waypoint, translated into the model.

pub mod cluster;
pub mod endpoint;
mod index;
mod service;
mod translated;
mod transport;
mod upstream;
mod workload;

pub use index::{AddressError, Index};
pub use service::MeshService;
pub use translated::{FrontedPods, FrontedPort, Refused, Translated};
pub use upstream::{TranslatedCluster, TranslatedEndpoints};
pub use workload::Own;
