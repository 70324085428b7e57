//! The protocol as a pure state machine: no I/O, no clock.
//!
//! Rules that keep it safe whatever the order of things (xDS protocol, "Incremental xDS"):
//! - A resource counts as held when its owner said so, in [`Session::settle`], and not when it arrived.
//! - What the owner may have, but never answered for, is known without a version: the next stream names it with an empty
//!   one, which no server can take for up to date. The same holds for what was refused and never good.
//! - Answers belong to a stream: after a reconnect an old one says nothing.

mod held;
mod names;
mod read;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::proto::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Status};
use held::{Held, Touched};
pub use names::Names;

/// `INVALID_ARGUMENT` of gRPC: the code of a refusal.
const INVALID_ARGUMENT: i32 = 3;

/// Text of a refusal at most, in bytes: it goes into logs and status pages of the control plane.
const REFUSAL_LIMIT_BYTES: usize = 4096;

/// A resource whose envelope was read and whose body was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: Arc<str>,
    /// Its version, a text that means nothing to us.
    pub version: Arc<str>,
    /// The encoded message, of the type of the update.
    pub body: Bytes,
}

/// A change of one type. To be applied in the order received, then answered with [`Session::settle`]; until then nothing
/// in it counts as held.
#[derive(Debug)]
#[must_use = "an update that is not settled does not count as held, and the control plane learns nothing"]
pub struct Update {
    /// Its type.
    pub type_url: Arc<str>,
    /// New and changed resources; names are unique and none of them is also removed.
    pub upserts: Vec<Resource>,
    /// Names that are gone. May name what was never there.
    pub removals: Vec<Arc<str>>,
    /// For the answer.
    pub token: Token,
}

/// The right to answer an update once.
#[derive(Debug)]
pub struct Token {
    connection: u64,
    sequence: u64,
    type_url: Arc<str>,
    nonce: String,
    faults: Vec<Refused>,
}

/// A resource that was not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Why, for whoever reads the control plane's log.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// What a response means.
#[derive(Debug)]
#[must_use]
pub enum Received {
    /// A change for the owner.
    Update(Update),
    /// Nothing for the owner: answered at once.
    Answer(DeltaDiscoveryRequest),
}

/// One type and what happens to it.
#[derive(Debug)]
struct Subscription {
    type_url: Arc<str>,
    wanted: Names,
    held: Held,
    /// Handed out and not answered, oldest first.
    unsettled: VecDeque<(u64, Touched)>,
    /// Whether this stream has heard of the type.
    announced: bool,
}

impl Subscription {
    fn new(type_url: &str, wanted: Names) -> Self {
        Self {
            type_url: type_url.into(),
            wanted,
            held: Held::default(),
            unsettled: VecDeque::new(),
            announced: false,
        }
    }

    /// The first request of this type on a stream.
    fn announce(&mut self) -> DeltaDiscoveryRequest {
        self.announced = true;
        DeltaDiscoveryRequest {
            type_url: self.type_url.to_string(),
            resource_names_subscribe: self.wanted.subscribe(),
            initial_resource_versions: self.held.initial_versions(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Takes an answer into account. One that overtakes others leaves those in doubt: whether the owner has applied them
    /// cannot be told from it.
    fn settle(&mut self, sequence: u64, refused: &HashSet<&str>) {
        while let Some((oldest, touched)) = self.unsettled.pop_front_if(|(oldest, _)| *oldest <= sequence) {
            if oldest == sequence {
                self.held.commit(touched, refused, &self.wanted);
            } else {
                self.held.doubt(touched, &self.wanted);
            }
        }
    }

    fn forget_all_but(&mut self, names: Names) {
        self.held.retain(&names);
        self.unsettled.iter_mut().for_each(|(_, touched)| touched.forget(&names));
        self.wanted = names;
    }

    fn disconnected(&mut self) {
        self.announced = false;
        for (_, touched) in self.unsettled.drain(..) {
            self.held.doubt(touched, &self.wanted);
        }
    }
}

/// All subscriptions of one node, over any number of streams.
#[derive(Debug)]
pub struct Session {
    node: Node,
    subscriptions: Vec<Subscription>,
    /// Counts streams; tokens of earlier ones are stale.
    connection: u64,
    connected: bool,
    introduced: bool,
    sequence: u64,
}

impl Session {
    /// A session that is not connected. Types are asked for in the order given.
    #[must_use]
    pub fn new(node: Node, subscriptions: impl IntoIterator<Item = (String, Names)>) -> Self {
        let mut session = Self {
            node,
            subscriptions: Vec::new(),
            connection: 0,
            connected: false,
            introduced: false,
            sequence: 0,
        };
        for (type_url, names) in subscriptions {
            // Not connected: nothing to say.
            let _ = session.want(&type_url, names);
        }
        session
    }

    /// A stream begins: what to send first, in this order. Ends the stream before, if it did not end.
    pub fn connected(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.disconnected();
        self.connection += 1;
        self.connected = true;
        let wanted = self.subscriptions.iter_mut().filter(|subscription| !subscription.wanted.is_empty());
        let requests: Vec<_> = wanted.map(Subscription::announce).collect();
        requests.into_iter().map(|request| self.introduce(request)).collect()
    }

    /// The stream ended. What was handed out and not answered is in doubt from now on.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.introduced = false;
        self.subscriptions.iter_mut().for_each(Subscription::disconnected);
    }

    /// Reads the envelope of a response.
    pub fn received(&mut self, response: DeltaDiscoveryResponse) -> Received {
        let known = self.subscriptions.iter_mut().find(|known| *known.type_url == *response.type_url);
        let Some(subscription) = known.filter(|known| known.announced) else {
            let fault =
                Refused { name: response.type_url.clone(), reason: "nobody asked for this type".to_owned() };
            return Received::Answer(answer(response.type_url, response.nonce, &[fault]));
        };
        self.sequence += 1;
        let nonce = response.nonce.clone();
        let read = read::envelope(response, &subscription.wanted);
        subscription.unsettled.push_back((self.sequence, read.touched()));
        Received::Update(Update {
            type_url: Arc::clone(&subscription.type_url),
            upserts: read.upserts,
            removals: read.removals,
            token: Token {
                connection: self.connection,
                sequence: self.sequence,
                type_url: Arc::clone(&subscription.type_url),
                nonce,
                faults: read.faults,
            },
        })
    }

    /// The owner has applied an update, except for `refused`, which stays at its last good version: what to send, if the
    /// stream of the update still lives. A refusal names each resource with its reason; all others of the update are held.
    pub fn settle(&mut self, token: Token, refused: Vec<Refused>) -> Option<DeltaDiscoveryRequest> {
        let Token { connection, sequence, type_url, nonce, faults } = token;
        if !self.connected || connection != self.connection {
            return None;
        }
        let names = refused.iter().map(|refused| refused.name.as_str()).collect();
        let known = self.subscriptions.iter_mut().find(|known| known.type_url == type_url);
        if let Some(subscription) = known {
            subscription.settle(sequence, &names);
        }
        let refused: Vec<Refused> = faults.into_iter().chain(refused).collect();
        Some(answer(type_url.to_string(), nonce, &refused))
    }

    /// Changes what is wanted of a type, which may be new: what to send, if there is a stream and something changes. What is
    /// no longer wanted is no longer held; the owner forgets it by itself, the server does not say that it is gone.
    pub fn want(&mut self, type_url: &str, names: Names) -> Option<DeltaDiscoveryRequest> {
        let request = match self.subscriptions.iter_mut().find(|known| *known.type_url == *type_url) {
            None => {
                let mut new = Subscription::new(type_url, names);
                let request = (self.connected && !new.wanted.is_empty()).then(|| new.announce());
                self.subscriptions.push(new);
                request
            }
            Some(known) => {
                let subscribe = names.without(&known.wanted);
                let unsubscribe = known.wanted.without(&names);
                known.forget_all_but(names);
                if !self.connected || (subscribe.is_empty() && unsubscribe.is_empty()) {
                    None
                } else if known.announced {
                    Some(DeltaDiscoveryRequest {
                        type_url: type_url.to_owned(),
                        resource_names_subscribe: subscribe,
                        resource_names_unsubscribe: unsubscribe,
                        ..DeltaDiscoveryRequest::default()
                    })
                } else {
                    Some(known.announce())
                }
            }
        };
        request.map(|request| self.introduce(request))
    }

    /// The version of a resource that the owner accepted last.
    #[must_use]
    pub fn held_version(&self, type_url: &str, name: &str) -> Option<&str> {
        self.subscriptions.iter().find(|known| *known.type_url == *type_url)?.held.version(name)
    }

    /// What the next stream would tell the server about a type: names, and versions where one is sure.
    #[must_use]
    pub fn initial_versions(&self, type_url: &str) -> HashMap<String, String> {
        let known = self.subscriptions.iter().find(|known| *known.type_url == *type_url);
        known.map(|known| known.held.initial_versions()).unwrap_or_default()
    }

    /// The first request of a stream says who asks.
    fn introduce(&mut self, mut request: DeltaDiscoveryRequest) -> DeltaDiscoveryRequest {
        if !self.introduced {
            self.introduced = true;
            request.node = Some(self.node.clone());
        }
        request
    }
}

/// An ACK, or a NACK that names what was refused.
fn answer(type_url: String, nonce: String, refused: &[Refused]) -> DeltaDiscoveryRequest {
    let error_detail =
        (!refused.is_empty()).then(|| Status { code: INVALID_ARGUMENT, message: refusal_text(refused) });
    DeltaDiscoveryRequest {
        type_url,
        response_nonce: nonce,
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

fn refusal_text(refused: &[Refused]) -> String {
    let mut text = String::new();
    for (said, refused_one) in refused.iter().enumerate() {
        let line = refused_one.to_string();
        if said > 0 && text.len() + line.len() > REFUSAL_LIMIT_BYTES {
            text.push_str(&format!("; and {} more", refused.len() - said));
            break;
        }
        if said > 0 {
            text.push_str("; ");
        }
        text.push_str(cut(&line));
    }
    text
}

/// The beginning of a text that is too long.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(REFUSAL_LIMIT_BYTES)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
