//! A real server, once with a waypoint before it and once without, for tests that compare the two.

use crate::addresses::Addresses;
use crate::forward::Forwarded;
use crate::manifests::Port;
use crate::mesh::{Mesh, Pod, Service, Setup};
use crate::neighbours::Runtime;
use crate::portcullis::Run;
use crate::process::Process;
use anyhow::Result;
use tokio::net::TcpListener;

const PORT: u16 = 8080;

/// A server script without a waypoint.
pub struct Direct {
    /// Where clients connect.
    pub port: Forwarded,
    _server: Process,
    _addresses: Addresses,
}

impl Direct {
    /// Starts `script` on an address of its own.
    pub async fn start(runtime: Runtime, script: &str) -> Result<Self> {
        let addresses = Addresses::lease()?;
        let address = addresses.socket(PORT);
        let server = runtime.serve(script, address).await?;
        Ok(Self { port: Forwarded::directly(address).await?, _server: server, _addresses: addresses })
    }
}

/// A server script behind a waypoint.
pub struct Stand {
    /// The mesh with the running waypoint.
    pub mesh: Mesh,
    /// The server's pod.
    pub pod: Pod,
    /// The Service before it.
    pub service: Service,
    _server: Process,
}

impl Stand {
    /// Starts `script` in a pod of the mesh, with one ALLOW policy of these `rules` on its Service, whose port
    /// declares `app_protocol`.
    pub async fn start(runtime: Runtime, script: &str, app_protocol: &str, rules: &str) -> Result<Self> {
        Self::start_with(runtime, script, app_protocol, rules, |run| run).await
    }

    /// The same, with the flags that `flags` adds.
    pub async fn start_with(
        runtime: Runtime,
        script: &str,
        app_protocol: &str,
        rules: &str,
        flags: impl FnOnce(Run) -> Run,
    ) -> Result<Self> {
        let mut setup = Setup::new()?;
        let pod = setup.pod("server", true).await?;
        let server = runtime.serve(script, pod.port(PORT)).await?;
        let service = setup.service("server", &[Port::new("app", PORT).speaking(app_protocol)])?;
        setup.policy("stand", "server", "ALLOW", rules)?;
        let run = flags(setup.run());
        Ok(Self { mesh: setup.start_with(run).await?, pod, service, _server: server })
    }

    /// A local port that reaches the Service as a workload of this ServiceAccount.
    pub async fn port_of(&self, namespace: &str, service_account: &str) -> Result<Forwarded> {
        self.mesh.peer(namespace, service_account)?.forward(&self.service.authority(PORT)).await
    }

    /// The same from a listener whose port had to be known before.
    pub fn port_from(
        &self,
        listener: TcpListener,
        namespace: &str,
        service_account: &str,
    ) -> Result<Forwarded> {
        self.mesh.peer(namespace, service_account)?.forward_from(listener, &self.service.authority(PORT))
    }
}
