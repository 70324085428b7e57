//! What changes all the time: policies, Services, certificates, endpoints.

use crate::http::{Client, empty};
use crate::load::HIDDEN_TOOL;
use crate::load::site::{Replica, Site};
use crate::manifests::{self, Port};
use crate::mesh::NAMESPACE;
use crate::portcullis::{Metrics, Portcullis};
use crate::wait;
use crate::ztunnel::{Inbound, Outbound};
use anyhow::Result;
use http::Method;
use serde::Serialize;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// A change of the configuration, and new certificates, each second.
const CHANGE: Duration = Duration::from_secs(1);

/// Pause between two restarts of an endpoint's application.
const RESTART: Duration = Duration::from_secs(3);

/// How long no request may have come to a pod that has left: those that chose it before are over then.
const QUIET: Duration = Duration::from_secs(2);

/// How long certificates live: of the waypoint, of endpoints, of the source behind most callers.
pub(super) const LIFE: time::Duration = time::Duration::seconds(5);

/// Services besides those that are asked.
const MORE_SERVICES: u64 = 20;

/// What was changed, how often.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Churned {
    /// Policies and Services rewritten.
    pub configurations: u64,
    /// Times that all certificates were renewed.
    pub certificates: u64,
    /// Applications of endpoints ended and started anew.
    pub restarts: u64,
    /// Pods, or applications of pods, that died.
    pub deaths: u64,
}

/// Who changes it.
pub(super) struct Churn {
    site: Site,
    /// The source whose certificate is renewed.
    renewed: Outbound,
    metrics: SocketAddr,
}

impl Churn {
    pub(super) fn new(site: Site, renewed: Outbound, portcullis: &Portcullis) -> Result<Self> {
        for replica in &site.pods {
            replica.pod.ztunnel.iter().for_each(Inbound::forget);
        }
        Ok(Self { site, renewed, metrics: portcullis.address("metrics")? })
    }

    /// Changes everything until then, and tells what was changed.
    pub(super) async fn run_until(&self, end: Instant) -> Result<Churned> {
        let (changes, restarts) = tokio::try_join!(self.change_until(end), self.restart_until(end))?;
        Ok(Churned { configurations: changes, certificates: changes, restarts, deaths: 0 })
    }

    /// What it stands in, without the source.
    pub(super) fn into_site(self) -> Site {
        self.site
    }

    async fn change_until(&self, end: Instant) -> Result<u64> {
        let mut pace = interval(CHANGE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = 0;
        while Instant::now() < end {
            pace.tick().await;
            policies(&self.site, turn)?;
            self.services(turn)?;
            self.site.renew(&self.renewed, LIFE)?;
            turn += 1;
        }
        Ok(turn)
    }

    async fn restart_until(&self, end: Instant) -> Result<u64> {
        let mut pace = interval(RESTART);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let pods: Vec<_> = self.site.pods.iter().filter(|replica| replica.service == "app").collect();
        let mut turn = 0;
        for replica in pods.iter().cycle() {
            pace.tick().await;
            if Instant::now() >= end {
                break;
            }
            self.restart(replica).await?;
            turn += 1;
        }
        Ok(turn)
    }

    /// One Service comes or goes, and one changes its ports.
    fn services(&self, turn: u64) -> Result<()> {
        let manifests = &self.site.setup.manifests;
        let number = u8::try_from(turn % MORE_SERVICES)?;
        let name = format!("more-{number}");
        let ports = [Port::new("web", 1000 + u16::try_from(turn % 100)?).speaking("http")];
        let there = (turn / MORE_SERVICES) % 2 == 1 && turn.is_multiple_of(3);
        if there {
            return manifests.remove(&format!("service-{name}"));
        }
        let address = Ipv4Addr::new(10, 96, 1, number);
        let service = manifests::service(NAMESPACE, &name, address, &ports);
        manifests.write(&format!("service-{name}"), &[service])
    }

    /// A pod leaves, its application starts anew, and it comes back, as in a rollout.
    async fn restart(&self, replica: &Replica) -> Result<()> {
        let file = format!("pod-{}", replica.pod.name);
        let before = self.generation().await?;
        let pod = self.site.setup.manifests.take(&file)?;
        self.newer_than(before).await?;
        let mut last = (None, Instant::now());
        wait::until("nobody asks the pod any more", || {
            let now = replica.all_answered();
            if now.is_none() || now != last.0 {
                last = (now, Instant::now());
            }
            (last.1.elapsed() >= QUIET).then_some(())
        })
        .await?;
        replica.restart(&self.site.sessions).await?;
        self.site.setup.manifests.write(&file, &[pod])
    }

    async fn generation(&self) -> Result<f64> {
        let client = Client::http1(TcpStream::connect(self.metrics).await?).await?;
        let request =
            http::Request::builder().method(Method::GET).uri("/stats/prometheus").header("host", "metrics");
        let scrape = Metrics(client.send(request.body(empty())?).await?.text());
        Ok(scrape.sum("portcullis_config_generation", &[]))
    }

    async fn newer_than(&self, before: f64) -> Result<()> {
        wait::until_async("a newer configuration is in force", async || {
            Ok((self.generation().await? > before).then_some(()))
        })
        .await
    }
}

/// Says the same about the callers each time, in other words.
pub(super) fn policies(site: &Site, turn: u64) -> Result<()> {
    let vault = format!(
        "- to: [{{operation: {{paths: [/vault, /vault/{turn}], ports: [\"80\"]}}}}]
- from: [{{source: {{principals: [cluster.local/ns/agents/sa/stranger, cluster.local/ns/agents/sa/{turn}]}}}}]"
    );
    site.setup.policy("vault", "app", "DENY", &vault)?;
    let tool = format!(
        "- to: [{{operation: {{paths: [/mcp]}}}}]
  when: [{{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [{HIDDEN_TOOL}, \"{turn}\"]}}]"
    );
    site.setup.policy("not-the-vault", "tools", "DENY", &tool)
}
