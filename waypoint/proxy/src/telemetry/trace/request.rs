//! One traced request: whose trace it belongs to, what its upstream is told, and its span at the end.

use std::sync::Arc;
use std::time::Duration;

use agent_protocols::mcp::Exchange;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::attributes;
use super::context::{Incoming, SpanContext, write};
use super::span::Span;
use crate::telemetry::exchange::RequestRecord;
use crate::telemetry::settings::{Facts, Tracer};

/// `Mcp-Session-Id` (MCP 2025-03-26, *Session Management*).
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// What is remembered of a request on a port that is traced.
#[derive(Debug)]
pub(crate) struct TracedRequest {
    tracer: Arc<Tracer>,
    /// What the head says.
    head: Incoming,
    /// What an MCP message says, where its body was read.
    meta: Option<Incoming>,
    /// `None` until the upstream is told, or the span is made.
    place: Option<Place>,
    session: Option<HeaderValue>,
    /// JSON-RPC id of the message.
    id: Option<String>,
}

/// The place of our span.
#[derive(Clone, Copy, Debug)]
struct Place {
    context: SpanContext,
    parent: Option<SpanContext>,
    link: Option<SpanContext>,
}

impl TracedRequest {
    /// Boxed: most requests are not traced, and should not pay for the room.
    pub(in super::super) fn begin(tracer: Arc<Tracer>, headers: &HeaderMap) -> Box<Self> {
        let session = headers.get(&SESSION).cloned();
        Box::new(Self { tracer, head: Incoming::read(headers), meta: None, place: None, session, id: None })
    }

    /// What the messages of a body say: the context of the first that has one (SEP-414), and the id of the first.
    pub(crate) fn asks(&mut self, exchange: &Exchange<'_>) {
        self.id = exchange.messages.first().and_then(|message| message.id()).map(str::to_owned);
        let told = exchange.messages.iter().find_map(|message| message.trace.as_ref());
        self.meta = told.and_then(|trace| Incoming::of_meta(&trace.parent, trace.state.as_deref()));
    }

    /// Tells the upstream its place. A request that its caller does not record is passed on as it came.
    pub(crate) fn propagate(&mut self, headers: &mut HeaderMap) {
        let place = self.settle();
        if !self.tracer.propagate || (!place.context.is_sampled() && self.head.parent.is_some()) {
            return;
        }
        let mut forms = self.head.forms.clone();
        forms.extend(self.tracer.forms.iter().filter(|form| !self.head.forms.contains(form)));
        write(headers, place.context, self.caller().state.as_deref(), &forms);
    }

    /// The session that an answer opens.
    pub(crate) fn answered(&mut self, headers: &HeaderMap) {
        if let (None, Some(session)) = (&self.session, headers.get(&SESSION)) {
            self.session = Some(session.clone());
        }
    }

    /// Its place in the trace; decided now, if it was not before.
    pub(in super::super) fn context(&mut self) -> SpanContext {
        self.settle().context
    }

    /// Its span, if it is recorded.
    pub(in super::super) fn finish(
        mut self: Box<Self>,
        record: &RequestRecord,
        facts: &Facts<'_>,
        took: Duration,
    ) -> Option<Span> {
        let Place { context, parent, link } = self.settle();
        if !context.is_sampled() {
            return None;
        }
        let told = attributes::Told {
            tracer: &self.tracer,
            session: self.session.as_ref().and_then(|session| session.to_str().ok()),
            id: self.id.as_deref(),
        };
        Some(Span {
            context,
            state: self.caller().state.clone(),
            parent,
            link,
            name: attributes::name(record),
            started: record.started,
            ended: record.started + took,
            attributes: attributes::all(record, facts, &told),
            failed: attributes::error(record).is_some(),
            collector: Arc::clone(&self.tracer.collector),
        })
    }

    /// Who says whose span is the parent: the head; a message where the head says nothing, since what it names is then
    /// the nearest span that is known.
    fn caller(&self) -> &Incoming {
        match &self.meta {
            Some(meta) if self.head.parent.is_none() => meta,
            _head => &self.head,
        }
    }

    /// Recorded where the caller records; drawn where nobody decided.
    fn settle(&mut self) -> Place {
        if let Some(place) = self.place {
            return place;
        }
        let caller = self.caller();
        let sampled = self.head.sampled.or(caller.sampled).unwrap_or_else(|| self.tracer.draws());
        let (trace_id, flags) = match caller.parent {
            Some(parent) => (parent.trace_id, parent.flags & !1),
            None => (nonzero(|| fastrand::u128(..)), 0),
        };
        let context = SpanContext {
            trace_id,
            span_id: nonzero(|| fastrand::u64(..)),
            flags: flags | u8::from(sampled),
        };
        let linked = self.meta.as_ref().and_then(|meta| meta.parent);
        let place = Place {
            context,
            parent: caller.parent,
            link: linked.filter(|link| caller.parent != Some(*link)),
        };
        self.place = Some(place);
        place
    }
}

/// All zero is no id.
fn nonzero<N: Default + PartialEq>(mut draw: impl FnMut() -> N) -> N {
    loop {
        let drawn = draw();
        if drawn != N::default() {
            return drawn;
        }
    }
}
