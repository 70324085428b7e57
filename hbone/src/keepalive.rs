//! PINGs that tell a silent peer from a dead one.

use crate::settings::Settings;
use h2::{Ping, PingPong};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Sends a PING each interval and says when one stayed unanswered for too long.
///
/// Poll the HTTP/2 connection first and this after it, in the same task: an answer that has arrived is then always read before
/// its deadline is looked at, however late the task was woken.
pub(crate) struct Keepalive {
    pings: Option<PingPong>,
    timer: Pin<Box<Sleep>>,
    awaiting_pong: bool,
    interval: Duration,
    timeout: Duration,
}

/// The peer did not answer.
pub(crate) struct Dead;

impl Keepalive {
    pub(crate) fn new(pings: Option<PingPong>, settings: &Settings) -> Self {
        Self {
            pings,
            timer: Box::pin(tokio::time::sleep(settings.ping_interval)),
            awaiting_pong: false,
            interval: settings.ping_interval,
            timeout: settings.ping_timeout,
        }
    }

    /// Ready only when the peer is dead. A connection that is closing says so itself.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Dead> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        loop {
            if self.awaiting_pong {
                match pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.awaiting_pong = false;
                        self.timer.as_mut().reset(Instant::now() + self.interval);
                    }
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {
                        ready!(self.timer.as_mut().poll(cx));
                        return Poll::Ready(Dead);
                    }
                }
            }
            ready!(self.timer.as_mut().poll(cx));
            if pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.awaiting_pong = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
        }
    }
}
