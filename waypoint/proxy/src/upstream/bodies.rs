//! Bodies on their way: one that comes back when it was not used, and one that keeps its endpoint counted.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::UpstreamError;
use super::health::{Active, Outcome};
use super::pool::Lease;
use super::send::Blame;
use crate::body::{Body, BodyError};

/// How long to wait for hyper to let go of a body whose stream was refused. It does so when it next looks at the stream.
const LET_GO: Duration = Duration::from_millis(50);

/// A request body lent to one attempt. Dropping it gives it back, if nothing of it was taken or all that was taken was kept.
pub(super) struct Outbound {
    body: Option<Body>,
    begun: bool,
    /// `None` where nothing is to be kept, and once it is too much.
    kept: Option<Kept>,
    /// Where it goes back, unless nobody wants it any more.
    back: Option<(oneshot::Sender<Body>, Arc<AtomicBool>)>,
}

/// What was taken of a body.
struct Kept {
    data: VecDeque<Bytes>,
    /// Bytes that may still be kept.
    room: usize,
}

/// Where a lent body comes back.
pub(super) struct Returned {
    /// `None` when the attempt is done with it.
    lent: Option<Lent>,
}

struct Lent {
    back: oneshot::Receiver<Body>,
    wanted: Arc<AtomicBool>,
}

/// Lends a body to an attempt. `keep`: so many bytes of what it takes are kept for another.
///
/// Of an empty body there is nothing to lend: who lends it has another.
pub(super) fn lend(body: Body, keep: usize) -> (Outbound, Returned) {
    if matches!(body, Body::Empty) {
        return (Outbound { body: None, begun: false, kept: None, back: None }, Returned { lent: None });
    }
    let (sender, back) = oneshot::channel();
    let wanted = Arc::new(AtomicBool::new(true));
    let kept = (keep > 0).then(|| Kept { data: VecDeque::new(), room: keep });
    let lent = Lent { back, wanted: Arc::clone(&wanted) };
    let back = Some((sender, wanted));
    (Outbound { body: Some(body), begun: false, kept, back }, Returned { lent: Some(lent) })
}

impl Returned {
    /// The whole body, if it can be sent again. For attempts that ended, or that are to end.
    pub(super) async fn whole(&mut self) -> Option<Body> {
        let lent = self.lent.as_mut()?;
        let body = timeout(LET_GO, &mut lent.back).await.ok()?;
        self.lent = None;
        body.ok()
    }

    /// Nobody will ask for it: what was kept of it is freed.
    pub(super) fn forget(&mut self) {
        if let Some(lent) = &self.lent {
            lent.wanted.store(false, Ordering::Relaxed);
        }
        self.is_let_go();
    }

    /// Whether the attempt is done with it.
    fn is_let_go(&mut self) -> bool {
        self.lent.take_if(|lent| !matches!(lent.back.try_recv(), Err(TryRecvError::Empty)));
        self.lent.is_none()
    }
}

impl Kept {
    /// Keeps a frame; `None` where it cannot be kept: it is too much, or trailers.
    fn with(mut self, frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref()?;
        self.room = self.room.checked_sub(data.len())?;
        self.data.push_back(data.clone());
        Some(self)
    }
}

/// A body of which something was taken, from its beginning.
struct Replay {
    data: VecDeque<Bytes>,
    rest: Body,
}

impl HttpBody for Replay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this.data.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut this.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.data.iter().map(|data| data.len() as u64).sum::<u64>();
        let (rest, mut hint) = (self.rest.size_hint(), SizeHint::new());
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

impl HttpBody for Outbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        this.begun |= polled.is_ready();
        if let Poll::Ready(Some(taken)) = &polled {
            let (kept, frame) = (this.kept.take(), taken.as_ref().ok());
            this.kept = kept.zip(frame).and_then(|(kept, frame)| kept.with(frame));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        let (Some(body), Some((back, wanted))) = (self.body.take(), self.back.take()) else { return };
        let whole = match self.kept.take() {
            _ if !self.begun => body,
            Some(Kept { data, .. }) if wanted.load(Ordering::Relaxed) => {
                Body::Stream(Box::pin(Replay { data, rest: body }))
            }
            _gone => return,
        };
        // Nobody waits for it any more when the attempt succeeded.
        let _ = back.send(whole);
    }
}

/// What a response holds on to until its body ended or was dropped.
pub(super) struct Running {
    pub(super) lease: Lease,
    /// Counted while held.
    pub(super) _active: Active,
    pub(super) returned: Returned,
    pub(super) blame: Blame,
}

impl Running {
    /// The response is complete: its connection may serve the next request, unless ours is still being sent.
    pub(super) fn finish(mut self) {
        if self.returned.is_let_go() {
            self.lease.finish();
        }
    }
}

/// A response body. Its endpoint is counted until it ends or is dropped; dropped before its end, the upstream is reset.
pub(super) struct Inbound {
    /// `None` when it ended, one way or the other.
    rest: Option<(Incoming, Running)>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Inbound {
    pub(super) fn new(incoming: Incoming, running: Running, until: Option<Instant>) -> Self {
        Self { rest: Some((incoming, running)), deadline: until.map(|until| Box::pin(sleep_until(until))) }
    }

    fn finish(&mut self) {
        if let Some((_, running)) = self.rest.take() {
            running.finish();
        }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }
}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let late = this.rest.is_some() && this.is_late(cx);
        let Some((incoming, running)) = &mut this.rest else { return Poll::Ready(None) };
        if late {
            running.blame.saw(Outcome::NoAnswer);
            this.rest = None;
            return Poll::Ready(Some(Err(UpstreamError::Timeout.into())));
        }
        match std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Who reads may not ask again after the last data or the trailers.
                if frame.is_trailers() || incoming.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                running.blame.saw(Outcome::NoAnswer);
                this.rest = None;
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(|(incoming, _)| incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.as_ref().map_or_else(|| SizeHint::with_exact(0), |(incoming, _)| incoming.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_that_was_not_touched_comes_back() {
        let (lent, mut returned) = lend(Body::full("abc"), 0);
        drop(lent);
        let back = returned.whole().await.unwrap();
        assert_eq!(back.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_body_of_which_something_was_taken_is_gone() {
        let (mut lent, mut returned) = lend(Body::full("abc"), 0);
        lent.frame().await.unwrap().unwrap();
        drop(lent);
        assert!(returned.whole().await.is_none());
    }

    #[test]
    fn nothing_of_an_empty_body_is_waited_for() {
        let (lent, mut returned) = lend(Body::Empty, 0);
        assert!(lent.is_end_stream() && lent.size_hint().exact() == Some(0));
        assert!(returned.is_let_go());
    }

    #[test]
    fn an_attempt_is_done_with_a_body_when_it_dropped_it() {
        let (lent, mut returned) = lend(Body::full("abc"), 0);
        assert!(!returned.is_let_go());
        drop(lent);
        assert!(returned.is_let_go());
    }

    fn in_parts() -> Body {
        let parts = ["ab", "cd", "ef"].map(|part| Ok(Frame::data(Bytes::from(part))));
        Body::Stream(Box::pin(http_body_util::StreamBody::new(futures_util::stream::iter(parts))))
    }

    #[tokio::test]
    async fn a_body_of_which_everything_taken_was_kept_comes_back_whole_and_again() {
        let mut body = in_parts();
        for taken in [1, 4, 3] {
            let (mut lent, mut returned) = lend(body, 6);
            for _ in 0..taken {
                lent.frame().await;
            }
            drop(lent);
            body = returned.whole().await.unwrap();
        }
        assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_to_keep_does_not_come_back() {
        let (mut lent, mut returned) = lend(in_parts(), 3);
        lent.frame().await.unwrap().unwrap();
        lent.frame().await.unwrap().unwrap();
        drop(lent);
        assert!(returned.whole().await.is_none());
    }

    #[tokio::test]
    async fn a_body_that_nobody_will_ask_for_is_not_held() {
        let (mut lent, mut returned) = lend(in_parts(), 6);
        lent.frame().await.unwrap().unwrap();
        returned.forget();
        assert!(!returned.is_let_go());
        drop(lent);
        assert!(returned.is_let_go() && returned.whole().await.is_none());
    }
}
