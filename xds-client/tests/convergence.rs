//! Whatever the order of pushes, answers, losses and reconnects: in the end the owner has what the server has.
//!
//! A model of a server (xDS protocol, "Incremental xDS") and a model of an owner talk through a real session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;
use xds_client::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Names, Node, Received, Refused, Session, Update,
    WireResource,
};

const TYPE: &str = "type.test/Thing";

/// A version that ends so is refused by the owner.
const BAD: &str = "bad";

/// What may happen next.
#[derive(Clone, Debug)]
enum Action {
    /// The server's resource `name` gets a new version.
    Set { name: u8, bad: bool },
    /// The server's resource goes back to a version that it had before.
    Revert { name: u8 },
    /// The server's resource is gone.
    Delete { name: u8 },
    /// One response under way arrives.
    Deliver,
    /// The owner applies the oldest update that it was handed, and answers at once.
    Settle,
    /// The owner applies the oldest update, and answers later.
    Apply,
    /// The owner answers one of the updates that it has applied; not always the oldest.
    Answer { which: u8 },
    /// The owner loses an update unapplied, and answers never.
    Drop,
    /// The stream breaks; what is under way is lost.
    Break,
    /// A stream comes up.
    Connect,
    /// Other names are wanted.
    Want { names: BTreeSet<u8> },
}

fn action() -> impl Strategy<Value = Action> {
    let name = 0..4_u8;
    prop_oneof![
        4 => (name.clone(), prop::bool::weighted(0.3)).prop_map(|(name, bad)| Action::Set { name, bad }),
        2 => name.clone().prop_map(|name| Action::Revert { name }),
        2 => name.clone().prop_map(|name| Action::Delete { name }),
        6 => Just(Action::Deliver),
        4 => Just(Action::Settle),
        2 => Just(Action::Apply),
        2 => any::<u8>().prop_map(|which| Action::Answer { which }),
        1 => Just(Action::Drop),
        1 => Just(Action::Break),
        2 => Just(Action::Connect),
        3 => prop::collection::btree_set(name, 0..4).prop_map(|names| Action::Want { names }),
    ]
}

/// The server: what there is, and what this stream was told.
#[derive(Debug, Default)]
struct Server {
    things: BTreeMap<String, String>,
    first_versions: BTreeMap<String, String>,
    versions: u32,
    nonces: u32,
    /// Names that the stream asked for; `None`: not asked for, or no stream.
    wanted: Option<Names>,
    /// What the client has, as far as the server believes.
    believed: BTreeMap<String, String>,
    under_way: VecDeque<DeltaDiscoveryResponse>,
}

impl Server {
    fn set(&mut self, name: u8, bad: bool) {
        self.versions += 1;
        let version = format!("{}{}", self.versions, if bad { BAD } else { "" });
        self.first_versions.entry(key(name)).or_insert_with(|| version.clone());
        self.things.insert(key(name), version);
        self.push(false);
    }

    fn revert(&mut self, name: u8) {
        if let Some(version) = self.first_versions.get(&key(name)) {
            self.things.insert(key(name), version.clone());
            self.push(false);
        }
    }

    fn delete(&mut self, name: u8) {
        self.things.remove(&key(name));
        self.push(false);
    }

    fn hear(&mut self, request: &DeltaDiscoveryRequest) {
        let subscribed = request.resource_names_subscribe.iter().cloned();
        let mut answer = false;
        match &mut self.wanted {
            None => {
                let names = &request.resource_names_subscribe;
                self.wanted = Some(if names.is_empty() { Names::All } else { Names::listed(subscribed) });
                let known = request.initial_resource_versions.clone();
                self.believed = known.into_iter().collect();
                // A name that is asked for is told, whether it is there or not.
                for name in names {
                    self.believed.entry(name.clone()).or_default();
                }
                answer = true;
            }
            Some(Names::Listed(names)) => {
                for gone in &request.resource_names_unsubscribe {
                    names.remove(gone);
                    self.believed.remove(gone);
                }
                for new in subscribed {
                    answer = true;
                    self.believed.insert(new.clone(), String::new());
                    names.insert(new);
                }
            }
            Some(Names::All) => assert!(request.resource_names_subscribe.is_empty(), "{request:?}"),
        }
        self.push(answer);
    }

    /// Sends the difference between what there is and what the client is believed to have.
    fn push(&mut self, even_if_empty: bool) {
        let Some(wanted) = &self.wanted else { return };
        let there = |name: &String| wanted.contains(name) && self.things.contains_key(name);
        let gone: Vec<String> = self.believed.keys().filter(|name| !there(name)).cloned().collect();
        let news = self
            .things
            .iter()
            .filter(|(name, version)| wanted.contains(name) && self.believed.get(*name) != Some(*version));
        let resources: Vec<WireResource> = news.map(|(name, version)| resource(name, version)).collect();
        if resources.is_empty() && gone.is_empty() && !even_if_empty {
            return;
        }
        gone.iter().for_each(|name| drop(self.believed.remove(name)));
        self.believed.extend(resources.iter().map(|new| (new.name.clone(), new.version.clone())));
        self.nonces += 1;
        self.under_way.push_back(DeltaDiscoveryResponse {
            type_url: TYPE.into(),
            nonce: self.nonces.to_string(),
            resources,
            removed_resources: gone,
            ..DeltaDiscoveryResponse::default()
        });
    }

    fn lose(&mut self) {
        self.wanted = None;
        self.believed.clear();
        self.under_way.clear();
    }
}

/// The owner: what it has applied, by version, and what is in its hands.
#[derive(Default)]
struct Owner {
    has: BTreeMap<String, String>,
    handed: VecDeque<Update>,
    applied: Vec<(Update, Vec<Refused>)>,
}

impl Owner {
    fn apply(&mut self, wanted: &Names) -> Option<(Update, Vec<Refused>)> {
        let update = self.handed.pop_front()?;
        let mut refused = Vec::new();
        for new in update.upserts.iter().filter(|new| wanted.contains(&new.name)) {
            assert_eq!(&*new.body, format!("{}@{}", new.name, new.version).as_bytes());
            if new.version.ends_with(BAD) {
                refused.push(Refused { name: new.name.to_string(), reason: BAD.into() });
            } else {
                self.has.insert(new.name.to_string(), new.version.to_string());
            }
        }
        for gone in &update.removals {
            self.has.remove(&**gone);
        }
        Some((update, refused))
    }
}

struct World {
    session: Session,
    server: Server,
    owner: Owner,
    wanted: Names,
    connected: bool,
}

impl World {
    fn new(wanted: Names) -> Self {
        let session = Session::new(Node::default(), [(TYPE.to_owned(), wanted.clone())]);
        Self { session, server: Server::default(), owner: Owner::default(), wanted, connected: false }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Set { name, bad } => self.server.set(*name, *bad),
            Action::Revert { name } => self.server.revert(*name),
            Action::Delete { name } => self.server.delete(*name),
            Action::Deliver => self.deliver(),
            Action::Settle => {
                if let Some((update, refused)) = self.owner.apply(&self.wanted) {
                    self.answer(update, refused);
                }
            }
            Action::Apply => {
                let applied = self.owner.apply(&self.wanted);
                self.owner.applied.extend(applied);
            }
            Action::Answer { which } => {
                if !self.owner.applied.is_empty() {
                    let at = usize::from(*which) % self.owner.applied.len();
                    let (update, refused) = self.owner.applied.remove(at);
                    self.answer(update, refused);
                }
            }
            Action::Drop => drop(self.owner.handed.pop_front()),
            Action::Break => self.lose(),
            Action::Connect => self.connect(),
            Action::Want { names } => self.want(names),
        }
    }

    fn deliver(&mut self) {
        let Some(response) = self.server.under_way.pop_front() else { return };
        match self.session.received(response) {
            Received::Update(update) => self.owner.handed.push_back(update),
            Received::Answer(answer) => panic!("{answer:?}"),
        }
    }

    fn answer(&mut self, update: Update, refused: Vec<Refused>) {
        let names: Vec<String> = refused.iter().map(|refused| refused.name.clone()).collect();
        let Some(answer) = self.session.settle(update.token, refused) else { return };
        let said = answer.error_detail.as_ref().map(|detail| detail.message.as_str()).unwrap_or_default();
        assert_eq!(said.is_empty(), names.is_empty(), "{answer:?}");
        assert!(names.iter().all(|name| said.contains(name.as_str())), "{answer:?}");
    }

    fn lose(&mut self) {
        self.connected = false;
        self.session.disconnected();
        self.server.lose();
    }

    fn connect(&mut self) {
        if self.connected {
            return;
        }
        self.connected = true;
        for request in self.session.connected() {
            self.server.hear(&request);
        }
    }

    fn want(&mut self, names: &BTreeSet<u8>) {
        if self.wanted == Names::All {
            return;
        }
        let names = Names::listed(names.iter().copied().map(key));
        self.owner.has.retain(|name, _| names.contains(name));
        self.wanted = names.clone();
        if let Some(request) = self.session.want(TYPE, names) {
            self.server.hear(&request);
        }
    }

    /// What must hold at any time: a version that the session vouches for is one that the owner has, unless an update that
    /// it has not answered came on top; and it is never one that was refused.
    fn check(&self) {
        let unanswered: BTreeSet<&str> =
            self.owner.applied.iter().flat_map(|(update, _)| touched(update)).collect();
        for name in (0..4).map(key) {
            let Some(held) = self.session.held_version(TYPE, &name) else { continue };
            assert!(!held.ends_with(BAD), "{name} is held at {held}, which was refused");
            assert!(self.wanted.contains(&name), "{name} is held and not wanted");
            if !unanswered.contains(name.as_str()) {
                assert_eq!(self.owner.has.get(&name).map(String::as_str), Some(held), "{name}");
            }
        }
    }

    /// All that is under way arrives and is answered.
    fn settle_all(&mut self) {
        while !self.server.under_way.is_empty() || !self.owner.handed.is_empty() {
            self.deliver();
            self.act(&Action::Settle);
        }
    }

    fn check_converged(&self) {
        for name in (0..4).map(key).filter(|name| self.wanted.contains(name)) {
            let there = self.server.things.get(&name);
            let has = self.owner.has.get(&name);
            match there {
                Some(version) if version.ends_with(BAD) => {}
                _ => assert_eq!(has, there, "{name}"),
            }
        }
    }
}

fn touched(update: &Update) -> impl Iterator<Item = &str> {
    update.upserts.iter().map(|new| &*new.name).chain(update.removals.iter().map(|gone| &**gone))
}

fn key(name: u8) -> String {
    format!("thing-{name}")
}

fn resource(name: &str, version: &str) -> WireResource {
    let value = format!("{name}@{version}").into_bytes();
    let resource = Some(Any { type_url: TYPE.into(), value });
    WireResource { name: name.into(), version: version.into(), resource }
}

fn run(wanted: Names, actions: &[Action]) {
    let mut world = World::new(wanted);
    for action in actions {
        world.act(action);
        world.check();
    }
    // Whatever was lost or never answered is made good by one reconnect.
    world.owner.handed.clear();
    world.lose();
    world.connect();
    world.settle_all();
    world.check();
    world.check_converged();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_converges_for_all_names(actions in prop::collection::vec(action(), 0..60)) {
        run(Names::All, &actions);
    }

    #[test]
    fn any_interleaving_converges_for_listed_names(actions in prop::collection::vec(action(), 0..60)) {
        run(Names::listed(["thing-0", "thing-1"]), &actions);
    }

    #[test]
    fn without_losses_no_reconnect_is_needed(actions in prop::collection::vec(action(), 0..60)) {
        let mut world = World::new(Names::All);
        world.connect();
        for action in &actions {
            if !matches!(action, Action::Drop | Action::Break | Action::Apply) {
                world.act(action);
                world.check();
            }
        }
        world.settle_all();
        world.check_converged();
    }
}
