//! Rules on what a protocol reader tells: three values, lifecycle, lists.

use agent_protocols::Kind;
use waypoint_model::{Action, PolicyKey};
use waypoint_policy::{DenyReason, HeadVerdict, Reads};

use crate::support::*;
use crate::told::*;

fn bot() -> waypoint_model::Expr {
    principal("td/ns/agents/sa/bot")
}

/// What the head decides, in a word.
fn head_of(policies: Vec<waypoint_model::Policy>) -> &'static str {
    match compile(policies).decide_head(&Request::by("bot").attributes()) {
        HeadVerdict::Permit(_) => "permit",
        HeadVerdict::Deny(_) => "deny",
        HeadVerdict::ReadBody => "read",
    }
}

#[test]
fn the_body_is_read_only_when_it_decides() {
    let (mine, other) = (|| bot(), || principal("td/ns/agents/sa/other"));
    let (search, anything) = (|| mcp("tool", "search"), || all([]));
    let rows = [
        ("no policy", vec![], "permit"),
        ("ALLOW by identity", vec![allow([mine()])], "permit"),
        ("ALLOW by another identity", vec![allow([other()])], "deny"),
        ("ALLOW by tool", vec![allow([search()])], "read"),
        ("ALLOW by tool for another", vec![allow([all([other(), search()])])], "deny"),
        ("ALLOW by tool, or anything", vec![allow([search(), mine()])], "permit"),
        ("ALLOW by another path's tool", vec![allow([all([path("/other"), search()])])], "deny"),
        ("DENY by tool", vec![deny([search()])], "read"),
        ("DENY by tool for another", vec![deny([all([other(), search()])])], "permit"),
        ("DENY by identity", vec![deny([search(), mine()])], "deny"),
        ("DENY by tool where no ALLOW rule can match", vec![allow([other()]), deny([search()])], "deny"),
        ("DENY by absence of a tool", vec![deny([not(search())])], "read"),
        ("AUDIT by tool", vec![audit([search()])], "read"),
        ("AUDIT by tool of what is refused", vec![audit([search()]), deny([mine()])], "deny"),
        ("dry run by tool", vec![dry_run(allow([search()]))], "read"),
        ("dry run by tool of what is refused", vec![dry_run(allow([search()])), deny([mine()])], "deny"),
        ("ALLOW anything", vec![allow([anything()])], "permit"),
    ];
    for (name, policies, want) in rows {
        assert_eq!(head_of(policies), want, "{name}");
    }
}

#[test]
fn a_call_is_judged_by_its_facts() {
    let request = Request::by("bot");
    let rule = || all([bot(), path("/mcp"), mcp("tool", "get_*"), mcp("args.owner", "acme")]);
    let narrowed = || all([mcp("tool", "get_issue"), not(mcp("args.owner", "evil"))]);
    let rows = [
        ("everything fits", allow([rule()]), Told::call("get_issue", &[("args.owner", "acme")]), true),
        ("another tool", allow([rule()]), Told::call("drop", &[("args.owner", "acme")]), false),
        ("another argument", allow([rule()]), Told::call("get_issue", &[("args.owner", "evil")]), false),
        ("a missing argument", allow([rule()]), Told::call("get_issue", &[]), false),
        (
            "one of several values",
            allow([rule()]),
            Told::call("get_x", &[]).values("args.owner", &["x", "acme"]),
            true,
        ),
        ("an argument that stays open", allow([rule()]), Told::call("get_x", &[]).open("args.owner"), false),
        (
            "a tool that stays open",
            allow([rule()]),
            Told::call("", &[("args.owner", "acme")]).open("tool"),
            false,
        ),
        ("notValues of a missing argument", allow([narrowed()]), Told::call("get_issue", &[]), true),
        ("notValues", allow([narrowed()]), Told::call("get_issue", &[("args.owner", "evil")]), false),
        (
            "notValues that stay open",
            allow([narrowed()]),
            Told::call("get_issue", &[]).open("args.owner"),
            false,
        ),
        ("DENY", deny([rule()]), Told::call("get_issue", &[("args.owner", "acme")]), false),
        ("DENY of another tool", deny([rule()]), Told::call("drop", &[("args.owner", "acme")]), true),
        ("DENY that stays open", deny([rule()]), Told::call("get_x", &[]).open("args.owner"), false),
        ("DENY, tool open", deny([rule()]), Told::call("", &[("args.owner", "acme")]).open("tool"), false),
        ("DENY, open, of another tool", deny([rule()]), Told::call("drop", &[]).open("args.owner"), true),
    ];
    for (name, policy, facts, want) in rows {
        let verdict = compile([policy]).decide(&request.attributes(), &facts);
        assert_eq!(verdict.is_ok(), want, "{name}: {verdict:?}");
    }
}

#[test]
fn values_of_two_attributes_are_never_mixed() {
    let rule = || {
        any([
            mcp("tool", "search"),
            mcp("args.owner", "acme"),
            header("x-a", "red"),
            header("x-b", "blue"),
            host("h"),
        ])
    };
    let request = |name: &'static str, value: &'static str| {
        Request::by("bot").with(|http| drop(http.headers.insert(name, http::HeaderValue::from_static(value))))
    };
    let plain = || Request::by("bot");
    let rows = [
        ("the tool", plain(), Told::call("search", &[]), true),
        ("the argument", plain(), Told::call("x", &[("args.owner", "acme")]), true),
        ("crossed facts", plain(), Told::call("acme", &[("args.owner", "search")]), false),
        ("one header", request("x-a", "red"), Told::call("x", &[]), true),
        ("the other header", request("x-b", "blue"), Told::call("x", &[]), true),
        ("crossed headers", request("x-a", "blue"), Told::call("x", &[]), false),
        ("the host", plain().with(|http| http.authority = "h".into()), Told::call("red", &[]), true),
        ("the host's value elsewhere", request("x-a", "h"), Told::call("h", &[]), false),
    ];
    for (name, request, facts, want) in rows {
        let verdict = compile([allow([rule()])]).decide(&request.attributes(), &facts);
        assert_eq!(verdict.is_ok(), want, "{name}: {verdict:?}");
    }
}

#[test]
fn lifecycle_follows_access() {
    let policies = || {
        [
            allow([all([bot(), path("/mcp"), mcp("tool", "search"), mcp("method", "tools/call")])]),
            deny([mcp("method", "logging/setLevel")]),
        ]
    };
    let message = |kind, method: &str| Told::of(kind, &[("method", method)]);
    let refused =
        |request: &Request, facts: &Told| compile(policies()).decide(&request.attributes(), facts).is_err();
    let (bot, other) = (Request::by("bot"), Request::by("other"));
    let rows = [
        ("may list", &bot, message(Kind::List, "tools/list"), false),
        ("may initialize", &bot, message(Kind::Lifecycle, "initialize"), false),
        ("may answer", &bot, Told::of(Kind::Response, &[]), false),
        ("may not call another method", &bot, message(Kind::Call, "prompts/get"), true),
        ("may call", &bot, Told::call("search", &[]), false),
        ("DENY sees the real method", &bot, message(Kind::Lifecycle, "logging/setLevel"), true),
        ("DENY that stays open holds", &bot, Told::of(Kind::Lifecycle, &[]).open("method"), true),
        ("plain HTTP has no facts", &bot, Told::of(Kind::Plain, &[]), true),
        ("without access, no list", &other, message(Kind::List, "tools/list"), true),
        ("without access, no session", &other, message(Kind::Lifecycle, "initialize"), true),
        ("without access, no answer", &other, Told::of(Kind::Response, &[]), true),
    ];
    for (name, request, facts, want) in rows {
        assert_eq!(refused(request, &facts), want, "{name}");
    }
    let elsewhere = Request::by("bot").path("/admin");
    assert!(
        refused(&elsewhere, &message(Kind::Lifecycle, "initialize")),
        "only facts are open, not the path"
    );
    let set = compile(policies());
    assert!(set.any_access(&bot.attributes()));
    assert!(!set.any_access(&other.attributes()));
}

#[test]
fn a_list_shows_what_might_be_called() {
    let set = compile([
        allow([all([bot(), mcp("tool", "get_*"), mcp("args.owner", "acme")])]),
        deny([mcp("tool", "get_secret"), all([mcp("tool", "get_wiki"), mcp("args.page", "home")])]),
    ]);
    let entry = |tool: &str| Told::call(tool, &[]).open("args.owner").open("args.page");
    let rows = [("get_issue", true), ("drop", false), ("get_secret", false), ("get_wiki", true)];
    for (tool, want) in rows {
        assert_eq!(set.might_allow(&Request::by("bot").attributes(), &entry(tool)), want, "{tool}");
        assert!(!set.might_allow(&Request::by("other").attributes(), &entry(tool)), "{tool}");
    }
}

#[test]
fn a_template_is_shown_where_some_expansion_could_be_read() {
    let template = |beginning: &str| {
        let mut told = Told::of(Kind::Call, &[("method", "resources/read")]);
        told.facts.insert("resource".into(), Fact::From(beginning.into()));
        told
    };
    let set = compile([allow([mcp("resource", "notes://a/*"), mcp("resource", "img://one")])]);
    for (beginning, want) in
        [("notes://", true), ("notes://a/b/", true), ("notes://b/", false), ("img://", true), ("", true)]
    {
        let request = Request::by("bot");
        assert_eq!(set.might_allow(&request.attributes(), &template(beginning)), want, "{beginning}");
    }
}

#[test]
fn the_deciding_rule_is_the_first_whether_or_not_it_names_the_tool() {
    let search = || mcp("tool", "search");
    let rows = [
        (vec![search(), mcp("tool", "se*"), all([])], 0),
        (vec![mcp("tool", "other"), mcp("tool", "se*"), search()], 1),
        (vec![mcp("tool", "other"), any([search(), bot()]), all([])], 1),
        (vec![mcp("tool", "other"), all([bot(), search()]), search()], 1),
        (vec![any([mcp("tool", "other"), all([bot(), method("GET")])]), search()], 1),
    ];
    for (rules, want) in rows {
        let permit =
            compile([allow(rules)]).decide(&Request::by("bot").attributes(), &Told::call("search", &[]));
        assert_eq!(permit.unwrap().rule(), Some(&named("allow", want)));
    }
}

#[test]
fn a_fact_that_no_reader_tells_makes_its_policy_unavailable() {
    let open = || policy("open", Action::Allow, [all([])]);
    let request = Request::by("bot");
    let unknown = [
        ("http.mcp", "tol"),
        ("http.mcp", "cel: arg.x == 1"),
        ("http.mcp", "cel: true"),
        ("http.lua", "x"),
        ("http.a2a", "skill"),
        ("http.a2a", "cel: true"),
    ];
    for (filter, key) in unknown {
        for action in [Action::Allow, Action::Deny, Action::Audit] {
            for opaque in [false, true] {
                let broken = policy("broken", action, [all([]), all([port(1), fact(filter, key, "x")])]);
                let set = if opaque { compile_opaque([open(), broken]) } else { compile([open(), broken]) };
                let denial = set.decide_stream(&request.attributes()).unwrap_err();
                let want = DenyReason::PolicyUnavailable(PolicyKey::new("ns", "broken"));
                assert_eq!(denial.reason, want, "{filter}[{key}] {action:?} opaque {opaque}");
                assert!(set.unavailable()[0].why.starts_with("rule 1: "), "{:?}", set.unavailable());
            }
        }
    }
}

#[test]
fn policies_tell_what_has_to_be_read() {
    let rows = [
        (vec![], Reads::Http),
        (vec![allow([path("/x")])], Reads::Http),
        (vec![allow([all([bot(), not(any([mcp("tool", "x")]))])])], Reads::Mcp),
        (vec![dry_run(deny([mcp("tool", "x")]))], Reads::Mcp),
        (vec![deny([fact("http.a2a", "method", "SendMessage")])], Reads::A2a),
        (vec![deny([fact("http.a2a", "method", "x")]), audit([mcp("tool", "x")])], Reads::Mcp),
    ];
    for (policies, want) in rows {
        assert_eq!(compile(policies.clone()).reads(), want, "{policies:?}");
        assert_eq!(compile_opaque(policies).reads(), Reads::Opaque);
    }
}

#[test]
fn a_port_is_read_as_one_protocol_and_policies_of_the_other_deny_it() {
    let request = Request::by("bot");
    let agent = || all([fact("http.a2a", "method", "SendMessage")]);
    let decide = |policies: Vec<waypoint_model::Policy>| {
        let set = compile(policies);
        set.decide(&request.attributes(), &Told::call("x", &[])).map_err(|denial| denial.reason)
    };
    let both = decide(vec![allow([mcp("tool", "x")]), policy("agent", Action::Deny, [agent()])]);
    assert_eq!(both.unwrap_err(), DenyReason::PolicyUnavailable(PolicyKey::new("ns", "agent")));
    let tried = vec![allow([mcp("tool", "x")]), dry_run(deny([agent()]))];
    assert!(decide(tried.clone()).is_ok(), "a dry run denies nothing");
    let set = compile(tried);
    assert!(set.unavailable()[0].why.contains("one only"), "{:?}", set.unavailable());
    let swapped = vec![dry_run(deny([mcp("tool", "x")])), allow([agent()])];
    assert_eq!(compile(swapped).reads(), Reads::A2a, "what is enforced says what is read");
}

#[test]
fn no_rule_allows_an_unknown_method() {
    let denial = compile([allow([all([])])]).deny_unknown_method("tools/obliterate");
    assert_eq!(denial.reason, DenyReason::UnknownMethod("tools/obliterate".into()));
    assert_eq!(denial.generation, GENERATION);
    assert_eq!(denial.to_string(), "method `tools/obliterate` is unknown");
}
