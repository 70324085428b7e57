use std::collections::HashMap;

use http::Request;
use waypoint_model::{
    Backend, HeaderChange, HeaderMatch, PathMatch, PathRewrite, Pattern, QueryMatch, Redirect, Rewrite,
    RouteAction, RouteKey, RouteRule, ServiceKey,
};

use super::*;

fn own() -> Arc<Cluster> {
    Cluster::without_endpoints(&ServiceKey::new("ns", "own"), 80)
}

fn facts() -> Facts {
    Facts {
        remote: "10.0.0.7:4242".parse().unwrap(),
        version: http::Version::HTTP_11,
        start: std::time::UNIX_EPOCH,
    }
}

/// A rule of that name that leads to a service of that name.
fn rule(name: &str, matches: Vec<RouteMatch>) -> RouteRule {
    let backends = vec![backend(name, 1)];
    rule_with(name, matches, RouteAction::Forward { backends, rewrite: Rewrite::default() })
}

fn rule_with(name: &str, matches: Vec<RouteMatch>, action: RouteAction) -> RouteRule {
    RouteRule {
        name: name.to_owned(),
        matches,
        request_headers: vec![],
        response_headers: vec![],
        action,
        timeout: None,
        backend_timeout: None,
        policy: waypoint_model::RoutePolicy::default(),
    }
}

fn backend(name: &str, weight: u32) -> Backend {
    let target = BackendTarget::Service(ServiceKey::new("ns", name), 80);
    Backend { target, weight, request_headers: vec![], response_headers: Vec::new() }
}

fn route(hostnames: &[&str], port: Option<u16>, rules: Vec<RouteRule>) -> Arc<Route> {
    let hostnames = hostnames.iter().map(|&host| host.to_owned()).collect();
    Arc::new(Route {
        key: RouteKey::new("ns", "r"),
        hostnames,
        port,
        rules,
        order: waypoint_model::RouteOrder::Precedence,
    })
}

fn table(routes: &[Arc<Route>]) -> RouteTable {
    RouteTable::compile(80, routes, &own(), &mut |target| match target {
        BackendTarget::Service(key, port) if &*key.hostname != "unknown" => {
            Ok(Cluster::without_endpoints(key, *port))
        }
        nowhere => Err(format!("{nowhere:?}")),
    })
}

fn exact(path: &str) -> RouteMatch {
    RouteMatch { path: Some(PathMatch::Exact(path.to_owned())), ..RouteMatch::default() }
}

fn prefix(path: &str) -> RouteMatch {
    RouteMatch { path: Some(PathMatch::Prefix(path.to_owned())), ..RouteMatch::default() }
}

fn header(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch {
        name: name.to_owned(),
        value: waypoint_model::StringMatch::Exact(value.to_owned()),
        inverted: false,
    }
}

fn param(name: &str, value: &str) -> QueryMatch {
    QueryMatch { name: name.to_owned(), value: waypoint_model::StringMatch::Exact(value.to_owned()) }
}

/// Name of the rule that takes a GET with the headers `x: 1` and `y: 2`.
fn taken(table: &RouteTable, authority: &str, target: &str) -> Option<String> {
    let request = Request::get(target).header("x", "1").header("y", "2").body(()).unwrap();
    let (parts, ()) = request.into_parts();
    match table.select(authority, parts.uri.path(), parts.uri.query(), &parts, None)? {
        Selected::Forward(forward) => Some(forward.name.to_string()),
        Selected::Answer(Answer { name, .. }) => Some(format!("answer {name}")),
        Selected::Broken { name, .. } => Some(format!("broken {name}")),
    }
}

#[test]
fn without_routes_everything_goes_to_the_service_itself() {
    let table = table(&[]);
    assert_eq!(taken(&table, "any", "/x").as_deref(), Some("default"));
}

#[test]
fn a_route_of_another_port_leaves_this_port_alone() {
    let other = route(&[], Some(81), vec![rule("a", vec![exact("/a")])]);
    assert_eq!(taken(&table(&[other]), "h", "/b").as_deref(), Some("default"));
    let ours = route(&[], Some(80), vec![rule("a", vec![exact("/a")])]);
    assert_eq!(taken(&table(&[ours]), "h", "/b"), None);
}

#[test]
fn a_request_that_no_route_takes_is_not_found() {
    let table = table(&[route(&["a.example"], None, vec![rule("a", vec![])])]);
    assert_eq!(taken(&table, "a.example:8080", "/x").as_deref(), Some("a"));
    assert_eq!(taken(&table, "A.Example", "/x").as_deref(), Some("a"));
    assert_eq!(taken(&table, "b.example", "/x"), None);
}

#[test]
fn a_prefix_matches_whole_segments() {
    let table = table(&[route(&[], None, vec![rule("a", vec![prefix("/a/")])])]);
    let rows = [("/a", true), ("/a/", true), ("/a/b", true), ("/ab", false), ("/", false), ("/b/a", false)];
    for (path, want) in rows {
        assert_eq!(taken(&table, "h", path).is_some(), want, "{path}");
    }
}

#[test]
fn the_more_specific_match_goes_first_whatever_the_order_written() {
    let get = || RouteMatch { method: Some("GET".to_owned()), ..prefix("/p") };
    let headers = |headers: Vec<HeaderMatch>| RouteMatch { headers, ..get() };
    let query = |query: Vec<QueryMatch>| RouteMatch { query, ..headers(vec![header("x", "1")]) };
    // Each row beats all rows above it, for the request GET /p/q?a=1&b=2.
    let ladder = [
        ("all", prefix("/")),
        ("prefix", prefix("/p")),
        ("method", get()),
        ("one header", headers(vec![header("X", "1")])),
        ("one header and one parameter", query(vec![param("a", "1")])),
        ("one header and two parameters", query(vec![param("a", "1"), param("b", "2")])),
        ("two headers", headers(vec![header("x", "1"), header("y", "2")])),
        ("longer prefix", prefix("/p/q")),
        ("exact", exact("/p/q")),
    ];
    for length in 1..=ladder.len() {
        let rules = || ladder[..length].iter().map(|(name, wanted)| rule(name, vec![wanted.clone()]));
        let want = ladder[length - 1].0;
        let forward = table(&[route(&[], None, rules().collect())]);
        assert_eq!(taken(&forward, "h", "/p/q?a=1&b=2").as_deref(), Some(want));
        let backward = table(&[route(&[], None, rules().rev().collect())]);
        assert_eq!(taken(&backward, "h", "/p/q?a=1&b=2").as_deref(), Some(want));
    }
}

#[test]
fn the_more_specific_host_goes_before_the_path() {
    let of =
        |name: &str, hosts: &[&str], wanted: RouteMatch| route(hosts, None, vec![rule(name, vec![wanted])]);
    let table = table(&[
        of("any", &[], exact("/x")),
        of("wide", &["*.example"], exact("/x")),
        of("narrow", &["*.a.example"], exact("/x")),
        of("exact", &["b.a.example", "c.a.example"], prefix("/")),
    ]);
    let rows = [
        ("b.a.example", "/x", Some("exact")),
        ("c.a.example", "/x", Some("exact")),
        ("d.a.example", "/x", Some("narrow")),
        ("d.e.example", "/x", Some("wide")),
        ("other", "/x", Some("any")),
        ("other", "/y", None),
    ];
    for (host, path, want) in rows {
        assert_eq!(taken(&table, host, path).as_deref(), want, "{host} {path}");
    }
}

#[test]
fn among_equals_the_oldest_route_and_then_the_first_rule_wins() {
    let older = route(&[], None, vec![rule("first", vec![prefix("/a")]), rule("second", vec![prefix("/a")])]);
    let newer = route(&[], None, vec![rule("third", vec![prefix("/a")])]);
    assert_eq!(taken(&table(&[older, newer]), "h", "/a").as_deref(), Some("first"));
}

#[test]
fn any_match_of_a_rule_selects_it_and_each_match_needs_all_its_parts() {
    let both = RouteMatch { headers: vec![header("x", "1"), header("z", "0")], ..prefix("/") };
    let table = table(&[route(&[], None, vec![rule("a", vec![exact("/a"), both, exact("/b")])])]);
    assert_eq!(taken(&table, "h", "/a").as_deref(), Some("a"));
    assert_eq!(taken(&table, "h", "/b").as_deref(), Some("a"));
    assert_eq!(taken(&table, "h", "/c"), None);
}

#[test]
fn a_parameter_is_compared_with_its_first_occurrence() {
    let wanted = RouteMatch { query: vec![param("a", "1"), param("a", "2")], ..RouteMatch::default() };
    let table = table(&[route(&[], None, vec![rule("a", vec![wanted])])]);
    let rows = [("/?a=1", true), ("/?b=0&a=1&a=2", true), ("/?a=2&a=1", false), ("/?a", false), ("/", false)];
    for (target, want) in rows {
        assert_eq!(taken(&table, "h", target).is_some(), want, "{target}");
    }
}

#[test]
fn a_header_on_several_lines_is_compared_line_by_line() {
    let of = |value: &str| RouteMatch { headers: vec![header("v", value)], ..RouteMatch::default() };
    let table = table(&[route(&[], None, vec![rule("a", vec![of("1,2")]), rule("b", vec![of("2")])])]);
    let (parts, ()) = Request::get("/").header("v", "1").header("v", "2").body(()).unwrap().into_parts();
    let selected = table.select("h", "/", None, &parts, None);
    assert!(matches!(selected, Some(Selected::Forward(forward)) if &*forward.name == "b"));
}

#[test]
fn weights_divide_the_requests() {
    fastrand::seed(7);
    let backends = vec![backend("a", 9), backend("never", 0), backend("b", 1)];
    let action = RouteAction::Forward { backends, rewrite: Rewrite::default() };
    let table = table(&[route(&[], None, vec![rule_with("r", vec![], action)])]);
    let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for _ in 0..10_000 {
        let Some(Selected::Forward(forward)) = table.select("h", "/", None, &parts, None) else { panic!() };
        *counts.entry(forward.cluster.service().key.hostname.to_string()).or_default() += 1;
    }
    assert_eq!(counts.len(), 2, "{counts:?}");
    assert!((8_800..=9_200).contains(&counts["a"]), "{counts:?}");
}

#[test]
fn a_rule_that_cannot_be_carried_out_is_broken_and_hides_nothing() {
    let forward = |backends| RouteAction::Forward { backends, rewrite: Rewrite::default() };
    let missing = Backend {
        target: BackendTarget::Missing("no such service".to_owned()),
        weight: 1,
        request_headers: vec![],
        response_headers: Vec::new(),
    };
    let replace = Rewrite { hostname: None, path: Some(PathRewrite::Prefix("/x".to_owned())) };
    let teapot = Redirect { scheme: None, hostname: None, port: None, path: None, status: 418 };
    let mut bad_header = rule("bad header", vec![exact("/a")]);
    bad_header.request_headers = vec![HeaderChange::Set("bad name".into(), "v".into())];
    let broken = [
        rule_with("none", vec![exact("/a")], forward(vec![])),
        rule_with("zero", vec![exact("/a")], forward(vec![backend("a", 0)])),
        rule_with("missing", vec![exact("/a")], forward(vec![missing])),
        rule_with("unknown", vec![exact("/a")], forward(vec![backend("unknown", 1)])),
        rule_with("status", vec![exact("/a")], RouteAction::Redirect(teapot)),
        rule_with(
            "prefix",
            vec![exact("/a")],
            RouteAction::Forward { backends: vec![backend("a", 1)], rewrite: replace },
        ),
        bad_header,
    ];
    for rule_under_test in broken {
        let want = format!("broken {}", rule_under_test.name);
        let table = table(&[route(&[], None, vec![rule_under_test, rule("rest", vec![])])]);
        assert_eq!(taken(&table, "h", "/a"), Some(want));
        assert_eq!(taken(&table, "h", "/b").as_deref(), Some("rest"));
    }
}

#[test]
fn a_way_applies_changes_of_rule_and_backend_and_keeps_extensions() {
    let mut backend = backend("a", 1);
    backend.request_headers = vec![HeaderChange::Set("who".into(), "backend".into())];
    let rewrite = Rewrite {
        hostname: Some("a.internal".to_owned()),
        path: Some(PathRewrite::Prefix("/v2".to_owned())),
    };
    let action = RouteAction::Forward { backends: vec![backend], rewrite };
    let mut with_all = rule_with("r", vec![prefix("/api/")], action);
    with_all.request_headers =
        vec![HeaderChange::Set("who".into(), "rule".into()), HeaderChange::Remove("x".into())];
    with_all.timeout = Some(Duration::from_secs(3));
    let table = table(&[route(&[], None, vec![with_all])]);
    let request =
        Request::get("/api/t?q=1").header("host", "h").header("x", "1").extension(7_u8).body(()).unwrap();
    let (mut parts, ()) = request.into_parts();
    let Some(Selected::Forward(forward)) = table.select("h", "/api/t", Some("q=1"), &parts, None) else {
        panic!()
    };
    forward.apply(&mut parts, &facts()).unwrap();
    assert_eq!(parts.uri.to_string(), "/v2/t?q=1");
    assert_eq!(
        (&parts.headers["host"], &parts.headers["who"]),
        (&"a.internal".parse().unwrap(), &"backend".parse().unwrap())
    );
    assert!(!parts.headers.contains_key("x"));
    assert_eq!(parts.extensions.get::<u8>(), Some(&7));
    assert_eq!(forward.timeout, Some(Duration::from_secs(3)));
}

#[test]
fn a_regular_expression_goes_after_every_prefix() {
    let pattern = RouteMatch {
        path: Some(PathMatch::Regex(Pattern::parse("/a/[0-9]+").unwrap())),
        method: Some("GET".to_owned()),
        ..RouteMatch::default()
    };
    let rules = vec![rule("regex", vec![pattern]), rule("prefix", vec![prefix("/a/1")])];
    let table = table(&[route(&[], None, rules)]);
    assert_eq!(taken(&table, "h", "/a/1").as_deref(), Some("prefix"));
    assert_eq!(taken(&table, "h", "/a/2").as_deref(), Some("regex"));
}

#[test]
fn rules_as_written_keep_their_order_across_routes_and_go_after_the_others() {
    let written = |rules| {
        let mut route = (*route(&[], None, rules)).clone();
        route.order = RouteOrder::AsWritten;
        Arc::new(route)
    };
    let first = written(vec![rule("wide", vec![prefix("/a")]), rule("narrow", vec![exact("/a/b")])]);
    let second = written(vec![rule("second", vec![exact("/c")]), rule("last", vec![])]);
    let sorted = route(&[], None, vec![rule("sorted", vec![exact("/c")])]);
    let table = table(&[first, second, sorted]);
    for (path, want) in [("/a/b", "wide"), ("/c", "sorted"), ("/d", "last")] {
        assert_eq!(taken(&table, "h", path).as_deref(), Some(want), "{path}");
    }
}

#[test]
fn a_response_of_its_own_has_a_final_status() {
    for (status, want) in [(503, "answer r"), (200, "answer r"), (101, "broken r"), (42, "broken r")] {
        let action = RouteAction::Respond { status, body: "closed".to_owned() };
        let table = table(&[route(&[], None, vec![rule_with("r", vec![], action)])]);
        assert_eq!(taken(&table, "h", "/").as_deref(), Some(want), "{status}");
    }
}

#[test]
fn an_unknown_operator_breaks_its_rule_by_name() {
    let mut bad = rule("r", vec![]);
    bad.response_headers = vec![HeaderChange::Add("x".into(), "%UPSTREAM_HOST%".into())];
    let table = table(&[route(&[], None, vec![bad])]);
    let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
    let Some(Selected::Broken { why, .. }) = table.select("h", "/", None, &parts, None) else { panic!() };
    assert!(why.contains("%UPSTREAM_HOST%"), "{why}");
}

#[test]
fn of_one_response_the_rule_has_the_last_word() {
    let mut backend = backend("a", 1);
    backend.response_headers = vec![
        HeaderChange::Set("who".into(), "backend".into()),
        HeaderChange::Add("x-caller".into(), "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%".into()),
    ];
    let action = RouteAction::Forward { backends: vec![backend], rewrite: Rewrite::default() };
    let mut with_all = rule_with("r", vec![], action);
    with_all.response_headers = vec![HeaderChange::Set("who".into(), "rule".into())];
    let table = table(&[route(&[], None, vec![with_all])]);
    let (parts, ()) = Request::get("/").body(()).unwrap().into_parts();
    let Some(Selected::Forward(forward)) = table.select("h", "/", None, &parts, None) else { panic!() };
    let changes = settle(&forward.response_headers, &facts(), &parts.headers).unwrap();
    let mut headers = http::HeaderMap::new();
    rewrite::change(&mut headers, &changes);
    assert_eq!(
        (&headers["who"], &headers["x-caller"]),
        (&"rule".parse().unwrap(), &"10.0.0.7".parse().unwrap())
    );
}
