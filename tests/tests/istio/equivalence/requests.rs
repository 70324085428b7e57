//! Random requests that meet the policies of [`super::policies`].

use super::callers::CALLERS;
use super::messages::{self, Message, REVISION};
use anyhow::Result;
use http::Request;
use portcullis_tests::http::{Body, empty, full};
use portcullis_tests::tokens::Issuer;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

/// A request, and who sends it where.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Index in [`CALLERS`].
    pub(crate) client: usize,
    pub(crate) port: u16,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) host: &'static str,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) token: Option<Token>,
    /// What the body says, in MCP.
    pub(crate) message: Option<Message>,
}

/// What the bearer token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Of a member of several groups.
    Alice,
    /// With hardly any claim.
    Bob,
    /// Of an issuer that nobody trusts.
    Foreign,
    /// Signed with a key that is not the issuer's.
    Forged,
}

/// With a message of MCP.
pub(crate) fn mcp() -> impl Strategy<Value = Asked> {
    let asked = |(plain, message)| Asked { method: "POST", path: "/mcp", message: Some(message), ..plain };
    (plain(), messages::message()).prop_map(asked)
}

/// Of any kind but MCP.
pub(crate) fn plain() -> impl Strategy<Value = Asked> {
    let paths = [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/b",
        "/A",
        "/mcp",
        "/api/v1/x",
        "/api/v1/y/x",
        "/api/",
        "/api",
        "/q/x",
        "/ab",
        "/a?q=/b",
        "/a//b",
        "//a",
        "/z/../a",
        "/a/./b",
        "/%61",
        "/a%2fb",
        "/a%2Fb",
        "/a%5cb",
        "/a\\b",
        "/a;b",
        "/a/%2e%2e/b",
        "/a/..",
        "/api/v1//x",
        "/api/%2a/x",
        "/a%20b",
        "/api/{*}/x",
        "/api/a*b/x",
        "/api/a|b/x",
        "/a[b]",
        "/a?",
        "/a/b?x",
    ];
    let hosts = [
        "app.example",
        "APP.example",
        "app.example:80",
        "app.example:8080",
        "x.example",
        "app.test",
        "example",
    ];
    let headers =
        [("x-a", "a"), ("x-a", "ab"), ("x-a", ""), ("x-a", "b"), ("X-A", "A"), ("x-b", "b"), ("x-b", "")];
    (
        0..CALLERS.len(),
        select(&[80u16, 8080][..]),
        select(&["GET", "POST", "PUT", "DELETE", "OPTIONS"][..]),
        select(paths.to_vec()),
        select(hosts.to_vec()),
        vec(select(headers.to_vec()), 0..=2),
        option::weighted(0.4, prop_oneof![4 => Just(Token::Alice), 3 => Just(Token::Bob), 1 => Just(Token::Foreign), 1 => Just(Token::Forged)]),
    )
        .prop_map(|(client, port, method, path, host, headers, token)| Asked {
            client,
            port,
            method,
            path,
            host,
            headers,
            token,
            message: None,
        })
}

/// Tokens in compact form.
pub(crate) struct Tokens {
    known: Issuer,
    made: [String; 4],
}

impl Tokens {
    pub(crate) fn new() -> Result<Self> {
        let (known, forger, foreign) =
            (Issuer::new("issuer")?, Issuer::new("issuer")?, Issuer::new("other")?);
        let alice = json!({
            "sub": "alice", "aud": ["tools", "desks"], "azp": "desk", "email": "alice@acme.example",
            "groups": ["eng", "ops"], "realm": {"roles": ["user", "admin"]},
        });
        let bob = json!({"sub": "bob", "groups": "eng"});
        let made = [known.token(&alice)?, known.token(&bob)?, foreign.token(&alice)?, forger.token(&alice)?];
        Ok(Self { known, made })
    }

    /// A RequestAuthentication on a Service, with the one issuer that is known.
    pub(crate) fn authentication(&self, namespace: &str, service: &str) -> String {
        self.known.authentication(namespace, service, service, "")
    }

    pub(crate) fn of(&self, token: Token) -> &str {
        &self.made[token as usize]
    }
}

impl Asked {
    /// A plain GET.
    pub(crate) fn get(path: &'static str, headers: &[(&'static str, &'static str)]) -> Self {
        let (method, host, headers) = ("GET", "app.example", headers.to_vec());
        Self { client: 0, port: 80, method, path, host, headers, token: None, message: None }
    }

    /// The request as the client sends it.
    pub(crate) fn request(&self, tokens: &Tokens) -> Result<Request<Body>> {
        let mut request = Request::builder().method(self.method).uri(self.path).header("host", self.host);
        for (name, value) in &self.headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.token {
            request = request.header("authorization", format!("Bearer {}", tokens.of(token)));
        }
        let body = match &self.message {
            Some(message) => {
                request = request
                    .header("content-type", "application/json")
                    .header("accept", "application/json, text/event-stream")
                    .header("mcp-protocol-version", REVISION);
                full(message.body().to_string())
            }
            None => empty(),
        };
        Ok(request.body(body)?)
    }
}
