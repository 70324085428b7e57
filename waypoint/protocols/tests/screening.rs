//! List answers without what the peer may not call: JSON and SSE, rows S-1 to S-7, and against a slow reference.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod support;

use agent_protocols::mcp::{Entry, Judge, ListKind, Screened, SseScreen, Unscreenable, screen_json};
use agent_protocols::{Facts, Kind, Limits, Truth};
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{ask, key, values};

/// Hides what has `bad` in its name.
#[derive(Default)]
struct HideBad {
    asked: Vec<String>,
}

impl Judge for HideBad {
    fn keep(&mut self, entry: &Entry<'_>) -> bool {
        self.asked.push(entry.name.to_string());
        !entry.name.contains("bad")
    }

    fn endpoint(&mut self, uri: &str) -> Result<String, Unscreenable> {
        if uri.starts_with("//") {
            Err(Unscreenable { name: "elsewhere" })
        } else {
            Ok(format!("{uri}-sealed"))
        }
    }

    fn refusal(&mut self, sealed: &str) -> Option<String> {
        (sealed == "told").then(|| r#"{"id":7,"error":{}}"#.to_owned())
    }
}

#[track_caller]
fn screen(body: &str) -> Result<(String, Screened), &'static str> {
    let mut counts = Screened::default();
    let screened = screen_json(body.as_bytes(), &Limits::default(), &mut HideBad::default(), &mut counts);
    let text = screened.map_err(|error| error.name)?.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
    Ok((text.unwrap_or_else(|| body.to_owned()), counts))
}

#[test]
fn denied_entries_are_cut_and_every_other_byte_stays() {
    for (row, before, after) in [
        (
            "nothing denied",
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"a"}]}}"#,
        ),
        (
            "first",
            r#"{"result":{"tools":[{"name":"bad"},{"name":"a"}],"nextCursor":"c"}}"#,
            r#"{"result":{"tools":[{"name":"a"}],"nextCursor":"c"}}"#,
        ),
        (
            "middle",
            r#"{"result":{"tools":[{"name":"a"},{"name":"bad"},{"name":"b"}]}}"#,
            r#"{"result":{"tools":[{"name":"a"},{"name":"b"}]}}"#,
        ),
        (
            "last",
            r#"{"result":{"tools":[{"name":"a"},{"name":"bad"}]}}"#,
            r#"{"result":{"tools":[{"name":"a"}]}}"#,
        ),
        (
            "run at the end",
            r#"{"result":{"tools":[{"name":"a"},{"name":"bad1"},{"name":"bad2"}]}}"#,
            r#"{"result":{"tools":[{"name":"a"}]}}"#,
        ),
        (
            "run in the middle",
            r#"{"result":{"tools":[{"name":"a"},{"name":"bad1"},{"name":"bad2"},{"name":"b"}]}}"#,
            r#"{"result":{"tools":[{"name":"a"},{"name":"b"}]}}"#,
        ),
        (
            "all",
            r#"{"result":{"tools":[{"name":"bad1"},{"name":"bad2"}],"nextCursor":"c"}}"#,
            r#"{"result":{"tools":[],"nextCursor":"c"}}"#,
        ),
        ("empty", r#"{"result":{"tools":[]}}"#, r#"{"result":{"tools":[]}}"#),
        (
            "white space",
            "{ \"result\" : { \"tools\" : [ {\"name\":\"bad\"} , {\"name\" : \"a\", \"x\" : 1.0} ,\n {\"name\":\"bad\"} ] } }",
            "{ \"result\" : { \"tools\" : [ {\"name\" : \"a\", \"x\" : 1.0} ] } }",
        ),
        (
            "unknown members",
            r#"{"result":{"_meta":{"k":1e2},"tools":[{"name":"bad"}],"ext":[1,{"name":"bad"}]}}"#,
            r#"{"result":{"_meta":{"k":1e2},"tools":[],"ext":[1,{"name":"bad"}]}}"#,
        ),
        (
            "prompts",
            r#"{"result":{"prompts":[{"name":"bad"},{"name":"p"}]}}"#,
            r#"{"result":{"prompts":[{"name":"p"}]}}"#,
        ),
        (
            "resources",
            r#"{"result":{"resources":[{"uri":"demo://h/bad"},{"uri":"demo://h/r","name":"bad"}]}}"#,
            r#"{"result":{"resources":[{"uri":"demo://h/r","name":"bad"}]}}"#,
        ),
        (
            "templates",
            r#"{"result":{"resourceTemplates":[{"uriTemplate":"demo://bad/{x}"},{"uriTemplate":"demo://h/{x}"}]}}"#,
            r#"{"result":{"resourceTemplates":[{"uriTemplate":"demo://h/{x}"}]}}"#,
        ),
        ("tasks are not built", r#"{"result":{"tasks":[{"taskId":"t"}]}}"#, r#"{"result":{"tasks":[]}}"#),
        (
            "several lists",
            r#"{"result":{"tools":[{"name":"bad"}],"prompts":[{"name":"bad"},{"name":"p"}]}}"#,
            r#"{"result":{"tools":[],"prompts":[{"name":"p"}]}}"#,
        ),
        ("escaped name", r#"{"result":{"tools":[{"n\u0061me":"b\u0061d"}]}}"#, r#"{"result":{"tools":[]}}"#),
        (
            "no name",
            r#"{"result":{"tools":[{"title":"a"},{"name":1},"a",null,[{"name":"a"}]]}}"#,
            r#"{"result":{"tools":[]}}"#,
        ),
        (
            "unspeakable name",
            r#"{"result":{"tools":[{"name":""},{"name":"a\u0007"},{"name":"a"}]}}"#,
            r#"{"result":{"tools":[{"name":"a"}]}}"#,
        ),
        (
            "case-variant name",
            r#"{"result":{"tools":[{"name":"a","Name":"z"},{"Name":"a"}]}}"#,
            r#"{"result":{"tools":[]}}"#,
        ),
        (
            "R-5 in a list",
            r#"{"result":{"resources":[{"uri":"file:///a/../b"},{"uri":"FILE:///a"}]}}"#,
            r#"{"result":{"resources":[]}}"#,
        ),
        (
            "R-5 in a template",
            r#"{"result":{"resourceTemplates":[{"uriTemplate":"file:///a/../{b}"}]}}"#,
            r#"{"result":{"resourceTemplates":[]}}"#,
        ),
        (
            "S-1 other id type",
            r#"{"jsonrpc":"2.0","id":"1","result":{"tools":[{"name":"bad"}]}}"#,
            r#"{"jsonrpc":"2.0","id":"1","result":{"tools":[]}}"#,
        ),
        (
            "S-5 array",
            r#"[{"id":1,"result":{"tools":[{"name":"bad"}]}},{"id":2,"result":{}}]"#,
            r#"[{"id":1,"result":{"tools":[]}},{"id":2,"result":{}}]"#,
        ),
        (
            "hybrid",
            r#"{"method":"notifications/message","result":{"tools":[{"name":"bad"}]}}"#,
            r#"{"method":"notifications/message","result":{"tools":[]}}"#,
        ),
        (
            "shared cache",
            r#"{"result":{"tools":[{"name":"a"}],"ttlMs":300000,"cacheScope":"public"}}"#,
            r#"{"result":{"tools":[{"name":"a"}],"ttlMs":300000,"cacheScope":"private"}}"#,
        ),
        (
            "shared cache before the list",
            r#"{"result":{"cacheScope":"public","tools":[{"name":"bad"}]}}"#,
            r#"{"result":{"cacheScope":"private","tools":[]}}"#,
        ),
        (
            "private cache",
            r#"{"result":{"tools":[{"name":"a"}],"cacheScope":"private"}}"#,
            r#"{"result":{"tools":[{"name":"a"}],"cacheScope":"private"}}"#,
        ),
        (
            "cache scope without a list",
            r#"{"result":{"contents":[],"cacheScope":"public"}}"#,
            r#"{"result":{"contents":[],"cacheScope":"public"}}"#,
        ),
        (
            "error",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m","data":{"tools":[{"name":"bad"}]}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m","data":{"tools":[{"name":"bad"}]}}}"#,
        ),
        (
            "tool result",
            r#"{"result":{"content":[{"type":"text","text":"bad"}]}}"#,
            r#"{"result":{"content":[{"type":"text","text":"bad"}]}}"#,
        ),
        (
            "tools is no array",
            r#"{"result":{"tools":{"name":"bad"}}}"#,
            r#"{"result":{"tools":{"name":"bad"}}}"#,
        ),
        ("empty body", "", ""),
    ] {
        assert_eq!(screen(before).unwrap().0, after, "{row}");
    }
}

#[test]
fn what_was_kept_and_hidden_is_counted() {
    let body =
        r#"[{"result":{"tools":[{"name":"a"},{"name":"bad"},{}]}},{"result":{"prompts":[{"name":"b"}]}}]"#;
    assert_eq!(screen(body).unwrap().1, Screened { lists: 2, kept: 2, hidden: 2 });
}

#[test]
fn an_answer_that_clients_may_read_differently_is_not_sent() {
    for (row, body, name) in [
        ("two lists", r#"{"result":{"tools":[],"tools":[{"name":"bad"}]}}"#, "duplicate_key"),
        ("two results", r#"{"result":{},"result":{"tools":[{"name":"bad"}]}}"#, "duplicate_key"),
        ("two names", r#"{"result":{"tools":[{"name":"a","name":"bad"}]}}"#, "duplicate_key"),
        ("case-variant list", r#"{"result":{"Tools":[{"name":"bad"}]}}"#, "case_variant_key"),
        ("case-variant result", r#"{"RESULT":{"tools":[{"name":"bad"}]}}"#, "case_variant_key"),
        ("long s", "{\"re\u{17F}ult\":{\"tools\":[{\"name\":\"bad\"}]}}", "case_variant_key"),
        ("nested array", r#"[[{"result":{"tools":[{"name":"bad"}]}}]]"#, "nested_batch"),
        ("byte order mark", "\u{FEFF}{}", "byte_order_mark"),
        ("trailing", "{}{}", "trailing_bytes"),
        ("no JSON", "<html>", "not_json"),
    ] {
        assert_eq!(screen(body).unwrap_err(), name, "{row}");
    }
}

#[test]
fn a_list_beyond_the_bounds_is_not_sent() {
    let list =
        |count: usize| format!(r#"{{"result":{{"tools":[{}]}}}}"#, vec![r#"{"name":"a"}"#; count].join(","));
    assert!(screen(&list(10_000)).is_ok(), "S-7");
    assert_eq!(screen(&list(10_001)).unwrap_err(), "list_too_long", "S-7");
    let large = format!(r#"{{"result":{{"x":"{}"}}}}"#, "x".repeat(8 << 20));
    assert_eq!(screen(&large).unwrap_err(), "list_too_large", "S-7");
    let limits = Limits { list_members: 4, ..Limits::default() };
    let mut counts = Screened::default();
    let refused = screen_json(list(1).as_bytes(), &limits, &mut HideBad::default(), &mut counts);
    assert!(refused.is_ok());
    let refused = screen_json(list(2).as_bytes(), &limits, &mut HideBad::default(), &mut counts);
    assert_eq!(refused.unwrap_err().name, "too_many_members");
}

#[test]
fn an_entry_is_judged_as_the_call_it_offers() {
    struct Look(usize);
    impl Judge for Look {
        fn keep(&mut self, entry: &Entry<'_>) -> bool {
            self.0 += 1;
            let (method, fact) = match entry.kind {
                ListKind::Tools => ("tools/call", "tool"),
                ListKind::Prompts => ("prompts/get", "prompt"),
                ListKind::Resources | ListKind::ResourceTemplates => ("resources/read", "resource"),
                ListKind::Tasks => unreachable!("tasks are hidden unasked"),
            };
            assert_eq!(entry.kind(), Kind::Call);
            assert_eq!(values(entry, "method"), [method]);
            assert_eq!(values(entry, "kind"), ["call"]);
            for other in ["tool", "prompt", "resource", "task"] {
                let is_template = entry.kind == ListKind::ResourceTemplates;
                match (other == fact, is_template) {
                    (true, false) => assert_eq!(values(entry, other), [entry.name.as_ref()]),
                    (true, true) => {
                        assert_eq!(
                            entry.ask(&key(other), &mut |text| text.starts_with("demo://h/")),
                            Truth::Yes
                        );
                        assert_eq!(ask(entry, other, "demo://h/1"), Truth::NotYet);
                        assert_eq!(entry.known_prefix(&key(other)), Some("demo://h/"));
                    }
                    (false, _) => assert_eq!(values(entry, other), [""; 0]),
                }
            }
            let arguments = if matches!(fact, "tool" | "prompt") { Truth::NotYet } else { Truth::No };
            assert_eq!(ask(entry, "args.a", "x"), arguments);
            assert_eq!(ask(entry, "session", "x"), Truth::NotYet);
            true
        }
    }
    let body = json!({"result": {
        "tools": [{"name": "t"}], "prompts": [{"name": "p"}], "resources": [{"uri": "demo://h/r"}],
        "resourceTemplates": [{"uriTemplate": "demo://h/{x}"}], "tasks": [{"taskId": "x"}],
    }});
    let mut look = Look(0);
    screen_json(body.to_string().as_bytes(), &Limits::default(), &mut look, &mut Screened::default())
        .unwrap();
    assert_eq!(look.0, 4);
}

/// Screens a stream chunk by chunk; what was sent before it failed, and how it failed.
fn stream(chunks: &[&[u8]]) -> (String, Option<&'static str>) {
    let mut screen = SseScreen::new(Limits { sse_event: 4096, ..Limits::default() });
    let (mut judge, mut counts, mut sent) = (HideBad::default(), Screened::default(), Vec::new());
    for chunk in chunks {
        match screen.push(chunk, &mut judge, &mut counts) {
            Ok(bytes) => sent.extend_from_slice(&bytes),
            Err(error) => return (String::from_utf8(sent).unwrap(), Some(error.name)),
        }
    }
    screen.finish();
    (String::from_utf8(sent).unwrap(), None)
}

#[test]
fn a_stream_is_filtered_event_by_event() {
    let list = r#"{"result":{"tools":[{"name":"bad"},{"name":"a"}]}}"#;
    let kept = r#"{"result":{"tools":[{"name":"a"}]}}"#;
    for (row, before, after) in [
        ("one event", format!("data: {list}\n\n"), format!("data: {kept}\n\n")),
        (
            "fields stay",
            format!("event: message\nid: 7\nretry: 5\ndata: {list}\n\n"),
            format!("event: message\nid: 7\nretry: 5\ndata: {kept}\n\n"),
        ),
        ("no space", format!("data:{list}\n\n"), format!("data: {kept}\n\n")),
        ("other lines go", format!("x: {list}\ndata: {list}\n\n"), format!("data: {kept}\n\n")),
        (
            "unchanged stays as it is",
            "id:7\ndata:{\"id\":1,\ndata:  \"result\":{}}\nx\n\n".to_owned(),
            "id:7\ndata:{\"id\":1,\ndata:  \"result\":{}}\nx\n\n".to_owned(),
        ),
        ("CRLF", format!("id: 1\r\ndata: {list}\r\n\r\n"), format!("id: 1\r\ndata: {kept}\r\n\r\n")),
        ("S-2 CR", format!("id: 1\rdata: {list}\r\r"), format!("id: 1\rdata: {kept}\r\r")),
        // What a line that goes kept apart: CR and LF would be one end of line, and the event would not end.
        ("CR, a line that goes, LF", format!("data: {list}\rx: y\n\n"), format!("data: {kept}\n\n")),
        (
            "CR of an id, data that goes, LF",
            format!("data: {{\rid: 1\rdata:{}\n\n", &list[1..]),
            format!("data: {{ {}\rid: 1\n\n", &kept[1..]),
        ),
        (
            "S-3 split data and a comment between",
            "data: {\"result\":\n: x\ndata:{\"tools\":[{\"name\":\"bad\"},\ndata: {\"name\":\"a\"}]}}\n\n"
                .to_owned(),
            "data: {\"result\": {\"tools\":[{\"name\":\"a\"}]}}\n: x\n\n".to_owned(),
        ),
        ("S-5 array", format!("data: [{list}]\n\n"), format!("data: [{kept}]\n\n")),
        (
            "last event name counts",
            format!("event: x\nevent: message\ndata: {list}\n\n"),
            format!("event: x\nevent: message\ndata: {kept}\n\n"),
        ),
        (
            "empty event name is a message",
            format!("event:\ndata: {list}\n\n"),
            format!("event:\ndata: {kept}\n\n"),
        ),
        (
            "other events pass",
            format!("event: x\ndata: {list}\ndata: no json\n\n"),
            format!("event: x\ndata: {list}\ndata: no json\n\n"),
        ),
        (
            "an endpoint is as its client is to see it",
            "event: endpoint\ndata: /messages?sessionId=1\n\n".to_owned(),
            "event: endpoint\ndata: /messages?sessionId=1-sealed\n\n".to_owned(),
        ),
        (
            "a refusal in the place of the answer that carries it",
            "event: message\ndata: {\"id\":\"portcullis-refusal:told\",\"result\":{}}\n\n".to_owned(),
            "event: message\ndata: {\"id\":7,\"error\":{}}\n\n".to_owned(),
        ),
        (
            "an answer that carries nothing",
            "data: {\"id\":\"portcullis-refusal:forged\",\"result\":{}}\n\n".to_owned(),
            "data: {\"id\":\"portcullis-refusal:forged\",\"result\":{}}\n\n".to_owned(),
        ),
        (
            "a request of that id is no answer",
            "data: {\"id\":\"portcullis-refusal:told\",\"method\":\"ping\"}\n\n".to_owned(),
            "data: {\"id\":\"portcullis-refusal:told\",\"method\":\"ping\"}\n\n".to_owned(),
        ),
        ("priming event passes", "id: 1\ndata:\n\n".to_owned(), "id: 1\ndata:\n\n".to_owned()),
        ("retry alone passes", "retry: 100\n\n".to_owned(), "retry: 100\n\n".to_owned()),
        ("comments pass", ": ka\n\n:\n\n".to_owned(), ": ka\n\n:\n\n".to_owned()),
        ("leading mark goes", format!("\u{FEFF}data: {list}\n\n"), format!("data: {kept}\n\n")),
        ("unterminated is dropped", format!("data: {{}}\n\ndata: {list}\n"), "data: {}\n\n".to_owned()),
        (
            "line separator in data",
            "data: {\"id\":\"\u{2028}\"}\n\n".to_owned(),
            "data: {\"id\":\"\u{2028}\"}\n\n".to_owned(),
        ),
        (
            "two events",
            format!("data: {list}\n\n: ka\ndata: {list}\n\n"),
            format!("data: {kept}\n\n: ka\ndata: {kept}\n\n"),
        ),
    ] {
        assert_eq!(stream(&[before.as_bytes()]), (after, None), "{row}");
    }
}

#[test]
fn a_stream_that_cannot_be_screened_ends() {
    for (row, event, name) in [
        ("no JSON", "data: x\n\n", "not_json"),
        ("split inside a string", "data: {\"result\":{\"to\ndata: ols\":[]}}\n\n", "not_json"),
        ("two lists", "data: {\"result\":{\"tools\":[],\"tools\":[]}}\n\n", "duplicate_key"),
    ] {
        let good = "data: {}\n\n";
        let (sent, failed) = stream(&[good.as_bytes(), event.as_bytes(), good.as_bytes()]);
        assert_eq!((sent.as_str(), failed), (good, Some(name)), "{row}");
    }
    let large = format!("data: {}\n\n", "x".repeat(4096));
    assert_eq!(stream(&[large.as_bytes()]).1, Some("event_too_large"));
    let endless = "data: ".repeat(1000);
    assert_eq!(stream(&[endless.as_bytes()]).1, Some("event_too_large"));
    let mut screen = SseScreen::new(Limits::default());
    let (mut judge, mut counts) = (HideBad::default(), Screened::default());
    assert!(screen.push(b"data: x\n\n", &mut judge, &mut counts).is_err());
    assert!(screen.push(b": ka\n", &mut judge, &mut counts).is_err(), "it stays ended");
}

#[test]
fn a_comment_does_not_wait() {
    let mut screen = SseScreen::new(Limits::default());
    let (mut judge, mut counts) = (HideBad::default(), Screened::default());
    assert_eq!(screen.push(b": ka\n", &mut judge, &mut counts).unwrap(), ": ka\n");
    assert_eq!(screen.push(b"data: {", &mut judge, &mut counts).unwrap(), "");
    assert_eq!(screen.push(b"}\r", &mut judge, &mut counts).unwrap(), "");
    assert_eq!(screen.push(b"\r", &mut judge, &mut counts).unwrap(), "data: {}\r\r");
    assert_eq!(screen.push(b"\n: ka\n", &mut judge, &mut counts).unwrap(), "\n: ka\n");
}

#[test]
fn the_end_of_a_withheld_event_goes_with_it_wherever_it_is_cut() {
    let withheld = "data: {\"jsonrpc\":\"2.0\",\"method\":\"nobody/knows\"}\r\n\r\n";
    let whole = format!("{withheld}\n: ka\n");
    for at in 0..=whole.len() {
        let (first, second) = whole.as_bytes().split_at(at);
        assert_eq!(stream(&[first, second]), ("\n: ka\n".to_owned(), None), "cut at {at}");
    }
}

fn entry() -> impl Strategy<Value = Value> {
    let name = prop_oneof!["[a-c]{1,3}", Just("bad".to_owned()), Just("very bad \"x\"".to_owned())];
    prop_oneof![
        8 => (name, any::<Option<i32>>()).prop_map(|(name, extra)| json!({"title": "bad", "name": name, "x": extra})),
        1 => Just(json!({"title": "nameless"})),
        1 => Just(json!(["bad"])),
    ]
}

fn answer() -> impl Strategy<Value = Value> {
    let list = || proptest::collection::vec(entry(), 0..6);
    (list(), proptest::option::of(list()), proptest::option::of("[a-z]{3}")).prop_map(
        |(tools, prompts, scope)| {
            let mut result = json!({"nextCursor": "c", "_meta": {"tools": ["bad"]}, "tools": tools});
            if let Some(prompts) = prompts {
                result["prompts"] = json!(prompts);
            }
            if let Some(scope) = scope {
                result["cacheScope"] = json!(scope);
            }
            json!({"jsonrpc": "2.0", "id": 1, "result": result})
        },
    )
}

/// What screening must come to, on values.
fn reference(mut answer: Value) -> Value {
    for list in ["tools", "prompts"] {
        if let Some(entries) = answer["result"].get_mut(list).and_then(Value::as_array_mut) {
            entries.retain(|entry| entry["name"].as_str().is_some_and(|name| !name.contains("bad")));
        }
    }
    if answer["result"].get("cacheScope").is_some() {
        answer["result"]["cacheScope"] = json!("private");
    }
    answer
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn screening_equals_filtering_the_values(answer in answer(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&answer) } else { serde_json::to_string(&answer) }.unwrap();
        let (screened, counts) = screen(&text).unwrap();
        let expected = reference(answer.clone());
        prop_assert_eq!(&serde_json::from_str::<Value>(&screened).unwrap(), &expected);
        let length = |answer: &Value| ["tools", "prompts"].map(|l| answer["result"][l].as_array().map_or(0, Vec::len)).iter().sum::<usize>();
        prop_assert_eq!((counts.kept, counts.kept + counts.hidden), (length(&expected), length(&answer)));
        prop_assert_eq!(screen(&screened).unwrap().0, screened, "what was screened needs no screening");
    }

    #[test]
    fn any_split_of_a_stream_is_screened_alike(
        answers in proptest::collection::vec((answer(), 0..3_usize), 1..4),
        cuts in proptest::collection::vec(0..2000_usize, 0..12),
    ) {
        let mut text = String::from("\u{FEFF}: hello\r\n");
        for (answer, ending) in &answers {
            let end = ["\n", "\r\n", "\r"][*ending];
            let body = serde_json::to_string_pretty(answer).unwrap();
            text.push_str(&format!("id: 1{end}"));
            body.lines().for_each(|line| text.push_str(&format!("data: {line}{end}")));
            text.push_str(&format!("{end}: ka{end}"));
        }
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let whole = stream(&[bytes]);
        prop_assert_eq!(whole.1, None);
        prop_assert_eq!(&stream(&chunks), &whole);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&stream(&single), &whole);
    }
}
