//! Long answers: judged again when the policies change, and cut at their route's deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::answer;
use super::asked::Asked;
use crate::body::{Body, BodyError};

/// Why an answer was broken off by us. Its client sees a broken stream, never a clean end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Closed {
    /// A new policy denies what was permitted.
    #[error("closed_by_policy_change")]
    Policy,
    /// The route's timeout is over.
    #[error("response_timeout")]
    Deadline,
}

/// Watches the answers that need it: event streams of a destination with policies, what an agent streams over gRPC, and any
/// with a deadline.
pub(crate) fn watch(
    response: Response<Body>,
    asked: Option<Asked>,
    deadline: Option<Instant>,
) -> Response<Body> {
    let lasts = |asked: &Asked| answer::is_event_stream(&response) || asked.is_of_grpc_agent();
    let asked = asked.filter(lasts);
    if asked.is_none() && deadline.is_none() {
        return response;
    }
    response.map(|body| Body::Stream(Box::pin(Watched { body, over: Box::pin(over(asked, deadline)) })))
}

async fn over(asked: Option<Asked>, deadline: Option<Instant>) -> Closed {
    let denied = async {
        match &asked {
            Some(asked) => asked.no_longer_allowed().await,
            None => std::future::pending().await,
        }
    };
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = denied => Closed::Policy,
        () = late => Closed::Deadline,
    }
}

struct Watched {
    body: Body,
    over: Pin<Box<dyn Future<Output = Closed> + Send>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(closed) = this.over.as_mut().poll(cx) {
            this.body = Body::Empty; // Lets go of the upstream at once.
            this.over = Box::pin(std::future::pending());
            return Poll::Ready(Some(Err(closed.into())));
        }
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
