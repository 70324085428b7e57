//! Tasks and contexts belong to the identity that made them, whichever binding made them and whichever asks.

use anyhow::Result;
use http_body_util::BodyExt as _;
use portcullis_tests::wait;
use serde_json::{Value, json};

use crate::stage::{Ask, Peer, Stage, field, said};

fn message(extra: &Value) -> Value {
    let mut message = json!({"messageId": "m", "role": "user", "parts": []});
    if let (Some(message), Some(extra)) = (message.as_object_mut(), extra.as_object()) {
        message.extend(extra.clone());
    }
    json!({"message": message})
}

/// Ways to make the task `id`.
fn makers(id: &str) -> Vec<Ask> {
    let asks = [
        Ask::json_rpc("message/send", &message(&json!({}))),
        Ask::json_rpc("SendMessage", &message(&json!({}))).with("a2a-version", "1.0"),
        Ask::json_rpc("message/stream", &message(&json!({}))).with("x-answer", "events"),
        Ask::raw("/v1/message:send", &message(&json!({})).to_string()),
        Ask::grpc("/lf.a2a.v1.A2AService/SendMessage", &field(2, &field(1, b"m"))),
        Ask::grpc("/lf.a2a.v1.A2AService/SendStreamingMessage", &field(2, &field(1, b"m"))),
        Ask::grpc("/a2a.v1.A2AService/SendMessage", &field(1, &field(1, b"m"))),
    ];
    asks.into_iter().map(|ask| ask.with("x-task", id)).collect()
}

/// Ways to use the task `id`, and how it reads when there is no such task.
fn uses(id: &str) -> Vec<(Ask, &'static str)> {
    let name = format!("tasks/{id}");
    let (id_bytes, name_bytes) = (id.as_bytes(), name.as_bytes());
    let new = |method: &str, number: u8| {
        (Ask::grpc(&format!("/lf.a2a.v1.A2AService/{method}"), &field(number, id_bytes)), "grpc 5")
    };
    let old =
        |method: &str| (Ask::grpc(&format!("/a2a.v1.A2AService/{method}"), &field(1, name_bytes)), "grpc 5");
    let rpc = |method: &str, params: Value| (Ask::json_rpc(method, &params), "rpc -32001");
    let rest = |method, path: &str| (Ask::rest(method, path), "http 404");
    vec![
        rpc("tasks/get", json!({"id": id})),
        rpc("GetTask", json!({"id": id})),
        rpc("tasks/cancel", json!({"id": id})),
        rpc("tasks/resubscribe", json!({"id": id})),
        rpc("SubscribeToTask", json!({"id": id})),
        rpc(
            "tasks/pushNotificationConfig/set",
            json!({"taskId": id, "pushNotificationConfig": {"url": "https://a.example/"}}),
        ),
        rpc("tasks/pushNotificationConfig/list", json!({"id": id})),
        rpc("DeleteTaskPushNotificationConfig", json!({"taskId": id, "id": "c"})),
        rpc("message/send", message(&json!({"taskId": id}))),
        rpc("message/send", message(&json!({"referenceTaskIds": [id]}))),
        rest("GET", &format!("/tasks/{id}")),
        rest("POST", &format!("/v1/tasks/{id}:cancel")),
        rest("GET", &format!("/v1/tasks/{id}:subscribe")),
        rest("DELETE", &format!("/tasks/{id}/pushNotificationConfigs/c")),
        new("GetTask", 2),
        new("CancelTask", 2),
        new("SubscribeToTask", 2),
        new("ListTaskPushNotificationConfigs", 1),
        old("GetTask"),
        old("CancelTask"),
        old("TaskSubscription"),
    ]
}

async fn refused(peer: &Peer, id: &str) -> Result<()> {
    for (ask, want) in uses(id) {
        let reply = peer.send(&ask.with("x-task", id)).await?;
        assert_eq!(said(&reply), want, "{id}: {reply:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_task_is_its_makers_on_every_binding() -> Result<()> {
    let stage = Stage::open().await?;
    let (alice, bob) = (stage.peer("alice").await?, stage.peer("bob").await?);
    for (index, _) in makers("").iter().enumerate() {
        let id = format!("t-{index}");
        let ask = makers(&id).remove(index);
        let reply = alice.send(&ask).await?;
        assert_eq!(said(&reply), "ok", "{ask:?}\n{reply:?}");
        stage.agent.forget();
        refused(&bob, &id).await?;
        refused(&bob, &format!("unknown-{index}")).await?;
        stage.agent.saw_nothing();
        for (ask, _) in uses(&id) {
            let reply = alice.send(&ask.clone().with("x-task", &id)).await?;
            assert_eq!(said(&reply), "ok", "{ask:?}\n{reply:?}");
        }
    }
    let line = stage
        .mesh
        .portcullis
        .logged("a foreign task", |line| line["a2a_task"] == "t-0" && line["decision"] == "deny")
        .await?;
    assert!(line["response_code_details"].as_str().is_some_and(|it| it.contains("task_not_found")), "{line}");
    Ok(())
}

#[tokio::test]
async fn a_list_shows_ones_own_tasks_and_every_other_byte() -> Result<()> {
    let stage = Stage::open().await?;
    let (alice, bob) = (stage.peer("alice").await?, stage.peer("bob").await?);
    for (peer, id) in [(&alice, "a1"), (&bob, "b1"), (&alice, "a2"), (&bob, "b2")] {
        assert_eq!(said(&peer.send(&makers(id).remove(0)).await?), "ok");
    }
    let list =
        [Ask::json_rpc("ListTasks", &json!({})), Ask::rest("GET", "/tasks"), Ask::rest("GET", "/v1/tasks")];
    for ask in list {
        let reply = bob.send(&ask.with("x-list", "a1,b1,a2,b2,unknown")).await?.json()?;
        let page = reply.get("result").unwrap_or(&reply).clone();
        let ids: Vec<_> =
            page["tasks"].as_array().into_iter().flatten().map(|task| task["id"].clone()).collect();
        assert_eq!(ids, ["b1", "b2"], "{reply}");
        assert_eq!((&page["nextPageToken"], &page["x"]["kept"]), (&json!("n"), &json!(true)), "{reply}");
    }
    let grpc = Ask::grpc("/lf.a2a.v1.A2AService/ListTasks", b"").with("x-list", "a1,b1,a2,b2");
    let reply = bob.send(&grpc).await?;
    let own: Vec<u8> = ["b1", "b2"].iter().flat_map(|id| field(1, &field(1, id.as_bytes()))).collect();
    assert_eq!((said(&reply).as_str(), &reply.body), ("ok", &crate::stage::frame(&own)));
    let line = stage.mesh.portcullis.logged("a list", |line| line["a2a_binding"] == "grpc").await?;
    assert_eq!(line["list_hidden"], 2, "{line}");
    Ok(())
}

#[tokio::test]
async fn a_context_is_whose_message_named_it_first() -> Result<()> {
    let stage = Stage::open().await?;
    let (alice, bob) = (stage.peer("alice").await?, stage.peer("bob").await?);
    let given = makers("t1").remove(0).with("x-context", "given");
    let chosen =
        Ask::json_rpc("message/send", &message(&json!({"contextId": "chosen"}))).with("x-task", "t2");
    for ask in [given, chosen] {
        assert_eq!(said(&alice.send(&ask).await?), "ok");
    }
    stage.agent.forget();
    for context in ["given", "chosen"] {
        let in_grpc = field(2, &[field(1, b"m"), field(2, context.as_bytes())].concat());
        for (ask, want) in [
            (Ask::json_rpc("message/send", &message(&json!({"contextId": context}))), "rpc -32001"),
            (Ask::json_rpc("ListTasks", &json!({"contextId": context})), "rpc -32001"),
            (Ask::rest("GET", &format!("/tasks?contextId={context}")), "http 404"),
            (Ask::grpc("/lf.a2a.v1.A2AService/SendMessage", &in_grpc), "grpc 5"),
        ] {
            let reply = bob.send(&ask).await?;
            assert_eq!(said(&reply), want, "{context} {ask:?}\n{reply:?}");
        }
    }
    stage.agent.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn an_answer_with_anothers_task_is_withheld() -> Result<()> {
    let stage = Stage::open().await?;
    let (alice, bob) = (stage.peer("alice").await?, stage.peer("bob").await?);
    assert_eq!(said(&alice.send(&makers("t").remove(0)).await?), "ok");
    let asks = makers("t");
    for (ask, want) in [(&asks[0], "rpc -32603"), (&asks[1], "rpc -32603"), (&asks[3], "http 502")] {
        let reply = bob.send(ask).await?;
        assert_eq!(said(&reply), want, "{ask:?}\n{reply:?}");
    }
    for stream in [&asks[2], &asks[4], &asks[5]] {
        // The reset may overtake the head.
        let Ok(response) = bob.open(stream).await else { continue };
        let whole = wait::within("the end of a stream", response.into_body().collect()).await?;
        assert!(whole.is_err(), "a stream of another's task breaks off before its first message: {stream:?}");
    }
    Ok(())
}

#[tokio::test]
async fn tasks_from_before_are_adopted_where_the_operator_says_so() -> Result<()> {
    let rules = crate::stage::when("method", "Nothing");
    let policies =
        [("all", "ALLOW", "- from: [{source: {namespaces: [agents]}}]"), ("a2a", "DENY", rules.as_str())];
    let stage = Stage::under(&policies, |run| run.flag("--adopt-tasks")).await?;
    let (alice, bob) = (stage.peer("alice").await?, stage.peer("bob").await?);
    let get = Ask::json_rpc("tasks/get", &json!({"id": "old"})).with("x-task", "old");
    assert_eq!(said(&alice.send(&get).await?), "ok");
    assert_eq!(said(&bob.send(&get).await?), "rpc -32001");
    Ok(())
}
