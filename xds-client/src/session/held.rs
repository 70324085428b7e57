//! What the owner has of one type, as far as its answers tell.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Names;

/// Names known to the owner, each with the version that it accepted last; `None` where no version can be vouched for.
#[derive(Debug, Default)]
pub(super) struct Held(HashMap<Arc<str>, Option<Arc<str>>>);

/// What one update touches.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Names and versions that it brings.
    pub(super) upserts: Vec<(Arc<str>, Arc<str>)>,
    /// Names that it takes.
    pub(super) removals: Vec<Arc<str>>,
    /// Names of which the answer to the update says nothing: they were not handed to the owner because the envelope is wrong
    /// about them, or were unsubscribed in between.
    pub(super) unsaid: Vec<Arc<str>>,
}

impl Touched {
    /// Names are no longer wanted. Should they be again before the update is answered, its answer says nothing about them.
    pub(super) fn forget(&mut self, wanted: &Names) {
        let upserts = self.upserts.extract_if(.., |(name, _)| !wanted.contains(name)).map(|(name, _)| name);
        self.unsaid.extend(upserts);
        self.unsaid.extend(self.removals.extract_if(.., |name| !wanted.contains(name)));
    }
}

impl Held {
    /// The owner has applied an update, except for what it refused: that stays at its old version.
    pub(super) fn commit(&mut self, touched: Touched, refused: &HashSet<&str>, wanted: &Names) {
        for (name, version) in touched.upserts {
            if !wanted.contains(&name) {
                continue;
            }
            if refused.contains(&*name) {
                self.0.entry(name).or_default();
            } else {
                self.0.insert(name, Some(version));
            }
        }
        for name in touched.removals {
            if refused.contains(&*name) {
                self.0.insert(name, None);
            } else {
                self.0.remove(&name);
            }
        }
        for name in touched.unsaid.into_iter().filter(|name| wanted.contains(name)) {
            self.0.entry(name).or_default();
        }
    }

    /// The owner may or may not have applied an update: nothing that it touches can be vouched for.
    pub(super) fn doubt(&mut self, touched: Touched, wanted: &Names) {
        let upserts = touched.upserts.into_iter().map(|(name, _)| name);
        let names = upserts.chain(touched.removals).chain(touched.unsaid);
        self.0.extend(names.filter(|name| wanted.contains(name)).map(|name| (name, None)));
    }

    /// Forgets what is no longer wanted; the server forgets it too.
    pub(super) fn retain(&mut self, wanted: &Names) {
        self.0.retain(|name, _| wanted.contains(name));
    }

    /// What the server is told when a stream begins. A name without a version differs from any version that the server has,
    /// so it sends the resource again, or says that it is gone.
    pub(super) fn initial_versions(&self) -> HashMap<String, String> {
        let text = |(name, version): (&Arc<str>, &Option<Arc<str>>)| {
            (name.to_string(), version.as_deref().unwrap_or_default().to_owned())
        };
        self.0.iter().map(text).collect()
    }

    /// The version that was accepted.
    pub(super) fn version(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_deref()
    }
}
