//! From a feed to the snapshot that serves: applies each configuration in the order received, and says each finding once.

use std::collections::HashSet;
use std::sync::Arc;

use certs::{MeshTls, TrustDomains};
use istio_integration::feeds::file::{self, Folder, LoadError, Loaded, load};
use istio_integration::feeds::istiod::{self, Emitted, HeldResources};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;
use waypoint_model::MeshConfig;
use waypoint_proxy::snapshot::ConfigCell;
use waypoint_proxy::telemetry::Telemetry;

use crate::mesh::MeshSource;

/// What the newest configuration said, for `/config_dump`.
#[derive(Debug, Default)]
pub struct FeedStatus {
    /// All its findings.
    pub findings: Vec<Value>,
    /// What istiod sent; empty for manifests.
    pub held: HeldResources,
}

/// A finding of any feed.
struct Finding {
    level: Level,
    text: String,
    dump: Value,
}

/// How loudly a finding is said.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Error,
    Warning,
    Note,
}

impl From<file::Finding> for Finding {
    fn from(finding: file::Finding) -> Self {
        let level = match finding.severity {
            file::Severity::Error => Level::Error,
            file::Severity::Warning => Level::Warning,
            file::Severity::Note => Level::Note,
        };
        Self { level, text: finding.to_string(), dump: serde_json::json!(finding) }
    }
}

impl From<istiod::Finding> for Finding {
    fn from(finding: istiod::Finding) -> Self {
        let level = match finding.severity {
            istiod::Severity::Refused | istiod::Severity::Unusable => Level::Error,
            istiod::Severity::Note => Level::Note,
        };
        Self { level, text: finding.to_string(), dump: serde_json::json!(finding) }
    }
}

/// Applies configurations. One owner, the control thread.
pub struct Applier {
    config: ConfigCell,
    telemetry: Telemetry,
    tls: MeshTls,
    status: watch::Sender<Arc<FeedStatus>>,
    said: HashSet<String>,
    workers: Handle,
}

impl Applier {
    /// Applies to `config`, and to `tls` whose clients are accepted. Pools that a new configuration makes work on `workers`.
    #[must_use]
    pub fn new(config: ConfigCell, telemetry: Telemetry, tls: MeshTls, workers: Handle) -> Self {
        Self { config, telemetry, tls, status: watch::Sender::default(), said: HashSet::new(), workers }
    }

    /// What the newest configuration said.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<FeedStatus>> {
        self.status.subscribe()
    }

    /// Builds the snapshot of manifests and serves it from now on.
    pub fn load(&mut self, loaded: Loaded) {
        let findings = loaded.findings.into_iter().map(Finding::from).collect();
        self.serve(&loaded.mesh, findings, HeldResources::default());
    }

    fn serve(&mut self, mesh: &Arc<MeshConfig>, findings: Vec<Finding>, held: HeldResources) {
        self.telemetry.named_by_policies(mesh);
        if let Some(aliases) = mesh.trust_domains.clone() {
            self.tls.set_trust_domains(TrustDomains { aliases });
        }
        let generation = {
            let _traffic = self.workers.enter();
            self.config.apply(mesh)
        };
        let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
        self.telemetry.config_applied(generation, errors);
        let services = mesh.services.values().filter(|service| service.fronted).count();
        let (policies, routes) = (mesh.policies.len(), mesh.routes.len());
        tracing::info!(generation, services, policies, routes, errors, "configuration applied");
        for finding in unsaid(&mut self.said, &findings) {
            match finding.level {
                Level::Error => tracing::error!("{}", finding.text),
                Level::Warning => tracing::warn!("{}", finding.text),
                Level::Note => tracing::info!("{}", finding.text),
            }
        }
        let findings = findings.into_iter().map(|finding| finding.dump).collect();
        self.status.send_replace(Arc::new(FeedStatus { findings, held }));
    }
}

impl istiod::Apply for Applier {
    fn apply(&mut self, emitted: Emitted) {
        let findings = emitted.findings.into_iter().map(Finding::from).collect();
        self.serve(&emitted.mesh, findings, emitted.held);
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
                    applier.load(loaded);
                }
            }
        };
        tokio::join!(file::watch(self.folder, out), apply);
    }
}

/// Findings that the configuration before did not have: a fault is said when it appears, and again when it came back.
fn unsaid<'a>(said: &mut HashSet<String>, findings: &'a [Finding]) -> Vec<&'a Finding> {
    let now: HashSet<String> = findings.iter().map(|finding| finding.text.clone()).collect();
    let new = findings.iter().filter(|finding| !said.contains(&finding.text)).collect();
    *said = now;
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(text: &str) -> Finding {
        Finding { level: Level::Error, text: text.to_owned(), dump: Value::Null }
    }

    #[test]
    fn a_finding_is_said_once_until_it_changes_or_comes_back() {
        let mut said = HashSet::new();
        let mut new = |texts: &[&str]| {
            let findings: Vec<Finding> = texts.iter().map(|text| finding(text)).collect();
            unsaid(&mut said, &findings).into_iter().map(|new| new.text.clone()).collect::<Vec<_>>()
        };
        assert_eq!(new(&["a"]), ["a"]);
        assert_eq!(new(&["a", "b"]), ["b"]);
        assert!(new(&[]).is_empty());
        assert_eq!(new(&["a"]), ["a"]);
    }
}
