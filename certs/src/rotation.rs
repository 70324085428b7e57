//! An SVID that is fetched again in time: when to renew, when to try again, and whom to trust meanwhile. How it is fetched is
//! somebody else's: [`Fetch`].

mod roots;
mod schedule;

use std::{
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{runtime::Handle, sync::watch, time};

use crate::{
    chance,
    clock::Clock,
    error::SvidError,
    source::{Published, Publisher, SvidSource, publisher},
    svid::X509Svid,
};
use roots::FormerRoots;
use schedule::{RENEWAL_SPREAD, RETRY_SPREAD, patience, renew_after, retry_after};

/// The longest sleep in one piece: certificates end by the time of day, which may be set, while a sleep counts on.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// One way to get an SVID: makes a key, and asks an authority.
pub trait Fetch: Send + 'static {
    /// What goes wrong, in words for a person: what it was, and what to do.
    type Error: fmt::Display + Send;

    /// Whom it asks, for the log.
    fn authority(&self) -> String;

    /// Gets a new SVID, with the roots that the authority trusts now.
    ///
    /// Dropped when it takes too long, which must be no harm.
    fn fetch(&mut self) -> impl Future<Output = Result<X509Svid, Self::Error>> + Send;
}

/// An SVID that is renewed at half of the life it had when it came. A renewal that fails keeps the last one and is tried
/// again: after half a second, then twice that and so on up to 150 s, but ever sooner as the end draws near.
///
/// Roots that the authority no longer sends are trusted until the SVID that came with them has ended: peers change to new
/// ones at their own time. Lives as long as somebody holds it or a receiver of it.
#[derive(Debug)]
pub struct RenewingSource(Published);

impl RenewingSource {
    /// Fetches the first SVID in the background, at once.
    ///
    /// # Errors
    /// [`SvidError::NoRuntime`] outside of a Tokio runtime. An authority that cannot be reached is no error: it may come.
    pub fn start(fetch: impl Fetch) -> Result<Self, SvidError> {
        Self::with_clock(fetch, Clock::system())
    }

    pub(crate) fn with_clock(fetch: impl Fetch, clock: Clock) -> Result<Self, SvidError> {
        let runtime = Handle::try_current().map_err(|_| SvidError::NoRuntime)?;
        let (publisher, published) = publisher(None);
        let publisher = Arc::new(publisher);
        let renewal = Renewal {
            fetch,
            clock,
            publisher: Arc::clone(&publisher),
            held: None,
            former: FormerRoots::default(),
        };
        // Nobody needs to wait for this task: it ends with its last listener and holds nothing that must be closed.
        runtime.spawn(async move {
            tokio::select! {
                () = renewal.follow() => {}
                () = publisher.closed() => {}
            }
        });
        Ok(Self(published))
    }
}

impl SvidSource for RenewingSource {
    fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
        self.0.svid.clone()
    }

    fn last_error(&self) -> Option<String> {
        self.0.error.borrow().clone()
    }
}

struct Renewal<F> {
    fetch: F,
    clock: Clock,
    publisher: Arc<Publisher>,
    /// The latest SVID, with the roots that came with it and no others.
    held: Option<X509Svid>,
    former: FormerRoots,
}

impl<F: Fetch> Renewal<F> {
    /// Renews for ever.
    async fn follow(mut self) {
        let mut failures = 0;
        loop {
            let pause = match self.renew().await {
                Ok(life) => {
                    failures = 0;
                    renew_after(life, chance::about(RENEWAL_SPREAD))
                }
                Err(fault) => {
                    self.publisher.failed(fault);
                    let pause = retry_after(failures, self.left(), chance::about(RETRY_SPREAD));
                    failures = failures.saturating_add(1);
                    pause
                }
            };
            self.rest(pause).await;
        }
    }

    /// Fetches once and publishes what came. Returns the life that is left to it.
    async fn renew(&mut self) -> Result<Duration, String> {
        let patience = patience(self.left());
        let fetched = time::timeout(patience, self.fetch.fetch()).await;
        let svid = fetched.map_err(|_| {
            let seconds = patience.as_secs_f32();
            format!("no answer of {} within {seconds:.1} s", self.fetch.authority())
        })?;
        let svid = svid.map_err(|error| error.to_string())?;
        let now = self.clock.now();
        let not_after = svid.not_after();
        let life = not_after.duration_since(now).ok().filter(|life| !life.is_zero());
        let life = life.ok_or_else(|| SvidError::Expired { not_after }.to_string())?;
        if let Some(before) = &self.held {
            self.former.replaced(before, &svid);
        }
        self.held = Some(svid);
        self.publish(now)?;
        Ok(life)
    }

    /// Tells the world the SVID that we hold, with the roots that it came with and those that still count.
    fn publish(&mut self, now: SystemTime) -> Result<(), String> {
        let Some(held) = &self.held else { return Ok(()) };
        let svid = held.trusting_also(self.former.still_trusted(now)).map_err(|error| error.to_string())?;
        self.publisher.renewed(svid);
        Ok(())
    }

    /// How long the SVID that we hold is still valid; `None` if there is none that is.
    fn left(&self) -> Option<Duration> {
        let left = self.held.as_ref()?.not_after().duration_since(self.clock.now()).ok()?;
        (!left.is_zero()).then_some(left)
    }

    /// Waits so long by the time of day, and meanwhile takes away trust that has ended.
    async fn rest(&mut self, pause: Duration) {
        let until = self.clock.now() + pause;
        loop {
            let now = self.clock.now();
            if self.former.have_ended(now)
                && let Err(fault) = self.publish(now)
            {
                self.publisher.failed(fault);
            }
            let Some(left) = until.duration_since(now).ok().filter(|left| !left.is_zero()) else { return };
            let roots_end = self.former.next_end().and_then(|end| end.duration_since(now).ok());
            time::sleep(left.min(LONGEST_SLEEP).min(roots_end.unwrap_or(LONGEST_SLEEP))).await;
        }
    }
}
