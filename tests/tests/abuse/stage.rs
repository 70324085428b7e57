//! One waypoint before one recording MCP server, and the peers that may do some of what it offers.

use anyhow::Result;
use http::{Response, StatusCode};
use portcullis_tests::http::Body;
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::{Mesh, Pod, Service, Setup};
use portcullis_tests::portcullis::Run;
use portcullis_tests::upstream::{self, Seen, Upstream};
use portcullis_tests::ztunnel::{Outbound, TunnelStream};
use serde_json::{Value, json};

/// Port of the server.
pub(crate) const PORT: u16 = 8080;

/// What `agents/bot` may do on `/mcp`: the tool `alpha` and some oddly named ones, never `beta`; one prompt; public
/// resources. `agents/twin` may do the same, `agents/reader` may call `beta` only.
pub(crate) const RULES: &str = r#"
- from: [{source: {serviceAccounts: [agents/bot, agents/twin]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [alpha, get_x, "é"]}]
- from: [{source: {serviceAccounts: [agents/bot, agents/twin]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[prompt]", values: [hello]}]
- from: [{source: {serviceAccounts: [agents/bot, agents/twin]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[resource]", values: ["file:///public/*"]}]
- from: [{source: {serviceAccounts: [agents/reader]}}]
  to: [{operation: {paths: ["/mcp"]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [beta]}]
"#;

/// A mesh before the waypoint is started: Service `app`, one pod in the mesh, and its server.
pub(crate) struct Scene {
    pub(crate) setup: Setup,
    pub(crate) upstream: Upstream,
    pub(crate) service: Service,
    pub(crate) pod: Pod,
}

impl Scene {
    /// With the usual rules.
    pub(crate) async fn new(
        script: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::under(RULES, script).await
    }

    /// With one ALLOW policy of these rules.
    pub(crate) async fn under(
        rules: &str,
        script: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static,
    ) -> Result<Self> {
        let mut setup = Setup::new()?;
        let pod = setup.pod("app", true).await?;
        let upstream = Upstream::start(pod.port(PORT), script).await?;
        let service = setup.service("app", &[Port::new("mcp", PORT).speaking("http")])?;
        setup.policy("rules", "app", "ALLOW", rules)?;
        Ok(Self { setup, upstream, service, pod })
    }

    /// Starts the waypoint with further flags.
    pub(crate) async fn start(self, flags: &[(&str, &str)]) -> Result<Stage> {
        let run = flags.iter().fold(self.setup.run(), |run, (flag, value)| run.arg(flag, value));
        self.start_with(run).await
    }

    /// Starts the waypoint as `run` says.
    pub(crate) async fn start_with(self, run: Run) -> Result<Stage> {
        let mesh = self.setup.start_with(run).await?;
        Ok(Stage { mesh, upstream: self.upstream, service: self.service, _pod: self.pod })
    }
}

/// A running waypoint before its server.
pub(crate) struct Stage {
    pub(crate) mesh: Mesh,
    pub(crate) upstream: Upstream,
    pub(crate) service: Service,
    _pod: Pod,
}

impl Stage {
    /// The usual server under the usual rules.
    pub(crate) async fn start() -> Result<Self> {
        Scene::new(server).await?.start(&[]).await
    }

    /// The ztunnel of a workload in namespace `agents`.
    pub(crate) fn peer(&self, name: &str) -> Result<Peer> {
        Ok(Peer { outbound: self.mesh.peer("agents", name)?, authority: self.service.authority(PORT) })
    }
}

/// A workload that talks to the Service.
pub(crate) struct Peer {
    pub(crate) outbound: Outbound,
    pub(crate) authority: String,
}

impl Peer {
    /// A fresh stream to the Service.
    pub(crate) async fn stream(&self) -> Result<TunnelStream> {
        self.outbound.connect(&self.authority).await
    }
}

/// The usual server: runs whatever it is asked, as real servers do when nobody stops them.
pub(crate) fn server(seen: &Seen) -> Response<Body> {
    match seen.json() {
        Value::Array(messages) => {
            let answers: Vec<Value> = messages.iter().filter_map(answer).collect();
            if answers.is_empty() { upstream::accepted() } else { upstream::json(&Value::Array(answers)) }
        }
        Value::Object(_) => match answer(&seen.json()) {
            Some(answer) => upstream::json(&answer),
            None => upstream::accepted(),
        },
        _ => upstream::text(StatusCode::OK, "not JSON, and run anyway"),
    }
}

fn answer(message: &Value) -> Option<Value> {
    let id = message.get("id").filter(|_| message.get("method").is_some())?;
    Some(json!({"jsonrpc": "2.0", "id": id, "result": {"ran": message["method"]}}))
}

/// A call of a tool, as text.
pub(crate) fn call(id: &str, tool: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}"}}}}"#)
}
