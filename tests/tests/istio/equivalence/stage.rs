//! Three judges over the same manifests: our waypoint fed by istiod, our waypoint fed by the manifests, and Envoy.

use super::callers::{ALIASES, Caller, Callers, Ways};
use super::messages::{self, FACTS, Message};
use super::policies::{About, Policy};
use super::questions::Question;
use super::requests::{Asked, Token, Tokens};
use super::services::{APPLICATIONS, Slot, Spec};
use super::streams::Opened;
use super::verdict::{self, Answer, Answers, Verdict};
use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::Request;
use portcullis_tests::http::{Body, Client, Reply, empty};
use portcullis_tests::istio::oracle::{Circumstances, Front, Oracle, Reading};
use portcullis_tests::istio::{
    Istiod, IstiodSettings, Lab, Namespace, Pod, PodSpec, Waypoint, WaypointSettings,
};
use portcullis_tests::manifests::{self, Manifests};
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::upstream::{Echo, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Outbound;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::Path;

/// The Gateway of `deploy/istio/waypoint.yaml`.
const GATEWAY: &str = "portcullis";

/// The Service that tells which policies are in force, and its port, by which policies of the Gateway know it.
const SENTINEL: (&str, u16) = ("sentinel", 8181);

/// Requests and objects under way at a time.
const AT_ONCE: usize = 16;

/// Policies of everything that stands on the stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// Of the Gateway: they hold for all Services.
    pub(crate) gateway: Vec<Policy>,
    /// Of each Service.
    pub(crate) services: Vec<Vec<Policy>>,
}

pub(crate) struct Stage {
    lab: Lab,
    istiod: Istiod,
    tools: Namespace,
    waypoint: Waypoint,
    folder: Manifests,
    scratch: tempfile::TempDir,
    _portcullis: Portcullis,
    _applications: (Upstream, Echo),
    callers: Callers,
    pub(crate) slots: Vec<Slot>,
    sentinel: Slot,
    tokens: Tokens,
    generation: u32,
    applied: BTreeSet<String>,
    oracle: Option<Oracle>,
}

impl Stage {
    /// Sets everything up but policies, with a Service for each of `kinds`. Every other four of them read tokens.
    pub(crate) async fn set(kinds: &[About]) -> Result<Self> {
        let lab = Lab::get()?;
        let istiod = lab.istiod(IstiodSettings::default().mesh_config(&mesh())).await?;
        let tools = lab.namespace("tools").await?;
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/istio/waypoint.yaml");
        tools.apply(&std::fs::read_to_string(&manifest)?).await?;
        let tokens = Tokens::new()?;
        let backend = tools.pod(&PodSpec::new("app").without_mesh()).await?;
        let [http, bytes] = APPLICATIONS.map(|port| backend.network.listen(backend.port(port)));
        let applications = (Upstream::on(http?, messages::answered)?, Echo::on(bytes?, b"")?);
        let folder = Manifests::new()?;
        let mut slots = services(&tools, &backend, &tokens, kinds, &folder).await?;
        let sentinel = slots.pop().context("the sentinel is a Service too")?;
        let settings = WaypointSettings::default().istiod(istiod.address());
        let waypoint = tools.waypoint_with(GATEWAY, &settings).await?;

        // The other waypoint stands in the hub. It has a certificate of the same mesh, so that clients trust it.
        let identity = tools.pod(&PodSpec::new("other-waypoint")).await?;
        let svid = identity.certificate_files().await?;
        let run = Run::new(folder.folder(), &svid).arg("--gateway", format!("{}/{GATEWAY}", tools.name));
        let run = ALIASES.iter().fold(run, |run, alias| run.arg("--trust-domain-alias", alias));
        let portcullis = Portcullis::start(&run.instead("--hbone-address", "10.244.0.1:0")).await?;
        let addresses = [waypoint.hbone(), portcullis.address("hbone")?];
        let callers = Callers::set(&lab, &Ways { addresses, ids: [waypoint.id(), identity.id()] }).await?;
        Ok(Self {
            lab,
            istiod,
            tools,
            waypoint,
            folder,
            scratch: tempfile::tempdir()?,
            _portcullis: portcullis,
            _applications: applications,
            callers,
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
            let reply = through(tunnel, SocketAddrV4::new(self.sentinel.vip, SENTINEL.1), asked).await;
            Ok(reply.is_ok_and(|reply| reply.status == 200).then_some(()))
        };
        let caller = self.callers.all.first().context("a caller")?;
        wait::until_async("policies in force by istiod", async || knows(&caller.istiod).await).await?;
        wait::until_async("policies in force by manifests", async || knows(&caller.manifests).await).await?;
        let mark = mark(self.generation);
        let listener = wait::until_async("istiod tells of the policies", async || {
            let listener = main_internal(&self.istiod.debug(&dump_of(&self.waypoint)).await?)?;
            Ok(listener.to_string().contains(&mark).then_some(listener))
        });
        let listener = listener.await?;
        let fronts: Vec<Front> = self.slots.iter().flat_map(|slot| slot.fronts(&self.tools.name)).collect();
        self.oracle = None;
        self.oracle = Some(Oracle::start(self.scratch.path(), &listener, &fronts, &FACTS).await?);
        Ok(())
    }

    fn sentinel_policy(&self) -> Value {
        let rules = json!([{
            "from": [{"source": {"requestPrincipals": ["issuer/alice"]}}],
            "when": [{"key": "request.headers[x-generation]", "values": [mark(self.generation)]}],
        }]);
        self.document(
            SENTINEL.0,
            &target("", "Service", SENTINEL.0),
            &json!({"action": "ALLOW", "rules": rules}),
            false,
        )
    }

    fn sentinel_request(&self) -> Result<Request<Body>> {
        let request = Request::get("/").header("host", "app");
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
        all.map(|(name, text)| (name, serde_json::from_str(&self.callers.named(&text)).unwrap_or_default()))
            .collect()
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
    pub(crate) async fn ask(&self, questions: &[(usize, Question)]) -> Result<Vec<Answers>> {
        let asked = questions.iter().map(|(slot, question)| async move {
            let answers = self.answers(&self.slots[*slot], question).await;
            answers.with_context(|| format!("{question:?}"))
        });
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }

    async fn answers(&self, slot: &Slot, question: &Question) -> Result<Answers> {
        let (caller, port) = question.way();
        let caller = self.callers.all.get(caller).context("a caller")?;
        let to = SocketAddrV4::new(slot.vip, port);
        match question {
            Question::Request(asked) => self.of_request(caller, to, asked).await,
            Question::Stream(opened) => self.of_stream(caller, to, opened).await,
        }
    }

    async fn of_request(&self, caller: &Caller, to: SocketAddrV4, asked: &Asked) -> Result<Answers> {
        let of = async |tunnel: &Outbound| {
            anyhow::Ok(verdict::of_reply(&through(tunnel, to, asked.request(&self.tokens)?).await?))
        };
        Ok(Answers {
            istiod: of(&caller.istiod).await?,
            manifests: of(&caller.manifests).await?,
            envoy: self.of_envoy(caller, to, asked).await?,
        })
    }

    /// Envoy is told the facts of a message. What follows access it judges so, and for a list the calls of its entries.
    async fn of_envoy(&self, caller: &Caller, to: SocketAddrV4, asked: &Asked) -> Result<Answer> {
        let oracle = self.oracle.as_ref().context("policies have been set")?;
        let facts = asked.message.as_ref().map(Message::facts).unwrap_or_default();
        let follows = asked.message.as_ref().is_some_and(Message::follows_access);
        let reading = if follows { Reading::ByAccess } else { Reading::AsSent };
        let request = || asked.request(&self.tokens);
        let reply = oracle.ask_by(reading, &under(caller, to, &facts), request()?).await?;
        let mut answer = verdict::of_reply(&reply);
        let entries = asked.message.as_ref().map(Message::entries).unwrap_or_default();
        for (name, facts) in entries.iter().filter(|_| answer.verdict == Verdict::Allowed) {
            let reply = oracle.ask_by(Reading::AsEntry, &under(caller, to, facts), request()?).await?;
            let kept = verdict::of_reply(&reply).verdict == Verdict::Allowed;
            answer.shown.extend(kept.then(|| (*name).to_owned()));
        }
        Ok(answer)
    }

    async fn of_stream(&self, caller: &Caller, to: SocketAddrV4, opened: &Opened) -> Result<Answers> {
        let bytes = opened.first.bytes()?;
        let of =
            async |tunnel: &Outbound| verdict::of_stream(tunnel.connect(&to.to_string()).await, &bytes).await;
        let oracle = self.oracle.as_ref().context("policies have been set")?;
        let carries = oracle.carries(&under(caller, to, &[]), &bytes).await?;
        Ok(Answers {
            istiod: of(&caller.istiod).await?,
            manifests: of(&caller.manifests).await?,
            envoy: if carries { Verdict::Allowed } else { Verdict::Denied }.into(),
        })
    }
}

/// Services of these kinds and the sentinel, for istiod and as manifests, which need the Gateway and the pod too.
async fn services(
    tools: &Namespace,
    backend: &Pod,
    tokens: &Tokens,
    kinds: &[About],
    folder: &Manifests,
) -> Result<Vec<Slot>> {
    let made = stream::iter(0..=kinds.len()).map(|number| async move {
        let name = format!("app-{number}");
        let reads = (number % 8 < 4).then_some(tokens);
        let sentinel =
            Spec { name: SENTINEL.0, about: About::Http, ports: &[SENTINEL.1], tokens: Some(tokens) };
        let spec = kinds.get(number).map_or(sentinel, |about| Spec {
            name: &name,
            about: *about,
            ports: &super::services::PORTS,
            tokens: reads.filter(|_| *about != About::Opaque),
        });
        Slot::make(tools, GATEWAY, backend, &spec).await
    });
    let (slots, documents): (Vec<Slot>, Vec<Vec<String>>) =
        made.buffered(AT_ONCE).try_collect::<Vec<_>>().await?.into_iter().unzip();
    let pod = manifests::Pod {
        namespace: &tools.name,
        name: "app",
        app: "app",
        service_account: "app",
        address: backend.address,
        in_mesh: false,
    };
    folder.write("gateway", &[manifests::gateway(&tools.name, GATEWAY)])?;
    folder.write("pod", &[pod.manifest()])?;
    folder.write("services", &documents.concat())?;
    Ok(slots)
}

/// The mesh's settings: its trust domain has further names.
fn mesh() -> String {
    format!(
        "rootNamespace: istio-system
trustDomain: cluster.local
trustDomainAliases: [{}]
defaultConfig: {{discoveryAddress: \"istiod.istio-system.svc:15012\"}}
",
        ALIASES.join(", ")
    )
}

fn under<'a>(caller: &'a Caller, to: SocketAddrV4, facts: &'a [(usize, String)]) -> Circumstances<'a> {
    Circumstances { source: &caller.pod.network, destination: to, principal: &caller.id, facts }
}

/// Where istiod shows what it sent to a waypoint.
pub(crate) fn dump_of(waypoint: &Waypoint) -> String {
    format!("/debug/config_dump?proxyID={}.{}", waypoint.pod.name, waypoint.pod.namespace)
}

/// The listener with all chains that istiod made for a waypoint, in its dump.
pub(crate) fn main_internal(dump: &Value) -> Result<Value> {
    let parts = dump["configs"].as_array().context("a dump has parts")?;
    let listeners = parts.iter().filter_map(|part| part["dynamicListeners"].as_array()).flatten();
    let mut listeners = listeners.map(|listener| &listener["activeState"]["listener"]);
    listeners.find(|listener| listener["name"] == "main_internal").cloned().context("main_internal")
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
    when.push(json!({"key": "destination.port", "notValues": [SENTINEL.1.to_string()]}));
    rule["when"] = when.into();
    rule
}

async fn through(tunnel: &Outbound, to: SocketAddrV4, request: Request<Body>) -> Result<Reply> {
    let stream = tunnel.connect(&to.to_string()).await?;
    Client::http1(stream).await?.send(request).await
}
