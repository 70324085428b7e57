//! [`TelemetrySettings`] compiled: what is logged, how, and which metrics are kept with which labels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::HeaderName;
use waypoint_model::{AccessLog, LogFormat, TelemetrySettings};

use super::super::captured::Side;
use super::expression::Expression;
use super::facts::Facts;
use super::format::Format;
use super::parse::parse_filter;
use super::tag::Changes;
use super::tracer::Tracer;
use super::wants::Wants;

/// Sentences about settings that are remembered, so that each is said once.
const SAID: usize = 1_000;

/// Istio's standard metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Metric {
    Requests,
    Durations,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
    Opened,
    Closed,
    Sent,
    Received,
}

impl Metric {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Requests, "requests_total"),
        (Self::Durations, "request_duration_milliseconds"),
        (Self::RequestBytes, "request_bytes"),
        (Self::ResponseBytes, "response_bytes"),
        (Self::RequestMessages, "request_messages_total"),
        (Self::ResponseMessages, "response_messages_total"),
        (Self::Opened, "tcp_connections_opened_total"),
        (Self::Closed, "tcp_connections_closed_total"),
        (Self::Sent, "tcp_sent_bytes_total"),
        (Self::Received, "tcp_received_bytes_total"),
    ];

    /// Those of an HTTP request.
    pub(in super::super) const HTTP: [Self; 4] =
        [Self::Requests, Self::Durations, Self::RequestBytes, Self::ResponseBytes];

    /// Those of a gRPC call.
    pub(in super::super) const GRPC: [Self; 6] = [
        Self::Requests,
        Self::Durations,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::RequestMessages,
        Self::ResponseMessages,
    ];
}

/// How one metric is kept.
#[derive(Debug)]
pub(in super::super) enum Told {
    /// Not at all.
    Not,
    /// With Istio's labels.
    Standard,
    /// With other labels.
    Changed(Changes),
}

/// The compiled settings of a port.
#[derive(Debug)]
pub(crate) struct Plan {
    loggers: Vec<Logger>,
    metrics: Vec<(Metric, Told)>,
    wants: Wants,
    identity_header: bool,
    tracer: Option<Arc<Tracer>>,
}

/// One logger.
#[derive(Debug)]
pub(in super::super) struct Logger {
    /// `None`: the process' own format.
    format: Option<Format>,
    filter: Option<Expression>,
}

impl Logger {
    /// Whether a line is written. A filter that has no truth, e.g. because it asks for a header that is not there, does not
    /// hold, as in Envoy.
    pub(in super::super) fn wants(&self, facts: &Facts<'_>) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.truth(facts) == Some(true))
    }

    /// Its line; `None`: in the process' own format.
    pub(in super::super) fn line(&self, facts: &Facts<'_>) -> Option<Vec<u8>> {
        self.format.as_ref().map(|format| format.write(facts))
    }
}

impl Plan {
    /// Compiles; what cannot be used as it is written is told to `said`.
    pub(in super::super) fn compile(settings: &TelemetrySettings, said: &mut dyn FnMut(String)) -> Self {
        let loggers: Vec<Logger> = settings.access_log.iter().map(|log| logger(log, said)).collect();
        let metrics = metrics(settings, said);
        let mut wants = Wants::default();
        let mut see = |side: Side, name: &HeaderName| wants.header(side, name);
        for logger in &loggers {
            logger.format.iter().for_each(|format| format.headers(&mut see));
            logger.filter.iter().for_each(|filter| filter.headers(&mut see));
        }
        for (_, told) in &metrics {
            if let Told::Changed(changes) = told {
                changes.headers(&mut see);
            }
        }
        let tracer = settings.tracing.as_ref().map(|tracing| Tracer::compile(tracing, said));
        tracer.iter().for_each(|tracer| tracer.headers(&mut see));
        let identity_header = settings.client_identity_header;
        let tracer = tracer.map(Arc::new);
        Self { loggers, metrics, wants, identity_header, tracer }
    }

    /// Whether `x-forwarded-client-cert` is put on requests.
    pub(crate) fn identity_header(&self) -> bool {
        self.identity_header
    }

    /// How it is traced, if it is.
    pub(in super::super) fn tracer(&self) -> Option<&Arc<Tracer>> {
        self.tracer.as_ref()
    }

    /// What of a request is told beside what every record has.
    pub(in super::super) fn wants(&self) -> &Wants {
        &self.wants
    }

    /// Whether a logger writes in the process' own format.
    pub(in super::super) fn writes_own(&self) -> bool {
        self.loggers.iter().any(|logger| logger.format.is_none())
    }

    pub(in super::super) fn loggers(&self) -> &[Logger] {
        &self.loggers
    }

    pub(in super::super) fn metric(&self, metric: Metric) -> &Told {
        self.metrics.iter().find(|(one, _)| *one == metric).map_or(&Told::Standard, |(_, told)| told)
    }
}

fn logger(log: &AccessLog, said: &mut dyn FnMut(String)) -> Logger {
    let mut unknown = |name: &str| {
        let name: String = name.chars().take(60).collect();
        said(format!("access log operator {name} is not known here and is written as -"));
    };
    let format = match &log.format {
        LogFormat::Default => None,
        LogFormat::Text(format) => Some(Format::text(format, &mut unknown)),
        LogFormat::Json(format) => Some(Format::json(format, &mut unknown)),
    };
    let filter = log.filter.as_deref().and_then(|filter| {
        let compiled = parse_filter(filter);
        // Lines too many are seen; lines that are missing are not.
        compiled
            .inspect_err(|error| said(format!("everything is logged: access log filter {filter:?}: {error}")))
            .ok()
    });
    Logger { format, filter }
}

/// What is not as Istio has it.
fn metrics(settings: &TelemetrySettings, said: &mut dyn FnMut(String)) -> Vec<(Metric, Told)> {
    if !settings.standard_metrics {
        return Metric::ALL.into_iter().map(|(metric, _)| (metric, Told::Not)).collect();
    }
    for name in settings.metrics.iter().filter_map(|told| told.metric.as_deref()) {
        let known = Metric::ALL.iter().any(|(_, known)| *known == name);
        if !known {
            said(format!("metric {name} is not kept here, so nothing is changed in it"));
        }
    }
    let mut told = Vec::new();
    for (metric, name) in Metric::ALL {
        let (mut changes, mut disabled) = (Changes::default(), false);
        let named = settings.metrics.iter().filter(|told| told.metric.as_deref().is_none_or(|it| it == name));
        for one in named {
            disabled = one.disabled;
            changes.add(one, said);
        }
        match (disabled, changes.is_empty()) {
            (true, _) => told.push((metric, Told::Not)),
            (false, false) => told.push((metric, Told::Changed(changes))),
            (false, true) => {}
        }
    }
    told
}

/// Plans by what they were compiled from, so that a new snapshot keeps those that did not change, and what is wrong in one
/// is said once.
#[derive(Default)]
pub(crate) struct Plans {
    plans: HashMap<String, Arc<Plan>>,
    said: HashSet<String>,
}

impl Plans {
    /// Plans for one snapshot.
    pub(crate) fn building(&mut self) -> Building<'_> {
        Building { plans: self, used: HashMap::new(), same: HashMap::new() }
    }

    fn say(&mut self, sentence: String) {
        if self.said.len() < SAID && !self.said.contains(&sentence) {
            tracing::warn!("{sentence}");
            self.said.insert(sentence);
        }
    }
}

/// Plans of a snapshot that is being built.
pub(crate) struct Building<'a> {
    plans: &'a mut Plans,
    used: HashMap<String, Arc<Plan>>,
    /// By address; what it points to lives as long as the mesh that is built.
    same: HashMap<*const TelemetrySettings, Arc<Plan>>,
}

impl Building<'_> {
    /// The plan of these settings.
    pub(crate) fn plan(&mut self, settings: &Arc<TelemetrySettings>) -> Arc<Plan> {
        let address = Arc::as_ptr(settings);
        if let Some(plan) = self.same.get(&address) {
            return Arc::clone(plan);
        }
        // The settings have string keys and plain values only, so encoding cannot fail.
        let text = serde_json::to_string(settings).unwrap_or_else(|_| format!("{settings:?}"));
        let known = self.used.get(&text).or_else(|| self.plans.plans.get(&text)).cloned();
        let plan = known
            .unwrap_or_else(|| Arc::new(Plan::compile(settings, &mut |sentence| self.plans.say(sentence))));
        self.same.insert(address, Arc::clone(&plan));
        self.used.insert(text, Arc::clone(&plan));
        plan
    }

    /// Forgets what this snapshot does not use.
    pub(crate) fn finish(self) {
        self.plans.plans = self.used;
    }
}
