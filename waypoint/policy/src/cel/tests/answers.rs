//! Answers, by expression.

use agent_protocols::Unread;
use http::HeaderMap;
use serde_json::json;
use spiffe_id::SpiffeId;

use super::{Call, ask, document};
use crate::attributes::{Attributes, Destination, Head, HttpAttributes, Source};
use crate::cel::{Answer, Condition};

const ARGUMENTS: &str = r#"{
    "amount": 100, "price": 100.5, "whole": 1.0, "big": 9007199254740993, "huge": 1e30, "max": 9223372036854775807,
    "text": "50", "to": "ann@acme.com", "word": "h\u00e9llo\n", "yes": true, "none": null, "nested": {"a": {"b": 5}},
    "list": [1, 2, 3], "mixed": [1, "a", null], "mails": ["a@acme.com", "b@acme.com"], "empty": [],
    "Twin": 1, "twin": 1, "ſize": 4, "doubtful": [1, 1e400], "null": 1
}"#;

const YES: Answer = Answer::Told(true);
const NO: Answer = Answer::Told(false);

#[test]
fn conditions_mean_what_cel_says() {
    let rows: &[(&str, Answer)] = &[
        // numbers, by what they are worth and never as texts
        ("args.amount <= 100", YES),
        ("args.amount <= 99", NO),
        ("args.price <= 100", NO),
        ("args.price == 100.5", YES),
        ("args.amount == 100.0", YES),
        ("args.whole == 1", YES),
        ("args.amount == 0x64", YES),
        ("args.amount == 1e2", YES),
        ("args.huge > 9223372036854775807", YES),
        ("args.big == 9007199254740993", Answer::Error),
        ("args.max > 1", Answer::Error),
        ("args.text == 50", NO),
        ("args.text == '50'", YES),
        ("args.text <= 50", Answer::Error),
        ("args.text + 1 == 51", Answer::Error),
        ("int(args.text) == 50", YES),
        ("double(args.text) < 50.5", YES),
        ("int('abc') == 1", Answer::Error),
        ("double('nan') == 1.0", Answer::Error),
        ("double('inf') > 1.0", Answer::Error),
        ("int(args.price) == 100", YES),
        ("int(args.huge) == 1", Answer::Error),
        ("string(args.amount) == '100'", YES),
        ("args.amount * 2 == 200", YES),
        ("args.amount * 2.0 == 200.0", Answer::Error),
        ("double(args.amount) * 1.5 == 150.0", YES),
        ("args.amount / 0 == 1", Answer::Error),
        ("args.amount % 0 == 1", Answer::Error),
        ("args.amount % 3 == 1", YES),
        ("7 / -2 == -3 && -7 % 3 == -1", YES),
        ("9223372036854775807 + 1 > 0", Answer::Error),
        ("-9223372036854775808 < 0", YES),
        ("-(-9223372036854775808) > 0", Answer::Error),
        ("-9223372036854775808 / -1 > 0", Answer::Error),
        ("1e308 * 1e308 > 0.0", Answer::Error),
        ("0.0 / 0.0 == 0.0", Answer::Error),
        ("1 + 2 * 3 - 4 == 3", YES),
        // texts
        ("args.to.endsWith('@acme.com')", YES),
        ("args.to.endsWith(\"@evil.com\")", NO),
        ("args.to.startsWith('ann') && args.to.contains('@')", YES),
        ("args.amount.endsWith('0')", Answer::Error),
        ("args.word == 'h\\u00e9llo\\n'", YES),
        ("size(args.word) == 6 && args.word.size() == 6", YES),
        ("args.to.matches('^[a-z]+@acme[.]com$')", YES),
        ("args.to.matches('acme')", YES),
        ("args.to.matches('^acme')", NO),
        ("args.amount.matches('1')", Answer::Error),
        ("r'\\n' == '\\\\n' && '''it's''' == \"it's\"", YES),
        ("'a' < 'b' && 'B' < 'a' && false < true", YES),
        ("'a' + 'b' == 'ab'", YES),
        // members
        ("args.nested.a.b == 5 && args['nested']['a'].b == 5", YES),
        ("args.missing == 1", Answer::Error),
        ("args.nested.missing == 1", Answer::Error),
        ("has(args.amount) && !has(args.missing)", YES),
        ("has(args.nested.a.b)", YES),
        ("has(args.missing.a)", Answer::Error),
        ("has(args.amount.a)", Answer::Error),
        ("'amount' in args && !('missing' in args)", YES),
        ("args.none == null", YES),
        ("args.amount != null", YES),
        ("args.none == 0", NO),
        ("args.amount", Answer::Error),
        ("args.yes", YES),
        ("!args.yes", NO),
        ("!args.amount", Answer::Error),
        ("args.nested == args.nested", Answer::Error),
        ("size(args.nested) == 1", YES),
        // members of which two readers take different ones
        ("args.twin == 1", Answer::Error),
        ("args.Twin == 1", Answer::Error),
        ("has(args.twin)", Answer::Error),
        ("args['size'] == 4", Answer::Error),
        ("'TWIN' in args", Answer::Error),
        // lists
        ("args.list[0] == 1 && args.list[2] == 3", YES),
        ("args.list[3] == 1", Answer::Error),
        ("args.list[-1] == 1", Answer::Error),
        ("args.list['0'] == 1", Answer::Error),
        ("size(args.list) == 3", YES),
        ("args.list == [1, 2.0, 3] && args.list != [1, 2]", YES),
        ("2 in args.list && !(5 in args.list)", YES),
        ("args.amount in [1, 100]", YES),
        ("args.amount in ['100']", NO),
        ("args.amount in args.amount", Answer::Error),
        ("args.list.all(x, x < 4)", YES),
        ("args.list.all(x, x < 3)", NO),
        ("args.empty.all(x, x < 3) && !args.empty.exists(x, true)", YES),
        ("args.list.exists(x, x == 2)", YES),
        ("args.list.exists_one(x, x > 2)", YES),
        ("args.list.exists_one(x, x > 1)", NO),
        ("args.list.filter(x, x > 1) == [2, 3]", YES),
        ("args.list.map(x, x * 2) == [2, 4, 6]", YES),
        ("args.list.map(x, args.list.filter(y, y <= x).size()) == [1, 2, 3]", YES),
        ("args.mails.all(mail, mail.endsWith('@acme.com'))", YES),
        ("args.mixed.exists(x, x == 'a')", YES),
        ("args.mixed.all(x, x > 0)", Answer::Error),
        ("args.mixed.exists(x, x > 0)", YES),
        ("args.doubtful.exists(x, x == 1)", Answer::Error),
        ("args.nested.all(key, key == 'a')", YES),
        ("args.amount.all(x, true)", Answer::Error),
        // an operand that decides does so beside an error, on either side
        ("args.missing == 1 || true", YES),
        ("true || args.missing == 1", YES),
        ("args.missing == 1 && false", NO),
        ("args.missing == 1 || false", Answer::Error),
        ("args.missing == 1 && true", Answer::Error),
        ("args.missing == 1 ? true : true", Answer::Error),
        ("args.yes ? args.amount == 100 : args.missing == 1", YES),
        ("args.amount == 1 ? 'a' == 'a' : args.price > 100", YES),
        ("false ? true : false ? false : true", YES),
        ("1 < 2 == true", YES),
        // the request
        ("tool == 'pay' && method == 'tools/call'", YES),
        ("tool in ['pay', 'refund'] && tool.startsWith('p')", YES),
        ("'pay' == tool && tool != 'drop'", YES),
        ("source.principal == 'td/ns/agents/sa/bot'", YES),
        (
            "source.namespace == 'agents' && source.serviceAccount == 'agents/bot' && source.trustDomain == 'td'",
            YES,
        ),
        ("source.ip == '10.0.0.1' && has(source.namespace)", YES),
        ("request.headers['x-team'] == 'red' && 'x-team' in request.headers", YES),
        ("request.headers.host == 'x'", Answer::Error),
        ("!has(request.headers.host) && !('host' in request.headers)", YES),
        ("request.headers['x-twice'] == 'a'", Answer::Error),
        ("request.headers['x-latin'] == 'e'", Answer::Error),
        (
            "jwt.sub == 'ann' && 'ops' in jwt.groups && jwt.org.id == 7 && jwt.level > 2 && jwt.ratio == 1",
            YES,
        ),
        ("jwt.groups == ['ops', 'dev'] && jwt.groups[1] == 'dev' && jwt.all(k, k != '')", YES),
        ("jwt.missing == 'x'", Answer::Error),
        ("args.amount == 100 // as agreed", YES),
    ];
    let arguments = document(ARGUMENTS);
    let call = Call { tool: Some("pay"), arguments: Some(&arguments) };
    for (text, want) in rows {
        assert_eq!(ask(text, &call), *want, "{text}");
    }
}

#[test]
fn what_is_not_read_is_open_unless_the_rest_decides() {
    let rows = [
        ("tool == 'x' && args.amount <= 100", Answer::Open, NO),
        ("tool == 'pay' && args.amount <= 100", Answer::Open, Answer::Open),
        ("args.amount <= 100 || tool == 'pay'", Answer::Open, YES),
        ("args.amount <= 100", Answer::Open, Answer::Open),
        ("has(args.amount)", Answer::Open, Answer::Open),
        ("args.all(k, k != '')", Answer::Open, Answer::Open),
        ("[1, 2].exists(x, x == 2 || args.amount == x)", YES, YES),
        ("[1, 2].all(x, x == 2 && args.amount == x)", NO, NO),
        ("tool.startsWith('p')", Answer::Open, YES),
        ("tool in ['pay']", Answer::Open, YES),
        ("tool == ''", Answer::Open, NO),
        ("method == 'tools/call'", Answer::Open, YES),
        ("source.namespace == 'agents'", YES, YES),
        ("request.headers['x-team'] == 'blue' && args.amount == 1", NO, NO),
        // an error is one whatever is read
        ("jwt.missing == 'x'", Answer::Error, Answer::Error),
        ("jwt.missing == args.amount", Answer::Error, Answer::Error),
        ("args.amount == jwt.missing", Answer::Error, Answer::Error),
        ("[args.amount][jwt.missing]", Answer::Error, Answer::Error),
        ("jwt.missing == 'x' && args.amount == 1", Answer::Open, Answer::Open),
        ("args.amount == 1 || jwt.missing == 'x'", Answer::Open, Answer::Open),
        ("jwt.missing == 'x' && tool == 'x'", Answer::Open, NO),
        ("args.yes ? true : true", Answer::Open, Answer::Open),
    ];
    for (text, unread, listed) in rows {
        assert_eq!(ask(text, &Unread), unread, "{text}, unread");
        assert_eq!(ask(text, &Call { tool: Some("pay"), arguments: None }), listed, "{text}, listed");
    }
}

#[test]
fn a_message_without_arguments_or_tool_has_none() {
    let rows = [
        ("tool == '' && method == ''", YES),
        ("tool == 'pay'", NO),
        ("has(args.amount)", NO),
        ("'amount' in args", NO),
        ("size(args) == 0 && args.all(k, false)", YES),
        ("args.amount == 1", Answer::Error),
    ];
    for (text, want) in rows {
        assert_eq!(ask(text, &agent_protocols::Plain), want, "{text}");
    }
}

#[test]
fn without_a_head_an_identity_or_a_token_nothing_is_made_up() {
    let ip = "10.0.0.1".parse().unwrap();
    let headers = HeaderMap::new();
    let http = HttpAttributes { method: "GET", path: "/", authority: "", headers: &headers, claims: None };
    let rows = [
        ("jwt.sub == 'ann'", Answer::Open, Answer::Error),
        ("has(jwt.sub)", Answer::Open, NO),
        ("has(request.headers.host)", Answer::Open, NO),
        ("source.principal == ''", Answer::Error, Answer::Error),
        ("has(source.principal)", NO, NO),
    ];
    for (text, stream, request) in rows {
        for (http, want) in [(None, stream), (Some(http), request)] {
            let attributes = Attributes {
                source: Source { identity: None, ip, remote_ip: ip },
                destination: Destination { ip: None, port: 80, sni: None },
                http,
            };
            let answer = Condition::compile(text).unwrap().ask(&Head::new(&attributes), &Unread);
            assert_eq!(answer, want, "{text}");
        }
    }
    let id = SpiffeId::parse("spiffe://td/ns/a/sa/b/ns/c/sa/d").unwrap();
    let attributes = Attributes {
        source: Source { identity: Some(&id), ip, remote_ip: ip },
        destination: Destination { ip: None, port: 80, sni: None },
        http: None,
    };
    for text in ["source.namespace == 'a'", "source.serviceAccount == 'a/b'"] {
        let answer = Condition::compile(text).unwrap().ask(&Head::new(&attributes), &Unread);
        assert_eq!(answer, Answer::Error, "{text}: which of two cannot be told");
    }
}

#[test]
fn work_is_bounded_whatever_the_message_says() {
    let numbers: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let text = format!(
        r#"{{"a": [{}], "few": [1, 2, 3], "long": "{}", "escaped": "\n{}"}}"#,
        numbers.join(","),
        "x".repeat(3_000_000),
        "y".repeat(3_000_000),
    );
    let arguments = document(&text);
    let call = Call { tool: Some("pay"), arguments: Some(&arguments) };
    let rows = [
        ("args.a.all(x, args.a.exists(y, x == y))", Answer::Error),
        ("args.a.map(x, args.a).size() == 1", Answer::Error),
        ("args.a == args.a", Answer::Error),
        ("30000 in args.a", Answer::Error),
        ("args.a[19999] == 19999", YES),
        ("size(args.a) == 20000", YES),
        ("args.few.all(x, args.few.exists(y, x == y))", YES),
        ("args.long.contains('z')", NO),
        ("args.long.contains('z') || args.long.contains('w')", Answer::Error),
        ("args.long.matches('^x*$')", Answer::Error),
        ("args.few.all(x, args.escaped.size() > x)", Answer::Error),
        // What is cheap is asked first, so that it decides beside what takes too long.
        ("args.a.all(x, args.a.exists(y, x == y)) && tool == 'drop'", NO),
    ];
    for (text, want) in rows {
        assert_eq!(ask(text, &call), want, "{text}");
    }
    // What takes too long while something is not known is not settled by that.
    let list = "[1, 2, 3, 4, 5, 6, 7, 8, 9]";
    let nested = format!(
        "{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, {list}.all(e, tool == 'x' || a > 9)))))"
    );
    assert_eq!(ask(&nested, &Unread), Answer::Open);
}

#[test]
fn regular_expressions_are_those_of_re2() {
    let rows = [
        (r"^\\d+$", "12", true),
        (r"^\\d+$", "١٢", false),
        (r"^\\w+$", "é", false),
        (r"^[\\w.]+$", "a.b_1", true),
        (r"^[^\\s]+$", "ab", true),
        (r"^.$", "é", true),
        (r"\\bacme\\b", "an acme x", true),
        (r"\\bacme\\b", "éacme", true),
        (r"^[[]$", "[", true),
        (r"^[]a]+$", "]a", true),
        (r"^[a&&b]+$", "a&b", true),
        (r"^[[:alpha:]]+$", "abc", true),
        (r"^[[:^alpha:]]+$", "123", true),
        (r"^(?i)ACME$", "acme", true),
    ];
    for (pattern, text, want) in rows {
        let arguments = json!({ "a": text }).to_string();
        let arguments = document(&arguments);
        let call = Call { tool: Some("pay"), arguments: Some(&arguments) };
        let condition = format!("args.a.matches('{pattern}')");
        assert_eq!(ask(&condition, &call), Answer::Told(want), "{condition} {text}");
    }
}

#[test]
fn tools_that_must_be_called_are_found() {
    let rows: [(&str, Option<&[&str]>); 10] = [
        ("tool == 'a' && args.n < 3", Some(&["a"])),
        ("args.n < 3 && (jwt.x == 1 && 'a' == tool)", Some(&["a"])),
        ("tool in ['a', 'b']", Some(&["a", "b"])),
        ("(tool == 'a' && args.n < 3) || (tool == 'b' && args.n < 5)", Some(&["a", "b"])),
        ("tool in ['a', 'b'] && tool == 'b'", Some(&["b"])),
        ("tool == 'a' || args.n < 3", None),
        ("tool != 'a'", None),
        ("!(tool == 'a')", None),
        ("tool == ''", None),
        ("method == 'tools/call'", None),
    ];
    for (text, want) in rows {
        let condition = Condition::compile(text).unwrap();
        let tools = condition.tools().map(|names| names.iter().map(|name| &**name).collect::<Vec<_>>());
        assert_eq!(tools.as_deref(), want, "{text}");
    }
}
