//! What was asked, kept for as long as its answer may have to be judged again.

use std::sync::Arc;
use std::time::Duration;

use agent_protocols::a2a::{Binding, Request};
use agent_protocols::mcp::{Answering, Exchange, Head, HeadKind, ServerAsk};
use agent_protocols::{Facts, Plain, Reply};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use waypoint_policy::{Attributes, Denial, HeadVerdict, HttpAttributes, Permit};

use super::headers::Target;
use super::inspect::Inspected;
use super::{a2a, mcp};
use crate::context::StreamContext;
use crate::jwt::Verified;
use crate::peers::Place;
use crate::sessions::Holder;
use crate::snapshot::Destination;

/// A request as it was judged, before anything was changed for the way up; with its MCP body where one was read.
#[derive(Clone)]
pub(crate) struct Asked {
    head: Arc<Inner>,
    message: Arc<Message>,
    /// Nobody looks at what the server asks for in its answer.
    unscreened: bool,
    /// The place that an open stream takes of those of its identity.
    _place: Option<Arc<Place<Holder>>>,
}

struct Inner {
    cx: Arc<StreamContext>,
    method: Method,
    target: Target,
    headers: HeaderMap,
    port: u16,
}

/// What is known of the message.
pub(crate) enum Message {
    /// Plain HTTP: there is none.
    Plain,
    /// An MCP request whose answer did not depend on more than its head.
    Head(Head),
    /// An MCP request whose body was read.
    Body(Head, Inspected),
    /// An A2A request.
    A2a(Request),
}

/// A request head as the policies see it.
pub(crate) fn attributes<'a>(
    cx: &'a StreamContext,
    parts: &'a Parts,
    target: &'a Target,
    port: u16,
) -> Attributes<'a> {
    seen(cx, &parts.method, &parts.headers, target, target.token.as_deref(), port)
}

fn seen<'a>(
    cx: &'a StreamContext,
    method: &'a Method,
    headers: &'a HeaderMap,
    target: &'a Target,
    token: Option<&'a Verified>,
    port: u16,
) -> Attributes<'a> {
    let http = HttpAttributes {
        method: method.as_str(),
        path: &target.path,
        authority: &target.authority,
        headers,
        claims: token.map(Verified::claims),
    };
    Attributes { source: cx.peer.source(), destination: cx.destination(port), http: Some(http) }
}

/// The same headers in memory of their own.
fn apart(headers: &HeaderMap) -> HeaderMap {
    let mut copies = HeaderMap::with_capacity(headers.keys_len());
    for (name, value) in headers {
        // They were valid before; should one not be now, it is kept as it is, and not lost.
        let named = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone());
        let mut copy = HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone());
        copy.set_sensitive(value.is_sensitive());
        copies.append(named, copy);
    }
    copies
}

impl Asked {
    pub(crate) fn new(
        cx: &Arc<StreamContext>,
        parts: &Parts,
        target: &Target,
        port: u16,
        message: Message,
    ) -> Self {
        let (method, headers, target) = (parts.method.clone(), parts.headers.clone(), target.clone());
        let head = Arc::new(Inner { cx: Arc::clone(cx), method, target, headers, port });
        Self { head, message: Arc::new(message), unscreened: false, _place: None }
    }

    /// For an answer that may last: its body, if it is kept, no longer counts as one that is being judged, and its head no longer
    /// holds the buffer that it was read into.
    pub(crate) fn for_long(self) -> Self {
        let Inner { cx, method, target, headers, port } = &*self.head;
        let (cx, method, target) = (Arc::clone(cx), method.clone(), target.clone());
        let head = Inner { cx, method, target, headers: apart(headers), port: *port };
        Self { head: Arc::new(head), ..self }.with_kept_body()
    }

    /// Whether nothing of the request's body is left to be read.
    pub(crate) fn has_read_body(&self) -> bool {
        matches!(&*self.message, Message::Body(..) | Message::A2a(_))
    }

    /// Whether an agent was asked over gRPC, where any answer may be a stream.
    pub(crate) fn is_of_grpc_agent(&self) -> bool {
        matches!(&*self.message, Message::A2a(request) if request.binding == Binding::Grpc)
    }

    fn with_kept_body(self) -> Self {
        let Message::Body(head, inspected) = &*self.message else { return self };
        let message = match inspected.keep(&self.head.cx.shared.kept) {
            Some(kept) => Message::Body(head.clone(), kept),
            None => Message::Head(head.clone()),
        };
        Self { message: Arc::new(message), ..self }
    }

    /// The answer to its message `at` that a limit refused; `None` where the protocol has no words for it.
    pub(crate) fn limited(&self, at: usize, wait: Duration) -> Option<Reply> {
        let Message::Body(head, inspected) = &*self.message else { return None };
        let settings = &self.head.cx.shared.settings;
        let exchange = Exchange::read(head, &inspected.bytes, &settings.limits.protocol()).ok()?;
        agent_protocols::mcp::limited(&exchange, at, wait, settings.deny_mode)
    }

    /// An MCP answer that is sent on as it comes.
    pub(crate) fn unscreened(self) -> Self {
        let unscreened = !matches!(&*self.message, Message::Plain);
        Self { unscreened, ..self }
    }

    /// Keeps a place for as long as the answer lasts.
    pub(crate) fn holding(self, place: Option<Place<Holder>>) -> Self {
        Self { _place: place.map(Arc::new), ..self }
    }

    pub(crate) fn cx(&self) -> &Arc<StreamContext> {
        &self.head.cx
    }

    /// Whose handles it may use.
    pub(crate) fn holder(&self, destination: &Destination) -> Holder {
        mcp::holder(&self.head.cx, destination, self.head.target.token.as_deref())
    }

    /// `:authority`, or `Host`.
    pub(crate) fn authority(&self) -> &str {
        &self.head.target.authority
    }

    /// As the request is seen now: a token whose time is over, or that the rules of now do not accept, tells nothing.
    fn attributes(&self, destination: &Destination) -> Attributes<'_> {
        let inner = &self.head;
        let token = inner.target.token.as_ref().filter(|token| destination.jwt.still_accepts(token));
        seen(&inner.cx, &inner.method, &inner.headers, &inner.target, token.map(|token| &**token), inner.port)
    }

    /// The newest snapshot's destination for it, if there still is one.
    pub(crate) fn destination(&self) -> Option<Arc<Destination>> {
        let snapshot = self.head.cx.shared.config.load()?;
        snapshot.destination(&self.head.cx.target).ok()
    }

    /// Whether an entry of a list may be shown, by the newest snapshot.
    pub(crate) fn may_see(&self, entry: &dyn Facts) -> bool {
        self.destination()
            .is_some_and(|destination| destination.policy.might_allow(&self.attributes(&destination), entry))
    }

    /// Waits until the policies of its destination are others than they are now. Cancel safe.
    pub(crate) async fn policies_changed(&self) {
        let mut generations = self.head.cx.shared.config.generations();
        let before = self.destination();
        while generations.changed().await.is_ok() {
            let (before, now) = (before.as_ref(), self.destination());
            let same = before.zip(now.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(&a.policy, &b.policy));
            if !same {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Whether the server may ask this of the client, by the newest snapshot.
    pub(crate) fn server_may(&self, ask: &ServerAsk<'_>) -> bool {
        self.destination()
            .is_some_and(|destination| destination.policy.decide(&self.attributes(&destination), ask).is_ok())
    }

    /// The permit to answer the server in its client's place; `None` where the client itself may not.
    pub(crate) fn permit_answer(&self) -> Option<Permit> {
        let destination = self.destination()?;
        let mut attributes = self.attributes(&destination);
        if let Some(http) = &mut attributes.http {
            http.method = Method::POST.as_str();
        }
        destination.policy.decide(&attributes, &Answering).ok()
    }

    /// Whether nobody looks for what the server may, by these policies, not ask for.
    fn lacks_screen(&self, destination: &Destination) -> bool {
        let may = |ask: &ServerAsk<'_>| destination.policy.decide(&self.attributes(destination), ask).is_ok();
        self.unscreened && destination.policy.judges_server() && !ServerAsk::ALL.iter().all(may)
    }

    /// Waits until a new snapshot denies what was permitted, or no longer holds the destination; or until the token that it
    /// was permitted by has ended. Cancel safe.
    pub(crate) async fn no_longer_allowed(&self) {
        let mut generations = self.head.cx.shared.config.generations();
        generations.mark_changed(); // One may have come since the decision.
        loop {
            tokio::select! {
                changed = generations.changed() => if changed.is_err() { break },
                () = self.token_ended() => {}
            }
            let still = self.destination().is_some_and(|destination| {
                self.decide(&destination).is_ok() && !self.lacks_screen(&destination)
            });
            if !still {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Waits for the end of a token that has not ended yet; without one, forever.
    async fn token_ended(&self) {
        match self.head.target.token.as_ref().filter(|token| token.is_current()) {
            Some(token) => token.ended().await,
            None => std::future::pending().await,
        }
    }

    fn decide(&self, destination: &Destination) -> Result<Permit, Denial> {
        let (policy, attributes) = (&destination.policy, self.attributes(destination));
        let head = match &*self.message {
            Message::Plain => return policy.decide(&attributes, &Plain),
            Message::A2a(request) => return a2a::judge(policy, &attributes, request),
            Message::Head(head) | Message::Body(head, _) => head,
        };
        match policy.decide_head(&attributes) {
            HeadVerdict::Permit(permit) => return Ok(permit),
            HeadVerdict::Deny(denial) => return Err(denial),
            HeadVerdict::ReadBody => {}
        }
        match &*self.message {
            Message::Body(head, inspected) => {
                let limits = self.head.cx.shared.settings.limits.protocol();
                match Exchange::read(head, &inspected.bytes, &limits) {
                    Ok(exchange) => mcp::judge(policy, &attributes, &exchange).outcome,
                    Err(_malformed) => policy.decide(&attributes, &Plain),
                }
            }
            // The body went by unread, since nothing depended on it then. Now something does, and it is gone.
            Message::Head(head) if head.kind() == HeadKind::Message => policy.decide(&attributes, &Plain),
            Message::A2a(request) => a2a::judge(policy, &attributes, request),
            Message::Head(_) | Message::Plain => policy.decide(&attributes, &*head.facts()),
        }
    }
}
