//! Our waypoint and an Envoy, each with the access log that one istiod told it to write.

use super::fields::{FORMATS, Format, JSON};
use crate::stage::{Ask, Caller, Stage as Mesh, WAYPOINT, manifest};
use anyhow::{Context, Result};
use http::{Request, StatusCode};
use portcullis_tests::http::{Body, Client, empty, full};
use portcullis_tests::istio::oracle::{Circumstances, Front, Oracle, Way};
use portcullis_tests::istio::{Istiod, IstiodSettings, Lab, Pod, PodSpec, WaypointSettings};
use portcullis_tests::lines::Lines as Output;
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Inbound;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use tokio::net::TcpListener;

/// Ports of the application: one that answers, and those that go wrong.
const ANSWERS: u16 = 8080;
const SILENT: u16 = 8082;
const CLOSES: u16 = 8083;

/// A Service in the mesh, whose endpoint is reached through a tunnel, and one whose endpoint is not.
const SERVICES: [(&str, &[u16]); 2] = [("inner", &[80]), ("outer", &[80, 81, 82, 83])];

const ROUTES: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: inner}
spec:
  hosts: [inner]
  http:
  - {match: [{uri: {exact: /redirect}}], name: away, redirect: {uri: /else}}
  - match: [{uri: {exact: /abort}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: inner}}]
  - {match: [{uri: {prefix: /elsewhere}}], name: away-from-here, route: [{destination: {host: outer}}]}
  - {match: [{uri: {prefix: /ok}}], name: fine, route: [{destination: {host: inner}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outer}
spec:
  hosts: [outer]
  http:
  - {name: patient, match: [{port: 82}], timeout: 0.3s, route: [{destination: {host: outer, port: {number: 82}}}]}
  - {name: once, match: [{port: 81}], retries: {attempts: 0}, route: [{destination: {host: outer, port: {number: 81}}}]}
  - {name: at-most-once, match: [{port: 83}], retries: {attempts: 0}, route: [{destination: {host: outer, port: {number: 83}}}]}
  - {name: any, route: [{destination: {host: outer, port: {number: 80}}}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed}
spec:
  targetRefs: [{group: core, kind: Service, name: inner}]
  action: DENY
  rules: [{to: [{operation: {paths: [/ok/denied]}}]}]
";

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    service: &'static str,
    port: u16,
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: usize,
}

impl Row {
    const fn get(name: &'static str, service: &'static str, path: &'static str) -> Self {
        Self { name, service, port: 80, method: "GET", path, headers: &[], body: 0 }
    }

    fn request(&self) -> Result<Request<Body>> {
        let request = Request::builder().method(self.method).uri(self.path).header("host", "app.example");
        let request =
            self.headers.iter().fold(request.header("x-request-id", self.name), |request, (name, value)| {
                request.header(*name, *value)
            });
        let body = if self.body == 0 { empty() } else { full(vec![b'x'; self.body]) };
        Ok(request.body(body)?)
    }
}

/// Lines of one request, by the name of their format.
pub(crate) struct Lines {
    pub(crate) ours: BTreeMap<&'static str, String>,
    pub(crate) envoys: BTreeMap<&'static str, String>,
}

pub(crate) struct Stage {
    mesh: Mesh,
    inside: Pod,
    client: Caller,
    addresses: BTreeMap<&'static str, Ipv4Addr>,
    oracle: Oracle,
    _scratch: tempfile::TempDir,
    _istiod: Istiod,
    _ztunnel: Inbound,
    _applications: Vec<Upstream>,
    _held: Vec<TcpListener>,
}

impl Stage {
    pub(crate) async fn set() -> Result<Self> {
        let istiod = Lab::get()?.istiod(IstiodSettings::default().mesh_config(&mesh_config())).await?;
        let settings = WaypointSettings::default().istiod(istiod.address());
        let mesh = Mesh::with("lines", &manifest()?, &settings).await?;
        let inside = mesh.namespace.pod(&PodSpec::new("inner")).await?;
        let outside = mesh.namespace.pod(&PodSpec::new("outer").without_mesh()).await?;
        let ztunnel = inside.serve_hbone().await?;
        let mut addresses = BTreeMap::new();
        for ((name, ports), pod) in SERVICES.into_iter().zip([&inside, &outside]) {
            addresses.insert(name, service(&mesh, name, ports, pod).await?);
        }
        let applications = [&inside, &outside].map(application).into_iter().collect::<Result<_>>()?;
        let silent = outside.network.listen(outside.port(SILENT))?;
        closing(outside.network.listen(outside.port(CLOSES))?);
        mesh.namespace.apply(ROUTES).await?;
        let client = mesh.client("client").await?;
        ready(&client, addresses["inner"]).await?;

        let fronts: Vec<_> =
            SERVICES.iter().flat_map(|(name, ports)| fronts(&mesh, name, ports, addresses[name])).collect();
        let listener = listener(&istiod, &mesh).await?;
        let scratch = tempfile::tempdir()?;
        let way = |cluster: &str| way(cluster, &inside, &outside);
        let oracle = Oracle::logging(scratch.path(), &listener, &fronts, &way).await?;
        Ok(Self {
            mesh,
            inside,
            client,
            addresses,
            oracle,
            _scratch: scratch,
            _istiod: istiod,
            _ztunnel: ztunnel,
            _applications: applications,
            _held: vec![silent],
        })
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        const AGENT: (&str, &str) = ("user-agent", "sdk/1.2");
        let to = |row: Row, port| Row { port, ..row };
        vec![
            Row { headers: &[AGENT], ..Row::get("a-get", "inner", "/ok/a?b=c&d") },
            Row { method: "POST", body: 1_000, ..Row::get("a-post", "inner", "/ok/post") },
            Row { method: "HEAD", ..Row::get("a-head", "inner", "/ok/head") },
            Row { headers: &[AGENT], ..Row::get("plain", "outer", "/x") },
            Row { headers: &[("x-forwarded-for", "203.0.113.9")], ..Row::get("forwarded", "outer", "/x") },
            Row {
                headers: &[
                    ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
                    ("x-forwarded-for", "192.0.2.1"),
                ],
                ..Row::get("forwarded-twice", "outer", "/x")
            },
            Row::get("elsewhere", "inner", "/elsewhere"),
            Row::get("redirected", "inner", "/redirect"),
            Row::get("aborted", "inner", "/abort"),
            Row::get("no-route", "inner", "/none"),
            Row::get("denied", "inner", "/ok/denied"),
            to(Row::get("refused", "outer", "/x"), 81),
            to(Row::get("late", "outer", "/x"), 82),
            to(Row::get("broken", "outer", "/x"), 83),
        ]
    }

    /// Address of the endpoint in the mesh.
    pub(crate) fn inner(&self) -> String {
        self.inside.address.to_string()
    }

    /// Address of the client's pod.
    pub(crate) fn caller(&self) -> String {
        self.client.pod.address.to_string()
    }

    /// Sends a request to both, and waits for its lines.
    pub(crate) async fn ask(&self, row: &Row) -> Result<Lines> {
        let address = SocketAddrV4::new(self.addresses[row.service], row.port);
        let tunnel = self.client.ztunnel.connect(&address.to_string()).await?;
        Client::http1(tunnel).await?.send(row.request()?).await?;
        let (principal, source) = (self.client.pod.id(), &self.client.pod.network);
        let under = Circumstances { source, destination: address, principal: &principal, facts: &[] };
        self.oracle.ask(&under, row.request()?).await?;
        Ok(Lines {
            ours: lines(&self.mesh.waypoint.process.stdout, row).await?,
            envoys: lines(&self.oracle.lines(), row).await?,
        })
    }
}

fn mesh_config() -> String {
    format!(
        "trustDomain: cluster.local
defaultConfig: {{discoveryAddress: \"istiod.istio-system.svc:15012\"}}
extensionProviders:
- {{name: text, envoyFileAccessLog: {{path: /dev/stdout}}}}
- {{name: json, envoyFileAccessLog: {{path: /dev/stdout, logFormat: {{labels: {JSON}}}}}}}
defaultProviders: {{accessLogging: [text, json]}}
"
    )
}

async fn service(mesh: &Mesh, name: &str, ports: &[u16], pod: &Pod) -> Result<Ipv4Addr> {
    let target = |port: u16| if port == 80 { ANSWERS } else { 8_000 + port };
    let ports: String = ports
        .iter()
        .map(|port| {
            format!(
                "  - {{name: http-{port}, port: {port}, targetPort: {}, appProtocol: http}}\n",
                target(*port)
            )
        })
        .collect();
    let document = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, labels: {{istio.io/use-waypoint: {WAYPOINT}}}}}
spec:
  selector: {{app: {name}}}
  ports:
{ports}"
    );
    mesh.namespace.apply(&document).await?;
    mesh.namespace.endpoints(name, &[pod]).await?;
    mesh.namespace.service_address(name).await
}

fn application(pod: &Pod) -> Result<Upstream> {
    Upstream::on(pod.network.listen(pod.port(ANSWERS))?, |_seen| upstream::text(StatusCode::OK, "answered"))
}

/// Takes connections, reads, and closes without an answer.
fn closing(listener: TcpListener) {
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let mut some = [0; 1024];
            let _read = connection.readable().await.and_then(|()| connection.try_read(&mut some));
        }
    });
}

/// Waits until the waypoint goes by the routes and the policy.
async fn ready(client: &Caller, inner: Ipv4Addr) -> Result<()> {
    let at = format!("{inner}:80");
    client.until_status(&at, &Ask::get("/none"), 404).await?;
    client.until_status(&at, &Ask::get("/ok/denied"), 403).await?;
    Ok(())
}

fn fronts(mesh: &Mesh, name: &str, ports: &[u16], address: Ipv4Addr) -> Vec<Front> {
    let front = |port: &u16| Front {
        chain: format!("inbound-vip|{port}|http|{name}.{}.svc.cluster.local", mesh.namespace.name),
        address: SocketAddrV4::new(address, *port),
    };
    ports.iter().map(front).collect()
}

/// The listener with all chains, once it has the policy and the routes.
async fn listener(istiod: &Istiod, mesh: &Mesh) -> Result<Value> {
    let pod = &mesh.waypoint.pod;
    let path = format!("/debug/config_dump?proxyID={}.{}", pod.name, pod.namespace);
    let dump = istiod.debug(&path).await?;
    let parts = dump["configs"].as_array().context("a dump has parts")?;
    let listeners = parts.iter().filter_map(|part| part["dynamicListeners"].as_array()).flatten();
    let mut listeners = listeners.map(|listener| &listener["activeState"]["listener"]);
    listeners.find(|listener| listener["name"] == "main_internal").cloned().context("main_internal")
}

/// Where the application of a cluster is: `inbound-vip|81|http|outer.ns.svc.cluster.local;` and its like.
fn way(cluster: &str, inside: &Pod, outside: &Pod) -> Option<Way> {
    let mut parts = cluster.split('|');
    let port: u16 = parts.nth(1)?.parse().ok()?;
    let host = parts.nth(1)?.split('.').next()?;
    let target = if port == 80 { ANSWERS } else { 8_000 + port };
    match host {
        "inner" => Some(Way::Tunnel(SocketAddr::from((inside.address, target)))),
        "outer" => Some(Way::Plain(SocketAddr::from((outside.address, target)))),
        _other => None,
    }
}

async fn lines(from: &Output, row: &Row) -> Result<BTreeMap<&'static str, String>> {
    let what = format!("lines of {}", row.name);
    let id = format!("\"{}\"", row.name);
    let found = wait::until(&what, || {
        let all = from.all();
        let of = |format: &Format| {
            let line = all.iter().find(|line| line.starts_with(format.begins) && line.contains(&id))?;
            Some((format.name, line.clone()))
        };
        FORMATS.iter().map(of).collect()
    });
    found.await
}
