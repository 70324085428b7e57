//! Traps: policies that are valid and do something else than their author meant.

use serde::Serialize;
use waypoint_model::{Action, Expr, Policy, PolicyKey, Test};

use crate::cel::Condition;
use crate::compile;

const MCP: &str = "http.mcp";

/// One trap in a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trap {
    /// The policy.
    pub policy: PolicyKey,
    /// Index of the rule as written; `None`: the policy as a whole.
    pub rule: Option<usize>,
    /// Stable name, for filters in CI.
    pub code: &'static str,
    /// What happens and how to write it instead.
    pub message: String,
}

/// Traps of one policy, in the order of its rules.
#[must_use]
pub fn lint(policy: &Policy) -> Vec<Trap> {
    let trap = |rule, (code, message)| Trap { policy: policy.key.clone(), rule, code, message };
    let of_policy = policy_traps(policy).into_iter().map(|found| trap(None, found));
    let of_rules = policy.rules.iter().flat_map(|rule| {
        let found = rule_traps(policy.action, &rule.when);
        found.into_iter().map(move |found| trap(Some(rule.index), found))
    });
    of_policy.chain(of_rules).collect()
}

type Found = (&'static str, String);

fn policy_traps(policy: &Policy) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(why) = &policy.unusable {
        found.push((
            "policy-unusable",
            format!("this policy cannot be enforced, so everything it applies to is denied: {why}"),
        ));
    }
    if policy.action == Action::Allow && policy.rules.is_empty() && policy.unusable.is_none() {
        found.push((
            "allow-without-rules",
            "an ALLOW policy without rules matches nothing, so everything is denied; write `rules: [{}]` to allow \
             everything, or say in its name that it denies by default"
                .to_owned(),
        ));
    }
    if policy.action == Action::Audit && policy.dry_run {
        found.push((
            "dry-run-audit",
            "an AUDIT policy enforces nothing, so as a dry run it does nothing at all; remove the annotation \
             istio.io/dry-run"
                .to_owned(),
        ));
    }
    found
}

fn rule_traps(action: Action, when: &Expr) -> Vec<Found> {
    let mut found = Vec::new();
    if let Err(why) = compile::rule(when, action, false) {
        found.push((
            "policy-unusable",
            format!("this rule cannot be enforced, so everything its policy applies to is denied: {why}"),
        ));
        return found; // the tree may be too deep to walk
    }
    let mut leaves = Vec::new();
    collect_leaves(when, false, &mut leaves);
    let mcp_key = |leaf: &Leaf<'_>| mcp_key(leaf.test).map(str::to_owned);
    let keys: Vec<String> = leaves.iter().filter_map(mcp_key).collect();
    for key in negated_arguments(&leaves) {
        found.push((
            "negated-argument",
            format!(
                "`notValues` on {MCP}[{key}] also holds when the argument is missing or no scalar; list what is \
                 permitted with `values`"
            ),
        ));
    }
    let Some(key) = keys.first() else { return found };
    if action == Action::Deny {
        found.push((
            "deny-on-mcp",
            format!(
                "a DENY rule on {MCP}[{key}] denies nothing on a waypoint that does not read MCP; allow what is permitted \
                 with an ALLOW policy instead"
            ),
        ));
    }
    if action == Action::Deny && !names_tool(&leaves) && leaves.iter().any(asks_any_arguments) {
        found.push((
            "deny-on-any-arguments",
            "a DENY rule also holds where its condition has no answer, as in every message without the arguments it reads, \
             the opening of a session included; begin the condition with the tool it is about: tool == \"…\" && …"
                .to_owned(),
        ));
    }
    if !leaves.iter().any(|leaf| !leaf.negated && matches!(leaf.test, Test::Path(_))) {
        found.push((
            "mcp-without-paths",
            format!(
                "a rule on {MCP}[{key}] without `paths` applies to every path of the port; name the path of the MCP \
                 endpoint under `to`, e.g. paths: [\"/mcp\"]"
            ),
        ));
    }
    let hint = keys.iter().find(|key| key.starts_with("tool."));
    if let Some(hint) = hint.filter(|_| action == Action::Allow && !names_tool(&leaves)) {
        found.push((
            "hint-widens",
            format!(
                "{MCP}[{hint}] is what the server says of its own tool, and here it alone opens the tool; name the tools \
                 with {MCP}[tool] beside it"
            ),
        ));
    }
    found
}

struct Leaf<'a> {
    test: &'a Test,
    /// Under an odd number of `Not`s.
    negated: bool,
}

fn collect_leaves<'a>(expr: &'a Expr, negated: bool, leaves: &mut Vec<Leaf<'a>>) {
    match expr {
        Expr::All(parts) | Expr::Any(parts) => {
            parts.iter().for_each(|part| collect_leaves(part, negated, leaves))
        }
        Expr::Not(part) => collect_leaves(part, !negated, leaves),
        Expr::Test(test) => leaves.push(Leaf { test, negated }),
    }
}

fn mcp_key(test: &Test) -> Option<&str> {
    match test {
        Test::Fact { filter, key, .. } if filter == MCP => Some(key),
        _ => None,
    }
}

fn negated_arguments<'a>(leaves: &[Leaf<'a>]) -> Vec<&'a str> {
    let mut keys: Vec<&str> =
        leaves.iter().filter(|leaf| leaf.negated).filter_map(|leaf| mcp_key(leaf.test)).collect();
    keys.retain(|key| key.starts_with("args."));
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// A condition that reads arguments of whatever is called.
fn asks_any_arguments(leaf: &Leaf<'_>) -> bool {
    let Test::Fact { filter, key, .. } = leaf.test else { return false };
    let compiled = Condition::expression(filter, key).and_then(|text| Condition::compile(text).ok());
    compiled.is_some_and(|condition| condition.reads_arguments() && condition.tools().is_none())
}

fn names_tool(leaves: &[Leaf<'_>]) -> bool {
    leaves.iter().any(|leaf| !leaf.negated && mcp_key(leaf.test) == Some("tool"))
}
