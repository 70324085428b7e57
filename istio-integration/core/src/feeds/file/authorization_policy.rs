//! AuthorizationPolicy: whom it concerns and what it does. Its rules are read by `authorization_rule.rs`.
//!
//! An unsupported field or an invalid value anywhere makes the whole policy unusable: Istio drops the rule or the
//! field, which is safe only in an ALLOW policy.

use serde::Deserialize;
use serde_json::Value;
use waypoint_model::{Action, Policy, PolicyKey, Rule};

use super::authorization_rule::{self, Context, WrittenRule};
use super::decode::{Unread, decode};
use super::document::Document;
use super::finding::{Remarks, Severity};
use super::options::Options;

/// A policy and whom it targets.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PolicyDoc {
    pub(super) targets: Targets,
    pub(super) policy: Policy,
}

/// Whom a policy targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Targets {
    /// A selector, or nothing: ztunnel enforces it at the workload.
    Ztunnel,
    /// These.
    Refs(Vec<TargetRef>),
    /// It says so in a way that cannot be read: it may be any service of its namespace.
    Unreadable,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TargetRef {
    Service(String),
    ServiceEntry(String),
    Gateway(String),
    GatewayClass(String),
    /// A kind that Istio knows and this waypoint does not serve.
    Foreign(String),
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    action: Option<WrittenAction>,
    rules: Vec<WrittenRule>,
    provider: Option<Value>,
    // Read by `targets`, which must also work where the rest does not.
    #[serde(rename = "targetRef")]
    _target_ref: Option<Value>,
    #[serde(rename = "targetRefs")]
    _target_refs: Option<Value>,
    #[serde(rename = "selector")]
    _selector: Option<Value>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
enum WrittenAction {
    Allow,
    Deny,
    Audit,
    Custom,
}

const UNREAD: Unread = Unread { harmless: &["status"], severity: Severity::Error };

/// Translates an AuthorizationPolicy.
pub(super) fn translate(document: &Document, options: &Options, remarks: &mut Remarks) -> Option<PolicyDoc> {
    let targets = targets(&document.body, &document.key.namespace, remarks);
    if targets == Targets::Ztunnel {
        remarks
            .note("spec", "has no targetRefs: ztunnel enforces it at the workload, this waypoint does not");
    }
    let dry_run = dry_run(document, remarks);
    let spec = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    let action = action(&spec, remarks)?;
    let context = Context { namespace: &document.key.namespace, options };
    let rules = spec.rules.iter().enumerate().map(|(index, written)| Rule {
        index,
        when: authorization_rule::translate(written, &format!("spec.rules[{index}]"), &context, remarks),
    });
    let rules: Vec<Rule> = rules.collect();
    if rules.is_empty() && action != Action::Allow {
        remarks.warning("spec.rules", "is empty, so the policy matches nothing and does nothing");
    }
    let key = PolicyKey::new(&document.key.namespace, &document.meta.name);
    Some(PolicyDoc { targets, policy: Policy { key, action, dry_run, rules, unusable: None } })
}

/// What stands for a policy that never was usable: it refuses everything at its targets.
pub(super) fn unusable(document: &Document, why: String) -> PolicyDoc {
    let mut remarks = Remarks::default();
    let targets = targets(&document.body, &document.key.namespace, &mut remarks);
    let policy = Policy {
        key: PolicyKey::new(&document.key.namespace, &document.meta.name),
        action: Action::Deny,
        dry_run: dry_run(document, &mut remarks),
        rules: Vec::new(),
        unusable: Some(why),
    };
    PolicyDoc { targets, policy }
}

fn action(spec: &Spec, remarks: &mut Remarks) -> Option<Action> {
    let action = match spec.action.unwrap_or(WrittenAction::Allow) {
        WrittenAction::Allow => Action::Allow,
        WrittenAction::Deny => Action::Deny,
        WrittenAction::Audit => Action::Audit,
        WrittenAction::Custom => {
            remarks.error("spec.action", "CUSTOM (external authorization) is not built yet");
            return None;
        }
    };
    if spec.provider.is_some() {
        remarks.error("spec.provider", "belongs to action CUSTOM: remove it");
    }
    Some(action)
}

fn dry_run(document: &Document, remarks: &mut Remarks) -> bool {
    match document.meta.annotation("istio.io/dry-run") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let message = format!("`{other}` is neither true nor false");
            remarks.error("metadata.annotations[istio.io/dry-run]", message);
            false
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetBody {
    #[serde(default)]
    spec: TargetSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TargetSpec {
    target_ref: Option<WrittenTarget>,
    target_refs: Option<Vec<WrittenTarget>>,
    selector: Option<WrittenSelector>,
}

#[derive(Deserialize)]
struct WrittenTarget {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenSelector {
    #[serde(default, rename = "matchLabels")]
    _match_labels: std::collections::BTreeMap<String, String>,
}

/// Everything beside the targets is the policy's own business.
const TARGETS_UNREAD: Unread = Unread { harmless: &["*", "spec.*"], severity: Severity::Error };

/// Reads whom a policy targets and nothing else, so that a policy with a fault elsewhere still has targets to deny.
pub(super) fn targets(body: &Value, namespace: &str, remarks: &mut Remarks) -> Targets {
    let Some(TargetBody { spec }) = decode::<TargetBody>(body, TARGETS_UNREAD, remarks) else {
        return Targets::Unreadable;
    };
    // The API server would refuse a null; that it targets nothing is the last thing its author meant.
    if ["/spec/targetRef", "/spec/targetRefs"]
        .into_iter()
        .any(|at| body.pointer(at).is_some_and(Value::is_null))
    {
        return Targets::Unreadable;
    }
    let given = spec.target_ref.is_some() || spec.target_refs.is_some();
    if given && spec.selector.is_some() {
        remarks.error("spec.selector", "cannot stand beside targetRefs: remove one of them");
    }
    if spec.target_ref.is_some() && spec.target_refs.is_some() {
        remarks.error("spec.targetRef", "cannot stand beside targetRefs: remove it");
    }
    let all = spec.target_refs.unwrap_or_default().into_iter().chain(spec.target_ref);
    let refs: Option<Vec<TargetRef>> =
        all.enumerate().map(|(index, written)| target(&written, index, namespace, remarks)).collect();
    match refs {
        None => Targets::Unreadable,
        // An empty list targets nothing, as in Istio.
        Some(refs) if refs.is_empty() => Targets::Ztunnel,
        Some(refs) => Targets::Refs(refs),
    }
}

fn target(
    written: &WrittenTarget,
    index: usize,
    namespace: &str,
    remarks: &mut Remarks,
) -> Option<TargetRef> {
    let path = format!("spec.targetRefs[{index}]");
    if written.namespace.as_deref().is_some_and(|other| other != namespace) {
        remarks.error(
            format!("{path}.namespace"),
            "must be the policy's own: Istio has no targets across namespaces",
        );
        return None;
    }
    let name = written.name.clone();
    match (written.group.as_str(), written.kind.as_str()) {
        ("" | "core", "Service") => Some(TargetRef::Service(name)),
        ("networking.istio.io", "ServiceEntry") => Some(TargetRef::ServiceEntry(name)),
        ("gateway.networking.k8s.io", "Gateway") => Some(TargetRef::Gateway(name)),
        ("gateway.networking.k8s.io", "GatewayClass") => Some(TargetRef::GatewayClass(name)),
        ("inference.networking.k8s.io", "InferencePool") => {
            remarks.error(format!("{path}.kind"), "InferencePool is not served by this waypoint");
            Some(TargetRef::Foreign(name))
        }
        (group, kind) => {
            let message = format!(
                "`{group}` {kind} cannot be targeted: write a Service, ServiceEntry, Gateway or GatewayClass with its group"
            );
            remarks.error(format!("{path}.kind"), message);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feeds::file::testing::{document, fields};

    fn read_with(meta: &str, spec: &str) -> (Option<PolicyDoc>, Remarks) {
        let mut remarks = Remarks::default();
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: a{meta}}}\nspec: {{{spec}}}\n"
        );
        (translate(&document(&text), &Options::default(), &mut remarks), remarks)
    }

    const TO_S: &str = "targetRefs: [{kind: Service, name: s}]";

    #[test]
    fn actions_and_dry_run() {
        let rows = [
            ("", "", Action::Allow, false),
            ("", ", action: ALLOW", Action::Allow, false),
            ("", ", action: DENY, rules: [{}]", Action::Deny, false),
            ("", ", action: AUDIT, rules: [{}]", Action::Audit, false),
            (", annotations: {istio.io/dry-run: 'true'}", "", Action::Allow, true),
            (", annotations: {istio.io/dry-run: 'false'}", "", Action::Allow, false),
        ];
        for (meta, spec, action, dry_run) in rows {
            let (got, remarks) = read_with(meta, &format!("{TO_S}{spec}"));
            let policy = got.unwrap().policy;
            assert_eq!((policy.action, policy.dry_run), (action, dry_run), "{meta} {spec}");
            assert_eq!(remarks, Remarks::default());
        }
    }

    #[test]
    fn targets_are_told_apart() {
        let gateway = "gateway.networking.k8s.io";
        let rows = [
            (String::new(), Targets::Ztunnel),
            ("selector: {matchLabels: {a: b}}".to_owned(), Targets::Ztunnel),
            ("targetRefs: []".to_owned(), Targets::Ztunnel),
            (TO_S.to_owned(), Targets::Refs(vec![TargetRef::Service("s".to_owned())])),
            (
                "targetRef: {group: networking.istio.io, kind: ServiceEntry, name: e, namespace: a}"
                    .to_owned(),
                Targets::Refs(vec![TargetRef::ServiceEntry("e".to_owned())]),
            ),
            (
                format!(
                    "targetRefs: [{{group: {gateway}, kind: Gateway, name: g}}, {{group: {gateway}, kind: GatewayClass, name: c}}]"
                ),
                Targets::Refs(vec![
                    TargetRef::Gateway("g".to_owned()),
                    TargetRef::GatewayClass("c".to_owned()),
                ]),
            ),
        ];
        for (spec, want) in rows {
            let (got, remarks) = read_with("", &spec);
            assert!(!remarks.has_errors(), "{spec} {remarks:?}");
            assert_eq!(got.unwrap().targets, want, "{spec}");
        }
    }

    #[test]
    fn a_policy_with_a_fault_is_invalid_and_keeps_its_targets() {
        let refs = || Targets::Refs(vec![TargetRef::Service("s".to_owned())]);
        let rows = [
            ("", format!("{TO_S}, action: CUSTOM, provider: {{name: x}}"), "spec.action", refs()),
            ("", format!("{TO_S}, provider: {{name: x}}"), "spec.provider", refs()),
            ("", format!("{TO_S}, action: allow"), "spec.action", refs()),
            ("", format!("{TO_S}, rule: []"), "spec.rule", refs()),
            ("", format!("{TO_S}, rules: [{{form: []}}]"), "spec.rules[0].form", refs()),
            ("", format!("{TO_S}, rules: {{}}"), "spec.rules", refs()),
            ("", format!("{TO_S}, selector: {{matchLabels: {{}}}}"), "spec.selector", refs()),
            (
                ", annotations: {istio.io/dry-run: 'yes'}",
                TO_S.to_owned(),
                "metadata.annotations[istio.io/dry-run]",
                refs(),
            ),
            (
                "",
                "targetRefs: [{kind: Serivce, name: s}]".to_owned(),
                "spec.targetRefs[0].kind",
                Targets::Unreadable,
            ),
            (
                "",
                "targetRefs: [{kind: Gateway, name: s}]".to_owned(),
                "spec.targetRefs[0].kind",
                Targets::Unreadable,
            ),
            ("", "targetRefs: {kind: Service, name: s}".to_owned(), "spec.targetRefs", Targets::Unreadable),
            (
                "",
                "targetRefs: [{kind: Service, name: s, namespace: b}]".to_owned(),
                "spec.targetRefs[0].namespace",
                Targets::Unreadable,
            ),
            (
                "",
                "targetRefs: [{kind: Service, name: s, port: 80}]".to_owned(),
                "spec.targetRefs[0].port",
                refs(),
            ),
        ];
        for (meta, spec, field, want) in rows {
            let (_, remarks) = read_with(meta, &spec);
            assert!(fields(&remarks).contains(&(Severity::Error, field.to_owned())), "{spec} {remarks:?}");
            let text = format!(
                "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: a}}\nspec: {{{spec}}}\n"
            );
            let stand_in = unusable(&document(&text), "why".to_owned());
            assert_eq!(stand_in.targets, want, "{spec}");
            assert_eq!(stand_in.policy.unusable.as_deref(), Some("why"));
        }
    }

    #[test]
    fn a_policy_that_can_do_nothing_is_warned_of() {
        let (_, remarks) = read_with("", &format!("{TO_S}, action: DENY"));
        assert_eq!(fields(&remarks), [(Severity::Warning, "spec.rules".to_owned())]);
    }
}
