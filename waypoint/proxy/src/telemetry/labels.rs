//! Label sets. They hold the shared objects of the mesh and compare by what they show, so that counting a request
//! formats nothing; text is made when somebody scrapes.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use spiffe_id::SpiffeId;
use waypoint_model::{Service, Workload};
use waypoint_policy::RuleName;

use super::exchange::{Decision, DryRun, RequestRecord, SourceRecord, StreamRecord};
use super::family::Bounded;
use super::settings::{Changes, Facts};

/// What Istio writes where it does not know.
pub(super) const UNKNOWN: &str = "unknown";
/// Where a bound was reached.
pub(super) const OTHER: &str = "other";
/// Where there is nothing to name.
pub(super) const NONE: &str = "-";

/// Labels of a workload as Istio names them; equal when they read the same, whichever snapshot they come from.
#[derive(Clone, Debug)]
pub(super) struct Names(Option<Arc<Workload>>);

impl From<Option<Arc<Workload>>> for Names {
    fn from(workload: Option<Arc<Workload>>) -> Self {
        Self(workload)
    }
}

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

impl Names {
    /// The namespace is attested by the certificate even where the address is of no workload we know.
    fn namespace<'a>(&'a self, principal: Option<&'a SpiffeId>) -> &'a str {
        let [_, namespace, ..] = self.view();
        let attested = || principal?.workload().map(|workload| workload.namespace);
        if namespace.is_empty() { attested().unwrap_or(UNKNOWN) } else { namespace }
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => true,
            (None, None) => true,
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
            (None, None) => true,
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

/// Labels of Istio's standard metrics (`reporter="waypoint"`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Traffic {
    /// As Istio has them.
    Standard(TrafficSet),
    /// As a port's settings change them.
    Changed(Vec<(Cow<'static, str>, String)>),
    /// Beyond the bound.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TrafficSet {
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
        Self::Standard(TrafficSet {
            status: Some(record.status),
            grpc_status: record.grpc_status.filter(|_| record.grpc),
            flags: or_none(record.flags),
            ..set
        })
    }

    /// As at the stream's start: no flag yet.
    pub(super) fn stream_opened(record: &StreamRecord) -> Self {
        let destination = record.upstream.as_ref().map(|(workload, _)| workload);
        Self::Standard(TrafficSet::new(&record.source, record.service.as_ref(), destination, "tcp"))
    }

    pub(super) fn stream_closed(record: &StreamRecord) -> Self {
        let destination = record.upstream.as_ref().map(|(workload, _)| workload);
        let set = TrafficSet::new(&record.source, record.service.as_ref(), destination, "tcp");
        Self::Standard(TrafficSet { flags: or_none(record.flags), ..set })
    }

    /// With the changes of a port's settings. Where these change nothing, the set stays what it is: the same labels must
    /// not be two series.
    pub(super) fn changed(&self, changes: &Changes, facts: &Facts<'_>) -> Self {
        let Self::Standard(set) = self else { return self.clone() };
        let (mut labels, mut touched) = (Vec::with_capacity(28), false);
        set.each(&mut |name, value| {
            if changes.removes(name) {
                touched = true;
            } else {
                labels.push((Cow::Borrowed(name), value.to_owned()));
            }
        });
        for (name, value) in changes.values(facts) {
            let there = labels.iter_mut().find(|(label, _)| label == name);
            touched |= there.as_ref().is_none_or(|(_, old)| *old != value);
            match there {
                Some((_, old)) => *old = value,
                None => labels.push((Cow::Owned(name.to_owned()), value)),
            }
        }
        if touched { Self::Changed(labels) } else { self.clone() }
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

    /// Calls `see` with each label, in the order in which they are written.
    fn each(&self, see: &mut dyn FnMut(&'static str, &str)) {
        let [workload, _, service, revision, app, version, cluster] = self.source.view().map(known);
        see("reporter", "waypoint");
        see("source_workload", workload);
        see("source_workload_namespace", self.source.namespace(self.principal.as_ref()));
        see("source_canonical_service", service);
        see("source_canonical_revision", revision);
        see("source_principal", principal(self.principal.as_ref()));
        see("source_app", app);
        see("source_version", version);
        see("source_cluster", cluster);
        let [workload, namespace, service, revision, app, version, cluster] =
            self.destination.view().map(known);
        see("destination_workload", workload);
        see("destination_workload_namespace", namespace);
        see("destination_canonical_service", service);
        see("destination_canonical_revision", revision);
        see("destination_principal", principal(self.destination_principal.as_ref()));
        see("destination_app", app);
        see("destination_version", version);
        see("destination_cluster", cluster);
        see("destination_service", self.service.host());
        see("destination_service_name", self.service.name());
        see("destination_service_namespace", self.service.namespace());
        see("request_protocol", self.protocol);
        if let Some(status) = self.status {
            see("response_code", &status.to_string());
        }
        if let Some(status) = self.grpc_status {
            see("grpc_response_status", &status.to_string());
        }
        see("response_flags", self.flags);
        // A peer without an identity came over loopback, in the sandwich.
        let secured = if self.principal.is_some() { "mutual_tls" } else { "none" };
        see("connection_security_policy", secured);
    }
}

impl Bounded for Traffic {
    fn other() -> Self {
        Self::Other
    }
}

impl EncodeLabelSet for Traffic {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Other => encode_other_traffic(encoder),
            Self::Changed(changed) => changed
                .iter()
                .try_for_each(|(name, value)| (&**name, value.as_str()).encode(encoder.encode_label())),
            Self::Standard(set) => {
                let mut encoded = Ok(());
                set.each(&mut |name, value| {
                    encoded = encoded.and_then(|()| (name, value).encode(encoder.encode_label()));
                });
                encoded
            }
        }
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
        encode_rule(encoder, rule.as_ref())
    }
}

/// Labels of `portcullis_dry_run_decisions_total`; the result is named as Istio tags Envoy's statistics of shadow rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DryRunLabels(Option<(ServiceNames, DryRun)>);

impl DryRunLabels {
    pub(super) fn new(service: Option<&Arc<Service>>, dry_run: &DryRun) -> Self {
        Self(Some((ServiceNames::of(service), dry_run.clone())))
    }
}

impl Bounded for DryRunLabels {
    fn other() -> Self {
        Self(None)
    }
}

impl EncodeLabelSet for DryRunLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let Some((service, dry_run)) = &self.0 else {
            let names = ["destination_service", "authz_dry_run_result", "policy", "rule"];
            return labels(encoder, &names.map(|name| (name, OTHER)));
        };
        let result = if dry_run.denied { "denied" } else { "allowed" };
        labels(encoder, &[("destination_service", service.host()), ("authz_dry_run_result", result)])?;
        encode_rule(encoder, dry_run.rule.as_ref())
    }
}

fn encode_rule(encoder: &mut LabelSetEncoder<'_>, rule: Option<&RuleName>) -> Result<(), fmt::Error> {
    match rule {
        None => labels(encoder, &[("policy", NONE), ("rule", NONE)]),
        Some(rule) => {
            ("policy", rule.policy.to_string()).encode(encoder.encode_label())?;
            ("rule", rule.rule as u64).encode(encoder.encode_label())
        }
    }
}

/// Labels of `portcullis_mcp_operations_total`. `method` and `name` are bounded by the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OperationLabels {
    pub(super) source: Names,
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
            let names = [
                "source_workload",
                "source_workload_namespace",
                "source_principal",
                "destination_service",
                "method",
                "name",
                "decision",
                "outcome",
            ];
            return labels(encoder, &names.map(|name| (name, OTHER)));
        };
        let [workload, ..] = set.source.view().map(known);
        labels(
            encoder,
            &[
                ("source_workload", workload),
                ("source_workload_namespace", set.source.namespace(set.principal.as_ref())),
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

/// Labels of `portcullis_mcp_operation_duration_milliseconds`, bounded by the caller; `None` is what is beyond the bound.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Call(Option<(ServiceNames, &'static str, Option<Arc<str>>)>);

impl Call {
    pub(super) fn new(service: Option<&Arc<Service>>, method: &'static str, name: Option<Arc<str>>) -> Self {
        Self(Some((ServiceNames::of(service), method, name)))
    }
}

impl Bounded for Call {
    fn other() -> Self {
        Self(None)
    }
}

impl EncodeLabelSet for Call {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let (service, method, name) = match &self.0 {
            Some((service, method, name)) => (service.host(), *method, name.as_deref().unwrap_or(NONE)),
            None => (OTHER, OTHER, OTHER),
        };
        labels(encoder, &[("destination_service", service), ("method", method), ("name", name)])
    }
}

/// One label whose values are words of our own, and so bounded by our source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Word(pub(super) &'static str, pub(super) &'static str);

impl Word {
    /// `reason="…"`.
    pub(super) fn reason(reason: &'static str) -> Self {
        Self("reason", reason)
    }
}

impl EncodeLabelSet for Word {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        labels(encoder, &[(self.0, self.1)])
    }
}

/// A limit and what came of it; names of limits are the configuration's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LimitLabels(pub(super) Arc<str>, pub(super) &'static str);

impl EncodeLabelSet for LimitLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        labels(encoder, &[("limit", &self.0), ("outcome", self.1)])
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
