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
pub struct DrainWatch(watch::Receiver<Phase>);

/// A fresh pair in [`Phase::Serving`].
#[must_use]
pub fn channel() -> (Drain, DrainWatch) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Drain(sender), DrainWatch(receiver))
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
        DrainWatch(self.0.subscribe())
    }
}

impl DrainWatch {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phase = *self.0.borrow();
        if self.0.has_changed().is_err() { phase.max(Phase::Draining) } else { phase }
    }

    /// Waits until the phase is `phase` or later. Cancel safe.
    pub async fn reached(&mut self, phase: Phase) {
        let vanished = self.0.wait_for(|now| *now >= phase).await.is_err();
        if vanished && phase > Phase::Draining {
            std::future::pending::<()>().await;
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
}
