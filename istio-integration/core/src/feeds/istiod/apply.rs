//! What the feed hands out, and to whom.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use waypoint_model::MeshConfig;

use super::{Kind, Refused, held::HeldResources};

/// Serves configurations.
pub trait Apply {
    /// Serves this one from now on. When it returns, requests are decided by it: only then is the control plane told that
    /// what is in it was accepted.
    fn apply(&mut self, emitted: Emitted);
}

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// The mesh. Entries that did not change are the same `Arc`s as in the one before.
    pub mesh: Arc<MeshConfig>,
    /// What of it is not as istiod said.
    pub findings: Vec<Finding>,
    /// What istiod said, for dumps.
    pub held: HeldResources,
}

/// Something in a resource that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What follows from it.
    pub severity: Severity,
    /// Type of the resource.
    pub kind: Kind,
    /// Name of the resource.
    pub resource: String,
    /// Where in it, and what is wrong there.
    pub message: String,
}

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Severity {
    /// It was refused to istiod: the last good version stays, or nothing is permitted.
    Refused,
    /// Nothing is served there.
    Unusable,
    /// It weakens nothing.
    Note,
}

impl Finding {
    pub(super) fn new(severity: Severity, kind: Kind, resource: &str, what: &Refused) -> Self {
        Self { severity, kind, resource: resource.to_owned(), message: what.to_string() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.severity {
            Severity::Refused => "refused",
            Severity::Unusable => "not served",
            Severity::Note => "passed over",
        };
        write!(f, "{} of istiod, {}: {what}: {}", self.kind, self.resource, self.message)
    }
}
