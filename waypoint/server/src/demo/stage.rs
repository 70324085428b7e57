//! Everything around the waypoint: addresses, certificates, manifests, the servers with their ztunnels, and the agents.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hbone::Target;
use spiffe_id::SpiffeId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::addresses::{Block, same_port};
use super::agent::{Agent, Dial};
use super::authority::{self, Authority, SvidFiles};
use super::folder::Folder;
use super::github::{self, Forge};
use super::ledger;
use super::ztunnel::Ztunnel;

/// ServiceAccount of the waypoint.
const WAYPOINT: &str = "tools/waypoint";

/// Pods with a ztunnel before them, in the order of their addresses, and their ServiceAccounts.
const PODS: [&str; 3] = ["tools/github", "tools/github", "tools/ledger"];

/// The world without the waypoint. Servers stop when it is dropped.
pub(super) struct Stage {
    /// Manifests and certificates on disk.
    pub(super) folder: Folder,
    /// The MCP server's Service.
    pub(super) github: Service,
    /// The TCP Service.
    pub(super) ledger: Service,
    /// What the MCP server did.
    pub(super) forge: Arc<Forge>,
    authority: Authority,
    block: Block,
    svid: SvidFiles,
    waypoint: SpiffeId,
    _servers: JoinSet<()>,
}

/// A Service of the mesh.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// Its host name.
    pub(super) host: &'static str,
    /// What a ztunnel asks a tunnel for: its address and port.
    pub(super) target: Target,
    /// Where its first pod really listens.
    pub(super) app: SocketAddr,
}

/// The workloads that call.
pub(super) struct Cast {
    /// Reads.
    pub(super) researcher: Agent,
    /// Reads and writes.
    pub(super) coder: Agent,
    /// Searches.
    pub(super) intern: Agent,
    /// Looks at everything that is written down.
    pub(super) auditor: Agent,
    /// Gets nothing.
    pub(super) scraper: Agent,
}

impl Cast {
    /// All of them.
    pub(super) fn all(&self) -> [&Agent; 5] {
        [&self.researcher, &self.coder, &self.intern, &self.auditor, &self.scraper]
    }
}

impl Stage {
    /// Starts the servers and writes what the waypoint will read.
    pub(super) async fn set() -> Result<Self> {
        let (block, ztunnels) = Block::lease(u8::try_from(PODS.len())?).await?;
        let authority = Authority::new()?;
        let waypoint = authority::id(WAYPOINT)?;
        let forge = Arc::new(Forge::default());
        let mut servers = JoinSet::new();

        for ((account, listener), place) in PODS.into_iter().zip(ztunnels).zip(1..) {
            let (tls, address) = (authority.tls(&authority::id(account)?)?, block.address(place));
            servers.spawn(Ztunnel { tls, address, waypoint: waypoint.clone() }.serve(listener));
        }
        let github = Self::github(block, &forge, &mut servers).await?;
        let ledger = Self::ledger(block, &mut servers).await?;

        let folder = Folder::write(&values(block, &github, &ledger))?;
        let svid = authority.issue(&waypoint)?.write(&folder.path().join("waypoint"))?;
        Ok(Self { folder, github, ledger, forge, authority, block, svid, waypoint, _servers: servers })
    }

    async fn github(block: Block, forge: &Arc<Forge>, servers: &mut JoinSet<()>) -> Result<Service> {
        let host = "github.tools.svc.cluster.local";
        let (port, pods) = same_port(&[block.address(1), block.address(2)]).await?;
        for listener in pods {
            servers.spawn(github::serve(listener, host.to_owned(), Arc::clone(forge)));
        }
        Ok(Service { host, target: vip(1, 80), app: (block.address(1), port).into() })
    }

    async fn ledger(block: Block, servers: &mut JoinSet<()>) -> Result<Service> {
        let listener = TcpListener::bind((block.address(3), 0)).await?;
        let app = listener.local_addr()?;
        servers.spawn(ledger::serve(listener));
        Ok(Service { host: "ledger.tools.svc.cluster.local", target: vip(2, 7000), app })
    }

    /// The command line by which `portcullis` would serve this folder; the demo starts its waypoint from the very same.
    pub(super) fn run_flags(&self) -> Vec<String> {
        let Self { svid, folder, .. } = self;
        let mut flags: Vec<String> = ["run", "--gateway", WAYPOINT].map(str::to_owned).into();
        let paths = [
            ("--manifests", &folder.manifests()),
            ("--cert-chain", &svid.chain),
            ("--key", &svid.key),
            ("--trust-bundle", &svid.bundle),
        ];
        for (flag, path) in paths {
            flags.extend([flag.to_owned(), path.display().to_string()]);
        }
        for listener in ["--hbone-address", "--admin-address", "--metrics-address", "--ready-address"] {
            flags.extend([listener.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        flags
    }

    /// The agents, each with its own certificate and address, at a waypoint that listens there.
    pub(super) fn cast(&self, hbone: SocketAddr) -> Result<Cast> {
        let agent = |account: &'static str, place: u8| -> Result<Agent> {
            let (_, name) = account.split_once('/').context("namespace/name")?;
            let id = authority::id(account)?;
            let dial = Dial { tls: self.authority.tls(&id)?, from: self.block.address(place), to: hbone };
            Ok(Agent::new(name, id, dial, self.waypoint.clone()))
        };
        Ok(Cast {
            researcher: agent("agents/researcher", RESEARCHER)?,
            coder: agent("agents/coder", CODER)?,
            intern: agent("agents/intern", INTERN)?,
            auditor: agent("ops/auditor", AUDITOR)?,
            scraper: agent("agents/scraper", SCRAPER)?,
        })
    }
}

const RESEARCHER: u8 = 11;
const CODER: u8 = 12;
const INTERN: u8 = 13;
const AUDITOR: u8 = 14;
const SCRAPER: u8 = 15;

/// A Service's address. Nobody listens there: it exists inside CONNECT alone.
fn vip(last: u8, port: u16) -> Target {
    Target::Addr((Ipv4Addr::new(10, 96, 7, last), port).into())
}

fn values(block: Block, github: &Service, ledger: &Service) -> Vec<(&'static str, String)> {
    let ip = |target: &Target| match target {
        Target::Addr(address) => address.ip().to_string(),
        Target::Host { name, .. } => name.to_string(),
    };
    let pod = |last: u8| block.address(last).to_string();
    vec![
        ("GITHUB_VIP", ip(&github.target)),
        ("GITHUB_PORT", github.app.port().to_string()),
        ("LEDGER_VIP", ip(&ledger.target)),
        ("LEDGER_PORT", ledger.app.port().to_string()),
        ("GITHUB_1", pod(1)),
        ("GITHUB_2", pod(2)),
        ("LEDGER_1", pod(3)),
        ("RESEARCHER", pod(RESEARCHER)),
        ("CODER", pod(CODER)),
        ("INTERN", pod(INTERN)),
        ("AUDITOR", pod(AUDITOR)),
        ("SCRAPER", pod(SCRAPER)),
    ]
}
