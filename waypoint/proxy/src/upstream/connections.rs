//! Opens, shares and drives the inner HTTP connections of all endpoints. The only place that drives them.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderMap;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use spiffe_id::SpiffeId;
use tokio::sync::futures::Notified;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Version;
use super::connect::{ConnectError, Dialer, Spoken, Transport};
use super::endpoints::Endpoint;
use super::health::{Clock, Slot};
use super::lease::Lease;
use super::pool::{EndpointPool, Http1, Http2, Line, Made};
use super::resolve::Resolver;
use crate::limits::Limits;
use crate::telemetry::Hits;

/// How long a connection that nobody uses may take to close in order.
const CLOSE: Duration = Duration::from_secs(5);

/// HTTP/2 keepalive as on tunnels: interval and deadline of a PING.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

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
        let line = Line::taken(Made {
            own,
            host: takes_host.then(|| spoken.host.into()),
            resolved: endpoint.state.name.clone().zip(transport.remote()),
            local: transport.local(),
            leaves_at: transport.leaves_at(),
            clock: self.clock,
            max_requests: endpoint.terms.requests_per_connection,
            max_streams,
            slot,
        });
        Ok((transport, line))
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
