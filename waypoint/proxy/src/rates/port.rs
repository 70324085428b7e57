//! The limits of one port, compiled with its snapshot.

use std::sync::Arc;

use waypoint_model::{Chain, DescribedBy, DescribedQuota, DescriptionPart, GlobalLimit, LocalLimit};
use waypoint_policy::Reads;

use super::describe::{Described, Describer};

/// Everything that limits requests of a port.
#[derive(Default)]
pub(crate) struct PortLimits {
    pub(super) local: Vec<Local>,
    pub(super) global: Vec<Global>,
    asks_mcp: bool,
    asks_a2a: bool,
    unusable: Option<Arc<str>>,
}

pub(super) struct Local {
    pub(super) limit: Arc<LocalLimit>,
    pub(super) describers: Vec<Describer>,
}

pub(super) struct Global {
    pub(super) limit: Arc<GlobalLimit>,
    pub(super) describers: Vec<Describer>,
}

impl PortLimits {
    /// A limit that asks for what nobody can tell makes the port unusable, since it would never hold.
    pub(crate) fn compile(chain: &Chain) -> Self {
        let mut limits = Self::default();
        for limit in &chain.limits {
            let describers = limits.describers(&limit.name, &limit.descriptions);
            limits.local.push(Local { limit: Arc::clone(limit), describers });
        }
        for limit in &chain.global_limits {
            let describers = limits.describers(&limit.name, &limit.descriptions);
            limits.global.push(Global { limit: Arc::clone(limit), describers });
        }
        limits
    }

    fn describers(&mut self, name: &str, descriptions: &[waypoint_model::Description]) -> Vec<Describer> {
        let mut describers = Vec::with_capacity(descriptions.len());
        for description in descriptions {
            self.asks_mcp |= asks(description, "http.mcp");
            self.asks_a2a |= asks(description, "http.a2a");
            match Describer::compile(description) {
                Ok(describer) => describers.push(describer),
                Err(unknown) => {
                    let why = || format!("limit {name}: {unknown}").into();
                    self.unusable.get_or_insert_with(why);
                }
            }
        }
        describers
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.global.is_empty()
    }

    /// As what requests are read where the policies read them as `policies` say.
    pub(crate) fn read(&self, policies: Reads) -> Reads {
        match policies {
            Reads::Http if self.asks_mcp => Reads::Mcp,
            Reads::Http if self.asks_a2a => Reads::A2a,
            reads => reads,
        }
    }

    /// Why nothing may be served, where requests are read so: a limit on facts that nobody reads would never hold.
    pub(crate) fn unusable(&self, policies: Reads) -> Option<Arc<str>> {
        let reads = self.read(policies);
        let unread = (self.asks_mcp && reads != Reads::Mcp) || (self.asks_a2a && reads != Reads::A2a);
        let unread =
            unread.then(|| "a limit asks for facts of a protocol that the port is not read as".into());
        self.unusable.clone().or(unread)
    }
}

/// Whether a description has a fact of this protocol.
fn asks(description: &[DescriptionPart], protocol: &str) -> bool {
    let of = |value: &DescribedBy| matches!(value, DescribedBy::Fact { filter, .. } if filter == protocol);
    description.iter().any(|part| of(&part.value))
}

/// Whether a quota is for what is described so.
pub(super) fn is_for(quota: &DescribedQuota, described: &Described) -> bool {
    quota.entries.len() == described.len()
        && quota.entries.iter().zip(described).all(|((key, value), (described, told))| {
            key == described && value.as_ref().is_none_or(|value| value == told)
        })
}
