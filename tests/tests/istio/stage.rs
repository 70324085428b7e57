//! What the tests of behaviour share: a waypoint that istiod deployed and feeds, Istio's echo servers behind it, and
//! clients with certificates of their own.

use anyhow::{Context, Result};
use http::Request;
use portcullis_tests::http::{Body, Client, Reply, empty};
use portcullis_tests::istio::{Echo, Lab, Namespace, Pod, PodSpec, Waypoint, WaypointSettings, echo};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Outbound;
use std::net::Ipv4Addr;
use std::path::Path;

/// Ports of every [`Service`].
pub(crate) const HTTP: u16 = 80;
pub(crate) const HTTP2: u16 = 81;
pub(crate) const GRPC: u16 = 82;
pub(crate) const TCP: u16 = 83;
pub(crate) const SERVER_FIRST: u16 = 84;
pub(crate) const HTTPS: u16 = 85;

/// The same servers on ports that do not say what they speak.
pub(crate) const AUTO_HTTP: u16 = 90;
pub(crate) const AUTO_GRPC: u16 = 92;
pub(crate) const AUTO_TCP: u16 = 93;
pub(crate) const AUTO_SERVER_FIRST: u16 = 94;
pub(crate) const AUTO_HTTPS: u16 = 95;

/// The name of the Gateway that we ship.
pub(crate) const WAYPOINT: &str = "portcullis";

/// What a user applies (docs and `deploy/README.md` say so).
pub(crate) fn manifest() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/istio/waypoint.yaml");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// A namespace with a waypoint.
pub(crate) struct Stage {
    pub(crate) namespace: Namespace,
    pub(crate) waypoint: Waypoint,
}

impl Stage {
    /// A namespace whose name begins with `name`, and a ready waypoint in it, for Services.
    pub(crate) async fn new(name: &str) -> Result<Self> {
        Self::with(name, &manifest()?, &WaypointSettings::default()).await
    }

    /// The same from another manifest of the Gateway, and with settings.
    pub(crate) async fn with(name: &str, manifest: &str, settings: &WaypointSettings) -> Result<Self> {
        let namespace = Lab::get()?.namespace(name).await?;
        namespace.apply(manifest).await?;
        let waypoint = namespace.waypoint_with(WAYPOINT, settings).await?;
        Ok(Self { namespace, waypoint })
    }

    /// An echo Service behind the waypoint, with a pod for each of `versions`.
    pub(crate) async fn service(&self, name: &str, versions: &[&str]) -> Result<Service> {
        let bound = format!("istio.io/use-waypoint: {WAYPOINT}");
        Service::new(&self.namespace, name, &bound, versions).await
    }

    /// A pod that calls through the waypoint.
    pub(crate) async fn client(&self, name: &str) -> Result<Caller> {
        let pod = self.namespace.pod(&PodSpec::new(name)).await?;
        Caller::new(pod, &self.waypoint).await
    }
}

/// A Service with Istio's echo servers.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) vip: Ipv4Addr,
    pub(crate) pods: Vec<Pod>,
    pub(crate) servers: Vec<Echo>,
}

impl Service {
    /// A Service with `labels` (YAML of a flow mapping), and a pod in the mesh for each of `versions`.
    pub(crate) async fn new(
        namespace: &Namespace,
        name: &str,
        labels: &str,
        versions: &[&str],
    ) -> Result<Self> {
        namespace.apply(&manifest_of(name, labels)).await?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for version in versions {
            let spec = PodSpec::new(&format!("{name}-{version}")).service_account(name);
            let pod = namespace.pod(&spec.label("app", name).label("version", version)).await?;
            servers.push(pod.echo(version).await?);
            pods.push(pod);
        }
        namespace.endpoints(name, &pods.iter().collect::<Vec<_>>()).await?;
        let vip = namespace.service_address(name).await?;
        Ok(Self { name: name.to_owned(), vip, pods, servers })
    }

    /// The authority of a CONNECT to one of its ports.
    pub(crate) fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.vip)
    }
}

/// A Service of the ports above.
fn manifest_of(name: &str, labels: &str) -> String {
    let declared = [
        ("http", HTTP, echo::HTTP, ", appProtocol: http"),
        ("http2", HTTP2, echo::HTTP, ", appProtocol: http2"),
        ("grpc", GRPC, echo::GRPC, ", appProtocol: grpc"),
        ("tcp", TCP, echo::TCP, ", appProtocol: tcp"),
        ("tcp-server", SERVER_FIRST, echo::SERVER_FIRST, ", appProtocol: tcp"),
        ("https", HTTPS, echo::HTTPS, ", appProtocol: https"),
    ];
    let undeclared = [
        ("auto-http", AUTO_HTTP, echo::HTTP, ""),
        ("auto-grpc", AUTO_GRPC, echo::GRPC, ""),
        ("auto-tcp", AUTO_TCP, echo::TCP, ""),
        ("auto-server", AUTO_SERVER_FIRST, echo::SERVER_FIRST, ""),
        ("auto-https", AUTO_HTTPS, echo::HTTPS, ""),
    ];
    let ports = declared.into_iter().chain(undeclared).map(|(name, port, target, protocol)| {
        format!("  - {{name: {name}, port: {port}, targetPort: {target}{protocol}}}\n")
    });
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, labels: {{{labels}}}}}
spec:
  selector: {{app: {name}}}
  ports:
{}",
        ports.collect::<String>()
    )
}

/// A request of a table.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    method: &'static str,
    path: &'static str,
    headers: Vec<(&'static str, String)>,
}

impl Ask {
    /// GET of a path.
    pub(crate) fn get(path: &'static str) -> Self {
        Self { method: "GET", path, headers: Vec::new() }
    }

    /// POST without a body.
    pub(crate) fn post(path: &'static str) -> Self {
        Self { method: "POST", ..Self::get(path) }
    }

    /// One more header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// What is sent.
    pub(crate) fn request(&self) -> Result<Request<Body>> {
        let request = Request::builder().method(self.method).uri(self.path).header("host", "server");
        let request =
            self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        Ok(request.body(empty())?)
    }
}

/// A pod that calls through a waypoint, with a certificate from istiod.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) pod: Pod,
    pub(crate) ztunnel: Outbound,
}

impl Caller {
    pub(crate) async fn new(pod: Pod, waypoint: &Waypoint) -> Result<Self> {
        let ztunnel = pod.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
        Ok(Self { pod, ztunnel })
    }

    /// Asks on a tunnel of its own.
    ///
    /// # Errors
    /// When the waypoint refuses the tunnel, or closes it without an answer.
    pub(crate) async fn ask(&self, authority: &str, ask: &Ask) -> Result<Reply> {
        let tunnel = self.ztunnel.connect(authority).await?;
        Client::http1(tunnel).await?.send(ask.request()?).await
    }

    /// The status of the answer.
    pub(crate) async fn status(&self, authority: &str, ask: &Ask) -> Result<u16> {
        Ok(self.ask(authority, ask).await?.status.as_u16())
    }

    /// Asks until `wanted` holds of the answer: until the waypoint has heard of a change.
    pub(crate) async fn until(
        &self,
        authority: &str,
        ask: &Ask,
        wanted: impl Fn(&Reply) -> bool,
    ) -> Result<Reply> {
        let mut last = String::new();
        let what = format!("{ask:?} of {authority} is answered as wanted");
        let found = wait::until_async(&what, async || {
            let answer = self.ask(authority, ask).await;
            last = format!("{answer:?}");
            Ok(answer.ok().filter(&wanted))
        });
        let found = found.await;
        found.with_context(|| last)
    }

    /// Asks until the answer has this status.
    pub(crate) async fn until_status(&self, authority: &str, ask: &Ask, status: u16) -> Result<Reply> {
        self.until(authority, ask, |reply| reply.status.as_u16() == status).await
    }

    /// Says of each row what status its answer has, waiting with the first for the waypoint to have heard of a change.
    ///
    /// # Panics
    /// When an answer has another status than its row says.
    pub(crate) async fn expect(&self, authority: &str, rows: &[(&str, Ask, u16)]) -> Result<()> {
        let (what, ask, status) = rows.first().context("rows")?;
        self.until_status(authority, ask, *status).await.with_context(|| (*what).to_owned())?;
        for (what, ask, status) in rows {
            let answer = self.ask(authority, ask).await.with_context(|| (*what).to_owned())?;
            assert_eq!(answer.status.as_u16(), *status, "{what}: {}", answer.text());
        }
        Ok(())
    }
}

/// A field that Istio's echo server told (`ServiceVersion`, `IP`, …).
pub(crate) fn told(reply: &Reply, field: &str) -> Option<String> {
    let text = reply.text();
    let mut fields = text.lines().filter_map(|line| line.split_once('='));
    fields.find(|(name, _)| *name == field).map(|(_, value)| value.to_owned())
}

/// A header of the request as Istio's echo server got it.
pub(crate) fn got(reply: &Reply, header: &str) -> Option<String> {
    let text = reply.text();
    let headers = text.lines().filter_map(|line| line.strip_prefix("RequestHeader=")?.split_once(':'));
    let mut headers = headers.filter(|(name, _)| name.eq_ignore_ascii_case(header));
    headers.next().map(|(_, value)| value.to_owned())
}
