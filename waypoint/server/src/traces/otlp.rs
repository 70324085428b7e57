//! One collector, by OpenTelemetry's own exporter; and our spans in its words.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use http::Uri;
use opentelemetry::trace::{
    Link, SpanContext as OtelContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _, SpanLinks};
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use waypoint_model::{Collector, CollectorProtocol};
use waypoint_proxy::Collectors;
use waypoint_proxy::telemetry::{Span, SpanContext, SpanValue};

use super::dial::{Connector, Post, Way};

/// OpenTelemetry's default (`OTEL_EXPORTER_OTLP_TIMEOUT`).
const PATIENCE: Duration = Duration::from_secs(10);

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// The collector's settings cannot be used.
    #[error("its settings: {0}")]
    Settings(String),
    /// It did not take them.
    #[error(transparent)]
    Refused(#[from] OTelSdkError),
    /// It did not answer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// The way to one collector, kept open where its protocol allows.
pub(super) struct Exporter {
    exporter: Result<SpanExporter, String>,
    patience: Duration,
    scope: InstrumentationScope,
    failing: bool,
}

impl Exporter {
    pub(super) fn new(collector: &Collector, mesh: &Collectors) -> Self {
        let patience = collector.timeout.unwrap_or(PATIENCE);
        let way = Way::new(collector.to.clone(), mesh.clone());
        let made = match &collector.protocol {
            CollectorProtocol::Grpc(authority) => grpc(collector, authority, way, patience),
            CollectorProtocol::Http(authority, path) => http(collector, authority, path, way, patience),
        };
        let exporter = made.map(|mut exporter| {
            let resource = Resource::builder().with_service_name(collector.service_name.clone());
            exporter.set_resource(&resource.build());
            exporter
        });
        let scope =
            InstrumentationScope::builder("portcullis").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { exporter, patience, scope, failing: false }
    }

    /// Hands over a batch, and waits for the answer as long as the collector's settings say.
    pub(super) async fn export(&mut self, spans: Vec<Span>) -> Result<(), ExportError> {
        let exporter = self.exporter.as_ref().map_err(|why| ExportError::Settings(why.clone()))?;
        let batch = spans.into_iter().map(|span| data(span, &self.scope)).collect();
        let sent = tokio::time::timeout(self.patience, exporter.export(batch)).await;
        sent.map_err(|_elapsed| ExportError::Timeout(self.patience))??;
        self.failing = false;
        Ok(())
    }

    /// Whether a failure is to be told: the first of several.
    pub(super) fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.failing, true)
    }
}

fn grpc(
    collector: &Collector,
    authority: &str,
    way: Way,
    patience: Duration,
) -> Result<SpanExporter, String> {
    let origin: Uri = format!("http://{authority}")
        .parse()
        .map_err(|_malformed| format!("{authority:?} is no authority"))?;
    let channel = Endpoint::from(origin).connect_with_connector_lazy(Connector(way));
    let mut metadata = MetadataMap::new();
    for (name, value) in &collector.headers {
        let name = name.parse::<tonic::metadata::AsciiMetadataKey>().map_err(|_bad| bad_header(name))?;
        metadata.append(name.clone(), value.parse().map_err(|_bad| bad_header(name.as_str()))?);
    }
    let builder = SpanExporter::builder().with_tonic().with_channel(channel).with_metadata(metadata);
    builder.with_timeout(patience).build().map_err(told)
}

fn http(
    collector: &Collector,
    authority: &str,
    path: &str,
    way: Way,
    patience: Duration,
) -> Result<SpanExporter, String> {
    let headers: HashMap<String, String> = collector.headers.iter().cloned().collect();
    let builder = SpanExporter::builder().with_http().with_http_client(Post(way)).with_headers(headers);
    let builder = builder.with_protocol(Protocol::HttpBinary).with_timeout(patience);
    builder.with_endpoint(format!("http://{authority}{path}")).build().map_err(told)
}

fn bad_header(name: &str) -> String {
    format!("{name:?} with its value is no header")
}

fn told(error: ExporterBuildError) -> String {
    error.to_string()
}

fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let parent =
        span.parent.map_or(SpanId::INVALID, |parent| SpanId::from_bytes(parent.span_id.to_be_bytes()));
    let mut links = SpanLinks::default();
    links.links.extend(span.link.map(|link| Link::new(context(link, None), Vec::new(), 0)));
    SpanData {
        span_context: context(span.context, span.state.as_deref()),
        parent_span_id: parent,
        parent_span_is_remote: span.parent.is_some(),
        span_kind: SpanKind::Server,
        name: Cow::Owned(span.name),
        start_time: span.started,
        end_time: span.ended,
        attributes: span.attributes.into_iter().map(attribute).collect(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links,
        status: if span.failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

fn context(context: SpanContext, state: Option<&str>) -> OtelContext {
    // What was passed on may be more than a reader takes: then it is not told, and still passed on.
    let state = state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    OtelContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        TraceFlags::new(context.flags),
        false,
        state,
    )
}

fn attribute((name, value): (Cow<'static, str>, SpanValue)) -> KeyValue {
    let value = match value {
        SpanValue::Text(text) => Value::from(text),
        SpanValue::Number(number) => Value::I64(number),
    };
    KeyValue::new(name, value)
}
