//! Two Services whose pods answer all callers: `app`, and `tools`, with a policy that makes the waypoint read MCP.

use anyhow::Result;
use portcullis_tests::load::{App, HIDDEN_TOOL, Sessions};
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::{Pod, Service, Setup};
use portcullis_tests::portcullis::Run;
use portcullis_tests::upstream::Echo;

/// Ports of the Services, by which callers choose one: MCP is that of `tools`.
pub(crate) const HTTP: u16 = 80;
pub(crate) const MCP: u16 = 81;
pub(crate) const GRPC: u16 = 82;
pub(crate) const TCP: u16 = 83;

/// Ports of the pods.
const APP: u16 = 8080;
const ECHO: u16 = 9000;

/// A key that all replicas share.
const KEY: [u8; 32] = [7; 32];

/// The Services, before any waypoint runs.
pub(crate) struct Site {
    pub(crate) setup: Setup,
    pub(crate) sessions: Sessions,
    app: Service,
    tools: Service,
    _pods: Vec<(Pod, App, Echo)>,
}

impl Site {
    pub(crate) async fn new() -> Result<Self> {
        let mut setup = Setup::new()?;
        let sessions = Sessions::default();
        let mut pods = Vec::new();
        for service in ["app", "app", "tools", "tools"] {
            let pod = setup.pod(service, true).await?;
            let app = App::start(pod.port(APP), sessions.clone()).await?;
            let echo = Echo::start(pod.port(ECHO), b"").await?;
            pods.push((pod, app, echo));
        }
        let port =
            |name, port, speaks, target_port| Port { target_port, ..Port::new(name, port).speaking(speaks) };
        let ports =
            [port("http", HTTP, "http", APP), port("grpc", GRPC, "grpc", APP), port("tcp", TCP, "tcp", ECHO)];
        let app = setup.service("app", &ports)?;
        let tools = setup.service("tools", &[port("mcp", MCP, "http", APP)])?;
        let rule = format!(
            "- to: [{{operation: {{paths: [/mcp]}}}}]
  when: [{{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [{HIDDEN_TOOL}]}}]"
        );
        setup.policy("not-the-vault", "tools", "DENY", &rule)?;
        Ok(Self { setup, sessions, app, tools, _pods: pods })
    }

    /// How a waypoint is started that shares its sessions with others, with these settings (YAML).
    pub(crate) fn run(&self, settings: &str) -> Result<Run> {
        use base64::Engine as _;
        let key = self.setup.file("session.key", &base64::engine::general_purpose::STANDARD.encode(KEY))?;
        let settings = self.setup.file("settings.yaml", settings)?;
        Ok(self.setup.run().arg("--session-key", key).arg("--settings", settings))
    }

    /// The authority of one of the ports.
    pub(crate) fn at(&self, port: u16) -> String {
        let service = if port == MCP { &self.tools } else { &self.app };
        service.authority(port)
    }
}
