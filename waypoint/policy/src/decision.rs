//! Permits and denials, and what they tell the log.

use std::fmt;

use serde::{Serialize, Serializer};
use waypoint_model::PolicyKey;

/// Names a rule; displayed as Istio names it in logs, `ns[foo]-policy[bar]-rule[0]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy that holds the rule.
    pub policy: PolicyKey,
    /// Index in the policy as written.
    pub rule: usize,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ns[{}]-policy[{}]-rule[{}]", self.policy.namespace, self.policy.name, self.rule)
    }
}

impl Serialize for RuleName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Proof that a request may be sent. Only this crate makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a permit is spent by sending the request it was given for"]
pub struct Permit {
    rule: Option<RuleName>,
    record: Record,
    generation: u64,
}

impl Permit {
    pub(crate) fn new(rule: Option<RuleName>, record: Record, generation: u64) -> Self {
        Self { rule, record, generation }
    }

    /// The ALLOW rule that matched, first in declared order; `None`: no ALLOW policy is attached.
    #[must_use]
    pub fn rule(&self) -> Option<&RuleName> {
        self.rule.as_ref()
    }

    /// Generation of the configuration that it was given under. Long streams ask again when it is no longer the current one.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// AUDIT rules that matched, in declared order.
    #[must_use]
    pub fn audited(&self) -> &[RuleName] {
        &self.record.audited
    }

    /// What dry-run policies would have done.
    #[must_use]
    pub fn shadow(&self) -> &Shadow {
        static NOTHING: Shadow = Shadow { denied_by: None, allowed_by: None, would_deny: false };
        self.record.shadow.as_deref().unwrap_or(&NOTHING)
    }

    /// Both requests are permitted (members of a batch, URIs of a subscription). It names the first one's rule, records
    /// what either recorded, and is as old as the older.
    pub fn and(self, other: Self) -> Self {
        Self {
            rule: self.rule.or(other.rule),
            record: self.record.and(other.record),
            generation: self.generation.min(other.generation),
        }
    }
}

/// Why a request may not be sent. Tells the log; what the client reads is worded by its protocol and names no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denial {
    /// What decided.
    pub reason: DenyReason,
    /// Generation of the configuration that decided.
    pub generation: u64,
    /// AUDIT rules that matched, as far as the request had been read.
    pub audited: Vec<RuleName>,
    /// What dry-run policies would have done, as far as the request had been read. Boxed to keep the many results that carry
    /// a denial small.
    pub shadow: Box<Shadow>,
}

/// What decided a denial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DenyReason {
    /// A DENY rule matched.
    #[error("rule {0} denies it")]
    Rule(RuleName),
    /// ALLOW policies are attached and none of their rules matched.
    #[error("no ALLOW rule matched")]
    NoRuleMatched,
    /// A policy that applies here cannot be enforced as written.
    #[error("policy {0} applies here and cannot be enforced")]
    PolicyUnavailable(PolicyKey),
    /// The protocol has no method of this name that policy could judge.
    #[error("method `{0}` is unknown")]
    UnknownMethod(String),
}

impl DenyReason {
    /// The rule, or the policy that cannot be enforced, by name; `None`: no rule did.
    #[must_use]
    pub fn decided_by(&self) -> Option<String> {
        match self {
            Self::Rule(name) => Some(name.to_string()),
            Self::PolicyUnavailable(key) => Some(key.to_string()),
            Self::NoRuleMatched | Self::UnknownMethod(_) => None,
        }
    }

    /// A name from a bounded set.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rule(_) => "denied_by_rule",
            Self::NoRuleMatched => "no_rule_matched",
            Self::PolicyUnavailable(_) => "policy_unavailable",
            Self::UnknownMethod(_) => "unknown_method",
        }
    }

    /// Istio's response code detail, `rbac_access_denied_matched_policy[<rule>]`; `[none]` where no DENY rule matched.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Rule(name) => format!("rbac_access_denied_matched_policy[{name}]"),
            Self::NoRuleMatched | Self::PolicyUnavailable(_) | Self::UnknownMethod(_) => {
                "rbac_access_denied_matched_policy[none]".to_owned()
            }
        }
    }
}

/// What dry-run policies would have done. All empty where none is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Shadow {
    /// The first dry-run DENY rule that matched.
    pub denied_by: Option<RuleName>,
    /// The first dry-run ALLOW rule that matched.
    pub allowed_by: Option<RuleName>,
    /// Whether the request would be refused if the dry-run policies were enforced beside the others.
    pub would_deny: bool,
}

impl Shadow {
    fn and(self, other: Self) -> Self {
        Self {
            denied_by: self.denied_by.or(other.denied_by),
            allowed_by: self.allowed_by.or(other.allowed_by),
            would_deny: self.would_deny || other.would_deny,
        }
    }
}

/// What a request's head alone decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeadVerdict {
    /// Permitted whatever the body says: nothing has to be held back.
    Permit(Permit),
    /// Refused whatever the body says.
    Deny(Denial),
    /// The body decides, or an AUDIT or dry-run rule asks for it.
    ReadBody,
}

/// What is recorded beside a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) audited: Vec<RuleName>,
    /// `None`: no dry-run policy is attached.
    pub(crate) shadow: Option<Box<Shadow>>,
}

impl Record {
    fn and(mut self, other: Self) -> Self {
        for name in other.audited {
            if !self.audited.contains(&name) {
                self.audited.push(name);
            }
        }
        let shadow = match (self.shadow, other.shadow) {
            (Some(mine), Some(theirs)) => Some(Box::new(mine.and(*theirs))),
            (mine, theirs) => mine.or(theirs),
        };
        Self { audited: self.audited, shadow }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(rule: usize) -> RuleName {
        RuleName { policy: PolicyKey::new("foo", "bar"), rule }
    }

    #[test]
    fn rules_are_named_as_istio_names_them() {
        assert_eq!(name(0).to_string(), "ns[foo]-policy[bar]-rule[0]");
        let rows = [
            (DenyReason::Rule(name(3)), "rbac_access_denied_matched_policy[ns[foo]-policy[bar]-rule[3]]"),
            (DenyReason::NoRuleMatched, "rbac_access_denied_matched_policy[none]"),
            (
                DenyReason::PolicyUnavailable(PolicyKey::new("a", "b")),
                "rbac_access_denied_matched_policy[none]",
            ),
            (DenyReason::UnknownMethod("x".into()), "rbac_access_denied_matched_policy[none]"),
        ];
        for (reason, want) in rows {
            assert_eq!(reason.detail(), want);
        }
    }

    #[test]
    fn two_permits_make_one_that_is_as_old_as_the_older_and_records_both() {
        let record = |audited: &[usize], shadow: Option<&Shadow>| Record {
            audited: audited.iter().map(|n| name(*n)).collect(),
            shadow: shadow.cloned().map(Box::new),
        };
        let open = Shadow { denied_by: None, allowed_by: Some(name(8)), would_deny: false };
        let closed = Shadow { denied_by: Some(name(9)), allowed_by: None, would_deny: true };
        let first = Permit::new(Some(name(1)), record(&[4, 5], Some(&open)), 8);
        let second = Permit::new(Some(name(2)), record(&[5, 6], Some(&closed)), 7);
        let both = Shadow { denied_by: Some(name(9)), allowed_by: Some(name(8)), would_deny: true };
        assert_eq!(first.clone().and(second), Permit::new(Some(name(1)), record(&[4, 5, 6], Some(&both)), 7));
        let without = Permit::new(None, record(&[], None), 8);
        assert_eq!(*without.shadow(), Shadow::default());
        assert_eq!(without.and(first.clone()), first);
    }
}
