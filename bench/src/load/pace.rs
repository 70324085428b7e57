//! A clock for the load. Timers of the runtime are good to a millisecond; latencies are a tenth of one.

use anyhow::Result;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;

/// Ticks at fixed times, however late one is looked at.
pub(super) struct Pace {
    timer: AsyncFd<OwnedFd>,
    next: Instant,
    period: Duration,
    /// Ticks that came and were not handed out yet.
    due: u64,
}

impl Pace {
    /// Ticks first `offset` from now, and then every `period`.
    pub(super) fn new(offset: Duration, period: Duration) -> Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        // A first tick after no time at all would switch the timer off.
        let offset = offset.max(Duration::from_nanos(1));
        let at =
            Itimerspec { it_interval: Timespec::try_from(period)?, it_value: Timespec::try_from(offset)? };
        let next = Instant::now() + offset;
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &at)?;
        #[expect(deprecated, reason = "its replacement is unsafe code; an OwnedFd keeps what that asks for")]
        let timer = AsyncFd::new(timer)?;
        Ok(Self { timer, next, period, due: 0 })
    }

    /// Waits for the next tick; when it was due. Ticks that were missed come at once, each with its own time.
    pub(super) async fn tick(&mut self) -> Result<Instant> {
        while self.due == 0 {
            let mut ready = self.timer.readable().await?;
            let mut count = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
            if let Ok(read) = read {
                read?;
                self.due = u64::from_ne_bytes(count);
            }
        }
        self.due -= 1;
        let due = self.next;
        self.next += self.period;
        Ok(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ticks_keep_their_times_when_nobody_looks() {
        let period = Duration::from_millis(2);
        let mut pace = Pace::new(period, period).unwrap();
        let first = pace.tick().await.unwrap();
        std::thread::sleep(period * 3);
        let late: Vec<Instant> = [pace.tick().await.unwrap(), pace.tick().await.unwrap()].into();
        assert_eq!(late, [first + period, first + period * 2]);
        assert!(Instant::now() >= first + period * 3, "none comes early");
    }
}
