//! Three judges over the same manifests: our waypoint fed by istiod, our waypoint fed by the manifests, and Envoy.

use super::policies::{About, FACTS, Policy};
use super::requests::{Asked, CLIENTS, Token, Tokens};
use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use portcullis_tests::http::{Body, Client, Reply, empty};
use portcullis_tests::istio::oracle::{Circumstances, Front, Oracle};
use portcullis_tests::istio::{Lab, Namespace, Pod, PodSpec, Waypoint};
use portcullis_tests::manifests::{self, Manifests};
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Outbound;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

/// The Gateway of `deploy/istio/waypoint.yaml`.
const GATEWAY: &str = "portcullis";

/// The Service that tells which policies are in force.
const SENTINEL: &str = "sentinel";

/// Ports of every Service; all lead to the application's 8080.
const PORTS: [u16; 2] = [80, 8080];

/// Requests and objects under way at a time.
const AT_ONCE: usize = 16;

/// How a judge answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    /// The token was not good.
    Unauthenticated,
    /// Neither a verdict nor an answer of the application.
    Other(u16),
}

/// Verdicts on one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdicts {
    pub(crate) istiod: Verdict,
    pub(crate) manifests: Verdict,
    pub(crate) envoy: Verdict,
}

impl Verdicts {
    pub(crate) fn agree(&self) -> bool {
        self.istiod == self.manifests && self.istiod == self.envoy
    }
}

/// Policies of everything that stands on the stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// Of the Gateway: they hold for all Services.
    pub(crate) gateway: Vec<Policy>,
    /// Of each Service.
    pub(crate) services: Vec<Vec<Policy>>,
}

/// A Service with policies of its own.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) about: About,
    vip: Ipv4Addr,
}

/// A client's pod with its ways to both waypoints.
struct Source {
    pod: Pod,
    istiod: Outbound,
    manifests: Outbound,
}

pub(crate) struct Stage {
    lab: Lab,
    tools: Namespace,
    waypoint: Waypoint,
    folder: Manifests,
    scratch: tempfile::TempDir,
    _portcullis: Portcullis,
    _application: Upstream,
    sources: Vec<Source>,
    pub(crate) slots: Vec<Slot>,
    sentinel: Slot,
    tokens: Tokens,
    generation: u32,
    applied: BTreeSet<String>,
    oracle: Option<Oracle>,
}

impl Stage {
    /// Sets everything up but policies. Every third Service is asked with calls of tools; every other one reads tokens.
    pub(crate) async fn set(slots: usize) -> Result<Self> {
        let lab = Lab::get()?;
        let tools = lab.namespace("tools").await?;
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/istio/waypoint.yaml");
        tools.apply(&std::fs::read_to_string(&manifest)?).await?;
        let tokens = Tokens::new()?;
        let backend = tools.pod(&PodSpec::new("app").without_mesh()).await?;
        let application = Upstream::on(backend.network.listen(backend.port(8080))?, |seen| {
            upstream::result(seen, &json!({}))
        })?;
        let names = (0..slots).map(|number| format!("app-{number}")).chain([SENTINEL.to_owned()]);
        let tools_ref = (&tools, &backend, &tokens);
        let made = stream::iter(names.enumerate()).map(|(number, name)| async move {
            let (tools, backend, tokens) = tools_ref;
            let about = if number % 3 == 2 { About::Mcp } else { About::Http };
            let reads_tokens = number % 2 == 0 || name == SENTINEL;
            service(tools, &name, backend, reads_tokens.then_some(tokens), about).await
        });
        let mut slots: Vec<(Slot, Vec<String>)> = made.buffered(AT_ONCE).try_collect().await?;
        let folder = Manifests::new()?;
        folder.write("gateway", &[manifests::gateway(&tools.name, GATEWAY)])?;
        let pod = manifests::Pod {
            namespace: &tools.name,
            name: "app",
            app: "app",
            service_account: "app",
            address: backend.address,
            in_mesh: false,
        };
        folder.write("pod", &[pod.manifest()])?;
        let services: Vec<String> = slots.iter_mut().flat_map(|(_, documents)| documents.drain(..)).collect();
        folder.write("services", &services)?;
        let mut slots: Vec<Slot> = slots.into_iter().map(|(slot, _)| slot).collect();
        let sentinel = slots.pop().context("the sentinel is a Service too")?;
        let waypoint = tools.waypoint(GATEWAY).await?;

        // The other waypoint stands in the hub. It has a certificate of the same mesh, so that clients trust it.
        let identity = tools.pod(&PodSpec::new("other-waypoint")).await?;
        let svid = identity.certificate_files().await?;
        let run = Run::new(folder.folder(), &svid).arg("--gateway", format!("{}/{GATEWAY}", tools.name));
        let portcullis = Portcullis::start(&run.instead("--hbone-address", "10.244.0.1:0")).await?;
        let mut sources = Vec::new();
        let namespaces = [("a", lab.namespace("agents").await?), ("b", lab.namespace("bots").await?)];
        for (namespace, account) in CLIENTS {
            let (_, namespace) =
                namespaces.iter().find(|(name, _)| *name == namespace).context("a namespace")?;
            let pod = namespace.pod(&PodSpec::new(account)).await?;
            sources.push(Source {
                istiod: pod.ztunnel(waypoint.hbone(), &waypoint.id()).await?,
                manifests: pod.ztunnel(portcullis.address("hbone")?, &identity.id()).await?,
                pod,
            });
        }
        Ok(Self {
            lab,
            tools,
            waypoint,
            folder,
            scratch: tempfile::tempdir()?,
            _portcullis: portcullis,
            _application: application,
            sources,
            slots,
            sentinel,
            tokens,
            generation: 0,
            applied: BTreeSet::new(),
            oracle: None,
        })
    }

    /// Replaces all policies, and returns when all judges go by them.
    pub(crate) async fn play(&mut self, round: &Round) -> Result<()> {
        self.generation += 1;
        let documents = self.documents(round);
        let names: BTreeSet<String> = documents.iter().map(|(name, _)| name.clone()).collect();
        let (lab, namespace) = (&self.lab, &self.tools.name);
        let gone = self.applied.difference(&names).map(|name| async move {
            let path =
                format!("/apis/security.istio.io/v1/namespaces/{namespace}/authorizationpolicies/{name}");
            lab.api.delete(&path).await
        });
        stream::iter(gone).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let made = documents.iter().map(|(_, policy)| lab.api.apply(policy));
        stream::iter(made).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
        // Last, so that who knows it knows the others: a watch keeps the order, and istiod sends them in one listener.
        let sentinel = self.sentinel_policy();
        lab.api.apply(&sentinel).await?;
        let written = documents.iter().map(|(_, policy)| policy).chain([&sentinel]);
        let written: Vec<String> = written.map(|policy| format!("{policy}\n")).collect();
        self.folder.write("policies", &written)?;
        self.applied = names;
        self.in_force().await
    }

    async fn in_force(&mut self) -> Result<()> {
        let knows = async |tunnel: &Outbound| {
            let asked = self.sentinel_request()?;
            // A tunnel is refused as long as the Service is not known to be ours.
            let reply = through(tunnel, SocketAddrV4::new(self.sentinel.vip, PORTS[0]), asked).await;
            Ok(reply.is_ok_and(|reply| reply.status == 200).then_some(()))
        };
        let source = &self.sources[0];
        wait::until_async("policies in force by istiod", async || knows(&source.istiod).await).await?;
        wait::until_async("policies in force by manifests", async || knows(&source.manifests).await).await?;
        let mark = mark(self.generation);
        let listener = wait::until_async("istiod tells of the policies", async || {
            let listener = main_internal(&self.lab, &self.waypoint).await?;
            Ok(listener.to_string().contains(&mark).then_some(listener))
        });
        let listener = listener.await?;
        let fronts: Vec<Front> = self.slots.iter().flat_map(|slot| self.fronts(slot)).collect();
        self.oracle = None;
        self.oracle = Some(Oracle::start(self.scratch.path(), &listener, &fronts, &FACTS).await?);
        Ok(())
    }

    fn fronts(&self, slot: &Slot) -> [Front; 2] {
        PORTS.map(|port| Front {
            chain: format!("inbound-vip|{port}|http|{}.{}.svc.cluster.local", slot.name, self.tools.name),
            address: SocketAddrV4::new(slot.vip, port),
        })
    }

    fn sentinel_policy(&self) -> Value {
        let rules = json!([{
            "from": [{"source": {"requestPrincipals": ["issuer/alice"]}}],
            "when": [{"key": "request.headers[x-generation]", "values": [mark(self.generation)]}],
        }]);
        self.document(
            SENTINEL,
            &target("", "Service", SENTINEL),
            &json!({"action": "ALLOW", "rules": rules}),
            false,
        )
    }

    fn sentinel_request(&self) -> Result<Request<Body>> {
        let request = Request::get("/").header("host", "app").header("x-sentinel", "yes");
        let request = request.header("x-generation", mark(self.generation));
        let token = format!("Bearer {}", self.tokens.of(Token::Alice));
        Ok(request.header("authorization", token).body(empty())?)
    }

    /// The policies by their names.
    fn documents(&self, round: &Round) -> Vec<(String, Value)> {
        let gateway = target("gateway.networking.k8s.io", "Gateway", GATEWAY);
        let of_gateway = round.gateway.iter().map(|policy| {
            let rules = policy.rules.iter().map(spare_the_sentinel).collect();
            ("gateway".to_owned(), gateway.clone(), Policy { rules, ..policy.clone() }, String::new())
        });
        let of_services = self.slots.iter().zip(&round.services).flat_map(|(slot, policies)| {
            let of_slot = |policy: &Policy| {
                (slot.name.clone(), target("", "Service", &slot.name), policy.clone(), slot.vip.to_string())
            };
            policies.iter().map(of_slot).collect::<Vec<_>>()
        });
        let all = of_gateway.chain(of_services).enumerate().map(|(number, (of, target, policy, vip))| {
            let name = format!("{of}-p{number}");
            let mut spec = json!({"action": policy.action});
            if !policy.rules.is_empty() {
                spec["rules"] = policy.rules.clone().into();
            }
            let text = self.document(&name, &target, &spec, policy.dry_run).to_string();
            let vip = if vip.is_empty() { "192.0.2.7" } else { &vip };
            (name, text.replace("{vip}", vip))
        });
        all.map(|(name, text)| (name, self.named(&text))).collect()
    }

    /// The document with the names of this lab.
    fn named(&self, text: &str) -> Value {
        let ip = self.sources[0].pod.address.to_string();
        let [a, b] = [0, 2].map(|index| self.sources[index].pod.namespace.as_str());
        let text = text.replace("{ip}", &ip).replace("{a}", a).replace("{b}", b);
        serde_json::from_str(&text).unwrap_or_default()
    }

    fn document(&self, name: &str, target: &Value, spec: &Value, dry_run: bool) -> Value {
        let mut spec = spec.clone();
        spec["targetRefs"] = json!([target]);
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": self.tools.name,
                         "annotations": {"istio.io/dry-run": dry_run.to_string()}},
            "spec": spec,
        })
    }

    /// What `round` looks like as manifests, for a failure.
    pub(crate) fn shown(&self, round: &Round) -> String {
        let documents = self.documents(round);
        documents.iter().map(|(_, document)| format!("{document:#}\n---\n")).collect()
    }

    /// Asks all judges every question.
    pub(crate) async fn ask(&self, questions: &[(usize, Asked)]) -> Result<Vec<Verdicts>> {
        let asked = questions.iter().map(|(slot, asked)| self.verdicts(&self.slots[*slot], asked));
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }

    async fn verdicts(&self, slot: &Slot, asked: &Asked) -> Result<Verdicts> {
        let address = SocketAddrV4::new(slot.vip, asked.port);
        let source = &self.sources[asked.client];
        let request = || asked.request(&self.tokens);
        let facts = asked.call.as_ref().map(super::requests::Call::facts).unwrap_or_default();
        let principal = source.pod.id();
        let under = Circumstances {
            source: &source.pod.network,
            destination: address,
            principal: &principal,
            facts: &facts,
        };
        let oracle = self.oracle.as_ref().context("policies have been set")?;
        let what = || format!("{asked:?}");
        Ok(Verdicts {
            istiod: through(&source.istiod, address, request()?)
                .await
                .and_then(verdict)
                .with_context(what)?,
            manifests: through(&source.manifests, address, request()?)
                .await
                .and_then(verdict)
                .with_context(what)?,
            envoy: oracle.ask(&under, request()?).await.and_then(verdict).with_context(what)?,
        })
    }
}

/// The listener with all chains that istiod made for a waypoint.
pub(crate) async fn main_internal(lab: &Lab, waypoint: &Waypoint) -> Result<Value> {
    let pod = &waypoint.pod;
    let dump = lab.debug(&format!("/debug/config_dump?proxyID={}.{}", pod.name, pod.namespace)).await?;
    let parts = dump["configs"].as_array().context("a dump has parts")?;
    let listeners = parts.iter().filter_map(|part| part["dynamicListeners"].as_array()).flatten();
    let mut listeners = listeners.map(|listener| &listener["activeState"]["listener"]);
    listeners.find(|listener| listener["name"] == "main_internal").cloned().context("main_internal")
}

/// Makes a Service that the waypoint fronts, and returns it with its manifests as they then are.
async fn service(
    tools: &Namespace,
    name: &str,
    backend: &Pod,
    tokens: Option<&Tokens>,
    about: About,
) -> Result<(Slot, Vec<String>)> {
    let ports = PORTS.map(|port| {
        json!({"name": format!("http-{port}"), "port": port, "targetPort": 8080, "appProtocol": "http"})
    });
    let metadata =
        json!({"name": name, "namespace": tools.name, "labels": {"istio.io/use-waypoint": GATEWAY}});
    let spec = json!({"selector": {"app": "app"}, "ports": ports});
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
    tools.apply(&service.to_string()).await?;
    tools.endpoints(name, &[backend]).await?;
    let vip = tools.service_address(name).await?;
    service["spec"]["clusterIP"] = vip.to_string().into();
    service["spec"]["clusterIPs"] = json!([vip.to_string()]);
    let authentication = tokens.map(|tokens| tokens.authentication(&tools.name, name));
    if let Some(authentication) = &authentication {
        tools.apply(authentication).await?;
    }
    let documents = [format!("{service}\n")].into_iter().chain(authentication).collect();
    Ok((Slot { name: name.to_owned(), about, vip }, documents))
}

fn target(group: &str, kind: &str, name: &str) -> Value {
    json!({"group": group, "kind": kind, "name": name})
}

fn mark(generation: u32) -> String {
    format!("generation-{generation}-in-force")
}

/// The rule with one more condition, so that a policy of the Gateway has no say where the sentinel is asked.
fn spare_the_sentinel(rule: &Value) -> Value {
    let mut rule = rule.clone();
    let mut when = rule["when"].as_array().cloned().unwrap_or_default();
    when.push(json!({"key": "request.headers[x-sentinel]", "notValues": ["yes"]}));
    rule["when"] = when.into();
    rule
}

async fn through(tunnel: &Outbound, to: SocketAddrV4, request: Request<Body>) -> Result<Reply> {
    let stream = tunnel.connect(&to.to_string()).await?;
    Client::http1(stream).await?.send(request).await
}

fn verdict(reply: Reply) -> Result<Verdict> {
    Ok(match reply.status.as_u16() {
        // The protocol words a refused call as an error in an answer.
        200 if reply.json().is_ok_and(|body| body.get("error").is_some()) => Verdict::Denied,
        200 => Verdict::Allowed,
        401 => Verdict::Unauthenticated,
        403 => Verdict::Denied,
        other => Verdict::Other(other),
    })
}
