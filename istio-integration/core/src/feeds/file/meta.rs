//! `metadata`: who a resource is.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::decode::Unread;
use super::finding::Severity;

/// The part of Kubernetes' ObjectMeta that matters here.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) owner_references: Vec<OwnerReference>,
    pub(super) creation_timestamp: Option<String>,
    pub(super) deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnerReference {
    pub(super) kind: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) controller: bool,
}

/// What an API server adds to `metadata`, and what only it reads.
pub(super) const UNREAD: Unread = Unread {
    harmless: &[
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "deletionGracePeriodSeconds",
        "ownerReferences[].apiVersion",
        "ownerReferences[].blockOwnerDeletion",
        "ownerReferences[].uid",
        "resourceVersion",
        "selfLink",
        "uid",
    ],
    severity: Severity::Warning,
};

impl Meta {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}
