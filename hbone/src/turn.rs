//! When the task of a connection does its work.

use std::task::{Context, Poll};

/// Lets a connection wait once for the tasks that were ready before it.
///
/// What a stream's task sends wakes the task of the connection, and tokio runs first what was woken last. So each stream's
/// frames would leave in a write of their own, though other streams are about to send as well. Where no other task is ready,
/// nothing is waited for.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    has_waited: bool,
}

impl Turn {
    /// Polls the connection, once the tasks that were ready have run.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        connection: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.has_waited {
            self.has_waited = true;
            cx.waker().wake_by_ref(); // who wakes itself is put behind the others
            return Poll::Pending;
        }
        let polled = connection(cx);
        self.has_waited = polled.is_ready();
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use tokio::sync::{Notify, mpsc};
    use tokio::task::yield_now;

    use super::*;

    /// One worker, since the order of tasks on several is theirs.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_streams_send_at_the_same_time_leaves_in_one_write() {
        let (send, mut sent) = mpsc::channel(3);
        let go = Arc::new(Notify::new());
        let connection = tokio::spawn(async move {
            let (mut turn, mut writes) = (Turn::default(), Vec::new());
            while poll_fn(|cx| turn.poll(cx, |cx| sent.poll_recv(cx))).await.is_some() {
                writes.push(1 + std::iter::from_fn(|| sent.try_recv().ok()).count());
            }
            writes
        });
        for _ in 0..3 {
            let (send, go) = (send.clone(), Arc::clone(&go));
            tokio::spawn(async move {
                go.notified().await;
                send.try_send(()).unwrap();
            });
        }
        drop(send);
        tokio::spawn(async move {
            for _ in 0..10 {
                yield_now().await;
            }
            go.notify_waiters();
        });
        assert_eq!(connection.await.unwrap(), [3]);
    }
}
