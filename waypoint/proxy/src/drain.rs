//! Phases of a shutdown; they only move forward.

use tokio::sync::watch;

/// Where the process stands between start and exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal.
    Serving,
    /// Not ready, still accepting: endpoints travel through the control plane to every ztunnel.
    Lingering,
    /// GOAWAY sent; streams finish.
    Draining,
    /// What is left is reset.
    Aborting,
}

/// Moves the phase.
pub struct Drain(watch::Sender<Phase>);

/// Sees the phase. If its [`Drain`] vanished, it sees `Draining`, never `Aborting`.
#[derive(Clone)]
pub struct DrainWatch {
    process: watch::Receiver<Phase>,
    /// Of one connection, which may have to leave before the process does.
    connection: Option<watch::Receiver<Phase>>,
}

/// A fresh pair in [`Phase::Serving`].
#[must_use]
pub fn channel() -> (Drain, DrainWatch) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Drain(sender), DrainWatch { process: receiver, connection: None })
}

impl Drain {
    /// Moves forward to `phase`; a step back is ignored.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }

    /// Another watcher.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { process: self.0.subscribe(), connection: None }
    }
}

impl DrainWatch {
    /// The same for the streams of one connection, which leave with the process or by `connection`, whichever is first.
    #[must_use]
    pub fn of_connection(&self, connection: &Drain) -> Self {
        Self { process: self.process.clone(), connection: Some(connection.0.subscribe()) }
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phase = *self.process.borrow();
        let process = if self.process.has_changed().is_err() { phase.max(Phase::Draining) } else { phase };
        self.connection.as_ref().map_or(process, |connection| process.max(*connection.borrow()))
    }

    /// Waits until the phase is `phase` or later. Cancel safe.
    pub async fn reached(&mut self, phase: Phase) {
        let process = async {
            let vanished = self.process.wait_for(|now| *now >= phase).await.is_err();
            if vanished && phase > Phase::Draining {
                std::future::pending::<()>().await;
            }
        };
        let Some(connection) = &mut self.connection else { return process.await };
        let connection = async {
            // A connection that is gone has no phase any more, and its streams end with it.
            if connection.wait_for(|now| *now >= phase).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = process => {}
            () = connection => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_move_forward() {
        let (drain, mut watch) = channel();
        drain.advance(Phase::Draining);
        drain.advance(Phase::Lingering);
        assert_eq!(watch.phase(), Phase::Draining);
        watch.reached(Phase::Lingering).await;
    }

    #[tokio::test]
    async fn a_vanished_owner_means_draining_and_never_aborting() {
        let (drain, mut watch) = channel();
        drop(drain);
        assert_eq!(watch.phase(), Phase::Draining);
        watch.reached(Phase::Draining).await;
        let aborting =
            tokio::time::timeout(std::time::Duration::from_millis(20), watch.reached(Phase::Aborting));
        assert!(aborting.await.is_err());
    }

    #[tokio::test]
    async fn a_connection_leaves_before_the_process_and_with_it() {
        let (process, watch) = channel();
        let (own, _) = channel();
        let (mut leaving, staying) = (watch.of_connection(&own), watch.clone());
        own.advance(Phase::Draining);
        leaving.reached(Phase::Lingering).await;
        assert_eq!((leaving.phase(), staying.phase()), (Phase::Draining, Phase::Serving));
        drop(own);
        process.advance(Phase::Aborting);
        leaving.reached(Phase::Aborting).await;
        assert_eq!(leaving.phase(), Phase::Aborting);
    }
}
