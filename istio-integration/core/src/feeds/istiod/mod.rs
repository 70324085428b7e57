//! istiod as a feed: what it compiled for a waypoint, translated into the model.

mod translated;

pub use translated::{FrontedPods, FrontedPort, Refused, Translated};
