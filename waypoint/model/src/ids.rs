//! Keys by which entries of the mesh refer to each other.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

macro_rules! namespaced_key {
    ($(#[$doc:meta])* $name:ident { $second:ident: $second_doc:literal }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            /// Kubernetes namespace.
            pub namespace: Arc<str>,
            #[doc = $second_doc]
            pub $second: Arc<str>,
        }

        impl $name {
            /// A key from its two parts.
            #[must_use]
            pub fn new(namespace: &str, $second: &str) -> Self {
                Self { namespace: namespace.into(), $second: $second.into() }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.$second)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

namespaced_key! {
    /// A service, as `namespace/hostname` (the key that Istio's workload API uses).
    ServiceKey { hostname: "Fully qualified host name, `name.namespace.svc.<domain>` for a Kubernetes Service." }
}
namespaced_key! {
    /// A policy, as `namespace/name`.
    PolicyKey { name: "Name of the policy resource." }
}
namespaced_key! {
    /// A route, as `namespace/name`.
    RouteKey { name: "Name of the route resource." }
}

/// A cluster's name, `direction|port|subset|host` where istiod gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ClusterKey(pub Arc<str>);

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload's unique id, `cluster/group/kind/namespace/name` (Istio's workload API).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct WorkloadUid(pub Arc<str>);

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
