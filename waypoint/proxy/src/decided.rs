//! A decision, told to the record and turned into what the caller needs: a permit or a refusal.

use waypoint_policy::{Denial, DenyReason, Permit, RuleName, Shadow};

use crate::refusal::Refusal;
use crate::telemetry::{Decision, DryRun};

/// Splits a policy's answer into what is recorded and what happens.
pub(crate) fn decided(
    answer: Result<Permit, Denial>,
    dry_run: &mut Option<DryRun>,
    audited: &mut Vec<RuleName>,
) -> (Decision, Result<Permit, Refusal>) {
    match answer {
        Ok(permit) => {
            *dry_run = shadow(permit.shadow());
            audited.extend_from_slice(permit.audited());
            (Decision::Allowed(permit.rule().cloned()), Ok(permit))
        }
        Err(denial) => {
            *dry_run = shadow(&denial.shadow);
            audited.extend_from_slice(&denial.audited);
            (denied(&denial), Err(Refusal::Denied(denial)))
        }
    }
}

/// How a denial is recorded.
pub(crate) fn denied(denial: &Denial) -> Decision {
    let rule = match &denial.reason {
        DenyReason::Rule(rule) => Some(rule.clone()),
        _unnamed => None,
    };
    Decision::Denied { detail: denial.reason.detail(), rule }
}

/// What the dry-run policies would have done; `None` where there are none.
fn shadow(shadow: &Shadow) -> Option<DryRun> {
    let rule = shadow.denied_by.as_ref().or(shadow.allowed_by.as_ref()).cloned();
    (shadow.would_deny || rule.is_some()).then_some(DryRun { denied: shadow.would_deny, rule })
}
