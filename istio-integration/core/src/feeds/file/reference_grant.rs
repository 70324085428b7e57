//! ReferenceGrant: which routes of another namespace may lead to a Service.

use serde::Deserialize;

use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};

/// A grant; it stands in the namespace of the Services.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GrantDoc {
    from: Vec<From>,
    to: Vec<To>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct To {
    group: String,
    kind: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    from: Vec<From>,
    to: Vec<To>,
}

const UNREAD: Unread = Unread { harmless: &["status"], severity: Severity::Error };

/// Translates a ReferenceGrant.
pub(super) fn translate(document: &Document, remarks: &mut Remarks) -> Option<GrantDoc> {
    let Spec { from, to } = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    Some(GrantDoc { from, to })
}

impl GrantDoc {
    /// Whether HTTPRoutes of `namespace` may lead to the Service `name` of the grant's own namespace.
    pub(super) fn permits(&self, namespace: &str, name: &str) -> bool {
        let from = self.from.iter().any(|from| {
            from.group == "gateway.networking.k8s.io"
                && from.kind == "HTTPRoute"
                && from.namespace == namespace
        });
        let service = |to: &To| matches!(to.group.as_str(), "" | "core") && to.kind == "Service";
        from && self.to.iter().any(|to| service(to) && to.name.as_deref().is_none_or(|only| only == name))
    }
}
