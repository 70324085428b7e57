//! What a listener of istiod says, in the words of the model.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use waypoint_model::{Chain, Policy, Protocol, Route};

/// A listener, translated. Entries that did not change are the very `Arc`s of the time before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translated {
    /// Ports of services that this waypoint fronts; one that cannot be served is there too, with [`Chain::unusable`].
    pub ports: Vec<FrontedPort>,
    /// Workloads that are addressed by their own address, on any port.
    pub pods: Option<FrontedPods>,
    /// Policies that [`Chain::policies`] name, each once.
    pub policies: Vec<Arc<Policy>>,
    /// Routes that [`Chain::routes`] name, each once.
    pub routes: Vec<Arc<Route>>,
    /// What was not understood in a security filter or in the way to a chain: the reasons of a NACK. What is here is
    /// already made safe above: the last good version of a policy stays, or nothing is permitted.
    pub refused: Vec<Refused>,
    /// What is not carried out, for the log; it weakens nothing.
    pub notes: Vec<Refused>,
    /// Trust domains of clients, where the listener says so: only `tunnel`'s does.
    pub trust_domains: Option<Vec<String>>,
    /// Why nothing at all may be served, e.g. a policy of the tunnel itself that is not translated.
    pub unusable: Option<String>,
}

/// One port of a service, and what holds on it.
#[derive(Clone, Debug, PartialEq)]
pub struct FrontedPort {
    /// Host name of the service; its namespace is the workload API's to tell.
    pub hostname: Arc<str>,
    /// Virtual addresses that lead here; empty if only the host name does.
    pub vips: Vec<IpAddr>,
    /// Service port.
    pub port: u16,
    /// `Undeclared` where the first bytes choose between an HTTP and a TCP chain. TLS is not told from TCP.
    pub protocol: Protocol,
    /// What holds on it.
    pub chain: Chain,
}

/// Workloads that stand behind this waypoint by their own address (`istio.io/waypoint-for: workload`).
#[derive(Clone, Debug, PartialEq)]
pub struct FrontedPods {
    /// Their addresses.
    pub addresses: Vec<IpAddr>,
    /// What holds on any of their ports; `Undeclared`: the first bytes tell.
    pub protocol: Protocol,
    /// What holds on them. Requests go to the workload itself.
    pub chain: Chain,
}

/// Something that is not translated: where it stands, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// The way to it, from the listener's name inwards.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl Refused {
    /// Something that has no place in a path yet; [`Refused::at`] and [`At`] add it from the inside out.
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { path: String::new(), why: why.into() }
    }

    /// The same, seen from one step further out.
    #[must_use]
    pub(crate) fn at(mut self, step: impl fmt::Display) -> Self {
        self.path = match self.path.as_str() {
            "" => step.to_string(),
            inner if inner.starts_with('[') => format!("{step}{inner}"),
            inner => format!("{step}.{inner}"),
        };
        self
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

/// Adds where a refusal happened.
pub(crate) trait At<T> {
    /// See [`Refused::at`].
    fn at(self, step: impl fmt::Display) -> Result<T, Refused>;
}

impl<T> At<T> for Result<T, Refused> {
    fn at(self, step: impl fmt::Display) -> Self {
        self.map_err(|refused| refused.at(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_the_way_to_it() {
        let refused = Refused::new("is not known").at("[0]").at("rules").at("main_internal");
        assert_eq!(refused.to_string(), "main_internal.rules[0]: is not known");
    }
}
