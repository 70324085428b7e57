//! The mesh of most tests: one Service called `app` with one pod, and three ports that carry different things.

use crate::frames::Frames;
use crate::manifests::Port;
use crate::mesh::{Mesh, Pod, Service, Setup};
use crate::portcullis::Run;
use crate::tls;
use crate::ztunnel::{Outbound, TunnelStream};
use anyhow::Result;

/// A port that is declared to carry HTTP.
pub const HTTP: u16 = 8080;
/// A port that is declared to carry TCP.
pub const RAW: u16 = 9000;
/// A port that declares nothing, so that its first bytes tell.
pub const ANY: u16 = 7000;

/// A mesh with one Service that has not been started yet.
pub struct Single {
    /// Everything around the waypoint.
    pub setup: Setup,
    /// The only pod.
    pub pod: Pod,
    /// The only Service.
    pub service: Service,
}

impl Single {
    /// A pod that is reached by HBONE if `in_mesh`, else by plain TCP, and its Service.
    pub async fn new(in_mesh: bool) -> Result<Self> {
        let mut setup = Setup::new()?;
        let pod = setup.pod("app", in_mesh).await?;
        let ports = [
            Port::new("web", HTTP).speaking("http"),
            Port::new("raw", RAW).speaking("tcp"),
            Port::new("any", ANY),
        ];
        let service = setup.service("app", &ports)?;
        Ok(Self { setup, pod, service })
    }

    /// Starts the waypoint.
    pub async fn start(self) -> Result<Running> {
        Ok(Running { mesh: self.setup.start().await?, pod: self.pod, service: self.service })
    }

    /// Starts the waypoint as `run` says.
    pub async fn start_with(self, run: Run) -> Result<Running> {
        Ok(Running { mesh: self.setup.start_with(run).await?, pod: self.pod, service: self.service })
    }

    /// Starts the waypoint with these settings (YAML).
    pub async fn start_with_settings(self, settings: &str) -> Result<Running> {
        let path = self.setup.file("settings.yaml", settings)?;
        let run = self.setup.run().arg("--settings", path);
        Ok(Running { mesh: self.setup.start_with(run).await?, pod: self.pod, service: self.service })
    }
}

/// The running mesh.
pub struct Running {
    /// The waypoint and everything around it.
    pub mesh: Mesh,
    /// The only pod.
    pub pod: Pod,
    /// The only Service.
    pub service: Service,
}

impl Running {
    /// A mesh whose pod is reached by HBONE, with its waypoint started.
    pub async fn start() -> Result<Self> {
        Single::new(true).await?.start().await
    }

    /// The ztunnel of a pod that runs as `agents/bot`.
    pub fn bot(&self) -> Result<Outbound> {
        self.mesh.peer("agents", "bot")
    }

    /// A connection of `agents/bot` of which the test sees every frame.
    pub async fn frames(&self) -> Result<Frames> {
        let ca = &self.mesh.setup.ca;
        let svid = ca.svid(&ca.id("agents", "bot"))?;
        let config = tls::client_config(&svid, ca.bundle_pem(), &self.mesh.waypoint_id())?;
        Frames::dial(config, self.mesh.portcullis.address("hbone")?).await
    }

    /// A tunnel of `agents/bot` to a port of the Service.
    pub async fn tunnel(&self, port: u16) -> Result<TunnelStream> {
        self.bot()?.connect(&self.service.authority(port)).await
    }
}
