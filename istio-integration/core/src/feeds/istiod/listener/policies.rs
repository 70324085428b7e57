//! Policies that stay the same `Arc` while they stay the same, and stay good when their next version is not.

use std::collections::HashMap;
use std::sync::Arc;

use waypoint_model::{Policy, PolicyKey};

use super::rbac::Draft;

/// The policies of the listener before, and those that were settled of the one at hand.
#[derive(Debug, Default)]
pub(super) struct Policies {
    before: HashMap<PolicyKey, Arc<Policy>>,
    now: HashMap<PolicyKey, Arc<Policy>>,
}

impl Policies {
    /// A listener begins: what is not settled from now on is forgotten at the next beginning.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    /// Takes over a policy of a chain that did not change.
    pub(super) fn keep(&mut self, policy: &Arc<Policy>) {
        self.now.insert(policy.key.clone(), Arc::clone(policy));
    }

    /// The policy to use for a draft: an equal one that is known, the last good one where the draft was refused, or an
    /// unusable one where there is none. `chain` tells apart two policies of one name that are compiled differently.
    pub(super) fn settle(&mut self, draft: Draft, chain: &str) -> Arc<Policy> {
        let Draft { mut policy, refused } = draft;
        if let Some(first) = refused.first() {
            // A version that did something else would leave open what this one is to close.
            let good = |known: &&Arc<Policy>| {
                known.unusable.is_none() && known.action == policy.action && known.dry_run == policy.dry_run
            };
            if let Some(good) = self.before.get(&policy.key).filter(good) {
                let good = Arc::clone(good);
                if self.now.get(&good.key).is_none_or(|same_name| *same_name == good) {
                    self.keep(&good);
                    return good;
                }
            }
            policy.unusable = Some(first.to_string());
        }
        let name = Arc::clone(&policy.key.name);
        for again in 1_u32.. {
            if self.now.get(&policy.key).is_none_or(|same_name| **same_name == policy) {
                break;
            }
            let which = if again == 1 { String::new() } else { format!(" {again}") };
            policy.key = PolicyKey::new(&policy.key.namespace, &format!("{name} ({chain}{which})"));
        }
        let known = [&self.now, &self.before]
            .into_iter()
            .find_map(|known| known.get(&policy.key).filter(|known| ***known == policy).map(Arc::clone));
        let settled = known.unwrap_or_else(|| Arc::new(policy));
        self.keep(&settled);
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::istiod::listener::translated::Refused;
    use waypoint_model::{Action, Expr, Rule, Test};

    fn draft(name: &str, port: u16, refused: bool) -> Draft {
        let rules = vec![Rule { index: 0, when: Expr::Test(Test::DestinationPort(port)) }];
        let key = PolicyKey::new("ns", name);
        let policy = Policy { key, action: Action::Deny, dry_run: false, rules, unusable: None };
        let refused = if refused { vec![Refused::new("is not known").at("rules")] } else { Vec::new() };
        Draft { policy, refused }
    }

    #[test]
    fn an_unchanged_policy_is_the_same_arc() {
        let mut policies = Policies::default();
        let first = policies.settle(draft("a", 1, false), "c1");
        let again = policies.settle(draft("a", 1, false), "c2");
        policies.begin();
        let later = policies.settle(draft("a", 1, false), "c1");
        assert!(Arc::ptr_eq(&first, &again) && Arc::ptr_eq(&first, &later));
        policies.begin();
        assert!(!Arc::ptr_eq(&first, &policies.settle(draft("a", 2, false), "c1")));
    }

    #[test]
    fn a_refused_policy_keeps_its_last_good_state_and_is_unusable_without_one() {
        let mut policies = Policies::default();
        let good = policies.settle(draft("a", 1, false), "c");
        for _ in 0..2 {
            policies.begin();
            assert!(Arc::ptr_eq(&good, &policies.settle(draft("a", 2, true), "c")));
        }
        let new = policies.settle(draft("b", 1, true), "c");
        assert_eq!(new.unusable.as_deref(), Some("rules: is not known"));
        policies.begin();
        assert!(policies.settle(draft("b", 2, true), "c").unusable.is_some(), "that was no good state");
    }

    #[test]
    fn a_good_state_that_did_something_else_does_not_stand_in() {
        let mut policies = Policies::default();
        policies.settle(draft("a", 1, false), "c");
        policies.begin();
        let mut allow = draft("a", 2, true);
        allow.policy.action = Action::Allow;
        assert!(policies.settle(allow, "c").unusable.is_some(), "a DENY does not do an ALLOW's work");
        policies.begin();
        let mut dry = draft("b", 1, false);
        dry.policy.dry_run = true;
        policies.settle(dry, "c");
        policies.begin();
        assert!(policies.settle(draft("b", 2, true), "c").unusable.is_some(), "nothing was enforced by it");
    }

    #[test]
    fn three_compilations_of_one_name_are_three_policies() {
        let mut policies = Policies::default();
        let keys = [1, 2, 3].map(|port| policies.settle(draft("a", port, false), "c").key.to_string());
        assert_eq!(keys, ["ns/a", "ns/a (c)", "ns/a (c 2)"]);
    }

    #[test]
    fn two_compilations_of_one_name_are_two_policies() {
        let mut policies = Policies::default();
        let first = policies.settle(draft("a", 1, false), "c1");
        let other = policies.settle(draft("a", 2, false), "c2");
        assert_eq!(
            (first.key.to_string(), other.key.to_string()),
            ("ns/a".to_owned(), "ns/a (c2)".to_owned())
        );
        policies.begin();
        assert_eq!(policies.settle(draft("a", 1, false), "c1"), first);
        assert!(Arc::ptr_eq(&other, &policies.settle(draft("a", 2, false), "c2")));
    }
}
