//! The answer of `check`. The JSON fields are documented in docs/operations.md and stay.

use std::fmt;
use std::path::PathBuf;

use istio_integration::feeds::file::{Finding, Loaded, Severity};
use serde::Serialize;
use waypoint_model::{Action, MeshConfig, PolicyKey};
use waypoint_policy::{DenyReason, RuleName, Shadow, Trap, lint};
use waypoint_proxy::offline::{Answer, Judged};

use super::request::Composed;
use super::target::Target;
use crate::cli::CheckArgs;

/// An answer with its grounds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// `allow` or `deny`.
    decision: &'static str,
    /// Why, in a sentence.
    reason: String,
    /// Who asks.
    from: String,
    /// Full host name.
    service: String,
    port: u16,
    /// `stream`, `http`, `mcp_head` (whatever the body says), `mcp_body` or `a2a`.
    judged_by: &'static str,
    /// HTTP method and path; absent on a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mcp_name: Option<String>,
    /// The policy that decided, `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    /// Index of its rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<usize>,
    /// Both, as the access log names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_rule: Option<RuleName>,
    /// Where the policy stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// Which document of the file, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<usize>,
    /// Policies that apply to the service.
    policies: Vec<String>,
    /// AUDIT rules that matched.
    audited: Vec<RuleName>,
    /// What dry-run policies would have done.
    dry_run: Shadow,
    /// Policies of this service that do something else than their author probably meant.
    traps: Vec<Trap>,
    /// What is wrong with the manifests, and what is worth knowing.
    findings: Vec<Finding>,
    #[serde(skip)]
    action: Option<&'static str>,
}

impl Report {
    pub(super) fn new(
        args: &CheckArgs,
        loaded: &Loaded,
        target: &Target,
        composed: Option<&Composed>,
        (judged, answer): (Judged, Answer),
    ) -> Self {
        let grounds = Grounds::of(answer, target);
        let service = &target.service;
        let policy = grounds.policy.as_ref();
        let origin = policy.and_then(|key| loaded.origins.get(key));
        let http = composed.filter(|_| judged != Judged::Stream);
        let traps = service.policies.iter().filter_map(|key| loaded.mesh.policies.get(key));
        Self {
            decision: if grounds.allowed { "allow" } else { "deny" },
            reason: grounds.reason,
            from: args.from.0.to_string(),
            service: service.key.hostname.to_string(),
            port: target.port,
            judged_by: match judged {
                Judged::Stream => "stream",
                Judged::Http => "http",
                Judged::McpHead => "mcp_head",
                Judged::McpBody => "mcp_body",
                Judged::A2a => "a2a",
            },
            request: http.map(|http| format!("{} {}", http.parts.method, http.parts.uri)),
            mcp_method: http.and_then(|http| http.mcp_method.clone()),
            mcp_name: http.and_then(|http| http.mcp_name.clone()),
            policy: policy.map(ToString::to_string),
            rule: grounds.rule.as_ref().map(|rule| rule.rule),
            policy_rule: grounds.rule,
            file: origin.map(|origin| origin.file.to_path_buf()),
            document: origin.map(|origin| origin.document),
            policies: service.policies.iter().map(ToString::to_string).collect(),
            audited: grounds.audited,
            dry_run: grounds.shadow,
            traps: traps.flat_map(|policy| lint(policy)).collect(),
            findings: loaded.findings.clone(),
            action: policy.and_then(|key| action(&loaded.mesh, key)),
        }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.decision == "allow"
    }

    pub(super) fn to_json(&self) -> String {
        // Plain values with string keys: this cannot fail.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

fn action(mesh: &MeshConfig, key: &PolicyKey) -> Option<&'static str> {
    mesh.policies.get(key).map(|policy| match policy.action {
        Action::Audit => "AUDIT",
        Action::Deny => "DENY",
        Action::Allow => "ALLOW",
    })
}

/// What decided.
struct Grounds {
    allowed: bool,
    reason: String,
    policy: Option<PolicyKey>,
    rule: Option<RuleName>,
    audited: Vec<RuleName>,
    shadow: Shadow,
}

impl Grounds {
    fn of(answer: Answer, target: &Target) -> Self {
        match answer {
            Answer::Permitted(permit) => {
                let rule = permit.rule().cloned();
                let reason = match &rule {
                    Some(_) => "an ALLOW rule matches",
                    None if target.service.policies.is_empty() => "no policy applies to this service",
                    None => "no ALLOW policy applies to this service, and no DENY rule matches",
                };
                Self {
                    allowed: true,
                    reason: reason.to_owned(),
                    policy: rule.as_ref().map(|rule| rule.policy.clone()),
                    rule,
                    audited: permit.audited().to_vec(),
                    shadow: permit.shadow().clone(),
                }
            }
            Answer::Denied(denial) => {
                let (policy, rule) = match &denial.reason {
                    DenyReason::Rule(rule) => (Some(rule.policy.clone()), Some(rule.clone())),
                    DenyReason::PolicyUnavailable(policy) => (Some(policy.clone()), None),
                    _ => (None, None),
                };
                Self {
                    allowed: false,
                    reason: denial.reason.to_string(),
                    policy,
                    rule,
                    audited: denial.audited,
                    shadow: *denial.shadow,
                }
            }
            Answer::Unreadable(name) => Self {
                allowed: false,
                reason: format!("the request is refused before policy is asked: {name}"),
                policy: None,
                rule: None,
                audited: Vec::new(),
                shadow: Shadow::default(),
            },
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_allowed() { "ALLOW" } else { "DENY" };
        writeln!(f, "{verdict}  {} → {}:{}  {}", self.from, self.service, self.port, self.what())?;
        writeln!(f, "  because  {}", self.reason)?;
        if let Some(policy) = &self.policy {
            let rule = self.rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
            writeln!(f, "  policy   {} {policy}{rule}", self.action.unwrap_or("policy"))?;
        }
        if let (Some(file), Some(document)) = (&self.file, self.document) {
            writeln!(f, "  file     {}, document {document}", file.display())?;
        }
        if self.policy.is_none() && !self.policies.is_empty() {
            writeln!(f, "  asked    {}", self.policies.join(", "))?;
        }
        for rule in &self.audited {
            writeln!(f, "  audited  {rule}")?;
        }
        self.fmt_dry_run(f)?;
        for trap in &self.traps {
            let rule = trap.rule.map(|rule| format!(" rule {rule}")).unwrap_or_default();
            writeln!(f, "trap {}  {}{rule}: {}", trap.code, trap.policy, trap.message)?;
        }
        let loud = self.findings.iter().filter(|finding| finding.severity != Severity::Note);
        loud.into_iter().try_for_each(|finding| writeln!(f, "{}  {finding}", finding.severity))
    }
}

impl Report {
    fn what(&self) -> String {
        match (&self.mcp_method, &self.mcp_name, &self.request) {
            (Some(method), Some(name), _) => format!("{method} {name}"),
            (Some(method), None, _) => method.clone(),
            (None, _, Some(request)) => request.clone(),
            (None, _, None) => "opaque stream".to_owned(),
        }
    }

    fn fmt_dry_run(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shadow { denied_by, allowed_by, would_deny } = &self.dry_run;
        let by =
            denied_by.as_ref().or(allowed_by.as_ref()).map(|rule| format!(" ({rule})")).unwrap_or_default();
        match (would_deny, denied_by.is_some() || allowed_by.is_some()) {
            (true, _) => writeln!(f, "  dry run  would deny{by}"),
            (false, true) => writeln!(f, "  dry run  would allow{by}"),
            (false, false) => Ok(()),
        }
    }
}
