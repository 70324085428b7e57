//! Inner HTTP connections of an endpoint: HTTP/1.1 kept alive, HTTP/2 shared. The only place that drives them.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use spiffe_id::SpiffeId;
use tokio::sync::Semaphore;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Version;
use super::bodies::Outbound;
use super::connect::{ConnectError, Dialer, Spoken, Transport};
use super::endpoints::Endpoint;
use super::health::{Clock, Slot};
use super::resolve::{Name, Resolver};
use crate::limits::Limits;
use crate::telemetry::{Hits, LocalEnd};

/// How long a connection whose response ended may take to be ready again; its driver needs one turn.
const SETTLE: Duration = Duration::from_millis(50);

/// How long a connection that nobody uses may take to close in order.
const CLOSE: Duration = Duration::from_secs(5);

/// HTTP/2 keepalive as on tunnels: interval and deadline of a PING.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// Connections of one endpoint that can be used again.
pub(super) struct EndpointPool {
    /// Idle; the last used is taken first. Locked for a push, a pop or a walk over a few, never across an await.
    http1: Mutex<Vec<Http1>>,
    http2: Mutex<Vec<Http2>>,
    /// One HTTP/2 dial at a time: those who wait share what it brings.
    dialing: Semaphore,
    /// The endpoint is gone: nothing is kept any more.
    closed: AtomicBool,
    max_idle: usize,
    pub(super) hits: Hits,
}

struct Http1 {
    sender: http1::SendRequest<Box<Outbound>>,
    line: Arc<Line>,
}

struct Http2 {
    sender: http2::SendRequest<Box<Outbound>>,
    line: Arc<Line>,
}

/// One connection, as its driver and its users share it.
struct Line {
    /// Our identity when it was made; `None` on plain TCP.
    own: Option<SpiffeId>,
    /// The host whose certificate was checked, where that is the request's.
    host: Option<Box<str>>,
    /// The address behind the endpoint's name that it goes to.
    resolved: Option<(Arc<Name>, SocketAddr)>,
    /// Our end of it.
    local: Option<LocalEnd>,
    /// When it takes no new requests any more, since the tunnel below it is to end.
    leaves_at: Option<Instant>,
    clock: Clock,
    busy: AtomicUsize,
    /// Over its whole life, and how many may be.
    requests: AtomicUsize,
    max_requests: usize,
    last_used: AtomicU64,
    /// HTTP/2: streams that may be open, by our limit and the peer's.
    max_streams: AtomicUsize,
    /// Ends the driver at once, so that the peer sees a reset or a close.
    kill: CancellationToken,
    /// Its place among the endpoint's; `None` once another connection took it.
    slot: Mutex<Option<Slot>>,
}

impl EndpointPool {
    pub(super) fn new(limits: &Limits, hits: Hits) -> Arc<Self> {
        Arc::new(Self {
            http1: Mutex::default(),
            http2: Mutex::default(),
            dialing: Semaphore::new(1),
            closed: AtomicBool::new(false),
            max_idle: limits.upstream_idle_connections,
            hits,
        })
    }

    /// Lets go of everything and keeps nothing from now on; what runs goes on.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.http1().clear();
        self.http2().clear();
    }

    fn http1(&self) -> MutexGuard<'_, Vec<Http1>> {
        self.http1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn http2(&self) -> MutexGuard<'_, Vec<Http2>> {
        self.http2.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle HTTP/1.1 connection that was made with our present identity.
    async fn idle_http1(&self, own: Option<&SpiffeId>, host: &str) -> Option<Http1> {
        loop {
            let mut idle = self.pop_http1(host)?;
            let usable = idle.line.fits(own, host) && !idle.sender.is_closed();
            if usable && (idle.sender.is_ready() || settles(&mut idle.sender).await) {
                idle.line.take();
                return Some(idle);
            }
        }
    }

    /// The same, without waiting: the one used last, if it can be used as it is. Else it stays where it is.
    fn ready_http1(&self, own: Option<&SpiffeId>, host: &str) -> Option<Http1> {
        let mut idle = self.http1();
        let is_ready = |it: &mut Http1| it.line.fits(own, host) && it.sender.is_ready();
        let found = idle.pop_if(is_ready)?;
        found.line.take();
        Some(found)
    }

    /// The one used last of those whose server was checked to be this host.
    fn pop_http1(&self, host: &str) -> Option<Http1> {
        let mut idle = self.http1();
        let at = idle.iter().rposition(|connection| connection.line.is_for(host))?;
        Some(idle.remove(at))
    }

    /// An open HTTP/2 connection with room for one more stream.
    fn open_http2(&self, own: Option<&SpiffeId>, host: &str) -> Option<Http2> {
        let mut open = self.http2();
        open.retain(|connection| !connection.sender.is_closed() && !connection.line.leaves());
        let fits = |it: &&Http2| it.line.fits(own, host) && it.line.has_room();
        let at = open.iter().position(|it| fits(&it))?;
        let found = open.get(at)?;
        found.line.take();
        let found = Http2 { sender: found.sender.clone(), line: Arc::clone(&found.line) };
        if found.line.is_used_up() {
            open.remove(at);
        }
        Some(found)
    }

    fn keep_http1(&self, connection: Http1) {
        let mut idle = self.http1();
        // Asked under the lock, so that `close` cannot come in between.
        let keeps = !self.closed.load(Ordering::SeqCst) && !connection.line.is_used_up();
        if !keeps || connection.sender.is_closed() {
            return;
        }
        idle.push(connection);
        if idle.len() > self.max_idle {
            idle.remove(0); // The one that was not used for longest, whatever host it is for.
            self.hits.reached("upstream_idle_connections");
        }
    }

    fn keep_http2(&self, connection: &Http2) {
        let mut open = self.http2();
        if !self.closed.load(Ordering::SeqCst) && !connection.line.is_used_up() {
            open.push(Http2 { sender: connection.sender.clone(), line: Arc::clone(&connection.line) });
        }
    }

    /// Closes the connection that was not used for longest, for another that needs its place: one for each host that somebody
    /// asked for would shut out all others until they were idle for long enough.
    fn give_up_idle(&self) -> Option<Slot> {
        let mut idle = self.http1();
        let first = (!idle.is_empty()).then(|| idle.remove(0).line);
        drop(idle);
        let line = match first {
            Some(line) => line,
            None => {
                let mut open = self.http2();
                let unused = open.iter().enumerate().filter(|(_, connection)| !connection.line.is_busy());
                let (at, _) = unused.min_by_key(|(_, it)| it.line.last_used.load(Ordering::Relaxed))?;
                open.remove(at).line
            }
        };
        line.kill.cancel();
        line.slot().take()
    }

    /// Takes a connection out, unless it is in use. Its driver then sees that nobody can use it any more.
    fn retire(&self, line: &Arc<Line>) -> bool {
        let is_other = |other: &Arc<Line>| !Arc::ptr_eq(other, line);
        let mut idle = self.http1();
        let before = idle.len();
        idle.retain(|connection| is_other(&connection.line));
        let was_idle = idle.len() < before;
        drop(idle);
        let mut open = self.http2();
        let before = open.len();
        open.retain(|connection| is_other(&connection.line) || connection.line.is_busy());
        was_idle || open.len() < before
    }
}

async fn settles(sender: &mut http1::SendRequest<Box<Outbound>>) -> bool {
    matches!(timeout(SETTLE, sender.ready()).await, Ok(Ok(())))
}

impl Line {
    /// Whether it may carry a request of ours to this host: to whom it leads was checked when it was made.
    fn fits(&self, own: Option<&SpiffeId>, host: &str) -> bool {
        let leads = |(name, address): &(Arc<Name>, SocketAddr)| name.leads_to(*address);
        self.own.as_ref() == own
            && self.is_for(host)
            && self.resolved.as_ref().is_none_or(leads)
            && !self.leaves()
    }

    fn is_for(&self, host: &str) -> bool {
        self.host.as_deref().is_none_or(|checked| checked == host)
    }

    /// As many requests went over it as may, or it is to leave.
    fn is_used_up(&self) -> bool {
        self.requests.load(Ordering::Relaxed) >= self.max_requests || self.leaves()
    }

    fn leaves(&self) -> bool {
        self.leaves_at.is_some_and(|at| at <= Instant::now())
    }

    fn take(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self) {
        self.last_used.store(self.clock.now(), Ordering::Relaxed);
        self.busy.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn slot(&self) -> MutexGuard<'_, Option<Slot>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It may be used by another now.
    fn freed(&self) {
        if let Some(slot) = &*self.slot() {
            slot.freed();
        }
    }

    fn has_room(&self) -> bool {
        self.busy.load(Ordering::Relaxed) < self.max_streams.load(Ordering::Relaxed)
    }

    /// Waits until it was unused for `idle`. Cancel safe.
    async fn unused(&self, idle: Duration) {
        loop {
            let since = self.clock.now().saturating_sub(self.last_used.load(Ordering::Relaxed));
            let left = idle.saturating_sub(Duration::from_millis(since));
            match (self.is_busy(), left.is_zero()) {
                (false, true) => return,
                (false, false) => sleep(left).await,
                (true, _) => sleep(idle).await,
            }
        }
    }
}

/// One use of a connection. HTTP/1.1: dropped before [`Lease::finish`], the connection is closed at once.
pub(super) struct Lease {
    sender: Option<Sender>,
    line: Arc<Line>,
    pool: Arc<EndpointPool>,
    reused: bool,
}

enum Sender {
    Http1(http1::SendRequest<Box<Outbound>>),
    Http2(http2::SendRequest<Box<Outbound>>),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
#[error("no response")]
pub(super) struct SendError {
    pub(super) fate: Fate,
    #[source]
    pub(super) error: hyper::Error,
}

/// What is known of a request that got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not one byte of it was written.
    Unsent,
    /// The peer says that it did not process it: REFUSED_STREAM, or above the last id of a GOAWAY (RFC 9113 §8.7).
    Refused,
    /// We gave it up: its body broke off on the way from the client.
    Abandoned,
    /// What came is no HTTP.
    Garbled,
    /// It may have been processed.
    Unknown,
}

impl Lease {
    fn http1(connection: Http1, pool: &Arc<EndpointPool>, reused: bool) -> Self {
        let Http1 { sender, line } = connection;
        Self { sender: Some(Sender::Http1(sender)), line, pool: Arc::clone(pool), reused }
    }

    fn http2(connection: Http2, pool: &Arc<EndpointPool>, reused: bool) -> Self {
        let Http2 { sender, line } = connection;
        Self { sender: Some(Sender::Http2(sender)), line, pool: Arc::clone(pool), reused }
    }

    /// Our end of the connection.
    pub(super) fn local(&self) -> Option<LocalEnd> {
        self.line.local
    }

    /// Whether it was open before: then it may have been closed without our knowing yet.
    pub(super) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Sends a request and waits for the head of its response. Not cancel safe in the sense that the request is gone:
    /// dropped, it resets the stream (HTTP/2), and with the lease the connection (HTTP/1.1).
    pub(super) async fn send(
        &mut self,
        request: Request<Box<Outbound>>,
    ) -> Result<Response<Incoming>, SendError> {
        let outcome = match &mut self.sender {
            Some(Sender::Http1(sender)) => sender.try_send_request(request).await,
            Some(Sender::Http2(sender)) => sender.try_send_request(request).await,
            // A finished lease is consumed, so nobody gets here; the body comes back by being dropped.
            None => std::future::pending().await,
        };
        outcome.map_err(|mut failed| {
            let unsent = failed.take_message().is_some();
            let error = failed.into_error();
            SendError { fate: if unsent { Fate::Unsent } else { fate(&error) }, error }
        })
    }

    /// The response is complete and the request was sent whole.
    pub(super) fn finish(mut self) {
        if let Some(Sender::Http1(sender)) = self.sender.take() {
            self.line.release();
            self.pool.keep_http1(Http1 { sender, line: Arc::clone(&self.line) });
        } else {
            self.line.release();
        }
        self.line.freed();
    }

    /// The connection was upgraded: it never comes back, and is counted as long as the lease is held.
    pub(super) fn upgrade(&mut self) {
        if matches!(self.sender, Some(Sender::Http1(_))) {
            self.sender = None;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.sender.take() {
            Some(Sender::Http1(_)) => self.line.kill.cancel(),
            Some(Sender::Http2(_)) => {
                self.line.release();
                self.line.freed();
            }
            None => {}
        }
    }
}

fn fate(error: &hyper::Error) -> Fate {
    let http2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match http2 {
        Some(reset) if reset.is_remote() => match reset.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Fate::Refused,
            // h2 gives the peer's GOAWAY only to streams above its last id; others run on or end with the connection.
            _ if reset.is_go_away() => Fate::Refused,
            _ => Fate::Unknown,
        },
        Some(reset) if reset.is_reset() => Fate::Abandoned,
        _ if error.is_user() => Fate::Abandoned,
        _ if error.is_parse() => Fate::Garbled,
        _ => Fate::Unknown,
    }
}

/// Opens, shares and drives inner HTTP connections of all endpoints.
pub(super) struct Connections {
    pub(super) dialer: Dialer,
    pub(super) resolver: Resolver,
    drivers: Drivers,
    clock: Clock,
    max_streams: usize,
    pub(super) hits: Hits,
    http1: http1::Builder,
    http2: http2::Builder<Drivers>,
    /// Ends all drivers.
    _closing: DropGuard,
}

/// Owns the tasks that drive connections; they end with [`Connections`].
#[derive(Clone)]
struct Drivers {
    tracker: TaskTracker,
    closing: CancellationToken,
}

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Drivers {
    fn execute(&self, task: F) {
        let closing = self.closing.clone();
        self.tracker.spawn(async move { closing.run_until_cancelled_owned(task).await });
    }
}

impl Connections {
    pub(super) fn new(dialer: Dialer, limits: &Limits, clock: Clock, hits: Hits) -> Self {
        let closing = CancellationToken::new();
        let drivers = Drivers { tracker: TaskTracker::new(), closing: closing.clone() };
        Self {
            dialer,
            resolver: Resolver::system(clock, closing.clone()),
            http1: http1_settings(limits),
            http2: http2_settings(limits, drivers.clone()),
            drivers,
            clock,
            max_streams: limits.upstream_streams_per_connection,
            hits,
            _closing: closing.drop_guard(),
        }
    }

    /// A connection for one request, within its connect timeout. `reuse`: an open one will do. Cancel safe.
    pub(super) async fn lease(
        &self,
        endpoint: &Endpoint,
        version: Version,
        host: &str,
        reuse: bool,
    ) -> Result<Lease, ConnectError> {
        if reuse
            && version == Version::Http1
            && let Some(lease) = self.lease_idle(endpoint, host)
        {
            return Ok(lease);
        }
        let lease = async {
            match version {
                Version::Http1 => self.lease_http1(endpoint, host, reuse).await,
                Version::Http2 => self.lease_http2(endpoint, host, reuse).await,
            }
        };
        timeout(endpoint.terms.connect_timeout, lease).await.map_err(|_| ConnectError::TimedOut)?
    }

    /// The usual case, without a timer: a connection that waits for its next request.
    fn lease_idle(&self, endpoint: &Endpoint, host: &str) -> Option<Lease> {
        let (pool, own) = (&endpoint.state.pool, self.dialer.own(endpoint));
        let idle = pool.ready_http1(own.as_ref(), host)?;
        Some(Lease::http1(idle, pool, true))
    }

    async fn lease_http1(&self, endpoint: &Endpoint, host: &str, reuse: bool) -> Result<Lease, ConnectError> {
        let (pool, own) = (&endpoint.state.pool, self.dialer.own(endpoint));
        if reuse && let Some(idle) = pool.idle_http1(own.as_ref(), host).await {
            return Ok(Lease::http1(idle, pool, true));
        }
        let _waiting = endpoint.terms.wait()?;
        let slot = loop {
            let freed = endpoint.terms.freed();
            let place = endpoint.terms.connect(&endpoint.state.health);
            if let Ok(Some(slot)) = place {
                break slot;
            }
            if let Some(idle) = pool.idle_http1(own.as_ref(), host).await {
                return Ok(Lease::http1(idle, pool, true));
            }
            if let Some(slot) = place_or(place, || pool.give_up_idle())? {
                break slot;
            }
            came_free(freed).await;
        };
        let spoken = Spoken { host, version: Some(Version::Http1) };
        let (transport, line) = self.open(endpoint, own, slot, spoken).await?;
        let (sender, connection) =
            self.http1.handshake(TokioIo::new(transport)).await.map_err(ConnectError::Http)?;
        // Boxed: each step on the way to its task would hold it once more.
        self.drive(Box::pin(connection.with_upgrades()), &line, endpoint);
        Ok(Lease::http1(Http1 { sender, line }, pool, false))
    }

    async fn lease_http2(&self, endpoint: &Endpoint, host: &str, reuse: bool) -> Result<Lease, ConnectError> {
        let (pool, own) = (&endpoint.state.pool, self.dialer.own(endpoint));
        if reuse && let Some(open) = pool.open_http2(own.as_ref(), host) {
            return Ok(Lease::http2(open, pool, true));
        }
        let _waiting = endpoint.terms.wait()?;
        // The semaphore is never closed.
        let _one_at_a_time = pool.dialing.acquire().await.ok();
        let slot = loop {
            let freed = endpoint.terms.freed();
            // What another request opened meanwhile is new enough even where a kept one was not.
            if let Some(open) = pool.open_http2(own.as_ref(), host) {
                return Ok(Lease::http2(open, pool, true));
            }
            let place = endpoint.terms.connect(&endpoint.state.health);
            if let Some(slot) = place_or(place, || pool.give_up_idle())? {
                break slot;
            }
            came_free(freed).await;
        };
        let spoken = Spoken { host, version: Some(Version::Http2) };
        let (transport, line) = self.open(endpoint, own.clone(), slot, spoken).await?;
        let (sender, connection) =
            self.http2.handshake(TokioIo::new(transport)).await.map_err(ConnectError::Http)?;
        let (mut connection, watched, max) = (Box::pin(connection), Arc::clone(&line), self.max_streams);
        let connection = poll_fn(move |cx| {
            let done = connection.as_mut().poll(cx);
            // The peer's SETTINGS may allow less, and change.
            watched.max_streams.store(connection.current_max_send_streams().min(max), Ordering::Relaxed);
            done
        });
        self.drive(connection, &line, endpoint);
        let connection = Http2 { sender, line };
        pool.keep_http2(&connection);
        Ok(Lease::http2(connection, pool, false))
    }

    /// A counted byte stream, taken for its first use.
    async fn open(
        &self,
        endpoint: &Endpoint,
        own: Option<SpiffeId>,
        slot: Slot,
        spoken: Spoken<'_>,
    ) -> Result<(Transport, Arc<Line>), ConnectError> {
        let transport = self.dialer.open(endpoint, HeaderMap::new(), spoken).await?;
        let takes_host = endpoint.terms.tls.as_ref().is_some_and(|tls| tls.takes_host());
        let max_streams = if spoken.version == Some(Version::Http2) { self.max_streams } else { 1 };
        let line = Line {
            own,
            host: takes_host.then(|| spoken.host.into()),
            resolved: endpoint.state.name.clone().zip(transport.remote()),
            local: transport.local(),
            leaves_at: transport.leaves_at(),
            clock: self.clock,
            busy: AtomicUsize::new(1),
            requests: AtomicUsize::new(1),
            max_requests: endpoint.terms.requests_per_connection,
            last_used: AtomicU64::new(self.clock.now()),
            max_streams: AtomicUsize::new(max_streams),
            kill: CancellationToken::new(),
            slot: Mutex::new(Some(slot)),
        };
        Ok((transport, Arc::new(line)))
    }

    fn drive<C>(&self, connection: C, line: &Arc<Line>, endpoint: &Endpoint)
    where
        C: Future<Output = hyper::Result<()>> + Send + 'static,
    {
        let task =
            drive(connection, Arc::clone(line), Arc::downgrade(&endpoint.state.pool), endpoint.terms.idle);
        hyper::rt::Executor::execute(&self.drivers, task);
    }
}

/// A new place, or else that of a connection that can be given up.
fn place_or(
    place: Result<Option<Slot>, ConnectError>,
    give_up: impl FnOnce() -> Option<Slot>,
) -> Result<Option<Slot>, ConnectError> {
    match place {
        Ok(Some(slot)) => Ok(Some(slot)),
        full => give_up().map_or(full, |slot| Ok(Some(slot))),
    }
}

/// Waits for a connection of the cluster. Only clusters with a bound let anybody wait.
async fn came_free(freed: Option<Notified<'_>>) {
    match freed {
        Some(freed) => freed.await,
        None => std::future::pending().await,
    }
}

/// Drives one connection until it ends, is killed, or nobody used it for `idle`.
async fn drive(
    connection: impl Future<Output = hyper::Result<()>>,
    line: Arc<Line>,
    pool: Weak<EndpointPool>,
    idle: Duration,
) {
    let mut connection = pin!(connection);
    let retire = || pool.upgrade().is_some_and(|pool| pool.retire(&line));
    loop {
        tokio::select! {
            _ended = &mut connection => break,
            () = line.kill.cancelled() => break,
            () = line.unused(idle) => {
                if retire() {
                    if let Some(pool) = pool.upgrade() {
                        pool.hits.reached("upstream_idle");
                    }
                    let _closed = timeout(CLOSE, &mut connection).await;
                    return;
                }
                // Taken in this very moment; it will be unused again.
                tokio::task::yield_now().await;
            }
        }
    }
    retire();
}

fn http1_settings(limits: &Limits) -> http1::Builder {
    // hyper's own floor for the buffer is 8 KiB.
    let buffer = usize::try_from(limits.header_list).unwrap_or(usize::MAX).max(8 << 10);
    let mut settings = http1::Builder::new();
    settings.max_buf_size(buffer);
    settings
}

fn http2_settings(limits: &Limits, drivers: Drivers) -> http2::Builder<Drivers> {
    let mut settings = http2::Builder::new(drivers);
    settings
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame)
        .max_header_list_size(limits.header_list)
        .max_send_buf_size(limits.send_buffer)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    settings
}
