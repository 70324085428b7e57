//! HTTP/2 CONNECT tunnels (HBONE) over any byte stream: mechanism only, no TLS, no policy, no tasks but the driver of
//! a pooled connection.
//!
//! A server side takes [`Connect`]s from a [`Connection`] and answers each at most once; a client side opens them
//! through a [`Pool`]. Both end with a [`Tunnel`]: a full-duplex byte stream whose half-close is END_STREAM and whose
//! reset is an error, never an end.
//!
//! ```
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use hbone::{Settings, Target, Tunnel};
//! use http::HeaderMap;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! async fn echo(tunnel: Tunnel) -> std::io::Result<()> {
//!     let (mut read, mut write) = tokio::io::split(tunnel);
//!     tokio::io::copy(&mut read, &mut write).await?;
//!     write.shutdown().await
//! }
//!
//! let (near, far) = tokio::io::duplex(64 * 1024);
//! tokio::spawn(async move {
//!     let mut connection = hbone::handshake(far, &Settings::default()).await?;
//!     while let Some(connect) = connection.next().await? {
//!         if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
//!             tokio::spawn(echo(tunnel)); // `next` must go on being polled meanwhile
//!         }
//!     }
//!     Ok::<_, hbone::ConnectionError>(())
//! });
//!
//! let (sender, driver) = hbone::connect(near, &Settings::default()).await?;
//! tokio::spawn(driver.run());
//! let mut tunnel = sender.open(&Target::parse("10.96.4.7:80")?, HeaderMap::new()).await?;
//! tunnel.write_all(b"hello").await?;
//! tunnel.shutdown().await?;
//! let mut answer = String::new();
//! tunnel.read_to_string(&mut answer).await?;
//! assert_eq!(answer, "hello");
//! # Ok(())
//! # }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod copy;
mod error;
mod frames;
pub mod headers;
mod keepalive;
mod observer;
mod pool;
pub mod proxy_protocol;
mod server;
mod settings;
mod stream;
mod target;
mod tunnel;
mod turn;
mod watch;

pub use client::{Driver, Sender, connect};
pub use copy::{Counters, LARGEST_READ, Peer, copy};
pub use error::{BadSettings, ConnectionError, CopyError, OpenError, Reset, StreamError, fault};
pub use observer::{Bound, Observer};
pub use pool::{Connector, Key, Pool, PoolSettings};
pub use server::{Connect, Connection, handshake};
pub use settings::Settings;
pub use target::{BadTarget, DnsName, Target};
pub use tunnel::{Tunnel, TunnelReader, TunnelWriter};
pub use watch::{Broken, Guarded};

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream that can carry a connection: TCP, TLS, a pipe, another tunnel.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}
