//! istiod as a feed: what it compiled for a waypoint, translated into the model.

mod translated;
mod upstream;

pub use translated::{FrontedPods, FrontedPort, Refused, Translated};
pub use upstream::{TranslatedCluster, TranslatedEndpoints};
