//! One attempt, and the next: a request goes out again only where it is known that nothing was processed, or where its route
//! names the outcome.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version as HttpVersion};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout_at};

use super::bodies::{Inbound, Outbound, Returned, Running, lend};
use super::cluster::Cluster;
use super::connect::ConnectError;
use super::endpoints::{Endpoint, Picked};
use super::health::{Clock, Outcome};
use super::lease::{Fate, SendError};
use super::retry;
use super::{Chosen, Pick, UpstreamError, Upstreams, Version};
use crate::body::Body;
use crate::routing::host;
use crate::telemetry::{Hits, LocalEnd};

/// Attempts after the first.
pub(super) const RETRIES: usize = 2;

/// Notes what came of an endpoint, for its ejection.
#[derive(Clone)]
pub(super) struct Blame {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) clock: Clock,
}

impl Blame {
    pub(super) fn saw(&self, outcome: Outcome) {
        let Endpoint { terms, state, .. } = &*self.endpoint;
        if terms.note(&state.health, outcome, self.clock.now()) {
            let cluster = terms.budget.as_ref().map(|budget| tracing::field::display(&budget.key));
            tracing::warn!(endpoint = self.endpoint.name(), cluster, "ejected");
            state.pool.hits.reached("ejection_failures");
        }
    }

    fn answered(&self, status: StatusCode) {
        self.saw(match status {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Outcome::GatewayError
            }
            status if status.is_server_error() => Outcome::ServerError,
            _ => Outcome::Fine,
        });
    }
}

/// Why an attempt brought no response.
#[derive(Debug)]
pub(super) enum Failure {
    Connect(ConnectError),
    Send(SendError),
    TimedOut,
    /// The time was over while the client still owed a part of its body.
    ClientSlow,
}

impl Failure {
    /// Whether another attempt can do no harm. `is_safe`: the request changes nothing and has no body.
    fn allows_retry(&self, is_safe: bool) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Send(error) => match error.fate {
                Fate::Unsent | Fate::Refused => true,
                Fate::Unknown => is_safe,
                Fate::Abandoned | Fate::Garbled => false,
            },
            Self::TimedOut | Self::ClientSlow => false,
        }
    }

    /// Counts the bound towards endpoints that this is, if it is one.
    pub(super) fn count(&self, hits: &Hits) {
        match self {
            Self::Connect(ConnectError::TooManyConnections) => hits.reached("endpoint_connections"),
            Self::Connect(error) if error.is_late() => hits.reached("connect_timeout"),
            Self::Connect(_) | Self::Send(_) | Self::TimedOut | Self::ClientSlow => {}
        }
    }

    /// Whether the endpoint is to blame.
    pub(super) fn is_of_endpoint(&self) -> bool {
        match self {
            Self::Connect(error) => !error.is_ours(),
            Self::ClientSlow => false,
            Self::TimedOut => true,
            Self::Send(error) => match error.fate {
                Fate::Unsent | Fate::Abandoned => false,
                Fate::Refused | Fate::Garbled | Fate::Unknown => true,
            },
        }
    }

    pub(super) fn at(self, endpoint: &Endpoint) -> UpstreamError {
        let name = endpoint.name();
        match self {
            Self::Connect(ConnectError::TooManyConnections) => UpstreamError::Overloaded,
            Self::Connect(error) => UpstreamError::Connect { endpoint: name, source: Arc::new(error) },
            Self::Send(error) => UpstreamError::Reset { endpoint: name, source: Arc::new(error) },
            Self::TimedOut | Self::ClientSlow => UpstreamError::Timeout,
        }
    }
}

impl Upstreams {
    /// Attempt after attempt, each on an endpoint that was not tried yet if there is one.
    pub(super) async fn send_to(
        &self,
        cluster: &Cluster,
        pick: &Pick,
        version: Version,
        until: Option<Instant>,
        message: &mut Message,
        chosen: &mut Option<Chosen>,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut tried: Vec<Arc<Endpoint>> = Vec::new();
        let mut last: Option<UpstreamError> = None;
        let policy = pick.retries.as_deref();
        message.keeps = policy.is_some();
        let mut retrying = None;
        loop {
            let picked = match self.pick(cluster, pick, &tried) {
                Ok(picked) => picked,
                // What went wrong first says more than that there is no second.
                Err(error) => return Err(last.unwrap_or(error)),
            };
            let endpoint = Arc::clone(&picked.endpoint);
            let attempt_until = pick.until(until);
            let local = &mut None;
            let outcome = self.attempt(picked, version, attempt_until, message, local).await;
            *chosen = Some(Chosen { local: *local, ..Chosen::uncounted(&endpoint) });
            let pause = match outcome {
                Ok(mut answered) => {
                    let pause = policy
                        .and_then(|policy| retry::after_answer(policy, tried.len(), &answered.response));
                    let again = pause.is_some() && cluster.may_retry(&mut retrying);
                    let again = again && self.takes_back(message, &mut answered.running.returned).await;
                    if !again {
                        return Ok(received(answered, message, attempt_until, &endpoint, chosen));
                    }
                    tracing::debug!(endpoint = %endpoint.address(), status = %answered.response.status(), "trying again");
                    pause
                }
                Err(failure) => {
                    failure.count(&self.connections.hits);
                    if failure.is_of_endpoint() {
                        self.blame(&endpoint).saw(Outcome::NoAnswer);
                    }
                    let in_time = until.is_none_or(|until| Instant::now() < until);
                    let harmless = tried.len() < RETRIES && failure.allows_retry(message.is_safe);
                    let named = policy.and_then(|policy| retry::after_failure(policy, tried.len(), &failure));
                    let pause = if harmless { Some(Duration::ZERO) } else { named };
                    let error = failure.at(&endpoint);
                    let again = pause.is_some() && in_time && message.is_whole();
                    if pause.is_some() && message.was_too_large {
                        self.connections.hits.reached("retry_replay");
                    }
                    if !again || !cluster.may_retry(&mut retrying) {
                        return Err(error);
                    }
                    tracing::debug!(endpoint = %endpoint.address(), %error, "trying again");
                    last = Some(error);
                    pause
                }
            };
            tried.push(endpoint);
            if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
                within(until, sleep(pause)).await.map_err(|_late| UpstreamError::Timeout)?;
            }
        }
    }

    async fn takes_back(&self, message: &mut Message, returned: &mut Returned) -> bool {
        let whole = message.takes_back(returned).await;
        if !whole && returned.was_too_large() {
            self.connections.hits.reached("retry_replay");
        }
        whole
    }

    /// One attempt; `local` is then the connection's. A kept connection that turns out closed before anything was written is replaced by a new one.
    async fn attempt(
        &self,
        picked: Picked,
        version: Version,
        until: Option<Instant>,
        message: &mut Message,
        local: &mut Option<LocalEnd>,
    ) -> Result<Answered, Failure> {
        let mut reuse = true;
        loop {
            let lease = self.connections.lease(&picked.endpoint, version, message.host(), reuse);
            let mut lease = within(until, lease).await?.map_err(Failure::Connect)?;
            *local = lease.local();
            let Some((request, returned)) = message.next() else { return Err(Failure::TimedOut) };
            match within(until, lease.send(request)).await {
                Err(late) => {
                    let late = if returned.is_owed() { Failure::ClientSlow } else { late };
                    drop(lease); // Ends the attempt, so that its body comes back.
                    message.recover(Fate::Unknown, returned).await;
                    return Err(late);
                }
                Ok(Ok(response)) => {
                    let blame = self.blame(&picked.endpoint);
                    blame.answered(response.status());
                    let running = Running { lease, _active: picked.active, returned, blame };
                    return Ok(Answered { response, running });
                }
                Ok(Err(error)) => {
                    message.recover(error.fate, returned).await;
                    let stale = error.fate == Fate::Unsent && lease.is_reused() && message.is_whole();
                    if !stale || !reuse {
                        return Err(Failure::Send(error));
                    }
                    reuse = false;
                }
            }
        }
    }
}

/// A response head, and what its body holds on to.
struct Answered {
    response: Response<Incoming>,
    running: Running,
}

/// Ties what the response holds to its body, or to `chosen` where the connection was upgraded.
fn received(
    Answered { response, mut running }: Answered,
    message: &Message,
    until: Option<Instant>,
    endpoint: &Endpoint,
    chosen: &mut Option<Chosen>,
) -> Response<Body> {
    running.returned.forget();
    let (head, incoming) = response.into_parts();
    let tunnelled = message.head.method == Method::CONNECT && head.status.is_success();
    if head.status == StatusCode::SWITCHING_PROTOCOLS || tunnelled {
        running.lease.upgrade();
        *chosen = Some(Chosen::counted(endpoint, running));
        return Response::from_parts(head, Body::Empty);
    }
    if incoming.is_end_stream() {
        running.finish();
        return Response::from_parts(head, Body::Empty);
    }
    let body = Inbound::new(incoming, running, until);
    Response::from_parts(head, Body::Stream(Box::pin(body)))
}

/// Waits no longer than `until`.
async fn within<F: Future>(until: Option<Instant>, future: F) -> Result<F::Output, Failure> {
    match until {
        Some(until) => timeout_at(until, future).await.map_err(|_| Failure::TimedOut),
        None => Ok(future.await),
    }
}

/// A request that may have to be sent again.
pub(super) struct Message {
    head: Parts,
    /// Whole and here; `None` while lent, and once a part of it is gone.
    body: Option<Body>,
    /// A second copy of a small body, while the first is lent.
    copy: Option<Body>,
    /// Changes nothing and has no body (RFC 9110 §9.2.1): repeating it does no harm.
    is_safe: bool,
    /// Whether a body that passes is kept for another attempt, up to `max_replay`.
    keeps: bool,
    max_replay: usize,
    /// More was taken of it than may be kept.
    was_too_large: bool,
    /// Host name of the service.
    service: Arc<str>,
}

impl Message {
    /// Brings a request into the form of `version`. `max_replay`: largest body that is kept for another attempt.
    ///
    /// # Errors
    /// When it has an authority that is none.
    pub(super) fn new(
        request: Request<Body>,
        version: Version,
        cluster: &Cluster,
        max_replay: usize,
    ) -> Result<Self, http::Error> {
        let (mut head, body) = request.into_parts();
        match version {
            Version::Http1 => to_http1(&mut head)?,
            Version::Http2 => to_http2(&mut head, cluster)?,
        }
        let body = if body.is_end_stream() { Body::Empty } else { body };
        let unchanging = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let is_safe = unchanging && matches!(body, Body::Empty);
        let service = Arc::clone(&cluster.service().key.hostname);
        Ok(Self {
            head,
            body: Some(body),
            copy: None,
            is_safe,
            keeps: false,
            max_replay,
            was_too_large: false,
            service,
        })
    }

    /// The host that it asks for; the service's where it asks for none.
    fn host(&self) -> &str {
        let named = || self.head.headers.get(HOST)?.to_str().ok();
        let of_header = || named().map(|host| host::split_authority(host).0);
        let host = self.head.uri.host().or_else(of_header);
        host.unwrap_or(&self.service)
    }

    fn is_whole(&self) -> bool {
        self.body.is_some()
    }

    /// The request for one attempt; `None` if its body is not whole any more.
    fn next(&mut self) -> Option<(Request<Box<Outbound>>, Returned)> {
        let body = self.body.take()?;
        self.copy = copy(&body, self.max_replay);
        let keep = if self.keeps && self.copy.is_none() { self.max_replay } else { 0 };
        let (lent, returned) = lend(body, keep);
        // Boxed: each connection has room for 32 requests that wait for it, however few will.
        Some((Request::from_parts(self.head.clone(), Box::new(lent)), returned))
    }

    /// Takes the body back after an attempt, if it is whole.
    async fn recover(&mut self, fate: Fate, mut returned: Returned) {
        self.was_too_large = returned.was_too_large();
        self.body = match (self.copy.take(), fate) {
            (Some(copy), _) => Some(copy),
            (None, Fate::Unsent | Fate::Refused) => returned.whole().await,
            (None, Fate::Garbled | Fate::Unknown) if self.keeps => returned.whole().await,
            (None, Fate::Abandoned | Fate::Garbled | Fate::Unknown) => None,
        };
    }

    /// Takes the body back although there is an answer; `false` if it is not whole.
    async fn takes_back(&mut self, returned: &mut Returned) -> bool {
        self.body = match self.copy.take() {
            Some(copy) => Some(copy),
            None => returned.whole().await,
        };
        self.is_whole()
    }
}

fn copy(body: &Body, max: usize) -> Option<Body> {
    match body {
        Body::Empty | Body::Full(None) => Some(Body::Empty),
        Body::Full(Some(bytes)) if bytes.len() <= max => Some(Body::Full(Some(Bytes::clone(bytes)))),
        Body::Full(_) | Body::Incoming(_) | Body::Stream(_) => None,
    }
}

/// Origin form, with the authority in `host` (RFC 9112 §3.2.1). CONNECT keeps its authority form.
fn to_http1(head: &mut Parts) -> Result<(), http::Error> {
    head.version = HttpVersion::HTTP_11;
    if let Some(authority) = head.uri.authority()
        && !host::says_only(&head.headers, authority.as_str())
    {
        head.headers.insert(HOST, authority.as_str().try_into()?);
    }
    if head.method != Method::CONNECT {
        head.uri = origin(&head.uri).into();
    }
    Ok(())
}

/// `:scheme`, `:authority` and `:path` (RFC 9113 §8.3.1), without `host`.
fn to_http2(head: &mut Parts, cluster: &Cluster) -> Result<(), http::Error> {
    head.version = HttpVersion::HTTP_2;
    let host = head.headers.remove(HOST);
    let authority = match (head.uri.authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => Authority::try_from(host.as_bytes())?,
        // HTTP/1.0 may come without; HTTP/2 must not go without.
        (None, None) => {
            Authority::try_from(format!("{}:{}", cluster.service().key.hostname, cluster.port()))?
        }
    };
    if head.method != Method::CONNECT {
        let scheme = head.uri.scheme().cloned().unwrap_or(Scheme::HTTP);
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(origin(&head.uri));
        head.uri = uri.build()?;
    }
    Ok(())
}

fn origin(uri: &Uri) -> PathAndQuery {
    uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
}

impl Pick {
    /// When this attempt has to be over.
    fn until(&self, whole: Option<Instant>) -> Option<Instant> {
        let per_try = self.retries.as_ref().and_then(|retries| retries.per_try_timeout);
        let limit = [self.backend_timeout, per_try].into_iter().flatten().min();
        let attempt = limit.and_then(|limit| Instant::now().checked_add(limit));
        match (whole, attempt) {
            (Some(whole), Some(attempt)) => Some(whole.min(attempt)),
            (one, other) => one.or(other),
        }
    }
}

/// When a whole request has to be over; a limit beyond what clocks can tell is none.
pub(super) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

#[cfg(test)]
mod tests {
    use waypoint_model::ServiceKey;

    use super::*;

    fn shaped(request: http::request::Builder, version: Version) -> Parts {
        let cluster = Cluster::without_endpoints(&ServiceKey::new("ns", "svc.ns"), 81);
        Message::new(request.body(Body::Empty).unwrap(), version, &cluster, 0).unwrap().head
    }

    #[test]
    fn http1_goes_up_in_origin_form_with_a_host() {
        let rows = [
            (Request::get("/a?b").header("host", "h"), "/a?b", Some("h")),
            (Request::get("http://h:1/a?b"), "/a?b", Some("h:1")),
            (Request::get("http://h").header("host", "other"), "/", Some("h")),
            (Request::options("*").header("host", "h"), "*", Some("h")),
            (Request::get("/a"), "/a", None),
        ];
        for (request, uri, host) in rows {
            let head = shaped(request.version(HttpVersion::HTTP_2), Version::Http1);
            assert_eq!(head.uri, uri);
            assert_eq!(head.headers.get("host").map(|host| host.to_str().unwrap()), host);
            assert_eq!(head.version, HttpVersion::HTTP_11);
        }
    }

    #[test]
    fn http2_goes_up_with_scheme_and_authority_and_keeps_te() {
        let rows = [
            (Request::get("/a?b").header("host", "h"), "http://h/a?b"),
            (Request::get("http://h:1/a?b").header("host", "h:1"), "http://h:1/a?b"),
            (Request::get("/a"), "http://svc.ns:81/a"),
        ];
        for (request, uri) in rows {
            let head = shaped(request.header("te", "trailers"), Version::Http2);
            assert_eq!(head.uri, uri);
            assert_eq!(head.headers.get("host"), None);
            assert_eq!(head.headers["te"], "trailers");
        }
    }

    #[test]
    fn only_small_bodies_are_kept_for_another_attempt() {
        assert!(copy(&Body::Empty, 0).is_some());
        assert!(copy(&Body::full("abc"), 3).is_some());
        assert!(copy(&Body::full("abcd"), 3).is_none());
    }
}
