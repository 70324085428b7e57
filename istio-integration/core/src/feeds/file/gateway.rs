//! Gateway of class `istio-waypoint`: which waypoint we are, and who may stand behind it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};

/// The class whose Gateways are waypoints.
pub(super) const CLASS: &str = "istio-waypoint";

/// A Gateway.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GatewayDoc {
    pub(super) waypoint_for: WaypointFor,
    /// Who may attach from where; any suffices.
    pub(super) allowed: Vec<Allowed>,
    /// Whether its class is [`CLASS`].
    pub(super) ours: bool,
}

/// Label `istio.io/waypoint-for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaypointFor {
    Service,
    Workload,
    All,
    None,
}

/// `listeners[].allowedRoutes.namespaces`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Allowed {
    All,
    Same,
    Labels(Selector),
    None,
}

/// A Kubernetes label selector.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Selector {
    match_labels: BTreeMap<String, String>,
    match_expressions: Vec<Requirement>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Requirement {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    #[cfg(test)]
    pub(super) fn of_labels(match_labels: BTreeMap<String, String>) -> Self {
        Self { match_labels, match_expressions: Vec::new() }
    }

    pub(super) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => !value.is_some_and(|value| self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[derive(Deserialize)]
struct Body {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    gateway_class_name: String,
    #[serde(default)]
    listeners: Vec<Listener>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listener {
    allowed_routes: Option<AllowedRoutes>,
}

#[derive(Deserialize)]
struct AllowedRoutes {
    namespaces: Option<Namespaces>,
}

#[derive(Deserialize)]
struct Namespaces {
    from: Option<From>,
    selector: Option<Selector>,
}

#[derive(Deserialize)]
enum From {
    All,
    Same,
    Selector,
    None,
}

const UNREAD: Unread = Unread {
    harmless: &[
        "status",
        "spec.addresses",
        "spec.infrastructure",
        "spec.listeners[].name",
        "spec.listeners[].port",
        "spec.listeners[].protocol",
        "spec.listeners[].allowedRoutes.kinds",
    ],
    severity: Severity::Warning,
};

/// Translates a Gateway of any class; those of other classes only get a note.
pub(super) fn translate(document: &Document, remarks: &mut Remarks) -> Option<GatewayDoc> {
    let class = document.body.pointer("/spec/gatewayClassName").and_then(serde_json::Value::as_str);
    if let Some(class) = class.filter(|class| *class != CLASS) {
        remarks.note("spec.gatewayClassName", format!("{class} is not a class of this waypoint ({CLASS})"));
        return Some(GatewayDoc { waypoint_for: WaypointFor::None, allowed: Vec::new(), ours: false });
    }
    let spec = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    let waypoint_for = match document.meta.label("istio.io/waypoint-for") {
        None | Some("service") => WaypointFor::Service,
        Some("workload") => WaypointFor::Workload,
        Some("all") => WaypointFor::All,
        Some("none") => WaypointFor::None,
        Some(other) => {
            let message = format!("`{other}` is not known: write service, workload, all or none");
            remarks.error("metadata.labels[istio.io/waypoint-for]", message);
            WaypointFor::None
        }
    };
    let allowed = spec.listeners.into_iter().map(allowed).collect::<Vec<_>>();
    let ours = spec.gateway_class_name == CLASS;
    Some(GatewayDoc { waypoint_for, allowed: or_same(allowed), ours })
}

fn or_same(allowed: Vec<Allowed>) -> Vec<Allowed> {
    if allowed.is_empty() { vec![Allowed::Same] } else { allowed }
}

fn allowed(listener: Listener) -> Allowed {
    let namespaces = listener.allowed_routes.and_then(|routes| routes.namespaces);
    let Some(namespaces) = namespaces else { return Allowed::Same };
    match namespaces.from.unwrap_or(From::Same) {
        From::All => Allowed::All,
        From::Same => Allowed::Same,
        From::Selector => namespaces.selector.map_or(Allowed::None, Allowed::Labels),
        From::None => Allowed::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::document;

    fn read(yaml: &str) -> (Option<GatewayDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let head = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: wp}\n";
        (translate(&document(&format!("{head}{yaml}")), &mut remarks), remarks)
    }

    #[test]
    fn listeners_say_who_may_attach() {
        let rows = [
            ("[]", Allowed::Same),
            ("[{name: mesh, port: 15008, protocol: HBONE}]", Allowed::Same),
            ("[{name: mesh, allowedRoutes: {namespaces: {from: All}}}]", Allowed::All),
            ("[{name: mesh, allowedRoutes: {namespaces: {from: None}}}]", Allowed::None),
            ("[{name: mesh, allowedRoutes: {namespaces: {from: Selector}}}]", Allowed::None),
        ];
        for (listeners, want) in rows {
            let (got, remarks) =
                read(&format!("spec: {{gatewayClassName: istio-waypoint, listeners: {listeners}}}"));
            assert_eq!(got.unwrap().allowed, [want], "{listeners}");
            assert_eq!(remarks, Remarks::default());
        }
    }

    #[test]
    fn another_class_is_noted() {
        let (got, remarks) = read("spec: {gatewayClassName: nginx, tls: 1}");
        assert!(!got.unwrap().ours);
        assert_eq!(remarks.iter().next().unwrap().severity, Severity::Note);
    }

    #[test]
    fn selectors_have_four_operators() {
        let labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
        let rows = [
            ("{matchLabels: {team: a}}", true),
            ("{matchLabels: {team: b}}", false),
            ("{matchExpressions: [{key: team, operator: In, values: [a, b]}]}", true),
            ("{matchExpressions: [{key: team, operator: NotIn, values: [a]}]}", false),
            ("{matchExpressions: [{key: none, operator: NotIn, values: [a]}]}", true),
            ("{matchExpressions: [{key: team, operator: Exists}]}", true),
            ("{matchExpressions: [{key: team, operator: DoesNotExist}]}", false),
        ];
        for (text, want) in rows {
            let selector: Selector = serde_saphyr::from_str(text).unwrap();
            assert_eq!(selector.matches(&labels), want, "{text}");
        }
    }
}
