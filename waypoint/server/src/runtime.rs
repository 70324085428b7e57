//! The only place that builds runtimes. One thread for control (signals, configuration, certificates, admin), and one worker
//! a CPU of the limit for traffic, so that a large configuration never delays a request.

use std::io;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

use tokio::runtime::{Builder, Runtime};

/// For the main thread.
///
/// # Errors
/// If the system gives no event queue.
pub fn control() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// For traffic: `threads`, or as many as the CPU limit of the process gives (its cgroup's quota included).
///
/// # Errors
/// If the system gives no event queue or no threads.
pub fn workers(threads: Option<NonZeroUsize>) -> io::Result<Runtime> {
    let threads = threads.or(available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    Builder::new_multi_thread().worker_threads(threads).thread_name("worker").enable_all().build()
}
