//! Boolean trees, kept small while they are put together.

use waypoint_model::{Expr, Test};

/// Holds always.
pub(super) const fn always() -> Expr {
    Expr::All(Vec::new())
}

/// Holds never.
pub(super) const fn never() -> Expr {
    Expr::Any(Vec::new())
}

/// Whether it holds whatever is asked.
pub(super) fn is_always(expr: &Expr) -> bool {
    matches!(expr, Expr::All(parts) if parts.is_empty())
}

/// Whether it holds in no case.
pub(super) fn is_never(expr: &Expr) -> bool {
    matches!(expr, Expr::Any(parts) if parts.is_empty())
}

/// A leaf.
pub(super) fn test(test: Test) -> Expr {
    Expr::Test(test)
}

/// A conjunction without constants and without a level for a single part.
pub(super) fn all(parts: Vec<Expr>) -> Expr {
    if parts.iter().any(is_never) {
        return never();
    }
    let mut parts: Vec<Expr> = parts.into_iter().filter(|part| !is_always(part)).collect();
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            Expr::All(parts)
        }
        None => always(),
    }
}

/// A disjunction without constants and without a level for a single part.
pub(super) fn any(parts: Vec<Expr>) -> Expr {
    if parts.iter().any(is_always) {
        return always();
    }
    let mut parts: Vec<Expr> = parts.into_iter().filter(|part| !is_never(part)).collect();
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            Expr::Any(parts)
        }
        None => never(),
    }
}

/// The opposite.
pub(super) fn not(part: Expr) -> Expr {
    match part {
        constant if is_always(&constant) => never(),
        constant if is_never(&constant) => always(),
        part => Expr::Not(Box::new(part)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_and_single_parts_leave_no_trace() {
        let leaf = || test(Test::DestinationPort(80));
        let rows = [
            (all(vec![]), always()),
            (any(vec![]), never()),
            (all(vec![always(), leaf()]), leaf()),
            (all(vec![leaf(), never()]), never()),
            (any(vec![never(), leaf()]), leaf()),
            (any(vec![leaf(), always()]), always()),
            (not(always()), never()),
            (not(never()), always()),
            (any(vec![leaf(), leaf()]), Expr::Any(vec![leaf(), leaf()])),
        ];
        for (have, want) in rows {
            assert_eq!(have, want);
        }
    }
}
