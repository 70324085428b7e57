//! How conditions on facts count: as they stand, or open, where our waypoint judges before the facts are known.

use super::super::objects::{at, list, text};
use super::RBAC_HTTP;
use serde_json::{Map, Value, json};

/// Where the MCP filter would put its facts.
pub(super) const FACTS: &str = "envoy.filters.http.mcp";

/// Facts that an entry of a list does not tell: they come with the call.
const OF_CALLS: [&str; 2] = ["args.", "protocol_version"];

/// How conditions on facts count. Envoy knows no MCP; what a waypoint of ours makes of messages without a call in them
/// (docs/policy.md) is written here into the policies that istiod sent, and Envoy judges by these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As istiod sent them.
    AsSent,
    /// Of lists and lifecycle, which follow access: in ALLOW policies every condition on a fact is taken for what lets its
    /// rule hold.
    ByAccess,
    /// Of an entry of a list, which stays if its call could be allowed: conditions on what only a call tells are taken for
    /// what lets an ALLOW rule hold, and a DENY rule not.
    AsEntry,
}

impl Reading {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::AsSent, Self::ByAccess, Self::AsEntry];

    /// Whether a condition on this fact is open in a rule of this action, and if so what it counts as.
    fn open(self, action: &str, key: &str) -> Option<bool> {
        match (self, action) {
            (Self::ByAccess, "ALLOW") => Some(true),
            (Self::AsEntry, "ALLOW" | "DENY") => {
                OF_CALLS.iter().any(|open| key.starts_with(open)).then_some(action == "ALLOW")
            }
            _ => None,
        }
    }

    /// An HTTP filter as it is read so; any but RBAC stays what it is.
    pub(super) fn of_filter(self, filter: &Value) -> Value {
        let mut read = filter.clone();
        if self == Self::AsSent || text(filter, "/name").ok() != Some(RBAC_HTTP) {
            return read;
        }
        // ALLOW is the first value of the enumeration, which JSON of protobuf leaves out.
        let action = text(filter, "/typedConfig/rules/action").unwrap_or("ALLOW");
        let policies = read.pointer_mut("/typedConfig/rules/policies").and_then(Value::as_object_mut);
        for policy in policies.into_iter().flat_map(Map::values_mut) {
            if let Some(permissions) = policy.get_mut("permissions").and_then(Value::as_array_mut) {
                permissions
                    .iter_mut()
                    .for_each(|permission| *permission = self.of_permission(action, permission, false));
            }
        }
        read
    }

    /// `turned`: it stands under an odd number of negations.
    fn of_permission(self, action: &str, permission: &Value, turned: bool) -> Value {
        let metadata = at(permission, "/metadata");
        let key = text(metadata, "/path/0/key").unwrap_or_default();
        let is_fact = text(metadata, "/filter").ok() == Some(FACTS);
        if let Some(holds) = self.open(action, key).filter(|_| is_fact) {
            return if holds == turned { json!({"notRule": {"any": true}}) } else { json!({"any": true}) };
        }
        if let Some(part) = permission.get("notRule") {
            return json!({"notRule": self.of_permission(action, part, !turned)});
        }
        match ["andRules", "orRules"].into_iter().find(|set| permission.get(set).is_some()) {
            Some(set) => {
                let parts = list(permission, &format!("/{set}/rules")).iter();
                let parts: Vec<_> = parts.map(|part| self.of_permission(action, part, turned)).collect();
                json!({set: {"rules": parts}})
            }
            None => permission.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(key: &str) -> Value {
        json!({"metadata": {"filter": FACTS, "path": [{"key": key}], "value": {}}})
    }

    fn filter(action: Option<&str>, permission: &Value) -> Value {
        let mut rules =
            json!({"policies": {"p": {"permissions": [permission], "principals": [{"any": true}]}}});
        if let Some(action) = action {
            rules["action"] = action.into();
        }
        json!({"name": RBAC_HTTP, "typedConfig": {"rules": rules}})
    }

    #[test]
    fn open_conditions_count_for_an_allow_rule_and_against_a_deny_rule() {
        let (always, never) = (json!({"any": true}), json!({"notRule": {"any": true}}));
        let negated =
            |part: &Value| json!({"andRules": {"rules": [{"notRule": {"orRules": {"rules": [part]}}}]}});
        let (tool, owner) = (fact("tool"), fact("args.owner"));
        let port = json!({"destinationPort": 80});
        let rows = [
            (Reading::AsSent, None, negated(&tool), negated(&tool)),
            (Reading::ByAccess, None, tool.clone(), always.clone()),
            (Reading::ByAccess, None, negated(&tool), negated(&never)),
            (Reading::ByAccess, None, port.clone(), port),
            (Reading::ByAccess, Some("DENY"), tool.clone(), tool.clone()),
            (Reading::AsEntry, None, tool.clone(), tool.clone()),
            (Reading::AsEntry, None, negated(&owner), negated(&never)),
            (Reading::AsEntry, Some("DENY"), owner.clone(), never),
            (Reading::AsEntry, Some("DENY"), negated(&owner), negated(&always)),
            (Reading::AsEntry, Some("LOG"), owner.clone(), owner),
        ];
        for (reading, action, sent, want) in rows {
            assert_eq!(
                reading.of_filter(&filter(action, &sent)),
                filter(action, &want),
                "{reading:?} {action:?} {sent}"
            );
        }
    }
}
