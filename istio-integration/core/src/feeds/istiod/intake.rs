//! Takes updates in, decides when a configuration is whole, and answers after it serves.

use std::collections::BTreeSet;

use xds_client::{Names, Refused, Token, Update};

use super::apply::Apply;
use super::state::State;
use super::{Kind, Own};

/// Updates that wait for the first configuration, at most, and less where the queue is shorter; they are answered earlier than they serve then, so that a type
/// that istiod never sends does not stop the others.
const UNANSWERED: usize = 32;

/// What was taken in and is not served yet.
pub(super) struct Intake {
    state: State,
    /// Taken in and not answered, oldest first.
    unanswered: Vec<(Token, Vec<Refused>)>,
    /// Endpoints that were asked for in this burst.
    due: BTreeSet<String>,
    /// So many wait for the first configuration at most.
    patience: usize,
    complete: bool,
}

impl Intake {
    /// An empty one, as seen from our network; nothing is read while `queue` updates are unanswered.
    pub(super) fn new(own: Own, queue: usize) -> Self {
        Self {
            state: State::new(own),
            unanswered: Vec::new(),
            due: BTreeSet::new(),
            patience: UNANSWERED.min(queue),
            complete: false,
        }
    }

    /// Takes an update in. Where it changes which endpoints to ask for: these names.
    pub(super) fn take(&mut self, update: Update) -> Option<Names> {
        let Update { type_url, upserts, removals, token } = update;
        // No other type is subscribed to.
        let kind = Kind::of(&type_url)?;
        if kind == Kind::Endpoint {
            for name in upserts.iter().map(|resource| &resource.name).chain(&removals) {
                self.due.remove(&**name);
            }
        }
        let refused = self.state.take(kind, upserts, &removals);
        self.unanswered.push((token, refused));
        (kind == Kind::Cluster).then(|| self.endpoints())
    }

    /// Which clusters there are says which endpoints to ask for.
    fn endpoints(&mut self) -> Names {
        let names = self.state.wanted_endpoints();
        self.due.retain(|name| names.contains(name));
        self.due.extend(names.iter().filter(|name| !self.state.has_endpoints(name)).cloned());
        Names::Listed(names)
    }

    /// Whether endpoints of new clusters are under way.
    pub(super) fn more_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Types that istiod did not answer yet.
    pub(super) fn awaited(&mut self) -> BTreeSet<Kind> {
        self.state.awaited()
    }

    /// The burst is over: what it made serves, if every type was answered once. Returns the answers that are due then.
    pub(super) fn serve(&mut self, apply: &mut impl Apply) -> Vec<(Token, Vec<Refused>)> {
        self.due.clear();
        self.complete = self.complete || self.state.awaited().is_empty();
        if self.complete {
            apply.apply(self.state.emit());
        } else if self.unanswered.len() < self.patience {
            return Vec::new();
        }
        std::mem::take(&mut self.unanswered)
    }
}

#[cfg(test)]
mod tests;
