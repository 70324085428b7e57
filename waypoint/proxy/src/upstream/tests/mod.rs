//! Over real sockets: what goes out, what comes back, and what is never sent twice.

mod hbone;
mod http1;
mod http2;
mod limits;
mod mesh;
mod named;
mod retries;
mod servers;
mod streams;
pub(super) mod tls;

use std::future::Future;
use std::time::Duration;

/// The deadline of everything a test waits for. Far above what it takes, so that only a hang reaches it.
const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for `what`, and fails the test when it does not come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("did not come in time")
}

/// Waits until `holds`, looking again after every turn of the runtime.
async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}
