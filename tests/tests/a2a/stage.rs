//! One waypoint before one recording agent, and requests of every binding.

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes};
use http::{Request, StatusCode};
use portcullis_tests::http::{Body, Client, Reply, full};
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::{Mesh, Pod, Service, Setup};
use portcullis_tests::portcullis::Run;
use portcullis_tests::upstream::Upstream;
use serde_json::{Value, json};

use crate::agent;

pub(crate) const PORT: u16 = 8080;

/// Everybody in `agents` may do everything; a DENY policy may take something away.
const ALLOW: &str = "- from: [{source: {namespaces: [agents]}}]";

/// A running waypoint before the agent.
pub(crate) struct Stage {
    pub(crate) mesh: Mesh,
    pub(crate) agent: Upstream,
    pub(crate) service: Service,
    _pod: Pod,
}

impl Stage {
    /// With a DENY policy of these rules.
    pub(crate) async fn denying(rules: &str) -> Result<Self> {
        Self::under(&[("all", "ALLOW", ALLOW), ("some", "DENY", rules)], |run| run).await
    }

    /// Nobody is denied what the agent can do.
    pub(crate) async fn open() -> Result<Self> {
        Self::denying(&when("method", "Nothing")).await
    }

    pub(crate) async fn under(policies: &[(&str, &str, &str)], flags: impl Fn(Run) -> Run) -> Result<Self> {
        let mut setup = Setup::new()?;
        let pod = setup.pod("app", true).await?;
        let agent = Upstream::start(pod.port(PORT), agent::answer).await?;
        let service = setup.service("app", &[Port::new("agent", PORT).speaking("kubernetes.io/h2c")])?;
        for (name, action, rules) in policies {
            setup.policy(name, "app", action, rules)?;
        }
        let run = flags(setup.run());
        Ok(Self { mesh: setup.start_with(run).await?, agent, service, _pod: pod })
    }

    /// A workload of namespace `agents`.
    pub(crate) async fn peer(&self, name: &str) -> Result<Peer> {
        let authority = self.service.authority(PORT);
        let tunnel = self.mesh.peer("agents", name)?.connect(&authority).await?;
        Ok(Peer { client: Client::http2(tunnel).await?, authority })
    }
}

/// A rule of one condition on `http.a2a`.
pub(crate) fn when(key: &str, value: &str) -> String {
    format!("- when: [{{key: \"experimental.envoy.filters.http.a2a[{key}]\", values: [\"{value}\"]}}]")
}

/// A workload that talks to the agent.
pub(crate) struct Peer {
    client: Client,
    authority: String,
}

impl Peer {
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Reply> {
        let uri = format!("http://{}{}", self.authority, ask.path);
        let mut request = Request::builder().method(ask.method).uri(uri);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let body = request.body(full(ask.body.clone()))?;
        self.client.send(body).await.with_context(|| format!("{ask:?}"))
    }

    /// The same, with its answer still open.
    pub(crate) async fn open(&self, ask: &Ask) -> Result<http::Response<hyper::body::Incoming>> {
        let uri = format!("http://{}{}", self.authority, ask.path);
        let mut request = Request::builder().method(ask.method).uri(uri);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let request: Request<Body> = request.body(full(ask.body.clone()))?;
        self.client.open(request).await
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Ask {
    pub(crate) fn json_rpc(method: &str, params: &Value) -> Self {
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        Self::raw("/", &body.to_string())
    }

    /// A body of JSON as it stands.
    pub(crate) fn raw(path: &str, body: &str) -> Self {
        Self::rest("POST", path).body(body).with("content-type", "application/json")
    }

    pub(crate) fn rest(method: &'static str, path: &str) -> Self {
        Self { method, path: path.to_owned(), headers: Vec::new(), body: Bytes::new() }
    }

    /// One message of gRPC.
    pub(crate) fn grpc(path: &str, message: &[u8]) -> Self {
        let ask = Self::rest("POST", path).with("content-type", "application/grpc").with("te", "trailers");
        Self { body: frame(message), ..ask }
    }

    pub(crate) fn body(self, body: &str) -> Self {
        Self { body: Bytes::copy_from_slice(body.as_bytes()), ..self }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// One message behind its prefix.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.put_u32(u32::try_from(message.len()).expect("a small message"));
    frame.extend_from_slice(message);
    frame.into()
}

/// A field of text or of a message; short ones only.
pub(crate) fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 0x80).expect("a short field");
    [&[number << 3 | 2, length][..], value].concat()
}

/// What an answer says, whatever its binding: `ok`, or the refusal's code.
pub(crate) fn said(reply: &Reply) -> String {
    let grpc = reply.headers.get("grpc-status").or_else(|| reply.trailers.get("grpc-status"));
    if let Some(status) = grpc {
        return match status.to_str() {
            Ok("0") => "ok".to_owned(),
            other => format!("grpc {}", other.unwrap_or("?")),
        };
    }
    match reply.json() {
        Ok(json) if json["error"]["code"].is_i64() && json.get("jsonrpc").is_some() => {
            format!("rpc {}", json["error"]["code"])
        }
        Ok(_) if reply.status == StatusCode::OK => "ok".to_owned(),
        _ => format!("http {}", reply.status.as_u16()),
    }
}
