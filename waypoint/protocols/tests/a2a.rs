//! A2A read through the public interface: operations by every name, and bytes that nobody means well.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use agent_protocols::a2a::{
    Binding, GrpcScreen, Handle, Head, Operation, Owner, Request, SseScreen, screen_json,
};
use agent_protocols::mcp::Screened;
use agent_protocols::{A2aKey, FactKey, Facts, Kind, Limits, Truth};
use http::request::Parts;
use proptest::prelude::*;

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn read(method: &str, uri: &str, content_type: &str, body: &[u8]) -> Result<Request, &'static str> {
    let headers: &[(&str, &str)] =
        if content_type.is_empty() { &[] } else { &[("content-type", content_type)] };
    let head = Head::read(&parts(method, uri, headers)).map_err(|error| error.name())?;
    Request::read(&head, body, &[], &Limits::default()).map_err(|error| error.name())
}

fn json_rpc(method: &str, params: &str) -> Result<Request, &'static str> {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
    read("POST", "/", "application/json", body.as_bytes())
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(value.len()).unwrap()][..], value].concat()
}

fn grpc(path: &str, message: &[u8]) -> Result<Request, &'static str> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    read("POST", path, "application/grpc", &[&[0][..], &length, message].concat())
}

#[test]
fn every_name_of_an_operation_is_one_operation() {
    use Operation as O;
    let task = r#"{"id":"t","taskId":"t"}"#;
    let push = r#"{"taskId":"t","id":"c"}"#;
    let message = r#"{"message":{"taskId":"t"}}"#;
    let rows = [
        ("message/send", "SendMessage", O::SendMessage, message, message),
        ("message/stream", "SendStreamingMessage", O::SendStreamingMessage, message, message),
        ("tasks/get", "GetTask", O::GetTask, task, task),
        ("tasks/cancel", "CancelTask", O::CancelTask, task, task),
        ("tasks/resubscribe", "SubscribeToTask", O::SubscribeToTask, task, task),
        (
            "tasks/pushNotificationConfig/set",
            "CreateTaskPushNotificationConfig",
            O::CreateTaskPushNotificationConfig,
            r#"{"taskId":"t"}"#,
            push,
        ),
        (
            "tasks/pushNotificationConfig/get",
            "GetTaskPushNotificationConfig",
            O::GetTaskPushNotificationConfig,
            r#"{"id":"t","pushNotificationConfigId":"c"}"#,
            push,
        ),
        (
            "tasks/pushNotificationConfig/list",
            "ListTaskPushNotificationConfigs",
            O::ListTaskPushNotificationConfigs,
            r#"{"id":"t"}"#,
            r#"{"taskId":"t"}"#,
        ),
        (
            "tasks/pushNotificationConfig/delete",
            "DeleteTaskPushNotificationConfig",
            O::DeleteTaskPushNotificationConfig,
            r#"{"id":"t","pushNotificationConfigId":"c"}"#,
            push,
        ),
    ];
    for (old, new, operation, old_params, new_params) in rows {
        for request in [json_rpc(old, old_params), json_rpc(new, new_params)] {
            let request = request.unwrap();
            assert_eq!(
                (request.operation, request.tasks()),
                (Some(operation), &["t".to_owned()][..]),
                "{old}"
            );
            assert_eq!(request.binding, Binding::JsonRpc);
        }
    }
    for card in
        ["agent/getAuthenticatedExtendedCard", "agent/authenticatedExtendedCard", "GetExtendedAgentCard"]
    {
        assert_eq!(json_rpc(card, "{}").unwrap().operation, Some(O::GetExtendedAgentCard), "{card}");
    }
    for unknown in ["tasks/send", "GetAgentCard", "getTask", "tasks/get ", "TASKS/GET", ""] {
        assert_eq!(json_rpc(unknown, "{}").unwrap().operation, None, "{unknown}");
    }
}

#[test]
fn grpc_names_what_json_names() {
    use Operation as O;
    let new = |method: &str| format!("/lf.a2a.v1.A2AService/{method}");
    let old = |method: &str| format!("/a2a.v1.A2AService/{method}");
    let sent = [field(1, b"m"), field(2, b"c"), field(3, b"t"), field(8, b"r")].concat();
    let sent_before = [field(1, b"m"), field(2, b"c"), field(3, b"t")].concat();
    let rows = [
        (new("SendMessage"), field(2, &sent), O::SendMessage, &["t", "r"][..], Some("c")),
        (old("SendMessage"), field(1, &sent_before), O::SendMessage, &["t"], Some("c")),
        (new("GetTask"), field(2, b"t"), O::GetTask, &["t"], None),
        (old("GetTask"), field(1, b"tasks/t"), O::GetTask, &["t"], None),
        (old("TaskSubscription"), field(1, b"tasks/t"), O::SubscribeToTask, &["t"], None),
        (new("ListTasks"), field(2, b"c"), O::ListTasks, &[], Some("c")),
        (
            new("ListTaskPushNotificationConfigs"),
            [field(1, b"t"), field(4, b"acme")].concat(),
            O::ListTaskPushNotificationConfigs,
            &["t"],
            None,
        ),
        (
            old("GetTaskPushNotificationConfig"),
            field(1, b"tasks/t/pushNotificationConfigs/c"),
            O::GetTaskPushNotificationConfig,
            &["t"],
            None,
        ),
        (old("GetAgentCard"), Vec::new(), O::GetExtendedAgentCard, &[], None),
    ];
    for (path, message, operation, tasks, context) in rows {
        let request = grpc(&path, &message).unwrap();
        assert_eq!(request.operation, Some(operation), "{path}");
        assert_eq!(
            (request.tasks(), request.context()),
            (&tasks.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()[..], context),
            "{path}"
        );
    }
    for path in [new("GetAgentCard"), old("ListTasks"), new("TaskSubscription"), "/a.B/C".to_owned()] {
        assert_eq!(grpc(&path, b"").unwrap().operation, None, "{path}");
    }
}

#[test]
fn a_subject_tells_its_facts_and_no_other_protocols() {
    let params = r#"{"tenant":"acme","message":{"taskId":"t","contextId":"c","extensions":["urn:x","urn:y"],"metadata":{"k":"v","n":1}},"metadata":{"k":"w"}}"#;
    let request = json_rpc("SendMessage", params).unwrap();
    let subjects: Vec<_> = request.subjects().collect();
    assert_eq!(subjects.len(), 2, "one for each extension");
    let ask = |key: &str, value: &str| {
        subjects[1].ask(&FactKey::parse("http.a2a", key).unwrap(), &mut |text| text == value)
    };
    for (key, value, want) in [
        ("method", "SendMessage", Truth::Yes),
        ("method", "message/send", Truth::No),
        ("task", "t", Truth::Yes),
        ("context", "c", Truth::Yes),
        ("tenant", "acme", Truth::Yes),
        ("extension", "urn:y", Truth::Yes),
        ("extension", "urn:x", Truth::No),
        ("protocol_version", "0.3", Truth::Yes),
        ("push_host", "x", Truth::No),
        ("metadata.k", "v", Truth::NotYet),
        ("metadata.n", "1", Truth::NotYet),
        ("metadata.other", "v", Truth::No),
    ] {
        assert_eq!(ask(key, value), want, "{key} {value}");
    }
    assert_eq!(subjects[0].ask(&FactKey::Tool, &mut |_| true), Truth::NotYet);
    assert_eq!(subjects[0].kind(), Kind::Call);
    let card = read("GET", "/.well-known/agent-card.json", "", b"").unwrap();
    assert_eq!(card.subjects().next().unwrap().kind(), Kind::Lifecycle);
    let deep = read("GET", "/a/b/tasks/t", "", b"").unwrap();
    let tenant = FactKey::A2a(A2aKey::Tenant);
    assert_eq!(deep.subjects().next().unwrap().ask(&tenant, &mut |text| text == "b"), Truth::NotYet);
}

/// Owns what begins with `my`, and remembers what it was asked.
#[derive(Default)]
struct Mine(Vec<(Handle, String)>);

impl Owner for Mine {
    fn claim(&mut self, handle: Handle, id: &str) -> bool {
        self.0.push((handle, id.to_owned()));
        id.starts_with("my")
    }

    fn owns(&mut self, task: &str) -> bool {
        task.starts_with("my")
    }
}

fn screened(operation: Operation, body: &str) -> Result<Option<String>, &'static str> {
    let (mut owner, mut counts) = (Mine::default(), Screened::default());
    screen_json(body.as_bytes(), operation, Binding::JsonRpc, &Limits::default(), &mut owner, &mut counts)
        .map(|changed| changed.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()))
        .map_err(|error| error.name)
}

#[test]
fn answers_lose_what_is_anothers_and_nothing_else() {
    use Operation as O;
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{ "tasks":[{"id":"my1"},{"id":"x"},{"ID":"my"},{"id":1},{"id":"my2"}] ,"n":1.0}}"#;
    let own = r#"{"jsonrpc":"2.0","id":1,"result":{ "tasks":[{"id":"my1"},{"id":"my2"}] ,"n":1.0}}"#;
    assert_eq!(screened(O::ListTasks, list), Ok(Some(own.to_owned())));
    for (operation, body, want) in [
        (O::ListTasks, r#"{"result":{"tasks":[]}}"#, Ok(None)),
        (O::ListTasks, r#"{"result":{"Tasks":[{"id":"x"}]}}"#, Err("case_variant_key")),
        (O::ListTasks, r#"{"error":{"code":1}}"#, Ok(None)),
        (O::SendMessage, r#"{"result":{"kind":"task","id":"my"}}"#, Ok(None)),
        (O::SendMessage, r#"{"result":{"kind":"task","id":"x"}}"#, Err("foreign_task")),
        (O::SendMessage, r#"{"result":{"task":{"id":"x"}}}"#, Err("foreign_task")),
        (O::SendMessage, r#"{"result":{"message":{"taskId":"x"}}}"#, Err("foreign_task")),
        (O::SendMessage, r#"{"result":{"message":{"task_id":"x"}}}"#, Err("foreign_task")),
        (O::SubscribeToTask, r#"{"result":{"statusUpdate":{"taskId":"x"}}}"#, Err("foreign_task")),
        (O::SubscribeToTask, r#"{"result":{"artifact_update":{"taskId":"x"}}}"#, Err("foreign_task")),
        (O::GetTask, r#"{"result":{"id":"x","status":{}}}"#, Err("foreign_task")),
        (O::SendMessage, r#"{"result":{"kind":"task","id":"my","id":"x"}}"#, Err("duplicate_key")),
        (O::SendMessage, "[]", Err("not_an_object")),
        (O::SendMessage, r#"{"result":{"kind":"message","messageId":"x","contextId":"x"}}"#, Ok(None)),
    ] {
        assert_eq!(screened(operation, body), want, "{body}");
    }
}

proptest! {
    #[test]
    fn any_body_is_read_or_refused(body: Vec<u8>, new: bool, path in "[a-zA-Z:/%.]{0,24}") {
        let package = if new { "/lf.a2a.v1.A2AService/" } else { "/a2a.v1.A2AService/" };
        for operation in Operation::ALL {
            let _any = grpc(&format!("{package}{}", operation.name()), &body);
        }
        let _any = read("POST", &format!("/{path}"), "application/json", &body);
    }

    #[test]
    fn a_request_that_is_read_has_no_second_task(task in "[a-z]{1,8}", other in "[a-z]{1,8}", swap: bool) {
        prop_assume!(task != other);
        let (one, two) = (format!(r#""taskId":"{task}""#), format!(r#""task_id":"{other}""#));
        let members = if swap { format!("{two},{one}") } else { format!("{one},{two}") };
        let request = json_rpc("SendMessage", &format!(r#"{{"message":{{{members}}}}}"#));
        prop_assert_eq!(request.map(|_| ()).unwrap_err(), "spelling_twin");
        let twice = [field(2, task.as_bytes()), field(2, other.as_bytes())].concat();
        let request = grpc("/lf.a2a.v1.A2AService/GetTask", &twice);
        prop_assert_eq!(request.map(|_| ()).unwrap_err(), "duplicate_field");
    }

    #[test]
    fn how_a_stream_is_cut_makes_no_difference(cuts in prop::collection::vec(1_usize..9, 0..40)) {
        let task = field(1, &field(1, b"my-task"));
        let length = u32::try_from(task.len()).unwrap().to_be_bytes();
        let framed = [&[0][..], &length, &task].concat().repeat(3);
        let events = b"data: {\"result\":{\"task\":{\"id\":\"my\"}}}\n\n: ka\n\n".repeat(3);
        let limits = Limits::default();
        let (mut grpc_out, mut sse_out) = (Vec::new(), Vec::new());
        let mut grpc = GrpcScreen::new(Operation::SendStreamingMessage, &limits);
        let mut sse = SseScreen::new(Operation::SendStreamingMessage, Binding::JsonRpc, limits.clone());
        let (mut owner, mut counts) = (Mine::default(), Screened::default());
        for (bytes, is_grpc) in [(&framed, true), (&events, false)] {
            let mut rest = &bytes[..];
            let mut cuts = cuts.iter().copied().chain(std::iter::repeat(usize::MAX));
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                if is_grpc {
                    grpc_out.extend(grpc.push(chunk, &mut owner, &mut counts).unwrap());
                } else {
                    sse_out.extend(sse.push(chunk, &mut owner, &mut counts).unwrap());
                }
                rest = after;
            }
        }
        prop_assert_eq!(grpc_out, framed);
        prop_assert_eq!(sse_out, events);
        prop_assert!(!grpc.is_torn());
        prop_assert_eq!(owner.0.len(), 6);
    }
}
