//! The feed: one stream to istiod, gathered into configurations, answered after they serve.

use std::convert::Infallible;

use tokio::sync::watch;
use xds_client::{Client, Event, Names, Node, Session, Settings, UnusableSettings, Update};

use super::apply::Apply;
use super::connection::{Connection, Watcher};
use super::gather::Gather;
use super::intake::Intake;
use super::{Kind, Own, node};
use crate::bootstrap::Bootstrap;

/// A stream to istiod that has not been opened yet. Nothing happens before [`Feed::follow`].
pub struct Feed {
    client: Client,
    intake: Intake,
    watcher: Watcher,
    gather: Gather,
    full: Box<dyn Fn() + Send>,
}

impl Feed {
    /// The feed of the istiod that our Deployment names. `queue`: updates taken in and not answered, at most; with so many
    /// nothing more is read, and istiod waits.
    ///
    /// # Errors
    /// Settings that no attempt could make work.
    pub fn new(bootstrap: &Bootstrap, queue: usize) -> Result<Self, UnusableSettings> {
        let settings = Settings { unsettled_limit: queue, ..node::settings(bootstrap) };
        Self::of(settings, node::node(bootstrap), node::own(bootstrap))
    }

    /// A feed of the control plane that `settings` describe, for the node that we are, as seen from our network.
    ///
    /// # Errors
    /// Settings that no attempt could make work.
    pub fn of(settings: Settings, node: Node, own: Own) -> Result<Self, UnusableSettings> {
        let (watcher, queue) = (Watcher::new(&settings.address), settings.unsettled_limit);
        Ok(Self {
            client: Client::new(settings, session(node))?,
            intake: Intake::new(own, queue),
            watcher,
            gather: Gather::default(),
            full: Box::new(|| ()),
        })
    }

    /// Calls `full` each time that the queue is full.
    #[must_use]
    pub fn on_full(self, full: impl Fn() + Send + 'static) -> Self {
        Self { full: Box::new(full), ..self }
    }

    /// How the connection stands.
    #[must_use]
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.watcher.subscribe()
    }

    /// Follows istiod: the first configuration is applied when every type has been answered once, each further one when a
    /// burst of updates is over. While istiod is away everything stays as it is. Never ends; dropping it stops.
    pub async fn follow(mut self, mut apply: impl Apply) -> Infallible {
        loop {
            // Both arms are cancel safe.
            let event = tokio::select! {
                event = self.client.next() => Some(event),
                () = self.gather.over(self.intake.more_due()) => None,
            };
            match event {
                Some(Event::Connected) => self.watcher.connected(),
                Some(Event::Update(update)) => self.take(update),
                Some(Event::Disconnected { why, retry_in }) => self.watcher.lost(&why, retry_in),
                None => self.serve(&mut apply),
            }
        }
    }

    fn take(&mut self, update: Update) {
        if let Some(endpoints) = self.intake.take(update) {
            self.client.want(Kind::Endpoint.type_url(), endpoints);
        }
        self.gather.add();
        if self.client.is_full() {
            (self.full)();
        }
        self.watcher.answered(self.intake.awaited());
    }

    fn serve(&mut self, apply: &mut impl Apply) {
        self.gather.end();
        for (token, refused) in self.intake.serve(apply) {
            self.client.settle(token, refused);
        }
    }
}

/// Everything of each type; of endpoints those of clusters, which are not known yet.
pub(super) fn session(node: Node) -> Session {
    let names = |kind| if kind == Kind::Endpoint { Names::listed::<String>([]) } else { Names::All };
    Session::new(node, Kind::ALL.map(|kind| (kind.type_url().to_owned(), names(kind))))
}
