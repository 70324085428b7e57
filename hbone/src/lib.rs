//! HTTP/2 CONNECT tunnels (HBONE) over any byte stream: mechanism only, no TLS, no policy, no tasks but the h2 driver.
// SKELETON: signatures other crates build on; bodies to be written in the files named by the architecture.
#![allow(missing_docs, unused, clippy::all)]
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::{future::Future, net::SocketAddr, num::NonZeroU16, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Where a tunnel wants to go, from `:authority`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target { Addr(SocketAddr), Host { name: DnsName, port: NonZeroU16 } }
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsName(pub Arc<str>); impl DnsName { pub fn as_str(&self) -> &str { &self.0 } }
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget { #[error("no port")] NoPort, #[error("bad")] Invalid }
impl Target { pub fn parse(authority: &str) -> Result<Self, BadTarget> { todo!() } pub fn port(&self) -> u16 { todo!() } }
impl std::fmt::Display for Target { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }

/// Bounds of one connection; style.md §6. Fields: stream_window, connection_window, max_streams, max_frame_size, max_header_list,
/// send_buffer, ping_interval, ping_timeout, handshake_timeout, reset limits.
#[derive(Clone, Debug)]
pub struct Settings {
    pub stream_window: u32, pub connection_window: u32, pub max_streams: u32, pub max_frame_size: u32,
    pub max_header_list: u32, pub send_buffer: usize, pub ping_interval: Duration, pub ping_timeout: Duration,
    pub handshake_timeout: Duration,
}
impl Default for Settings { fn default() -> Self { todo!() } }

#[derive(Debug, thiserror::Error)]
pub enum ConnectionError { #[error("h2")] Http2(#[from] h2::Error), #[error("timeout")] Timeout, #[error("keepalive")] KeepaliveTimeout }

// ---- server
pub async fn handshake<IO: Io>(io: IO, settings: &Settings) -> Result<Connection<IO>, ConnectionError> { todo!() }
/// Drives the connection while `next` is polled (it must always be polled, also while streams run). Keepalive PINGs inside.
pub struct Connection<IO>(std::marker::PhantomData<IO>);
impl<IO: Io> Connection<IO> {
    /// Cancel safe. `Ok(None)`: closed cleanly (all streams ended after GOAWAY, or the peer left).
    pub async fn next(&mut self) -> Result<Option<Connect>, ConnectionError> { todo!() }
    /// Two-step GOAWAY (2^31-1, PING, then the last id).
    pub fn graceful_shutdown(&mut self) { todo!() }
    pub fn abrupt_shutdown(&mut self) { todo!() }
    /// Streams now open.
    pub fn open_streams(&self) -> usize { todo!() }
}
/// One CONNECT request (or another method: `target` then fails and `refuse(400)` is right). Answered at most once.
pub struct Connect(());
impl Connect {
    pub fn is_connect(&self) -> bool { todo!() }
    pub fn target(&self) -> Result<Target, BadTarget> { todo!() }
    pub fn headers(&self) -> &HeaderMap { todo!() }
    pub fn accept(self, headers: HeaderMap) -> Result<Tunnel, StreamError> { todo!() }
    pub fn refuse(self, status: StatusCode) { todo!() }
    /// RST_STREAM(REFUSED_STREAM): not processed, safe to retry elsewhere.
    pub fn not_processed(self) { todo!() }
    /// Resolves when the client resets the stream before it was answered. Cancel safe.
    pub async fn gone(&mut self) { todo!() }
}

#[derive(Debug, thiserror::Error)]
pub enum StreamError { #[error("h2")] Http2(#[from] h2::Error), #[error("reset {0:?}")] Reset(Reset) }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset { Cancel, InternalError, RefusedStream, ConnectError, NoError, Other(u32) }

// ---- tunnel: AsyncRead + AsyncWrite. END_STREAM is EOF; shutdown() is END_STREAM; a peer's RST is io::ErrorKind::ConnectionReset
// (never EOF); dropping it without shutdown resets with CANCEL. Credit is released when bytes were taken by the NEXT read call / by `release`.
pub struct Tunnel(());
impl Tunnel {
    pub fn reset(&mut self, reason: Reset) { todo!() }
    pub fn into_split(self) -> (TunnelReader, TunnelWriter) { todo!() }
    /// Response headers of an opened tunnel (client side), request headers of an accepted one.
    pub fn headers(&self) -> &HeaderMap { todo!() }
}
pub struct TunnelReader(());
impl TunnelReader {
    /// Next DATA, uncopied. `None`: END_STREAM. Cancel safe. Credit comes back by `release` only.
    pub async fn data(&mut self) -> Option<Result<Bytes, StreamError>> { todo!() }
    pub fn release(&mut self, bytes: usize) { todo!() }
}
pub struct TunnelWriter(());
impl TunnelWriter {
    pub async fn send(&mut self, data: Bytes) -> Result<(), StreamError> { todo!() }
    pub fn finish(&mut self) -> Result<(), StreamError> { todo!() }
    pub fn reset(&mut self, reason: Reset) { todo!() }
}
impl AsyncRead for Tunnel { fn poll_read(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>, buf: &mut tokio::io::ReadBuf<'_>) -> std::task::Poll<std::io::Result<()>> { todo!() } }
impl AsyncWrite for Tunnel {
    fn poll_write(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>, buf: &[u8]) -> std::task::Poll<std::io::Result<usize>> { todo!() }
    fn poll_flush(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> { todo!() }
    fn poll_shutdown(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> { todo!() }
}

// ---- copy
#[derive(Debug, Default)]
pub struct Counters { pub from_client: std::sync::atomic::AtomicU64, pub from_upstream: std::sync::atomic::AtomicU64 }
/// The other end of an opaque stream: a tunnel, or a TCP socket (whose RST must become a stream reset, and a reset an RST via SO_LINGER 0).
pub enum Peer { Tunnel(Tunnel), Tcp(tokio::net::TcpStream) }
#[derive(Debug, thiserror::Error)]
pub enum CopyError { #[error("downstream")] Downstream(#[source] StreamError), #[error("upstream")] Upstream(#[source] std::io::Error) }
/// Copies both ways until both ended; half-close is kept for as long as it lasts. `preread` is sent upstream first (sniffed bytes).
/// On an error of one side the other is reset, never ended. Cancelling resets both.
pub async fn copy(downstream: Tunnel, preread: Bytes, upstream: Peer, counters: &Counters) -> Result<(), CopyError> { todo!() }

// ---- client and pool
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("connect")] Connect(#[source] Arc<dyn std::error::Error + Send + Sync>),
    #[error("status {0}")] Status(StatusCode),
    #[error("stream")] Stream(#[source] StreamError),
    #[error("timeout")] Timeout,
}
/// Makes the byte stream (TCP + mTLS) for a key; the pool makes it a tunnel connection.
pub trait Connector<K>: Send + Sync + 'static {
    type Io: Io;
    type Error: std::error::Error + Send + Sync + 'static;
    fn connect(&self, key: &K) -> impl Future<Output = Result<Self::Io, Self::Error>> + Send;
}
pub trait Key: Clone + Eq + std::hash::Hash + Send + Sync + std::fmt::Debug + 'static {}
impl<T: Clone + Eq + std::hash::Hash + Send + Sync + std::fmt::Debug + 'static> Key for T {}
/// One dial at a time per key, streams per connection capped, idle eviction, a stream refused as not processed (REFUSED_STREAM, or above
/// the last id of a GOAWAY) is tried once more on a new connection. Keyed by the user: own identity, destination identity, workload.
pub struct Pool<K, C>(std::marker::PhantomData<(K, C)>);
#[derive(Clone, Debug)]
pub struct PoolSettings { pub http2: Settings, pub streams_per_connection: usize, pub idle: Duration, pub open_timeout: Duration }
impl Default for PoolSettings { fn default() -> Self { todo!() } }
impl<K: Key, C: Connector<K>> Pool<K, C> {
    pub fn new(connector: C, settings: PoolSettings) -> Self { todo!() }
    pub async fn open(&self, key: &K, to: &Target, headers: HeaderMap) -> Result<Tunnel, OpenError> { todo!() }
    /// Drops the connections of keys that are no longer wanted (graceful: running streams go on).
    pub fn retain(&self, keep: impl Fn(&K) -> bool) { todo!() }
    pub fn connections(&self) -> usize { todo!() }
}

/// PROXY protocol v2 as ztunnel writes it in front of a sandwiched waypoint (TLV 0xD0 = source SPIFFE id).
pub mod proxy_protocol {
    use super::*;
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Header { pub source: SocketAddr, pub destination: SocketAddr, pub identity: Option<String> }
    #[derive(Debug, thiserror::Error)] pub enum Error { #[error("io")] Io(#[from] std::io::Error), #[error("malformed: {0}")] Malformed(&'static str) }
    pub async fn read(io: &mut (impl AsyncRead + Unpin)) -> Result<Header, Error> { todo!() }
    pub fn encode(header: &Header) -> Vec<u8> { todo!() }
}
/// `baggage`, `traceparent`, `forwarded` on CONNECT: telemetry hints, never identity.
pub mod headers {
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Baggage { pub cluster: Option<String>, pub namespace: Option<String>, pub workload: Option<String>, pub workload_type: Option<String>, pub service: Option<String>, pub revision: Option<String>, pub region: Option<String>, pub zone: Option<String> }
    impl Baggage { pub fn parse(value: &str) -> Self { todo!() } pub fn encode(&self) -> String { todo!() } }
    /// `for="ip:port";host=fqdn`
    pub fn forwarded(source: std::net::SocketAddr, host: Option<&str>) -> String { todo!() }
}
