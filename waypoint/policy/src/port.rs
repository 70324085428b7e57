//! What a rule can still come to on one port.

use std::sync::Arc;

use waypoint_model::{Expr, Policy, Rule, Test};

/// The policy without the rules, and the parts of rules, that cannot hold on `port`: what is left asks for no more than has to
/// be read there. Only for that question: policies are judged as they were written.
pub(crate) fn at(policy: &Arc<Policy>, port: u16) -> Arc<Policy> {
    let folded = |rule: &Rule| Rule { index: rule.index, when: fold(&rule.when, port) };
    let can_hold = |rule: &Rule| !is_never(&rule.when);
    let rules = policy.rules.iter().map(folded).filter(can_hold).collect();
    Arc::new(Policy { rules, ..Policy::clone(policy) })
}

/// Whether some rule asks for the port.
pub(crate) fn asks(test: &Test) -> bool {
    matches!(test, Test::DestinationPort(_))
}

fn fold(expr: &Expr, port: u16) -> Expr {
    match expr {
        Expr::All(parts) => {
            let parts = parts.iter().map(|part| fold(part, port)).filter(|part| !is_always(part));
            let parts: Vec<Expr> = parts.collect();
            if parts.iter().any(is_never) { never() } else { Expr::All(parts) }
        }
        Expr::Any(parts) => {
            let parts = parts.iter().map(|part| fold(part, port)).filter(|part| !is_never(part));
            let parts: Vec<Expr> = parts.collect();
            if parts.iter().any(is_always) { always() } else { Expr::Any(parts) }
        }
        Expr::Not(part) => match fold(part, port) {
            part if is_always(&part) => never(),
            part if is_never(&part) => always(),
            part => Expr::Not(Box::new(part)),
        },
        Expr::Test(Test::DestinationPort(asked)) if *asked == port => always(),
        Expr::Test(Test::DestinationPort(_)) => never(),
        Expr::Test(test) => Expr::Test(test.clone()),
    }
}

fn always() -> Expr {
    Expr::All(Vec::new())
}

fn never() -> Expr {
    Expr::Any(Vec::new())
}

fn is_always(expr: &Expr) -> bool {
    matches!(expr, Expr::All(parts) if parts.is_empty())
}

fn is_never(expr: &Expr) -> bool {
    matches!(expr, Expr::Any(parts) if parts.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Attributes, Destination, Source};
    use crate::set::{PolicySet, Reads};
    use agent_protocols::Plain;
    use waypoint_model::{Action, PolicyKey, StringMatch};

    #[test]
    fn only_ports_on_which_a_rule_on_mcp_can_hold_are_read_as_mcp() {
        let tool = || {
            let (filter, key) = ("http.mcp".to_owned(), "tool".to_owned());
            Expr::Test(Test::Fact { filter, key, value: StringMatch::Exact("search".to_owned()) })
        };
        let policy = |action, when| {
            let rules = vec![Rule { index: 0, when }];
            Arc::new(Policy { key: PolicyKey::new("n", "p"), action, dry_run: false, rules, unusable: None })
        };
        let on_80 = Expr::All(vec![Expr::Test(Test::DestinationPort(80)), tool()]);
        let elsewhere = Expr::Not(Box::new(Expr::Any(vec![Expr::Test(Test::DestinationPort(80)), tool()])));
        let reads =
            |port, policies: &[Arc<Policy>]| PolicySet::compile_at(port, policies, &[], false, 1).reads();
        for action in [Action::Allow, Action::Deny, Action::Audit] {
            let policies = [policy(action, on_80.clone())];
            assert_eq!((reads(80, &policies), reads(81, &policies)), (Reads::Mcp, Reads::Http));
            let policies = [policy(action, elsewhere.clone())];
            assert_eq!((reads(80, &policies), reads(81, &policies)), (Reads::Http, Reads::Mcp));
            let both = [policy(action, on_80.clone()), policy(action, tool())];
            assert_eq!((reads(80, &both), reads(81, &both)), (Reads::Mcp, Reads::Mcp));
        }
        // On the other port the rule is there and does not hold.
        let any = [10, 0, 0, 1].into();
        let asked = |port| Attributes {
            source: Source { identity: None, ip: any, remote_ip: any },
            destination: Destination { ip: None, port, sni: None },
            http: None,
        };
        let deny = PolicySet::compile_at(81, &[policy(Action::Deny, on_80.clone())], &[], false, 1);
        assert!(deny.decide(&asked(81), &Plain).is_ok());
        let allow = PolicySet::compile_at(81, &[policy(Action::Allow, on_80)], &[], false, 1);
        assert!(allow.decide(&asked(81), &Plain).is_err());
    }

    #[test]
    fn what_cannot_hold_on_a_port_is_gone_and_nothing_else() {
        let port = |port| Expr::Test(Test::DestinationPort(port));
        let method = || Expr::Test(Test::Method(StringMatch::Present));
        let not = |part| Expr::Not(Box::new(part));
        let (all, any) = (Expr::All, Expr::Any);
        let rows = [
            ("its port", all(vec![port(80), method()]), all(vec![method()])),
            ("another", all(vec![port(81), method()]), never()),
            ("one of two", any(vec![all(vec![port(81), method()]), port(80)]), always()),
            ("neither of two", any(vec![port(81), port(82)]), never()),
            ("not its port", all(vec![not(port(80)), method()]), never()),
            ("not another", all(vec![not(port(81)), method()]), all(vec![method()])),
            ("no port", not(method()), not(method())),
            ("nested", not(any(vec![all(vec![port(81)]), method()])), not(any(vec![method()]))),
        ];
        for (what, expr, want) in rows {
            assert_eq!(fold(&expr, 80), want, "{what}");
        }
    }
}
