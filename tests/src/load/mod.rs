//! Load that must go on while something happens: callers that ask one thing after the other, and count.
//!
//! [`App`] answers all of them. [`Follower`] is the ztunnel of a source that follows the endpoints of a waypoint; a
//! [`Way`] is how a caller's connections get to a Service, by a follower or over one ztunnel.

mod app;
mod bytes;
mod follower;
mod http;
mod mcp;
mod rpc;
pub mod site;
mod way;

pub use app::{App, answer};
pub use bytes::{Echoed, FreshBytes};
pub use follower::Follower;
pub use http::{Fresh, Kept, Posted, Ticks, get};
pub use mcp::{Calls, HIDDEN_TOOL, Listens, Lists, Sessions, call, in_session, initialize};
pub use rpc::{Both, Grpc};
pub use way::Way;

use crate::wait;
use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Pause between two questions of a caller: the machine has other work, and a hundred questions a second tell enough.
pub const PACE: Duration = Duration::from_millis(10);

/// Somebody who asks again and again.
pub trait Caller: Send + 'static {
    /// Asks once; an error is a question that was not answered as it should be.
    fn ask(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// A caller at work. The first failure ends it, and is told by [`Load::goes_on`] and [`Load::end`].
pub struct Load {
    name: &'static str,
    stop: watch::Sender<bool>,
    answered: watch::Receiver<usize>,
    task: JoinHandle<Result<()>>,
}

impl Load {
    /// Lets `caller` ask until [`Load::end`].
    pub fn start(name: &'static str, mut caller: impl Caller) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (count, answered) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !*stopped.borrow() {
                pace.tick().await;
                caller.ask().await.with_context(|| format!("{name}, question {}", *count.borrow()))?;
                count.send_modify(|count| *count += 1);
            }
            Ok(())
        });
        Self { name, stop, answered, task }
    }

    /// How many questions have been answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        *self.answered.borrow()
    }

    /// What it was called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Waits until `more` questions have been answered from now on.
    ///
    /// # Errors
    /// The first failure, if there was one.
    pub async fn goes_on(&mut self, more: usize) -> Result<()> {
        let goal = self.answered() + more;
        let what = format!("{more} more answers for {}", self.name);
        match wait::within_time(wait::PATIENCE, &what, self.answered.wait_for(|count| *count >= goal)).await?
        {
            Ok(_) => Ok(()),
            Err(_ended) => match (&mut self.task).await? {
                Ok(()) => bail!("{} has ended", self.name),
                Err(failed) => Err(failed),
            },
        }
    }

    /// Ends it after the question that is open, and returns how many were answered.
    ///
    /// # Errors
    /// The first failure, if there was one.
    pub async fn end(self) -> Result<usize> {
        self.stop.send_replace(true);
        wait::within(&format!("the end of {}", self.name), self.task).await???;
        Ok(*self.answered.borrow())
    }
}

/// Waits until each of `loads` has had `more` answers.
pub async fn all_go_on(loads: &mut [Load], more: usize) -> Result<()> {
    try_join_all(loads.iter_mut().map(|load| load.goes_on(more))).await?;
    Ok(())
}

/// Ends all of them; none may have failed.
pub async fn end_all(loads: Vec<Load>) -> Result<()> {
    for load in loads {
        load.end().await?;
    }
    Ok(())
}
