//! When the policies change, so may what their peers see of a list: open streams tell their clients to ask again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use agent_protocols::mcp::ListChanges;
use bytes::Bytes;

use super::asked::Asked;

/// What one open stream tells when the policies of its destination change.
pub(crate) struct Changes {
    /// Said in the words of the stream.
    events: Bytes,
    changed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Changes {
    pub(crate) fn new(asked: &Asked, lists: &ListChanges) -> Self {
        Self { events: lists.events(), changed: changed(asked.clone()) }
    }

    /// Ready with the events that are due.
    pub(crate) fn poll(&mut self, asked: &Asked, cx: &mut Context<'_>) -> Poll<Bytes> {
        while self.changed.as_mut().poll(cx).is_ready() {
            self.changed = changed(asked.clone());
            if !self.events.is_empty() {
                return Poll::Ready(self.events.clone());
            }
        }
        Poll::Pending
    }
}

fn changed(asked: Asked) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { asked.policies_changed().await })
}
