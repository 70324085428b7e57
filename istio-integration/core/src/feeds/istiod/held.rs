//! Resources as istiod sent them, for `/config_dump`: what was accepted last, and why something newer was not.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use imbl::OrdMap;

use super::Kind;

/// All of them but workloads, whose sheer number would double what a mesh costs. A clone costs nothing.
#[derive(Clone, Debug, Default)]
pub struct HeldResources {
    resources: OrdMap<(Kind, Arc<str>), HeldResource>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct HeldResource {
    /// The version in use; `None` if none was ever good.
    pub good: Option<Version>,
    /// The version that was refused after it, and why.
    pub refused: Option<(Version, String)>,
}

/// A version as it was sent.
#[derive(Clone, Debug)]
pub struct Version {
    /// istiod's name for it.
    pub version: Arc<str>,
    /// The encoded message, of the kind's type.
    pub body: Bytes,
    /// When it came.
    pub since: SystemTime,
}

impl Version {
    /// The message as Envoy would write it in a dump ([`istio_protos::to_json`]).
    #[must_use]
    pub fn to_json(&self, kind: Kind) -> serde_json::Value {
        istio_protos::to_json(kind.type_url(), &self.body)
    }
}

impl HeldResources {
    /// All, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &str, &HeldResource)> {
        self.resources.iter().map(|((kind, name), held)| (*kind, &**name, held))
    }

    pub(super) fn accept(&mut self, kind: Kind, name: Arc<str>, version: Version) {
        if kind != Kind::Address {
            self.resources.insert((kind, name), HeldResource { good: Some(version), refused: None });
        }
    }

    /// The version in use stays.
    pub(super) fn refuse(&mut self, kind: Kind, name: Arc<str>, version: Version, why: String) {
        if kind == Kind::Address {
            return;
        }
        let before = self.resources.get(&(kind, Arc::clone(&name))).and_then(|held| held.good.clone());
        self.resources.insert((kind, name), HeldResource { good: before, refused: Some((version, why)) });
    }

    pub(super) fn forget(&mut self, which: impl Fn(Kind, &str) -> bool) {
        let gone: Vec<_> = self.resources.keys().filter(|(kind, name)| which(*kind, name)).cloned().collect();
        for key in gone {
            self.resources.remove(&key);
        }
    }

    pub(super) fn remove(&mut self, kind: Kind, name: &Arc<str>) {
        self.resources.remove(&(kind, Arc::clone(name)));
    }
}
