//! The compiled mesh: what a request needs, looked up once.
mod build;
mod cell;
mod pods;
#[allow(clippy::module_inception)]
mod snapshot;

pub(crate) use build::attached;
pub use cell::ConfigCell;
pub use snapshot::{Destination, Snapshot};
