//! Conditions in rules: what an error counts as, what the head alone decides, and which rules are asked.

use std::sync::Arc;

use agent_protocols::json::{Bounds, Document};
use agent_protocols::{FactKey, Facts, Given, Kind, Plain, Truth};
use serde_json::json;
use waypoint_model::{Action, Expr, StringMatch, Test};
use waypoint_policy::{HeadVerdict, PolicySet, Reads, lint};

use crate::support::{Request, all, allow, any, audit, compile, deny, dry_run, named, not, path, policy};
use crate::told::{fact, mcp};

/// A message; a call where it has a tool.
struct Message<'d> {
    kind: Kind,
    tool: Option<&'d str>,
    arguments: Option<Document<'d>>,
}

impl<'d> Message<'d> {
    fn call(tool: &'d str, arguments: &'d str) -> Self {
        let bounds = Bounds { depth: 64, members: 10_000, key: 1_000 };
        let arguments = Some(Document::read(arguments.as_bytes(), &bounds).unwrap());
        Self { kind: Kind::Call, tool: Some(tool), arguments }
    }

    fn bare(kind: Kind) -> Self {
        Self { kind, tool: None, arguments: None }
    }
}

impl Facts for Message<'_> {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match self.tool {
            Some(tool) if *key == FactKey::Tool && test(tool) => Truth::Yes,
            _ => Truth::No,
        }
    }

    fn arguments(&self) -> Given<'_> {
        self.arguments.as_ref().map_or(Given::Nothing, |document| Given::Object(document.root()))
    }
}

/// An entry of a list: its arguments are not known.
struct Entry<'t>(&'t str);

impl Facts for Entry<'_> {
    fn kind(&self) -> Kind {
        Kind::Call
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match key {
            FactKey::Tool if test(self.0) => Truth::Yes,
            FactKey::Argument(_) => Truth::NotYet,
            _ => Truth::No,
        }
    }
}

fn cel(text: &str) -> Expr {
    is(text, "true")
}

fn is(text: &str, value: &str) -> Expr {
    fact("http.mcp", &format!("cel: {text}"), value)
}

fn permits(set: &PolicySet, tool: &str, arguments: &str) -> bool {
    set.decide(&Request::by("bot").attributes(), &Message::call(tool, arguments)).is_ok()
}

#[test]
fn an_amount_is_a_number_within_its_bound_or_nothing() {
    let set = compile([allow([cel("args.amount <= 100 && args.to.endsWith(\"@acme.com\")")])]);
    let rows = [
        (r#"{"amount": 100, "to": "a@acme.com"}"#, true),
        (r#"{"amount": 1e2, "to": "a@acme.com"}"#, true),
        (r#"{"amount": 100.0, "to": "a@acme.com"}"#, true),
        (r#"{"amount": 101, "to": "a@acme.com"}"#, false),
        (r#"{"amount": 100.01, "to": "a@acme.com"}"#, false),
        (r#"{"amount": 1e3, "to": "a@acme.com"}"#, false),
        (r#"{"amount": 1e999, "to": "a@acme.com"}"#, false),
        (r#"{"amount": -1e999, "to": "a@acme.com"}"#, false),
        (r#"{"amount": "50", "to": "a@acme.com"}"#, false),
        (r#"{"amount": [50], "to": "a@acme.com"}"#, false),
        (r#"{"amount": null, "to": "a@acme.com"}"#, false),
        (r#"{"amount": 50, "Amount": 500, "to": "a@acme.com"}"#, false),
        (r#"{"Amount": 50, "to": "a@acme.com"}"#, false),
        (r#"{"to": "a@acme.com"}"#, false),
        (r#"{"amount": 50}"#, false),
        (r#"{"amount": 50, "to": "a@evil.com"}"#, false),
        (r#"{"amount": 50, "to": ["a@acme.com"]}"#, false),
    ];
    for (arguments, want) in rows {
        assert_eq!(permits(&set, "pay", arguments), want, "{arguments}");
    }
}

#[test]
fn an_error_lets_no_allow_rule_match_and_every_deny_rule() {
    let (error, over) = ("args.amount > 100", r#"{"amount": "1"}"#);
    let rows = [
        (cel(error), false),
        (is(error, "false"), false),
        (not(cel(error)), false),
        (not(not(cel(error))), false),
        (not(is(error, "false")), false),
        (any([cel(error), is(error, "false")]), false),
        (not(any([cel(error), is(error, "false")])), false),
        (all([cel(error), not(cel(error))]), false),
        (any([cel(error), mcp("tool", "pay")]), true),
        (all([cel("true"), mcp("tool", "pay")]), true),
    ];
    for (rule, allowed) in rows {
        assert_eq!(permits(&compile([allow([rule.clone()])]), "pay", over), allowed, "ALLOW {rule:?}");
    }
    let rows = [
        (cel(error), true),
        (is(error, "false"), true),
        (not(cel(error)), true),
        (not(is(error, "false")), true),
        (not(any([cel(error), is(error, "false")])), true),
        (all([cel(error), mcp("tool", "other")]), false),
        (all([cel(error), mcp("tool", "pay")]), true),
        (cel("tool == \"other\" && args.amount > 100"), false),
        (cel("tool == \"pay\" && args.amount > 100"), true),
    ];
    for (rule, denied) in rows {
        let set = compile([allow([all([])]), deny([rule.clone()])]);
        assert_eq!(permits(&set, "pay", over), !denied, "DENY {rule:?}");
        let set = compile([allow([all([])]), audit([rule.clone()])]);
        let permit = set.decide(&Request::by("bot").attributes(), &Message::call("pay", over)).unwrap();
        assert_eq!(!permit.audited().is_empty(), denied, "AUDIT {rule:?}");
        let set = compile([allow([all([])]), dry_run(deny([rule.clone()]))]);
        let permit = set.decide(&Request::by("bot").attributes(), &Message::call("pay", over)).unwrap();
        assert_eq!(permit.shadow().would_deny, denied, "dry run of DENY {rule:?}");
    }
}

#[test]
fn true_and_false_are_asked_for() {
    let rows = [
        (is("args.a == 1", "true"), true, false),
        (is("args.a == 1", "false"), false, true),
        (any([is("args.a == 1", "true"), is("args.a == 1", "false")]), true, true),
        (not(is("args.a == 1", "true")), false, true),
    ];
    for (rule, one, two) in rows {
        let set = compile([allow([rule.clone()])]);
        let got = (permits(&set, "pay", r#"{"a": 1}"#), permits(&set, "pay", r#"{"a": 2}"#));
        assert_eq!(got, (one, two), "{rule:?}");
    }
    for value in ["yes", "*", "t*", "*e", "True"] {
        let set = compile([allow([is("true", value)])]);
        assert!(set.unavailable()[0].why.contains("is `true` or `false`"), "{:?}", set.unavailable());
        assert!(!permits(&set, "pay", "{}"));
    }
}

#[test]
fn what_follows_access_needs_a_condition_that_could_hold() {
    let message = |kind| Message::bare(kind);
    let rows = [
        ("args.amount <= 100", true),
        ("tool == \"pay\" && args.amount <= 100", true),
        ("false", false),
        ("source.namespace == \"other\"", false),
        ("jwt.sub == \"ann\" && args.amount <= 100", true),
        // The token that is missing stays missing, whatever is called.
        ("jwt.sub == \"ann\"", false),
    ];
    for (text, open) in rows {
        let set = compile([allow([cel(text)])]);
        for kind in [Kind::Lifecycle, Kind::List, Kind::Response] {
            let permit = set.decide(&Request::by("bot").attributes(), &message(kind));
            assert_eq!(permit.is_ok(), open, "{text} {kind:?}");
        }
        assert_eq!(set.any_access(&Request::by("bot").attributes()), open, "{text}");
    }
    let set = compile([allow([all([])]), deny([cel("tool == \"pay\" && args.amount > 100")])]);
    let attributes = Request::by("bot");
    assert!(set.decide(&attributes.attributes(), &message(Kind::Lifecycle)).is_ok());
    assert!(set.decide(&attributes.attributes(), &Plain).is_ok());
}

#[test]
fn lists_show_what_arguments_may_still_permit() {
    let set = compile([allow([cel("tool == \"pay\" && args.amount <= 100"), cel("tool == \"read\"")])]);
    let request = Request::by("bot");
    for (tool, shown) in [("pay", true), ("read", true), ("drop", false)] {
        assert_eq!(set.might_allow(&request.attributes(), &Entry(tool)), shown, "{tool}");
    }
}

#[test]
fn a_condition_that_reads_no_message_leaves_the_body_unread() {
    let with_token = Request::by("bot").with(|http| http.claims = Some(json!({"sub": "ann"})));
    let rows = [
        ("source.namespace == \"agents\"", true),
        ("source.namespace == \"other\"", false),
        ("jwt.sub == \"ann\"", true),
        ("jwt.sub == \"bob\"", false),
        ("jwt.missing == \"ann\"", false),
        ("source.namespace == \"agents\" || args.amount <= 100", true),
        ("source.namespace == \"other\" && args.amount <= 100", false),
    ];
    for (text, permitted) in rows {
        let set = compile([allow([all([path("/mcp"), cel(text)])])]);
        assert_eq!(set.reads(), Reads::Mcp);
        let head = set.decide_head(&with_token.attributes());
        match head {
            HeadVerdict::Permit(_) => assert!(permitted, "{text}"),
            HeadVerdict::Deny(_) => assert!(!permitted, "{text}"),
            HeadVerdict::ReadBody => panic!("{text} reads the body"),
        }
    }
    for text in ["args.amount <= 100", "tool == \"pay\"", "jwt.sub == \"ann\" && args.amount <= 100"] {
        let set = compile([allow([cel(text)])]);
        assert_eq!(set.decide_head(&with_token.attributes()), HeadVerdict::ReadBody, "{text}");
    }
}

#[test]
fn of_many_conditions_the_one_that_holds_is_found() {
    let of = |n: usize| cel(&format!("args.amount <= {n} && tool == \"tool-{n}\""));
    let set = compile([allow((0..1_000).map(of))]);
    for (tool, amount, want) in
        [("tool-7", 7, Some(7)), ("tool-7", 8, None), ("tool-999", 0, Some(999)), ("x", 0, None)]
    {
        let arguments = format!(r#"{{"amount": {amount}}}"#);
        let call = Message::call(tool, &arguments);
        let permit = set.decide(&Request::by("bot").attributes(), &call).ok();
        let rule = permit.and_then(|permit| permit.rule().cloned());
        assert_eq!(rule, want.map(|rule| named("allow", rule)), "{tool} {amount}");
    }
}

#[test]
fn a_condition_that_is_not_understood_says_where_and_denies() {
    let set =
        compile([allow([all([])]), policy("broken", Action::Deny, [cel("tool == \"x\" && arg.a > 1")])]);
    assert!(!permits(&set, "pay", "{}"));
    let why = &set.unavailable()[0].why;
    let want = "rule 0: condition `cel: tool == \"x\" && arg.a > 1`, at column 16 of the expression, before `arg.a > 1`: \
                unknown variable `arg`; there are args, tool, method, source, request.headers and jwt";
    assert_eq!(why, want);
}

#[test]
fn a_deny_on_the_arguments_of_any_call_is_a_trap() {
    let rows = [
        (deny([all([path("/mcp"), cel("args.amount > 100")])]), true),
        (deny([all([path("/mcp"), cel("tool == \"pay\" && args.amount > 100")])]), false),
        (deny([all([path("/mcp"), mcp("tool", "pay"), cel("args.amount > 100")])]), false),
        (deny([all([path("/mcp"), cel("source.namespace == \"x\"")])]), false),
        (allow([all([path("/mcp"), cel("args.amount > 100")])]), false),
    ];
    for (policy, trapped) in rows {
        let policy = Arc::new(policy);
        let found = lint(&policy).iter().any(|trap| trap.code == "deny-on-any-arguments");
        assert_eq!(found, trapped, "{policy:?}");
    }
}

#[test]
fn a_rule_on_nothing_but_a_condition_is_one_on_mcp() {
    let value = StringMatch::Exact("true".to_owned());
    let test = Test::Fact { filter: "http.mcp".to_owned(), key: "cel: true".to_owned(), value };
    assert!(test.is_http());
    assert_eq!(compile([allow([Expr::Test(test)])]).reads(), Reads::Mcp);
}
