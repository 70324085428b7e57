//! Which services this waypoint stands before: the `istio.io/use-waypoint` labels and the Gateway that we are.

use std::collections::BTreeMap;

use super::gateway::{Allowed, GatewayDoc, WaypointFor};
use super::namespace::NamespaceDoc;

/// What the labels of a Service, ServiceEntry or Namespace ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Binding {
    primary: Wish,
    /// The waypoint that takes a share of the connections while one is replaced by another.
    canary: Wish,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Wish {
    /// No label: the namespace's counts.
    #[default]
    Unset,
    /// `none`: no waypoint, whatever the namespace says.
    OptOut,
    Gateway {
        /// Default: the namespace of what bears the label.
        namespace: Option<String>,
        name: String,
    },
}

impl Binding {
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Self {
        let wish = |name: &str| match labels.get(name).map(String::as_str) {
            None | Some("") => Wish::Unset,
            Some("none") => Wish::OptOut,
            Some(gateway) => {
                let namespace = labels.get(&format!("{name}-namespace")).cloned();
                Wish::Gateway { namespace, name: gateway.to_owned() }
            }
        };
        Self { primary: wish("istio.io/use-waypoint"), canary: wish("istio.io/use-waypoint-canary") }
    }

    /// The Gateways (namespace and name) that are asked for, with what the namespace asks for where nothing is.
    fn gateways<'a>(&'a self, of_namespace: &'a Self, own: &'a str) -> Vec<(&'a str, &'a str)> {
        let chosen = if self.primary == Wish::Unset { of_namespace } else { self };
        let wishes = [&chosen.primary, &chosen.canary];
        let named = wishes.into_iter().filter_map(|wish| match wish {
            Wish::Gateway { namespace, name } => Some((namespace.as_deref().unwrap_or(own), name.as_str())),
            Wish::Unset | Wish::OptOut => None,
        });
        named.collect()
    }
}

/// Who we are.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Waypoint {
    /// No Gateway is there: we stand before every service.
    Everything,
    /// Several are, and nobody said which we are: we stand before none.
    Unknown,
    /// This one.
    Gateway {
        namespace: String,
        name: String,
        /// As written; none where only the settings name it.
        document: Option<GatewayDoc>,
    },
}

/// Whether a service is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fronted {
    Yes,
    /// It asks for no waypoint, or for another one.
    No,
    /// It asks for us, and our Gateway forbids it; says why.
    Refused(String),
}

impl Waypoint {
    /// Whether we stand before what is in `namespace` and bears `binding`.
    pub(super) fn fronts(
        &self,
        binding: &Binding,
        namespace: &str,
        namespaces: &BTreeMap<&str, &NamespaceDoc>,
    ) -> Fronted {
        let (own, name, document) = match self {
            Self::Everything => return Fronted::Yes,
            Self::Unknown => return Fronted::No,
            Self::Gateway { namespace, name, document } => (namespace, name, document),
        };
        let labels = namespaces.get(namespace).map(|doc| &doc.labels);
        let of_namespace = labels.map(Binding::of).unwrap_or_default();
        if !binding.gateways(&of_namespace, namespace).contains(&(own.as_str(), name.as_str())) {
            return Fronted::No;
        }
        match document {
            Some(document) => admits(document, own, namespace, labels),
            None => Fronted::Yes,
        }
    }

    /// Whether a policy in `namespace` that targets the Gateway `name` targets us.
    pub(super) fn is(&self, wanted_namespace: &str, wanted_name: &str) -> bool {
        matches!(self, Self::Gateway { namespace, name, .. } if namespace == wanted_namespace && name == wanted_name)
    }

    /// Whether a policy in this namespace could target us: a Gateway is targeted from its own namespace.
    pub(super) fn may_be_in(&self, wanted: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Unknown => false,
            Self::Gateway { namespace, .. } => namespace == wanted,
        }
    }
}

fn admits(
    gateway: &GatewayDoc,
    own: &str,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
) -> Fronted {
    if matches!(gateway.waypoint_for, WaypointFor::Workload | WaypointFor::None) {
        let message =
            "its Gateway is not for services: set its label istio.io/waypoint-for to service or all";
        return Fronted::Refused(message.to_owned());
    }
    let admitted = gateway.allowed.iter().any(|allowed| match allowed {
        Allowed::All => true,
        Allowed::Same => own == namespace,
        Allowed::Labels(selector) => labels.is_some_and(|labels| selector.matches(labels)),
        Allowed::None => false,
    });
    if admitted {
        return Fronted::Yes;
    }
    let message =
        format!("listeners[].allowedRoutes of its Gateway {own} admit nothing from namespace {namespace}");
    Fronted::Refused(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels from `key=value` pairs.
    fn labels(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_service_is_bound_by_its_own_label_or_its_namespaces() {
        let rows = [
            ("", "", false),
            ("istio.io/use-waypoint=wp", "", true),
            ("istio.io/use-waypoint=other", "istio.io/use-waypoint=wp", false),
            ("", "istio.io/use-waypoint=wp", true),
            ("istio.io/use-waypoint=none", "istio.io/use-waypoint=wp", false),
            ("istio.io/use-waypoint=wp istio.io/use-waypoint-namespace=elsewhere", "", false),
            ("istio.io/use-waypoint=wp istio.io/use-waypoint-namespace=tools", "", true),
            ("istio.io/use-waypoint=other istio.io/use-waypoint-canary=wp", "", true),
            ("istio.io/use-waypoint-namespace=tools", "", false),
        ];
        let gateway =
            GatewayDoc { waypoint_for: WaypointFor::Service, allowed: vec![Allowed::Same], ours: true };
        let (namespace, name) = ("tools".to_owned(), "wp".to_owned());
        let waypoint = Waypoint::Gateway { namespace, name, document: Some(gateway) };
        for (service, namespace, want) in rows {
            let doc = NamespaceDoc { labels: labels(namespace) };
            let namespaces = BTreeMap::from([("tools", &doc)]);
            let got = waypoint.fronts(&Binding::of(&labels(service)), "tools", &namespaces);
            assert_eq!(got == Fronted::Yes, want, "{service:?} {namespace:?}");
        }
    }

    #[test]
    fn a_gateway_admits_by_namespace_and_only_services() {
        let selector = super::super::gateway::Selector::of_labels(labels("team=a"));
        let rows = [
            (WaypointFor::Service, Allowed::Same, "tools", true),
            (WaypointFor::Service, Allowed::Same, "agents", false),
            (WaypointFor::Service, Allowed::All, "agents", true),
            (WaypointFor::All, Allowed::Labels(selector.clone()), "agents", true),
            (WaypointFor::All, Allowed::Labels(selector), "elsewhere", false),
            (WaypointFor::Service, Allowed::None, "tools", false),
            (WaypointFor::Workload, Allowed::All, "tools", false),
            (WaypointFor::None, Allowed::All, "tools", false),
        ];
        let agents = NamespaceDoc { labels: labels("team=a") };
        let namespaces = BTreeMap::from([("agents", &agents)]);
        for (waypoint_for, allowed, namespace, want) in rows {
            let document = Some(GatewayDoc { waypoint_for, allowed: vec![allowed.clone()], ours: true });
            let waypoint =
                Waypoint::Gateway { namespace: "tools".to_owned(), name: "wp".to_owned(), document };
            let asks = labels("istio.io/use-waypoint=wp istio.io/use-waypoint-namespace=tools");
            let got = waypoint.fronts(&Binding::of(&asks), namespace, &namespaces);
            assert_eq!(got == Fronted::Yes, want, "{allowed:?} {namespace} {got:?}");
        }
    }
}
