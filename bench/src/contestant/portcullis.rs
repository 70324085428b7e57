//! Our waypoint, with manifests in a folder.

use super::{Entrance, Running};
use crate::backend::App;
use crate::mcp;
use crate::program::{Program, get};
use crate::world::{HBONE, NAMESPACE, World};
use anyhow::{Context as _, Result};
use portcullis_tests::manifests::{self, Manifests, Pod, Port};
use portcullis_tests::wait;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::SystemTime;

/// How the waypoint is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waypoint {
    /// What its policies ask.
    pub rules: Rules,
    /// `--observe`: whether MCP names are picked out of bodies that nobody has to read.
    pub observe: bool,
    /// Services in the folder beside the one that has traffic.
    pub others: usize,
}

impl Waypoint {
    /// One Service, with these rules, and no observation.
    pub(crate) const fn with(rules: Rules) -> Self {
        Self { rules, observe: false, others: 0 }
    }
}

/// What the policies of the Service ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Nothing: there is no policy.
    None,
    /// So many rules on path, method and a header; the load fits the last.
    Headers(usize),
    /// Tools, and an argument of each.
    Calls,
    /// Tools by prefix, of which a list holds more.
    Lists,
}

/// Rules in one AuthorizationPolicy; more than these are spread over several, as people do.
const RULES_OF_A_POLICY: usize = 10;

/// Address of the Service.
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// Circuit breakers and bounds as wide as the peers have them, so that thousands of held streams are no fault.
const SETTINGS: &str = "endpoint_requests: 100000\nendpoint_connections: 100000\n";

/// The waypoint's own ports and its folder.
pub(crate) struct Control {
    /// Its manifests.
    pub manifests: Manifests,
    metrics: SocketAddr,
}

impl Control {
    /// The generation of configuration that is in force.
    pub(crate) async fn generation(&self) -> Result<f64> {
        let answer = get(self.metrics, "/stats/prometheus").await?;
        let line = answer.lines().find_map(|line| line.strip_prefix("portcullis_config_generation "));
        Ok(line.context("no generation in the metrics")?.trim().parse()?)
    }

    /// Changes a policy that no request of the load meets, and waits until it is in force.
    pub(crate) async fn change(&self) -> Result<()> {
        let before = self.generation().await?;
        let count = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        let rules = format!("- to: [{{operation: {{paths: [\"/changed/{count}\"]}}}}]\n");
        self.manifests
            .write("changing", &[manifests::policy(NAMESPACE, "changing", "app", "ALLOW", &rules)])?;
        wait::until_async("a newer configuration", async || {
            Ok((self.generation().await? > before).then_some(()))
        })
        .await
    }
}

impl Waypoint {
    pub(super) async fn start(&self, world: &World, program: &Path, app: App) -> Result<Running> {
        let manifests = self.manifests(world)?;
        let scratch = world.scratch()?;
        let settings = scratch.join("settings.yaml");
        std::fs::write(&settings, SETTINGS)?;
        let own = world.addresses.next();
        let at = |port: u16| SocketAddr::from((own, port));
        let mut args: Vec<OsString> = vec!["run".into()];
        let mut arg = |flag: &str, value: OsString| args.extend([flag.into(), value]);
        arg("--manifests", manifests.folder().into());
        arg("--gateway", format!("{NAMESPACE}/waypoint").into());
        arg("--settings", settings.into());
        arg("--cert-chain", world.svid.cert_chain.clone().into());
        arg("--key", world.svid.key.clone().into());
        arg("--trust-bundle", world.svid.trust_bundle.clone().into());
        arg("--observe", if self.observe { "on" } else { "off" }.into());
        arg("--access-log", "off".into());
        arg("--deny-mode", "status".into());
        for (flag, port) in [("hbone", HBONE), ("admin", 15000), ("metrics", 15020), ("ready", 15021)] {
            arg(&format!("--{flag}-address"), at(port).to_string().into());
        }
        let mut program = Program::start(world.cores, program, &args, scratch.join("output"))?;
        program.ready(at(15021), "/healthz/ready").await?;
        let entrance = Entrance::hbone(world, "waypoint", at(HBONE), (VIP, app.port()))?;
        let control = Control { manifests, metrics: at(15020) };
        Ok(Running { entrance, waypoint: Some(control), program: Some(program) })
    }

    fn manifests(&self, world: &World) -> Result<Manifests> {
        let folder = Manifests::new()?;
        folder.write("gateway", &[manifests::gateway(NAMESPACE, "waypoint")])?;
        let pod = Pod {
            namespace: NAMESPACE,
            name: "app-1",
            app: "app",
            service_account: "app",
            address: world.pod,
            in_mesh: true,
        };
        folder.write("pod", &[pod.manifest()])?;
        folder.write("service", &[manifests::service(NAMESPACE, "app", VIP, &ports())])?;
        folder.write("policies", &self.rules.policies())?;
        folder.write("others", &others(self.others))?;
        Ok(folder)
    }
}

fn ports() -> Vec<Port> {
    let port = |name: &str, app: App, protocol: &str| Port::new(name, app.port()).speaking(protocol);
    vec![
        port("web", App::Http1, "http"),
        port("h2c", App::H2c, "kubernetes.io/h2c"),
        port("grpc", App::Grpc, "grpc"),
        port("raw", App::Raw, "tcp"),
    ]
}

/// Services that nobody calls, each on its own address, before the same pod.
fn others(count: usize) -> Vec<String> {
    let service = |n: usize| {
        let [_, b, c, d] = u32::try_from(n).unwrap_or(0).to_be_bytes();
        let name = format!("other-{n}");
        let service = manifests::service(NAMESPACE, &name, Ipv4Addr::new(11, b, c, d), &ports());
        service.replace(&format!("app: {name}"), "app: app")
    };
    (0..count).map(service).collect()
}

impl Rules {
    /// The rules of the waypoint's policies, as manifests.
    fn policies(self) -> Vec<String> {
        let allow = |name: &str, rules: &str| manifests::policy(NAMESPACE, name, "app", "ALLOW", rules);
        match self {
            Self::None => Vec::new(),
            Self::Calls => vec![allow("calls", &mcp::call_rules())],
            Self::Lists => vec![allow("lists", &mcp::list_rules())],
            Self::Headers(count) => {
                let rules: Vec<String> = (0..count).map(header_rule).collect();
                let policies = rules.chunks(RULES_OF_A_POLICY).enumerate();
                policies.map(|(n, rules)| allow(&format!("rules-{n}"), &rules.concat())).collect()
            }
        }
    }
}

fn header_rule(n: usize) -> String {
    format!(
        "- to: [{{operation: {{methods: [GET, POST], paths: [\"/r{n}/*\"]}}}}]\n  \
         when: [{{key: \"request.headers[x-team]\", values: [\"t{n}\"]}}]\n"
    )
}
