//! From manifests to the snapshot that serves: applies each configuration in the order received, and says each finding once.

use std::collections::HashSet;
use std::sync::Arc;

use istio_integration::feeds::file::{self, Finding, Folder, LoadError, Loaded, Severity, load};
use tokio::runtime::Handle;
use tokio::sync::watch;
use waypoint_proxy::snapshot::ConfigCell;
use waypoint_proxy::telemetry::Telemetry;

use crate::mesh::MeshSource;

/// What the manifests said last, for `/config_dump`.
#[derive(Debug, Default)]
pub struct FeedStatus {
    /// All findings of the newest configuration.
    pub findings: Vec<Finding>,
}

/// Applies configurations. One owner, the control thread.
pub struct Applier {
    config: ConfigCell,
    telemetry: Telemetry,
    status: watch::Sender<Arc<FeedStatus>>,
    said: HashSet<String>,
    workers: Handle,
}

impl Applier {
    /// Applies to `config`. Pools that a new configuration makes work on `workers`.
    #[must_use]
    pub fn new(config: ConfigCell, telemetry: Telemetry, workers: Handle) -> Self {
        Self { config, telemetry, status: watch::Sender::default(), said: HashSet::new(), workers }
    }

    /// What the newest configuration said.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<FeedStatus>> {
        self.status.subscribe()
    }

    /// Builds the snapshot and serves it from now on.
    pub fn apply(&mut self, loaded: Loaded) {
        let Loaded { mesh, findings, .. } = loaded;
        self.telemetry.named_by_policies(&mesh);
        let generation = {
            let _traffic = self.workers.enter();
            self.config.apply(&mesh)
        };
        let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
        self.telemetry.config_applied(generation, errors);
        let services = mesh.services.values().filter(|service| service.fronted).count();
        let (policies, routes) = (mesh.policies.len(), mesh.routes.len());
        tracing::info!(generation, services, policies, routes, errors, "configuration applied");
        for finding in unsaid(&mut self.said, &findings) {
            match finding.severity {
                Severity::Error => tracing::error!("{finding}"),
                Severity::Warning => tracing::warn!("{finding}"),
                Severity::Note => tracing::info!("{finding}"),
            }
        }
        self.status.send_replace(Arc::new(FeedStatus { findings }));
    }
}

/// A folder that was read once, and is to be followed.
pub struct Feed {
    folder: Folder,
}

impl Feed {
    /// Reads the folder for the first time. Blocks on the file system: nothing is served yet.
    ///
    /// # Errors
    /// If the folder cannot be read. What is wrong with its documents is in the findings.
    pub fn open(source: &MeshSource) -> Result<(Self, Loaded), LoadError> {
        let mut folder = Folder::new(&source.folder, source.options.clone());
        let first = match folder.reload()? {
            Some(first) => first,
            // A folder that was never read has always changed.
            None => load(&source.folder, &source.options)?,
        };
        Ok((Self { folder }, first))
    }

    /// Watches the folder and applies each new state in the order in which it is read. Never ends; dropping it stops.
    pub async fn follow(self, mut applier: Applier) {
        let (out, mut states) = watch::channel(None);
        let apply = async {
            while states.changed().await.is_ok() {
                let state = states.borrow_and_update().clone();
                if let Some(loaded) = state {
                    applier.apply(loaded);
                }
            }
        };
        tokio::join!(file::watch(self.folder, out), apply);
    }
}

/// Findings that the configuration before did not have: a fault is said when it appears, and again when it came back.
fn unsaid<'a>(said: &mut HashSet<String>, findings: &'a [Finding]) -> Vec<&'a Finding> {
    let now: HashSet<String> = findings.iter().map(ToString::to_string).collect();
    let new = findings.iter().filter(|finding| !said.contains(&finding.to_string())).collect();
    *said = now;
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(message: &str) -> Finding {
        Finding {
            severity: Severity::Error,
            file: "a.yaml".into(),
            document: 1,
            kind: "Service".to_owned(),
            name: "ns/a".to_owned(),
            field: None,
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_finding_is_said_once_until_it_changes_or_comes_back() {
        let mut said = HashSet::new();
        let (a, b) = (finding("a"), finding("b"));
        assert_eq!(unsaid(&mut said, std::slice::from_ref(&a)), [&a]);
        assert_eq!(unsaid(&mut said, &[a.clone(), b.clone()]), [&b]);
        assert!(unsaid(&mut said, &[]).is_empty());
        assert_eq!(unsaid(&mut said, std::slice::from_ref(&a)), [&a]);
    }
}
