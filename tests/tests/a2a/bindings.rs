//! One rule on one operation holds on every binding, in every version and in every spelling.

use anyhow::Result;
use serde_json::json;

use crate::stage::{Ask, Stage, field, said, when};

/// Every way to cancel the task `t`, and how its refusal reads.
fn cancels() -> Vec<(Ask, &'static str)> {
    let rest = |path: &str| (Ask::rest("POST", path), "http 403");
    let rpc = |method: &str| (Ask::json_rpc(method, &json!({"id": "t"})), "rpc -32004");
    vec![
        rpc("tasks/cancel"),
        rpc("CancelTask"),
        (Ask::json_rpc("CancelTask", &json!({"id": "t"})).with("a2a-version", "1.0"), "rpc -32004"),
        (
            Ask { path: "/deep/mount".into(), ..Ask::json_rpc("tasks/cancel", &json!({"id": "t"})) },
            "rpc -32004",
        ),
        (
            Ask::raw("/", r#"{"jsonrpc":"2.0","id":7,"method":"Cancel\u0054ask","params":{"id":"t"}}"#),
            "rpc -32004",
        ),
        rest("/tasks/t:cancel"),
        rest("/v1/tasks/t:cancel"),
        rest("/tenant/tasks/t:cancel"),
        rest("/tasks/t%3Acancel"),
        rest("/v1/tasks/t%3acancel"),
        rest("/t%61sks/t:cancel"),
        (Ask::raw("/v1/tasks/t:cancel", "{}"), "http 403"),
        (Ask::grpc("/lf.a2a.v1.A2AService/CancelTask", &field(2, b"t")), "grpc 7"),
        (Ask::grpc("/a2a.v1.A2AService/CancelTask", &field(1, b"tasks/t")), "grpc 7"),
    ]
}

fn send(task: &str) -> Ask {
    Ask::json_rpc("message/send", &json!({"message": {"messageId": "m", "role": "user", "parts": []}}))
        .with("x-task", task)
}

#[tokio::test]
async fn a_denied_operation_is_denied_on_every_binding() -> Result<()> {
    let stage = Stage::denying(&when("method", "CancelTask")).await?;
    let bot = stage.peer("bot").await?;
    assert_eq!(said(&bot.send(&send("t")).await?), "ok");
    stage.agent.forget();
    for (ask, want) in cancels() {
        let reply = bot.send(&ask).await?;
        assert_eq!(said(&reply), want, "{ask:?}\n{reply:?}");
    }
    stage.agent.saw_nothing();
    let line = stage.mesh.portcullis.logged("a refusal", |line| line["a2a_binding"] == "grpc").await?;
    assert_eq!((&line["a2a_method"], &line["decision"]), (&json!("CancelTask"), &json!("deny")), "{line}");
    let labels = [("method", "CancelTask"), ("outcome", "refused")];
    stage.mesh.portcullis.metric_reaches("portcullis_a2a_operations_total", &labels, 14.0).await?;
    Ok(())
}

#[tokio::test]
async fn the_same_requests_run_where_nothing_denies_them() -> Result<()> {
    let stage = Stage::open().await?;
    let bot = stage.peer("bot").await?;
    assert_eq!(said(&bot.send(&send("t")).await?), "ok");
    stage.agent.forget();
    for (ask, _) in cancels() {
        let ask = ask.with("x-task", "t");
        let reply = bot.send(&ask).await?;
        assert_eq!(said(&reply), "ok", "{ask:?}\n{reply:?}");
    }
    let seen = stage.agent.saw(cancels().len()).await?;
    for (seen, (ask, _)) in seen.iter().zip(cancels()) {
        assert_eq!(seen.body, ask.body, "bytes go as they came");
    }
    Ok(())
}

#[tokio::test]
async fn an_allow_list_of_operations_lets_only_them_through() -> Result<()> {
    let rules = "- from: [{source: {namespaces: [agents]}}]
  when: [{key: \"experimental.envoy.filters.http.a2a[method]\", values: [SendMessage, GetTask]}]";
    let stage = Stage::under(&[("rules", "ALLOW", rules)], |run| run).await?;
    let bot = stage.peer("bot").await?;
    assert_eq!(said(&bot.send(&send("t")).await?), "ok");
    let message = r#"{"message":{"messageId":"m","role":"ROLE_USER","parts":[]}}"#;
    let rows = [
        (Ask::rest("GET", "/tasks/t"), "ok"),
        (Ask::grpc("/lf.a2a.v1.A2AService/GetTask", &field(2, b"t")), "ok"),
        (Ask::raw("/v1/message:send", message), "ok"),
        (Ask::raw("/v1/message:stream", message), "http 403"),
        (Ask::rest("GET", "/tasks"), "http 403"),
        (Ask::rest("GET", "/tasks/t/pushNotificationConfigs"), "http 403"),
        (Ask::json_rpc("agent/getAuthenticatedExtendedCard", &json!({})), "rpc -32004"),
        (Ask::rest("GET", "/.well-known/agent-card.json"), "ok"),
        (Ask::rest("GET", "/admin"), "http 403"),
        (Ask::rest("OPTIONS", "/"), "http 403"),
        (Ask::json_rpc("tasks/obliterate", &json!({"id": "t"})), "rpc -32601"),
        (Ask::json_rpc("tasks/send", &json!({"id": "t"})), "rpc -32601"),
        (Ask::json_rpc("TASKS/GET", &json!({"id": "t"})), "rpc -32601"),
        (Ask::grpc("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", b""), "grpc 12"),
        (Ask::grpc("/lf.a2a.v1.A2AService/canceltask", &field(2, b"t")), "grpc 12"),
    ];
    for (ask, want) in rows {
        let ask = ask.with("x-task", "t");
        let reply = bot.send(&ask).await?;
        assert_eq!(said(&reply), want, "{ask:?}\n{reply:?}");
    }
    let stranger = stage.mesh.peer("others", "bot")?.connect(&stage.service.authority(8080)).await?;
    let client = portcullis_tests::http::Client::http2(stranger).await?;
    let uri = format!("http://{}/.well-known/agent-card.json", stage.service.authority(8080));
    let card = client.send(http::Request::get(uri).body(portcullis_tests::http::empty())?).await?;
    assert_eq!((card.status.as_u16(), card.text().as_str()), (403, "RBAC: access denied"));
    Ok(())
}

#[tokio::test]
async fn rules_see_tenants_contexts_extensions_versions_and_metadata() -> Result<()> {
    let key = "metadata.https://acme.example/skill";
    let facts = [
        ("tenant", "acme"),
        ("context", "secret"),
        ("extension", "urn:x"),
        ("protocol_version", "0.2"),
        ("task", "denied"),
        (key, "pay"),
    ];
    let rules: Vec<String> = facts.iter().map(|(key, value)| when(key, value)).collect();
    let stage = Stage::denying(&rules.join("\n")).await?;
    let bot = stage.peer("bot").await?;
    let send = |extra: serde_json::Value| {
        let mut message = json!({"messageId": "m", "role": "user", "parts": []});
        if let (Some(message), Some(extra)) = (message.as_object_mut(), extra.as_object()) {
            message.extend(extra.clone());
        }
        Ask::json_rpc("message/send", &json!({"message": message})).with("x-task", "t")
    };
    let rest = |path: &str| Ask::raw(path, r#"{"message":{"messageId":"m"}}"#).with("x-task", "t");
    let metadata = [field(
        1,
        &[field(1, key.trim_start_matches("metadata.").as_bytes()), field(2, &field(3, b"pay"))].concat(),
    )]
    .concat();
    let in_grpc = [field(2, &field(1, b"m")), field(4, &metadata)].concat();
    let rows = [
        (send(json!({})), "ok"),
        (send(json!({"contextId": "other"})), "ok"),
        (send(json!({"contextId": "secret"})), "rpc -32004"),
        (send(json!({"context_id": "secret"})), "rpc -32004"),
        (send(json!({"extensions": ["urn:y"]})), "ok"),
        (send(json!({"extensions": ["urn:y", "urn:x"]})), "rpc -32004"),
        (send(json!({})).with("a2a-extensions", "urn:y, urn:x"), "rpc -32004"),
        (send(json!({})).with("x-a2a-extensions", "urn:x"), "rpc -32004"),
        (send(json!({})).with("a2a-version", "0.2"), "rpc -32004"),
        (send(json!({"referenceTaskIds": ["denied"]})), "rpc -32004"),
        (send(json!({"metadata": {"https://acme.example/skill": "pay"}})), "rpc -32004"),
        (send(json!({"metadata": {"https://acme.example/skill": "read"}})), "ok"),
        (send(json!({"metadata": {"https://acme.example/skill": 1}})), "rpc -32004"),
        (rest("/message:send"), "ok"),
        (rest("/acme/message:send"), "http 403"),
        (rest("/x/acme/message:send"), "http 403"),
        (Ask::raw("/message:send", r#"{"tenant":"acme","message":{"messageId":"m"}}"#), "http 403"),
        (Ask::rest("GET", "/tasks?tenant=acme"), "http 403"),
        (Ask::grpc("/lf.a2a.v1.A2AService/SendMessage", &in_grpc), "grpc 7"),
    ];
    for (ask, want) in rows {
        let reply = bot.send(&ask).await?;
        assert_eq!(said(&reply), want, "{ask:?}\n{reply:?}");
    }
    Ok(())
}
