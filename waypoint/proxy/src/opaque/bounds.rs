//! How long a stream may last, and the count of its bytes while it does.

use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use hbone::Counters;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use waypoint_model::StreamBounds;

/// How often within its time a stream is looked at: one that rests is closed at most a quarter of that time late.
const LOOKS: u32 = 4;

/// Ends when a stream has lasted as long as it may, and says why. Cancel safe.
pub(super) async fn over(bounds: StreamBounds, counters: &Counters) -> &'static str {
    let whole = async {
        match bounds.whole {
            Some(whole) => tokio::time::sleep(whole).await,
            None => std::future::pending().await,
        }
    };
    let idle = async {
        match bounds.idle {
            Some(time) => rests(time, counters).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = whole => "max_connection_duration",
        () = idle => "idle_timeout",
    }
}

async fn rests(time: Duration, counters: &Counters) {
    let carried = || (counters.from_client.load(Relaxed), counters.from_upstream.load(Relaxed));
    let (mut before, mut looks) = (carried(), 0);
    while looks < LOOKS {
        tokio::time::sleep(time / LOOKS).await;
        let now = carried();
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
    }
}

/// The client's side of a stream that counts what passes.
pub(super) struct Counted<'a, IO> {
    pub(super) io: IO,
    pub(super) counters: &'a Counters,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<'_, IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        self.counters.from_client.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<'_, IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, data);
        if let Poll::Ready(Ok(written)) = &polled {
            self.counters.from_upstream.fetch_add(*written as u64, Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_rests_ends_and_one_that_carries_does_not() {
        let counters = Arc::new(Counters::default());
        let busy = Arc::clone(&counters);
        let start = Instant::now();
        let talks = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(3)).await;
                busy.from_upstream.fetch_add(1, Relaxed);
            }
        });
        let bounds = StreamBounds { idle: seconds(8), whole: None };
        assert_eq!(over(bounds, &counters).await, "idle_timeout");
        let took = start.elapsed();
        assert!((38..=42).contains(&took.as_secs()), "{took:?}: eight seconds after the thirtieth");
        talks.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_after_its_whole_time_and_without_bounds_never() {
        let counters = Counters::default();
        let bounds = StreamBounds { idle: seconds(60), whole: seconds(5) };
        assert_eq!(over(bounds, &counters).await, "max_connection_duration");
        let unbounded = over(StreamBounds::default(), &counters);
        assert!(tokio::time::timeout(Duration::from_secs(1 << 20), unbounded).await.is_err());
    }

    #[tokio::test]
    async fn bytes_are_counted_as_they_pass() {
        let counters = Counters::default();
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Counted { io: near, counters: &counters };
        far.write_all(b"abc").await.unwrap();
        near.read_exact(&mut [0; 3]).await.unwrap();
        near.write_all(b"de").await.unwrap();
        assert_eq!((counters.from_client.load(Relaxed), counters.from_upstream.load(Relaxed)), (3, 2));
    }
}
