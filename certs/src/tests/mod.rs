//! Tests that need a mesh: an authority, good and bad peers, files that change, an agent on its socket.

mod agent;
pub(crate) mod authority;
mod handshake;
mod peer;
mod refusals;
mod renewal;
mod revocation;
mod rotation;
mod workload_api;

use std::{future::Future, time::Duration};

/// The deadline of everything a test waits for. Far above what it takes, so that only a hang reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for `what`, and fails the test when it does not come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("did not come in time")
}
