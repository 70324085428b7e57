//! Node: where it stands.

use std::collections::BTreeMap;

use waypoint_model::Locality;

use super::document::Document;

/// Where the pods of a node run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeDoc {
    pub(super) locality: Locality,
}

/// Nothing of a Node but its topology labels matters here.
pub(super) fn translate(document: &Document) -> NodeDoc {
    NodeDoc { locality: labelled_locality(&document.meta.labels) }
}

/// Locality from the well-known topology labels, which newer API servers copy to pods too.
pub(super) fn labelled_locality(labels: &BTreeMap<String, String>) -> Locality {
    let label = |key: &str| labels.get(key).map(|value| value.as_str().into()).unwrap_or_default();
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}
