//! RequestAuthentication: not built yet. One that targets a service refuses bad tokens there, so leaving it out would
//! let through what it stops: its targets deny until it is built.

use waypoint_model::{Action, Policy, PolicyKey};

use super::authorization_policy::{PolicyDoc, Targets, targets};
use super::document::Document;
use super::finding::Remarks;

/// A policy that denies at the targets, if there are any.
pub(super) fn translate(document: &Document) -> PolicyDoc {
    let policy = Policy {
        key: PolicyKey::new(
            &document.key.namespace,
            &format!("RequestAuthentication/{}", document.meta.name),
        ),
        action: Action::Deny,
        dry_run: false,
        rules: Vec::new(),
        unusable: Some("RequestAuthentication is not built yet".to_owned()),
    };
    PolicyDoc { targets: targets(&document.body, &document.key.namespace, &mut Remarks::default()), policy }
}

/// Says so. Without targets it concerns no waypoint.
pub(super) fn remark(document: &Document, remarks: &mut Remarks) {
    match targets(&document.body, &document.key.namespace, remarks) {
        Targets::Ztunnel => remarks.note("spec", "has no targetRefs and concerns no waypoint"),
        Targets::Refs(_) | Targets::Unreadable => {
            remarks.error("", "is not built yet: its targets refuse everything while it is there");
        }
    }
}
