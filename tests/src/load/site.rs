//! Services whose pods answer all callers: `app`, `tools` with a policy that makes the waypoint read MCP, and `steady`, which
//! is `app` once more for streams that must not end when a pod of `app` does.

use super::{App, HIDDEN_TOOL, Sessions};
use crate::ca::Request;
use crate::manifests::Port;
use crate::mesh::{NAMESPACE, Pod, Service, Setup};
use crate::portcullis::Run;
use crate::upstream::Echo;
use crate::ztunnel::Outbound;
use anyhow::{Context as _, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Port of `app`.
pub const HTTP: u16 = 80;
/// Port of `tools`.
pub const MCP: u16 = 81;
/// Port of `app`.
pub const GRPC: u16 = 82;
/// Port of `app`.
pub const TCP: u16 = 83;

/// Ports of `steady`: HTTP and opaque.
pub const STEADY: u16 = 84;
/// See [`STEADY`].
pub const STEADY_TCP: u16 = 85;

/// Ports of the pods.
const APP: u16 = 8080;
const ECHO: u16 = 9000;

/// A key that all replicas share.
const KEY: [u8; 32] = [7; 32];

/// The Services, before any waypoint runs.
pub struct Site {
    /// What stands around the waypoints.
    pub setup: Setup,
    /// MCP sessions, which all pods share.
    pub sessions: Sessions,
    /// The pods, two for each Service but one for `steady`.
    pub pods: Vec<Replica>,
    app: Service,
    tools: Service,
    steady: Service,
}

/// A pod with its applications.
pub struct Replica {
    /// The pod.
    pub pod: Pod,
    /// Its Service.
    pub service: &'static str,
    app: Mutex<Option<App>>,
    _echo: Echo,
}

impl Replica {
    /// Ends its HTTP application, with all that is open, and starts it anew.
    pub async fn restart(&self, sessions: &Sessions) -> Result<()> {
        let before = self.app().take();
        if let Some(app) = before {
            app.end().await;
        }
        let app = App::start(self.pod.port(APP), sessions.clone()).await?;
        *self.app() = Some(app);
        Ok(())
    }

    /// Requests that have come to its HTTP application, if none of them is unanswered.
    #[must_use]
    pub fn all_answered(&self) -> Option<usize> {
        self.app().as_ref().filter(|app| app.unanswered() == 0).map(App::begun)
    }

    fn app(&self) -> MutexGuard<'_, Option<App>> {
        self.app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Site {
    /// Starts the pods.
    pub async fn new() -> Result<Self> {
        let mut setup = Setup::new()?;
        let sessions = Sessions::default();
        let mut pods = Vec::new();
        for service in ["app", "app", "tools", "tools", "steady"] {
            let pod = setup.pod(service, true).await?;
            let app = Mutex::new(Some(App::start(pod.port(APP), sessions.clone()).await?));
            let echo = Echo::start(pod.port(ECHO), b"").await?;
            pods.push(Replica { pod, service, app, _echo: echo });
        }
        let port =
            |name, port, speaks, target_port| Port { target_port, ..Port::new(name, port).speaking(speaks) };
        let ports =
            [port("http", HTTP, "http", APP), port("grpc", GRPC, "grpc", APP), port("tcp", TCP, "tcp", ECHO)];
        let app = setup.service("app", &ports)?;
        let tools = setup.service("tools", &[port("mcp", MCP, "http", APP)])?;
        let steady = setup
            .service("steady", &[port("http", STEADY, "http", APP), port("tcp", STEADY_TCP, "tcp", ECHO)])?;
        let rule = format!(
            "- to: [{{operation: {{paths: [/mcp]}}}}]
  when: [{{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [{HIDDEN_TOOL}]}}]"
        );
        setup.policy("not-the-vault", "tools", "DENY", &rule)?;
        Ok(Self { setup, sessions, pods, app, tools, steady })
    }

    /// New certificates with this life: one for the waypoint, on disk; one for each pod but those of `steady`; one for the source
    /// behind `ztunnel`. What is open keeps the one before.
    pub fn renew(&self, ztunnel: &Outbound, life: time::Duration) -> Result<()> {
        let ca = &self.setup.ca;
        let issue = |id: &str| ca.issue(&Request::workload(id).ending_in(life));
        let folder = self.setup.svid.key.parent().context("files lie in a folder")?;
        let waypoint = ca.id(NAMESPACE, "waypoint");
        issue(&waypoint)?.write_to(folder, ca.bundle_pem())?;
        for replica in self.pods.iter().filter(|replica| replica.service != "steady") {
            let inbound = replica.pod.ztunnel.as_ref().context("a pod of the mesh")?;
            inbound.renew(&issue(&replica.pod.id)?, ca.bundle_pem())?;
        }
        ztunnel.renew(ca.bundle_pem(), &issue(&ca.id("agents", "bot"))?, &waypoint)
    }

    /// How a waypoint is started that shares its sessions with others, with these settings (YAML).
    pub fn run(&self, settings: &str) -> Result<Run> {
        use base64::Engine as _;
        let key = self.setup.file("session.key", &base64::engine::general_purpose::STANDARD.encode(KEY))?;
        let settings = self.setup.file("settings.yaml", settings)?;
        Ok(self.setup.run().arg("--session-key", key).arg("--settings", settings))
    }

    /// The authority of one of the ports.
    #[must_use]
    pub fn at(&self, port: u16) -> String {
        let service = match port {
            MCP => &self.tools,
            STEADY | STEADY_TCP => &self.steady,
            _ => &self.app,
        };
        service.authority(port)
    }
}
