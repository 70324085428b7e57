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
use super::lease::Lease;
use super::send::Blame;
use crate::body::{Body, BodyError};

/// How long to wait for hyper to let go of a body whose stream was refused. It does so when it next looks at the stream.
const LET_GO: Duration = Duration::from_millis(50);

/// How long an endpoint must have been silent before the end of a request's time to be blamed for it; half of the time where that is
/// less.
const SILENCE: Duration = Duration::from_secs(1);

/// A request body lent to one attempt. Dropping it gives it back, if nothing of it was taken or all that was taken was kept.
pub(super) struct Outbound {
    body: Option<Body>,
    begun: bool,
    /// `None` where nothing is to be kept, and once it is too much.
    kept: Option<Kept>,
    /// Where it goes back, unless nobody wants it any more.
    back: Option<(oneshot::Sender<Body>, Arc<Told>)>,
}

/// What an attempt and its caller know of a lent body.
#[derive(Default)]
struct Told {
    /// Nobody will ask for it.
    forgotten: AtomicBool,
    /// Its client has not sent what was last asked for.
    owed: AtomicBool,
    /// More of it was taken than may be kept.
    too_large: AtomicBool,
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
    back: Option<oneshot::Receiver<Body>>,
    /// `None` of an empty body.
    told: Option<Arc<Told>>,
}

/// Lends a body to an attempt. `keep`: so many bytes of what it takes are kept for another.
///
/// Of an empty body there is nothing to lend: who lends it has another.
pub(super) fn lend(body: Body, keep: usize) -> (Outbound, Returned) {
    if matches!(body, Body::Empty) {
        let nothing = Returned { back: None, told: None };
        return (Outbound { body: None, begun: false, kept: None, back: None }, nothing);
    }
    let (sender, back) = oneshot::channel();
    let told = Arc::new(Told::default());
    let kept = (keep > 0).then(|| Kept { data: VecDeque::new(), room: keep });
    let returned = Returned { back: Some(back), told: Some(Arc::clone(&told)) };
    (Outbound { body: Some(body), begun: false, kept, back: Some((sender, told)) }, returned)
}

impl Returned {
    /// The whole body, if it can be sent again. For attempts that ended, or that are to end.
    pub(super) async fn whole(&mut self) -> Option<Body> {
        let back = self.back.as_mut()?;
        let body = timeout(LET_GO, back).await.ok()?;
        self.back = None;
        body.ok()
    }

    /// Nobody will ask for it: what was kept of it is freed.
    pub(super) fn forget(&mut self) {
        if let Some(told) = &self.told {
            told.forgotten.store(true, Ordering::Relaxed);
        }
        self.is_let_go();
    }

    /// Whether its client is waited for.
    pub(super) fn is_owed(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.owed.load(Ordering::Relaxed))
    }

    /// Whether it cannot be sent again for its size alone.
    pub(super) fn was_too_large(&self) -> bool {
        self.told.as_ref().is_some_and(|told| told.too_large.load(Ordering::Relaxed))
    }

    /// Whether the attempt is done with it.
    fn is_let_go(&mut self) -> bool {
        self.back.take_if(|back| !matches!(back.try_recv(), Err(TryRecvError::Empty)));
        self.back.is_none()
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
        if let Some((_, told)) = &this.back {
            told.owed.store(polled.is_pending(), Ordering::Relaxed);
        }
        if let Poll::Ready(Some(taken)) = &polled
            && let Some(kept) = this.kept.take()
        {
            this.kept = taken.as_ref().ok().and_then(|frame| kept.with(frame));
            if let Some((_, told)) = &this.back {
                told.too_large.store(this.kept.is_none(), Ordering::Relaxed);
            }
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
        let (Some(body), Some((back, told))) = (self.body.take(), self.back.take()) else { return };
        told.owed.store(false, Ordering::Relaxed);
        let whole = match self.kept.take() {
            _ if !self.begun => body,
            Some(Kept { data, .. }) if !told.forgotten.load(Ordering::Relaxed) => {
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
    deadline: Option<Deadline>,
}

/// When a response has to be over, and whether its endpoint kept us waiting until then.
struct Deadline {
    over: Pin<Box<Sleep>>,
    /// How long an endpoint must have been silent to be blamed.
    silence: Duration,
    /// Since when it is; `None` while its client is the one who does not read.
    waiting_since: Option<Instant>,
}

impl Inbound {
    pub(super) fn new(incoming: Incoming, running: Running, until: Option<Instant>) -> Self {
        Self { rest: Some((incoming, running)), deadline: until.map(Deadline::new) }
    }

    fn finish(&mut self) {
        if let Some((_, running)) = self.rest.take() {
            running.finish();
        }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.deadline.as_mut().is_some_and(|deadline| deadline.over.as_mut().poll(cx).is_ready())
    }

    /// A client that reads late, or still owes a part of its request, must not get its endpoint ejected.
    fn is_endpoints_fault(&self, running: &Running) -> bool {
        let silent = self.deadline.as_ref().is_some_and(Deadline::was_silent);
        silent && !running.returned.is_owed()
    }
}

impl Deadline {
    fn new(until: Instant) -> Self {
        let silence = (until.saturating_duration_since(Instant::now()) / 2).min(SILENCE);
        Self { over: Box::pin(sleep_until(until)), silence, waiting_since: None }
    }

    fn was_silent(&self) -> bool {
        self.waiting_since.is_some_and(|since| since.elapsed() >= self.silence)
    }

    fn polled(&mut self, pending: bool) {
        self.waiting_since = pending.then(|| self.waiting_since.unwrap_or_else(Instant::now));
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
        if this.rest.is_some() && this.is_late(cx) {
            if let Some((_, running)) = this.rest.take()
                && this.is_endpoints_fault(&running)
            {
                running.blame.saw(Outcome::NoAnswer);
            }
            return Poll::Ready(Some(Err(UpstreamError::Timeout.into())));
        }
        let Some((incoming, running)) = &mut this.rest else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        if let Some(deadline) = &mut this.deadline {
            deadline.polled(polled.is_pending());
        }
        match std::task::ready!(polled) {
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
