//! An agent that does what it is asked by anybody, on every binding, as an agent does that leaves access to the mesh.
//!
//! A new task has the id in the header `x-task`; a list has those of `x-list`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Frame;
use portcullis_tests::http::{Body, full, streamed};
use portcullis_tests::upstream::{self, Seen};
use serde_json::{Value, json};

use crate::stage::{field, frame};

/// The bytes of a card, oddly written on purpose.
pub(crate) const CARD: &str = r#"{ "name":"agent","url":"http://elsewhere.example/a2a" , "skills":[{"id":"x"}],"signatures":[{"protected":"e30","signature":"c2ln"}]}"#;

pub(crate) fn answer(seen: &Seen) -> Response<Body> {
    let path = seen.uri.path();
    if path.ends_with("/agent-card.json") {
        return typed("application/json", full(CARD));
    }
    if header(seen, "content-type").starts_with("application/grpc") {
        return grpc(seen);
    }
    if header(seen, "x-answer") == "events" {
        return events(seen);
    }
    match seen.json() {
        Value::Object(message) if message.contains_key("jsonrpc") => {
            let result = result(message["method"].as_str().unwrap_or_default(), seen);
            upstream::json(&json!({"jsonrpc": "2.0", "id": message["id"], "result": result}))
        }
        _ if path.contains("message") => upstream::json(&json!({"task": task(seen)})),
        _ if path.ends_with("/tasks") => upstream::json(&list(seen)),
        _ => upstream::json(&task(seen)),
    }
}

fn result(method: &str, seen: &Seen) -> Value {
    match method {
        "ListTasks" => list(seen),
        "SendMessage" => json!({"task": task(seen)}),
        _ => task(seen),
    }
}

fn task(seen: &Seen) -> Value {
    let (id, context) = (header(seen, "x-task"), header(seen, "x-context"));
    json!({"kind": "task", "id": id, "contextId": context, "status": {"state": "working"}})
}

fn list(seen: &Seen) -> Value {
    let ids = header(seen, "x-list");
    let tasks: Vec<Value> = ids.split(',').map(|id| json!({"id": id, "contextId": "c"})).collect();
    json!({"tasks": tasks, "nextPageToken": "n", "x": {"kept": true}})
}

/// Two events, of which the second names the task only.
fn events(seen: &Seen) -> Response<Body> {
    let id = header(seen, "x-task");
    let (send, body) = streamed();
    let wrap = |value: Value| json!({"jsonrpc": "2.0", "id": 7, "result": value});
    let first = wrap(json!({"kind": "task", "id": id, "contextId": "", "status": {"state": "working"}}));
    let second = wrap(json!({"kind": "status-update", "taskId": id, "final": true}));
    tokio::spawn(async move {
        for event in [first, second] {
            let event = Bytes::from(format!("data: {event}\n\n"));
            if send.send(Frame::data(event)).await.is_err() {
                return;
            }
        }
    });
    typed("text/event-stream", body)
}

fn grpc(seen: &Seen) -> Response<Body> {
    let task = |id: &str| field(1, id.as_bytes());
    let method = seen.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let id = header(seen, "x-task");
    let message = match method.as_str() {
        "ListTasks" => header(seen, "x-list").split(',').flat_map(|id| field(1, &task(id))).collect(),
        "SendMessage" | "SendStreamingMessage" | "SubscribeToTask" | "TaskSubscription" => {
            field(1, &task(&id))
        }
        _ => task(&id),
    };
    let (send, body) = streamed();
    tokio::spawn(async move {
        // In two pieces, so that the reader has to put them together.
        let bytes = frame(&message);
        let (one, two) = (bytes.slice(..3), bytes.slice(3..));
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        for frame in [Frame::data(one), Frame::data(two), Frame::trailers(trailers)] {
            if send.send(frame).await.is_err() {
                return;
            }
        }
    });
    typed("application/grpc", body)
}

fn typed(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    response
}

fn header(seen: &Seen, name: &str) -> String {
    seen.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
