//! Open connections are only as good as their peers' certificates: expired or revoked, they are cut.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use certs::{MeshTls, PeerCertificate};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Sees whether an open connection's peer is still one that would be let in.
pub(crate) struct PeerWatch {
    tls: MeshTls,
    certificate: PeerCertificate,
}

impl PeerWatch {
    pub(crate) fn new(tls: &MeshTls, certificate: PeerCertificate) -> Self {
        Self { tls: tls.clone(), certificate }
    }

    /// Waits until the certificate is expired or revoked; says which. Cancel safe.
    pub(crate) async fn unwelcome(&self, recheck: Duration) -> &'static str {
        let mut revocations = self.tls.revocations();
        loop {
            if let Err(error) = self.tls.recheck(&self.certificate) {
                return error.reason();
            }
            let left = self.certificate.not_after().duration_since(SystemTime::now()).unwrap_or_default();
            // The wall clock may be stepped, so a far expiry is looked at again from time to time.
            let nap = tokio::time::sleep(left.clamp(recheck, Duration::from_secs(30)));
            tokio::select! {
                () = nap => {}
                changed = revocations.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }
}

/// A connection that breaks off once its peer is no longer welcome; for connections that a pool drives.
pub(crate) struct Welcome<IO> {
    io: IO,
    over: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    refused: bool,
}

impl<IO> Welcome<IO> {
    pub(crate) fn new(io: IO, watch: PeerWatch, recheck: Duration) -> Self {
        Self { io, over: Box::pin(async move { watch.unwelcome(recheck).await }), refused: false }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Welcome<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.refused
            && let Poll::Ready(reason) = this.over.as_mut().poll(cx)
        {
            this.refused = true;
            tracing::info!(reason, "closing the tunnels to an endpoint");
        }
        if this.refused {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Welcome<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
