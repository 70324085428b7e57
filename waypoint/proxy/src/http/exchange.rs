//! The record of one request, filled along its way and written once: when its answer has gone, or when it broke off.

mod agent;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use agent_protocols::Kind;
use agent_protocols::mcp::{self as protocol, Exchange, Head, HeadKind};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use waypoint_policy::{Denial, Permit};

use super::headers::Target;
use super::mcp::kind_name;
use super::messages::Messages;
use super::passing::{PENDING, Passing};
use super::upgrade::Ended;
use crate::body::{Body, BodyError};
use crate::context::StreamContext;
use crate::rates::{Asking, Held, Limited};
use crate::refusal::Refusal;
use crate::routing::table::Selected;
use crate::routing::values::Facts;
use crate::snapshot::{Destination, Snapshot};
use crate::telemetry::{Decision, LoggedArgument, McpRecord, Plan, RequestRecord, RoutedTo, Telemetry};
use crate::upstream::Chosen;

/// Bytes of a passing body that are looked at to name what it asks for.
const OBSERVED: usize = 1 << 10;

/// One request's record and what fills it from the side.
pub(crate) struct ExchangeLog(Box<Entry>);

struct Entry {
    record: RequestRecord,
    telemetry: Telemetry,
    /// The settings of the port; `None`: those of the process.
    plan: Option<Arc<Plan>>,
    seen: Arc<Passing>,
    upgrade: Option<Upgrade>,
    written: bool,
    delayed: Duration,
    /// What limits counted of it, for as long as it runs.
    held: Option<Held>,
    /// Whom to ask besides.
    asking: Vec<Asking>,
    /// When the request went on its way to an endpoint, where somebody asks how long that takes.
    sent: Option<Instant>,
}

/// What goes on after a 101, and whose task it is.
struct Upgrade {
    owner: TaskTracker,
    run: Pin<Box<dyn Future<Output = Ended> + Send>>,
}

impl ExchangeLog {
    pub(crate) fn begin(cx: &StreamContext, request: &Request<Incoming>) -> Self {
        let headers = request.headers();
        let mut record = RequestRecord::begin(cx.source_record(cx.shared.config.load().as_deref()));
        record.local = cx.local();
        record.method = request.method().clone();
        record.path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        record.protocol = protocol_name(request.version());
        record.user_agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        record.grpc =
            headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        let (telemetry, seen) = (cx.shared.telemetry.clone(), Arc::default());
        Self(Box::new(Entry {
            record,
            telemetry,
            plan: None,
            seen,
            upgrade: None,
            written: false,
            delayed: Duration::ZERO,
            held: None,
            asking: Vec::new(),
            sent: None,
        }))
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.0.record.grpc
    }

    pub(crate) fn authority(&self) -> &str {
        &self.0.record.authority
    }

    /// What a route may put into headers.
    pub(crate) fn facts(&self, cx: &StreamContext, version: Version) -> Facts {
        let start = SystemTime::now().checked_sub(self.0.record.clock.elapsed());
        Facts { remote: cx.peer.address, version, start: start.unwrap_or(SystemTime::UNIX_EPOCH) }
    }

    /// A fault delays it; its route's time begins afterwards.
    pub(crate) fn delayed(&mut self, delay: Duration) {
        self.0.record.flags = "DI";
        self.0.delayed = delay;
    }

    /// A fault is answered in the service's place.
    pub(crate) fn aborted(&mut self) {
        self.0.record.flags = if self.0.record.flags == "DI" { "DI,FI" } else { "FI" };
        self.answers("fault_filter_abort");
    }

    /// The answer is ours; why, in Envoy's words.
    pub(crate) fn answers(&mut self, detail: &str) {
        detail.clone_into(&mut self.0.record.detail);
    }

    /// When a request that may take `timeout` is over.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Option<Instant> {
        timeout.and_then(|timeout| self.0.record.clock.checked_add(self.0.delayed)?.checked_add(timeout))
    }

    pub(crate) fn destined(&mut self, snapshot: &Snapshot, destination: &Destination, headers: &HeaderMap) {
        let record = &mut self.0.record;
        record.service = Some(Arc::clone(&destination.service));
        record.port = destination.port;
        record.generation = snapshot.generation();
        self.0.plan.clone_from(&destination.telemetry);
        self.0.record.traced = self.0.telemetry.traced(self.0.plan.as_ref(), headers);
    }

    /// The head is clean.
    pub(crate) fn named(&mut self, target: &Target, request_id: String, headers: &HeaderMap) {
        let entry = &mut *self.0;
        entry.record.authority.clone_from(&target.authority);
        entry.record.request_id = Some(request_id);
        entry.telemetry.keep_request(entry.plan.as_ref(), headers, &mut entry.record.headers);
    }

    pub(crate) fn routed(&mut self, selected: &Selected) {
        let record = &mut self.0.record;
        record.route = Some(Arc::clone(selected.name()));
        record.routed_to = match selected {
            Selected::Forward(route) => match route.cluster.key() {
                Some(key) => RoutedTo::Cluster(Arc::clone(&key.0)),
                None => RoutedTo::Service,
            },
            Selected::Answer(_) | Selected::Broken { .. } => RoutedTo::Nowhere,
        };
    }

    /// Tells the upstream its place in the trace.
    pub(crate) fn propagate(&mut self, headers: &mut HeaderMap) {
        if let Some(traced) = &mut self.0.record.traced {
            traced.propagate(headers);
        }
    }

    /// It goes on its way to an endpoint.
    pub(crate) fn sending(&mut self) {
        let entry = &mut *self.0;
        entry.sent = entry.telemetry.times_services(entry.plan.as_ref()).then(Instant::now);
    }

    /// What came of that: the endpoint, and `status` where there is an answer.
    pub(crate) fn upstream(&mut self, chosen: Option<&Chosen>, status: Option<StatusCode>) {
        let service_time = status.and_then(|status| self.service_time(status));
        let record = &mut self.0.record;
        record.service_time = service_time;
        record.upstream = chosen.map(|chosen| (Arc::clone(&chosen.workload), chosen.address));
        record.upstream_local = chosen.and_then(|chosen| chosen.local);
    }

    /// As Envoy's router counts it: from the moment that the request was whole here and on its way. None where the answer came
    /// before that, and where the request goes on as another protocol.
    fn service_time(&self, status: StatusCode) -> Option<Duration> {
        let sent = self.0.sent.filter(|_| status != StatusCode::SWITCHING_PROTOCOLS)?;
        let whole = self.0.seen.whole.load(Ordering::Relaxed);
        let whole =
            self.0.record.clock.checked_add(Duration::from_micros(whole)).filter(|_| whole != PENDING)?;
        Some(sent.max(whole).elapsed())
    }

    pub(crate) fn decided(&mut self, answer: Result<Permit, Denial>) -> Result<Permit, Refusal> {
        let record = &mut self.0.record;
        let (decision, result) = crate::decided::decided(answer, &mut record.dry_run, &mut record.audited);
        record.decision = decision;
        result
    }

    /// The head alone sufficed.
    pub(crate) fn permitted(&mut self, permit: &Permit) {
        if matches!(self.0.record.decision, Decision::NotDecided) {
            let _recorded = self.decided(Ok(permit.clone()));
        }
    }

    /// Its limits count it for as long as it runs.
    pub(crate) fn holds(&mut self, held: Held, asking: Vec<Asking>) {
        self.0.held = Some(held);
        self.0.asking = asking;
    }

    /// Services that are to be asked before it may go on; they are asked once.
    pub(crate) fn take_asking(&mut self) -> Vec<Asking> {
        std::mem::take(&mut self.0.asking)
    }

    /// A limit refused it, whatever the policies said; what others counted is taken back.
    pub(crate) fn limited(&mut self, limited: &Limited) {
        if let Some(held) = self.0.held.take() {
            held.refund();
        }
        self.0.record.decision = Decision::Denied { detail: limited.detail(), rule: None };
    }

    /// A session that is not this identity's is refused, whatever the policies said.
    pub(crate) fn session_refused(&mut self) {
        self.0.record.decision = Decision::Denied { detail: "session_not_found".to_owned(), rule: None };
    }

    pub(crate) fn mcp_head(&mut self, head: &Head) {
        let revision = head.revision().map(str::to_owned);
        let kind = match head.kind() {
            HeadKind::Message => None, // Its body tells, if it is read.
            HeadKind::OpenStream | HeadKind::EndSession => Some(kind_name(Kind::Lifecycle)),
            HeadKind::Plain => Some(kind_name(Kind::Plain)),
        };
        self.0.record.mcp = Some(McpRecord { revision, kind, ..McpRecord::default() });
    }

    pub(crate) fn body_read(&mut self, bytes: usize) {
        self.0.seen.received.store(bytes as u64, Ordering::Relaxed);
        self.mcp().body_read = true;
    }

    pub(crate) fn mcp_exchange(&mut self, exchange: &Exchange<'_>, told: &[LoggedArgument]) {
        if let Some(traced) = &mut self.0.record.traced {
            traced.asks(exchange);
        }
        let record = self.mcp();
        record.messages = exchange.messages.len();
        record.revision = Some(exchange.revision.as_str().to_owned());
        let Some(first) = exchange.messages.first() else { return };
        record.method = first.method.as_deref().map(str::to_owned);
        record.name = first.name().map(str::to_owned);
        record.kind = Some(kind_name(first.kind()));
        if let Some(subject) = first.subjects.first() {
            let told = told.iter().filter_map(|one| Some((Arc::clone(&one.name), one.of(subject)?)));
            record.arguments.extend(told);
        }
    }

    /// Where the filter of an answer counts.
    pub(crate) fn passing(&self) -> Arc<Passing> {
        Arc::clone(&self.0.seen)
    }

    pub(crate) fn listed(&self, names: &[String]) {
        if let Some(service) = &self.0.record.service {
            self.0.telemetry.listed(service, names);
        }
    }

    fn mcp(&mut self) -> &mut McpRecord {
        self.0.record.mcp.get_or_insert_default()
    }

    /// A passing body whose bytes are counted.
    pub(crate) fn counted(&self, body: Incoming) -> Body {
        self.pass(body, false)
    }

    /// A passing body whose bytes are counted and whose beginning is looked at, never held. It decides nothing.
    pub(crate) fn observed(&self, body: Incoming) -> Body {
        self.pass(body, true)
    }

    fn pass(&self, body: Incoming, observe: bool) -> Body {
        if body.is_end_stream() {
            return Body::Empty;
        }
        let json = observe && self.0.record.method == http::Method::POST && !self.0.record.grpc;
        let messages = self.0.record.grpc.then(Messages::default);
        let (told, clock) = (Arc::clone(&self.0.seen), self.0.record.clock);
        told.whole.store(PENDING, Ordering::Relaxed);
        Body::Stream(Box::pin(PassingBody { body, told, clock, observe: json, messages }))
    }

    /// The answer is a 101, after which `run` goes on, in a task of `owner`.
    pub(crate) fn upgraded(&mut self, owner: TaskTracker, run: impl Future<Output = Ended> + Send + 'static) {
        self.0.upgrade = Some(Upgrade { owner, run: Box::pin(run) });
    }

    /// The record of an upgraded connection is written at its end.
    fn follow(mut self, Upgrade { owner, run }: Upgrade) {
        owner.spawn(async move {
            let ended = run.await;
            self.0.seen.received.fetch_add(ended.received, Ordering::Relaxed);
            let record = &mut self.0.record;
            record.bytes_sent += ended.sent;
            record.flags = ended.flags;
            if !ended.detail.is_empty() {
                record.detail = ended.detail;
            }
            self.write();
        });
    }

    /// The answer, with the record written when its body has gone.
    pub(crate) fn answered(mut self, response: Response<Body>) -> Response<Body> {
        let entry = &mut *self.0;
        let record = &mut entry.record;
        entry.telemetry.keep_response(entry.plan.as_ref(), response.headers(), &mut record.headers);
        if let Some(traced) = &mut record.traced {
            traced.answered(response.headers());
        }
        record.status = response.status().as_u16();
        record.grpc_status = record.grpc_status.or_else(|| grpc_status(response.headers()));
        if record.detail.is_empty() {
            "via_upstream".clone_into(&mut record.detail);
        }
        if let Some(upgrade) = self.0.upgrade.take() {
            self.follow(upgrade);
            return response;
        }
        let (parts, body) = response.into_parts();
        if body.is_end_stream() {
            self.write();
            return Response::from_parts(parts, body);
        }
        let messages = self.0.record.grpc.then(Messages::default);
        Response::from_parts(parts, Body::Stream(Box::pin(LoggedBody { body, log: self, messages })))
    }

    /// A refusal's answer.
    pub(crate) fn refused(mut self, refusal: &Refusal, response: Response<Body>) -> Response<Body> {
        self.0.telemetry.refused(refusal.reason());
        if let Some(limit) = refusal.limit() {
            self.0.telemetry.limit_hit(limit);
        }
        let record = &mut self.0.record;
        record.flags = refusal.flag();
        record.detail = refusal.detail();
        record.transport_failure = refusal.transport_failure();
        if matches!(refusal, Refusal::NoRoute) {
            record.routed_to = RoutedTo::Nowhere;
        }
        self.answered(response)
    }

    fn write(&mut self) {
        let entry = &mut *self.0;
        if std::mem::replace(&mut entry.written, true) {
            return;
        }
        let record = &mut entry.record;
        let seen = &entry.seen;
        record.bytes_received = seen.received.load(Ordering::Relaxed);
        record.grpc_messages.0 = seen.messages.load(Ordering::Relaxed);
        if let Some((method, name)) = seen.asks.get() {
            let mcp = record.mcp.get_or_insert_default();
            mcp.method.get_or_insert_with(|| method.clone());
            mcp.name = mcp.name.take().or_else(|| name.clone());
        }
        agent::listed(record, seen);
        entry.telemetry.finish_request(record.take(), entry.plan.as_ref());
        entry.held = None;
    }
}

impl Drop for ExchangeLog {
    fn drop(&mut self) {
        if !self.0.written {
            self.0.record.flags = "DC";
            self.write();
        }
    }
}

fn protocol_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _one => "HTTP/1.1",
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A request body on its way up.
struct PassingBody {
    body: Incoming,
    told: Arc<Passing>,
    /// The record's.
    clock: Instant,
    observe: bool,
    /// Where it is gRPC.
    messages: Option<Messages>,
}

impl HttpBody for PassingBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if frame.is_none() || this.body.is_end_stream() {
            this.told.is_whole(this.clock);
        }
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.told.received.fetch_add(data.len() as u64, Ordering::Relaxed);
            if let Some(messages) = &mut this.messages {
                this.told.messages.fetch_add(messages.see(data), Ordering::Relaxed);
            }
            if std::mem::take(&mut this.observe)
                && let Some(seen) = protocol::observe(data.get(..OBSERVED).unwrap_or(data))
            {
                let _first = this.told.asks.set(seen);
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response body on its way down; its end is the request's end.
struct LoggedBody {
    body: Body,
    log: ExchangeLog,
    /// Where it is gRPC.
    messages: Option<Messages>,
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let record = &mut this.log.0.record;
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    record.bytes_sent += data.len() as u64;
                    record.grpc_messages.1 += this.messages.as_mut().map_or(0, |messages| messages.see(data));
                }
                let status = frame.trailers_ref().and_then(grpc_status);
                record.grpc_status = record.grpc_status.or(status);
                if this.body.is_end_stream() {
                    this.log.write();
                }
            }
            Some(Err(error)) => {
                record.flags = if error.is::<super::watched::Closed>() { "-" } else { "UC" };
                record.detail = error.to_string();
                this.log.write();
            }
            None => this.log.write(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
