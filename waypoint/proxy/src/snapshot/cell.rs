//! The one place where the newest snapshot stands.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use waypoint_model::MeshConfig;

use super::{Snapshot, build::build};
use crate::upstream::Upstreams;

/// Holds the newest snapshot; a request loads it once. Cheap to clone.
#[derive(Clone)]
pub struct ConfigCell(Arc<Inner>);

struct Inner {
    upstreams: Arc<Upstreams>,
    newest: ArcSwapOption<Snapshot>,
    generation: watch::Sender<u64>,
}

impl ConfigCell {
    /// A cell without a snapshot: nothing is served until the first [`ConfigCell::apply`].
    #[must_use]
    pub fn new(upstreams: Arc<Upstreams>) -> Self {
        Self(Arc::new(Inner { upstreams, newest: ArcSwapOption::empty(), generation: watch::Sender::new(0) }))
    }

    /// The newest snapshot; `None` before the first.
    #[must_use]
    pub fn load(&self) -> Option<Arc<Snapshot>> {
        self.0.newest.load_full()
    }

    /// Builds and stores; returns the generation that now serves. One caller at a time (the config task).
    pub fn apply(&self, mesh: &Arc<MeshConfig>) -> u64 {
        let inner = &self.0;
        let generation = *inner.generation.borrow() + 1;
        let previous = inner.newest.load_full();
        let (snapshot, clusters) = build(mesh, &inner.upstreams, previous.as_deref(), generation);
        inner.newest.store(Some(Arc::new(snapshot)));
        inner.upstreams.retain(&clusters);
        inner.generation.send_replace(generation);
        generation
    }

    /// Changes with each applied snapshot; long streams watch it.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }
}
