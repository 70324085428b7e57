//! Where SVIDs come from.

use std::sync::Arc;

use tokio::sync::watch;

use crate::svid::X509Svid;

/// A source of this workload's own SVID, which renews it by itself.
pub trait SvidSource: Send + Sync {
    /// The current SVID and every later one. `None` until the first; a failed renewal keeps the last.
    fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>>;

    /// What went wrong at the latest try to renew, in words for a person; `None` when it went well. It is also logged.
    fn last_error(&self) -> Option<String> {
        None
    }
}

/// An SVID that changes only when it is told to: for tests and the demo.
///
/// Keep it as long as it may be replaced: once it is dropped, receivers keep their last value and `changed()` on
/// them fails.
#[derive(Debug)]
pub struct StaticSource(watch::Sender<Option<Arc<X509Svid>>>);

impl StaticSource {
    /// Starts with this SVID.
    #[must_use]
    pub fn new(svid: X509Svid) -> Self {
        Self(watch::Sender::new(Some(Arc::new(svid))))
    }

    /// New handshakes use this SVID from now on.
    pub fn replace(&self, svid: X509Svid) {
        self.0.send_replace(Some(Arc::new(svid)));
    }
}

impl SvidSource for StaticSource {
    fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
        self.0.subscribe()
    }
}

/// How a renewing source tells the world of its tries. Each value is published once; each fault is logged once.
#[derive(Debug)]
pub(crate) struct Publisher {
    svid: watch::Sender<Option<Arc<X509Svid>>>,
    error: watch::Sender<Option<String>>,
}

/// The reading side of a [`Publisher`], held by the source.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) svid: watch::Receiver<Option<Arc<X509Svid>>>,
    pub(crate) error: watch::Receiver<Option<String>>,
}

pub(crate) fn publisher(first: Option<X509Svid>) -> (Publisher, Published) {
    let (svid_sender, svid) = watch::channel(first.map(Arc::new));
    let (error_sender, error) = watch::channel(None);
    (Publisher { svid: svid_sender, error: error_sender }, Published { svid, error })
}

impl Publisher {
    /// A renewal that went well. Says nothing to receivers if it brought the SVID that they have.
    pub(crate) fn renewed(&self, svid: X509Svid) {
        self.error.send_replace(None);
        self.svid.send_if_modified(|current| {
            if current.as_ref().is_some_and(|held| held.is_same_as(&svid)) {
                return false;
            }
            if current.as_ref().is_some_and(|held| held.serial() == svid.serial()) {
                tracing::info!(id = %svid.id(), "roots of the SVID changed");
            } else {
                tracing::info!(id = %svid.id(), serial = svid.serial(), "SVID renewed");
            }
            *current = Some(Arc::new(svid));
            true
        });
    }

    /// A renewal that failed: what we have stays. The same fault again is not logged again.
    pub(crate) fn failed(&self, fault: String) {
        self.error.send_if_modified(|current| {
            if current.as_ref() == Some(&fault) {
                return false;
            }
            tracing::warn!(fault, "SVID not renewed, keeping the last one");
            *current = Some(fault);
            true
        });
    }

    /// Does nobody listen any more?
    pub(crate) fn is_closed(&self) -> bool {
        self.svid.is_closed()
    }

    /// Completes when nobody listens any more. Cancel-safe.
    pub(crate) async fn closed(&self) {
        self.svid.closed().await;
    }
}
