//! Two Services behind a waypoint that istiod deployed, whose application answers whatever the callers ask.

use super::{App, Sessions, Way, get};
use anyhow::Result;
use portcullis_tests::http::{Client, Reply};
use portcullis_tests::istio::{Lab, Namespace, Pod, PodSpec};
use portcullis_tests::upstream::Echo;
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Inbound;
use std::net::Ipv4Addr;

/// Ports of the Service `app`.
pub(crate) const HTTP: u16 = 80;
pub(crate) const TCP: u16 = 81;

/// Port of the Service `rpc`, which has the same pods.
pub(crate) const GRPC: u16 = 82;

/// Ports of its pod.
const HTTP_TARGET: u16 = 8080;
const TCP_TARGET: u16 = 9000;

/// The name of the Gateway that we ship.
pub(crate) const WAYPOINT: &str = "portcullis";

/// What a user applies, with more for the container (YAML of its fields) and for the pod's `volumes`.
pub(crate) fn manifest(container: &str, volumes: &str) -> String {
    let shipped = include_str!("../../../../deploy/istio/waypoint.yaml");
    let image = shipped.lines().find(|line| line.trim_start().starts_with("image: "));
    let image = image.unwrap_or_else(|| panic!("the manifest that we ship names an image:\n{shipped}"));
    let column = |indent: usize, text: &str| {
        text.lines().map(|line| format!("\n{:indent$}{line}", "")).collect::<String>()
    };
    let more = format!("{image}{}{}", column(12, container), column(10, volumes));
    shipped.replace(image, &more)
}

/// The Services and their pods.
pub(crate) struct Site {
    pub(crate) namespace: Namespace,
    pub(crate) replicas: Vec<Replica>,
    /// MCP sessions of the application, which its pods share.
    pub(crate) sessions: Sessions,
    /// What its ztunnels trust beside the mesh's roots.
    roots: String,
    app: Ipv4Addr,
    rpc: Ipv4Addr,
}

/// A pod with its application.
pub(crate) struct Replica {
    pub(crate) ztunnel: Inbound,
    pub(crate) pod: Pod,
    _application: App,
    _echo: Echo,
}

impl Replica {
    async fn start(namespace: &Namespace, name: &str, sessions: Sessions, roots: &str) -> Result<Self> {
        let spec = PodSpec::new(name).service_account("app").label("app", "app");
        let pod = namespace.pod(&spec).await?;
        let ztunnel = pod.serve_hbone_trusting(roots).await?;
        let listener = pod.network.listen(pod.port(HTTP_TARGET))?;
        let application = App::on(listener, sessions);
        let echo = Echo::on(pod.network.listen(pod.port(TCP_TARGET))?, b"")?;
        Ok(Self { ztunnel, pod, _application: application, _echo: echo })
    }
}

impl Site {
    /// A namespace whose name begins with `name`, with the Gateway of `manifest` and no pod of it yet.
    pub(crate) async fn new(name: &str, manifest: &str) -> Result<Self> {
        Self::trusting(name, manifest, "").await
    }

    /// The same with ztunnels that trust these roots (PEM) beside the mesh's.
    pub(crate) async fn trusting(name: &str, manifest: &str, roots: &str) -> Result<Self> {
        let namespace = Lab::get()?.namespace(name).await?;
        namespace.apply(manifest).await?;
        namespace.apply(SERVICES).await?;
        let (app, rpc) = (namespace.service_address("app").await?, namespace.service_address("rpc").await?);
        let (sessions, roots) = (Sessions::default(), roots.to_owned());
        let mut site = Self { namespace, replicas: Vec::new(), sessions, roots, app, rpc };
        site.grow().await?;
        Ok(site)
    }

    /// One more pod.
    pub(crate) async fn grow(&mut self) -> Result<()> {
        let name = format!("app-{}", self.replicas.len());
        self.replicas.push(Replica::start(&self.namespace, &name, self.sessions.clone(), &self.roots).await?);
        let pods: Vec<_> = self.replicas.iter().map(|replica| &replica.pod).collect();
        self.namespace.endpoints("app", &pods).await?;
        self.namespace.endpoints("rpc", &pods).await
    }

    /// The authority of a CONNECT to one of the ports.
    pub(crate) fn at(&self, port: u16) -> String {
        format!("{}:{port}", if port == GRPC { self.rpc } else { self.app })
    }

    /// Waits until the waypoint knows the Service.
    pub(crate) async fn is_known(way: &Way) -> Result<()> {
        let mut last = String::new();
        wait::until_async("the waypoint carries requests", async || {
            let asked = ask(way, "/").await;
            last = format!("{asked:?}");
            Ok(asked.ok().filter(|reply| reply.status == 200))
        })
        .await
        .map(drop)
        .map_err(|error| error.context(last))
    }
}

/// GET of `path` on a stream of its own.
pub(crate) async fn ask(way: &Way, path: &str) -> Result<Reply> {
    Client::http1(way.open().await?).await?.send(get(path)?).await
}

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata: {name: app, labels: {istio.io/use-waypoint: portcullis}}
spec:
  selector: {app: app}
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: tcp, port: 81, targetPort: 9000, appProtocol: tcp}
---
apiVersion: v1
kind: Service
metadata: {name: rpc, labels: {istio.io/use-waypoint: portcullis}}
spec:
  selector: {app: app}
  ports:
  - {name: grpc, port: 82, targetPort: 8080, appProtocol: grpc}
";
