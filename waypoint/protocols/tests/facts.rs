//! What policy is told about a message: every method of the table, every sort of argument.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use agent_protocols::Truth::{No, NotYet, Yes};
use agent_protocols::mcp::{Exchange, Revision, methods};
use agent_protocols::{Facts, Kind, Truth};
use support::{ask, call, key, read, read_under, values};

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
}

#[test]
fn every_method_tells_what_it_names() {
    let tool = r#"{"name":"t","arguments":{"a":"1"}}"#;
    let resource = r#"{"uri":"demo://h/r"}"#;
    for (method, params, kind, fact) in [
        ("initialize", r#"{"protocolVersion":"2025-06-18"}"#, Kind::Lifecycle, None),
        ("ping", "{}", Kind::Lifecycle, None),
        ("server/discover", "{}", Kind::Lifecycle, None),
        ("logging/setLevel", r#"{"level":"debug"}"#, Kind::Lifecycle, None),
        ("notifications/initialized", "{}", Kind::Lifecycle, None),
        ("notifications/cancelled", r#"{"requestId":1}"#, Kind::Lifecycle, None),
        ("notifications/progress", r#"{"progressToken":1,"progress":2}"#, Kind::Lifecycle, None),
        ("notifications/roots/list_changed", "{}", Kind::Lifecycle, None),
        ("tools/list", r#"{"cursor":"c"}"#, Kind::List, None),
        ("prompts/list", "{}", Kind::List, None),
        ("resources/list", "{}", Kind::List, None),
        ("resources/templates/list", "{}", Kind::List, None),
        ("tools/call", tool, Kind::Call, Some(("tool", "t"))),
        ("prompts/get", tool, Kind::Call, Some(("prompt", "t"))),
        ("resources/read", resource, Kind::Call, Some(("resource", "demo://h/r"))),
        ("resources/subscribe", resource, Kind::Call, Some(("resource", "demo://h/r"))),
        ("resources/unsubscribe", resource, Kind::Call, Some(("resource", "demo://h/r"))),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"a","value":"b"}}"#,
            Kind::Call,
            Some(("prompt", "p")),
        ),
        (
            "completion/complete",
            r#"{"ref":{"type":"ref/resource","uri":"demo://h/r"}}"#,
            Kind::Call,
            Some(("resource", "demo://h/r")),
        ),
        (
            "subscriptions/listen",
            r#"{"notifications":{"resourceSubscriptions":["demo://h/r"],"toolsListChanged":false}}"#,
            Kind::Call,
            Some(("resource", "demo://h/r")),
        ),
        ("subscriptions/listen", r#"{"notifications":{"toolsListChanged":true}}"#, Kind::List, None),
        ("subscriptions/listen", "{}", Kind::List, None),
    ] {
        let body = request(method, params);
        let exchange = read(body.as_bytes()).unwrap();
        let message = &exchange.messages[0];
        let [subject] = &message.subjects[..] else { panic!("{method}: {:?}", message.subjects) };
        assert!(message.is_known() && message.is_request(), "{method}");
        assert_eq!((message.kind(), subject.kind()), (kind, kind), "{method}");
        assert_eq!(ask(subject, "method", method), Yes, "{method}");
        assert_eq!(ask(subject, "kind", kind.as_str().unwrap()), Yes, "{method}");
        assert_eq!(message.name(), fact.map(|(_, name)| name), "{method}");
        for other in ["tool", "prompt", "resource", "task"] {
            let expected = fact.filter(|(fact, _)| *fact == other).map(|(_, name)| vec![name.to_owned()]);
            assert_eq!(values(subject, other), expected.unwrap_or_default(), "{method} {other}");
        }
    }
}

#[test]
fn the_table_is_read_as_it_says() {
    for method in methods() {
        let params = r#"{"name":"t","uri":"demo://h/r","ref":{"type":"ref/prompt","name":"p"},"taskId":"x"}"#;
        let body = request(method.name, params);
        let exchange = read(body.as_bytes()).unwrap();
        assert_eq!(exchange.messages[0].is_known(), method.is_built(), "{}", method.name);
        assert_eq!(exchange.messages[0].kind(), method.kind(), "{}", method.name);
        assert!(method.revisions.0 <= method.revisions.1, "{}", method.name);
    }
}

#[test]
fn tasks_are_recognized_and_refused_until_they_are_built() {
    let listen = r#"{"notifications":{"taskIds":["t1"],"resourceSubscriptions":["demo://h/r"]}}"#;
    for (method, params, known) in [
        ("tasks/get", r#"{"taskId":"t1"}"#, false),
        ("tasks/result", r#"{"taskId":"t1"}"#, false),
        ("tasks/cancel", r#"{"taskId":"t1"}"#, false),
        ("tasks/list", "{}", false),
        ("tasks/update", r#"{"taskId":"t1"}"#, false),
        ("subscriptions/listen", listen, false),
        ("subscriptions/listen", r#"{"notifications":{"taskIds":[]}}"#, true),
    ] {
        let body = request(method, params);
        let exchange = read(body.as_bytes()).unwrap();
        assert_eq!(exchange.messages[0].is_known(), known, "{method}");
        assert_eq!(exchange.messages[0].method.as_deref(), Some(method));
    }
}

#[test]
fn a_subscription_is_judged_for_every_uri_and_every_flag() {
    let body = request(
        "subscriptions/listen",
        r#"{"notifications":{"resourceSubscriptions":["demo://h/a","demo://h/b"],"toolsListChanged":true}}"#,
    );
    let exchange = read(body.as_bytes()).unwrap();
    let subjects = &exchange.messages[0].subjects;
    let told: Vec<_> = subjects.iter().map(|s| (s.kind(), values(s, "resource").concat())).collect();
    let call = |uri: &str| (Kind::Call, uri.to_owned());
    assert_eq!(told, [call("demo://h/a"), call("demo://h/b"), (Kind::List, String::new())]);
    for (params, refused) in [
        (r#"{"notifications":[]}"#.to_owned(), "bad_subscription"),
        (r#"{"notifications":{"resourceSubscriptions":"demo://h/a"}}"#.to_owned(), "bad_subscription"),
        (r#"{"notifications":{"resourceSubscriptions":[1]}}"#.to_owned(), "bad_uri"),
        (r#"{"notifications":{"ResourceSubscriptions":[]}}"#.to_owned(), "case_variant_key"),
        (r#"{"notifications":{"resourceSubscriptions":["file:/x"]}}"#.to_owned(), "uri_not_canonical"),
        (
            format!(
                r#"{{"notifications":{{"resourceSubscriptions":[{}]}}}}"#,
                vec![r#""demo://h/a""#; 101].join(",")
            ),
            "too_many_subscriptions",
        ),
    ] {
        let body = request("subscriptions/listen", &params);
        assert_eq!(read(body.as_bytes()).unwrap_err().name, refused, "{params}");
    }
}

#[test]
fn a_reference_that_is_no_reference_is_refused() {
    for (params, refused) in [
        ("{}", "bad_reference"),
        (r#"{"ref":"p"}"#, "bad_reference"),
        (r#"{"ref":{"type":"ref/tool","name":"p"}}"#, "bad_reference"),
        (r#"{"ref":{"type":"ref/prompt"}}"#, "bad_name"),
        (r#"{"ref":{"type":"ref/resource"}}"#, "bad_uri"),
        (r#"{"ref":{"type":"ref/resource","uri":"file:///a/../{x}"}}"#, "uri_not_canonical"),
    ] {
        let body = request("completion/complete", params);
        assert_eq!(read(body.as_bytes()).unwrap_err().name, refused, "{params}");
    }
}

#[test]
fn of_a_template_only_its_literal_prefix_is_told() {
    let body = request("completion/complete", r#"{"ref":{"type":"ref/resource","uri":"demo://h/{id}"}}"#);
    let exchange = read(body.as_bytes()).unwrap();
    let subject = &exchange.messages[0].subjects[0];
    let asked = |test: &dyn Fn(&str) -> bool| subject.ask(&key("resource"), &mut |text| test(text));
    assert_eq!(asked(&|text| text.starts_with("demo://")), Yes);
    assert_eq!(asked(&|text| text.starts_with("demo://h/1")), NotYet);
    assert_eq!(asked(&|text| text.ends_with("/")), NotYet);
    assert_eq!(asked(&|text| text == "demo://h/"), NotYet);
    assert_eq!(asked(&|_| true), Yes);
    assert_eq!(subject.known_prefix(&key("resource")), Some("demo://h/"));
    assert_eq!(subject.known_prefix(&key("tool")), None);
}

#[test]
fn what_is_too_long_to_compare_is_doubt_and_costs_nothing() {
    let array = |element: &str, count: usize| format!("[{}]", vec![element; count].join(","));
    let number = |zeros: usize| format!("1.{}", "0".repeat(zeros));
    for (row, argument, value, told, comparisons) in [
        ("array of 1,000", array("1e3", 1_000), "none", No, 1_000),
        ("array of 1,001", array("1e3", 1_001), "1000", NotYet, 0),
        ("array of 1,001 strings", array(r#""a""#, 1_001), "a", NotYet, 0),
        ("array of 99,000", array("1e308", 99_000), "1", NotYet, 0),
        ("number of 64 bytes", number(62), "1", Yes, 1),
        ("number of 65 bytes", number(63), "1", NotYet, 0),
        ("long numbers in an array", array(&number(63), 1_000), "1", NotYet, 0),
    ] {
        let body = call(&format!(r#"{{"name":"t","arguments":{{"a":{argument}}}}}"#));
        let exchange = read(body.as_bytes()).unwrap();
        let mut compared = 0;
        let answer = exchange.messages[0].subjects[0].ask(&key("args.a"), &mut |text| {
            compared += 1;
            text == value
        });
        assert_eq!((answer, compared), (told, comparisons), "{row}");
    }
}

#[test]
fn arguments_are_told_as_text_and_doubt_is_told_as_doubt() {
    let arguments = r#"{
        "owner":"acme","esc":"\u0061\n","empty":"","n":1.50,"one":10e-1,"big":1e400,"drops":9007199254740993,
        "yes":true,"no":false,"nil":null,"obj":{"a":1},
        "repo":{"name":"x","tags":["a",1,true,null,["deep"],{"k":"v"}]},"nums":[1e400,2],
        "Case":"a","twin":"a","TWIN":"b","\u017f":1,"a.b":"dotted"
    }"#;
    let body = call(&format!(r#"{{"name":"t","arguments":{arguments}}}"#));
    let exchange = read(body.as_bytes()).unwrap();
    let subject = &exchange.messages[0].subjects[0];
    for (fact, value, told) in [
        ("args.owner", "acme", Yes),
        ("args.owner", "Acme", No),
        ("args.esc", "a\n", Yes),
        ("args.empty", "", Yes),
        ("args.n", "1.5", Yes),
        ("args.n", "1.50", No),
        ("args.one", "1", Yes),
        ("args.big", "1e400", NotYet),
        ("args.drops", "9007199254740993", NotYet),
        ("args.yes", "true", Yes),
        ("args.no", "false", Yes),
        ("args.nil", "null", No),
        ("args.obj", "{\"a\":1}", No),
        ("args.obj.a", "1", Yes),
        ("args.obj.a.b", "1", No),
        ("args.missing", "", No),
        ("args.repo.name", "x", Yes),
        ("args.repo.tags", "a", Yes),
        ("args.repo.tags", "1", Yes),
        ("args.repo.tags", "true", Yes),
        ("args.repo.tags", "null", No),
        ("args.repo.tags", "deep", No),
        ("args.repo.tags.k", "v", No),
        ("args.nums", "2", Yes),
        ("args.nums", "3", NotYet),
        // Go's decoder takes `Case` for `case`, and of two twins the last.
        ("args.case", "a", NotYet),
        ("args.twin", "a", NotYet),
        ("args.twin", "z", NotYet),
        ("args.s", "1", NotYet),
        ("args.a.b", "dotted", No),
    ] {
        assert_eq!(ask(subject, fact, value), told, "{fact} {value}");
    }
    // Until tools are pinned no hint is known, and neither `values` nor `notValues` of one may permit a call.
    assert_eq!(ask(subject, "tool.read_only", "true"), NotYet);
}

#[test]
fn a_message_without_arguments_has_none() {
    for params in [r#"{"name":"t"}"#, r#"{"name":"t","arguments":null}"#, r#"{"name":"t","arguments":{}}"#] {
        let body = call(params);
        let exchange = read(body.as_bytes()).unwrap();
        assert_eq!(ask(&exchange.messages[0].subjects[0], "args.a", ""), No, "{params}");
    }
    let body = request("resources/read", r#"{"uri":"demo://h/r","arguments":{"a":"1"}}"#);
    let exchange = read(body.as_bytes()).unwrap();
    assert_eq!(ask(&exchange.messages[0].subjects[0], "args.a", "1"), No);
}

#[test]
fn session_and_revision_come_from_the_head_or_the_proposal() {
    let told = |exchange: &Exchange<'_>, fact: &str| values(&exchange.messages[0].subjects[0], fact);
    let body = request("initialize", r#"{"protocolVersion":"2024-11-05"}"#);
    let exchange = read(body.as_bytes()).unwrap();
    assert_eq!((exchange.revision, exchange.is_initialize()), (Revision::V2024_11_05, true));
    assert_eq!(told(&exchange, "protocol_version"), ["2024-11-05"]);
    assert_eq!(told(&exchange, "session"), [""; 0]);

    let body = call(r#"{"name":"t"}"#);
    let headers = [("mcp-session-id", "s1"), ("mcp-protocol-version", "2025-06-18")];
    let exchange = read_under(&headers, body.as_bytes()).unwrap();
    assert_eq!((exchange.revision, exchange.is_modern()), (Revision::V2025_06_18, false));
    assert_eq!(told(&exchange, "protocol_version"), ["2025-06-18"]);
    assert_eq!(told(&exchange, "session"), ["s1"]);

    let exchange = read(body.as_bytes()).unwrap();
    assert_eq!(exchange.revision, Revision::V2025_03_26);
    assert_eq!(told(&exchange, "protocol_version"), [""; 0]);
}

#[test]
fn only_list_requests_ask_for_a_screen() {
    for (body, asks) in [
        (request("tools/list", "{}"), true),
        (request("resources/templates/list", "{}"), true),
        (call(r#"{"name":"t"}"#), false),
        (request("ping", "{}"), false),
        (
            format!("[{},{}]", request("ping", "{}"), request("prompts/list", "{}").replace(":1,", ":2,")),
            true,
        ),
    ] {
        assert_eq!(read(body.as_bytes()).unwrap().asks_for_list(), asks, "{body}");
    }
}

#[test]
fn a_response_is_judged_as_one() {
    let exchange = read(br#"{"jsonrpc":"2.0","id":"s\u0031","error":{"code":1,"message":"m"}}"#).unwrap();
    let message = &exchange.messages[0];
    assert_eq!(message.response_id(), Some(r#""s\u0031""#));
    assert_eq!(message.subjects[0].kind(), Kind::Response);
    assert_eq!(ask(&message.subjects[0], "kind", "response"), Truth::Yes);
    assert_eq!(ask(&message.subjects[0], "method", ""), Truth::No);
}

/// SEP-414. What is no string is as good as nothing, and nothing of it is judged.
#[test]
fn a_messages_place_in_a_trace_is_told_as_written() {
    let rows = [
        (r#""_meta":{"traceparent":"00-a-b-01","tracestate":"v=1"}"#, Some(("00-a-b-01", Some("v=1")))),
        (r#""_meta":{"traceparent":"00-\u0061-b-01"}"#, Some(("00-a-b-01", None))),
        (r#""_meta":{"traceparent":"x","tracestate":7}"#, Some(("x", None))),
        (r#""_meta":{"tracestate":"v=1"}"#, None),
        (r#""_meta":{"traceparent":["x"]}"#, None),
        (r#""_meta":{"Traceparent":"x"}"#, None),
        (r#""_meta":{}"#, None),
        (r#""arguments":{"_meta":{"traceparent":"x"}}"#, None),
    ];
    for (member, want) in rows {
        let body = call(&format!(r#"{{"name":"a",{member}}}"#));
        let exchange = read(body.as_bytes()).unwrap();
        let trace = exchange.messages[0].trace.as_ref();
        let told = trace.map(|trace| (&*trace.parent, trace.state.as_deref()));
        assert_eq!(told, want, "{member}");
    }
}
