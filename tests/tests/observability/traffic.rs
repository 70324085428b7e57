//! A mesh with a bit of everything: MCP calls that are allowed, refused and failing, lists, gRPC, opaque TCP, strangers.

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use portcullis_tests::http::{Body, Client, full, post_json};
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::{Mesh, Pod, Service, Setup};
use portcullis_tests::upstream::{self, Echo, Seen, Upstream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const MCP: u16 = 8080;
const GRPC: u16 = 8081;
const RAW: u16 = 9000;

/// `search` and `crash` may be called; `drop` may not.
const RULES: &str = r#"
- from: [{source: {serviceAccounts: [agents/bot]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [search, crash]}]
"#;
const ANYTHING: &str = "- from: [{source: {serviceAccounts: [agents/bot]}}]";

/// Two messages of three bytes.
const MESSAGES: &[u8] = b"\0\0\0\0\x03one\0\0\0\0\x03two";

/// The running mesh.
pub(crate) struct Traffic {
    pub(crate) mesh: Mesh,
    mcp: Service,
    rpc: Service,
    raw: Service,
    gone: Service,
    _pods: [Pod; 3],
    _servers: (Upstream, Upstream, Echo),
}

impl Traffic {
    pub(crate) async fn start() -> Result<Self> {
        let mut setup = Setup::new()?;
        let pods =
            [setup.pod("github", true).await?, setup.pod("rpc", true).await?, setup.pod("raw", true).await?];
        let [github, echo, bytes] = &pods;
        let servers = (
            Upstream::start(github.port(MCP), tools).await?,
            Upstream::start(echo.port(GRPC), messages).await?,
            Echo::start(bytes.port(RAW), b"hello").await?,
        );
        let mcp = setup.service("github", &[Port::new("mcp", MCP).speaking("http")])?;
        let rpc = setup.service("rpc", &[Port::new("rpc", GRPC).speaking("grpc")])?;
        let raw = setup.service("raw", &[Port::new("raw", RAW).speaking("tcp")])?;
        // Nobody is behind it.
        let gone = setup.service("gone", &[Port::new("web", MCP).speaking("http")])?;
        setup.policy("readers", "github", "ALLOW", RULES)?;
        for service in ["rpc", "raw", "gone"] {
            setup.policy(service, service, "ALLOW", ANYTHING)?;
        }
        Ok(Self { mesh: setup.start().await?, mcp, rpc, raw, gone, _pods: pods, _servers: servers })
    }

    /// A round of everything.
    pub(crate) async fn round(&self) -> Result<()> {
        let peer = self.mesh.peer("agents", "bot")?;
        let client = Client::http1(peer.connect(&self.mcp.authority(MCP)).await?).await?;
        for body in [
            asks("tools/list", json!({})),
            asks("tools/call", json!({"name": "search", "arguments": {}})),
            asks("tools/call", json!({"name": "crash", "arguments": {}})),
            asks("tools/call", json!({"name": "drop", "arguments": {}})),
        ] {
            client.send(post_json("/mcp", "github", &body)?).await?;
        }
        let client = Client::http1(peer.connect(&self.gone.authority(MCP)).await?).await?;
        client.send(Request::get("/").header("host", "gone").body(full(""))?).await?;
        let client = Client::http2(peer.connect(&self.rpc.authority(GRPC)).await?).await?;
        let call = Request::post("http://rpc/echo.Echo/Both").header("content-type", "application/grpc");
        client.send(call.body(full(MESSAGES))?).await?;
        let mut stream = peer.connect(&self.raw.authority(RAW)).await?;
        stream.write_all(b"bytes").await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut Vec::new()).await?;
        self.stranger().await
    }

    /// Somebody who does not even speak TLS.
    async fn stranger(&self) -> Result<()> {
        let mut tcp = TcpStream::connect(self.mesh.portcullis.address("hbone")?).await?;
        tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let _ended = tcp.read_to_end(&mut Vec::new()).await;
        Ok(())
    }
}

fn asks(method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn tools(seen: &Seen) -> Response<Body> {
    match (seen.json()["method"].as_str(), seen.json()["params"]["name"].as_str()) {
        (Some("tools/list"), _) => {
            let tools: Vec<Value> = ["search", "crash", "drop"].map(|name| json!({"name": name})).into();
            upstream::result(seen, &json!({"tools": tools}))
        }
        (_, Some("crash")) => upstream::text(StatusCode::INTERNAL_SERVER_ERROR, "crashed"),
        _ => upstream::result(seen, &json!({"content": []})),
    }
}

fn messages(_: &Seen) -> Response<Body> {
    let mut response = upstream::text(StatusCode::OK, Bytes::from_static(MESSAGES));
    let headers = response.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", http::HeaderValue::from_static("0"));
    response
}
