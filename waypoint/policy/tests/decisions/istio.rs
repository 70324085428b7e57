//! Istio's semantics, as tables (contract `istio-hbone.md` §5).

use std::sync::Arc;

use crate::support::*;
use http::{HeaderName, HeaderValue};
use serde_json::json;
use waypoint_model::{Action, PolicyKey, StringMatch, Test};
use waypoint_policy::{DenyReason, HeadVerdict, PolicySet};

type Verdict = Result<Option<waypoint_policy::RuleName>, DenyReason>;

fn judge(set: &PolicySet, request: &Request) -> Verdict {
    set.decide_stream(&request.attributes())
        .map(|permit| permit.rule().cloned())
        .map_err(|denial| denial.reason)
}

#[test]
fn deny_is_asked_before_allow_and_allow_only_where_one_is_attached() {
    let bot = || principal("td/ns/agents/sa/bot");
    let none = Err(DenyReason::NoRuleMatched);
    let rows = [
        ("nothing attached", vec![], Ok(None)),
        ("ALLOW matches", vec![allow([bot()])], Ok(Some(named("allow", 0)))),
        ("ALLOW matches nothing", vec![allow([principal("td/ns/agents/sa/other")])], none.clone()),
        ("ALLOW without rules", vec![allow([])], none.clone()),
        ("ALLOW with an empty rule", vec![allow([all([])])], Ok(Some(named("allow", 0)))),
        ("DENY without rules", vec![deny([])], Ok(None)),
        ("DENY with an empty rule", vec![deny([all([])])], Err(DenyReason::Rule(named("deny", 0)))),
        ("DENY matches", vec![allow([bot()]), deny([bot()])], Err(DenyReason::Rule(named("deny", 0)))),
        ("DENY matches nothing", vec![deny([port(1)])], Ok(None)),
        ("AUDIT only", vec![audit([bot()])], Ok(None)),
        (
            "one ALLOW of two matches",
            vec![allow([port(1)]), policy("second", Action::Allow, [port(2), bot()])],
            Ok(Some(named("second", 1))),
        ),
    ];
    for (name, policies, want) in rows {
        assert_eq!(judge(&compile(policies), &Request::by("bot")), want, "{name}");
    }
}

#[test]
fn the_first_matching_rule_in_declared_order_is_named_wherever_it_is_indexed() {
    let (bot, anyone) = (|| principal("td/ns/agents/sa/bot"), || principal("*"));
    let by_account = || account("agents", "bot");
    let other = || principal("td/ns/agents/sa/other");
    let rows = [
        (vec![anyone(), bot(), by_account()], 0),
        (vec![other(), bot(), anyone(), by_account()], 1),
        (vec![other(), by_account(), bot(), anyone()], 1),
        (vec![other(), any([other(), bot()]), anyone()], 1),
        (vec![any([other(), by_account(), bot()]), anyone()], 0),
        (vec![all([bot(), port(1)]), not(other()), bot()], 1),
    ];
    for (rules, want) in rows {
        let told = format!("{rules:?}");
        assert_eq!(
            judge(&compile([allow(rules)]), &Request::by("bot")),
            Ok(Some(named("allow", want))),
            "{told}"
        );
    }
}

#[test]
fn what_cannot_be_enforced_denies_everything_by_name() {
    let broken = waypoint_model::Policy { unusable: Some("action CUSTOM".into()), ..allow([all([])]) };
    let unavailable = |name| Err(DenyReason::PolicyUnavailable(PolicyKey::new("ns", name)));
    let open = policy("open", Action::Allow, [all([])]);
    let request = Request::by("bot");

    let set = compile([open.clone(), broken]);
    assert_eq!(judge(&set, &request), unavailable("allow"));
    assert!(matches!(set.decide_head(&request.attributes()), HeadVerdict::Deny(_)));
    assert!(!set.any_access(&request.attributes()));
    assert_eq!(set.unavailable()[0].why, "action CUSTOM");

    let set =
        PolicySet::compile(&[Arc::new(open.clone())], &[PolicyKey::new("ns", "gone")], false, GENERATION);
    assert_eq!(judge(&set, &request), unavailable("gone"));

    for name in ["", ":path", "a b"] {
        assert_eq!(
            judge(&compile([open.clone(), deny([header(name, "x")])]), &request),
            unavailable("deny"),
            "{name}"
        );
    }
    let deep = (0..100).fold(port(80), |inner, _| not(inner));
    assert_eq!(judge(&compile([allow([deep.clone()])]), &request), unavailable("allow"));
    assert_eq!(judge(&compile_opaque([deny([deep])]), &request), unavailable("deny"));
}

#[test]
fn a_dry_run_policy_is_told_and_never_enforced() {
    let request = Request::by("bot");
    let shadow_of = |policies: Vec<waypoint_model::Policy>| {
        let verdict = compile(policies).decide_stream(&request.attributes());
        match verdict {
            Ok(permit) => (true, permit.shadow().clone()),
            Err(denial) => (false, *denial.shadow),
        }
    };
    let (anyone, nobody) = (|| all([]), || any([]));
    let shadow_deny = |rule| dry_run(policy("shadow", Action::Deny, [rule]));
    let shadow_allow = |rule| dry_run(policy("shadow", Action::Allow, [rule]));
    let broken =
        dry_run(waypoint_model::Policy { unusable: Some("x".into()), ..policy("shadow", Action::Deny, []) });
    // name, policies, permitted, denied_by, allowed_by, would_deny
    let rows = [
        ("DENY that matches", vec![shadow_deny(anyone())], true, true, false, true),
        ("DENY that does not", vec![shadow_deny(nobody())], true, false, false, false),
        ("ALLOW that matches", vec![shadow_allow(anyone())], true, false, true, false),
        ("ALLOW that does not", vec![shadow_allow(nobody())], true, false, false, true),
        ("ALLOW beside one", vec![allow([anyone()]), shadow_allow(nobody())], true, false, false, false),
        ("ALLOW that would open", vec![allow([nobody()]), shadow_allow(anyone())], false, false, true, false),
        ("ALLOW against a DENY", vec![deny([anyone()]), shadow_allow(anyone())], false, false, true, true),
        ("both", vec![shadow_allow(anyone()), shadow_deny(anyone())], true, true, true, true),
        ("one that is broken", vec![broken], true, false, false, true),
        ("none", vec![deny([anyone()])], false, false, false, false),
    ];
    for (name, policies, permitted, denied_by, allowed_by, would_deny) in rows {
        let (got, shadow) = shadow_of(policies);
        let told = (got, shadow.denied_by.is_some(), shadow.allowed_by.is_some(), shadow.would_deny);
        assert_eq!(told, (permitted, denied_by, allowed_by, would_deny), "{name}");
    }
}

#[test]
fn audit_rules_that_match_are_recorded_beside_either_verdict() {
    let watch = || audit([port(80), port(81), all([])]);
    let request = Request::by("bot");
    let want = [named("audit", 0), named("audit", 2)];
    let permit = compile([watch()]).decide_stream(&request.attributes()).unwrap();
    assert_eq!(permit.audited(), want);
    assert_eq!(permit.generation(), GENERATION);
    let denial = compile([watch(), deny([all([])])]).decide_stream(&request.attributes()).unwrap_err();
    assert_eq!(denial.audited, want);
    assert_eq!(denial.generation, GENERATION);
}

#[test]
fn every_attribute_is_compared_as_istio_does() {
    let request = || Request::by("bot");
    let exact = |text: &str| StringMatch::Exact(text.into());
    let with_headers = |lines: &[(&'static str, &[u8])]| {
        let mut request = request();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value).unwrap();
            request.http.as_mut().unwrap().headers.append(HeaderName::from_static(name), value);
        }
        request
    };
    let from_ip = |ip: &str| Request { ip: ip.parse().unwrap(), ..request() };
    let nobody = || Request { identity: None, ..request() };
    let source = |net: &str| test(Test::SourceIp(net.parse().unwrap()));
    let rows = [
        ("principal", principal("td/ns/agents/sa/bot"), request(), true),
        ("principal in another case", principal("td/ns/agents/sa/Bot"), request(), false),
        ("principal by prefix", principal("td/ns/agents/*"), request(), true),
        ("principal by suffix", principal("*/sa/bot"), request(), true),
        ("any principal", principal("*"), request(), true),
        ("any principal needs one", principal("*"), nobody(), false),
        ("no principal", not(principal("*")), nobody(), true),
        ("namespace", namespace("agents"), request(), true),
        ("namespace by prefix", namespace("age*"), request(), true),
        ("other namespace", namespace("agent"), request(), false),
        ("account", account("agents", "bot"), request(), true),
        (
            "account with more behind",
            account("agents", "bot"),
            Request::from_id("spiffe://td/ns/agents/sa/bot/x"),
            true,
        ),
        ("account elsewhere", account("other", "bot"), request(), false),
        ("account without identity", account("agents", "bot"), nobody(), false),
        ("trust domain", test(Test::TrustDomain(exact("td"))), request(), true),
        ("other trust domain", test(Test::TrustDomain(exact("td2"))), request(), false),
        ("source block", source("10.0.0.0/8"), request(), true),
        ("source block, mapped", source("10.0.0.0/8"), from_ip("::ffff:10.9.9.9"), true),
        ("other source block", source("10.1.0.0/16"), request(), false),
        ("remote block", test(Test::RemoteIp("10.0.0.1/32".parse().unwrap())), from_ip("10.0.0.2"), true),
        ("port", port(80), request(), true),
        ("other port", port(81), request(), false),
        ("no server name", test(Test::Sni(StringMatch::Present)), request(), false),
        ("host", host("github.tools"), request(), true),
        (
            "host in any case",
            host("GitHub.*"),
            request().with(|http| http.authority = "gitHUB.Tools".into()),
            true,
        ),
        ("host with its port", host("github.tools"), request().with(|http| http.authority += ":80"), false),
        ("method", method("POST"), request(), true),
        ("method in another case", method("post"), request(), false),
        ("path", path("/mcp"), request(), true),
        ("path by prefix", path("/m*"), request(), true),
        ("path by template", path("/a/{*}/c"), request().path("/a/b/c"), true),
        ("path by template, too long", path("/a/{*}"), request().path("/a/b/c"), false),
        ("header", header("x-team", "red"), with_headers(&[("x-team", b"red")]), true),
        ("header absent", header("x-team", "*"), request(), false),
        ("header empty", header("x-team", "*"), with_headers(&[("x-team", b"")]), false),
        ("not that header", not(header("x-team", "red")), request(), true),
        (
            "header lines joined",
            header("x-team", "a,b"),
            with_headers(&[("x-team", b"a"), ("x-team", b"b")]),
            true,
        ),
        (
            "one line of two, which no other hides",
            header("x-team", "a"),
            with_headers(&[("x-team", b"b"), ("x-team", b"a")]),
            true,
        ),
        ("header that is no UTF-8", header("x-team", "red*"), with_headers(&[("x-team", b"red\xff")]), true),
        ("header :authority", header(":authority", "github.tools"), request(), true),
        ("header host", header("host", "github.tools"), request(), true),
        ("header :method", header(":method", "POST"), request(), true),
    ];
    for (name, rule, request, want) in rows {
        assert_eq!(judge(&compile([allow([rule.clone()])]), &request).is_ok(), want, "ALLOW {name}");
        assert_eq!(judge(&compile([deny([rule])]), &request).is_ok(), !want, "DENY {name}");
    }
}

/// A tunnel to a host name reaches the service as one to its address does, so a rule on the address must not be a way past.
#[test]
fn an_address_that_cannot_be_told_permits_nothing_and_denies() {
    let somewhere = test(Test::DestinationIp("10.0.0.0/8".parse().unwrap()));
    assert!(judge(&compile([allow([somewhere.clone()])]), &Request::by("bot")).is_err());
    assert!(judge(&compile([allow([not(somewhere.clone())])]), &Request::by("bot")).is_err());
    assert!(judge(&compile([deny([somewhere])]), &Request::by("bot")).is_err());
}

#[test]
fn many_values_of_one_attribute_match_as_each_alone() {
    let many = |prefix: &str| {
        waypoint_model::Expr::Any((0..50).map(|n| principal(&format!("{prefix}{n}"))).collect())
    };
    let set = compile([allow([all([many("td/ns/agents/sa/bot-"), not(many("td/ns/agents/sa/bot-1"))])])]);
    for (name, want) in
        [("bot-0", true), ("bot-9", true), ("bot-10", false), ("bot-49", true), ("bot-50", false)]
    {
        assert_eq!(judge(&set, &Request::by(name)).is_ok(), want, "{name}");
    }
}

#[test]
fn on_an_opaque_port_http_tests_narrow_allow_and_widen_deny() {
    let bot = || principal("td/ns/agents/sa/bot");
    let (other, here) = (|| principal("td/ns/agents/sa/other"), || port(80));
    // name, rule, ALLOW permits, DENY refuses
    let rows = [
        ("no HTTP test", bot(), true, true),
        ("no HTTP test, no match", other(), false, false),
        ("a path", all([bot(), path("/x")]), false, true),
        ("a path beside what does not match", all([other(), path("/x")]), false, false),
        ("only a path", path("/x"), false, true),
        ("notPaths", all([bot(), not(any([path("/x"), path("/y")]))]), false, true),
        ("notPaths beside what does not match", all([other(), not(path("/x"))]), false, false),
        ("an operation of port and path", all([any([all([here(), any([path("/x")])])])]), false, true),
        ("an operation of another port and path", any([all([port(81), path("/x")])]), false, false),
        ("operations: another port, or a path", any([all([port(81)]), all([path("/x")])]), false, true),
        ("not (mine and a path)", not(all([bot(), path("/x")])), false, true),
        ("not (other's or a path)", not(any([bot(), path("/x")])), false, false),
        ("twice negated", not(not(all([other(), method("GET")]))), false, false),
        ("host, method, header", all([host("a"), method("GET"), header("x", "y"), bot()]), false, true),
    ];
    for (name, rule, allowed, denied) in rows {
        let request = Request::by("bot").opaque();
        assert_eq!(
            judge(&compile_opaque([allow([rule.clone()])]), &request).is_ok(),
            allowed,
            "ALLOW {name}"
        );
        assert_eq!(judge(&compile_opaque([deny([rule.clone()])]), &request).is_err(), denied, "DENY {name}");
        let permit = compile_opaque([audit([rule])]).decide_stream(&request.attributes()).unwrap();
        assert_eq!(!permit.audited().is_empty(), denied, "AUDIT is as wide as DENY: {name}");
    }
}

#[test]
fn a_dropped_allow_rule_still_leaves_an_allow_policy_attached() {
    let set = compile_opaque([allow([path("/x"), port(80)])]);
    assert_eq!(judge(&set, &Request::by("bot").opaque()), Ok(Some(named("allow", 1))), "its index stays");
    assert_eq!(judge(&set, &Request::by("bot").opaque().port(81)), Err(DenyReason::NoRuleMatched));
}

#[test]
fn without_a_head_http_tests_stay_open_and_open_is_refused() {
    let request = Request::by("bot").opaque();
    let bot = || principal("td/ns/agents/sa/bot");
    for rule in [path("/x"), not(path("/x"))] {
        let rule = all([bot(), rule]);
        assert!(judge(&compile([allow([rule.clone()])]), &request).is_err(), "{rule:?}");
        assert!(judge(&compile([deny([rule.clone()])]), &request).is_err(), "{rule:?}");
        let set = compile([allow([rule.clone()])]);
        assert!(set.any_access(&request.attributes()), "{rule:?}");
        assert!(!set.any_access(&Request::by("other").opaque().attributes()), "{rule:?}");
        assert_eq!(set.decide_head(&request.attributes()), HeadVerdict::ReadBody);
    }
}

#[test]
fn a_set_is_empty_only_when_nothing_is_attached() {
    assert!(compile([]).is_empty());
    for attached in [allow([]), audit([all([])]), deny([all([])]), dry_run(allow([]))] {
        assert!(!compile([attached.clone()]).is_empty(), "{attached:?}");
    }
    assert!(!PolicySet::compile(&[], &[PolicyKey::new("ns", "gone")], false, GENERATION).is_empty());
}

#[test]
fn claims_are_texts_or_lists_of_texts_and_absent_without_a_token() {
    let token = json!({
        "iss": "https://a", "sub": "s", "aud": ["x", "y"], "azp": "p", "scope": ["read", "write"],
        "realm": {"roles": ["admin"]}, "n": 7, "b": true, "mixed": [1, "one"], "empty": "", "none": []
    });
    let request_principal = |value: &str| test(Test::RequestPrincipal(StringMatch::parse(value)));
    let audience = |value: &str| test(Test::Audience(StringMatch::parse(value)));
    let presenter = |value: &str| test(Test::Presenter(StringMatch::parse(value)));
    let rows = [
        (request_principal("https://a/s"), true),
        (request_principal("https://a/*"), true),
        (request_principal("*"), true),
        (request_principal("https://b/*"), false),
        (audience("y"), true),
        (audience("x*"), true),
        (audience("z"), false),
        (presenter("p"), true),
        (presenter("q"), false),
        (claim(["iss"], "https://a"), true),
        (claim(["scope"], "write"), true),
        (claim(["scope"], "read write"), false),
        (claim(["realm", "roles"], "admin"), true),
        (claim(["realm"], "*"), false),
        (claim(["realm", "roles", "x"], "*"), false),
        (claim(["realm.roles"], "admin"), false),
        (claim(["n"], "7"), false),
        (claim(["b"], "true"), false),
        (claim(["mixed"], "one"), true),
        (claim(["mixed"], "1"), false),
        (claim(["empty"], "*"), false),
        (claim(["none"], "*"), false),
        (claim(["missing"], "*"), false),
    ];
    let bearing = Request::by("bot").with(|http| http.claims = Some(token));
    for (rule, holds) in rows {
        let want = if holds { Ok(Some(named("allow", 0))) } else { Err(DenyReason::NoRuleMatched) };
        assert_eq!(judge(&compile([allow([rule.clone()])]), &bearing), want, "{rule:?}");
        let none = judge(&compile([allow([rule.clone()])]), &Request::by("bot"));
        assert_eq!(none, Err(DenyReason::NoRuleMatched), "{rule:?} without a token");
        // On an opaque port an ALLOW rule with a claim is as if it were not there, a DENY rule matches.
        let stream = Request::by("bot").opaque();
        let allowed = judge(&compile_opaque([allow([rule.clone()])]), &stream);
        assert_eq!(allowed, Err(DenyReason::NoRuleMatched), "{rule:?}");
        let denied = judge(&compile_opaque([deny([rule.clone()])]), &stream);
        assert_eq!(denied, Err(DenyReason::Rule(named("deny", 0))), "{rule:?}");
    }
}
