//! Bodies on their way: one that comes back when it was not used, and one that keeps its endpoint counted.

use std::future::Future;
use std::pin::Pin;
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

/// A request body lent to one attempt. If nothing of it was taken, dropping it gives it back.
pub(super) struct Outbound {
    body: Option<Body>,
    begun: bool,
    back: Option<oneshot::Sender<Body>>,
}

/// Where a lent body comes back.
pub(super) struct Returned(oneshot::Receiver<Body>);

/// Lends a body to an attempt.
pub(super) fn lend(body: Body) -> (Outbound, Returned) {
    let (back, returned) = oneshot::channel();
    (Outbound { body: Some(body), begun: false, back: Some(back) }, Returned(returned))
}

impl Returned {
    /// The whole body, if nothing of it was taken. For attempts that ended.
    pub(super) async fn whole(self) -> Option<Body> {
        timeout(LET_GO, self.0).await.ok()?.ok()
    }

    /// Whether the attempt is done with it.
    fn is_let_go(&mut self) -> bool {
        !matches!(self.0.try_recv(), Err(TryRecvError::Empty))
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
        if self.begun {
            return;
        }
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // Nobody waits for it any more when the attempt succeeded.
            let _ = back.send(body);
        }
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
        let (lent, returned) = lend(Body::full("abc"));
        drop(lent);
        let back = returned.whole().await.unwrap();
        assert_eq!(back.collect().await.unwrap().to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_body_of_which_something_was_taken_is_gone() {
        let (mut lent, returned) = lend(Body::full("abc"));
        lent.frame().await.unwrap().unwrap();
        drop(lent);
        assert!(returned.whole().await.is_none());
    }

    #[test]
    fn an_attempt_is_done_with_a_body_when_it_dropped_it() {
        let (lent, mut returned) = lend(Body::full("abc"));
        assert!(!returned.is_let_go());
        drop(lent);
        assert!(returned.is_let_go());
    }
}
