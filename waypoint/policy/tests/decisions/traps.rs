//! What `lint` warns of, and what it does not.

use waypoint_model::{Action, Policy};
use waypoint_policy::lint;

use crate::support::*;
use crate::told::*;

#[test]
fn each_trap_is_named_with_its_rule() {
    let with_path = |rule| all([any([all([any([path("/mcp")])])]), rule]);
    let bad = Policy { unusable: Some("action CUSTOM".into()), ..allow([]) };
    let rows = [
        ("a good policy", allow([with_path(mcp("tool", "search"))]), vec![]),
        ("no protocol facts", deny([path("/x"), not(path("/y"))]), vec![]),
        ("ALLOW without rules", allow([]), vec![(None, "allow-without-rules")]),
        ("DENY without rules", deny([]), vec![]),
        (
            "notValues",
            allow([with_path(not(any([mcp("args.owner", "x")])))]),
            vec![(Some(0), "negated-argument")],
        ),
        ("notValues of another fact", allow([with_path(not(any([mcp("tool", "x")])))]), vec![]),
        ("values, twice negated", allow([with_path(not(not(mcp("args.owner", "x"))))]), vec![]),
        ("DENY on MCP", deny([port(1), with_path(mcp("tool", "drop"))]), vec![(Some(1), "deny-on-mcp")]),
        ("AUDIT on MCP", audit([with_path(mcp("tool", "drop"))]), vec![]),
        ("no paths", allow([mcp("tool", "search")]), vec![(Some(0), "mcp-without-paths")]),
        (
            "only notPaths",
            allow([all([not(path("/x")), mcp("tool", "x")])]),
            vec![(Some(0), "mcp-without-paths")],
        ),
        ("a hint alone", allow([with_path(mcp("tool.read_only", "true"))]), vec![(Some(0), "hint-widens")]),
        (
            "a hint that narrows",
            allow([with_path(all([mcp("tool", "get_*"), mcp("tool.read_only", "true")]))]),
            vec![],
        ),
        (
            "a hint beside notValues",
            allow([with_path(all([not(mcp("tool", "x")), mcp("tool.read_only", "true")]))]),
            vec![(Some(0), "hint-widens")],
        ),
        ("unusable", bad, vec![(None, "policy-unusable")]),
        ("unknown fact", allow([port(1), with_path(mcp("tol", "x"))]), vec![(Some(1), "policy-unusable")]),
        ("dry-run AUDIT", dry_run(audit([all([])])), vec![(None, "dry-run-audit")]),
        (
            "two at once",
            policy("two", Action::Deny, [not(mcp("args.a", "x"))]),
            vec![(Some(0), "negated-argument"), (Some(0), "deny-on-mcp"), (Some(0), "mcp-without-paths")],
        ),
    ];
    for (name, policy, want) in rows {
        let traps = lint(&policy);
        let told: Vec<_> = traps.iter().map(|trap| (trap.rule, trap.code)).collect();
        assert_eq!(told, want, "{name}");
        assert!(
            traps.iter().all(|trap| trap.policy == policy.key && trap.message.len() > 40),
            "{name}: {traps:?}"
        );
    }
}
