//! A whole small mesh: a CA, pods with their ztunnels, manifests and the waypoint between.
//!
//! ```no_run
//! # use portcullis_tests::{manifests::Port, mesh::Setup, upstream::{self, Upstream}};
//! # async fn example() -> anyhow::Result<()> {
//! let mut setup = Setup::new()?;
//! let pod = setup.pod("github", true).await?;
//! let upstream = Upstream::start(pod.port(8080), |seen| upstream::result(seen, &serde_json::json!({}))).await?;
//! let github = setup.service("github", &[Port::new("mcp", 8080).speaking("http")])?;
//! setup.policy("readers", "github", "ALLOW", "- from: [{source: {serviceAccounts: [agents/bot]}}]")?;
//! let mesh = setup.start().await?;
//! let tunnel = mesh.peer("agents", "bot")?.connect(&github.authority(8080)).await?;
//! # Ok(()) }
//! ```

use crate::addresses::Addresses;
use crate::ca::{Ca, Svid, SvidFiles};
use crate::manifests::{self, Manifests, Port};
use crate::portcullis::{Portcullis, Run};
use crate::ztunnel::{Inbound, Outbound};
use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Namespace of the waypoint and of all services of a test mesh.
pub const NAMESPACE: &str = "tools";

/// ServiceAccount of the waypoint.
const WAYPOINT: &str = "waypoint";

/// A mesh whose waypoint has not been started yet.
pub struct Setup {
    /// The CA of the trust domain `cluster.local`.
    pub ca: Arc<Ca>,
    /// The test's own addresses.
    pub addresses: Addresses,
    /// What the waypoint will read.
    pub manifests: Manifests,
    /// Where the waypoint's SVID lies; write there to rotate it.
    pub svid: SvidFiles,
    certificates: TempDir,
    services: u8,
    pods: usize,
}

impl Setup {
    /// A mesh with nothing but a waypoint's Gateway and identity.
    pub fn new() -> Result<Self> {
        let ca = Arc::new(Ca::new("cluster.local")?);
        let certificates = tempfile::Builder::new().prefix("portcullis-svid").tempdir()?;
        let svid = ca.svid(&ca.id(NAMESPACE, WAYPOINT))?.write_to(certificates.path(), ca.bundle_pem())?;
        let manifests = Manifests::new()?;
        manifests.write("gateway", &[manifests::gateway(NAMESPACE, WAYPOINT)])?;
        let addresses = Addresses::lease()?;
        Ok(Self { ca, addresses, manifests, svid, certificates, services: 0, pods: 0 })
    }

    /// A pod of the service `app`, running as ServiceAccount `app`. With `in_mesh` its ztunnel is started, else the
    /// waypoint reaches it by plain TCP.
    pub async fn pod(&mut self, app: &str, in_mesh: bool) -> Result<Pod> {
        let address = self.addresses.next();
        let id = self.ca.id(NAMESPACE, app);
        let ztunnel = match in_mesh {
            true => Some(Inbound::start(&self.ca, &self.ca.svid(&id)?, address).await?),
            false => None,
        };
        self.pods += 1;
        let name = format!("{app}-{}", self.pods);
        let pod =
            manifests::Pod { namespace: NAMESPACE, name: &name, app, service_account: app, address, in_mesh };
        self.manifests.write(&format!("pod-{name}"), &[pod.manifest()])?;
        Ok(Pod { name, address, id, ztunnel })
    }

    /// A Service that selects the pods of `name`.
    pub fn service(&mut self, name: &str, ports: &[Port]) -> Result<Service> {
        self.services += 1;
        let vip = Ipv4Addr::new(10, 96, 0, self.services);
        self.manifests
            .write(&format!("service-{name}"), &[manifests::service(NAMESPACE, name, vip, ports)])?;
        Ok(Service { name: name.to_owned(), vip })
    }

    /// Writes or replaces an AuthorizationPolicy; see [`manifests::policy`].
    pub fn policy(&self, name: &str, service: &str, action: &str, rules: &str) -> Result<()> {
        write_policy(&self.manifests, name, service, action, rules)
    }

    /// Writes a file that a flag is to name, beside the SVID.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.certificates.path().join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// How the waypoint would be started, to add flags to.
    #[must_use]
    pub fn run(&self) -> Run {
        Run::new(self.manifests.folder(), &self.svid).arg("--gateway", format!("{NAMESPACE}/{WAYPOINT}"))
    }

    /// Starts the waypoint.
    pub async fn start(self) -> Result<Mesh> {
        let run = self.run();
        self.start_with(run).await
    }

    /// Starts the waypoint with these flags.
    pub async fn start_with(self, run: Run) -> Result<Mesh> {
        let portcullis = Portcullis::start(&run).await?;
        Ok(Mesh { portcullis, setup: self })
    }
}

/// A running mesh.
pub struct Mesh {
    /// The waypoint.
    pub portcullis: Portcullis,
    /// Everything around it.
    pub setup: Setup,
}

impl Mesh {
    /// The SPIFFE id of the waypoint.
    #[must_use]
    pub fn waypoint_id(&self) -> String {
        self.setup.ca.id(NAMESPACE, WAYPOINT)
    }

    /// The ztunnel of a source pod with this ServiceAccount.
    pub fn peer(&self, namespace: &str, service_account: &str) -> Result<Outbound> {
        let ca = &self.setup.ca;
        self.peer_with(&ca.svid(&ca.id(namespace, service_account))?)
    }

    /// The ztunnel of a source pod with this certificate.
    pub fn peer_with(&self, svid: &Svid) -> Result<Outbound> {
        Outbound::new(&self.setup.ca, svid, self.portcullis.address("hbone")?, &self.waypoint_id())
    }

    /// Replaces an AuthorizationPolicy and waits until the waypoint works by it.
    pub async fn change_policy(&self, name: &str, service: &str, action: &str, rules: &str) -> Result<()> {
        let before = self.portcullis.generation().await?;
        write_policy(&self.setup.manifests, name, service, action, rules)?;
        self.portcullis.newer_than(before).await?;
        Ok(())
    }

    /// Puts a new SVID of the waypoint on disk, as a certificate agent would.
    pub fn rotate(&self, svid: &Svid) -> Result<()> {
        svid.write_to(self.setup.certificates.path(), self.setup.ca.bundle_pem())?;
        Ok(())
    }
}

fn write_policy(manifests: &Manifests, name: &str, service: &str, action: &str, rules: &str) -> Result<()> {
    let policy = manifests::policy(NAMESPACE, name, service, action, rules);
    manifests.write(&format!("policy-{name}"), &[policy])
}

/// A destination pod. Its application is started by the test, on [`Pod::port`].
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its SPIFFE id.
    pub id: String,
    /// Its ztunnel, if it is in the mesh.
    pub ztunnel: Option<Inbound>,
}

impl Pod {
    /// Where an application of the pod listens.
    #[must_use]
    pub fn port(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }
}

/// A Service of the mesh.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its address, which exists only inside CONNECT authorities.
    pub vip: Ipv4Addr,
}

impl Service {
    /// The authority by which a ztunnel asks for a port of it.
    #[must_use]
    pub fn authority(&self, port: u16) -> String {
        format!("{}:{port}", self.vip)
    }
}
