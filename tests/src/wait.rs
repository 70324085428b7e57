//! Waiting for a condition with a deadline, so that no test sleeps and none hangs.

use anyhow::{Context, Result, bail};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a test waits for something that should happen at once. Generous, because two cores may run many tests.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// How long a test waits for a whole program of somebody else: an SDK's client, a suite.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks at a condition that can't be waited for directly.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Finishes `future` within [`DEADLINE`] or fails with `what` was waited for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    within_time(DEADLINE, what, future).await
}

/// Finishes `future` within `time` or fails with `what` was waited for.
pub async fn within_time<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> Result<T> {
    timeout(time, future).await.with_context(|| format!("waited {time:?} for {what}"))
}

/// Looks until `probe` finds something, for at most [`DEADLINE`].
pub async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    until_async(what, async || Ok(probe())).await
}

/// Like [`until`] for a probe that has to ask somebody; an error of the probe ends the wait.
pub async fn until_async<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        sleep(LOOK_AGAIN).await;
    }
    bail!("waited {DEADLINE:?} in vain until {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_never_holds_fails_with_its_name() {
        let error = until("the moon is green", || None::<()>).await.unwrap_err();
        assert!(error.to_string().contains("the moon is green"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_is_looked_at_until_it_holds() {
        let mut looks = 0;
        let found = until("the third look", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.await.unwrap(), 3);
    }
}
