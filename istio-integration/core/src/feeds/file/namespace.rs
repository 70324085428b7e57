//! Namespace: its labels say what is captured, and which waypoint stands before what is in it.

use std::collections::BTreeMap;

use super::document::Document;

/// A namespace's labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NamespaceDoc {
    pub(super) labels: BTreeMap<String, String>,
}

/// Nothing of a Namespace but its labels matters here.
pub(super) fn translate(document: &Document) -> NamespaceDoc {
    let mut labels = document.meta.labels.clone();
    // The API server sets it, and selectors of Gateway listeners use it.
    labels.insert("kubernetes.io/metadata.name".to_owned(), document.meta.name.clone());
    NamespaceDoc { labels }
}
