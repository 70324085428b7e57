//! Two judges over the same routes: our waypoint, and Envoy with the routes that istiod sent us.

use super::requests::Asked;
use super::rules::{BACKENDS, Kind, OWN};
use crate::equivalence::stage::{dump_of, main_internal};
use crate::stage::{WAYPOINT, manifest};
use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, Response};
use portcullis_tests::http::{Body, Client, Reply};
use portcullis_tests::istio::oracle::{Circumstances, Front, Oracle};
use portcullis_tests::istio::{Lab, Namespace, Pod, PodSpec, Waypoint};
use portcullis_tests::upstream::{self, Seen, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Outbound;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

/// Ports of every Service with routes; all lead to the first application.
const PORTS: [u16; 2] = [80, 8080];

/// Where the applications listen: that of the Service itself, then those of [`BACKENDS`] that are there.
const APPLICATIONS: [u16; 4] = [9000, 9001, 9002, 9003];

/// Requests and objects under way at a time.
const AT_ONCE: usize = 16;

/// Headers that are compared; others are of this proxy or of that.
const HEADERS: [&str; 7] = ["host", "x-a", "x-b", "x-c", "x-d", "x-forwarded-host", "location"];

/// Statuses of answers that routes write themselves, with their bodies.
const WRITTEN: [u16; 2] = [202, 418];

/// Headers by name, in the order of the table above.
type Headers = Vec<(&'static str, Vec<String>)>;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// An application got it, in this form.
    Reached {
        /// The application's number, method, target and headers as JSON.
        seen: Value,
        /// What came back.
        headers: Headers,
    },
    /// There is a route, and nothing behind it: Envoy says 500 or 503, as the route has it, and we say 500.
    NoDestination,
    /// The proxy answered it.
    Answered { status: u16, body: String, headers: Headers },
}

/// A Service with routes of its own.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) kind: Kind,
    name: String,
    vip: Ipv4Addr,
}

pub(crate) struct Stage {
    lab: Lab,
    tools: Namespace,
    waypoint: Waypoint,
    backend: Pod,
    client: Pod,
    ztunnel: Outbound,
    pub(crate) slots: Vec<Slot>,
    scratch: tempfile::TempDir,
    generation: u32,
    oracle: Option<Oracle>,
    _applications: Vec<Upstream>,
}

impl Stage {
    /// Sets everything up but routes. Services have VirtualServices and HTTPRoutes in turn.
    pub(crate) async fn set(slots: usize) -> Result<Self> {
        let lab = Lab::get()?;
        let tools = lab.namespace("routes").await?;
        tools.apply(&manifest()?).await?;
        let backend = tools.pod(&PodSpec::new("app").without_mesh()).await?;
        let application = |(number, port): (usize, u16)| {
            Upstream::on(backend.network.listen(backend.port(port))?, move |seen| told(number, seen))
        };
        let applications = APPLICATIONS.into_iter().enumerate().map(application).collect::<Result<_>>()?;
        for (name, port) in BACKENDS.into_iter().zip(&APPLICATIONS[1..]) {
            service(&tools, name, json!({}), &[80], *port, &backend).await?;
        }
        let labels = json!({"istio.io/use-waypoint": WAYPOINT});
        let made = stream::iter(0..slots).map(|number| {
            let (tools, backend, labels) = (&tools, &backend, labels.clone());
            async move {
                let name = format!("app-{number}");
                let vip = service(tools, &name, labels, &PORTS, APPLICATIONS[0], backend).await?;
                let kind = if number % 2 == 0 { Kind::VirtualService } else { Kind::HttpRoute };
                anyhow::Ok(Slot { kind, name, vip })
            }
        });
        let slots = made.buffered(AT_ONCE).try_collect().await?;
        let waypoint = tools.waypoint(WAYPOINT).await?;
        let client = tools.pod(&PodSpec::new("client")).await?;
        let ztunnel = client.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
        Ok(Self {
            lab,
            tools,
            waypoint,
            backend,
            client,
            ztunnel,
            slots,
            scratch: tempfile::tempdir()?,
            generation: 0,
            oracle: None,
            _applications: applications,
        })
    }

    /// Replaces all routes, and returns when both judges go by them. Each Service has a list of rules.
    pub(crate) async fn play(&mut self, round: &[Vec<Value>]) -> Result<()> {
        self.generation += 1;
        let documents = self.documents(round);
        let made = documents.iter().map(|document| self.lab.api.apply(document));
        stream::iter(made).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let mark = mark(self.generation);
        for slot in &self.slots {
            self.heard(slot).await?;
        }
        let listener = wait::until_async("istiod tells of the routes", async || {
            let listener = main_internal(&self.lab.debug(&dump_of(&self.waypoint)).await?)?;
            let told = listener.to_string().matches(&mark).count();
            Ok((told >= self.slots.len() * PORTS.len()).then_some(listener))
        });
        let listener = listener.await?;
        let fronts: Vec<Front> = self.slots.iter().flat_map(|slot| self.fronts(slot)).collect();
        self.oracle = None;
        let backends = |cluster: &str| self.application(cluster);
        self.oracle = Some(Oracle::routing(self.scratch.path(), &listener, &fronts, &backends).await?);
        Ok(())
    }

    /// Waits until our waypoint goes by the routes of a Service, on all of its ports.
    async fn heard(&self, slot: &Slot) -> Result<()> {
        let path = format!("/{}", mark(self.generation));
        for port in PORTS {
            let at = SocketAddrV4::new(slot.vip, port);
            wait::until_async("routes in force", async || {
                let request = http::Request::get(&path).header("host", "app");
                let reply = self.through(at, request.body(portcullis_tests::http::empty())?).await;
                Ok(reply.is_ok_and(|reply| reply.status == 307).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    fn fronts(&self, slot: &Slot) -> [Front; 2] {
        PORTS.map(|port| Front {
            chain: format!("inbound-vip|{port}|http|{}.{}.svc.cluster.local", slot.name, self.tools.name),
            address: SocketAddrV4::new(slot.vip, port),
        })
    }

    /// Where the application of a cluster is: the host is the last part of its name.
    fn application(&self, cluster: &str) -> Option<SocketAddr> {
        let host = cluster.rsplit('|').next()?.split('.').next()?;
        let number = match BACKENDS.iter().position(|name| *name == host) {
            Some(number) => number + 1,
            None if host.starts_with("app-") => 0,
            None => return None,
        };
        Some(self.backend.port(*APPLICATIONS.get(number)?))
    }

    fn documents(&self, round: &[Vec<Value>]) -> Vec<Value> {
        let path = format!("/{}", mark(self.generation));
        let document = |(slot, rules): (&Slot, &Vec<Value>)| match slot.kind {
            Kind::VirtualService => {
                let marked = json!({"match": [{"uri": {"exact": path}}], "redirect": {"uri": "/", "redirectCode": 307}});
                let http: Vec<_> = [marked].iter().chain(rules).cloned().collect();
                json!({
                    "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
                    "metadata": {"name": slot.name, "namespace": self.tools.name},
                    "spec": {"hosts": [slot.name], "http": http},
                })
            }
            Kind::HttpRoute => {
                let marked = json!({
                    "matches": [{"path": {"type": "Exact", "value": path}}],
                    "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "mark", "statusCode": 307}}],
                });
                let rules: Vec<_> = [marked].iter().chain(rules).cloned().collect();
                json!({
                    "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                    "metadata": {"name": slot.name, "namespace": self.tools.name},
                    "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": slot.name}], "rules": rules},
                })
            }
        };
        let named = |(slot, rules): (&Slot, &Vec<Value>)| {
            let text = document((slot, rules)).to_string().replace(OWN, &slot.name);
            serde_json::from_str(&text).unwrap_or_default()
        };
        self.slots.iter().zip(round).map(named).collect()
    }

    /// What `round` looks like as a manifest of one Service, for a failure.
    pub(crate) fn shown(&self, round: &[Vec<Value>], slot: usize) -> String {
        self.documents(round).get(slot).map(|document| format!("{document:#}\n")).unwrap_or_default()
    }

    /// Asks both judges every question: ours first.
    pub(crate) async fn ask(&self, questions: &[(usize, Asked)]) -> Result<Vec<[Outcome; 2]>> {
        let asked = questions.iter().map(|(slot, asked)| self.outcomes(&self.slots[*slot], asked));
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }

    async fn outcomes(&self, slot: &Slot, asked: &Asked) -> Result<[Outcome; 2]> {
        let address = SocketAddrV4::new(slot.vip, asked.port);
        let principal = self.client.id();
        let under = Circumstances {
            source: &self.client.network,
            destination: address,
            principal: &principal,
            facts: &[],
        };
        let oracle = self.oracle.as_ref().context("routes have been set")?;
        let what = || format!("{asked:?}");
        let ours = self.through(address, asked.request()?).await.and_then(outcome).with_context(what)?;
        let envoys = oracle.ask(&under, asked.request()?).await.and_then(outcome).with_context(what)?;
        Ok([ours, envoys])
    }

    async fn through(&self, to: SocketAddrV4, request: http::Request<Body>) -> Result<Reply> {
        let stream = self.ztunnel.connect(&to.to_string()).await?;
        Client::http1(stream).await?.send(request).await
    }
}

/// Makes a Service of `ports`, all of which lead to one port of `backend`.
async fn service(
    tools: &Namespace,
    name: &str,
    labels: Value,
    ports: &[u16],
    target: u16,
    backend: &Pod,
) -> Result<Ipv4Addr> {
    let port = |port: &u16| json!({"name": format!("http-{port}"), "port": port, "targetPort": target, "appProtocol": "http"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": tools.name, "labels": labels},
        "spec": {"selector": {"app": "app"}, "ports": ports.iter().map(port).collect::<Vec<_>>()},
    });
    tools.apply(&service.to_string()).await?;
    tools.endpoints(name, &[backend]).await?;
    tools.service_address(name).await
}

fn mark(generation: u32) -> String {
    format!("generation-{generation}-in-force")
}

/// What an application answers: what it got.
fn told(number: usize, seen: &Seen) -> Response<Body> {
    let got = json!({
        "application": number,
        "method": seen.method.as_str(),
        "target": seen.uri.path_and_query().map(ToString::to_string),
        "headers": headers(&seen.headers),
    });
    let mut answer = upstream::json(&got);
    for (name, value) in [("x-a", "of the application"), ("x-b", "1"), ("x-c", "c")] {
        answer.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    answer
}

fn headers(found: &HeaderMap) -> Headers {
    let values = |name: &'static str| {
        let values = found.get_all(name).iter();
        (name, values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect())
    };
    HEADERS.into_iter().map(values).filter(|(_, values): &(_, Vec<String>)| !values.is_empty()).collect()
}

fn outcome(reply: Reply) -> Result<Outcome> {
    let (status, mut headers) = (reply.status.as_u16(), headers(&reply.headers));
    for (_, values) in headers.iter_mut().filter(|(name, _)| *name == "location") {
        // The usual port says nothing (RFC 3986 §6.2.3).
        values.iter_mut().for_each(|location| *location = location.replacen(":80/", "/", 1));
    }
    if let Ok(seen) = reply.json()
        && seen.get("application").is_some()
    {
        return Ok(Outcome::Reached { seen, headers });
    }
    if reply.status.is_server_error() {
        return Ok(Outcome::NoDestination);
    }
    // What else a proxy says in its own words is its own matter.
    let body = if WRITTEN.contains(&status) { reply.text() } else { String::new() };
    Ok(Outcome::Answered { status, body, headers })
}
