//! A real Envoy that judges by what istiod sent to a waypoint.
//!
//! Envoy has no tunnel here. It takes the filters of the chains that istiod made for Services, without Istio's own ones for
//! statistics, and is told the rest: addresses by a PROXY header, the peer's identity and the facts of a protocol by headers of
//! the request, or by the PROXY header where bytes are opaque. What passes the filters is answered by Envoy itself, or goes
//! where the routes say that istiod sent.

mod logging;
mod opaque;
mod reading;

pub use logging::Way;
pub use reading::Reading;

use super::network::PodNetwork;
use super::objects::{at, list, text};
use super::state::HUB;
use crate::http::{Body, Client, Reply};
use crate::lines::Lines;
use crate::process::Process;
use crate::{neighbours, wait};
use anyhow::{Context, Result};
use http::Request;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

/// Header that tells whose certificate the tunnel has shown. Envoy keeps it out of nothing: no policy may name it.
const PRINCIPAL: &str = "x-oracle-principal";

/// Headers that tell facts: this and the fact's number.
const FACT: &str = "x-oracle-fact-";

/// Filters of Istio's own build, which count and name but decide nothing.
const STATISTICS: [&str; 3] = ["istio", "waypoint_", "envoy.filters.http.grpc_stats"];

const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

const RBAC_HTTP: &str = "envoy.filters.http.rbac";

/// A Service's port: what istiod calls its chain, and where clients believe it to be.
#[derive(Clone, Debug)]
pub struct Front {
    /// `inbound-vip|<port>|http|<host name>`, or with `tcp` for opaque bytes.
    pub chain: String,
    /// The Service's address and port.
    pub address: SocketAddrV4,
}

/// What a waypoint would know of a request besides its bytes.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// Where the client is: Envoy sees who dials, whatever a PROXY header says.
    pub source: &'a PodNetwork,
    /// The front that it was sent to.
    pub destination: SocketAddrV4,
    /// The client's SPIFFE id.
    pub principal: &'a str,
    /// Facts by their number in the list that [`Oracle::start`] was given.
    pub facts: &'a [(usize, String)],
}

/// A running Envoy.
pub struct Oracle {
    /// Where it judges by each [`Reading`], in their order.
    addresses: Vec<SocketAddr>,
    process: Process,
}

impl Oracle {
    /// Starts one that judges by `listener` (istiod's `main_internal`, as JSON of protobuf) for these fronts. `facts` are the
    /// keys of the filter `http.mcp`.
    pub async fn start(folder: &Path, listener: &Value, fronts: &[Front], facts: &[&str]) -> Result<Self> {
        let chains = |reading: Reading| {
            let of = |front: &Front| {
                let theirs = filters(listener, front)?;
                let Some(manager) = manager(theirs) else {
                    let as_sent = reading == Reading::AsSent;
                    return Ok(as_sent.then(|| chain(front, &opaque::filters(theirs))));
                };
                let manager = answering(judging(manager, facts, reading)?);
                Ok(Some(chain(front, &[serving(&manager)])))
            };
            fronts.iter().filter_map(|front| of(front).transpose()).collect::<Result<Vec<_>>>()
        };
        let chains = Reading::ALL.into_iter().map(chains).collect::<Result<Vec<_>>>()?;
        Self::run(folder, &chains, &[]).await
    }

    /// The same with istiod's routes. `backend` says where the application of a cluster is; a cluster that it does not know
    /// is none of Envoy's either.
    pub async fn routing(
        folder: &Path,
        listener: &Value,
        fronts: &[Front],
        backend: &dyn Fn(&str) -> Option<SocketAddr>,
    ) -> Result<Self> {
        let of = |front: &Front| {
            let manager = manager(filters(listener, front)?);
            let manager = manager.with_context(|| format!("{} has no HTTP", front.chain))?;
            judging(manager, &[], Reading::AsSent)
        };
        let managers = fronts.iter().map(of).collect::<Result<Vec<_>>>()?;
        let mut names = BTreeSet::new();
        for manager in &managers {
            clusters_of(at(manager, "/routeConfig"), &mut names);
        }
        let cluster = |name: &&str| Some(cluster(name, backend(name)?));
        let clusters: Vec<_> = names.iter().filter_map(cluster).collect();
        let fronts = fronts.iter().zip(&managers);
        let chains = fronts.map(|(front, manager)| chain(front, &[serving(manager)])).collect();
        Self::run(folder, &[chains], &clusters).await
    }

    /// A listener for each list of chains.
    async fn run(folder: &Path, chains: &[Vec<Value>], clusters: &[Value]) -> Result<Self> {
        let addresses = free_addresses(chains.len()).await?;
        let listeners = addresses.iter().zip(chains).map(|(address, chains)| listening(*address, chains));
        let listeners: Vec<_> = listeners.collect();
        let bootstrap = json!({"staticResources": {"listeners": listeners, "clusters": clusters}});
        Self::start_with(folder, addresses, &bootstrap).await
    }

    async fn start_with(folder: &Path, addresses: Vec<SocketAddr>, bootstrap: &Value) -> Result<Self> {
        let path = folder.join("envoy.json");
        std::fs::write(&path, serde_json::to_vec_pretty(bootstrap)?)?;
        let mut command = Command::new(neighbours::envoy()?);
        command.arg("-c").arg(&path);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
        command.args(["--file-flush-interval-msec", "10"]); // An access log's lines; ten seconds otherwise.
        let mut process = Process::start("envoy", command)?;
        for address in &addresses {
            wait::until_async("Envoy listens", async || {
                process.assert_running()?;
                Ok(TcpStream::connect(address).await.ok())
            })
            .await?;
        }
        Ok(Self { addresses, process })
    }

    /// What it printed: its access log, where it was told to write one.
    #[must_use]
    pub fn lines(&self) -> Lines {
        self.process.stdout.clone()
    }

    /// How Envoy answers: 200 of its own when the request passes all filters.
    pub async fn ask(&self, under: &Circumstances<'_>, request: Request<Body>) -> Result<Reply> {
        self.ask_by(Reading::AsSent, under, request).await
    }

    /// The same with conditions on facts read in another way.
    pub async fn ask_by(
        &self,
        reading: Reading,
        under: &Circumstances<'_>,
        mut request: Request<Body>,
    ) -> Result<Reply> {
        let headers = request.headers_mut();
        headers.insert(PRINCIPAL, under.principal.parse()?);
        for (number, value) in under.facts {
            headers.insert(http::HeaderName::try_from(format!("{FACT}{number}"))?, value.parse()?);
        }
        let mut tcp = self.dial(reading, under).await?;
        let (source, destination) = (under.source.address, under.destination);
        let line = format!("PROXY TCP4 {source} {} 40000 {}\r\n", destination.ip(), destination.port());
        tcp.write_all(line.as_bytes()).await?;
        Client::http1(tcp).await?.send(request).await
    }

    /// Whether Envoy carries a connection that begins with `bytes`. Facts are none of it.
    pub async fn carries(&self, under: &Circumstances<'_>, bytes: &[u8]) -> Result<bool> {
        let mut tcp = self.dial(Reading::AsSent, under).await?;
        tcp.write_all(&opaque::header(under)?).await?;
        tcp.write_all(bytes).await?;
        let mut first = [0];
        // A refusal is a closed connection, cleanly or not: there may be bytes that Envoy had not read.
        let read = wait::within("Envoy's word on a connection", tcp.read_exact(&mut first)).await?;
        Ok(read.is_ok())
    }

    async fn dial(&self, reading: Reading, under: &Circumstances<'_>) -> Result<TcpStream> {
        let at = Reading::ALL.iter().position(|one| *one == reading);
        let address =
            at.and_then(|at| self.addresses.get(at)).context("it reads policies in one way only")?;
        under.source.connect(*address).await
    }
}

/// Addresses of the hub where nobody listens.
async fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpListener::bind((HUB, 0)).await?);
    }
    held.iter().map(|listener| Ok(listener.local_addr()?)).collect()
}

fn listening(address: SocketAddr, chains: &[Value]) -> Value {
    json!({
        "name": format!("oracle-{}", address.port()),
        "address": {"socketAddress": {"address": address.ip(), "portValue": address.port()}},
        "listenerFilters": [opaque::proxy_protocol(), opaque::tls_inspector()],
        "filterChains": chains,
    })
}

/// A cluster of one endpoint.
fn cluster(name: &str, endpoint: SocketAddr) -> Value {
    let address = json!({"socketAddress": {"address": endpoint.ip(), "portValue": endpoint.port()}});
    json!({
        "name": name,
        "type": "STATIC",
        "loadAssignment": {
            "clusterName": name,
            "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

/// The clusters that routes name: as `cluster` of a route, as `name` of a share.
fn clusters_of<'a>(routes: &'a Value, names: &mut BTreeSet<&'a str>) {
    match routes {
        Value::Object(fields) => {
            names.extend(fields.get("cluster").and_then(Value::as_str));
            for share in
                fields.get("weightedClusters").map(|split| list(split, "/clusters")).unwrap_or_default()
            {
                names.extend(at(share, "/name").as_str());
            }
            fields.values().for_each(|value| clusters_of(value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| clusters_of(value, names)),
        _ => {}
    }
}

/// The filters of istiod's chain of a front.
fn filters<'l>(listener: &'l Value, front: &Front) -> Result<&'l [Value]> {
    let mut chains = list(listener, "/filterChains").iter();
    let theirs = chains.find(|chain| text(chain, "/name").is_ok_and(|name| name == front.chain));
    Ok(list(theirs.with_context(|| format!("istiod sent no chain {}", front.chain))?, "/filters"))
}

/// What a chain does with HTTP, if it does.
fn manager(filters: &[Value]) -> Option<&Value> {
    let mut filters = filters.iter();
    let manager =
        filters.find(|filter| text(filter, "/name").is_ok_and(|name| name == HTTP_CONNECTION_MANAGER));
    manager.map(|manager| at(manager, "/typedConfig"))
}

fn serving(manager: &Value) -> Value {
    json!({"name": HTTP_CONNECTION_MANAGER, "typedConfig": manager})
}

/// The chain of one front, chosen by the address in the PROXY header as the waypoint's matcher does by the tunnel's.
fn chain(front: &Front, filters: &[Value]) -> Value {
    json!({
        "name": front.chain,
        "filterChainMatch": {
            "destinationPort": front.address.port(),
            "prefixRanges": [{"addressPrefix": front.address.ip(), "prefixLen": 32}],
        },
        "filters": filters,
    })
}

/// istiod's HTTP connection manager with filters that tell it what a tunnel tells, and no telemetry.
fn judging(manager: &Value, facts: &[&str], reading: Reading) -> Result<Value> {
    let mut ours = manager.as_object().context("an HTTP connection manager")?.clone();
    for telemetry in ["accessLog", "tracing", "upgradeConfigs", "rds"] {
        ours.remove(telemetry);
    }
    let theirs = list(manager, "/httpFilters").iter().filter(|filter| {
        let name = text(filter, "/name").unwrap_or_default();
        !STATISTICS.iter().any(|prefix| name.starts_with(prefix))
    });
    let theirs = theirs.map(|filter| reading.of_filter(filter));
    let filters: Vec<_> = told(facts).into_iter().chain(theirs).collect();
    ours.insert("httpFilters".to_owned(), filters.into());
    Ok(ours.into())
}

/// The manager with routes that answer.
fn answering(mut manager: Value) -> Value {
    let answers = json!({"virtualHosts": [{
        "name": "any", "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "directResponse": {"status": 200}}],
    }]});
    if let Some(fields) = manager.as_object_mut() {
        fields.insert("routeConfig".to_owned(), answers);
    }
    manager
}

/// Filters that take identity and facts from headers of the request.
fn told(facts: &[&str]) -> [Value; 2] {
    let principal = json!({
        "objectKey": "io.istio.peer_principal",
        "factoryKey": "envoy.string",
        "formatString": {"textFormatSource": {"inlineString": format!("%REQ({PRINCIPAL})%")}},
    });
    let rules = facts.iter().enumerate().map(|(number, key)| {
        let value = json!({"metadataNamespace": reading::FACTS, "key": key, "type": "STRING"});
        json!({"header": format!("{FACT}{number}"), "onHeaderPresent": value, "remove": true})
    });
    [
        json!({"name": "principal", "typedConfig": {
            "@type": kind("extensions.filters.http.set_filter_state.v3.Config"),
            "onRequestHeaders": [principal],
        }}),
        json!({"name": "facts", "typedConfig": {
            "@type": kind("extensions.filters.http.header_to_metadata.v3.Config"),
            "requestRules": rules.collect::<Vec<_>>(),
        }}),
    ]
}

fn kind(name: &str) -> String {
    format!("type.googleapis.com/envoy.{name}")
}
