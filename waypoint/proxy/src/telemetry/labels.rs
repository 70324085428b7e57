//! Label sets. They hold the shared objects of the mesh and compare by what they show, so that counting a request
//! formats nothing; text is made when somebody scrapes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use spiffe_id::SpiffeId;
use waypoint_model::{Service, Workload};
use waypoint_policy::RuleName;

use super::exchange::{Decision, RequestRecord, SourceRecord, StreamRecord};

/// What Istio writes where it does not know.
const UNKNOWN: &str = "unknown";
/// Where a bound was reached.
pub(super) const OTHER: &str = "other";
/// Where there is nothing to name.
pub(super) const NONE: &str = "-";

/// A label set with a stand-in for those beyond the bound of [`crate::limits::Limits::label_sets`].
pub(super) trait Bounded:
    EncodeLabelSet + Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static
{
    /// The set that takes what is beyond the bound.
    fn other() -> Self;
}

/// Labels of a workload as Istio names them; equal when they read the same, whichever snapshot they come from.
#[derive(Clone, Debug)]
struct Names(Option<Arc<Workload>>);

impl Names {
    /// workload, workload_namespace, canonical_service, canonical_revision, app, version, cluster.
    fn view(&self) -> [&str; 7] {
        let Some(w) = self.0.as_deref() else { return [""; 7] };
        [
            &w.workload_name,
            &w.namespace,
            &w.canonical_name,
            &w.canonical_revision,
            w.app.as_deref().unwrap_or_default(),
            w.version.as_deref().unwrap_or_default(),
            &w.cluster,
        ]
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => true,
            _ => self.view() == other.view(),
        }
    }
}

impl Eq for Names {}

impl Hash for Names {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.view().hash(state);
    }
}

/// A service by its names.
#[derive(Clone, Debug)]
pub(super) struct ServiceNames(Option<Arc<Service>>);

impl ServiceNames {
    pub(super) fn of(service: Option<&Arc<Service>>) -> Self {
        Self(service.cloned())
    }

    fn host(&self) -> &str {
        self.0.as_deref().map_or(UNKNOWN, |service| known(&service.key.hostname))
    }

    fn name(&self) -> &str {
        self.0.as_deref().map_or(UNKNOWN, |service| known(&service.name))
    }

    fn namespace(&self) -> &str {
        self.0.as_deref().map_or(UNKNOWN, |service| known(&service.key.namespace))
    }
}

impl PartialEq for ServiceNames {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => true,
            _ => (self.host(), self.namespace()) == (other.host(), other.namespace()),
        }
    }
}

impl Eq for ServiceNames {}

impl Hash for ServiceNames {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.host(), self.namespace()).hash(state);
    }
}

/// Labels of Istio's standard metrics (`reporter="waypoint"`). `None`: beyond the bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Traffic(Option<TrafficSet>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TrafficSet {
    principal: Option<SpiffeId>,
    source: Names,
    service: ServiceNames,
    destination: Names,
    destination_principal: Option<SpiffeId>,
    protocol: &'static str,
    status: Option<u16>,
    grpc_status: Option<i32>,
    flags: &'static str,
}

impl Traffic {
    pub(super) fn request(record: &RequestRecord) -> Self {
        let destination = record.upstream.as_ref().map(|(workload, _)| workload);
        let protocol = if record.grpc { "grpc" } else { "http" };
        let set = TrafficSet::new(&record.source, record.service.as_ref(), destination, protocol);
        Self(Some(TrafficSet {
            status: Some(record.status),
            grpc_status: record.grpc_status.filter(|_| record.grpc),
            flags: or_none(record.flags),
            ..set
        }))
    }

    /// As at the stream's start: no flag yet.
    pub(super) fn stream_opened(record: &StreamRecord) -> Self {
        let destination = record.upstream.as_ref().map(|(workload, _)| workload);
        Self(Some(TrafficSet::new(&record.source, record.service.as_ref(), destination, "tcp")))
    }

    pub(super) fn stream_closed(record: &StreamRecord) -> Self {
        let opened = Self::stream_opened(record);
        Self(opened.0.map(|set| TrafficSet { flags: or_none(record.flags), ..set }))
    }
}

impl TrafficSet {
    fn new(
        source: &SourceRecord,
        service: Option<&Arc<Service>>,
        destination: Option<&Arc<Workload>>,
        protocol: &'static str,
    ) -> Self {
        Self {
            principal: source.principal.clone(),
            source: Names(source.workload.clone()),
            service: ServiceNames::of(service),
            destination: Names(destination.cloned()),
            destination_principal: destination.and_then(|workload| workload.identity.clone()),
            protocol,
            status: None,
            grpc_status: None,
            flags: NONE,
        }
    }

    /// The namespace is attested by the certificate even where the address is of no workload we know.
    fn source_namespace(&self) -> &str {
        let [_, namespace, ..] = self.source.view();
        let attested = || self.principal.as_ref()?.workload().map(|workload| workload.namespace);
        if namespace.is_empty() { attested().unwrap_or(UNKNOWN) } else { namespace }
    }
}

impl Bounded for Traffic {
    fn other() -> Self {
        Self(None)
    }
}

impl EncodeLabelSet for Traffic {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(set) = &self.0 else { return encode_other_traffic(encoder) };
        let [workload, _, service, revision, app, version, cluster] = set.source.view().map(known);
        let source = [
            ("reporter", "waypoint"),
            ("source_workload", workload),
            ("source_workload_namespace", set.source_namespace()),
            ("source_canonical_service", service),
            ("source_canonical_revision", revision),
            ("source_principal", principal(set.principal.as_ref())),
            ("source_app", app),
            ("source_version", version),
            ("source_cluster", cluster),
        ];
        let [workload, namespace, service, revision, app, version, cluster] =
            set.destination.view().map(known);
        let destination = [
            ("destination_workload", workload),
            ("destination_workload_namespace", namespace),
            ("destination_canonical_service", service),
            ("destination_canonical_revision", revision),
            ("destination_principal", principal(set.destination_principal.as_ref())),
            ("destination_app", app),
            ("destination_version", version),
            ("destination_cluster", cluster),
            ("destination_service", set.service.host()),
            ("destination_service_name", set.service.name()),
            ("destination_service_namespace", set.service.namespace()),
            ("request_protocol", set.protocol),
        ];
        labels(encoder, &source)?;
        labels(encoder, &destination)?;
        if let Some(status) = set.status {
            ("response_code", u32::from(status)).encode(encoder.encode_label())?;
        }
        if let Some(status) = set.grpc_status {
            ("grpc_response_status", i64::from(status)).encode(encoder.encode_label())?;
        }
        labels(encoder, &[("response_flags", set.flags), ("connection_security_policy", "mutual_tls")])
    }
}

/// Only the names by which dashboards select: everything about the two ends is `other`.
fn encode_other_traffic(encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
    labels(
        encoder,
        &[
            ("reporter", "waypoint"),
            ("source_workload", OTHER),
            ("source_principal", OTHER),
            ("destination_workload", OTHER),
            ("destination_principal", OTHER),
            ("destination_service", OTHER),
            ("destination_service_name", OTHER),
            ("request_protocol", OTHER),
            ("response_flags", OTHER),
            ("connection_security_policy", "mutual_tls"),
        ],
    )
}

/// Labels of `portcullis_policy_decisions_total`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DecisionLabels(Option<(ServiceNames, &'static str, Option<RuleName>)>);

impl DecisionLabels {
    pub(super) fn new(service: Option<&Arc<Service>>, decision: &Decision) -> Self {
        Self(Some((ServiceNames::of(service), decision.name(), decision.rule().cloned())))
    }
}

impl Bounded for DecisionLabels {
    fn other() -> Self {
        Self(None)
    }
}

impl EncodeLabelSet for DecisionLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let Some((service, decision, rule)) = &self.0 else {
            let names = ["destination_service", "decision", "policy", "rule"];
            return labels(encoder, &names.map(|name| (name, OTHER)));
        };
        labels(encoder, &[("destination_service", service.host()), ("decision", decision)])?;
        match rule {
            None => labels(encoder, &[("policy", NONE), ("rule", NONE)]),
            Some(rule) => {
                ("policy", rule.policy.to_string()).encode(encoder.encode_label())?;
                ("rule", rule.rule as u64).encode(encoder.encode_label())
            }
        }
    }
}

/// Labels of `portcullis_mcp_operations_total`. `method` and `name` are bounded by the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OperationLabels {
    pub(super) principal: Option<SpiffeId>,
    pub(super) service: ServiceNames,
    pub(super) method: &'static str,
    pub(super) name: Option<Arc<str>>,
    pub(super) decision: &'static str,
    pub(super) outcome: &'static str,
}

/// [`OperationLabels`], or what is beyond the bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Operation(pub(super) Option<OperationLabels>);

impl Bounded for Operation {
    fn other() -> Self {
        Self(None)
    }
}

impl EncodeLabelSet for Operation {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(set) = &self.0 else {
            let names = ["source_principal", "destination_service", "method", "name", "decision", "outcome"];
            return labels(encoder, &names.map(|name| (name, OTHER)));
        };
        labels(
            encoder,
            &[
                ("source_principal", principal(set.principal.as_ref())),
                ("destination_service", set.service.host()),
                ("method", set.method),
                ("name", set.name.as_deref().unwrap_or(NONE)),
                ("decision", set.decision),
                ("outcome", set.outcome),
            ],
        )
    }
}

/// One label whose values are words of our own, and so bounded by our source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Word(pub(super) &'static str, pub(super) &'static str);

impl EncodeLabelSet for Word {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        labels(encoder, &[(self.0, self.1)])
    }
}

fn labels(encoder: &mut LabelSetEncoder<'_>, pairs: &[(&str, &str)]) -> Result<(), fmt::Error> {
    pairs.iter().try_for_each(|pair| pair.encode(encoder.encode_label()))
}

fn principal(id: Option<&SpiffeId>) -> &str {
    id.map_or(UNKNOWN, SpiffeId::as_str)
}

fn known(text: &str) -> &str {
    if text.is_empty() { UNKNOWN } else { text }
}

fn or_none(flags: &'static str) -> &'static str {
    if flags.is_empty() { NONE } else { flags }
}
