//! Tasks that must run as long as the process does, each with a name: one that ended unseen would leave stale policy serving.

use std::collections::HashMap;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

/// A part of the waypoint that must not end did: a fault of ours.
#[derive(Debug, thiserror::Error)]
#[error("{part} ended by itself{}", .source.as_ref().map(|error| format!(": {error}")).unwrap_or_default())]
pub struct Ended {
    /// What it does.
    pub part: &'static str,
    /// Its panic; `None` if it just returned.
    pub source: Option<JoinError>,
}

/// The tasks; dropped, they end.
#[derive(Default)]
pub struct Background {
    tasks: JoinSet<()>,
    parts: HashMap<Id, &'static str>,
}

impl Background {
    /// Starts a task on the current runtime.
    pub fn spawn(&mut self, part: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let started = self.tasks.spawn(task);
        self.name(part, &started);
    }

    /// Starts a task on `runtime`.
    pub fn spawn_on(
        &mut self,
        part: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
        runtime: &Handle,
    ) {
        let started = self.tasks.spawn_on(task, runtime);
        self.name(part, &started);
    }

    fn name(&mut self, part: &'static str, started: &AbortHandle) {
        self.parts.insert(started.id(), part);
    }

    /// Waits for the first task that ends, which none should; without tasks, for ever. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        let (id, source) = match self.tasks.join_next_with_id().await {
            None => std::future::pending().await,
            Some(Ok((id, ()))) => (id, None),
            Some(Err(error)) => (error.id(), Some(error)),
        };
        Ended { part: self.parts.remove(&id).unwrap_or("a task"), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_returns_or_panics_is_named() {
        let mut background = Background::default();
        background.spawn("the one that stays", std::future::pending());
        background.spawn("the one that goes", async {});
        assert_eq!(background.ended().await.to_string(), "the one that goes ended by itself");
        background.spawn_on("the one that breaks", async { panic!("why") }, &Handle::current());
        let said = background.ended().await.to_string();
        assert!(said.starts_with("the one that breaks ended by itself: ") && said.contains("why"), "{said}");
    }
}
