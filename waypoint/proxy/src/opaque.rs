//! Opaque bytes both ways: judged once, carried for as long as they last, judged again when the policies change.

mod bounds;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use hbone::{Broken, Connect, CopyError, Counters, Io, Peer, Reset, Tunnel};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_policy::Permit;

use bounds::Counted;

use crate::context::StreamContext;
use crate::detect;
use crate::refusal::Refusal;
use crate::snapshot::Destination;
use crate::socket::ResetOnDrop;
use crate::telemetry::{Plan, StreamRecord};
use crate::upstream::{Chosen, Transport};

/// How often a stream's bytes reach the metrics while it lasts: Istio's `tcp_reporting_duration`.
const REPORT: Duration = Duration::from_secs(15);

/// Size of a copy's buffers where neither side is a tunnel, or one is TLS: tokio's own.
const FIXED_BUFFER: usize = 8 << 10;

/// A stream of a port that is declared opaque: its client is answered only when the upstream is connected, so a refusal and
/// a failed dial are statuses that its ztunnel logs.
pub(crate) async fn relay(mut connect: Connect, destination: &Arc<Destination>, cx: StreamContext) {
    let mut record = StreamLog::begin(&cx, destination);
    let opened = tokio::select! {
        opened = open(destination, &cx, &mut record) => opened,
        () = connect.gone() => return record.failed("DC", "downstream_gone", 0),
    };
    match opened {
        Ok(upstream) => match connect.accept(HeaderMap::new()) {
            Ok(tunnel) => carry(Peer::Tunnel(tunnel), Bytes::new(), upstream, destination, &cx, record).await,
            Err(_gone) => record.failed("DC", "downstream_gone", 0),
        },
        Err(refusal) => {
            let status = connect_status(&refusal);
            record.refused(&refusal, status.as_u16());
            connect.refuse(status);
        }
    }
}

/// A stream that had to be accepted to see its first bytes. A refusal can only be a reset.
pub(crate) async fn relay_accepted<IO: Downstream>(
    mut downstream: IO,
    first: Bytes,
    destination: &Arc<Destination>,
    mut cx: StreamContext,
) {
    let named = name(&mut downstream, first, destination, &mut cx).await;
    let mut record = StreamLog::begin(&cx, destination);
    let (first, opened) = match named {
        Ok(first) => (first, open(destination, &cx, &mut record).await),
        Err(refusal) => (Bytes::new(), Err(refusal)),
    };
    match opened {
        Ok(upstream) => carry(downstream.into_peer(), first, upstream, destination, &cx, record).await,
        Err(refusal) => {
            record.refused(&refusal, 0);
            reset(downstream.into_peer());
        }
    }
}

/// Breaks off a stream that had to be accepted.
pub(crate) fn refuse<IO: Downstream>(
    downstream: IO,
    refusal: &Refusal,
    destination: &Arc<Destination>,
    cx: &StreamContext,
) {
    StreamLog::begin(cx, destination).refused(refusal, 0);
    reset(downstream.into_peer());
}

/// Reads the server name where a rule asks for it; gives back what was read.
async fn name<IO: Downstream>(
    downstream: &mut IO,
    first: Bytes,
    destination: &Destination,
    cx: &mut StreamContext,
) -> Result<Bytes, Refusal> {
    if !destination.opaque_policy.asks_server_name() {
        return Ok(first);
    }
    let wait = cx.shared.settings.limits.handshake_timeout;
    let read = detect::server_name(downstream, first, wait).await;
    let (name, first) = read.map_err(|_silent| Refusal::BadRequest("no_client_hello"))?;
    cx.server_name = name.map(Into::into);
    Ok(first)
}

/// ztunnel answers 401 to a policy refusal at CONNECT, and logs tell the two apart by it.
fn connect_status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::Denied(_) => StatusCode::UNAUTHORIZED,
        _other => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn open(
    destination: &Destination,
    cx: &StreamContext,
    log: &mut StreamLog,
) -> Result<(Transport, Chosen), Refusal> {
    destination.served()?;
    let permit = log.decided(destination.opaque_policy.decide_stream(&cx.attributes(destination.port)))?;
    let upstreams = &cx.shared.upstreams;
    let opened = upstreams.open_stream(&permit, destination.stream_cluster(), HeaderMap::new()).await;
    let (transport, chosen) = opened.map_err(Refusal::Upstream)?;
    log.record.upstream = Some((Arc::clone(&chosen.workload), chosen.address));
    log.record.upstream_local = chosen.local;
    Ok((transport, chosen))
}

async fn carry(
    downstream: Peer,
    first: Bytes,
    (upstream, _counted): (Transport, Chosen),
    destination: &Arc<Destination>,
    cx: &StreamContext,
    mut log: StreamLog,
) {
    log.opened();
    let counters = Counters::default();
    let copy_buffer = cx.shared.settings.limits.copy_buffer;
    let ended = tokio::select! {
        copied = join(downstream, first, upstream, copy_buffer, &counters) => Ok(copied),
        () = no_longer_allowed(destination, cx) => Err("closed_by_policy_change"),
        why = bounds::over(destination.stream_bounds, &counters) => Err(why),
        never = log.report(&counters) => match never {},
    };
    log.count(&counters);
    if counters.full_reads.load(Relaxed) > 0 {
        cx.shared.telemetry.hits().reached("copy_buffer");
    }
    match ended {
        Ok(Ok(())) => log.ended("-", String::new()),
        Ok(Err(CopyError::Downstream(error))) => log.ended("DC", error.to_string()),
        Ok(Err(CopyError::Upstream(error))) => log.ended("UC", error.to_string()),
        Err(why) => log.ended("-", why.to_owned()),
    }
}

/// A stream that arrived, as one end of a copy.
pub(crate) trait Downstream: Io {
    /// What HTTP is served on: dropped in mid-answer, it never looks like an end.
    type Http: Io;

    /// Resolves when its client broke it off, also while nobody reads.
    fn broken(&self) -> Broken;

    /// The end itself.
    fn into_peer(self) -> Peer;

    /// The same for HTTP.
    fn into_http(self) -> Self::Http;
}

impl Downstream for Tunnel {
    type Http = Self;

    fn broken(&self) -> Broken {
        Self::broken(self)
    }

    fn into_http(self) -> Self {
        self
    }

    fn into_peer(self) -> Peer {
        Peer::Tunnel(self)
    }
}

impl Downstream for TcpStream {
    type Http = ResetOnDrop;

    /// A socket says nothing of a RST to those who do not read.
    fn broken(&self) -> Broken {
        Broken::never()
    }

    fn into_http(self) -> ResetOnDrop {
        ResetOnDrop::of(self)
    }

    fn into_peer(self) -> Peer {
        Peer::Tcp(self)
    }
}

/// [`hbone::copy`] for either kind of downstream: the sandwich's is a socket.
async fn join(
    downstream: Peer,
    first: Bytes,
    upstream: Transport,
    buffer: usize,
    counters: &Counters,
) -> Result<(), CopyError> {
    match (downstream, upstream) {
        (Peer::Tunnel(downstream), Transport::Tunnel(upstream)) => {
            hbone::copy(downstream, first, Peer::Tunnel(upstream), buffer, counters).await
        }
        (Peer::Tunnel(downstream), Transport::Tcp(upstream)) => {
            hbone::copy(downstream, first, Peer::Tcp(upstream), buffer, counters).await
        }
        (Peer::Tunnel(downstream), Transport::Tls(upstream)) => {
            let copied = Box::pin(streams(downstream, &first, *upstream, buffer, counters)).await;
            copied.map(|_ended| ())
        }
        (Peer::Tcp(downstream), Transport::Tls(upstream)) => {
            let mut ended =
                Box::pin(streams(ResetOnDrop::of(downstream), &first, *upstream, buffer, counters)).await?;
            ended.ended = true;
            Ok(())
        }
        (downstream @ Peer::Tcp(_), Transport::Tunnel(mut upstream)) => {
            if let Err(error) = upstream.write_all(&first).await {
                reset(downstream);
                return Err(CopyError::Upstream(error));
            }
            let swapped = Counters::default();
            let joined = hbone::copy(upstream, Bytes::new(), downstream, buffer, &swapped).await;
            counters.from_client.store(first.len() as u64 + swapped.from_upstream.load(Relaxed), Relaxed);
            counters.from_upstream.store(swapped.from_client.load(Relaxed), Relaxed);
            counters.full_reads.store(swapped.full_reads.load(Relaxed), Relaxed);
            joined.map_err(|error| match error {
                CopyError::Downstream(error) => CopyError::Upstream(error.into()),
                CopyError::Upstream(error) => CopyError::Upstream(error),
            })
        }
        (Peer::Tcp(downstream), Transport::Tcp(upstream)) => {
            sockets(downstream, &first, upstream, buffer, counters).await
        }
    }
}

/// One buffer of a fixed size for each direction, held for as long as the stream lasts.
async fn both_ways<A, B>(a: &mut A, b: &mut B, buffer: usize) -> Result<(), CopyError>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let size = buffer.min(FIXED_BUFFER);
    let copied = tokio::io::copy_bidirectional_with_sizes(a, b, size, size).await;
    copied.map(|_bytes| ()).map_err(CopyError::Upstream)
}

/// Any two streams that reset when dropped before their end. Gives the downstream back when both ended.
async fn streams<A: Io, B: Io>(
    a: A,
    first: &[u8],
    mut b: B,
    buffer: usize,
    counters: &Counters,
) -> Result<A, CopyError> {
    b.write_all(first).await.map_err(CopyError::Upstream)?;
    counters.from_client.store(first.len() as u64, Relaxed);
    let mut a = Counted { io: a, counters };
    both_ways(&mut a, &mut b, buffer).await?;
    Ok(a.io)
}

/// Plain on both sides. What breaks on one side is a RST on the other, never a clean end; so it is when this is dropped.
async fn sockets(
    a: TcpStream,
    first: &[u8],
    b: TcpStream,
    buffer: usize,
    counters: &Counters,
) -> Result<(), CopyError> {
    let (mut a, mut b) = (ResetOnDrop::of(a), ResetOnDrop::of(b));
    b.socket.write_all(first).await.map_err(CopyError::Upstream)?;
    counters.from_client.store(first.len() as u64, Relaxed);
    let mut counted = Counted { io: &mut a.socket, counters };
    both_ways(&mut counted, &mut b.socket, buffer).await?;
    (a.ended, b.ended) = (true, true);
    Ok(())
}

/// Breaks a stream off: RST_STREAM, or a TCP RST.
fn reset(peer: Peer) {
    match peer {
        Peer::Tunnel(mut tunnel) => tunnel.reset(Reset::ConnectError),
        Peer::Tcp(socket) => drop(socket.set_zero_linger()),
    }
}

/// Waits until a new snapshot denies what was permitted, or no longer holds the destination. Cancel safe.
async fn no_longer_allowed(destination: &Destination, cx: &StreamContext) {
    let mut generations = cx.shared.config.generations();
    generations.mark_changed(); // One may have come since the decision.
    while generations.changed().await.is_ok() {
        let Some(snapshot) = cx.shared.config.load() else { return };
        let Ok(now) = snapshot.destination(&cx.target) else { return };
        if now.served().is_err() || now.opaque_policy.decide_stream(&cx.attributes(destination.port)).is_err()
        {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// The record of one stream; written when it ends, also when its task is dropped.
struct StreamLog {
    record: StreamRecord,
    /// The settings of the port; `None`: those of the process.
    plan: Option<Arc<Plan>>,
    cx: StreamContext,
    written: bool,
}

impl StreamLog {
    fn begin(cx: &StreamContext, destination: &Arc<Destination>) -> Self {
        let snapshot = cx.shared.config.load();
        let mut record = StreamRecord::begin(cx.source_record(snapshot.as_deref()));
        record.service = Some(Arc::clone(&destination.service));
        record.port = destination.port;
        record.authority = cx.target.to_string();
        record.generation = snapshot.map_or(0, |snapshot| snapshot.generation());
        record.local = cx.local();
        record.server_name.clone_from(&cx.server_name);
        Self { record, plan: destination.telemetry.clone(), cx: cx.clone(), written: false }
    }

    fn decided(&mut self, decision: Result<Permit, waypoint_policy::Denial>) -> Result<Permit, Refusal> {
        let (decision, result) =
            crate::decided::decided(decision, &mut self.record.dry_run, &mut self.record.audited);
        self.record.decision = decision;
        result
    }

    fn opened(&mut self) {
        self.record.status = 200;
        self.cx.shared.telemetry.stream_opened(&self.record, self.plan.as_ref());
    }

    fn count(&mut self, counters: &Counters) {
        self.record.bytes_received = counters.from_client.load(Relaxed);
        self.record.bytes_sent = counters.from_upstream.load(Relaxed);
    }

    /// Tells the metrics now and then what a long stream carried. Cancel safe.
    async fn report(&mut self, counters: &Counters) -> Infallible {
        loop {
            tokio::time::sleep(REPORT).await;
            let before = (self.record.bytes_sent, self.record.bytes_received);
            self.count(counters);
            if before != (self.record.bytes_sent, self.record.bytes_received) {
                self.cx.shared.telemetry.stream_progress(&mut self.record, self.plan.as_ref());
            }
        }
    }

    fn refused(mut self, refusal: &Refusal, status: u16) {
        self.cx.shared.telemetry.refused(refusal.reason());
        self.record.status = status;
        self.record.transport_failure = refusal.transport_failure();
        self.ended(refusal.flag(), refusal.detail());
    }

    fn failed(mut self, flags: &'static str, detail: &str, status: u16) {
        self.record.status = status;
        self.ended(flags, detail.to_owned());
    }

    fn ended(&mut self, flags: &'static str, detail: String) {
        self.record.flags = flags;
        if self.record.detail.is_empty() {
            self.record.detail = detail;
        }
        self.write();
    }

    fn write(&mut self) {
        if !std::mem::replace(&mut self.written, true) {
            self.cx.shared.telemetry.finish_stream(self.record.take(), self.plan.as_ref());
        }
    }
}

impl Drop for StreamLog {
    fn drop(&mut self) {
        if !self.written {
            self.record.flags = "DC";
            self.write();
        }
    }
}
