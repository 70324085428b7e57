//! Random requests that meet the policies of [`super::policies`].

use super::policies::About;
use anyhow::Result;
use http::Request;
use portcullis_tests::http::{Body, empty, full};
use portcullis_tests::tokens::Issuer;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Which clients there are, by namespace and ServiceAccount.
pub(crate) const CLIENTS: [(&str, &str); 3] = [("a", "bot"), ("a", "cat"), ("b", "bot")];

/// A request, and who sends it where.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Index in [`CLIENTS`].
    pub(crate) client: usize,
    pub(crate) port: u16,
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) host: &'static str,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) token: Option<Token>,
    /// The call of a tool in the body.
    pub(crate) call: Option<Call>,
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

/// A call of a tool.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    tool: &'static str,
    owner: Option<&'static str>,
    repository: Option<&'static str>,
    count: Option<u32>,
}

pub(crate) fn request(about: About) -> BoxedStrategy<Asked> {
    match about {
        About::Http => plain().boxed(),
        About::Mcp => (plain(), call())
            .prop_map(|(plain, call)| Asked { method: "POST", path: "/mcp", call: Some(call), ..plain })
            .boxed(),
    }
}

fn plain() -> impl Strategy<Value = Asked> {
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
        0..CLIENTS.len(),
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
            call: None,
        })
}

fn call() -> impl Strategy<Value = Call> {
    (
        select(&["search_code", "search_users", "get_issue", "drop", "x"][..]),
        option::weighted(0.8, select(&["acme", "ac", "evil"][..])),
        option::of(select(&["website", "site", "api"][..])),
        option::of(select(&[7u32, 12, 70][..])),
    )
        .prop_map(|(tool, owner, repository, count)| Call { tool, owner, repository, count })
}

impl Call {
    /// The facts that the message tells, by their index in [`super::policies::FACTS`].
    pub(crate) fn facts(&self) -> Vec<(usize, String)> {
        let told = [
            Some("tools/call".to_owned()),
            Some(self.tool.to_owned()),
            self.owner.map(str::to_owned),
            self.repository.map(str::to_owned),
            self.count.map(|count| count.to_string()),
        ];
        told.into_iter().enumerate().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    fn body(&self) -> Value {
        let mut arguments = json!({});
        if let Some(owner) = self.owner {
            arguments["owner"] = owner.into();
        }
        if let Some(name) = self.repository {
            arguments["repo"] = json!({ "name": name });
        }
        if let Some(count) = self.count {
            arguments["count"] = count.into();
        }
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": self.tool, "arguments": arguments}})
    }
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
        Self { client: 0, port: 80, method, path, host, headers, token: None, call: None }
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
        let body = match &self.call {
            Some(call) => {
                request = request
                    .header("content-type", "application/json")
                    .header("accept", "application/json, text/event-stream")
                    .header("mcp-protocol-version", "2025-06-18");
                full(call.body().to_string())
            }
            None => empty(),
        };
        Ok(request.body(body)?)
    }
}
