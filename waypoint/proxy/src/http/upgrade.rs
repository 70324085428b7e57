//! WebSocket: after the 101 a request is an opaque stream, judged again when the policies change, and recorded when it ends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};

use super::asked::Asked;
use super::exchange::ExchangeLog;
use super::request::Refused;
use super::watched::Closed;
use crate::body::Body;
use crate::context::StreamContext;
use crate::drain::Phase;
use crate::refusal::Refusal;
use crate::upstream::Chosen;

/// Ends the stream of a CONNECT, which is always refused, after its answer. hyper hands that stream over whatever was
/// answered; dropped as it comes it would be reset, and the answer with it.
pub(crate) fn finish(cx: &Arc<StreamContext>, client: OnUpgrade) {
    cx.upgrades.spawn(async move {
        if let Ok(stream) = client.await {
            // A client that is gone already needs no end.
            let _closed = TokioIo::new(stream).shutdown().await;
        }
    });
}

/// How an upgraded connection ended, for its record.
pub(crate) struct Ended {
    /// Bytes from the client, after the upgrade.
    pub(crate) received: u64,
    /// Bytes to the client, after the upgrade.
    pub(crate) sent: u64,
    /// Response flag.
    pub(crate) flags: &'static str,
    /// Why it broke off; empty after a clean end.
    pub(crate) detail: String,
}

/// Joins the two ends once both have switched. The stream's task owns the copy, and `log` is written at its end.
///
/// # Errors
/// [`Refusal::BadRequest`] for an upstream that switches without having been asked to.
pub(crate) fn carry(
    cx: &Arc<StreamContext>,
    client: Option<OnUpgrade>,
    mut response: Response<Body>,
    asked: Option<Asked>,
    counted: Option<Chosen>,
    log: &mut ExchangeLog,
) -> Result<Response<Body>, Refused> {
    let upstream = response.extensions_mut().remove::<OnUpgrade>();
    let (Some(client), Some(upstream)) = (client, upstream) else {
        return Err(Refusal::Unscreenable("unasked_upgrade").into());
    };
    let mut drain = cx.drain.clone();
    let denied = async move {
        match asked {
            Some(asked) => asked.no_longer_allowed().await,
            None => std::future::pending().await,
        }
    };
    let run = async move {
        let _counted = counted; // For as long as the copy runs.
        let (down, up) = (Side::default(), Side::default());
        let (flags, detail) = tokio::select! {
            joined = join(client, upstream, &down, &up) => match joined {
                Ok(()) => ("-", String::new()),
                Err(error) if down.broke.load(Ordering::Relaxed) => ("DC", error.to_string()),
                Err(error) => ("UC", error.to_string()),
            },
            () = denied => ("-", Closed::Policy.to_string()),
            () = drain.reached(Phase::Aborting) => ("DC", "aborted_by_drain".to_owned()),
        };
        let (received, sent) = (down.sent.load(Ordering::Relaxed), up.sent.load(Ordering::Relaxed));
        Ended { received, sent, flags, detail }
    };
    log.upgraded(cx.upgrades.clone(), run);
    Ok(response)
}

async fn join(client: OnUpgrade, upstream: OnUpgrade, down: &Side, up: &Side) -> io::Result<()> {
    let (client, upstream) = tokio::try_join!(client, upstream).map_err(io::Error::other)?;
    let mut client = Watched { io: TokioIo::new(client), side: down };
    let mut upstream = Watched { io: TokioIo::new(upstream), side: up };
    copy_bidirectional(&mut client, &mut upstream).await.map(drop)
}

/// What is noted of one side while it is copied from and to.
#[derive(Default)]
struct Side {
    /// Bytes that it sent.
    sent: AtomicU64,
    /// Whether it was this side that failed; the copy's error does not say.
    broke: AtomicBool,
}

impl Side {
    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.broke.store(true, Ordering::Relaxed);
        }
        result
    }
}

struct Watched<'a, IO> {
    io: IO,
    side: &'a Side,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<'_, IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut this.io).poll_read(cx, buf));
        let more = buf.filled().len().saturating_sub(before);
        this.side.sent.fetch_add(more as u64, Ordering::Relaxed);
        Poll::Ready(this.side.note(read))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<'_, IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf));
        Poll::Ready(this.side.note(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = ready!(Pin::new(&mut this.io).poll_flush(cx));
        Poll::Ready(this.side.note(flushed))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = ready!(Pin::new(&mut this.io).poll_shutdown(cx));
        Poll::Ready(this.side.note(shut))
    }
}
