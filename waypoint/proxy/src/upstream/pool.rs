//! Inner HTTP connections of one endpoint that can be used again: HTTP/1.1 kept alive, HTTP/2 shared.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use spiffe_id::SpiffeId;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::bodies::Outbound;
use super::health::{Clock, Slot};
use super::resolve::Name;
use crate::limits::Limits;
use crate::telemetry::{Hits, LocalEnd};

/// How long a connection whose response ended may take to be ready again; its driver needs one turn.
const SETTLE: Duration = Duration::from_millis(50);

/// Connections of one endpoint that can be used again.
pub(super) struct EndpointPool {
    /// Idle; the last used is taken first. Locked for a push, a pop or a walk over a few, never across an await.
    http1: Mutex<Vec<Http1>>,
    http2: Mutex<Vec<Http2>>,
    /// One HTTP/2 dial at a time: those who wait share what it brings.
    pub(super) dialing: Semaphore,
    /// The endpoint is gone: nothing is kept any more.
    closed: AtomicBool,
    max_idle: usize,
    pub(super) hits: Hits,
}

pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<Box<Outbound>>,
    pub(super) line: Arc<Line>,
}

pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<Box<Outbound>>,
    pub(super) line: Arc<Line>,
}

/// One connection, as its driver and its users share it.
pub(super) struct Line {
    /// Our identity when it was made; `None` on plain TCP.
    own: Option<SpiffeId>,
    /// The host whose certificate was checked, where that is the request's.
    host: Option<Box<str>>,
    /// The address behind the endpoint's name that it goes to.
    resolved: Option<(Arc<Name>, SocketAddr)>,
    /// Our end of it.
    pub(super) local: Option<LocalEnd>,
    /// When it takes no new requests any more, since the tunnel below it is to end.
    leaves_at: Option<Instant>,
    clock: Clock,
    busy: AtomicUsize,
    /// Over its whole life, and how many may be.
    requests: AtomicUsize,
    max_requests: usize,
    last_used: AtomicU64,
    /// HTTP/2: streams that may be open, by our limit and the peer's.
    pub(super) max_streams: AtomicUsize,
    /// Ends the driver at once, so that the peer sees a reset or a close.
    pub(super) kill: CancellationToken,
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
    pub(super) async fn idle_http1(&self, own: Option<&SpiffeId>, host: &str) -> Option<Http1> {
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
    pub(super) fn ready_http1(&self, own: Option<&SpiffeId>, host: &str) -> Option<Http1> {
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
    pub(super) fn open_http2(&self, own: Option<&SpiffeId>, host: &str) -> Option<Http2> {
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

    pub(super) fn keep_http1(&self, connection: Http1) {
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

    pub(super) fn keep_http2(&self, connection: &Http2) {
        let mut open = self.http2();
        if !self.closed.load(Ordering::SeqCst) && !connection.line.is_used_up() {
            open.push(Http2 { sender: connection.sender.clone(), line: Arc::clone(&connection.line) });
        }
    }

    /// Closes the connection that was not used for longest, for another that needs its place: one for each host that somebody
    /// asked for would shut out all others until they were idle for long enough.
    pub(super) fn give_up_idle(&self) -> Option<Slot> {
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
    pub(super) fn retire(&self, line: &Arc<Line>) -> bool {
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

/// What a connection is, when it is made.
pub(super) struct Made {
    pub(super) own: Option<SpiffeId>,
    pub(super) host: Option<Box<str>>,
    pub(super) resolved: Option<(Arc<Name>, SocketAddr)>,
    pub(super) local: Option<LocalEnd>,
    pub(super) leaves_at: Option<Instant>,
    pub(super) clock: Clock,
    pub(super) max_requests: usize,
    pub(super) max_streams: usize,
    pub(super) slot: Slot,
}

impl Line {
    /// A new connection, taken for its first use.
    pub(super) fn taken(made: Made) -> Arc<Self> {
        Arc::new(Self {
            own: made.own,
            host: made.host,
            resolved: made.resolved,
            local: made.local,
            leaves_at: made.leaves_at,
            clock: made.clock,
            busy: AtomicUsize::new(1),
            requests: AtomicUsize::new(1),
            max_requests: made.max_requests,
            last_used: AtomicU64::new(made.clock.now()),
            max_streams: AtomicUsize::new(made.max_streams),
            kill: CancellationToken::new(),
            slot: Mutex::new(Some(made.slot)),
        })
    }

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

    pub(super) fn release(&self) {
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
    pub(super) fn freed(&self) {
        if let Some(slot) = &*self.slot() {
            slot.freed();
        }
    }

    fn has_room(&self) -> bool {
        self.busy.load(Ordering::Relaxed) < self.max_streams.load(Ordering::Relaxed)
    }

    /// Waits until it was unused for `idle`. Cancel safe.
    pub(super) async fn unused(&self, idle: Duration) {
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
