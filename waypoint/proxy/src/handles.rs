//! Tasks and contexts of agents belong to the identity that made them (A2A 1.0 §3.3.2).
//!
//! A bounded table of this process, filled from what passes: ids stand in bodies, streams and messages of gRPC, where
//! sealing them would change what an agent signed.

use agent_protocols::a2a::Handle;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use waypoint_model::ServiceKey;

use crate::limits::Limits;
use crate::sessions::Holder;
use crate::telemetry::Hits;

/// Longest id that is remembered, in bytes; the reader of requests takes none that is longer.
const MAX_ID: usize = 256;

/// Who made which task and context.
pub(crate) struct Handles(Cache<(ServiceKey, Handle, Box<str>), Holder>);

impl Handles {
    /// At most `limits.sessions`, each for as long as `limits.session_idle` after its last use.
    pub(crate) fn new(limits: &Limits, hits: Hits) -> Self {
        let table = Cache::builder()
            .max_capacity(limits.sessions as u64)
            .time_to_idle(limits.session_idle)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |_, _, cause| match cause {
                RemovalCause::Size => hits.reached("sessions"),
                RemovalCause::Expired => hits.reached("session_idle"),
                RemovalCause::Explicit | RemovalCause::Replaced => {}
            });
        Self(table.build())
    }

    /// Whether it is the holder's; what nobody is known to have made is nobody's.
    pub(crate) fn owns(&self, holder: &Holder, handle: Handle, id: &str) -> bool {
        self.0.get(&key(holder, handle, id)).is_some_and(|owner| owner == *holder)
    }

    /// Makes it the holder's if it is nobody's. Whether it is the holder's now.
    pub(crate) fn claim(&self, holder: &Holder, handle: Handle, id: &str) -> bool {
        if id.len() > MAX_ID {
            return false;
        }
        let entry = self.0.entry(key(holder, handle, id)).or_insert_with(|| holder.clone());
        *entry.value() == *holder
    }
}

fn key(holder: &Holder, handle: Handle, id: &str) -> (ServiceKey, Handle, Box<str>) {
    (holder.service.clone(), handle, id.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spiffe_id::SpiffeId;

    fn holder(service: &str, name: &str) -> Holder {
        let id = format!("spiffe://td/ns/agents/sa/{name}");
        Holder {
            service: ServiceKey::new("agents", &format!("{service}.agents.svc")),
            principal: Some(SpiffeId::parse(&id).unwrap()),
            user: None,
        }
    }

    #[test]
    fn the_first_who_claims_it_owns_it() {
        let handles = Handles::new(&Limits::default(), Hits::default());
        let (alice, bob) = (holder("app", "alice"), holder("app", "bob"));
        assert!(!handles.owns(&alice, Handle::Task, "t"), "nobody made it");
        assert!(handles.claim(&alice, Handle::Task, "t"));
        assert!(handles.claim(&alice, Handle::Task, "t"), "again");
        assert!(!handles.claim(&bob, Handle::Task, "t"));
        assert!(handles.owns(&alice, Handle::Task, "t") && !handles.owns(&bob, Handle::Task, "t"));
        assert!(handles.claim(&bob, Handle::Context, "t"), "a context is another thing");
        assert!(handles.claim(&holder("other", "bob"), Handle::Task, "t"), "so is another agent's task");
        assert!(!handles.claim(&alice, Handle::Task, &"x".repeat(MAX_ID + 1)));
    }
}
