//! istiod as a feed: what it compiled for a waypoint, translated into the model.
//!
//! `feed` owns the stream and decides when a configuration is whole; `state` holds all that istiod said; `fronted` and
//! `upstreams` join what the translators (one file a kind of resource or filter) made of it.

mod apply;
pub mod cluster;
mod connection;
pub mod endpoint;
mod feed;
mod fronted;
mod gather;
mod held;
mod index;
mod intake;
mod kind;
mod listener;
mod node;
mod own_destination;
mod service;
mod state;
mod transport;
mod upstream;
mod upstreams;
mod workload;

pub use apply::{Apply, Emitted, Finding, Severity};
pub use connection::Connection;
pub use feed::Feed;
pub use held::{HeldResource, HeldResources, Version};
pub use index::{AddressError, Index};
pub use kind::Kind;
pub use listener::{FrontedPods, FrontedPort, Listeners, Refused, Translated};
pub(in crate::feeds) use listener::{LIMITS, Limit, limit};
pub use service::MeshService;
pub use transport::MutualTls;
pub use upstream::{TranslatedCluster, TranslatedEndpoints};
pub use workload::Own;
pub use xds_client::UnusableSettings;
