//! Sessions belong to the identity that opened them: with ids remembered by the process.

use crate::stage::{Peer, Scene, Stage, call};
use anyhow::{Context, Result};
use http::{Method, Request, Response, StatusCode};
use portcullis_tests::http::{Body, Client, Events, Reply, empty, full};
use portcullis_tests::upstream::{self, Seen};

/// The id that the server gives to every session it opens; real ones are random, and as good as a password.
const SERVERS_ID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const NOT_FOUND: &str = r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32001,"message":"Session not found"}}"#;
const NOT_FOUND_WITHOUT_ID: &str =
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;

/// A server with sessions: opens one on `initialize`, streams on GET, ends on DELETE.
pub(crate) fn server(seen: &Seen) -> Response<Body> {
    let with_session = |mut response: Response<Body>| {
        response.headers_mut().insert("mcp-session-id", http::HeaderValue::from_static(SERVERS_ID));
        response
    };
    match (&seen.method, seen.json()["method"].as_str()) {
        (&Method::GET, _) => {
            upstream::events(&["id: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n\n"])
        }
        (&Method::DELETE, _) => upstream::text(StatusCode::OK, ""),
        (_, Some("initialize")) => {
            with_session(upstream::result(seen, &serde_json::json!({"ran": "initialize"})))
        }
        _ => crate::stage::server(seen),
    }
}

/// An MCP client of one workload.
pub(crate) struct Caller {
    client: Client,
    _tunnel: Peer,
}

impl Caller {
    pub(crate) async fn of(peer: Peer) -> Result<Self> {
        Ok(Self { client: Client::http1(peer.stream().await?).await?, _tunnel: peer })
    }

    fn request(method: Method, session: Option<&str>) -> http::request::Builder {
        let request = Request::builder().method(method).uri("/mcp").header("host", "app");
        let request = request.header("accept", "application/json, text/event-stream");
        session.into_iter().fold(request, |request, id| request.header("mcp-session-id", id))
    }

    /// Opens a session, and returns its id.
    pub(crate) async fn initialize(&self) -> Result<String> {
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}"#;
        let reply = self.post(None, body).await?;
        let id = reply.headers.get("mcp-session-id").with_context(|| format!("no session: {reply:?}"))?;
        Ok(id.to_str()?.to_owned())
    }

    pub(crate) async fn post(&self, session: Option<&str>, body: &str) -> Result<Reply> {
        let request = Self::request(Method::POST, session).header("content-type", "application/json");
        self.client.send(request.body(full(body.to_owned()))?).await
    }

    /// Calls the allowed tool.
    pub(crate) async fn call(&self, session: &str) -> Result<Reply> {
        self.post(Some(session), &call("3", "alpha")).await
    }

    pub(crate) async fn get(&self, session: Option<&str>, last_event: Option<&str>) -> Result<Reply> {
        let request = Self::request(Method::GET, session);
        let request = last_event.into_iter().fold(request, |request, id| request.header("last-event-id", id));
        self.client.send(request.body(empty())?).await
    }

    pub(crate) async fn events(&self, session: &str) -> Result<Events> {
        Ok(Events::of(self.client.open(Self::request(Method::GET, Some(session)).body(empty())?).await?))
    }

    pub(crate) async fn delete(&self, session: &str) -> Result<Reply> {
        self.client.send(Self::request(Method::DELETE, Some(session)).body(empty())?).await
    }
}

/// Whatever `id` is, this caller is told that there is no such session, however it asks.
pub(crate) async fn has_no_session(caller: &Caller, id: &str) -> Result<()> {
    let answer = |reply: Reply| (reply.status.as_u16(), reply.text());
    assert_eq!(answer(caller.call(id).await?), (404, NOT_FOUND.to_owned()), "POST with {id}");
    let without_id = (404, NOT_FOUND_WITHOUT_ID.to_owned());
    assert_eq!(answer(caller.get(Some(id), None).await?), without_id, "GET with {id}");
    assert_eq!(answer(caller.get(Some(id), Some("1")).await?), without_id, "resuming {id}");
    assert_eq!(answer(caller.delete(id).await?), without_id, "DELETE with {id}");
    Ok(())
}

/// The owner goes on in every way, and DELETE last.
pub(crate) async fn goes_on(owner: &Caller, id: &str) -> Result<()> {
    assert_eq!(owner.call(id).await?.status, StatusCode::OK);
    assert!(owner.events(id).await?.next().await?.is_some(), "a stream of its own session");
    assert_eq!(owner.get(Some(id), Some("1")).await?.status, StatusCode::OK, "resuming its own stream");
    Ok(())
}

/// Owner and thief have the same rights; only the session tells them apart.
pub(crate) async fn owner_and_thief(stage: &Stage) -> Result<(Caller, Caller)> {
    Ok((Caller::of(stage.peer("bot")?).await?, Caller::of(stage.peer("twin")?).await?))
}

#[tokio::test]
async fn a_stolen_session_id_is_as_good_as_none() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let (owner, thief) = owner_and_thief(&stage).await?;
    let id = owner.initialize().await?;
    assert_eq!(id, SERVERS_ID, "without keys the server's own id is shown");
    goes_on(&owner, &id).await?;
    let before = stage.upstream.seen().len();
    has_no_session(&thief, &id).await?;
    assert_eq!(stage.upstream.seen().len(), before, "nothing of the thief reached the server");
    goes_on(&owner, &id).await?;
    Ok(())
}

/// A second session under the same server-given id is the second identity's own.
#[tokio::test]
async fn two_identities_do_not_share_a_session_by_its_name() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let (owner, other) = owner_and_thief(&stage).await?;
    let id = owner.initialize().await?;
    has_no_session(&other, &id).await?;
    assert_eq!(other.initialize().await?, id);
    assert_eq!(other.delete(&id).await?.status, StatusCode::OK);
    has_no_session(&other, &id).await?;
    goes_on(&owner, &id).await
}

#[tokio::test]
async fn unknown_and_ended_sessions_are_not_found() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let (owner, _) = owner_and_thief(&stage).await?;
    has_no_session(&owner, "guessed").await?;
    has_no_session(&owner, &"a".repeat(4096)).await?;
    let id = owner.initialize().await?;
    assert_eq!(owner.delete(&id).await?.status, StatusCode::OK);
    has_no_session(&owner, &id).await
}

/// Event ids are guessable across callers, so there is nothing to resume without a session of one's own.
#[tokio::test]
async fn nothing_is_resumed_without_a_session() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let (caller, _) = owner_and_thief(&stage).await?;
    let reply = caller.get(None, Some("1")).await?;
    let want = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Invalid Request: resume_without_session"}}"#;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (400, want));
    stage.upstream.saw_nothing();
    Ok(())
}

/// No version that a client declares makes a foreign session its own; an era without sessions is an era without this one.
#[tokio::test]
async fn no_declared_version_opens_a_foreign_session() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let (owner, thief) = owner_and_thief(&stage).await?;
    let id = owner.initialize().await?;
    for version in ["2024-11-05", "2025-03-26", "2025-11-25", "2026-07-28", "2027-01-01", "draft", "zzz", "9"]
    {
        for method in [Method::GET, Method::DELETE, Method::POST] {
            let body = if method == Method::POST { full(call("3", "alpha")) } else { empty() };
            let request = Caller::request(method.clone(), Some(&id)).header("mcp-protocol-version", version);
            let request = if method == Method::POST {
                request.header("content-type", "application/json")
            } else {
                request
            };
            let _answer = thief.client.send(request.body(body)?).await?;
        }
    }
    let reached = stage.upstream.seen();
    let with_session = reached.iter().filter(|seen| seen.headers.contains_key("mcp-session-id")).count();
    assert_eq!(with_session, 0, "a stolen id reached the server: {reached:?}");
    goes_on(&owner, &id).await
}

/// HTTP+SSE (2024-11-05) names its session in the query. What was not sealed for the caller does not exist.
#[tokio::test]
async fn a_session_in_the_query_that_is_not_ones_own_is_never_forwarded() -> Result<()> {
    let stage = Scene::new(server).await?.start(&[]).await?;
    let client = Client::http1(stage.peer("bot")?.stream().await?).await?;
    let rows = [
        ("sessionId=1", 404),
        ("x=y&session_id=1", 404),
        ("%73essionId=1", 404),
        ("sessionId=1&session_id=1", 400),
    ];
    for (query, status) in rows {
        let request = Request::post(format!("/mcp?{query}")).header("host", "app");
        let request = request.header("accept", "application/json, text/event-stream");
        let request = request.header("content-type", "application/json");
        let reply = client.send(request.body(full(call("3", "alpha")))?).await?;
        assert_eq!(reply.status.as_u16(), status, "{query}");
    }
    assert!(stage.upstream.seen().is_empty());
    Ok(())
}
