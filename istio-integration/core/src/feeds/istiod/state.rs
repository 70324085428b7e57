//! Everything that istiod said, translated. One owner, no locks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use istio_protos::envoy::config::cluster::v3::Cluster;
use istio_protos::envoy::config::endpoint::v3::ClusterLoadAssignment;
use istio_protos::envoy::config::listener::v3::Listener;
use istio_protos::istio::workload::Address;
use istio_protos::{What, decode};
use waypoint_model::{ClusterKey, MeshConfig, WorkloadUid};
use xds_client::Resource;

use super::apply::{Emitted, Finding, Severity};
use super::fronted::Fronted;
use super::held::{HeldResources, Version};
use super::listener::{MAIN, concerns_all};
use super::upstreams::Upstreams;
use super::{
    Index, Kind, Listeners, Own, Refused, Translated, TranslatedCluster, TranslatedEndpoints, cluster,
    endpoint, own_destination,
};

/// All resources by type and name, and what they were translated to.
pub(super) struct State {
    index: Index,
    upstreams: Upstreams,
    /// Clusters whose endpoint is the address of their service.
    own_destinations: BTreeSet<ClusterKey>,
    translator: Listeners,
    listeners: BTreeMap<Arc<str>, Translated>,
    fronted: Fronted,
    held: HeldResources,
    findings: BTreeMap<(Kind, Arc<str>), Vec<Finding>>,
    /// Addresses at which someone else may stand than when endpoints were joined last.
    moved: HashSet<IpAddr>,
    answered: BTreeSet<Kind>,
    /// Fields of the workload API that are younger than we are.
    newer_fields: BTreeSet<String>,
}

/// What a translator said of one resource.
#[derive(Default)]
struct Said {
    /// Reasons of a NACK.
    refused: Vec<Refused>,
    unusable: Vec<Refused>,
    notes: Vec<Refused>,
}

impl State {
    /// An empty one, as seen from our network.
    pub(super) fn new(own: Own) -> Self {
        Self {
            index: Index::new(own),
            upstreams: Upstreams::default(),
            own_destinations: BTreeSet::new(),
            translator: Listeners::default(),
            listeners: BTreeMap::new(),
            fronted: Fronted::default(),
            held: HeldResources::default(),
            findings: BTreeMap::new(),
            moved: HashSet::new(),
            answered: BTreeSet::new(),
            newer_fields: BTreeSet::new(),
        }
    }

    /// Takes up a change: what is refused of it, by resource. What is not refused is part of the next configuration.
    pub(super) fn take(
        &mut self,
        kind: Kind,
        upserts: Vec<Resource>,
        removals: &[Arc<str>],
    ) -> Vec<xds_client::Refused> {
        self.answered.insert(kind);
        for name in removals {
            self.remove(kind, name);
        }
        upserts.into_iter().filter_map(|resource| self.upsert(kind, resource)).collect()
    }

    /// Types that istiod did not answer yet; of endpoints an answer is due only if some cluster has them.
    pub(super) fn awaited(&mut self) -> BTreeSet<Kind> {
        let no_endpoints = self.upstreams.wanted().is_empty();
        let due = |kind: &Kind| match kind {
            Kind::Endpoint if no_endpoints => false,
            kind => !self.answered.contains(kind),
        };
        Kind::ALL.into_iter().filter(due).collect()
    }

    /// Names under which endpoints are to be asked for. Those of others are forgotten: istiod does not say that they are gone.
    pub(super) fn wanted_endpoints(&mut self) -> BTreeSet<String> {
        let names = self.upstreams.wanted();
        let unwanted = |kind: Kind, name: &str| kind == Kind::Endpoint && !names.contains(name);
        self.held.forget(unwanted);
        self.findings.retain(|(kind, name), _| !unwanted(*kind, name));
        names
    }

    /// Whether istiod has said who serves this cluster.
    pub(super) fn has_endpoints(&self, name: &str) -> bool {
        self.upstreams.has_endpoints(name)
    }

    /// The whole configuration as it is now.
    pub(super) fn emit(&mut self) -> Emitted {
        let moved = std::mem::take(&mut self.moved);
        let index = &self.index;
        let who = |ip| index.at(ip).map(|workload| workload.uid.clone());
        let mut clusters = self.upstreams.joined(&who, &moved).clone();
        self.fronted.join(self.listeners.values(), &self.index);
        for key in &self.own_destinations {
            if let Some(cluster) = clusters.get_mut(key) {
                let service = self.fronted.services.get(&cluster.service);
                *cluster = Arc::new(own_destination::settle(cluster, service, &who));
            }
        }
        let mesh = MeshConfig {
            services: self.fronted.services.clone(),
            pods: self.fronted.pods.clone(),
            workloads: self.index.workloads().clone(),
            policies: self.fronted.policies.clone(),
            routes: self.fronted.routes.clone(),
            clusters,
            trust_domains: self.listeners.values().find_map(|listener| listener.trust_domains.clone()),
            ..MeshConfig::default()
        };
        let newer = self.newer_fields.iter().map(|message| Finding {
            severity: Severity::Note,
            kind: Kind::Address,
            resource: "*".to_owned(),
            message: message.clone(),
        });
        let findings = self.findings.values().flatten().cloned().chain(newer).collect();
        Emitted { mesh: Arc::new(mesh), findings, held: self.held.clone() }
    }

    fn upsert(&mut self, kind: Kind, resource: Resource) -> Option<xds_client::Refused> {
        let Resource { name, version, body } = resource;
        let said = match kind {
            Kind::Cluster => self.cluster(&name, body.clone()),
            Kind::Endpoint => self.endpoint(&name, body.clone()),
            Kind::Listener => self.listener(&name, body.clone()),
            Kind::Address => self.address(&name, body.clone()),
        };
        self.note(kind, &name, &said);
        let version = Version { version, body, since: SystemTime::now() };
        if said.refused.is_empty() {
            self.held.accept(kind, name, version);
            return None;
        }
        let reasons: Vec<String> = said.refused.iter().map(ToString::to_string).collect();
        let reason = reasons.join("; ");
        self.held.refuse(kind, Arc::clone(&name), version, reason.clone());
        Some(xds_client::Refused { name: name.to_string(), reason })
    }

    fn remove(&mut self, kind: Kind, name: &Arc<str>) {
        match kind {
            Kind::Cluster => self.upstreams.remove_cluster(name),
            Kind::Endpoint => self.upstreams.remove_endpoints(name),
            Kind::Listener => {
                self.listeners.remove(name);
            }
            Kind::Address => {
                self.moves(name);
                self.index.remove(name);
            }
        }
        self.held.remove(kind, name);
        self.findings.remove(&(kind, Arc::clone(name)));
    }

    fn note(&mut self, kind: Kind, name: &Arc<str>, said: &Said) {
        let rows = [
            (Severity::Refused, &said.refused),
            (Severity::Unusable, &said.unusable),
            (Severity::Note, &said.notes),
        ];
        let of = |(severity, what): (Severity, &Vec<Refused>)| {
            what.iter().map(move |what| Finding::new(severity, kind, name, what)).collect::<Vec<_>>()
        };
        let findings: Vec<Finding> = rows.into_iter().flat_map(of).collect();
        if findings.is_empty() {
            self.findings.remove(&(kind, Arc::clone(name)));
        } else {
            self.findings.insert((kind, Arc::clone(name)), findings);
        }
    }

    fn cluster(&mut self, name: &Arc<str>, body: Bytes) -> Said {
        let translated = match decode::<Cluster>(body) {
            Ok(decoded) => cluster::translate(&decoded),
            Err(error) => return Said::refuse(name, &error),
        };
        // Plumbing has no place here; what had its name before goes.
        let Some(told) = translated else {
            self.upstreams.remove_cluster(name);
            return Said::default();
        };
        let TranslatedCluster { cluster, endpoints_from, own_destination, mutual_tls, refused, notes } = told;
        let said = Said { refused, unusable: unusable(name, cluster.unusable.as_ref()), notes };
        // Without a good version before, it is there and says why it is not served.
        if said.refused.is_empty() || !self.upstreams.has_cluster(name) {
            match own_destination {
                true => self.own_destinations.insert(cluster.key.clone()),
                false => self.own_destinations.remove(&cluster.key),
            };
            self.upstreams.set_cluster(Arc::clone(name), cluster, endpoints_from, mutual_tls);
        }
        said
    }

    fn endpoint(&mut self, name: &Arc<str>, body: Bytes) -> Said {
        let translated = match decode::<ClusterLoadAssignment>(body) {
            Ok(decoded) => endpoint::translate(&decoded),
            Err(error) => return Said::refuse(name, &error),
        };
        let TranslatedEndpoints { endpoints, sidecars, refused, notes } = translated;
        if refused.is_empty() {
            self.upstreams.set_endpoints(Arc::clone(name), endpoints, sidecars);
        }
        Said { refused, unusable: Vec::new(), notes }
    }

    /// What a listener says is made safe by its translator, so it is taken up even where some of it is refused.
    fn listener(&mut self, name: &Arc<str>, body: Bytes) -> Said {
        let decoded = match decode::<Listener>(body) {
            Ok(decoded) => decoded,
            Err(error) => return Said::refuse(name, &error),
        };
        // What stands outside of the chains of the tunnel's listener leaves the last good one in force; without one, nothing
        // is served. Of the main listener the translator takes up what it can.
        let outside = decoded.findings.iter().any(concerns_all);
        if outside && &**name != MAIN && self.listeners.contains_key(name) {
            return Said { refused: unknown(name, &decoded.findings), ..Said::default() };
        }
        let translated = self.translator.translate(&decoded);
        let chain_faults = translated.ports.iter().filter_map(|port| {
            let why = port.chain.unusable.clone()?;
            Some(Refused { path: format!("{}:{}", port.hostname, port.port), why })
        });
        let whole = unusable(name, translated.unusable.as_ref());
        let said = Said {
            refused: translated.refused.clone(),
            unusable: whole.into_iter().chain(chain_faults).collect(),
            notes: translated.notes.clone(),
        };
        self.listeners.insert(Arc::clone(name), translated);
        said
    }

    /// A field that a newer istiod added is passed over: who a workload is does not change by it, and to refuse it would be
    /// to refuse every workload. A value that is not known is refused: it would be read as the first of its kind.
    fn address(&mut self, name: &Arc<str>, body: Bytes) -> Said {
        let decoded = match decode::<Address>(body) {
            Ok(decoded) => decoded,
            Err(error) => return Said::refuse(name, &error),
        };
        let newer = |finding: &istio_protos::Finding| matches!(finding.what, What::UnknownField { .. });
        let (newer, refused): (Vec<_>, Vec<_>) = decoded.findings.into_iter().partition(newer);
        self.newer_fields.extend(newer.iter().map(ToString::to_string));
        if !refused.is_empty() {
            return Said { refused: unknown(name, &refused), ..Said::default() };
        }
        self.moves(name);
        let taken = self.index.upsert(name, decoded.message);
        self.moves(name);
        match taken {
            Ok(()) => Said::default(),
            Err(error) => Said::refuse(name, &error),
        }
    }

    /// Whoever stands at an address of this workload may be someone else from now on.
    fn moves(&mut self, name: &Arc<str>) {
        let workload = self.index.workloads().get(&WorkloadUid(Arc::clone(name)));
        self.moved.extend(workload.iter().flat_map(|workload| &workload.addresses).map(IpAddr::to_canonical));
    }
}

impl Said {
    fn refuse(name: &Arc<str>, error: &(dyn std::error::Error + 'static)) -> Self {
        let why = match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        Self { refused: vec![Refused { path: name.to_string(), why }], ..Self::default() }
    }
}

fn unknown(name: &Arc<str>, findings: &[istio_protos::Finding]) -> Vec<Refused> {
    findings.iter().map(|finding| Refused { path: name.to_string(), why: finding.to_string() }).collect()
}

fn unusable(name: &Arc<str>, why: Option<&String>) -> Vec<Refused> {
    why.map(|why| Refused { path: name.to_string(), why: why.clone() }).into_iter().collect()
}
