//! istiod's listeners, translated.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use istio_protos::envoy::config::listener::v3::listener_filter::ConfigType;
use istio_protos::envoy::config::listener::v3::{FilterChain, Listener, ListenerFilter};
use istio_protos::{Decoded, Finding, Step};
use waypoint_model::{Chain, JwtRule, Policy, PolicyKey, Protocol, Route, TelemetrySettings};

use super::chain::{self, ChainDraft, Jwt};
use super::matcher_tree::{Chains, Way, ways};
use super::policies::Policies;
use super::translated::{FrontedPods, FrontedPort, Refused, Translated};
use super::tunnel;

/// The listener that says what is fronted and what holds there.
pub(in super::super) const MAIN: &str = "main_internal";
/// The listener that ends tunnels.
const TUNNEL: &str = "connect_terminate";
/// Listeners between Envoy and itself: how it makes tunnels to endpoints, which is our own matter here.
const PLUMBING: [&str; 3] = ["connect_originate", "inner_connect_originate", "outer_connect_originate"];
/// Chains of workloads that are addressed by their own address.
const DIRECT: [&str; 2] = ["direct-http", "direct-tcp"];
/// Types of listener filters that do what our own detection does.
const FIRST_BYTES: [&str; 3] = [
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
];
/// What the names of services' chains begin with.
const FRONTED: &str = "inbound-vip";

/// Translates listeners, and remembers what it made of them: a part that did not change stays the same `Arc`, and a
/// policy that became unintelligible keeps its last good state.
#[derive(Debug, Default)]
pub struct Listeners {
    chains: HashMap<String, Known>,
    /// The ways of the last listener in which nothing outside of its chains was unknown.
    ways: Option<Vec<Way>>,
    policies: Policies,
}

/// A chain as it came, and what was made of it.
#[derive(Clone, Debug)]
struct Known {
    source: FilterChain,
    findings: Vec<Finding>,
    made: Arc<Made>,
}

/// A chain with all that it refers to.
#[derive(Debug)]
struct Made {
    protocol: Protocol,
    chain: Chain,
    policies: Vec<Arc<Policy>>,
    route: Option<Arc<Route>>,
    refused: Vec<Refused>,
    notes: Vec<Refused>,
}

impl Listeners {
    /// Translates one listener. Cost: what changed since the last listener of that name.
    pub fn translate(&mut self, listener: &Decoded<Listener>) -> Translated {
        let name = listener.message.name.as_str();
        match name {
            MAIN => self.main(&listener.message, &listener.findings),
            TUNNEL => tunnel::translate(&listener.message, &listener.findings),
            _ if PLUMBING.contains(&name) => Translated::default(),
            other => Translated {
                refused: vec![Refused::new("a listener that is not known").at(other)],
                ..Translated::default()
            },
        }
    }

    fn main(&mut self, listener: &Listener, findings: &[Finding]) -> Translated {
        let mut translated = Translated::default();
        let outside = outside(listener, findings);
        let made = self.chains(listener, findings);
        let (mut ways, refused) = match listener.filter_chain_matcher.as_ref() {
            Some(root) => ways(root),
            None => (Vec::new(), vec![Refused::new("no matcher").at("filter_chain_matcher")]),
        };
        match (outside.first(), &self.ways) {
            (None, _) => self.ways = Some(ways.clone()),
            // Something here is not understood, so who leads where stays as it was; what holds there is of the new version.
            (Some(_), Some(known)) => ways.clone_from(known),
            (Some(unknown), None) => translated.unusable = Some(unknown.to_string()),
        }
        translated.refused.extend(outside.into_iter().chain(refused).map(|refused| refused.at(MAIN)));
        front(ways, &made, &mut translated);
        collect(&made, &mut translated);
        translated
    }

    /// All chains by name: those that did not change as they were, the others anew.
    fn chains(&mut self, listener: &Listener, findings: &[Finding]) -> BTreeMap<String, Arc<Made>> {
        self.policies.begin();
        let before = std::mem::take(&mut self.chains);
        let mut fresh = Vec::new();
        for (at, source) in listener.filter_chains.iter().enumerate() {
            let mine: Vec<Finding> =
                findings.iter().filter(|finding| chain_of(finding) == Some(at)).cloned().collect();
            match before.get(&source.name).filter(|known| known.source == *source && known.findings == mine) {
                Some(known) => {
                    known.made.policies.iter().for_each(|policy| self.policies.keep(policy));
                    // The source at hand is kept, so that the response before can be let go.
                    let known = Known { source: source.clone(), ..known.clone() };
                    self.chains.insert(source.name.clone(), known);
                }
                None => fresh.push((source, mine)),
            }
        }
        for (source, findings) in fresh {
            let made = self.make(source, &findings, before.get(&source.name).map(|known| &*known.made));
            let known = Known { source: source.clone(), findings, made: Arc::new(made) };
            self.chains.insert(source.name.clone(), known);
        }
        self.chains.iter().map(|(name, known)| (name.clone(), Arc::clone(&known.made))).collect()
    }

    fn make(&mut self, source: &FilterChain, findings: &[Finding], before: Option<&Made>) -> Made {
        let findings: Vec<&Finding> = findings.iter().collect();
        let mut draft = chain::chain(source, &findings);
        let place = |refused: Refused| refused.at(format!("filter_chains[{:?}]", source.name)).at(MAIN);
        let policies_refused = draft.policies.iter().flat_map(|draft| draft.refused.clone());
        draft.refused.extend(policies_refused.collect::<Vec<_>>());
        let jwt = settle_jwt(&mut draft, before);
        let policies: Vec<Arc<Policy>> = std::mem::take(&mut draft.policies)
            .into_iter()
            .map(|draft| self.policies.settle(draft, &source.name))
            .collect();
        let route =
            draft.route.take().map(|route| same_or_new(route, before.and_then(|made| made.route.as_ref())));
        let telemetry = self.telemetry(std::mem::take(&mut draft.telemetry));
        Made {
            protocol: draft.protocol,
            chain: Chain {
                policies: policies.iter().map(|policy| policy.key.clone()).collect(),
                routes: route.iter().map(|route| route.key.clone()).collect(),
                jwt,
                cluster: draft.cluster,
                streams: draft.streams,
                stream_bounds: draft.stream_bounds,
                path_normalization: draft.path_normalization,
                telemetry: Some(telemetry),
                limits: draft.limits,
                global_limits: draft.global_limits,
                unusable: draft.unusable,
            },
            policies,
            route,
            refused: draft.refused.into_iter().map(place).collect(),
            notes: draft.notes.into_iter().map(place).collect(),
        }
    }

    /// Few chains differ in what is told of them, so equal settings are one.
    fn telemetry(&self, settings: TelemetrySettings) -> Arc<TelemetrySettings> {
        let known = self.chains.values().filter_map(|known| known.made.chain.telemetry.as_ref());
        known.into_iter().find(|known| ***known == settings).map_or_else(|| Arc::new(settings), Arc::clone)
    }
}

/// Whether a finding in a listener stands in none of its chains.
pub(in super::super) fn concerns_all(finding: &Finding) -> bool {
    chain_of(finding).is_none()
}

/// What is not understood of a listener outside of its chains.
fn outside(listener: &Listener, findings: &[Finding]) -> Vec<Refused> {
    let findings = findings.iter().filter(|finding| concerns_all(finding));
    let filters = listener.listener_filters.iter().filter(|filter| !is_our_own(filter));
    let unsupported = |filter: &ListenerFilter| {
        Refused::new(format!("filter {} is not supported", filter.name)).at("listener_filters")
    };
    findings.map(|finding| Refused::new(finding.to_string())).chain(filters.map(unsupported)).collect()
}

/// Filters that read the first bytes or the tunnel's authority, as we do by ourselves.
fn is_our_own(filter: &ListenerFilter) -> bool {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(any)) => FIRST_BYTES.contains(&any.type_name()),
        None => false,
    }
}

/// The chain that a finding in a listener stands in.
fn chain_of(finding: &Finding) -> Option<usize> {
    match finding.path.as_slice() {
        [Step::Field("filter_chains"), Step::Index(at), ..] => Some(*at),
        _ => None,
    }
}

/// The rules of tokens: those of the draft, or the last good ones where its filter was refused; without any nothing is
/// served, since a token that must not pass could not be told from one that may.
fn settle_jwt(draft: &mut ChainDraft, before: Option<&Made>) -> Vec<Arc<JwtRule>> {
    let known = before.map_or(&[][..], |made| &made.chain.jwt);
    match std::mem::take(&mut draft.jwt) {
        Jwt::None => Vec::new(),
        Jwt::Rules(rules) => rules
            .into_iter()
            .map(|rule| known.iter().find(|known| **known == rule).map_or(rule, Arc::clone))
            .collect(),
        Jwt::Refused(refused) => {
            if known.is_empty() {
                draft.refuse(&refused);
            }
            draft.refused.push(refused);
            known.to_vec()
        }
    }
}

fn same_or_new(route: Route, known: Option<&Arc<Route>>) -> Arc<Route> {
    known.filter(|known| ***known == route).map_or_else(|| Arc::new(route), Arc::clone)
}

/// Puts ways and chains together into ports.
fn front(ways: Vec<Way>, made: &BTreeMap<String, Arc<Made>>, translated: &mut Translated) {
    let mut ports: BTreeMap<(String, u16), FrontedPort> = BTreeMap::new();
    for way in ways {
        let (protocol, chain) = carried(&way.chains, made);
        if let Some(pods) = direct(&way, protocol, &chain) {
            merge_pods(&mut translated.pods, pods);
            continue;
        }
        let Some((hostname, port)) = service(&way) else {
            let names = format!("{:?}", way.chains);
            translated.refused.push(Refused::new("this chain belongs to no service").at(names).at(MAIN));
            continue;
        };
        let entry = ports.entry((hostname.clone(), port)).or_insert_with(|| FrontedPort {
            hostname: hostname.as_str().into(),
            vips: Vec::new(),
            port,
            protocol,
            chain: chain.clone(),
        });
        // A headless service has 0.0.0.0 for an address: nobody can be addressed by that.
        let usable = |address: &&IpAddr| !address.is_unspecified() && !entry.vips.contains(address);
        let more = way.to.addresses.iter().filter(usable);
        let more: Vec<IpAddr> = more.copied().collect();
        entry.vips.extend(more);
        if entry.protocol != protocol || entry.chain != chain {
            entry
                .chain
                .unusable
                .get_or_insert_with(|| "two ways to this port lead to different chains".to_owned());
        }
    }
    translated.ports = ports.into_values().collect();
}

fn direct(way: &Way, protocol: Protocol, chain: &Chain) -> Option<FrontedPods> {
    let names = match &way.chains {
        Chains::Only(name) => [name, name],
        Chains::Detected { http, tcp } => [http, tcp],
    };
    let direct = names.iter().all(|name| DIRECT.contains(&name.as_str())) && way.to.port.is_none();
    direct.then(|| FrontedPods { addresses: way.to.addresses.clone(), protocol, chain: chain.clone() })
}

fn merge_pods(pods: &mut Option<FrontedPods>, more: FrontedPods) {
    match pods {
        Some(known) => known.addresses.extend(more.addresses),
        None => *pods = Some(more),
    }
}

/// Protocol and chain of a way. Of two chains the HTTP one stands for both: its policies, applied to opaque streams,
/// are those of the TCP chain.
fn carried(chains: &Chains, made: &BTreeMap<String, Arc<Made>>) -> (Protocol, Chain) {
    match chains {
        Chains::Only(name) => match made.get(name) {
            Some(made) => (made.protocol, made.chain.clone()),
            None => (Protocol::Undeclared, missing(name)),
        },
        Chains::Detected { http, tcp } => match (made.get(http), made.get(tcp)) {
            (Some(http), Some(tcp)) => (Protocol::Undeclared, both(http, tcp)),
            (None, _) => (Protocol::Undeclared, missing(http)),
            (_, None) => (Protocol::Undeclared, missing(tcp)),
        },
    }
}

fn both(http: &Made, tcp: &Made) -> Chain {
    let mut chain = http.chain.clone();
    chain.stream_bounds = tcp.chain.stream_bounds;
    chain.streams = match (&tcp.chain.cluster, tcp.chain.streams.as_slice()) {
        (Some(cluster), []) => vec![(cluster.clone(), 1)],
        (_, shares) => shares.to_vec(),
    };
    if chain.unusable.is_none() {
        chain.unusable.clone_from(&tcp.chain.unusable);
    }
    if !stands_for(http, tcp) {
        chain
            .unusable
            .get_or_insert_with(|| "its TCP chain has policies that its HTTP chain has not".to_owned());
    }
    chain
}

/// Whether every policy of a TCP chain has its HTTP compilation in the other: only then the one stands for both. The filter
/// that allows nothing is what istiod makes of ALLOW policies that only HTTP can answer; so is ours.
fn stands_for(http: &Made, tcp: &Made) -> bool {
    let plain = |key: &PolicyKey| {
        let name = key.name.strip_suffix(" (tcp)").unwrap_or(&key.name);
        PolicyKey::new(&key.namespace, name)
    };
    let known: BTreeSet<PolicyKey> = http.chain.policies.iter().map(plain).collect();
    let of_istiod = |key: &PolicyKey| &*key.namespace == "(istiod)";
    tcp.chain.policies.iter().all(|key| of_istiod(key) || known.contains(&plain(key)))
}

fn missing(name: &str) -> Chain {
    Chain { unusable: Some(format!("the chain {name} is missing")), ..Chain::default() }
}

/// Host name and port of a way: `inbound-vip|80|http|server.app.svc.cluster.local`.
fn service(way: &Way) -> Option<(String, u16)> {
    let name = match &way.chains {
        Chains::Only(name) => name,
        Chains::Detected { http, .. } => http,
    };
    let mut parts = name.split('|');
    let direction = parts.next()?;
    let port: u16 = parts.next()?.parse().ok()?;
    let (_subset, hostname) = (parts.next()?, parts.next()?);
    let whole = direction == FRONTED && parts.next().is_none() && !hostname.is_empty();
    let asked = match (&way.to.authority, way.to.port) {
        (Some((host, asked)), None) => host == hostname && *asked == port,
        (None, Some(asked)) => asked == port && !way.to.addresses.is_empty(),
        _ => false,
    };
    (whole && asked).then(|| (hostname.to_owned(), port))
}

/// Gathers what the chains refer to. Refusals of chains that nothing leads to count too: istiod meant them.
fn collect(made: &BTreeMap<String, Arc<Made>>, translated: &mut Translated) {
    let mut policies: BTreeMap<_, Arc<Policy>> = BTreeMap::new();
    for made in made.values() {
        policies.extend(made.policies.iter().map(|policy| (policy.key.clone(), Arc::clone(policy))));
        translated.routes.extend(made.route.clone());
        translated.refused.extend(made.refused.iter().cloned());
        translated.notes.extend(made.notes.iter().cloned());
    }
    translated.policies = policies.into_values().collect();
}
