//! What TLS can run over.

use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream that can be handed to [`MeshTls`](crate::MeshTls): a socket, a tunnel, a pipe in a test.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}
