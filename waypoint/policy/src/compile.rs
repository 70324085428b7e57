//! Model → clauses, and Istio's rule for opaque ports.

use agent_protocols::UnknownFact;
use waypoint_model::{Action, Expr};

use crate::cel::Fault;
use crate::matcher::{Clause, Matcher};

/// Deepest nesting of a rule. Manifests need 5 levels and istiod's RBAC a few more; deeper ones are refused so that
/// judging a request needs a bounded stack.
pub(crate) const MAX_DEPTH: usize = 64;

/// Why a rule cannot be enforced as written. The policy then denies all it applies to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CannotCompile {
    /// A protocol fact that no reader tells.
    #[error(transparent)]
    Fact(#[from] UnknownFact),
    /// A header name that no request can be asked for.
    #[error("header `{0}` cannot be tested")]
    Header(String),
    /// An expression that is not understood.
    #[error("condition `cel: {text}`, {fault}")]
    Condition {
        /// The expression.
        text: String,
        /// What is wrong with it.
        #[source]
        fault: Fault,
    },
    /// A condition that is asked for anything but its truth.
    #[error("condition `cel: {0}` is `true` or `false`: no other value can be asked for")]
    ConditionValue(String),
    /// See [`MAX_DEPTH`].
    #[error("a rule is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

/// Compiles one rule; `None` if it cannot match at all on this kind of port.
///
/// On an opaque port (Istio's TCP chains) HTTP tests and protocol facts cannot be asked. An ALLOW rule that holds one
/// anywhere is dropped whole, so less is allowed. In a DENY or AUDIT rule each such test counts as whatever lets the rule
/// match: it drops out of an `All`, an `Any` that holds one is satisfied, and under `Not` the same holds of its negation. The
/// rule then matches exactly what it would match for *some* answer to its HTTP tests, which for the shape of an
/// AuthorizationPolicy is what istiod generates: a field of HTTP drops out, and an entry of `from` or `to` with no field
/// left matches anything.
pub(crate) fn rule(when: &Expr, action: Action, opaque: bool) -> Result<Option<Clause>, CannotCompile> {
    // What has no answer counts against the request.
    let unanswered = action != Action::Allow;
    let as_written = clause(when, unanswered, 0)?; // on opaque ports too: a policy that cannot be read is enforced nowhere
    match (opaque, action) {
        (false, _) => Ok(Some(as_written)),
        (true, Action::Allow) => Ok((!holds_http(when)).then_some(as_written)),
        (true, Action::Deny | Action::Audit) => clause(&widened(when, true), unanswered, 0).map(Some),
    }
}

/// `unanswered`: what a test counts as that can have no answer at all, so that the rule matches if it is one of DENY or AUDIT
/// and does not if it is one of ALLOW. It turns over under every `Not`.
fn clause(expr: &Expr, unanswered: bool, depth: usize) -> Result<Clause, CannotCompile> {
    if depth > MAX_DEPTH {
        return Err(CannotCompile::TooDeep);
    }
    let compile = |part| clause(part, unanswered, depth + 1);
    Ok(match expr {
        Expr::All(parts) => all(parts.iter().map(compile).collect::<Result<_, _>>()?),
        Expr::Any(parts) => any(parts.iter().map(compile).collect::<Result<_, _>>()?),
        Expr::Not(part) => not(clause(part, !unanswered, depth + 1)?),
        Expr::Test(test) => {
            let mut leaf = Matcher::new(test, unanswered)?;
            leaf.seal();
            Clause::Match(leaf)
        }
    })
}

/// Joins nested `All`s, folds constants and unwraps a single part.
fn all(parts: Vec<Clause>) -> Clause {
    let mut flat = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Clause::All(inner) => flat.extend(inner),
            Clause::Any(inner) if inner.is_empty() => return Clause::Any(inner),
            other => flat.push(other),
        }
    }
    single(flat).unwrap_or_else(Clause::All)
}

/// As [`all`], and leaves that ask about one attribute become one leaf.
fn any(parts: Vec<Clause>) -> Clause {
    let mut leaves: Vec<Matcher> = Vec::new();
    let mut flat = Vec::with_capacity(parts.len());
    let mut waiting: Vec<Clause> = parts.into_iter().rev().collect();
    while let Some(part) = waiting.pop() {
        match part {
            Clause::Any(inner) => waiting.extend(inner.into_iter().rev()),
            Clause::All(inner) if inner.is_empty() => return Clause::All(inner),
            Clause::Match(leaf) => collect(&mut leaves, leaf),
            other => flat.push(other),
        }
    }
    leaves.iter_mut().for_each(Matcher::seal);
    let parts = leaves.into_iter().map(Clause::Match).chain(flat).collect();
    single(parts).unwrap_or_else(Clause::Any)
}

fn collect(leaves: &mut Vec<Matcher>, leaf: Matcher) {
    let mut rest = Some(leaf);
    for mine in leaves.iter_mut() {
        rest = rest.and_then(|leaf| mine.absorb(leaf));
    }
    leaves.extend(rest);
}

fn not(part: Clause) -> Clause {
    match part {
        Clause::All(inner) if inner.is_empty() => Clause::Any(inner),
        Clause::Any(inner) if inner.is_empty() => Clause::All(inner),
        Clause::Not(inner) => *inner,
        other => Clause::Not(Box::new(other)),
    }
}

/// The only part, or all of them back.
fn single(mut parts: Vec<Clause>) -> Result<Clause, Vec<Clause>> {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => Ok(only),
        (last, _) => {
            parts.extend(last);
            Err(parts)
        }
    }
}

fn holds_http(expr: &Expr) -> bool {
    match expr {
        Expr::All(parts) | Expr::Any(parts) => parts.iter().any(holds_http),
        Expr::Not(part) => holds_http(part),
        Expr::Test(test) => test.is_http(),
    }
}

/// The tree with each HTTP test answered by `holds`, which turns over under every `Not`.
fn widened(expr: &Expr, holds: bool) -> Expr {
    let parts = |parts: &[Expr]| parts.iter().map(|part| widened(part, holds)).collect();
    match expr {
        Expr::All(inner) => Expr::All(parts(inner)),
        Expr::Any(inner) => Expr::Any(parts(inner)),
        Expr::Not(part) => Expr::Not(Box::new(widened(part, !holds))),
        Expr::Test(test) if !test.is_http() => Expr::Test(test.clone()),
        Expr::Test(_) if holds => Expr::All(Vec::new()),
        Expr::Test(_) => Expr::Any(Vec::new()),
    }
}
