//! How the connection to istiod stands: for readiness, metrics and the log.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use xds_client::Failure;

use super::Kind;

/// How the connection to istiod stands.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Where istiod is, `host:port`.
    pub address: String,
    /// Whether a stream is open that istiod has answered.
    pub connected: bool,
    /// When it answered last.
    pub last_answer: Option<Instant>,
    /// What went wrong last, and what to do; empty once it has answered again.
    pub trouble: Option<String>,
    /// Types that it never answered: the first configuration waits for them.
    pub awaited: BTreeSet<Kind>,
}

impl Connection {
    /// How long it has been silent; `None` if it never answered. A mesh that does not change makes for silence too.
    #[must_use]
    pub fn silent_for(&self) -> Option<Duration> {
        self.last_answer.map(|last| last.elapsed())
    }

    /// Why there is no first configuration.
    #[must_use]
    pub fn why_not_ready(&self) -> String {
        let address = &self.address;
        match &self.trouble {
            Some(trouble) => trouble.clone(),
            None if !self.connected => {
                format!("istiod at {address} has not answered yet")
            }
            None => {
                let awaited: Vec<String> = self.awaited.iter().map(ToString::to_string).collect();
                format!("istiod at {address} has not sent {} yet", awaited.join(", "))
            }
        }
    }
}

/// Keeps [`Connection`] true and says in the log what changes.
#[derive(Debug)]
pub(super) struct Watcher {
    state: watch::Sender<Connection>,
    lost: Option<Instant>,
}

impl Watcher {
    pub(super) fn new(address: &str) -> Self {
        let state = Connection {
            address: address.to_owned(),
            connected: false,
            last_answer: None,
            trouble: None,
            awaited: Kind::ALL.into_iter().collect(),
        };
        Self { state: watch::Sender::new(state), lost: None }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Connection> {
        self.state.subscribe()
    }

    pub(super) fn connected(&mut self) {
        self.state.send_modify(|state| {
            state.connected = true;
            state.trouble = None;
            state.last_answer = Some(Instant::now());
        });
        let address = self.state.borrow().address.clone();
        match self.lost.take() {
            Some(lost) => {
                let after = format!("{:.1?}", lost.elapsed());
                tracing::info!(address, after, "istiod is back");
            }
            None => tracing::info!(address, "connected to istiod"),
        }
    }

    pub(super) fn answered(&mut self, awaited: BTreeSet<Kind>) {
        self.state.send_modify(|state| {
            state.last_answer = Some(Instant::now());
            state.awaited = awaited;
        });
    }

    /// Said when it happens, and again when the reason changes; not at each attempt of an outage.
    pub(super) fn lost(&mut self, why: &Failure, retry_in: Duration) {
        let fix = why.fix();
        let why = with_cause(why);
        let trouble = Some(format!("{why}; fix: {fix}"));
        let said = {
            let state = self.state.borrow();
            !state.connected && state.trouble == trouble
        };
        let retry_in = format!("{retry_in:.1?}");
        if said {
            tracing::debug!(why, retry_in, "istiod is still away");
        } else if self.state.borrow().last_answer.is_none() {
            tracing::warn!(
                why,
                fix,
                retry_in,
                "istiod cannot be reached: nothing is served until it answers"
            );
        } else {
            tracing::warn!(why, fix, retry_in, "istiod is away: traffic goes on by what it said last");
        }
        if self.state.borrow().last_answer.is_some() {
            self.lost.get_or_insert_with(Instant::now);
        }
        self.state.send_modify(|state| {
            state.connected = false;
            state.trouble = trouble;
        });
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", with_cause(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended() -> Failure {
        Failure::Ended { address: "istiod:15012".to_owned() }
    }

    #[test]
    fn readiness_says_what_is_waited_for() {
        let mut watcher = Watcher::new("istiod:15012");
        let state = watcher.subscribe();
        let why = || state.borrow().why_not_ready();
        assert!(why().ends_with("istiod:15012 has not answered yet"), "{}", why());
        watcher.lost(&ended(), Duration::from_secs(1));
        assert!(why().contains("istiod:15012 ended the stream; fix: "), "{}", why());
        watcher.connected();
        watcher.answered([Kind::Address].into());
        assert!(why().ends_with("istiod:15012 has not sent workloads yet"), "{}", why());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_istiod_was_heard_of_at_some_time() {
        let mut watcher = Watcher::new("istiod:15012");
        let state = watcher.subscribe();
        assert_eq!(state.borrow().silent_for(), None);
        watcher.connected();
        watcher.lost(&ended(), Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(!state.borrow().connected);
        assert_eq!(state.borrow().silent_for(), Some(Duration::from_secs(7)));
        watcher.connected();
        assert_eq!((state.borrow().connected, state.borrow().trouble.clone()), (true, None));
    }
}
