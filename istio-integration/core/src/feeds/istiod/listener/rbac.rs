//! RBAC filters, HTTP and network ones: policies by name, rule by rule.

use std::collections::BTreeMap;

use istio_protos::envoy::config::rbac::v3::rbac::Action as EnvoyAction;
use istio_protos::envoy::config::rbac::v3::{Policy as Entry, Rbac};
use istio_protos::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use istio_protos::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use istio_protos::{Any, Finding, Step};
use waypoint_model::{Action, Expr, Policy, PolicyKey, Rule};

use super::expr::{all, any, is_never};
use super::permission::permission;
use super::principal::principal;
use super::translated::{At, Refused};
use super::unpack::unpack_with_findings;

/// Namespace of a policy that istiod did not name after a resource. No namespace can be called so.
const UNNAMED: &str = "(istiod)";
/// Name of the policy that an ALLOW filter without policies is: it denies everything.
const NOTHING: &str = "(allow nothing)";

/// A filter that judges, translated.
#[derive(Debug, Default)]
pub(super) struct Judges {
    /// Its policies. One that was not understood is there too, see [`Draft::refused`].
    pub(super) policies: Vec<Draft>,
    /// Whether it refuses what no ALLOW policy matches.
    pub(super) allows: bool,
}

/// A policy before it is settled against its last good state.
#[derive(Debug)]
pub(super) struct Draft {
    /// The policy; without the rules that were refused.
    pub(super) policy: Policy,
    /// What in it was not understood. Then the last good version stays, or the policy is unusable.
    pub(super) refused: Vec<Refused>,
}

/// Which compilation of a policy it is: on opaque streams istiod leaves HTTP tests out, so it is another policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// `namespace/name`.
    Http,
    /// `namespace/name (tcp)`.
    Tcp,
}

/// An HTTP filter.
///
/// # Errors
/// What is wrong with the filter as a whole, so that no policy in it can be relied on.
pub(super) fn http(config: Option<&Any>) -> Result<Judges, Refused> {
    let (filter, findings) = unpack_with_findings::<HttpRbac>(config)?;
    judges(Layer::Http, filter.rules.as_ref(), filter.shadow_rules.as_ref(), &findings)
}

/// A network filter.
///
/// # Errors
/// As [`http()`].
pub(super) fn network(config: Option<&Any>) -> Result<Judges, Refused> {
    let (filter, findings) = unpack_with_findings::<NetworkRbac>(config)?;
    judges(Layer::Tcp, filter.rules.as_ref(), filter.shadow_rules.as_ref(), &findings)
}

fn judges(
    layer: Layer,
    rules: Option<&Rbac>,
    shadow: Option<&Rbac>,
    findings: &[Finding],
) -> Result<Judges, Refused> {
    if let Some(finding) = findings.iter().find(|finding| entry_of(finding).is_none()) {
        return Err(Refused::new(finding.to_string()));
    }
    let mut judges = Judges::default();
    for (rbac, side) in [(rules, Side::Enforced), (shadow, Side::DryRun)] {
        let Some(rbac) = rbac else { continue };
        let action = action(rbac).at(side.field())?;
        judges.policies.extend(policies(layer, rbac, action, side, findings));
        if side == Side::Enforced && action == Action::Allow {
            judges.allows = true;
            if rbac.policies.is_empty() {
                judges.policies.push(nothing_allowed());
            }
        }
    }
    Ok(judges)
}

/// Which of a filter's two sets of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Enforced,
    DryRun,
}

impl Side {
    fn field(self) -> &'static str {
        match self {
            Self::Enforced => "rules",
            Self::DryRun => "shadow_rules",
        }
    }
}

/// The set of rules and the entry in it that a finding stands in.
fn entry_of(finding: &Finding) -> Option<(&'static str, &str)> {
    match finding.path.as_slice() {
        [Step::Field(side @ ("rules" | "shadow_rules")), Step::Field("policies"), Step::Key(id), ..] => {
            Some((side, id))
        }
        _ => None,
    }
}

fn action(rbac: &Rbac) -> Result<Action, Refused> {
    match EnvoyAction::try_from(rbac.action) {
        Ok(EnvoyAction::Allow) => Ok(Action::Allow),
        Ok(EnvoyAction::Deny) => Ok(Action::Deny),
        Ok(EnvoyAction::Log) => Ok(Action::Audit),
        Err(_) => Err(Refused::new(format!("the action {} is not known", rbac.action)).at("action")),
    }
}

/// istiod writes an entry for each rule; here they are policies again, with the rules in their order.
fn policies(layer: Layer, rbac: &Rbac, action: Action, side: Side, findings: &[Finding]) -> Vec<Draft> {
    let mut drafts: BTreeMap<PolicyKey, Draft> = BTreeMap::new();
    for (id, entry) in &rbac.policies {
        let (key, index) = key(id, layer);
        let draft = drafts.entry(key.clone()).or_insert_with(|| Draft {
            policy: Policy { key, action, dry_run: side == Side::DryRun, rules: Vec::new(), unusable: None },
            refused: Vec::new(),
        });
        match condition(entry, side, id, findings) {
            Ok(when) if is_never(&when) => {} // what istiod makes of a policy without rules
            Ok(when) => draft.policy.rules.push(Rule { index, when }),
            Err(refused) => {
                draft.refused.push(refused.at(format!("policies[{id:?}]")).at(side.field()));
            }
        }
    }
    let mut drafts: Vec<Draft> = drafts.into_values().collect();
    for draft in &mut drafts {
        draft.policy.rules.sort_by_key(|rule| rule.index);
    }
    drafts
}

fn condition(entry: &Entry, side: Side, id: &str, findings: &[Finding]) -> Result<Expr, Refused> {
    let mine = |finding: &&Finding| entry_of(finding) == Some((side.field(), id));
    if let Some(finding) = findings.iter().find(mine) {
        return Err(Refused::new(finding.to_string()));
    }
    let permissions: Result<Vec<_>, _> = entry
        .permissions
        .iter()
        .enumerate()
        .map(|(at, part)| permission(part).at(format!("permissions[{at}]")))
        .collect();
    let principals: Result<Vec<_>, _> = entry
        .principals
        .iter()
        .enumerate()
        .map(|(at, part)| principal(part).at(format!("principals[{at}]")))
        .collect();
    Ok(all(vec![any(permissions?), any(principals?)]))
}

/// `ns[a]-policy[b]-rule[3]` is rule 3 of `a/b`. An id of another shape stays what it is.
fn key(id: &str, layer: Layer) -> (PolicyKey, usize) {
    let named = named(id);
    let (namespace, name, index) = named.unwrap_or((UNNAMED, id, 0));
    match layer {
        Layer::Http => (PolicyKey::new(namespace, name), index),
        Layer::Tcp => (PolicyKey::new(namespace, &format!("{name} (tcp)")), index),
    }
}

fn named(id: &str) -> Option<(&str, &str, usize)> {
    let (namespace, rest) = id.strip_prefix("ns[")?.split_once("]-policy[")?;
    let (name, index) = rest.strip_suffix(']')?.split_once("]-rule[")?;
    Some((namespace, name, index.parse().ok()?))
}

fn nothing_allowed() -> Draft {
    let policy = Policy {
        key: PolicyKey::new(UNNAMED, NOTHING),
        action: Action::Allow,
        dry_run: false,
        rules: Vec::new(),
        unusable: None,
    };
    Draft { policy, refused: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_istiod_writes_them() {
        let rows = [
            ("ns[a]-policy[b]-rule[3]", Layer::Http, "a/b", 3),
            ("ns[a]-policy[b.c]-rule[12]", Layer::Tcp, "a/b.c (tcp)", 12),
            (
                "istio-ext-authz-x-ns[a]-policy[b]-rule[0]-deny-due-to-bad-CUSTOM-action",
                Layer::Http,
                "(istiod)/istio-ext-authz-x-ns[a]-policy[b]-rule[0]-deny-due-to-bad-CUSTOM-action",
                0,
            ),
            ("ns[a]-policy[b]-rule[x]", Layer::Http, "(istiod)/ns[a]-policy[b]-rule[x]", 0),
        ];
        for (id, layer, want, index) in rows {
            let (key, at) = key(id, layer);
            assert_eq!((key.to_string().as_str(), at), (want, index), "{id}");
        }
    }
}
