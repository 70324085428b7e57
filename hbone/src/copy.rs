//! Bidirectional copy between an accepted tunnel and what was opened for it.
//!
//! | happens | then |
//! |---|---|
//! | END_STREAM or FIN on one side | the same on the other; the other direction goes on for as long as it likes |
//! | downstream reset, or its connection lost | upstream reset: TCP RST, or INTERNAL_ERROR on a tunnel |
//! | upstream reset (ECONNRESET, RST_STREAM) | what it sent before is written, then CONNECT_ERROR downstream |
//! | an upstream socket takes no more bytes | what it sent before is carried, then CONNECT_ERROR downstream |
//! | an upstream tunnel takes no more bytes | what it still sends is carried to its end or reset, the downstream sender is stopped |
//! | the copy is dropped | INTERNAL_ERROR on tunnels, TCP RST |
//!
//! CONNECT_ERROR is RFC 9113 §8.5's code for a broken connection behind a tunnel. A peer's own code is not passed on: ztunnel takes
//! CANCEL and NO_ERROR for an end.

use crate::error::{CopyError, Reset, StreamError};
use crate::tunnel::{Tunnel, TunnelReader, TunnelWriter};
use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// First and smallest read from a socket, in bytes.
const SMALLEST_READ: usize = 1 << 10;

/// Largest read from a socket that [`copy`] is usually given, in bytes.
pub const LARGEST_READ: usize = 64 << 10;

/// How long bytes that a broken upstream sent before it broke may take to reach the downstream peer.
const LINGER: Duration = Duration::from_secs(10);

/// Bytes carried, counted as they are taken by the other side.
#[derive(Debug, Default)]
pub struct Counters {
    /// From the downstream peer to the upstream.
    pub from_client: AtomicU64,
    /// From the upstream to the downstream peer.
    pub from_upstream: AtomicU64,
    /// Reads from a socket that filled the largest buffer there may be.
    pub full_reads: AtomicU64,
}

/// The other end of an opaque stream.
#[expect(clippy::large_enum_variant, reason = "a stream has one, and moves it once: a box would cost more")]
pub enum Peer {
    /// A tunnel to an endpoint that speaks HBONE.
    Tunnel(Tunnel),
    /// A plain connection; its RST becomes a stream reset, and a reset an RST (SO_LINGER 0).
    Tcp(TcpStream),
}

/// Copies both ways until both directions ended. A half-close is kept for as long as it lasts, there is no timeout.
///
/// A read from a socket takes `largest_read` bytes at most: it begins with 1 KiB, and grows while its buffers are filled.
/// `preread` (bytes already taken from `downstream`) goes upstream first and counts. Flow-control credit goes back to a tunnel only
/// when the other side has taken the bytes. On an error of one side the other is reset, never ended; so it is when the
/// future is dropped.
///
/// # Errors
/// Which side broke.
pub fn copy(
    downstream: Tunnel,
    preread: Bytes,
    upstream: Peer,
    largest_read: usize,
    counters: &Counters,
) -> impl Future<Output = Result<(), CopyError>> + Send {
    // Split before the future begins: it lives as long as its stream and need not hold the headers.
    let downstream = downstream.into_split();
    let upstream = match upstream {
        Peer::Tunnel(tunnel) => Either::Left(tunnel.into_split()),
        Peer::Tcp(socket) => Either::Right(ResetOnDrop { socket, ended: false }),
    };
    async move {
        match upstream {
            Either::Left((reader, writer)) => both_ways(downstream, preread, reader, writer, counters).await,
            Either::Right(mut socket) => {
                let (read, write) = socket.socket.split();
                let reader = SocketReader::new(read, largest_read, &counters.full_reads);
                both_ways(downstream, preread, reader, SocketWriter(write), counters).await?;
                socket.ended = true;
                Ok(())
            }
        }
    }
}

/// Runs both directions, and decides what the break of one means for the other.
async fn both_ways<R: Source, W: Sink>(
    (mut reader, mut writer): (TunnelReader, TunnelWriter),
    preread: Bytes,
    mut upstream_reader: R,
    mut upstream_writer: W,
    counters: &Counters,
) -> Result<(), CopyError> {
    let upward = Upward::default();
    let mut up = pin!(carry_up(&mut reader, &mut upstream_writer, preread, &counters.from_client));
    let mut down =
        pin!(carry_down::<_, W>(&mut upstream_reader, &mut writer, &upward, &counters.from_upstream));
    tokio::select! {
        carried = &mut up => match carried {
            Ok(()) => {
                upward.over.store(true, Ordering::Relaxed);
                down.await
            }
            Err(Broken::Read(error)) => Err(CopyError::Downstream(error)),
            Err(Broken::Write(error)) => {
                upward.over.store(true, Ordering::Relaxed);
                upward.failed.store(true, Ordering::Relaxed);
                // What upstream sent before it broke still counts; the error to report is the one that came first.
                let _ = tokio::time::timeout(LINGER, down).await;
                Err(CopyError::Upstream(error.into()))
            }
        },
        // Only a failure: `down` ends well after `up`.
        carried = &mut down => carried,
    }
}

/// What the downstream direction must know of the other. Both run in one task; atomics only because that task may move.
#[derive(Default)]
struct Upward {
    over: AtomicBool,
    failed: AtomicBool,
}

async fn carry_up<R: Source, W: Sink>(
    source: &mut R,
    sink: &mut W,
    preread: Bytes,
    carried: &AtomicU64,
) -> Result<(), Broken<R::Error, W::Error>> {
    write(sink, preread, carried).await.map_err(Broken::Write)?;
    pump(source, sink, carried).await?;
    sink.finish().await.map_err(Broken::Write)
}

/// Carries, ends as the source ended, and then watches for a late reset until the other direction is over: that one alone
/// would see it only once upstream has taken what it holds.
async fn carry_down<R: Source, W: Sink>(
    source: &mut R,
    writer: &mut TunnelWriter,
    upward: &Upward,
    carried: &AtomicU64,
) -> Result<(), CopyError> {
    match pump(source, writer, carried).await {
        Ok(()) if W::FAILURE_HIDES_RESET && upward.failed.load(Ordering::Relaxed) => {
            reset_when_written(writer).await;
            Ok(())
        }
        Ok(()) => {
            TunnelWriter::finish(writer).map_err(CopyError::Downstream)?;
            poll_fn(|cx| match upward.over.load(Ordering::Relaxed) {
                true => Poll::Ready(Ok(())),
                false => writer.poll_broken(cx).map(|error| Err(CopyError::Downstream(error))),
            })
            .await
        }
        Err(Broken::Read(error)) => {
            reset_when_written(writer).await;
            Err(CopyError::Upstream(error.into()))
        }
        Err(Broken::Write(error)) => Err(CopyError::Downstream(error)),
    }
}

/// A reset throws queued bytes away, so they get some time to leave.
async fn reset_when_written(writer: &mut TunnelWriter) {
    // A peer that reads nothing for that long loses them.
    let _ = tokio::time::timeout(LINGER, writer.written()).await;
    writer.reset(Reset::ConnectError);
}

enum Broken<R, W> {
    Read(R),
    Write(W),
}

async fn pump<R: Source, W: Sink>(
    source: &mut R,
    sink: &mut W,
    carried: &AtomicU64,
) -> Result<(), Broken<R::Error, W::Error>> {
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = source.chunk() => chunk.map_err(Broken::Read)?,
            error = sink.broken() => return Err(Broken::Write(error)),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let bytes = chunk.len();
        write(sink, chunk, carried).await.map_err(Broken::Write)?;
        source.release(bytes);
    }
}

async fn write<W: Sink>(sink: &mut W, chunk: Bytes, carried: &AtomicU64) -> Result<(), W::Error> {
    let bytes = chunk.len();
    sink.write(chunk).await?;
    carried.fetch_add(bytes as u64, Ordering::Relaxed);
    Ok(())
}

/// Where one direction's bytes come from.
trait Source {
    type Error: Into<io::Error>;
    /// The next bytes; `None` is the end. Cancel safe.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Self::Error>;
    /// The other side has taken `bytes`.
    fn release(&mut self, bytes: usize);
}

/// Where one direction's bytes go.
trait Sink {
    type Error: Into<io::Error>;
    /// Whether a failed write takes the error away from the reading side, which then sees a false end.
    const FAILURE_HIDES_RESET: bool;
    async fn write(&mut self, data: Bytes) -> Result<(), Self::Error>;
    async fn finish(&mut self) -> Result<(), Self::Error>;
    /// Resolves when nothing can be written any more. Cancel safe.
    async fn broken(&mut self) -> Self::Error;
}

impl Source for TunnelReader {
    type Error = StreamError;

    async fn chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.data().await.transpose()
    }

    fn release(&mut self, bytes: usize) {
        Self::release(self, bytes);
    }
}

impl Sink for TunnelWriter {
    type Error = StreamError;
    /// A stream may end properly and then ask to be sent no more (RST_STREAM with NO_ERROR, RFC 9113 §8.1).
    const FAILURE_HIDES_RESET: bool = false;

    async fn write(&mut self, data: Bytes) -> Result<(), StreamError> {
        self.send(data).await
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        Self::finish(self)
    }

    async fn broken(&mut self) -> StreamError {
        Self::broken(self).await
    }
}

/// Reads straight into buffers that are handed on; none is held while the socket is silent.
struct SocketReader<'a> {
    socket: ReadHalf<'a>,
    /// Size of the next buffer: doubled when one was filled, halved when most of it stayed empty.
    size: usize,
    largest: usize,
    full: &'a AtomicU64,
}

impl<'a> SocketReader<'a> {
    fn new(socket: ReadHalf<'a>, largest: usize, full: &'a AtomicU64) -> Self {
        Self { socket, size: SMALLEST_READ.min(largest), largest, full }
    }

    fn adapt(&mut self, read: usize) {
        if read >= self.size {
            if self.size == self.largest {
                self.full.fetch_add(1, Ordering::Relaxed);
            }
            self.size = (self.size * 2).min(self.largest);
        } else if read < self.size / 4 {
            self.size = (self.size / 2).max(SMALLEST_READ.min(self.largest));
        }
    }
}

impl Source for SocketReader<'_> {
    type Error = io::Error;

    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            self.socket.readable().await?;
            let mut buffer = BytesMut::with_capacity(self.size);
            match self.socket.try_read_buf(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => {
                    self.adapt(read);
                    return Ok(Some(buffer.freeze()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn release(&mut self, _: usize) {}
}

struct SocketWriter<'a>(WriteHalf<'a>);

impl Sink for SocketWriter<'_> {
    type Error = io::Error;
    /// A failed `send` clears the socket's pending error (SO_ERROR), and `recv` gives 0 from then on.
    const FAILURE_HIDES_RESET: bool = true;

    async fn write(&mut self, data: Bytes) -> io::Result<()> {
        self.0.write_all(&data).await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }

    /// The socket's error is not taken from it here: the reading side must find it too, or it would read an end.
    async fn broken(&mut self) -> io::Error {
        match self.0.ready(Interest::ERROR).await {
            Ok(_) => io::ErrorKind::ConnectionReset.into(),
            Err(error) => error,
        }
    }
}

/// A socket that tells its peer with an RST if the copy did not come to its end.
struct ResetOnDrop {
    socket: TcpStream,
    ended: bool,
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if !self.ended {
            // Fails only on a socket that is dead already.
            let _ = self.socket.set_zero_linger();
        }
    }
}
