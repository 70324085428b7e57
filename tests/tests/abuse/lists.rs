//! Lists show what may be called, whatever shape a server gives them; what can't be read is not shown at all.

use crate::stage::{Peer, Scene, Stage};
use anyhow::{Context, Result};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use portcullis_tests::http::{Body, Client, Reply, empty, full};
use portcullis_tests::upstream::{self, Seen};
use serde_json::{Value, json};

/// Which answer of the server a request asks for.
const MODE: &str = "x-mode";

/// What a server may answer.
#[derive(Clone, Debug)]
struct Answer {
    mode: String,
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(mode: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        Self { mode: mode.to_owned(), status: 200, headers, body: body.into() }
    }

    fn json(mode: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(mode, "application/json", body)
    }

    fn events(mode: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new(mode, "text/event-stream", body)
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn response(&self) -> Result<Response<Body>> {
        let head = Response::builder().status(self.status);
        let head = self.headers.iter().fold(head, |head, (name, value)| head.header(*name, value));
        Ok(head.body(full(self.body.clone()))?)
    }
}

/// A waypoint before a server that answers as the mode says.
async fn stage(answers: &[Answer]) -> Result<Stage> {
    let answers = answers.to_vec();
    let script = move |seen: &Seen| {
        let mode = seen.headers.get(MODE).map(HeaderValue::as_bytes).unwrap_or_default();
        let found = answers.iter().find(|answer| answer.mode.as_bytes() == mode);
        found.and_then(|answer| answer.response().ok()).unwrap_or_else(upstream::accepted)
    };
    Scene::new(script).await?.start(&[]).await
}

struct Asker {
    client: Client,
    _tunnel: Peer,
}

impl Asker {
    async fn of(stage: &Stage, name: &str) -> Result<Self> {
        let peer = stage.peer(name)?;
        Ok(Self { client: Client::http1(peer.stream().await?).await?, _tunnel: peer })
    }

    async fn list(&self, mode: &str) -> Result<Reply> {
        self.send(mode, Method::POST, "tools/list").await.with_context(|| mode.to_owned())
    }

    async fn send(&self, mode: &str, method: Method, rpc: &str) -> Result<Reply> {
        self.client.send(request(mode, method, rpc)?).await
    }

    /// The answer to a GET that opens a stream.
    async fn stream(&self, mode: &str) -> Result<Reply> {
        self.send(mode, Method::GET, "").await
    }
}

fn request(mode: &str, method: Method, rpc: &str) -> Result<Request<Body>> {
    let post = method == Method::POST;
    let request = Request::builder().method(method).uri("/mcp").header("host", "app").header(MODE, mode);
    let request =
        request.header("accept", "application/json, text/event-stream").header("accept-encoding", "gzip, br");
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": rpc, "params": {"name": "alpha"}}).to_string();
    Ok(match post {
        true => request.header("content-type", "application/json").body(full(body))?,
        false => request.body(empty())?,
    })
}

/// A list of both tools, in one line.
const TOOLS: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"alpha"},{"name":"beta"}]}}"#;
const WITHHELD: &str = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"Internal error"}}"#;

#[tokio::test]
async fn entries_are_cut_out_and_every_other_byte_stays() -> Result<()> {
    let page = |entries: &str| {
        format!(
            "{{\"jsonrpc\" : \"2.0\",\"id\":1,\n\"result\":{{\"_meta\":{{\"a/b\":[1e5,1.0]}},\"tools\":[{entries}],\"nextCursor\":\"Zm9v\\u002b+/= \u{2028}\",\"ttlMs\":300000,\"more\":{{\"tools\":\"beta\"}}}}}}\n"
        )
    };
    let alpha = r#"{"name":"\u0061lpha","inputSchema":{"type":"object","x":1.10},"é":null}"#;
    let beta = r#"{"description":"{[\"name\":\"alpha\"]}","name":"beta"}"#;
    let get = r#"{"name":"get_x"}"#;
    let rows = [
        ("in the middle", format!("{alpha} , {beta},{get}"), format!("{alpha} , {get}"), beta.to_owned()),
        ("first", format!("{beta}, {alpha}"), alpha.to_owned(), beta.to_owned()),
        ("last", format!("{alpha} ,\n{beta}"), alpha.to_owned(), beta.to_owned()),
        ("alone", beta.to_owned(), String::new(), beta.to_owned()),
        ("none", String::new(), String::new(), String::new()),
        (
            "several in a row",
            format!("{beta},{beta},{alpha},{beta},{beta}"),
            alpha.to_owned(),
            format!("{beta},{beta},{beta},{beta}"),
        ),
        ("nothing denied", format!("{alpha},{get}"), format!("{alpha},{get}"), String::new()),
        (
            "without a name",
            format!(r#"{alpha},{{"title":"x"}},{{"name":7}},null,"beta",[{beta}]"#),
            alpha.to_owned(),
            String::new(),
        ),
        (
            "with two spellings of the name",
            format!(r#"{alpha},{{"name":"alpha","Name":"beta"}}"#),
            alpha.to_owned(),
            String::new(),
        ),
    ];
    let answers: Vec<_> = rows
        .iter()
        .map(|(name, entries, ..)| Answer::json(name, page(entries)).header("etag", "\"1\""))
        .collect();
    let stage = stage(&answers).await?;
    let (bot, reader) = (Asker::of(&stage, "bot").await?, Asker::of(&stage, "reader").await?);
    for (name, entries, of_bot, of_reader) in &rows {
        for (asker, kept) in [(&bot, of_bot), (&reader, of_reader)] {
            let reply = asker.list(name).await?;
            assert_eq!((reply.status.as_u16(), reply.text()), (200, page(kept)), "{name}");
            assert_eq!(reply.headers.contains_key("etag"), kept == entries, "{name}: of another body");
        }
    }
    let coded = stage.upstream.seen().iter().any(|seen| seen.headers["accept-encoding"] != "identity");
    assert!(!coded, "what is to be read is asked for uncoded");
    Ok(())
}

#[tokio::test]
async fn all_kinds_of_lists_are_filtered() -> Result<()> {
    let list = |member: &str, name: &str, names: &[&str]| {
        let entries: Vec<Value> = names.iter().map(|text| json!({name: text})).collect();
        json!({"jsonrpc": "2.0", "id": 1, "result": {member: entries}}).to_string()
    };
    let prompts = ["hello", "bye"];
    let resources = [
        "file:///public/a",
        "file:///secret/b",
        "FILE:///public/c",
        "file:///public/../d",
        "file:///publicity",
    ];
    let templates =
        ["file:///public/{a}", "file:///secret/{b}", "file:///{all}", "{+any}", "file:///public/../{d}"];
    let rows = [
        ("prompts/list", "prompts", "name", &prompts[..], &["hello"][..]),
        ("resources/list", "resources", "uri", &resources, &["file:///public/a"]),
        // A template of which some expansion is allowed stays; the read is judged.
        (
            "resources/templates/list",
            "resourceTemplates",
            "uriTemplate",
            &templates,
            &["file:///public/{a}", "file:///{all}", "{+any}"],
        ),
        ("tasks", "tasks", "taskId", &["t1"], &[]),
    ];
    let answers: Vec<_> =
        rows.iter().map(|(mode, member, name, all, _)| Answer::json(mode, list(member, name, all))).collect();
    let stage = stage(&answers).await?;
    let bot = Asker::of(&stage, "bot").await?;
    for (mode, member, name, _, kept) in rows {
        let rpc = if mode == "tasks" { "tools/list" } else { mode };
        let reply = bot.send(mode, Method::POST, rpc).await?;
        assert_eq!(reply.json()?, serde_json::from_str::<Value>(&list(member, name, kept))?, "{mode}");
    }
    Ok(())
}

/// Three pages with a denied tool on each: their union is what may be called, and the server gets its cursors back.
#[tokio::test]
async fn pages_keep_their_cursors() -> Result<()> {
    const CURSORS: [&str; 3] = ["", "p2+/=\u{e9}\u{2028}\"\\", "0"];
    let script = |seen: &Seen| {
        let body = seen.json();
        let asked = body["params"]["cursor"].as_str().unwrap_or_default();
        let page = CURSORS.iter().position(|cursor| *cursor == asked);
        let tools = [
            json!([{"name": "beta"}, {"name": "alpha"}]),
            json!([{"name": "beta"}]),
            json!([{"name": "get_x"}]),
        ];
        match page {
            Some(page) => {
                upstream::result(seen, &json!({"tools": tools[page], "nextCursor": CURSORS.get(page + 1)}))
            }
            None => upstream::result(seen, &json!({"tools": [{"name": "alpha"}, {"name": "lost"}]})),
        }
    };
    let stage = Scene::new(script).await?.start(&[]).await?;
    let bot = Asker::of(&stage, "bot").await?;
    let (mut cursor, mut names, mut given) = (None, Vec::new(), Vec::new());
    loop {
        let params = cursor.take().map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}).to_string();
        let reply = bot
            .client
            .send(
                Request::post("/mcp")
                    .header("host", "app")
                    .header("content-type", "application/json")
                    .body(full(body))?,
            )
            .await?
            .json()?;
        names.extend(
            reply["result"]["tools"].as_array().context("a list")?.iter().map(|tool| tool["name"].clone()),
        );
        match reply["result"]["nextCursor"].as_str() {
            Some(next) => given.push(next.to_owned()),
            None => break,
        }
        cursor = given.last().cloned();
    }
    assert_eq!(names, ["alpha", "get_x"]);
    assert_eq!(given, CURSORS[1..]);
    Ok(())
}

/// Framings of one event stream with a list in it, and the text that must be left of it.
fn framings() -> Vec<(&'static str, String, Option<&'static str>)> {
    let kept = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"alpha"}]}}"#;
    let lf: &'static str =
        Box::leak(format!("id: 7\nevent: message\nretry: 10\ndata: {kept}\n\n").into_boxed_str());
    let (head, tail) = TOOLS.split_at(TOOLS.find(r#"{"name":"beta"#).unwrap_or_default());
    vec![
        ("plain", format!("id: 7\nevent: message\nretry: 10\ndata: {TOOLS}\n\n"), Some(lf)),
        ("S-2 CRLF", format!("id: 7\r\ndata: {TOOLS}\r\n\r\n"), None),
        ("S-2 CR only", format!("id: 7\rdata: {TOOLS}\r\r"), None),
        ("S-2 mixed", format!("id: 7\rdata: {TOOLS}\r\n\n"), None),
        ("S-3 split", format!("data: {head}\ndata: {tail}\n\n"), None),
        ("S-3 a comment between", format!("data: {head}\n: keep-alive\ndata: {tail}\n\n"), None),
        ("S-3 split, CR only", format!("data:{head}\rdata:{tail}\r\r"), None),
        ("no space", format!("data:{TOOLS}\n\n"), None),
        ("an empty event name", format!("event:\ndata: {TOOLS}\n\n"), None),
        ("a byte order mark", format!("\u{feff}data: {TOOLS}\n\n"), None),
        ("a priming event before", format!("id: 1\ndata:\n\nid: 2\ndata: {TOOLS}\n\n"), None),
        (
            "other messages before",
            format!(
                "data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{{\"level\":\"info\",\"data\":\"alpha\"}}}}\n\ndata: {TOOLS}\n\n"
            ),
            None,
        ),
        ("S-1 another type of id", format!("data: {}\n\n", TOOLS.replace("\"id\":1", "\"id\":\"1\"")), None),
        ("S-1 no id", format!("data: {}\n\n", TOOLS.replace("\"id\":1,", "")), None),
        ("S-5 an array", format!("data: [{TOOLS}]\n\n"), None),
        ("S-5 twice", format!("data: {TOOLS}\n\ndata: {TOOLS}\n\n"), None),
        ("an unfinished event behind", format!("data: {TOOLS}\n\ndata: {TOOLS}\n"), None),
    ]
}

#[tokio::test]
async fn lists_in_event_streams_are_filtered_however_they_are_framed() -> Result<()> {
    let framings = framings();
    let answers: Vec<_> =
        framings.iter().map(|(mode, body, _)| Answer::events(mode, body.as_str())).collect();
    let stage = stage(&answers).await?;
    let bot = Asker::of(&stage, "bot").await?;
    for (mode, _, exact) in &framings {
        for reply in [bot.list(mode).await?, bot.stream(mode).await?] {
            let text = reply.text();
            assert!(text.contains(r#"{"name":"alpha"}"#) && !text.contains("beta"), "{mode}: {text:?}");
            assert_eq!(exact.unwrap_or(&text), text, "{mode}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn lists_in_odd_answers_are_filtered() -> Result<()> {
    let answers = [
        Answer::json("201", TOOLS).status(201),
        Answer::json("an error status", TOOLS).status(400),
        Answer::json("S-1 another type of id", TOOLS.replace("\"id\":1", "\"id\":\"1\"")),
        Answer::json("S-1 no id", TOOLS.replace("\"id\":1,", "")),
        Answer::json("S-5 an array", format!("[{TOOLS}]")),
        Answer::json(
            "beside an error",
            TOOLS.replace("\"result\"", "\"error\":{\"code\":1,\"message\":\"\"},\"result\""),
        ),
        Answer::json(
            "escaped keys",
            TOOLS.replace("tools", "t\\u006fols").replace("\"name\"", "\"n\\u0061me\""),
        ),
        Answer::json("escaped names", TOOLS.replace("beta", "b\\u0065ta").replace("beta", "x")),
        Answer::new("S-6 case and parameters", "Application/JSON; charset=utf-8", TOOLS),
        Answer::new("S-6 of a stream", "Text/Event-Stream; charset=utf-8", format!("data: {TOOLS}\n\n")),
        Answer::json("an identity coding", TOOLS).header("content-encoding", "identity"),
    ];
    let stage = stage(&answers).await?;
    let bot = Asker::of(&stage, "bot").await?;
    for answer in &answers {
        let reply = bot.list(&answer.mode).await?;
        let text = reply.text();
        assert_eq!(reply.status.as_u16(), answer.status, "{}", answer.mode);
        let hidden = !text.contains("beta") && !text.contains("b\\u0065ta");
        assert!(text.contains("alpha") && hidden, "{}: {text}", answer.mode);
    }
    Ok(())
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_withheld() -> Result<()> {
    let entry = format!(r#"{{"name":"alpha","description":"{}"}},"#, "x".repeat(1 << 16));
    let oversized = TOOLS.replace(r#"{"name":"alpha"},"#, &entry.repeat(65));
    let tools = |by: &str| TOOLS.replace(r#""tools":["#, by);
    let answers = [
        Answer::json("S-4 gzip", TOOLS).header("content-encoding", "gzip"),
        Answer::json("S-4 br", TOOLS).header("content-encoding", "br"),
        Answer::json("S-4 after identity", TOOLS)
            .header("content-encoding", "identity")
            .header("content-encoding", "gzip"),
        Answer::events("S-4 a coded stream", format!("data: {TOOLS}\n\n")).header("content-encoding", "gzip"),
        Answer::json("S-7 too large", oversized),
        Answer::json(
            "S-7 too many",
            tools(&format!(r#""tools":[{}"#, r#"{"name":"alpha"},"#.repeat(10_001))),
        ),
        Answer::json("no JSON", format!("{TOOLS}x")),
        Answer::json("in part", &TOOLS.as_bytes()[..TOOLS.len() - 2]),
        Answer::json("two lists", tools(r#""tools":[],"tools":["#)),
        Answer::json("two lists in two spellings", tools(r#""Tools":[],"tools":["#)),
        Answer::json("in other case", tools(r#""TOOLS":["#)),
        Answer::json("two names", TOOLS.replace(r#""name":"beta""#, r#""name":"alpha","name":"beta""#)),
        Answer::json("the result in other case", TOOLS.replace("\"result\"", "\"Result\"")),
        Answer::json("two results", TOOLS.replace("\"result\"", "\"result\":{},\"result\"")),
        Answer::json("UTF-16", TOOLS.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()),
        Answer::json("an array in an array", format!("[[{TOOLS}]]")),
        Answer::new("S-6 HTML", "text/html", TOOLS),
        Answer::new("S-6 text", "text/plain", TOOLS),
        Answer::new("S-6 a suffix", "application/vnd.x+json", TOOLS),
        Answer::new("S-6 two", "application/json, text/plain", TOOLS),
        Answer::new("S-6 empty", "", TOOLS),
    ];
    let stage = stage(&answers).await?;
    let bot = Asker::of(&stage, "bot").await?;
    for answer in &answers {
        let reply = bot.list(&answer.mode).await?;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, WITHHELD), "{}", answer.mode);
    }
    Ok(())
}

/// A stream has begun when its list can't be read: it breaks, which no client takes for its end.
#[tokio::test]
async fn an_event_that_cannot_be_read_breaks_its_stream() -> Result<()> {
    let long = format!("data: \"{}\"\n\n", "x".repeat(9 << 20));
    let answers = [
        Answer::events("no JSON", format!("data: {TOOLS}x\n\n")),
        Answer::events(
            "two lists",
            format!("data: {}\n\n", TOOLS.replace("\"tools\"", "\"tools\":[],\"tools\"")),
        ),
        Answer::events("in other case", format!("data: {}\n\n", TOOLS.replace("\"tools\"", "\"TOOLS\""))),
        Answer::events("S-7 too large", long),
    ];
    let stage = stage(&answers).await?;
    for answer in &answers {
        for method in [Method::POST, Method::GET] {
            let bot = Asker::of(&stage, "bot").await?;
            let broken = bot.send(&answer.mode, method.clone(), "tools/list").await;
            assert!(broken.is_err(), "{} {method}: {broken:?}", answer.mode);
        }
    }
    Ok(())
}

#[tokio::test]
async fn redirects_and_streams_that_are_none_are_withheld() -> Result<()> {
    let mut answers = Vec::new();
    for status in [301, 302, 303, 307, 308] {
        let answer = Answer::json(&status.to_string(), TOOLS).status(status);
        answers.push(answer.header("location", "http://elsewhere.example/mcp"));
    }
    let other = [
        Answer::json("JSON", TOOLS),
        Answer::new("text", "text/plain", "beta"),
        Answer::new("HTML", "text/html", "<a>beta</a>"),
    ];
    let stage = stage(&[answers.clone(), other.to_vec()].concat()).await?;
    let bot = Asker::of(&stage, "bot").await?;
    let withheld_without_id = WITHHELD.replace("\"id\":1", "\"id\":null");
    for answer in &answers {
        for rpc in ["tools/list", "tools/call", "initialize"] {
            let reply = bot.send(&answer.mode, Method::POST, rpc).await?;
            assert_eq!(
                (reply.status, reply.text().as_str()),
                (StatusCode::BAD_GATEWAY, WITHHELD),
                "S-9 {} {rpc}",
                answer.mode
            );
            assert!(!reply.headers.contains_key("location"), "S-9 {}", answer.mode);
        }
    }
    for answer in answers.iter().chain(&other) {
        let reply = bot.stream(&answer.mode).await?;
        assert_eq!(
            (reply.status, reply.text()),
            (StatusCode::BAD_GATEWAY, withheld_without_id.clone()),
            "GET {}",
            answer.mode
        );
    }
    Ok(())
}
