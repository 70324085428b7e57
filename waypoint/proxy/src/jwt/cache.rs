//! Tokens that were verified lately. Only good ones are kept, so that nobody can fill it with bad ones.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use super::Verified;

/// Memory of all entries, about, in bytes.
const CAPACITY: u64 = 16 << 20;

/// What an entry is found by: a hash of the token, of the rules and keys that it was verified by, and of where it stood.
pub(super) type Entry = [u8; 32];

/// Bounded; the least used entry goes first. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cache(moka::sync::Cache<Entry, Arc<Verified>>);

impl Cache {
    pub(super) fn get(&self, entry: &Entry) -> Option<Arc<Verified>> {
        self.0.get(entry)
    }

    pub(super) fn insert(&self, entry: Entry, verified: Arc<Verified>) {
        self.0.insert(entry, verified);
    }
}

impl Default for Cache {
    fn default() -> Self {
        let weigh = |_: &Entry, verified: &Arc<Verified>| u32::try_from(verified.bytes()).unwrap_or(u32::MAX);
        Self(moka::sync::Cache::builder().max_capacity(CAPACITY).weigher(weigh).build())
    }
}

pub(super) fn entry(
    kind: u8,
    rules: u128,
    keys: impl Iterator<Item = u64>,
    at: &[usize],
    token: &str,
) -> Entry {
    let mut hash = Context::new(&SHA256);
    hash.update(&[kind]);
    hash.update(&rules.to_ne_bytes());
    keys.for_each(|keys| hash.update(&keys.to_ne_bytes()));
    at.iter().for_each(|rule| hash.update(&rule.to_ne_bytes()));
    // Last, and the only part of which a client has a say.
    hash.update(token.as_bytes());
    let mut entry = Entry::default();
    entry.iter_mut().zip(hash.finish().as_ref()).for_each(|(to, from)| *to = *from);
    entry
}
