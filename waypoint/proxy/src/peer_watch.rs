//! Open connections are only as good as their peers' certificates: expired or revoked, they are cut.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use certs::{MeshTls, PeerCertificate};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A connection takes nothing new in the last part of its peer's certificate: this part of what was left of its life when the
/// connection was made, but no more than this long. What runs then has so long to finish, and whoever renewed comes again.
const LAST_PART: u32 = 5;
const LAST_LONGEST: Duration = Duration::from_secs(300);

/// Sees whether an open connection's peer is still one that would be let in.
pub(crate) struct PeerWatch {
    tls: MeshTls,
    certificate: PeerCertificate,
}

impl PeerWatch {
    pub(crate) fn new(tls: &MeshTls, certificate: PeerCertificate) -> Self {
        Self { tls: tls.clone(), certificate }
    }

    /// When the connection should take nothing new any more, and how long what runs then has.
    pub(crate) fn last_part(&self) -> (Instant, Duration) {
        last_part(Instant::now(), self.left())
    }

    fn left(&self) -> Duration {
        self.certificate.not_after().duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// Waits until the certificate is expired or revoked; says which. Cancel safe.
    pub(crate) async fn unwelcome(&self, recheck: Duration) -> &'static str {
        let mut revocations = self.tls.revocations();
        loop {
            if let Err(error) = self.tls.recheck(&self.certificate) {
                return error.reason();
            }
            let left = self.left();
            // The wall clock may be stepped, so a far expiry is looked at again from time to time.
            let nap = tokio::time::sleep(left.clamp(recheck, Duration::from_secs(30)));
            tokio::select! {
                () = nap => {}
                changed = revocations.changed() => if changed.is_err() { std::future::pending::<()>().await },
            }
        }
    }
}

fn last_part(now: Instant, left: Duration) -> (Instant, Duration) {
    let last = (left / LAST_PART).min(LAST_LONGEST);
    // Beyond what the clock can tell is never.
    let begins = now.checked_add(left.saturating_sub(last)).unwrap_or(now + LAST_LONGEST * 1000);
    (begins, last)
}

/// A connection that breaks off once its peer is no longer welcome; for connections that a pool drives.
pub(crate) struct Welcome<IO> {
    io: IO,
    /// When it should carry nothing new any more.
    leaves_at: Instant,
    over: Pin<Box<dyn Future<Output = &'static str> + Send>>,
    refused: bool,
}

impl<IO> Welcome<IO> {
    pub(crate) fn new(io: IO, watch: PeerWatch, recheck: Duration) -> Self {
        let (leaves_at, _last) = watch.last_part();
        Self { io, leaves_at, over: Box::pin(async move { watch.unwelcome(recheck).await }), refused: false }
    }

    /// When it should carry nothing new any more: its peer's certificate is about to end.
    pub(crate) fn leaves_at(&self) -> Instant {
        self.leaves_at
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_part_is_a_fifth_and_five_minutes_at_most() {
        let now = Instant::now();
        let rows = [(5, 4, 1), (600, 480, 120), (86_400, 86_100, 300), (0, 0, 0)];
        for (left, begins, last) in rows {
            let expected = (now + Duration::from_secs(begins), Duration::from_secs(last));
            assert_eq!(last_part(now, Duration::from_secs(left)), expected, "{left}");
        }
        assert!(last_part(now, Duration::MAX).0 > now);
    }
}
