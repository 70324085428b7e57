//! One thing that a policy is asked about: a request with one of its tasks and one of its extensions.

use super::operation::Operation;
use super::request::Request;
use crate::facts::{A2aKey, FactKey, Facts, Given, Kind, Truth, tell};

/// A request with one of its tasks and one of its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'r> {
    pub(super) request: &'r Request,
    pub(super) task: Option<&'r str>,
    pub(super) extension: Option<&'r str>,
}

/// What is spoken where nothing is declared (A2A 1.0 §3.6.2).
const UNDECLARED: &str = "0.3";

impl Facts for Subject<'_> {
    fn kind(&self) -> Kind {
        self.request.operation.map_or(Kind::Call, Operation::kind)
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        // Policies of both protocols on one port deny everything, so no other fact is asked.
        let FactKey::A2a(key) = key else { return Truth::NotYet };
        let named = &self.request.named;
        match key {
            A2aKey::Method => tell(self.request.operation.map(Operation::name), test),
            A2aKey::Task => tell(self.task, test),
            A2aKey::Context => tell(named.context.as_deref(), test),
            A2aKey::Tenant if self.request.tenant_unclear => Truth::NotYet,
            A2aKey::Tenant => tell(named.tenant.as_deref(), test),
            A2aKey::Extension => tell(self.extension, test),
            A2aKey::ProtocolVersion => {
                tell(Some(self.request.version.as_deref().unwrap_or(UNDECLARED)), test)
            }
            A2aKey::PushHost => only(self.request.push_hosts.iter().map(|host| Some(host.as_str())), test),
            A2aKey::Metadata(key) => {
                let told = named.metadata.iter().filter(|(name, _)| name == key);
                only(told.map(|(_, value)| value.as_deref()), test)
            }
        }
    }

    fn arguments(&self) -> Given<'_> {
        Given::Nothing
    }
}

/// Several places must tell the same, and a text: otherwise it cannot be told which one the agent takes.
fn only<'t>(mut told: impl Iterator<Item = Option<&'t str>>, test: &mut dyn FnMut(&str) -> bool) -> Truth {
    let Some(first) = told.next() else { return Truth::No };
    match first {
        Some(text) if told.all(|other| other == first) => tell(Some(text), test),
        _ => Truth::NotYet,
    }
}
