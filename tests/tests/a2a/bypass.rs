//! What could be read in two ways never reaches an agent (A-1 to A-8, and framing).

use anyhow::Result;
use bytes::Bytes;
use serde_json::json;

use crate::stage::{Ask, Stage, field, frame, said};

const CANCEL: &str = "/lf.a2a.v1.A2AService/CancelTask";

fn raw(params: &str) -> Ask {
    Ask::raw("/", &format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tasks/get","params":{params}}}"#))
}

fn send(params: &str) -> Ask {
    Ask::raw("/", &format!(r#"{{"jsonrpc":"2.0","id":7,"method":"message/send","params":{params}}}"#))
}

fn grpc_bytes(bytes: &[u8]) -> Ask {
    Ask { body: Bytes::copy_from_slice(bytes), ..Ask::grpc(CANCEL, b"") }
}

fn json_rows() -> Vec<(Ask, &'static str)> {
    let typed = |ask: &Ask, content_type: &str| Ask {
        headers: vec![("content-type", content_type.to_owned())],
        ..ask.clone()
    };
    let get = raw(r#"{"id":"t"}"#);
    vec![
        (send(r#"{"message":{"taskId":"t","task_id":"u"}}"#), "rpc -32600"),
        (send(r#"{"message":{"taskId":"t","taskId":"u"}}"#), "rpc -32600"),
        (send(r#"{"message":{"TaskId":"u"}}"#), "rpc -32600"),
        (send(r#"{"message":{},"request":{}}"#), "rpc -32600"),
        (send(r#"{"Message":{}}"#), "rpc -32600"),
        (send(r#"{"message":[]}"#), "rpc -32602"),
        (send(r"{}"), "rpc -32602"),
        (send(r#"{"message":{"taskId":7}}"#), "rpc -32602"),
        (send(r#"{"message":{"referenceTaskIds":"t"}}"#), "rpc -32602"),
        (raw(r#"{"id":"t","ID":"u"}"#), "rpc -32600"),
        (raw(r#"{"id":"t","taskId":"u"}"#), "rpc -32602"),
        (raw(r#"{"name":"tasks/t/../u"}"#), "rpc -32602"),
        (raw("{}"), "rpc -32602"),
        (Ask::raw("/", "[]"), "rpc -32600"),
        (
            Ask::raw(
                "/",
                &format!("[{}]", r#"{"jsonrpc":"2.0","id":7,"method":"tasks/get","params":{"id":"t"}}"#),
            ),
            "rpc -32600",
        ),
        (
            Ask::raw("/", r#"{"jsonrpc":"2.0","id":7,"method":"tasks/get","params":{"id":"t"}}{}"#),
            "rpc -32700",
        ),
        (
            Ask::raw("/", r#"{"jsonrpc":"2.0","id":7,"method":"tasks/get","result":{},"params":{"id":"t"}}"#),
            "rpc -32600",
        ),
        (Ask::raw("/", r#"{"jsonrpc":"2.0","method":"tasks/cancel","params":{"id":"t"}}"#), "rpc -32600"),
        (typed(&get, "text/plain"), "rpc -32600"),
        (typed(&get, "application/json; charset=utf-16"), "rpc -32600"),
        (Ask { headers: Vec::new(), ..get.clone() }, "rpc -32600"),
        (get.clone().with("content-encoding", "gzip"), "rpc -32600"),
        (get.clone().with("a2a-version", "2.0"), "rpc -32009"),
        (get.clone().with("a2a-version", "1.0").with("a2a-version", "0.3"), "rpc -32009"),
        (Ask { path: "/?A2A-Version=0.3".into(), ..get }.with("a2a-version", "1.0"), "rpc -32009"),
    ]
}

fn rest_rows() -> Vec<(Ask, &'static str)> {
    let rpc = r#"{"jsonrpc":"2.0","id":7,"method":"tasks/cancel","params":{"id":"t"}}"#;
    let post = |path: &str| Ask::raw(path, rpc);
    vec![
        (Ask::rest("GET", "/tasks/t%2Fu"), "http 400"),
        (Ask::rest("POST", "/tasks/t%253Acancel"), "rpc -32600"),
        (Ask::rest("POST", "/TASKS/t:cancel"), "http 400"),
        (Ask::rest("POST", "/tasks/t:cancel/"), "http 400"),
        (Ask::rest("POST", "/tasks/t:y:cancel"), "http 400"),
        (Ask::rest("POST", "/tasks/t;x=1:cancel"), "http 400"),
        (Ask::rest("POST", "//tasks/t:cancel"), "http 400"),
        (Ask::rest("PUT", "/tasks/t"), "http 405"),
        (Ask::rest("GET", "/tasks/t?taskId=u"), "http 400"),
        (Ask::rest("GET", "/tasks?contextId=a&context_id=b"), "http 400"),
        (Ask::rest("GET", "/a/tasks?tenant=b"), "http 400"),
        (Ask::rest("GET", "/tasks?_method=DELETE"), "http 400"),
        (post("/message:send"), "http 400"),
        (post("/tasks/t:cancel"), "http 400"),
        (Ask::raw("/tasks/t:cancel", r#"{"id":"u"}"#), "http 400"),
        (Ask::raw("/v1/tasks/t:cancel", r#"{"name":"tasks/u"}"#), "http 400"),
        (Ask::rest("POST", "/tasks/t:cancel").body("{}"), "http 415"),
        (post("/a2a.v1.A2AService/CancelTask"), "rpc -32600"),
    ]
}

fn grpc_rows() -> Vec<(Ask, &'static str)> {
    let twice = [field(2, b"t"), field(2, b"u")].concat();
    let two = [frame(&field(2, b"t")), frame(&field(2, b"u"))].concat();
    let gzip = [&[1][..], &frame(&field(2, b"t"))[1..]].concat();
    let cancel = Ask::grpc(CANCEL, &field(2, b"t"));
    let web = Ask { headers: vec![("content-type", "application/grpc-web".to_owned())], ..cancel.clone() };
    vec![
        (Ask::grpc(CANCEL, &twice), "grpc 3"),
        (Ask::grpc(CANCEL, &[0x12, 9, b't']), "grpc 3"),
        (Ask::grpc(CANCEL, &[0x12, 0x81, 0, b't']), "grpc 3"),
        (Ask::grpc(CANCEL, &[0x13, 0x14]), "grpc 3"),
        (Ask::grpc(CANCEL, b""), "grpc 3"),
        (Ask::grpc("/a2a.v1.A2AService/CancelTask", &field(1, b"t")), "grpc 3"),
        (Ask::grpc("/a2a.v1.A2AService/CancelTask", &field(1, b"tasks/t/x")), "grpc 3"),
        (grpc_bytes(&two), "grpc 3"),
        (grpc_bytes(b""), "grpc 3"),
        (grpc_bytes(&frame(&field(2, b"t"))[..6]), "grpc 3"),
        (grpc_bytes(&gzip), "grpc 12"),
        (cancel.clone().with("grpc-encoding", "gzip"), "grpc 12"),
        (web, "grpc 12"),
        (cancel.with("a2a-version", "9.0"), "grpc 9"),
    ]
}

#[tokio::test]
async fn what_has_two_readings_is_refused_in_the_words_of_its_binding() -> Result<()> {
    let stage = Stage::open().await?;
    let bot = stage.peer("bot").await?;
    for rows in [json_rows(), rest_rows(), grpc_rows()] {
        for (ask, want) in rows {
            let reply = bot.send(&ask).await?;
            assert_eq!(said(&reply), want, "{ask:?}\n{reply:?}");
        }
    }
    stage.agent.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn push_notifications_go_outside_by_name_or_where_the_operator_says() -> Result<()> {
    let inside = "http://hooks.agents.svc.cluster.local:8080/x";
    let policies = [
        ("all", "ALLOW", "- from: [{source: {namespaces: [agents]}}]"),
        ("a2a", "DENY", &crate::stage::when("push_host", "evil.example")),
    ];
    let stage =
        Stage::under(&policies, |run| run.arg("--push-host", "hooks.agents.svc.cluster.local")).await?;
    let bot = stage.peer("bot").await?;
    let message = json!({"messageId": "m", "role": "user", "parts": []});
    let made = Ask::json_rpc("message/send", &json!({"message": message})).with("x-task", "t");
    assert_eq!(said(&bot.send(&made).await?), "ok");
    for (url, want) in [
        ("https://hooks.example.com/a2a", "ok"),
        (inside, "ok"),
        ("https://evil.example/", "denied"),
        ("http://hooks.example.com/", "refused"),
        ("http://169.254.169.254/", "refused"),
        ("https://127.0.0.1", "refused"),
        ("https://2130706433/", "refused"),
        ("https://user@hooks.example.com/", "refused"),
        ("https://other.agents.svc.cluster.local/", "refused"),
        ("file:///etc/passwd", "refused"),
    ] {
        let grpc_config = [field(3, b"t"), field(4, url.as_bytes())].concat();
        let old_config = field(3, &field(2, &field(2, url.as_bytes())));
        let asks = [
            Ask::json_rpc(
                "tasks/pushNotificationConfig/set",
                &json!({"taskId": "t", "pushNotificationConfig": {"url": url}}),
            ),
            Ask::json_rpc("CreateTaskPushNotificationConfig", &json!({"taskId": "t", "id": "c", "url": url})),
            Ask::json_rpc(
                "message/send",
                &json!({"message": message, "configuration": {"pushNotificationConfig": {"url": url}}}),
            ),
            Ask::json_rpc(
                "SendMessage",
                &json!({"message": message, "configuration": {"taskPushNotificationConfig": {"url": url}}}),
            ),
            Ask::raw(
                "/v1/tasks/t/pushNotificationConfigs",
                &json!({"config": {"pushNotificationConfig": {"url": url}}}).to_string(),
            ),
            Ask::raw(
                "/v1/task/t/pushNotificationConfigs",
                &json!({"config": {"pushNotificationConfig": {"url": url}}}).to_string(),
            ),
            Ask::raw("/tasks/t/pushNotificationConfigs", &json!({"url": url}).to_string()),
            Ask::grpc("/lf.a2a.v1.A2AService/CreateTaskPushNotificationConfig", &grpc_config),
            Ask::grpc(
                "/a2a.v1.A2AService/CreateTaskPushNotificationConfig",
                &[field(1, b"tasks/t"), old_config].concat(),
            ),
        ];
        for ask in asks {
            let reply = bot.send(&ask.clone().with("x-task", "t")).await?;
            let told = match said(&reply).as_str() {
                "ok" => "ok",
                "rpc -32004" | "http 403" | "grpc 7" => "denied",
                "rpc -32602" | "http 400" | "grpc 3" => "refused",
                _ => "?",
            };
            assert_eq!(told, want, "{url} {ask:?}\n{reply:?}");
        }
    }
    Ok(())
}
