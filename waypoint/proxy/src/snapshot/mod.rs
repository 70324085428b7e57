//! The compiled mesh: what a request needs, looked up once.
mod build;
mod cell;
#[allow(clippy::module_inception)]
mod snapshot;

pub use cell::ConfigCell;
pub use snapshot::{Destination, Snapshot};
