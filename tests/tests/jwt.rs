//! Tokens end to end: who bears none, a bad one, a good one, and what policies make of it.

#![cfg(test)]

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Frame;
use portcullis_tests::http::{Client, Events, Reply, empty, post_json};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::single::{HTTP, Running, Single};
use portcullis_tests::tokens::{self, Issuer, now};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.example";

/// Allows subject `sub-1` of the issuer everything, and anybody `/healthz`.
const RULES: &str = "- from: [{source: {requestPrincipals: [https://issuer.example/sub-1]}}]
- to: [{operation: {paths: [/healthz]}}]";

/// A Service whose tokens come from `issuer`, with an application that answers 200.
async fn stage(issuer: &Issuer, more: &str, rules: &str) -> Result<(Running, Upstream)> {
    let single = Single::new(true).await?;
    let document = issuer.authentication(NAMESPACE, "jwt", "app", more);
    single.setup.manifests.write("jwt", &[document])?;
    single.setup.policy("p", "app", "ALLOW", rules)?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    Ok((single.start().await?, app))
}

async fn send(running: &Running, request: Request<portcullis_tests::http::Body>) -> Result<Reply> {
    Client::http1(running.tunnel(HTTP).await?).await?.send(request).await
}

async fn get(running: &Running, path: &str, token: Option<&str>) -> Result<Reply> {
    let request = Request::get(path).header("host", "app");
    let request = match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    };
    send(running, request.body(empty())?).await
}

/// Istio's own TestL7JWT, and what else a token may be.
#[tokio::test]
async fn tokens_are_refused_with_401_and_policies_with_403() -> Result<()> {
    let (issuer, other, forger) = (Issuer::new(ISSUER)?, Issuer::new("https://other")?, Issuer::new(ISSUER)?);
    let (running, app) = stage(&issuer, "", RULES).await?;
    let soon = now()? + 600;
    let good = issuer.token(&json!({"sub": "sub-1", "exp": soon}))?;
    let expired = issuer.token(&json!({"sub": "sub-1", "exp": 1}))?;
    let claims = json!({"iss": ISSUER, "sub": "sub-1", "exp": soon});
    let unsigned = issuer.sign(&json!({"alg": "none"}), &claims)?;
    let rows = [
        ("/private", None, 403, "RBAC: access denied"),
        ("/private", Some(expired), 401, "Jwt is expired"),
        ("/private", Some(other.token(&json!({"sub": "sub-1"}))?), 401, "Jwt issuer is not configured"),
        ("/private", Some(issuer.token(&json!({"sub": "sub-2", "exp": soon}))?), 403, "RBAC: access denied"),
        ("/private", Some(good.clone()), 200, "hi"),
        ("/healthz", None, 200, "hi"),
        (
            "/healthz",
            Some("x".to_owned()),
            401,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        ("/private", Some(forger.token(&claims)?), 401, "Jwt verification fails"),
        ("/private", Some(unsigned), 401, "Jwt header [alg] is not supported"),
        ("/private", Some(issuer.sign(&json!({"alg": "HS256"}), &claims)?), 401, "Jwt verification fails"),
        (
            "/private",
            Some(issuer.sign(&json!({"alg": "EdDSA", "kid": "2"}), &claims)?),
            401,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
    ];
    let mut passed = Vec::new();
    for (path, token, status, text) in &rows {
        let reply = get(&running, path, token.as_deref()).await?;
        assert_eq!((reply.status.as_u16(), reply.text().as_str()), (*status, *text), "{path} {token:?}");
        let challenge = reply.headers.get("www-authenticate").map(|value| value.to_str()).transpose()?;
        let want = format!("Bearer realm=\"http://app{path}\", error=\"invalid_token\"");
        assert_eq!(challenge, (*status == 401).then_some(want.as_str()), "{path} {token:?}");
        passed.extend((*status == 200).then_some(*path));
    }
    app.saw_only(&passed);
    let line = running.mesh.portcullis.logged("the refusal", |line| {
        line["response_code_details"] == "jwt_authn_access_denied{Jwt_is_expired}"
    });
    let line = line.await?;
    assert_eq!((&line["response_code"], &line["response_flags"]), (&json!(401), &json!("-")), "{line}");
    let labels = [("reason", "jwt_expired")];
    running.mesh.portcullis.metric_reaches("portcullis_refusals_total", &labels, 1.0).await?;
    Ok(())
}

#[tokio::test]
async fn a_grpc_client_is_told_in_its_own_status() -> Result<()> {
    let issuer = Issuer::new(ISSUER)?;
    let (running, _app) = stage(&issuer, "", RULES).await?;
    let request = Request::post("http://app/a.B/C").header("content-type", "application/grpc");
    let request = request.header("authorization", "Bearer x.y.z").body(empty())?;
    let reply = Client::http2(running.tunnel(HTTP).await?).await?.send(request).await?;
    assert_eq!((reply.status.as_u16(), reply.headers["grpc-status"].to_str()?), (200, "16"));
    Ok(())
}

#[tokio::test]
async fn the_service_gets_what_the_token_says_and_not_what_the_client_says() -> Result<()> {
    let issuer = Issuer::new(ISSUER)?;
    let more =
        ", outputPayloadToHeader: x-payload, outputClaimToHeaders: [{header: x-user, claim: user.name}]";
    let (running, app) = stage(&issuer, more, RULES).await?;
    let token = issuer.token(&json!({"sub": "sub-1", "user": {"name": "ann"}}))?;
    let request = Request::get(format!("/healthz?access_token={token}&a=1")).header("host", "app");
    let request = request.header("x-user", "root").header("x_user", "root").header("x-payload", "e30");
    assert_eq!(send(&running, request.body(empty())?).await?.status, 200);
    let request = Request::get("/healthz").header("host", "app").header("x-user", "root");
    assert_eq!(send(&running, request.body(empty())?).await?.status, 200);
    let seen = app.saw(2).await?;
    assert_eq!(seen[0].uri, "/healthz?a=1");
    assert_eq!(seen[0].headers.get_all("x-user").iter().collect::<Vec<_>>(), ["ann"]);
    assert!(!seen[0].headers.contains_key("x_user"));
    assert_eq!(Some(seen[0].headers["x-payload"].to_str()?), token.split('.').nth(1));
    assert!(!seen[1].headers.contains_key("x-user"));
    Ok(())
}

#[tokio::test]
async fn claims_decide_which_tools_may_be_called() -> Result<()> {
    let issuer = Issuer::new(ISSUER)?;
    let rules = "- to: [{operation: {paths: [/mcp]}}]
  when:
  - {key: 'request.auth.claims[scope]', values: [search]}
  - {key: 'experimental.envoy.filters.http.mcp[tool]', values: ['search_*']}";
    let (running, app) = stage(&issuer, "", rules).await?;
    app.saw_nothing();
    let call =
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search_issues"}});
    for (claims, may) in [
        (Some(json!({"sub": "a", "scope": "read search"})), true),
        (Some(json!({"sub": "a", "scope": ["search"]})), true),
        (Some(json!({"sub": "a", "scope": "read searching"})), false),
        (None, false),
    ] {
        let mut request = post_json("/mcp", "app", &call)?;
        if let Some(claims) = &claims {
            let token = format!("Bearer {}", issuer.token(claims)?);
            request.headers_mut().insert("authorization", token.parse()?);
        }
        let reply = send(&running, request).await?;
        assert_eq!(reply.text() == "hi", may, "{claims:?}: {} {}", reply.status, reply.text());
    }
    assert_eq!(app.seen().len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_event_stream_ends_with_the_token_that_it_was_opened_by() -> Result<()> {
    let issuer = Issuer::new(ISSUER)?;
    let single = Single::new(true).await?;
    single.setup.manifests.write("jwt", &[issuer.authentication(NAMESPACE, "jwt", "app", "")])?;
    single.setup.policy("p", "app", "ALLOW", RULES)?;
    let (sender, response) = upstream::open_events();
    let response = std::sync::Mutex::new(Some(response));
    let script = move |_: &upstream::Seen| {
        let open = response.lock().ok().and_then(|mut response| response.take());
        open.unwrap_or_else(|| upstream::text(StatusCode::GONE, ""))
    };
    let _app = Upstream::start(single.pod.port(HTTP), script).await?;
    let running = single.start().await?;
    // Clocks may differ by a minute, so this one has some three seconds left.
    let token = issuer.token(&json!({"sub": "sub-1", "exp": now()? - 57}))?;
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let request =
        Request::get("/events").header("host", "app").header("authorization", format!("Bearer {token}"));
    let mut events = Events::of(client.open(request.body(empty())?).await?);
    sender.send(Frame::data(Bytes::from_static(b"data: one\n\n"))).await?;
    assert_eq!(events.next().await?.context("an event")?.data, "one");
    let ended = wait::within("the end", events.next()).await?;
    assert!(ended.is_err(), "a cut is no clean end: {ended:?}");
    assert_eq!(get(&running, "/events", Some(&token)).await?.text(), "Jwt is expired");
    let closed = |line: &Value| line["response_code_details"] == "closed_by_policy_change";
    running.mesh.portcullis.logged("the cut stream", closed).await?;
    Ok(())
}

#[tokio::test]
async fn keys_are_fetched_and_without_them_nothing_is_verified() -> Result<()> {
    let issuer = Issuer::new(ISSUER)?;
    let single = Single::new(true).await?;
    let jwks = issuer.jwks();
    let keys =
        Upstream::start(single.pod.port(9090), move |_| upstream::text(StatusCode::OK, jwks.clone())).await?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let fetched = |port: u16| {
        let address = single.pod.port(port);
        tokens::authentication(
            NAMESPACE,
            "jwt",
            "app",
            &format!("issuer: '{ISSUER}', jwksUri: 'http://{address}/keys'"),
        )
    };
    let (right, wrong) = (fetched(9090), fetched(9));
    single.setup.manifests.write("jwt", &[wrong])?;
    single.setup.policy("p", "app", "ALLOW", RULES)?;
    let running = single.start().await?;
    let token = issuer.token(&json!({"sub": "sub-1"}))?;
    let reply = get(&running, "/private", Some(&token)).await?;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (401, "Jwks remote fetch is failed"));
    app.saw_nothing();
    let before = running.mesh.portcullis.generation().await?;
    running.mesh.setup.manifests.write("jwt", &[right])?;
    running.mesh.portcullis.newer_than(before).await?;
    for _ in 0..3 {
        assert_eq!(get(&running, "/private", Some(&token)).await?.text(), "hi");
    }
    assert_eq!(keys.seen().len(), 1, "fetched once");
    Ok(())
}

#[tokio::test]
async fn a_broken_request_authentication_refuses_everything_and_says_why() -> Result<()> {
    let single = Single::new(true).await?;
    let document = tokens::authentication(NAMESPACE, "jwt", "app", "issuer: a, jwks: 'no keys'");
    single.setup.manifests.write("jwt", &[document])?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    assert_eq!(get(&running, "/", None).await?.status, 403);
    app.saw_nothing();
    let (_, dump) = running.mesh.portcullis.ask("admin", http::Method::GET, "/config_dump").await?;
    let dump: Value = serde_json::from_str(&dump)?;
    let findings = dump["findings"].as_array().cloned().unwrap_or_default();
    let found = findings.iter().find(|finding| finding["name"] == "tools/jwt").context("a finding")?;
    assert_eq!(
        (&found["severity"], &found["field"]),
        (&"error".into(), &"spec.jwtRules[0].jwks".into()),
        "{found}"
    );
    Ok(())
}

/// A session is of the user that its opener's token names: another user of the same workload has none, nor has the workload
/// without a token; a renewed token is the same user's.
#[tokio::test]
async fn a_session_belongs_to_the_user_of_its_token() -> Result<()> {
    let issuer = Issuer::new(ISSUER)?;
    let single = Single::new(true).await?;
    single.setup.manifests.write("jwt", &[issuer.authentication(NAMESPACE, "jwt", "app", "")])?;
    let rules = r#"- when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha]}]"#;
    single.setup.policy("p", "app", "ALLOW", rules)?;
    let app = Upstream::start(single.pod.port(HTTP), |seen| {
        let mut response = upstream::result(seen, &json!({}));
        response.headers_mut().insert("mcp-session-id", http::HeaderValue::from_static("servers-own"));
        response
    })
    .await?;
    let running = single.start().await?;
    let token = |sub: &str, more: u64| issuer.token(&json!({"sub": sub, "exp": now()? + 600 + more}));
    let post = async |body: &Value, token: Option<&str>, session: Option<&str>| -> Result<Reply> {
        let mut request = post_json("/mcp", "app", body)?;
        for (name, value) in [("authorization", token.map(|token| format!("Bearer {token}")))]
            .into_iter()
            .chain([("mcp-session-id", session.map(str::to_owned))])
        {
            if let Some(value) = value {
                request.headers_mut().insert(name, value.parse()?);
            }
        }
        send(&running, request).await
    };
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}});
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "alpha"}});
    let opened = post(&initialize, Some(&token("sub-1", 0)?), None).await?;
    let id = opened.headers.get("mcp-session-id").context("a session")?.to_str()?.to_owned();
    let before = app.seen().len();
    for stranger in [None, Some(token("sub-2", 0)?), Some(token("", 0)?)] {
        let reply = post(&call, stranger.as_deref(), Some(&id)).await?;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{stranger:?}");
    }
    assert_eq!(app.seen().len(), before, "a foreign session reached the server");
    for more in [0, 60] {
        assert_eq!(post(&call, Some(&token("sub-1", more)?), Some(&id)).await?.status, StatusCode::OK);
    }
    Ok(())
}
